"""A client of bare messages: what the SDK would never send can be sent with it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from millpond.v1 import admin_pb2, errors_pb2, fetch_pb2, metadata_pb2, offsets_pb2, produce_pb2
from millpond.wire.batch import ANONYMOUS, Producer, decode_batch, encode_batch, parse_batch
from millpond.wire.header import parse_header

ERROR_KEY = "millpond-error-bin"
OPTIONS = (
    ("grpc.max_receive_message_length", 40 << 20),
    ("grpc.max_send_message_length", 40 << 20),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # or channels to one address share a connection
)
_MODULES = {
    "ProduceService": produce_pb2,
    "ProducerService": produce_pb2,
    "FetchService": fetch_pb2,
    "MetadataService": metadata_pb2,
    "OffsetService": offsets_pb2,
    "AdminService": admin_pb2,
}

Bidi = Any
"""A stream call; the published stubs type what it reads as object."""


def detail_of(error: grpc.aio.AioRpcError) -> errors_pb2.ErrorDetail | None:
    """What a refused call says, if it says it our way."""
    for key, value in error.trailing_metadata() or ():
        if key == ERROR_KEY:
            assert isinstance(value, bytes), "a key that ends in -bin"
            return errors_pb2.ErrorDetail.FromString(value)
    return None


def code_of(detail: errors_pb2.ErrorDetail) -> str:
    """Its name without the prefix."""
    return errors_pb2.ErrorCode.Name(detail.code).removeprefix("ERROR_CODE_")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def batch(values: Sequence[bytes], producer: Producer = ANONYMOUS, timestamp: int | None = None) -> bytes:
    """An encoded batch, of now unless a time (ms) is given."""
    at = now_ms() if timestamp is None else timestamp
    return bytes(encode_batch(values, at, producer=producer).data)


class RawClient:
    """One channel to one broker."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address, options=OPTIONS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.channel.close()

    async def call(self, service: str, method: str, request: Any, timeout: float = 10.0) -> Any:
        """A unary call. `request` may be bytes that are no message."""
        described = _MODULES[service].DESCRIPTOR.services_by_name[service].methods_by_name[method]
        response = getattr(_MODULES[service], described.output_type.name, None) or getattr(
            metadata_pb2, described.output_type.name
        )
        data = request if isinstance(request, bytes) else request.SerializeToString()
        path = f"/{described.containing_service.full_name}/{method}"
        callable_: Any = self.channel.unary_unary(path)
        return response.FromString(await callable_(data, timeout=timeout))

    def produce(self) -> Bidi:
        """A produce stream of messages."""
        return self.channel.stream_stream(
            "/millpond.v1.ProduceService/Produce",
            request_serializer=serialize,
            response_deserializer=produce_pb2.ProduceResponse.FromString,
        )()

    def fetch(self) -> Bidi:
        """A fetch stream of messages."""
        return self.channel.stream_stream(
            "/millpond.v1.FetchService/Fetch",
            request_serializer=serialize,
            response_deserializer=fetch_pb2.FetchResponse.FromString,
        )()

    def watch(self) -> Bidi:
        """The metadata's updates."""
        return self.channel.unary_stream(
            "/millpond.v1.MetadataService/Watch",
            request_serializer=serialize,
            response_deserializer=metadata_pb2.MetadataUpdate.FromString,
        )(metadata_pb2.WatchRequest())

    async def delete_topic(self, name: str) -> None:
        """Gone when it returns."""
        await self.call("AdminService", "DeleteTopic", admin_pb2.DeleteTopicRequest(name=name))

    async def create_topic(self, name: str, partitions: int = 1, **config: str) -> bytes:
        """A topic's id."""
        request = admin_pb2.CreateTopicRequest(name=name, partitions=partitions, config=config)
        response = await self.call("AdminService", "CreateTopic", request)
        return bytes(response.topic.topic_id)

    async def send(
        self, topic_id: bytes, *batches: bytes, partition: int = 0, acks: int = produce_pb2.ACKS_ALL
    ) -> list[produce_pb2.ProduceResult]:
        """Batches over a stream of their own, a message each; their results in the order they were sent."""
        stream = self.produce()
        for number, data in enumerate(batches):
            item = produce_pb2.ProduceBatch(id=number, topic_id=topic_id, partition=partition, batch=data)
            await stream.write(produce_pb2.ProduceRequest(acks=acks, batches=[item]))  # type: ignore[arg-type]  # an enum's number
        await stream.done_writing()
        results = [result async for response in stream for result in response.results]
        return sorted(results, key=lambda result: result.id)

    async def read(self, topic_id: bytes, offset: int, count: int, partition: int = 0) -> list[bytes | None]:
        """`count` values from an offset on, over a stream of its own."""
        stream = self.fetch()
        start = fetch_pb2.FetchStart(handle=1, topic_id=topic_id, partition=partition, offset=offset)
        await stream.write(fetch_pb2.FetchRequest(credit_bytes=8 << 20, start=[start]))
        values: list[bytes | None] = []
        while len(values) < count:
            response = await stream.read()
            for fetched in response.fetched:
                assert not fetched.HasField("error"), fetched.error
                values += values_of(fetched.batches, offset)
                await stream.write(fetch_pb2.FetchRequest(credit_bytes=len(fetched.batches)))
        await stream.done_writing()
        await drain(stream)
        return values


async def drain(stream: Bidi) -> None:
    """Read to the end. Raises what the stream ends with."""
    while await stream.read() is not grpc.aio.EOF:
        pass


def serialize(message: Any) -> bytes:
    """A message, or bytes that are none."""
    return message if isinstance(message, bytes) else bytes(message.SerializeToString())


def values_of(data: bytes, offset: int = 0) -> list[bytes | None]:
    """The values of joined batches from an offset on."""
    values: list[bytes | None] = []
    view = memoryview(data)
    while view:
        size = parse_header(view).size_bytes
        decoded = decode_batch(parse_batch(view[:size]))
        values += [value for value, at in zip(decoded.values, decoded.offsets, strict=True) if at >= offset]
        view = view[size:]
    return values
