"""Consumers against a real broker, and one that is killed."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Literal

import pytest
import pytest_asyncio

import millpond
from millpond.client import Client
from millpond.consumer import Start
from millpond.errors import MillpondError, OffsetOutOfRange
from millpond.testing import LocalCluster
from tests.integration.client.writing import KEPT, write


@pytest_asyncio.fixture
async def client(millpond_cluster: LocalCluster) -> AsyncIterator[Client]:
    async with millpond_cluster.client(timeout=20.0) as made:
        yield made


@pytest.mark.parametrize("stop", ["end", None])
async def test_a_start_past_the_end_is_out_of_range(
    client: Client, millpond_topic: str, stop: Literal["end"] | None
) -> None:
    """Also for a reader who would have nothing to read up to the end, and would never ask."""
    await client.admin.create_topic(millpond_topic, partitions=1)
    await write(client, millpond_topic, [b"a", b"b"])
    async with client.consumer(millpond_topic, start=2, stop="end") as consumer:
        assert [record async for record in consumer] == []

    async def read() -> None:
        async with client.consumer(millpond_topic, start=3, stop=stop) as consumer:
            await anext(consumer)

    with pytest.raises(OffsetOutOfRange) as refused:
        await read()
    assert (refused.value.offset, refused.value.log_end) == (3, 2)


async def test_every_partition_is_read_in_order(client: Client, millpond_topic: str) -> None:
    await client.admin.create_topic(millpond_topic, partitions=3)
    for partition in range(3):
        batches = [[b"%d-%d" % (partition, first + n) for n in range(10)] for first in range(0, 100, 10)]
        await write(client, millpond_topic, *batches, partition=partition)
    got: dict[int, list[bytes | None]] = {0: [], 1: [], 2: []}
    async with client.consumer(millpond_topic, stop="end") as consumer:
        async for record in consumer:
            assert record.offset == len(got[record.partition])
            got[record.partition].append(record.value)
    assert got == {partition: [b"%d-%d" % (partition, n) for n in range(100)] for partition in range(3)}


async def test_it_follows_what_is_written(client: Client, millpond_topic: str) -> None:
    await client.admin.create_topic(millpond_topic, partitions=1)
    async with client.consumer(millpond_topic) as consumer:
        for number in range(20):
            await write(client, millpond_topic, [b"%d" % number])
            async with asyncio.timeout(30):
                assert (await anext(consumer)).value == b"%d" % number


async def test_a_small_buffer_reads_a_large_topic(client: Client, millpond_topic: str) -> None:
    await client.admin.create_topic(millpond_topic, partitions=2)
    for partition in (0, 1):
        await write(client, millpond_topic, *([b"x" * 1000] * 20 for _ in range(50)), partition=partition)
    for buffer_bytes in (1, 30_000, 1 << 20):
        async with client.consumer(millpond_topic, stop="end", buffer_bytes=buffer_bytes) as consumer:
            async with asyncio.timeout(30):
                assert sum([len(batch) async for batch in consumer.batches()]) == 2000


async def test_it_starts_where_it_is_told(client: Client, millpond_topic: str) -> None:
    await client.admin.create_topic(millpond_topic, partitions=1, config=KEPT)
    for number in range(6):
        await write(client, millpond_topic, [b"%d" % number], timestamps=1_700_000_000_000 + number)
    middle = datetime.fromtimestamp(1_700_000_000.003, tz=UTC)
    starts: list[tuple[Start, int]] = [("beginning", 0), (2, 2), (middle, 3)]
    for start, first in starts:
        async with client.consumer(millpond_topic, start=start, stop="end") as consumer:
            values = [record.value async for record in consumer]
        assert values == [b"%d" % number for number in range(first, 6)]
    async with client.consumer(millpond_topic, start="end") as consumer:
        await write(client, millpond_topic, [b"new"])
        async with asyncio.timeout(30):
            assert (await anext(consumer)).value == b"new"


async def test_seek_by_time(client: Client, millpond_topic: str) -> None:
    await client.admin.create_topic(millpond_topic, partitions=1, config=KEPT)
    for number in range(4):
        await write(client, millpond_topic, [b"%d" % number], timestamps=1_700_000_000_000 + number)
    async with client.consumer(millpond_topic) as consumer, asyncio.timeout(30):
        await consumer.seek(millpond_topic, 0, timestamp=1_700_000_000_002)
        assert (await anext(consumer)).value == b"2"
        await consumer.seek(millpond_topic, 0, timestamp=1_800_000_000_000)
        assert consumer.position(millpond_topic, 0) == 4
        await consumer.seek(millpond_topic, 0, to="beginning")
        assert (await anext(consumer)).value == b"0"


async def test_a_pattern_takes_up_topics_that_come(client: Client, millpond_topic: str) -> None:
    async with client.consumer(pattern=re.escape(millpond_topic) + "-.*") as consumer, asyncio.timeout(30):
        assert consumer.assignment == []
        for name in ("a", "b"):
            await client.admin.create_topic(f"{millpond_topic}-{name}", partitions=1)
            await write(client, f"{millpond_topic}-{name}", [name.encode()])
            assert (await anext(consumer)).value == name.encode()


async def test_a_trimmed_log_is_read_from_where_it_begins(
    client: Client, millpond_topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    await client.admin.create_topic(millpond_topic, partitions=1)
    await write(client, millpond_topic, [b"a"], [b"b"], [b"c"])
    await client.admin.trim_topic(millpond_topic, before=2)
    async with client.consumer(millpond_topic, stop="end") as consumer:
        assert [record.value async for record in consumer] == [b"c"]
        assert consumer.records_skipped == 0
    async with client.consumer(millpond_topic, start=1, stop="end") as consumer:
        assert [record.value async for record in consumer] == [b"c"]
        assert consumer.records_skipped == 1
    assert "retention deleted 1 records" in caplog.text
    async with client.consumer(millpond_topic, start=1, on_gap="raise") as consumer:
        with pytest.raises(OffsetOutOfRange) as caught:
            await anext(consumer)
        assert (caught.value.offset, caught.value.log_start) == (1, 2)


async def test_an_offset_past_the_end_is_said(client: Client, millpond_topic: str) -> None:
    await client.admin.create_topic(millpond_topic, partitions=1)
    async with client.consumer(millpond_topic, start=5) as consumer:
        with pytest.raises(OffsetOutOfRange):
            await anext(consumer)


async def test_a_topic_made_again_is_read_from_its_beginning(client: Client, millpond_topic: str) -> None:
    await client.admin.create_topic(millpond_topic, partitions=1)
    await write(client, millpond_topic, [b"old"])
    async with client.consumer(pattern=re.escape(millpond_topic)) as consumer, asyncio.timeout(30):
        assert (await anext(consumer)).value == b"old"
        await client.admin.delete_topic(millpond_topic)
        await client.admin.create_topic(millpond_topic, partitions=1)
        await write(client, millpond_topic, [b"new"])
        record = await anext(consumer)
        assert (record.offset, record.value) == (0, b"new")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count, and the path is no directory of ours


async def test_no_descriptor_is_left_behind(millpond_cluster: LocalCluster, millpond_topic: str) -> None:
    async with millpond_cluster.client() as client:
        await client.admin.create_topic(millpond_topic, partitions=1)

    async def use() -> None:
        async with millpond_cluster.client() as client, client.consumer(millpond_topic) as consumer:
            assert await consumer.poll(timeout=0.05) == []

    await use()
    before = descriptors()
    for _ in range(5):
        await use()
    async with asyncio.timeout(30):
        while descriptors() > before:
            await asyncio.sleep(0.01)


class Traffic:
    """Writers of two partitions and a reader of both, over whatever happens to their broker."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.acknowledged: dict[int, list[tuple[int, bytes]]] = {0: [], 1: []}
        self.got: dict[int, list[bytes | None]] = {0: [], 1: []}
        self.stopping = False
        self.written_all = False

    async def produce(self, partition: int) -> None:
        """Write one record after another; the last one after `stopping` was set."""
        number = 0
        last = False
        while not last:
            last = self.stopping
            value = b"%d-%d" % (partition, number)
            try:
                (offset,) = await write(self.client, "t", [value], partition=partition)
            except MillpondError:  # killed under it: not acknowledged, written or not
                last = False
                await asyncio.sleep(0.02)
                continue
            self.acknowledged[partition].append((offset, value))
            number += 1

    async def consume(self, consumer: millpond.Consumer[bytes | None, bytes | None]) -> None:
        """Read until everything acknowledged was seen."""
        while not (self.written_all and self.seen_all()):
            for record in await consumer.poll(timeout=0.1):
                got = self.got[record.partition]
                assert record.offset == len(got), "each offset once, in order"
                got.append(record.value)

    def seen_all(self) -> bool:
        return all(len(self.got[each]) > acks[-1][0] for each, acks in self.acknowledged.items())

    async def written(self, more: int) -> None:
        """Until so many more were acknowledged in each partition."""
        wanted = {partition: len(acks) + more for partition, acks in self.acknowledged.items()}
        async with asyncio.timeout(30):
            while any(len(self.acknowledged[each]) < count for each, count in wanted.items()):
                await asyncio.sleep(0.01)


async def test_a_broker_that_is_killed_again_and_again_costs_no_record_and_repeats_none() -> None:
    async with LocalCluster() as cluster, cluster.client(timeout=30.0) as client:
        await client.admin.create_topic("t", partitions=2)
        traffic = Traffic(client)
        async with client.consumer("t") as consumer, asyncio.TaskGroup() as group:
            producing = [group.create_task(traffic.produce(partition)) for partition in (0, 1)]
            consuming = group.create_task(traffic.consume(consumer))
            for _ in range(3):
                await traffic.written(20)
                cluster.kill(0)
                await cluster.aio.restart(0)
            await traffic.written(1)
            traffic.stopping = True
            async with asyncio.timeout(30):
                await asyncio.wait(producing)
                traffic.written_all = True
                await consuming
        for partition, acks in traffic.acknowledged.items():
            assert len(acks) > 60
            assert [(offset, traffic.got[partition][offset]) for offset, _ in acks] == acks


async def test_a_broker_that_is_paused_is_given_up_and_found_again() -> None:
    async with LocalCluster() as cluster, cluster.client(timeout=30.0) as client:
        await client.admin.create_topic("t", partitions=1)
        async with client.consumer("t") as consumer:
            await write(client, "t", [b"a"])
            assert (await anext(consumer)).value == b"a"
            cluster.pause(0)
            try:
                assert await consumer.poll(timeout=9.0) == [], "long enough for a ping and its answer"
            finally:
                cluster.resume(0)
            async with asyncio.timeout(20):
                await write(client, "t", [b"b"])
                assert (await anext(consumer)).value == b"b"


async def test_a_consumer_of_brokers_that_are_gone_is_closed_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A half-close that meets the end of its stream fails within gRPC, in about every sixth of these."""
    async with LocalCluster() as cluster, cluster.client() as client:
        await client.admin.create_topic("t")
        cluster.kill(0)
        for attempt in range(40):
            async with client.consumer("t", start=0) as consumer:
                assert await consumer.poll(timeout=attempt * 0.002) == []
    assert [record.getMessage() for record in caplog.records] == []
