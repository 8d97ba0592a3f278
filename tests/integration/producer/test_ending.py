"""Calls that end when they said they would, and failures that are told once, to whoever is there."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

import millpond
from millpond.errors import DeliveryFailed, DeliveryTimeout, UnknownTopic
from millpond.testing import LocalCluster
from tests.awake import awake
from tests.integration.broker.serving import OPTIONS, Served, serving


async def test_a_send_that_was_told_of_its_timeout_is_not_told_again(topic: str, served: Served) -> None:
    async with millpond.connect(served.address) as client:
        producer = await client.producer()
        served.syncs.hold()
        with pytest.raises(DeliveryTimeout):
            await producer.send(topic, b"v", timeout=0.2)
        await producer.close(timeout=0.2)  # and raises nothing
        served.syncs.release()


@pytest.mark.parametrize("how", ["kill", "pause"])
async def test_closing_ends_in_time_with_a_broker_that_is_gone(how: str) -> None:
    async with LocalCluster() as cluster:
        client = await cluster.client()
        await client.admin.create_topic("t", partitions=1)
        producer = await client.producer()
        await producer.send("t", b"v")
        getattr(cluster, how)(0)
        producer.send_nowait("t", b"v")
        began = awake()
        with pytest.raises(DeliveryFailed):
            await client.close(timeout=0.5)
        # Far from any of the other time-outs that could have ended it.
        assert awake() - began < 2.5
        if how == "pause":
            cluster.resume(0)
        else:
            await cluster.aio.restart(0)


async def test_a_client_closed_while_its_producer_is_closing_waits_for_it(topic: str, served: Served) -> None:
    client = await millpond.connect(served.address)
    producer = await client.producer()
    served.syncs.hold()
    delivery = producer.send_nowait(topic, b"v")
    closing = asyncio.ensure_future(producer.close())
    await asyncio.sleep(0)
    both = asyncio.gather(closing, client.close())
    await asyncio.sleep(0.05)
    served.syncs.release()
    await both
    assert (await delivery).offset == 0


async def test_failures_of_a_send_many_that_was_cancelled_are_told_by_the_next_flush(
    topic: str, served: Served
) -> None:
    async with millpond.connect(served.address) as client:
        producer = await client.producer(delivery_timeout=0.5, buffer_bytes=20_000, batch_bytes=5_000)
        served.syncs.hold()
        sending = asyncio.ensure_future(producer.send_many(topic, [b"x" * 1000] * 100))
        await asyncio.sleep(0.1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        with pytest.raises(DeliveryFailed):
            await producer.flush()
        served.syncs.release()
        await producer.close()


async def test_more_partitions_than_a_message_takes_batches(tmp_path: Path) -> None:
    """A broker refuses a message of more; one record each to 1,200 partitions once made such a message."""
    options = replace(OPTIONS, partitions_max=2000)
    async with (
        serving(tmp_path / "data", options=options) as served,
        millpond.connect(served.address) as client,
        client.producer() as producer,
    ):
        await client.admin.create_topic("wide", partitions=1200)
        await producer.send("wide", b"first", partition=0)
        deliveries = [producer.send_nowait("wide", b"v", partition=number) for number in range(1200)]
        offsets = [(await delivery).offset for delivery in deliveries]
    assert offsets == [1] + [0] * 1199


async def test_a_reader_of_a_deleted_topic_is_told_each_time(served: Served) -> None:
    async with millpond.connect(served.address) as client:
        await client.admin.create_topic("deleted-meanwhile", partitions=1)
        consumer = await client.consumer("deleted-meanwhile")
        await client.admin.delete_topic("deleted-meanwhile")
        for _ in range(3):
            with pytest.raises(UnknownTopic):
                async with asyncio.timeout(30):
                    await anext(aiter(consumer))
            with pytest.raises(UnknownTopic):
                await consumer.poll(timeout=5.0)


async def test_a_bounded_read_that_was_cut_short_never_ends_as_if_it_were_whole(served: Served) -> None:
    async with millpond.connect(served.address) as client:
        await client.admin.create_topic("cut-short", partitions=1)
        async with client.producer() as producer:
            await producer.send_many("cut-short", [b"x" * 1000] * 20_000)
        consumer = await client.consumer("cut-short", stop="end", buffer_bytes=100_000)
        assert await consumer.poll(timeout=5.0)
        await client.admin.delete_topic("cut-short")
        await client.admin.create_topic("cut-short", partitions=1)
        for _ in range(2):
            with pytest.raises(UnknownTopic):
                async for _record in consumer:
                    pass
            assert not consumer.finished


async def test_a_poll_that_is_cancelled_loses_nothing(served: Served) -> None:
    async with millpond.connect(served.address) as client:
        await client.admin.create_topic("polled", partitions=1)
        async with client.producer(batch_bytes=10_000) as producer:
            await producer.send_many("polled", [b"%d" % n for n in range(20_000)])
        got: list[bytes | None] = []
        async with client.consumer("polled", stop="end") as consumer:
            cancelled = 0
            while len(got) < 20_000:
                polling = asyncio.ensure_future(consumer.poll(max_records=3000))
                await asyncio.sleep(0)
                if cancelled < 50:
                    polling.cancel()
                try:
                    got += [record.value for record in await polling]
                except asyncio.CancelledError:
                    cancelled += 1
        assert cancelled
        assert got == [b"%d" % n for n in range(20_000)]
