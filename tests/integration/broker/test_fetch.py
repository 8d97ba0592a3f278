"""What a fetch stream pushes, when, and within which credit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from millpond.v1 import admin_pb2, fetch_pb2
from tests.integration.broker.conftest import NewTopic
from tests.integration.broker.raw import Bidi, RawClient, batch, code_of, detail_of, drain, values_of
from tests.integration.broker.serving import OPTIONS, Served, serving

MIB = 1 << 20


@asynccontextmanager
async def fetching(client: RawClient) -> AsyncIterator[Bidi]:
    """A fetch stream that is half-closed and read to its end behind the block."""
    stream = client.fetch()
    yield stream
    await stream.done_writing()
    await drain(stream)


def start(handle: int, topic: bytes, offset: int, partition: int = 0) -> fetch_pb2.FetchStart:
    return fetch_pb2.FetchStart(handle=handle, topic_id=topic, partition=partition, offset=offset)


async def answers(stream: Bidi, enough: Callable[[list[fetch_pb2.Fetched]], bool]) -> list[fetch_pb2.Fetched]:
    """What comes until it is enough."""
    got: list[fetch_pb2.Fetched] = []
    while not enough(got):
        got += (await stream.read()).fetched
    return got


async def ping(stream: Bidi, number: int) -> list[fetch_pb2.Fetched]:
    """What was under way before the answer to a ping."""
    await stream.write(fetch_pb2.FetchRequest(ping=number))
    got: list[fetch_pb2.Fetched] = []
    while True:
        response = await stream.read()
        got += response.fetched
        if response.pong == number:
            return got


async def test_a_reader_at_the_end_is_told_where_it_is_and_pushed_what_comes(
    client: RawClient, new_topic: NewTopic
) -> None:
    """Rule 33, without polling: the answer comes because of the append."""
    topic = await new_topic()
    await client.send(topic, batch([b"old"]))
    async with fetching(client) as stream:
        await stream.write(fetch_pb2.FetchRequest(credit_bytes=MIB, start=[start(1, topic, 1)]))
        (first,) = await answers(stream, bool)
        assert (first.batches, first.high_watermark, first.log_start) == (b"", 1, 0)
        await client.send(topic, batch([b"new"]))
        (second,) = await answers(stream, bool)
        assert (values_of(second.batches), second.high_watermark) == ([b"new"], 2)


async def test_a_reader_inside_a_batch_gets_the_whole_of_it(client: RawClient, new_topic: NewTopic) -> None:
    topic = await new_topic()
    await client.send(topic, batch([b"a", b"b", b"c"]))
    async with fetching(client) as stream:
        await stream.write(fetch_pb2.FetchRequest(credit_bytes=MIB, start=[start(1, topic, 2)]))
        (only,) = await answers(stream, bool)
    assert values_of(only.batches) == [b"a", b"b", b"c"]


async def test_without_credit_nothing_comes_but_the_answer_to_a_ping(
    client: RawClient, new_topic: NewTopic
) -> None:
    topic = await new_topic()
    await client.send(topic, batch([b"a"]))
    async with fetching(client) as stream:
        await stream.write(fetch_pb2.FetchRequest(start=[start(1, topic, 0)]))
        assert await ping(stream, 5) == []
        await stream.write(fetch_pb2.FetchRequest(credit_bytes=1))
        (only,) = await answers(stream, bool)
        assert values_of(only.batches) == [b"a"]


async def test_a_reader_that_stops_reading_costs_its_credit_and_one_batch_at_most(
    client: RawClient, new_topic: NewTopic
) -> None:
    """Rule 38."""
    topic = await new_topic()
    data = batch([b"x" * 100_000])
    await client.send(topic, *[data] * 30)
    credit = 250_000
    async with fetching(client) as stream:
        await stream.write(fetch_pb2.FetchRequest(credit_bytes=credit, start=[start(1, topic, 0)]))
        got = await answers(stream, lambda got: sum(len(item.batches) for item in got) >= credit)
        got += await ping(stream, 1)
        sent = sum(len(item.batches) for item in got)
        assert credit <= sent < credit + len(data)
        # What was sent beyond the credit is owed: the next grant pays it first.
        await stream.write(fetch_pb2.FetchRequest(credit_bytes=sent - credit))
        assert await ping(stream, 2) == []
        await stream.write(fetch_pb2.FetchRequest(credit_bytes=1))
        assert len((await answers(stream, bool))[0].batches) == len(data)


async def test_a_batch_larger_than_all_credit_passes_an_untouched_window(
    client: RawClient, new_topic: NewTopic
) -> None:
    """Rule 38."""
    topic = await new_topic()
    await client.send(topic, batch([b"x" * 900_000]))
    async with fetching(client) as stream:
        await stream.write(fetch_pb2.FetchRequest(credit_bytes=10, start=[start(1, topic, 0)]))
        (only,) = await answers(stream, bool)
        assert len(only.batches) > 900_000


async def test_partitions_take_turns(client: RawClient, new_topic: NewTopic) -> None:
    """A long backlog in one does not keep the others waiting."""
    topic = await new_topic(partitions=3)
    data = batch([b"x" * 500_000])
    await client.send(topic, *[data] * 20, partition=0)
    for partition in (1, 2):
        await client.send(topic, batch([b"short"]), partition=partition)
    async with fetching(client) as stream:
        starts = [start(1 + partition, topic, 0, partition) for partition in range(3)]
        await stream.write(fetch_pb2.FetchRequest(credit_bytes=4 * MIB, start=starts))
        got = await answers(stream, lambda got: {item.handle for item in got} == {1, 2, 3})
        assert sum(item.handle == 1 for item in got) <= 3


async def test_a_stopped_subscription_is_silent_and_another_position_takes_over(
    client: RawClient, new_topic: NewTopic
) -> None:
    topic = await new_topic()
    await client.send(topic, batch([b"a"]), batch([b"b"]))
    async with fetching(client) as stream:
        await stream.write(fetch_pb2.FetchRequest(credit_bytes=MIB, start=[start(1, topic, 2)]))
        await answers(stream, bool)
        await stream.write(fetch_pb2.FetchRequest(stop=[1, 99], start=[start(2, topic, 1)]))
        (again,) = await answers(stream, bool)
        assert (again.handle, values_of(again.batches)) == (2, [b"b"])
        await client.send(topic, batch([b"c"]))
        (more,) = await answers(stream, bool)
        assert (more.handle, values_of(more.batches)) == (2, [b"c"])
        assert await ping(stream, 1) == []


async def test_a_handle_is_never_used_twice(client: RawClient, new_topic: NewTopic) -> None:
    """Bytes under way for the old position would be taken for those of the new one."""
    topic = await new_topic()
    stream = client.fetch()
    await stream.write(fetch_pb2.FetchRequest(start=[start(3, topic, 0)]))
    await stream.write(fetch_pb2.FetchRequest(stop=[3], start=[start(3, topic, 0)]))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await drain(stream)
    detail = detail_of(refused.value)
    assert detail is not None
    assert code_of(detail) == "INVALID_REQUEST"


async def test_what_is_wrong_with_one_subscription_ends_it_alone(
    client: RawClient, new_topic: NewTopic
) -> None:
    topic = await new_topic()
    await client.send(topic, batch([b"a"]))
    async with fetching(client) as stream:
        starts = [
            start(1, topic, 7),
            start(2, b"\2" * 16, 0),
            start(3, topic, 0, partition=9),
            start(4, topic, -1),
            start(5, b"", 0),
            start(6, topic, 0),
        ]
        await stream.write(fetch_pb2.FetchRequest(credit_bytes=MIB, start=starts))
        got = await answers(stream, lambda got: len(got) >= len(starts))
    codes = {item.handle: code_of(item.error) for item in got if item.HasField("error")}
    assert codes == {
        1: "OFFSET_OUT_OF_RANGE",
        2: "UNKNOWN_TOPIC",
        3: "UNKNOWN_PARTITION",
        4: "INVALID_REQUEST",
        5: "UNKNOWN_TOPIC",
    }
    (good,) = (item for item in got if item.handle == 6)
    assert values_of(good.batches) == [b"a"]
    (range_error,) = (item.error for item in got if item.handle == 1)
    assert (range_error.facts["log_start"], range_error.facts["log_end"]) == ("0", "1")


async def test_a_reader_of_a_topic_that_is_deleted_is_told(client: RawClient, new_topic: NewTopic) -> None:
    topic = await client.create_topic("to-be-deleted")
    async with fetching(client) as stream:
        await stream.write(fetch_pb2.FetchRequest(credit_bytes=MIB, start=[start(1, topic, 0)]))
        await answers(stream, bool)
        await client.call("AdminService", "DeleteTopic", admin_pb2.DeleteTopicRequest(name="to-be-deleted"))
        (end,) = await answers(stream, bool)
    assert code_of(end.error) == "UNKNOWN_TOPIC"
    assert end.error.facts["topic"] == "to-be-deleted"


async def test_nothing_above_the_high_watermark_is_pushed(
    served: Served, client: RawClient, new_topic: NewTopic
) -> None:
    """DESIGN §6: a consumer never sees an offset at or past it."""
    topic = await new_topic()
    async with fetching(client) as stream:
        await stream.write(fetch_pb2.FetchRequest(credit_bytes=MIB, start=[start(1, topic, 0)]))
        await answers(stream, bool)
        served.syncs.hold()
        try:
            sending = asyncio.ensure_future(client.send(topic, batch([b"a"])))
            while served.broker.offsets(topic, 0, None)[0].log_end < 1:
                await asyncio.sleep(0)
            assert await ping(stream, 1) == []
        finally:
            served.syncs.release()
        await sending
        (item,) = await answers(stream, bool)
        assert (values_of(item.batches), item.high_watermark) == ([b"a"], 1)


async def test_retention_moves_the_log_start_and_readers_below_it_are_told(tmp_path: Path) -> None:
    """Rule 35: whole oldest segments, while the rest holds at least the limit."""
    async with serving(tmp_path / "data") as served, RawClient(served.address) as client:
        topic = await client.create_topic("small", segment_bytes="10000", retention_bytes="20000")
        for _ in range(10):
            await client.send(topic, batch([b"x" * 4000]), batch([b"x" * 4000]))
        while (bounds := served.broker.offsets(topic, 0, None)[0]).log_start == 0:
            await asyncio.sleep(0.01)
        assert bounds.log_end == 20
        async with fetching(client) as stream:
            await stream.write(fetch_pb2.FetchRequest(credit_bytes=MIB, start=[start(1, topic, 0)]))
            (end,) = await answers(stream, bool)
        assert code_of(end.error) == "OFFSET_OUT_OF_RANGE"


async def test_more_streams_than_allowed_are_told_to_come_back(tmp_path: Path) -> None:
    options = replace(OPTIONS, streams_max=2)
    async with serving(tmp_path / "data", options=options) as served, RawClient(served.address) as client:
        streams = [client.fetch() for _ in range(2)]
        for number, stream in enumerate(streams):
            await ping(stream, number + 1)
        third = client.fetch()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await third.read()
        detail = detail_of(refused.value)
        assert detail is not None
        assert code_of(detail) == "BROKER_NOT_READY"
        for stream in streams:
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF
