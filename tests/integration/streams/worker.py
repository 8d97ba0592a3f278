"""A broker in a process of its own: python -m tests.integration.streams.worker '{"id": 2, "opens": ""}'.

It says on stdout where it is, and sends every message back. "opens" is where broker 1 is that it opens a
stream to. It ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import sys

from millpond_broker.runtime.peers import PeerStream, Purpose
from tests.integration.streams.brokers import Broker


async def echo(stream: PeerStream) -> None:
    """Until the stream is over."""
    while True:
        for message in await stream.receive():
            stream.send(message)


async def main() -> None:
    settings = json.loads(sys.argv[1])
    broker = Broker(settings["id"])
    await broker.start()
    for purpose in Purpose:
        broker.streams.serve(purpose, echo)
    sys.stdout.write(json.dumps({"address": broker.address}) + "\n")
    sys.stdout.flush()
    if settings["opens"]:
        await broker.streams.open(1, settings["opens"], Purpose.CONTROL, 10)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await broker.close()


if __name__ == "__main__":
    asyncio.run(main())
