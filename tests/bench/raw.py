"""The yardstick for the broker's streams: grpc.aio in a process of its own, moving the same bytes.

    python raw.py

A server whose `Upload` takes messages of opaque bytes and answers each with eight, as a produce stream
does, and whose `Download` sends as many messages of a size as it is asked for. It prints its port. No
protobuf, no disk, no checks: what remains is what the transport itself costs.
"""

from __future__ import annotations

import asyncio
import struct
import sys

import grpc

OPTIONS = (
    ("grpc.max_receive_message_length", 32 << 20),
    ("grpc.max_send_message_length", 32 << 20),
)
UPLOAD = "/raw.Raw/Upload"
DOWNLOAD = "/raw.Raw/Download"
ASK = struct.Struct("<II")
ANSWER = b"12345678"


async def upload(_requests: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
    """Bytes in, eight bytes out for each."""
    message: object = await context.read()
    while message is not grpc.aio.EOF:
        await context.write(ANSWER)
        message = await context.read()


async def download(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
    """(count, size): that many messages of that size."""
    count, size = ASK.unpack(request)
    message = b"x" * size
    for _ in range(count):
        await context.write(message)


async def main() -> None:
    """Serve until standard input ends."""
    server = grpc.aio.server(options=OPTIONS)
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Upload": grpc.stream_stream_rpc_method_handler(upload),
        "Download": grpc.unary_stream_rpc_method_handler(download),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("raw.Raw", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(main())
