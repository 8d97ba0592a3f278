"""Producers when things go wrong: brokers that stall, die and come back, topics that go away."""

from __future__ import annotations

import asyncio
import os

import pytest

import millpond
from millpond.errors import (
    BufferFull,
    ClientClosed,
    DeliveryFailed,
    DeliveryTimeout,
    ForkedClient,
    OperationTimeout,
    Outcome,
    PartialDelivery,
    UnknownTopic,
)
from millpond.testing import LocalCluster
from tests.integration.broker.serving import Served
from tests.integration.producer.test_sending import records_of


async def test_a_record_that_is_not_acknowledged_in_time_has_an_unknown_outcome(
    client: millpond.Client, served: Served, topic: str
) -> None:
    """Rule 8; and what follows is written all the same, once (rule 19)."""
    async with client.producer(delivery_timeout=2.0) as producer:
        await producer.send(topic, b"warm", partition=0)
        served.syncs.hold()
        with pytest.raises(DeliveryTimeout) as caught:
            await producer.send(topic, b"late", partition=0)
        assert (caught.value.outcome, caught.value.timeout) == (Outcome.UNKNOWN, 2.0)
        with pytest.raises(PartialDelivery) as partial:
            await producer.send_many(topic, [b"m1", b"m2"], partition=0)
        assert list(partial.value.failed) == [0, 1]
        assert partial.value.result.offsets == [-1, -1]
        served.syncs.release()
        for number in range(20):
            try:
                await producer.send(topic, b"%d" % number, partition=0)
            except DeliveryTimeout:
                pytest.fail("the broker answers again")
    values = [record.value for record in await records_of(client, topic)]
    assert [value for value in values if value.isdigit()] == [b"%d" % number for number in range(20)]
    assert len(values) == len(set(values))


async def test_failures_that_nobody_awaited_are_raised_by_the_next_flush(
    client: millpond.Client, served: Served, topic: str
) -> None:
    async with client.producer(delivery_timeout=2.0) as producer:
        await producer.send(topic, b"warm")
        served.syncs.hold()
        awaited = producer.send_nowait(topic, b"awaited")
        for _ in range(4):
            producer.send_nowait(topic, b"not")
        with pytest.raises(DeliveryTimeout):
            await awaited
        with pytest.raises(DeliveryFailed) as caught:
            await producer.flush()
        assert caught.value.count == 4
        assert isinstance(caught.value.first, DeliveryTimeout)
        await producer.flush()
        with pytest.raises(DeliveryTimeout):
            await awaited
        producer.send_nowait(topic, b"again")
        with pytest.raises(DeliveryFailed, match="1 records"):
            await producer.close()


async def test_an_exception_of_the_block_is_not_hidden_by_failed_deliveries(
    client: millpond.Client, served: Served, topic: str
) -> None:
    with pytest.raises(KeyError):  # noqa: PT012 - the block is what is tested
        async with client.producer(delivery_timeout=2.0) as producer:
            await producer.send(topic, b"warm")
            served.syncs.hold()
            producer.send_nowait(topic, b"lost")
            raise KeyError
    served.syncs.release()


async def test_calls_end_by_their_timeout(client: millpond.Client, served: Served, topic: str) -> None:
    async with client.producer() as producer:
        await producer.send(topic, b"warm")
        served.syncs.hold()
        with pytest.raises(DeliveryTimeout) as caught:
            await producer.send(topic, b"v", timeout=1.0)
        assert caught.value.outcome is Outcome.UNKNOWN
        with pytest.raises(OperationTimeout):
            await producer.flush(timeout=0.05)
        with pytest.raises(PartialDelivery) as partial:
            await producer.send_many(topic, [b"v"], timeout=0.05)
        assert isinstance(partial.value.failed[0], DeliveryTimeout)
        served.syncs.release()
        await producer.flush()
    assert producer.unsettled_bytes == 0


async def test_closing_with_a_timeout_fails_what_is_left(
    client: millpond.Client, served: Served, topic: str
) -> None:
    producer = await client.producer()
    await producer.send(topic, b"warm")
    served.syncs.hold()
    delivery = producer.send_nowait(topic, b"v")
    try:
        with pytest.raises(DeliveryFailed):
            await producer.close(timeout=1.0)
    finally:
        served.syncs.release()
    with pytest.raises(ClientClosed) as caught:
        await delivery
    assert caught.value.outcome is Outcome.UNKNOWN


async def test_a_cancelled_block_ends_soon(client: millpond.Client, served: Served, topic: str) -> None:
    async def run() -> None:
        async with client.producer() as producer:
            await producer.send(topic, b"warm")
            served.syncs.hold()
            await producer.send(topic, b"v")

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(run())
        while not served.syncs.waiting:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        task.cancel()
        done, _ = await asyncio.wait((task,), timeout=8.0)
        served.syncs.release()
        assert done
        assert task.cancelled()


async def test_a_topic_made_anew_gets_nothing_of_the_old_one(client: millpond.Client, topic: str) -> None:
    async with client.producer(linger=60.0) as producer:
        old = producer.send_nowait(topic, b"old", partition=0)
        await client.admin.delete_topic(topic)
        await client.admin.create_topic(topic, partitions=1)
        with pytest.raises(UnknownTopic) as caught:
            await asyncio.wait_for(old, 5.0)
        assert (caught.value.topic, caught.value.outcome) == (topic, Outcome.NOT_WRITTEN)
        new = producer.send_nowait(topic, b"new")
        await producer.flush()
        assert (await new).offset == 0
    assert [record.value for record in await records_of(client, topic)] == [b"new"]


async def test_partitions_that_are_added_are_used(client: millpond.Client, topic: str) -> None:
    async with client.producer() as producer:
        await producer.send(topic, b"v")
        await client.admin.alter_topic(topic, partitions=5)
        assert (await producer.send(topic, b"v", partition=4)).partition == 4


async def test_a_child_of_a_fork_may_not_send(client: millpond.Client, topic: str) -> None:
    async with client.producer() as producer:
        bound = producer.topic(topic)
        for _ in range(3):
            bound.send_nowait(b"v")  # the topic is hot: its next record would need no look at anything
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                bound.send_nowait(b"v")
            except ForkedClient:
                status = 0
            finally:
                os._exit(status)
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0


async def test_killed_and_restarted_brokers_lose_and_double_nothing() -> None:
    """Rules 16 to 19 with a real process: whatever was acknowledged is there once, in order."""
    async with LocalCluster() as cluster, millpond.connect(cluster.bootstrap) as client:
        await client.admin.create_topic("t", partitions=2)
        deliveries: list[millpond.Delivery] = []
        stop = asyncio.Event()

        async def produce(producer: millpond.Producer[bytes, bytes]) -> None:
            bound = producer.topic("t")
            while not stop.is_set():
                number = len(deliveries)
                deliveries.append(await bound.enqueue(b"%d" % number, key=b"%d" % (number % 7)))
                if number % 50 == 0:
                    await asyncio.sleep(0.001)

        async with client.producer(batch_bytes=5_000, buffer_bytes=1 << 20) as producer:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(produce(producer))
                for _ in range(3):
                    seen = len(deliveries)
                    while len(deliveries) < seen + 3_000:
                        await asyncio.sleep(0.01)
                    cluster.kill(0)
                    await cluster.aio.restart(0)
                stop.set()
            await producer.flush()
            acks = [await delivery for delivery in deliveries]
        records = await records_of(client, "t")
        assert len(records) == len(deliveries)
        there = {(record.partition, record.offset): record.value for record in records}
        assert all(there[ack.partition, ack.offset] == b"%d" % number for number, ack in enumerate(acks))
        for partition in range(2):
            numbers = [int(record.value) for record in records if record.partition == partition]
            assert numbers == sorted(numbers)


async def test_a_broker_that_hangs_is_not_waited_for_for_ever() -> None:
    async with LocalCluster() as cluster, millpond.connect(cluster.bootstrap) as client:
        await client.admin.create_topic("t", partitions=1)
        async with client.producer(delivery_timeout=3.0, buffer_bytes=100_000) as producer:
            await producer.send("t", b"before")
            cluster.pause(0)
            with pytest.raises(BufferFull):  # noqa: PT012 - the last of many
                while True:
                    producer.send_nowait("t", b"x" * 1000)
            with pytest.raises(DeliveryFailed) as caught:
                await producer.flush()
            assert caught.value.count > 90
            cluster.resume(0)
            ack = await producer.send("t", b"after")
        records = await records_of(client, "t")
        assert records[ack.offset].value == b"after"


async def test_a_broker_that_is_away_at_first_is_waited_for() -> None:
    async with LocalCluster() as cluster, millpond.connect(cluster.bootstrap) as client:
        await client.admin.create_topic("t", partitions=1)
        cluster.kill(0)
        async with client.producer(delivery_timeout=60.0) as producer:
            delivery = producer.send_nowait("t", b"v")
            await cluster.aio.restart(0)
            assert (await delivery).offset == 0
        async with client.producer(delivery_timeout=1.0) as producer:
            cluster.kill(0)
            with pytest.raises(DeliveryTimeout) as caught:
                await producer.send("t", b"v")
            assert caught.value.outcome is Outcome.NOT_WRITTEN
            assert caught.value.__cause__ is not None, "it says what was wrong"
