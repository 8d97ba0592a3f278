"""Readers: the SDK's own consumers, each of all partitions of some topics, as they come, grow and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from millpond._core.fetch_buffer import FetchedGap
from millpond._core.handout import RecordBatch
from millpond.client import Client as SdkClient
from millpond.consumer import Consumer
from millpond.wire.errors import MillpondError, OffsetOutOfRange, UnknownPartition, UnknownTopic
from tests.sim.cluster.clients import Key, named
from tests.sim.cluster.sdk import SdkProcess
from tests.sim.cluster.world import World
from tests.sim.history.operations import Assign, Gap, Operation, Poll, Refused

PATIENCE_SECONDS: Final = 1.0
"""Of one wait for records."""
AGAIN_SECONDS: Final = 6.0
"""On average, after which one goes back in some partition, or opens another consumer."""


class ReaderProcess(SdkProcess):
    """See the module. `rereads`: from time to time it goes back."""

    def __init__(
        self,
        world: World,
        host_id: int,
        name: str,
        history: list[Operation],
        *,
        topics: tuple[str, ...],
        rereads: bool = True,
    ) -> None:
        super().__init__(world, host_id, name)
        self.on_read: Callable[[Key, int, str], None] = lambda *_told: None
        """Told (partition, exclusive end offset, by whom) of what was read."""
        self._history = history
        self._topics = topics
        self._rereads = rereads
        self._consumer: Consumer[bytes | None, bytes | None] | None = None
        self._assigned: set[Key] = set()

    def read(self) -> None:
        """Begin to."""
        self.run(self._read)

    def position(self, topic: str, key: Key) -> int:
        """Where it stands in a partition; -1: it does not read it."""
        if self._consumer is None:
            return -1
        for name, cursor in self._consumer._fetcher.cursors.items():
            if (cursor.topic_id, name.partition) == key and name.topic == topic:
                return self._consumer._hand.position(cursor)
        return -1

    async def _read(self, client: SdkClient) -> None:
        while not self.stopping:
            buffer_bytes = self.random.choice((500, 8 << 10, 1 << 20))
            try:
                self._consumer = await client.consumer(*self._topics, buffer_bytes=buffer_bytes)
            except MillpondError:
                await self.back_off()
                continue
            self._consumer._hand._on_gap = self._skipped
            self._assigned.clear()
            try:
                await self._follow(self._consumer)
            except (UnknownTopic, UnknownPartition):
                pass  # it was deleted, and may be there again
            finally:
                consumer, self._consumer = self._consumer, None
                await consumer.close()
            await self.back_off()
        await client.close()

    async def _follow(self, consumer: Consumer[bytes | None, bytes | None]) -> None:
        batches = consumer.batches()
        turns_at = self.now() + self.random.expovariate(1 / AGAIN_SECONDS)
        while not self.stopping:
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        self._took(consumer, await anext(batches))
            except (UnknownTopic, UnknownPartition):
                raise
            except OffsetOutOfRange as error:
                self._refused(error)
            except MillpondError as error:  # of a leader that is away for long, or has found damage
                self.world.note(f"{self.name} was told {error!r}")
                self.world.count(f"reader told {type(error).__name__}")
            if self._rereads and self.now() >= turns_at:
                turns_at = self.now() + self.random.expovariate(1 / AGAIN_SECONDS)
                if self.random.random() < 0.3:
                    return
                await self._go_back(consumer)

    async def _go_back(self, consumer: Consumer[bytes | None, bytes | None]) -> None:
        if not consumer.assignment:
            return
        key = self.random.choice(consumer.assignment)
        cursor = consumer._fetcher.cursors[key]
        offset = self.random.choice((0, consumer._hand.position(cursor) // 2))
        await consumer.seek(*key, offset=offset)
        self._assign(key.topic, (cursor.topic_id, key.partition), offset)

    def _assign(self, topic: str, key: Key, offset: int) -> None:
        self._assigned.add(key)
        self._history.append(
            Assign(time=self.now(), process=self.name, partition=named(topic, key), offset=offset)
        )

    def _took(self, consumer: Consumer[Any, Any], batch: RecordBatch[bytes | None, bytes | None]) -> None:
        cursor = consumer._hand._cursor
        assert cursor is not None, "a batch is of some partition"
        assert (cursor.key.topic, cursor.key.partition) == (batch.topic, batch.partition), "of that one"
        key = cursor.topic_id, batch.partition
        if key not in self._assigned:
            self._assign(batch.topic, key, 0)  # whenever it came, all of it is to be read
        records = tuple(
            (offset, (value or b"").decode())
            for offset, value in zip(batch.offsets, batch.values, strict=True)
        )
        end = records[-1][0] + 1
        self._history.append(
            Poll(
                time=self.now(),
                process=self.name,
                partition=named(batch.topic, key),
                records=records,
                high_watermark=end,
            )
        )
        self.on_read(key, end, self.name)

    def _skipped(self, gap: FetchedGap) -> None:
        """It was told that records are gone."""
        key = gap.cursor.topic_id, gap.cursor.key.partition
        if key not in self._assigned:
            self._assign(gap.cursor.key.topic, key, 0)
        self._history.append(
            Gap(
                time=self.now(),
                process=self.name,
                partition=named(gap.cursor.key.topic, key),
                offset=gap.resumed_at - gap.skipped,
                resumed_at=gap.resumed_at,
            )
        )

    def _refused(self, error: OffsetOutOfRange) -> None:
        self._history.append(
            Refused(
                time=self.now(),
                process=self.name,
                partition=f"{error.topic}-{error.partition}",
                offset=error.offset,
                error=str(error),
            )
        )
