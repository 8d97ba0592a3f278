"""What a user of a producer is promised, against a real broker."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import mmh3
import pytest

import millpond
from millpond.errors import (
    BufferFull,
    ClientClosed,
    DeliveryTimeout,
    InvalidConfig,
    InvalidRecord,
    OperationTimeout,
    Outcome,
    RecordTooLarge,
    UnknownPartition,
    UnknownTopic,
)
from tests.integration.broker.serving import Served

NOW_MS = time.time_ns() // 1_000_000
"""Retention leaves nothing of 1970."""


async def records_of(client: millpond.Client, topic: str) -> list[millpond.Record[Any, Any]]:
    async with client.consumer(topic, stop="end") as consumer:
        return [record async for record in consumer]


async def test_a_record_is_where_its_acknowledgement_says(client: millpond.Client, topic: str) -> None:
    at = datetime.now(UTC)
    async with client.producer() as producer:
        ack = await producer.send(topic, b"v", key=b"k", headers=[("h", b"1"), ("h", b"2")], timestamp=at)
        plain = await producer.send(topic, b"w", partition=1)
        tombstone = await producer.send(topic, None, key=b"k", timestamp=NOW_MS)
    assert ack == (
        topic,
        mmh3.hash(b"k", 0, False) % 3,
        0,
        (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1),
    )
    assert (ack.topic, ack.partition, ack.offset, ack.timestamp) == tuple(ack)
    found = {(record.partition, record.offset): record for record in await records_of(client, topic)}
    first = found[ack.partition, ack.offset]
    assert (first.key, first.value, first.timestamp) == (b"k", b"v", ack.timestamp)
    assert first.headers.multi_items() == (("h", b"1"), ("h", b"2"))
    assert found[1, plain.offset].value == b"w"
    assert found[tombstone.partition, tombstone.offset].value is None
    assert tombstone.timestamp == NOW_MS


async def test_a_delivery_is_awaitable_many_times(client: millpond.Client, topic: str) -> None:
    async with client.producer() as producer:
        delivery = producer.send_nowait(topic, b"v")
        assert not delivery.done()
        first, second = await asyncio.gather(delivery, delivery)
        assert delivery.done()
        assert first == second == await delivery
        assert await asyncio.wait_for(delivery, 1.0) == first


async def test_every_way_of_sending_keeps_order_and_finds_its_offset(
    client: millpond.Client, topic: str
) -> None:
    """Mixed freely, at full speed: each record is once where its Ack says, each partition in order."""
    sent: list[tuple[bytes, millpond.Ack]] = []
    async with client.producer(batch_bytes=2_000, buffer_bytes=40_000) as producer:
        bound = producer.topic(topic)
        waiting: list[tuple[bytes, Any]] = []
        for number in range(6_000):
            value = b"%d" % number
            if number % 3 == 0:
                waiting.append((value, await bound.enqueue(value)))
            elif number % 3 == 1:
                waiting.append((value, await producer.enqueue(topic, value, key=value, headers={"n": value})))
            else:
                try:
                    waiting.append((value, bound.send_nowait(value)))
                except BufferFull:
                    await producer.room()
                    waiting.append((value, bound.send_nowait(value)))
        sent = [(value, await delivery) for value, delivery in waiting]
    records = await records_of(client, topic)
    assert len(records) == 6_000
    there = {(record.partition, record.offset): record.value for record in records}
    assert all(there[ack.partition, ack.offset] == value for value, ack in sent)
    for partition in range(3):
        numbers = [int(record.value) for record in records if record.partition == partition]
        assert numbers == sorted(numbers)
    sticky = Counter(record.partition for record in records if record.key is None)
    assert set(sticky) == {0, 1, 2}, "records without a key go everywhere"


@pytest.mark.parametrize("keyed", [False, True])
async def test_columns_in_columns_out(client: millpond.Client, topic: str, keyed: bool) -> None:
    values: list[bytes | None] = [b"%d" % number for number in range(10_000)]
    values[17] = None
    keys: list[bytes | None] | None = None
    if keyed:
        keys = [None if number % 5 == 0 else b"%d" % (number % 100) for number in range(10_000)]
    async with client.producer(batch_bytes=4_000, compression="zstd") as producer:
        result = await producer.send_many(topic, values, keys=keys, timestamps=range(NOW_MS, NOW_MS + 10_000))
        assert len(result) == 10_000
        assert result.timestamps == list(range(NOW_MS, NOW_MS + 10_000))
        empty = await producer.send_many(topic, [])
        assert (empty.offsets, empty.partitions) == ([], [])
        assert producer.unsettled_bytes == 0
    there = {(record.partition, record.offset): record for record in await records_of(client, topic)}
    assert len(there) == 10_000
    for number, place in enumerate(zip(result.partitions, result.offsets, strict=True)):
        record = there[place]
        assert (record.value, record.timestamp) == (values[number], NOW_MS + number)
        assert record.key == (None if keys is None else keys[number])
        if record.key is not None:
            assert record.partition == mmh3.hash(record.key, 0, False) % 3


async def test_columns_with_headers_one_time_and_one_partition(client: millpond.Client, topic: str) -> None:
    async with client.producer() as producer:
        result = await producer.send_many(
            topic, [b"a", b"b"], headers=[{"h": b"1"}, None], timestamps=NOW_MS, partition=2
        )
    assert (result.partitions, result.offsets, result.timestamps) == ([2, 2], [0, 1], [NOW_MS] * 2)
    records = await records_of(client, topic)
    assert [dict(record.headers) for record in records] == [{"h": b"1"}, {}]


async def test_a_partition_is_a_number_or_a_function(client: millpond.Client, topic: str) -> None:
    def last(key: bytes | None, value: bytes | None, partitions: int) -> int:
        assert (key, value) == (b"k", b"v")
        return partitions - 1

    async with client.producer(partitioner=last) as producer:
        assert (await producer.send(topic, b"v", key=b"k")).partition == 2
        assert (await producer.send(topic, b"v", key=b"k", partition=0)).partition == 0
        assert (await producer.send(topic, b"v", partition=lambda *_: 1)).partition == 1
        assert (await producer.send_many(topic, [b"v"], keys=[b"k"])).partitions == [2]
        with pytest.raises(UnknownPartition) as caught:
            await producer.send(topic, b"v", partition=3)
        assert caught.value.outcome is Outcome.NOT_WRITTEN
        with pytest.raises(TypeError, match="partition="):
            producer.send_nowait(topic, b"v", partition="1")  # type: ignore[arg-type]  # what is tested


async def test_serializers_make_bytes_and_text_without_one_is_told(
    client: millpond.Client, topic: str
) -> None:
    def digits(number: int) -> bytes:
        return b"%d" % number

    async with client.producer(key_serializer=str.encode, value_serializer=digits) as producer:
        await producer.send(topic, 7, key="k", partition=0)
        await producer.send(topic, None, key="k", partition=0)
        await producer.send_many(topic, [1, 2], keys=["a", None], partition=0)
    records = await records_of(client, topic)
    assert [(record.key, record.value) for record in records] == [
        (b"k", b"7"),
        (b"k", None),
        (b"a", b"1"),
        (None, b"2"),
    ]
    async with client.producer() as plain:
        with pytest.raises(TypeError, match="value_serializer="):
            await plain.send(topic, "text")  # type: ignore[arg-type]  # what is tested
        with pytest.raises(TypeError, match="key_serializer="):
            plain.send_nowait(topic, b"v", key="text")  # type: ignore[arg-type]  # what is tested
        with pytest.raises(TypeError, match="value_serializer="):
            await plain.send_many(topic, [b"v", "text"])  # type: ignore[list-item]  # what is tested
        assert plain.unsettled_bytes == 0


async def test_what_cannot_be_sent_is_said_at_once(client: millpond.Client, millpond_topic: str) -> None:
    await client.admin.create_topic(millpond_topic, partitions=1, config={"record_bytes_max": 1000})
    async with client.producer() as producer:
        for attempt in (producer.send, producer.enqueue):
            with pytest.raises(RecordTooLarge) as caught:
                await attempt(millpond_topic, b"x" * 990, key=b"k" * 11)
            assert (caught.value.size_bytes, caught.value.limit_bytes) == (1001, 1000)
        with pytest.raises(RecordTooLarge):
            producer.send_nowait(millpond_topic, b"x" * 1001)
        with pytest.raises(RecordTooLarge):
            await producer.send_many(millpond_topic, [b"", b"x" * 1001])
        await producer.send(millpond_topic, b"x" * 1000)
        with pytest.raises(InvalidRecord):
            producer.send_nowait(millpond_topic, b"v", timestamp=-1)
        with pytest.raises(ValueError, match="time zone"):
            producer.send_nowait(millpond_topic, b"v", timestamp=datetime(2026, 1, 1))  # noqa: DTZ001 - what is tested
        with pytest.raises(ValueError, match="2 keys for 1 values"):
            await producer.send_many(millpond_topic, [b"v"], keys=[b"a", b"b"])
        for name in ("send", "enqueue", "send_many"):
            with pytest.raises(UnknownTopic):
                await getattr(producer, name)("nowhere", b"v")
        with pytest.raises(UnknownTopic):
            producer.send_nowait("nowhere", b"v")


@pytest.mark.parametrize(
    "options",
    [
        {"max_in_flight": 6},
        {"batch_bytes": 0},
        {"buffer_bytes": 0},
        {"linger": -1.0},
        {"delivery_timeout": 0},
    ],
)
async def test_an_option_out_of_bounds_is_named(client: millpond.Client, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig, match=next(iter(options))):
        client.producer(**options)


@pytest.mark.parametrize("acks", ["leader", "none"])
async def test_fewer_acknowledgements(client: millpond.Client, topic: str, acks: Any) -> None:
    async with client.producer(acks=acks) as producer:
        acknowledged = [await producer.send(topic, b"%d" % number, partition=0) for number in range(100)]
        many = await producer.send_many(topic, [b"m"] * 100, partition=0)
    if acks == "none":
        assert {ack.offset for ack in acknowledged} == set(many.offsets) == {-1}
    else:
        assert [ack.offset for ack in acknowledged] == list(range(100))
        assert many.offsets == list(range(100, 200))
    values = [record.value for record in await records_of(client, topic)]
    assert values == [b"%d" % number for number in range(100)] + [b"m"] * 100


async def test_a_linger_gathers_and_a_flush_does_not_wait_for_it(client: millpond.Client, topic: str) -> None:
    async with client.producer(linger=30.0) as producer:
        deliveries = []
        for number in range(10):
            deliveries.append(producer.send_nowait(topic, b"%d" % number))
            await asyncio.sleep(0)
        assert not any(delivery.done() for delivery in deliveries)
        await producer.flush(timeout=5.0)
        assert all(delivery.done() for delivery in deliveries)
    assert {(await delivery).partition for delivery in deliveries} == {(await deliveries[0]).partition}


async def test_under_load_batches_grow_by_themselves(
    client: millpond.Client, served: Served, topic: str
) -> None:
    async with client.producer() as producer:
        await producer.send(topic, b"first")
        metrics = served.broker.metrics
        batches, records = metrics.batches_in, metrics.records_in
        served.syncs.hold()
        deliveries = []
        for number in range(300):
            deliveries.append(producer.send_nowait(topic, b"%d" % number))
            await asyncio.sleep(0)
        served.syncs.release()
        await producer.flush()
        assert metrics.records_in - records == 300
        assert metrics.batches_in - batches < 60


async def test_the_buffer_is_bounded_and_who_waits_first_goes_first(
    client: millpond.Client, served: Served, topic: str
) -> None:
    value = b"x" * 984  # 1008 bytes, as the buffer counts
    async with client.producer(buffer_bytes=10_080) as producer:
        await producer.send(topic, b"warm")
        served.syncs.hold()
        sent = [producer.send_nowait(topic, value, partition=0) for _ in range(10)]
        with pytest.raises(BufferFull) as caught:
            producer.send_nowait(topic, value, partition=0)
        assert caught.value.buffer_bytes == 10_080
        with pytest.raises(OperationTimeout):
            await producer.room(timeout=0.05)
        with pytest.raises(DeliveryTimeout) as late:
            await producer.enqueue(topic, value, timeout=0.05)
        assert late.value.outcome is Outcome.NOT_WRITTEN
        order: list[int] = []

        async def wait(number: int) -> millpond.Delivery:
            delivery = await producer.enqueue(topic, value, partition=0)
            order.append(number)
            return delivery

        async with asyncio.TaskGroup() as tasks:
            waiting = [tasks.create_task(wait(number)) for number in range(20)]
            given_up = tasks.create_task(wait(99))
            while not producer._outgoing.accumulator.crowded:
                await asyncio.sleep(0)
            given_up.cancel()
            served.syncs.release()
        assert order == list(range(20))
        acks = [await delivery for delivery in [*sent, *(task.result() for task in waiting)]]
        assert [ack.offset for ack in acks] == sorted(ack.offset for ack in acks)
        with pytest.raises(RecordTooLarge):
            producer.send_nowait(topic, b"x" * 10_100)
    assert producer.unsettled_bytes == 0


async def test_one_tick_of_many_topics_shares_a_small_buffer(client: millpond.Client, topic: str) -> None:
    """A lease that one topic does not use is no reason to refuse another."""
    await client.admin.create_topic(other := topic + "-b", partitions=1)
    async with client.producer(buffer_bytes=2_000) as producer:
        deliveries = [producer.topic(name).send_nowait(b"x" * 100) for name in (topic, other) * 5]
        assert all(ack.offset >= 0 for ack in await asyncio.gather(*deliveries))


async def test_cancelling_who_waits_cancels_nobody_else(
    client: millpond.Client, served: Served, topic: str
) -> None:
    async with client.producer() as producer:
        await producer.send(topic, b"warm")
        served.syncs.hold()
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(producer.send(topic, b"a", partition=0))
            second = tasks.create_task(producer.send(topic, b"b", partition=0))
            many = tasks.create_task(producer.send_many(topic, [b"c"], partition=0))
            await asyncio.sleep(0.05)
            first.cancel()
            many.cancel()
            await asyncio.wait((first, many))
            served.syncs.release()
        assert second.result().offset >= 0
        await producer.flush()


async def test_a_closed_producer_takes_nothing(client: millpond.Client, topic: str) -> None:
    producer = client.producer()
    with pytest.raises(ClientClosed):
        producer.send_nowait(topic, b"v")
    await producer
    hot = producer.topic(topic)
    last = [hot.send_nowait(b"v") for _ in range(10)]
    await producer.close()
    assert all(delivery.done() for delivery in last), "closing delivers"
    assert len(await records_of(client, topic)) == 10
    calls: Sequence[Any] = (
        lambda: producer.send(topic, b"v"),
        lambda: producer.enqueue(topic, b"v"),
        lambda: producer.send_many(topic, [b"v"]),
        producer.flush,
        producer.room,
    )
    for call in calls:
        with pytest.raises(ClientClosed):
            await call()
    with pytest.raises(ClientClosed):
        hot.send_nowait(b"v")
    await producer.close()


async def test_closing_the_client_delivers_what_its_producers_hold(served: Served, topic: str) -> None:
    async with millpond.connect(served.address) as client:
        producer = await client.producer(linger=20.0)
        delivery = producer.send_nowait(topic, b"v")
    assert (await delivery).offset == 0


def clients_tasks() -> set[asyncio.Task[object]]:
    """Not those of the broker in this process, which notices a moment later that a client has left."""
    return {
        task
        for task in asyncio.all_tasks()
        if "millpond" in task.get_name() and not task.get_name().startswith("HandleExceptions")
    }


async def test_a_producer_leaves_no_task_behind(served: Served, topic: str) -> None:
    before = clients_tasks()
    async with millpond.connect(served.address) as client, client.producer() as producer:
        await producer.send(topic, b"v")
    assert clients_tasks() <= before
