"""What is done to logs off the loop: opened, cut, emptied, deleted; a few of them at a time.

While a log is worked on its partition has none (`Partition.log` is None), so that nobody else touches it; no
sync of it runs then either.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from millpond.wire.errors import MillpondError
from millpond_broker.core.topic_config import TopicConfig
from millpond_broker.observe.logs import event
from millpond_broker.runtime.partition import Partition
from millpond_broker.runtime.ports import Blocking
from millpond_broker.runtime.syncer import Syncer
from millpond_broker.storage.directory import DataDirectory, remove_log, topic_id_of
from millpond_broker.storage.files import Files
from millpond_broker.storage.log import Log, LogOptions

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Open:
    """Start the log, which is made if need be."""

    options: LogOptions


@dataclass(frozen=True, slots=True)
class Reopen:
    """Go on after a failed sync, without what it left in doubt (rule 40)."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Drop what lies past the offset (rule 4)."""

    offset: int


@dataclass(frozen=True, slots=True)
class Empty:
    """Drop everything, and begin at the offset (rules 4 and 15)."""

    offset: int


@dataclass(frozen=True, slots=True)
class Delete:
    """The partition is not here any more."""


Work = Open | Reopen | Cut | Empty | Delete


def log_options(config: TopicConfig) -> LogOptions:
    """What of a topic's settings is its logs'."""
    return LogOptions(
        segment_bytes=config.segment_bytes,
        segment_ms=config.segment_ms,
        retention_ms=config.retention_ms,
        retention_bytes=config.retention_bytes,
    )


class LogWork:
    """See the module. `run` is its task; `done` hears of each piece of work, whatever became of it."""

    def __init__(
        self,
        files: Files,
        directory: DataDirectory,
        disk: Blocking,
        syncer: Syncer,
        done: Callable[[Partition, Work], None],
        *,
        at_once: int = 1,
    ) -> None:
        """`at_once`: pieces of work, as many as `disk` takes at a time."""
        self._files = files
        self._directory = directory
        self._disk = disk
        self._syncer = syncer
        self._done = done
        # One piece for each partition, in the order in which they were asked for.
        self._due: dict[Partition, Work] = {}
        # At most `at_once`.
        self._under_way: set[Partition] = set()
        self._at_once = at_once
        self._wake = asyncio.Event()

    def ask(self, partition: Partition, work: Work) -> None:
        """Do that, too. What was asked for the same partition before, and not begun, is not done."""
        if not isinstance(self._due.get(partition), Delete):
            self._due[partition] = work
            self._wake.set()

    def is_due(self, partition: Partition) -> bool:
        """Whether something is to be done to its log, or is being done."""
        return partition in self._under_way or partition in self._due

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._due and not self._under_way

    async def run(self) -> None:
        """Work until cancelled. What is under way then is ended."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._at_once):
                tasks.create_task(self._work(), name=f"log work {number}")

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            # What is due to a log that is worked on is done by whoever works on it.
            while (
                partition := next((one for one in self._due if one not in self._under_way), None)
            ) is not None:
                await self._do_one(partition, self._due.pop(partition))

    async def open_all(self, partitions: Iterable[Partition], options: LogOptions) -> None:
        """Start all these logs. Before `run`."""
        await self._each(partitions, lambda partition: self._do_one(partition, Open(options)))

    async def _each(
        self, partitions: Iterable[Partition], call: Callable[[Partition], Coroutine[None, None, None]]
    ) -> None:
        left = iter(partitions)

        async def some() -> None:
            for partition in left:
                await call(partition)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._at_once):
                tasks.create_task(some())

    async def _do_one(self, partition: Partition, work: Work) -> None:
        assert partition not in self._under_way, "of one log one after another"
        self._under_way.add(partition)
        try:
            await self._do(partition, work)
        except MillpondError as error:
            event(_log, logging.ERROR, "log_work_failed", log=str(partition.name), error=str(error))
            partition.fail(error)
        finally:
            self._under_way.discard(partition)
        if (log := partition.log) is not None and log.failure is None and log.is_dirty:
            # What was asked for was forgotten: without a next append, what is left would never be durable.
            self._syncer.request(partition)
        self._done(partition, work)

    async def _do(self, partition: Partition, work: Work) -> None:
        await self._syncer.forget(partition)
        log = partition.log
        if isinstance(work, Open):
            if log is None:
                await self._open(partition, work.options)
            return
        if isinstance(work, Delete):
            partition.log = None
            await self._delete(partition, log)
            return
        if log is None or (isinstance(work, Reopen) and log.failure is None):
            return  # it could not be opened; or it was asked for twice
        partition.log = None
        try:
            match work:
                case Reopen():
                    await self._disk.run(log.reopen)
                    event(_log, logging.WARNING, "log_reopened", log=str(partition.name), log_end=log.log_end)
                case Cut(offset):
                    await self._disk.run(lambda: log.truncate(offset))
                case Empty(offset):
                    await self._disk.run(lambda: log.restart_at(offset))
        finally:
            partition.log = log

    async def _open(self, partition: Partition, options: LogOptions) -> None:
        where, name = self._directory_of(partition), partition.name
        opened: list[Log] = []  # kept beside the answer: one that is cancelled is closed with the rest
        try:
            await self._disk.run(lambda: opened.append(Log.open(self._files, where, name, options)))
        finally:
            if opened:
                partition.opened(opened[0])
        report = opened[0].recovery
        if report.cut_bytes or report.corruption is not None:
            event(
                _log,
                logging.WARNING,
                "log_recovered",
                log=str(where),
                verified_bytes=report.verified_bytes,
                cut_bytes=report.cut_bytes,
                cut_offset=report.cut_offset,
                corruption=None if report.corruption is None else report.corruption.reason,
            )

    def _directory_of(self, partition: Partition) -> Path:
        return self._directory.log_directory(partition.name, partition.topic_id.hex())

    async def _delete(self, partition: Partition, log: Log | None) -> None:
        if log is not None:
            log.abandon()
        await self._remove(self._directory_of(partition))

    async def close_all(self, partitions: Mapping[Partition, int | None]) -> None:
        """Close their logs: durable, and said to be complete under that epoch; None: as they are. `run` is
        over.
        """
        await self._each(partitions, lambda partition: self._close(partition, partitions[partition]))

    async def _close(self, partition: Partition, broker_epoch: int | None) -> None:
        await self._syncer.forget(partition)
        log, partition.log = partition.log, None
        if log is None:
            return
        if broker_epoch is None:
            log.abandon()
            return
        try:
            await self._disk.run(lambda: log.close(broker_epoch))
        except MillpondError as error:
            event(_log, logging.ERROR, "log_not_closed", log=str(log.directory), error=str(error))

    async def remove_unknown(self, known: frozenset[str]) -> None:
        """Delete logs of other topics than these, by their ids in hex: deleting them was cut short."""
        for name in await self._disk.run(lambda: self._files.list(self._directory.partitions)):
            topic_id = topic_id_of(name)
            if topic_id is not None and topic_id not in known:
                await self._remove(self._directory.partitions / name)

    async def _remove(self, where: Path) -> None:
        try:
            if self._files.exists(where):
                await self._disk.run(lambda: remove_log(self._files, where))
        except OSError as error:
            # The topic is gone all the same, and the next start tries again.
            event(_log, logging.ERROR, "log_not_removed", log=str(where), error=str(error))
            return
        event(_log, logging.INFO, "log_removed", log=str(where))
