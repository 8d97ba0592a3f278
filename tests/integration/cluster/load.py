"""Writers that note what became of each record; and the audit: what was acknowledged is there, in order.

Values are unique: `partition/number`, numbers growing in the order of sending. Whoever waits for progress
waits for records that were sent after the wait began.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Self

import millpond
from millpond.client import Client
from millpond.errors import MillpondError, Outcome

PAUSE_S = 0.004
"""Between two records of a partition: a stream of them, on cores that others need, too."""
IN_FLIGHT_MAX = 50
"""Deliveries that a writer has not looked at."""


@dataclass(frozen=True, slots=True)
class Acked:
    """A record that was acknowledged. Times of the monotonic clock."""

    offset: int
    number: int
    sent_at: float
    acked_at: float


class Load:
    """One writer for each partition of a topic, through one producer."""

    def __init__(
        self, topic: str, partitions: Iterable[int], *, delivery_timeout: float = 60.0, value_bytes: int = 0
    ) -> None:
        """`value_bytes`: shorter values are filled up with spaces."""
        self.topic = topic
        self.acked: dict[int, list[Acked]] = {number: [] for number in partitions}
        self.failed: dict[int, list[tuple[int, MillpondError]]] = defaultdict(list)
        self.sent: dict[int, int] = defaultdict(int)
        self._delivery_timeout = delivery_timeout
        self._value_bytes = value_bytes
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def running(self, client: Client) -> AsyncIterator[Load]:
        """Write meanwhile; at the end, everything sent is settled."""
        self._stopping.clear()
        producer = await client.producer(delivery_timeout=self._delivery_timeout)
        try:
            async with asyncio.TaskGroup() as tasks:
                for partition in self.acked:
                    tasks.create_task(self._write(producer, partition))
                yield self
                self._stopping.set()
        except BaseException:  # a test that failed waits for nothing; re-raised
            with suppress(MillpondError):
                await producer.close(0.0)
            raise
        await producer.close()

    async def _write(self, producer: millpond.Producer[bytes, bytes], partition: int) -> None:
        queue: asyncio.Queue[tuple[int, float, millpond.Delivery] | None] = asyncio.Queue(IN_FLIGHT_MAX)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._note(queue, partition))
            while not self._stopping.is_set():
                number = self.sent[partition]
                self.sent[partition] += 1
                sent_at = time.monotonic()
                value = f"{partition}/{number}".ljust(self._value_bytes).encode()
                delivery = await producer.enqueue(
                    self.topic, value, key=b"%d" % partition, partition=partition
                )
                await queue.put((number, sent_at, delivery))
                await asyncio.sleep(PAUSE_S)
            await queue.put(None)

    async def _note(
        self, queue: asyncio.Queue[tuple[int, float, millpond.Delivery] | None], partition: int
    ) -> None:
        while (item := await queue.get()) is not None:
            number, sent_at, delivery = item
            try:
                ack = await delivery
            except MillpondError as error:
                self.failed[partition].append((number, error))
            else:
                assert (ack.topic, ack.partition) == (self.topic, partition)
                self.acked[partition].append(Acked(ack.offset, number, sent_at, time.monotonic()))
            self._changed.set()

    async def progress(self, *partitions: int, records: int = 3, timeout: float = 30.0) -> float:
        """Until so many records that were sent from now on are acknowledged in each of these partitions (none
        named: all). Seconds until the first one in the slowest of them.
        """
        began = time.monotonic()
        numbers = {number: self.sent[number] for number in partitions or self.acked}
        async with asyncio.timeout(timeout):
            while True:
                found = {
                    number: [ack for ack in self.acked[number][-200:] if ack.number >= first]
                    for number, first in numbers.items()
                }
                if all(len(acks) >= records for acks in found.values()):
                    return max(acks[0].acked_at for acks in found.values()) - began
                self._changed.clear()
                await self._changed.wait()

    @property
    def acknowledged(self) -> int:
        """How many were."""
        return sum(map(len, self.acked.values()))

    @property
    def failures(self) -> list[MillpondError]:
        """Of sends, whatever their outcome."""
        return [error for failed in self.failed.values() for _, error in failed]

    @property
    def longest_wait(self) -> float:
        """Of a record that was acknowledged: seconds from its sending."""
        return max(ack.acked_at - ack.sent_at for acks in self.acked.values() for ack in acks)

    async def audit(
        self, bootstrap: str, *, strangers: Iterable[tuple[int, int]] = (), timeout: float = 60.0
    ) -> None:
        """By a client that knows nothing: all that was acknowledged is where it was said to be, nothing is
        there twice, nothing that was never sent or failed for certain; and each partition is in the order of
        sending. `strangers`: (partition, number) that others may have sent.
        """
        found: dict[int, dict[int, int]] = defaultdict(dict)
        others = set(strangers)
        async with (
            asyncio.timeout(timeout),
            millpond.connect(bootstrap, timeout=timeout) as client,
            client.consumer(self.topic, stop="end") as consumer,
        ):
            async for record in consumer:
                assert record.value is not None
                prefix, _, number = record.value.decode().partition("/")
                assert int(prefix) == record.partition
                if (record.partition, int(number)) not in others:
                    assert record.offset not in found[record.partition], "an offset comes once"
                    found[record.partition][record.offset] = int(number)
        assert found.keys() <= self.acked.keys()
        for partition in self.acked:
            records = found[partition]
            for ack in self.acked[partition]:
                assert records.get(ack.offset) == ack.number, (
                    f"{self.topic}-{partition}: {ack} was acknowledged, {records.get(ack.offset)} is there"
                )
            numbers = [number for _, number in sorted(records.items())]
            assert all(one < another for one, another in pairwise(numbers)), (
                f"{self.topic}-{partition}: twice or out of order"
            )
            refused = {
                number
                for number, error in self.failed[partition]
                if getattr(error, "outcome", None) is Outcome.NOT_WRITTEN
            }
            assert refused.isdisjoint(numbers), "what was not written is not there"
            assert not numbers or numbers[-1] < self.sent[partition]


class Reading:
    """A consumer that reads along from the beginning, whatever happens to the brokers: it gets every offset
    once, in order. With `trouble_timeout` it notes what it raises for trouble that lasts, and reads on.
    """

    def __init__(self, client: Client, topic: str, *, trouble_timeout: float | None = None) -> None:
        self.troubles: list[MillpondError] = []
        self._reads_on = trouble_timeout is not None
        self._consumer = (
            client.consumer(topic)
            if trouble_timeout is None
            else client.consumer(topic, trouble_timeout=trouble_timeout)
        )
        self._next: dict[int, int] = defaultdict(int)
        self._values: dict[tuple[int, int], str] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._consumer
        self._task = asyncio.create_task(self._read(), name="reading")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            await self._close()

    async def _read(self) -> None:
        while True:
            try:
                await self._read_on()
            except MillpondError as error:
                if not self._reads_on or not error.retriable:
                    raise
                self.troubles.append(error)

    async def _read_on(self) -> None:
        async for record in self._consumer:
            assert record.offset == self._next[record.partition], f"{record.partition} skips or repeats"
            self._next[record.partition] += 1
            assert record.value is not None
            self._values[record.partition, record.offset] = record.value.decode().rstrip()
            self._changed.set()

    async def _close(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._consumer.close()

    async def reaches(self, load: Load, *, timeout: float = 20.0) -> None:
        """It has what the load had acknowledged by now, at the same offsets. Then it is closed."""
        assert self._task is not None
        ends = {partition: acks[-1].offset for partition, acks in load.acked.items() if acks}
        try:
            async with asyncio.timeout(timeout):
                while any(self._next[partition] <= end for partition, end in ends.items()):
                    if self._task.done():
                        self._task.result()
                    self._changed.clear()
                    changed = asyncio.ensure_future(self._changed.wait())
                    try:
                        await asyncio.wait([self._task, changed], return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        changed.cancel()
        finally:
            await self._close()
        for partition, acks in load.acked.items():
            for ack in acks:
                if ack.offset <= ends[partition]:
                    assert self._values[partition, ack.offset] == f"{partition}/{ack.number}"
