"""Clients that misbehave: streams left, cancelled and half-closed by the thousand, junk in every field.

What they leave behind is measured in sessions, tasks and descriptors, which have to be what they were.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millpond.v1 import admin_pb2, errors_pb2, fetch_pb2, metadata_pb2, offsets_pb2, produce_pb2
from millpond.wire.errors import ERRORS, ErrorCode
from tests.integration.broker.conftest import NewTopic
from tests.integration.broker.raw import RawClient, batch, code_of, detail_of
from tests.integration.broker.serving import Served

STREAMS = 2000
AT_ONCE = 100
LEFT_BYTES_MAX = 32 << 20
CANCELLED_BY_GRPC_MAX = 5
"""Of broker and clients together, whose hundred streams at once make the allocator grow. 16 KiB that each
stream kept for good would show.
"""


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names only, as cheap as it gets


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def settled(condition: Callable[[], bool]) -> None:
    """Wait for it; the test's own time limit is the deadline."""
    while not condition():
        await asyncio.sleep(0.005)


Misbehave = Callable[[RawClient, bytes], Awaitable[None]]


async def _cancelled_produce(client: RawClient, topic: bytes) -> None:
    stream = client.produce()
    item = produce_pb2.ProduceBatch(id=1, topic_id=topic, batch=batch([b"x"]))
    await stream.write(produce_pb2.ProduceRequest(acks=produce_pb2.ACKS_ALL, batches=[item]))
    stream.cancel()


async def _half_closed_produce(client: RawClient, topic: bytes) -> None:
    stream = client.produce()
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF


async def _cancelled_fetch(client: RawClient, topic: bytes) -> None:
    stream = client.fetch()
    start = fetch_pb2.FetchStart(handle=1, topic_id=topic)
    await stream.write(fetch_pb2.FetchRequest(start=[start], credit_bytes=1000))
    await stream.read()
    stream.cancel()


async def _stalled_fetch(client: RawClient, topic: bytes) -> None:
    """Asks for all there is and never reads it."""
    stream = client.fetch()
    start = fetch_pb2.FetchStart(handle=1, topic_id=topic)
    await stream.write(fetch_pb2.FetchRequest(start=[start], credit_bytes=1 << 30))
    await asyncio.sleep(0)
    stream.cancel()


async def _cancelled_watch(client: RawClient, topic: bytes) -> None:
    stream = client.watch()
    await stream.read()
    stream.cancel()


async def _still_serves(client: RawClient, topic: bytes) -> bool:
    """Whether a batch is acknowledged. gRPC (1.85) itself may cancel a call that begins right behind hundreds
    of cancelled ones: its trace has the server's core cancel the new stream once for each of some old ones,
    before anything of ours has seen it. Clients try again, and so does this; any other end is a failure.
    """
    for _ in range(CANCELLED_BY_GRPC_MAX):
        try:
            (result,) = await client.send(topic, batch([b"still here"]))
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL):
                raise
        else:
            return not result.HasField("error")
    return False


@pytest.mark.parametrize(
    "misbehave",
    [_cancelled_produce, _half_closed_produce, _cancelled_fetch, _stalled_fetch, _cancelled_watch],
    ids=lambda misbehave: misbehave.__name__.strip("_"),
)
async def test_streams_by_the_thousand_leave_nothing_behind(
    served: Served, client: RawClient, new_topic: NewTopic, misbehave: Misbehave
) -> None:
    topic = await new_topic()
    assert await _still_serves(client, topic)
    metrics = served.broker.metrics

    def idle() -> bool:
        return metrics.produce_streams == metrics.fetch_streams == served.broker.unanswered_bytes == 0

    # A connection of its own: gRPC ends one that resets too many calls, and all that is under way on it.
    async with RawClient(served.address) as flooding:

        async def flood() -> None:
            with suppress(grpc.aio.AioRpcError):
                await misbehave(flooding, topic)

        await flood()
        await settled(idle)
        tasks, files, before = len(asyncio.all_tasks()), descriptors(), resident_bytes()
        for _ in range(STREAMS // AT_ONCE):
            await asyncio.gather(*(flood() for _ in range(AT_ONCE)))
        await settled(idle)
        await settled(lambda: len(asyncio.all_tasks()) <= tasks)
        assert descriptors() <= files
        assert resident_bytes() - before < LEFT_BYTES_MAX
        assert await _still_serves(client, topic)


# --- junk in every field ------------------------------------------------------------------------------

_INTEGERS = {
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_ENUM: (0, 2**31 - 1),
}


def values_for(field: Any, known: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Any value of a field, and more often one that gets past the first check."""
    if field.name in known and not field.message_type:
        return st.one_of(st.just(known[field.name]), _any_value(field))
    return _any_value(field, known)


def _any_value(field: Any, known: dict[str, Any] | None = None) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return messages(GetMessageClass(field.message_type), known or {})
    if field.type == FieldDescriptor.TYPE_STRING:
        return st.text(max_size=300)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.one_of(st.binary(max_size=100), st.binary(min_size=16, max_size=16))
    low, high = _INTEGERS[field.type]
    return st.one_of(st.integers(0, 5), st.integers(low, high))


@st.composite
def messages(draw: st.DrawFn, kind: type[Message], known: dict[str, Any]) -> Message:
    """A message whose every field may hold anything of its type."""
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        if not draw(st.booleans()):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
            entries = st.dictionaries(_any_value(key), _any_value(value), max_size=3)
            getattr(message, field.name).update(draw(entries))
        elif field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(values_for(field, known), max_size=4)))
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(draw(values_for(field, known)))
        else:
            setattr(message, field.name, draw(values_for(field, known)))
    return message


def check_detail(detail: errors_pb2.ErrorDetail | None, context: object) -> None:
    """A refusal has a name of the table, and is none of ours to be ashamed of."""
    assert detail is not None, context
    assert detail.code in {cls.number for cls in ERRORS.values()}, context
    assert code_of(detail) != ErrorCode.INTERNAL, (detail, context)
    assert detail.message


_UNARY = [
    ("AdminService", "CreateTopic", admin_pb2.CreateTopicRequest),
    ("AdminService", "AlterTopic", admin_pb2.AlterTopicRequest),
    ("AdminService", "TrimTopic", admin_pb2.TrimTopicRequest),
    ("AdminService", "DeleteTopic", admin_pb2.DeleteTopicRequest),
    ("MetadataService", "Describe", metadata_pb2.DescribeRequest),
    ("OffsetService", "ListOffsets", offsets_pb2.ListOffsetsRequest),
    ("ProducerService", "InitProducer", produce_pb2.InitProducerRequest),
]
_FUZZ = settings(
    max_examples=150, suppress_health_check=list(HealthCheck)
)  # a broker for all examples, on purpose


@pytest.mark.parametrize(("service", "method", "kind"), _UNARY, ids=[method for _, method, _ in _UNARY])
@_FUZZ
@given(data=st.data())
async def test_any_request_is_answered_or_refused_by_name(
    client: RawClient, service: str, method: str, kind: type[Message], data: st.DataObject
) -> None:
    known = {"name": "fuzzed", "topic_id": await fuzzed(client), "partitions": 2}
    request = data.draw(st.one_of(messages(kind, known), st.binary(max_size=60)))
    try:
        await client.call(service, method, request)
    except grpc.aio.AioRpcError as error:
        check_detail(detail_of(error), request)
    await remove_but(client, {"fuzzed"})


async def remove_but(client: RawClient, names: set[str]) -> None:
    """Make room for more."""
    found = await client.call("MetadataService", "Describe", metadata_pb2.DescribeRequest())
    for topic in found.topics:
        if topic.name not in names or len(topic.partitions) > 10:
            await client.delete_topic(topic.name)


async def fuzzed(client: RawClient) -> bytes:
    """The topic that is fuzzed, made again if an example deleted it."""
    found = await client.call("MetadataService", "Describe", metadata_pb2.DescribeRequest(topics=["fuzzed"]))
    return bytes(found.topics[0].topic_id) if found.topics else await client.create_topic("fuzzed", 2)


@_FUZZ
@given(data=st.data())
async def test_anything_in_a_produce_stream_is_answered_or_refused_by_name(
    client: RawClient, data: st.DataObject
) -> None:
    known = {"topic_id": await fuzzed(client), "acks": 3, "batch": batch([b"x"])}
    stream = client.produce()
    sent = data.draw(st.lists(messages(produce_pb2.ProduceRequest, known), max_size=4))
    try:
        for message in sent:
            await stream.write(message)
        await stream.done_writing()
        while (response := await stream.read()) is not grpc.aio.EOF:
            for result in response.results:
                if result.HasField("error"):
                    check_detail(result.error, sent)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the latter from a write after the end
        await refused_by_name(stream, sent)


@_FUZZ
@given(data=st.data())
async def test_anything_in_a_fetch_stream_is_answered_or_refused_by_name(
    client: RawClient, data: st.DataObject
) -> None:
    known = {"topic_id": await fuzzed(client), "credit_bytes": 1 << 20}
    stream = client.fetch()
    sent = data.draw(st.lists(messages(fetch_pb2.FetchRequest, known), max_size=4))
    try:
        for message in sent:
            await stream.write(message)
        await stream.done_writing()
        while (response := await stream.read()) is not grpc.aio.EOF:
            for fetched in response.fetched:
                if fetched.HasField("error"):
                    check_detail(fetched.error, sent)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await refused_by_name(stream, sent)


async def refused_by_name(stream: Any, sent: object) -> None:
    """The call has ended with one of our errors."""
    assert await stream.code() is not grpc.StatusCode.OK
    if await stream.details() == "Internal error from Core":
        return  # this client's own words for a write into a call that had ended; they replace the broker's
    for key, value in await stream.trailing_metadata():
        if key == "millpond-error-bin":
            check_detail(errors_pb2.ErrorDetail.FromString(value), sent)
            return
    raise AssertionError(f"ended without a name: {await stream.details()}, after {sent}")
