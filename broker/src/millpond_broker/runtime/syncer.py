"""Group commit on the loop: the one place of the broker where appended bytes become durable ones.

Partitions say that they have something to sync; one sync at a time covers all that did by then, in a thread,
and what it says is settled on the loop, where the partitions then answer. While a sync runs the next one's
partitions gather, so that load makes syncs larger, not more. What appended with flush=interval is synced
`flush_interval_ms` after its first unsynced byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from millpond_broker.observe.metrics import BrokerMetrics
from millpond_broker.runtime.partition import Partition
from millpond_broker.runtime.ports import Blocking, Clock
from millpond_broker.storage.group_commit import GroupCommit, Synced
from millpond_broker.storage.log import PendingSync


class Syncer:
    """Syncs what asks for it. `run` is its task; `failed` hears of partitions whose log has failed."""

    def __init__(
        self,
        group_commit: GroupCommit,
        disk: Blocking,
        clock: Clock,
        metrics: BrokerMetrics,
        failed: Callable[[Partition], None],
    ) -> None:
        self._group_commit = group_commit
        self._disk = disk
        self._clock = clock
        self._metrics = metrics
        self._failed = failed
        # At most the partitions of this broker, each once.
        self._due: dict[Partition, None] = {}
        self._timers: dict[Partition, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()
        # Logs that are in a sync now: nobody may close or reopen one of them.
        self._syncing: frozenset[Partition] = frozenset()
        # When the sync under way began, by the clock's monotonic time; None: there is none.
        self._began: float | None = None
        self._idle = asyncio.Condition()

    def request(self, partition: Partition) -> None:
        """Something was appended, or failed. On the loop; costs next to nothing when it is known already."""
        if partition in self._due:
            return
        log = partition.log
        if partition.options.waits_for_sync or log is None or log.failure is not None:
            self._make_due(partition)
        elif partition not in self._timers:
            delay = partition.options.flush_interval_ms / 1000
            timer = asyncio.get_running_loop().call_later(delay, self._make_due, partition)
            self._timers[partition] = timer

    def _make_due(self, partition: Partition) -> None:
        if (timer := self._timers.pop(partition, None)) is not None:
            timer.cancel()
        self._due[partition] = None
        self._wake.set()

    @property
    def pending_seconds(self) -> float:
        """For how long the sync under way has been; 0: there is none."""
        return 0.0 if self._began is None else self._clock.monotonic() - self._began

    async def forget(self, partition: Partition) -> None:
        """No sync of it runs when this returns, and none will begin: its log may be closed or cut."""
        if (timer := self._timers.pop(partition, None)) is not None:
            timer.cancel()
        self._due.pop(partition, None)
        async with self._idle:
            await self._idle.wait_for(lambda: partition not in self._syncing)

    async def run(self) -> None:
        """Sync until cancelled. A sync under way ends before it returns, and is settled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            partitions, self._due = list(self._due), {}
            pending = self._begin(partitions)
            if pending:
                await self._sync(pending)

    def _begin(self, partitions: list[Partition]) -> list[tuple[Partition, PendingSync]]:
        pending = []
        for partition in partitions:
            log = partition.log
            if log is None:
                continue
            if log.failure is not None:
                self._failed(partition)
            elif (part := log.begin_sync()) is not None:
                pending.append((partition, part))
            else:
                partition.advance()  # the log synced by itself: a refused append does, to take its bytes back
        return pending

    async def _sync(self, pending: list[tuple[Partition, PendingSync]]) -> None:
        parts = [part for _, part in pending]
        results: list[Synced] = []
        began = self._began = self._clock.monotonic()
        self._syncing = frozenset(partition for partition, _ in pending)
        try:
            # Kept beside the answer: a caller that is cancelled gets none, and the sync has happened.
            await self._disk.run(lambda: results.extend(self._group_commit.sync(parts)))
        finally:
            self._began = None
            self._metrics.sync_seconds.observe(self._clock.monotonic() - began)
            self._metrics.syncs += 1
            for (partition, _), result in zip(pending, results, strict=True):
                self._settle(partition, result)
            self._syncing = frozenset()
            async with self._idle:
                self._idle.notify_all()

    def _settle(self, partition: Partition, result: Synced) -> None:
        result.settle()
        log = partition.log
        if log is None:
            return
        if log.failure is not None:
            self._metrics.sync_failures += 1
            self._failed(partition)
            return
        partition.advance()
        if log.is_dirty:
            self.request(partition)
