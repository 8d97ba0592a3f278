"""Whether a log takes changes, and why not: a disk that failed (rule 40), damage that was found (rule 15)."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path

from millpond.wire.errors import CorruptBatch, Outcome, StorageFailed, StorageFull
from millpond.wire.record import TopicPartition
from millpond_broker.storage.checkpoint import CheckpointFile
from millpond_broker.storage.files import DISK_FULL
from millpond_broker.storage.recovery import Corruption
from millpond_broker.storage.scan import Unsound


class Health:
    """Of one log. Both are None while it is well.

    `failure` is set by a failed sync, write or cut, and ends when the log was reopened; `corruption` is from
    where on the log is proven damaged, and ends with the log (`Log.restart_at`).
    """

    def __init__(
        self,
        partition: TopicPartition,
        directory: Path,
        checkpoint: CheckpointFile,
        durable_end: Callable[[], int],
    ) -> None:
        self.failure: StorageFailed | None = None
        self.corruption: Corruption | None = None
        self.partition = partition
        self.directory = directory
        self._checkpoint = checkpoint
        self._durable_end = durable_end

    def check_writable(self) -> None:
        """Raise what keeps the log from changes, if anything: CorruptBatch, StorageFailed (not written)."""
        if self.corruption is not None:
            raise self.corrupt(self.corruption)
        if self.failure is not None:
            raise StorageFailed(
                path=self.failure.path, reason=self.failure.reason, outcome=Outcome.NOT_WRITTEN
            )

    def check_readable(self, offset: int) -> None:
        """Raise CorruptBatch if the log is known to be damaged at `offset` or before it."""
        if self.corruption is not None and offset >= self.corruption.offset:
            raise self.corrupt(self.corruption)

    def covers(self, next_offset: int) -> bool:
        """Whether all that lies below `next_offset` may be sound, as far as is known."""
        return self.corruption is None or next_offset <= self.corruption.offset

    def corrupt(self, corruption: Corruption) -> CorruptBatch:
        """The error to raise of it."""
        topic, partition = self.partition
        return CorruptBatch(reason=f"{topic}-{partition}: {corruption.reason}", offset=corruption.offset)

    def fail(self, error: OSError) -> StorageFailed:
        """Out of service for changes until reopened. An error to raise: another than the one that is kept,
        because a traceback grows with every raise.
        """
        self.failure = StorageFailed(path=str(self.directory), reason=str(error))
        return copy(self.failure)

    def note_unsound(self, found: Unsound) -> None:
        """Found while running. Below the durable end it is corruption, and remembered, so that the next
        start looks there first (rule 15). Past it, unsynced bytes are gone: a write failed in the
        background, and StorageFailed is raised.
        """
        if found.offset >= self._durable_end():
            raise self.fail(OSError(errno.EIO, f"unsynced bytes are gone {found}"))
        if self.corruption is None or found.offset < self.corruption.offset:
            self.corruption = Corruption(found.offset, found.reason)
            with suppress(OSError):  # the memory is a courtesy: whoever reads there next finds it again
                self._checkpoint.save(corrupt_at=found.offset)

    @contextmanager
    def safely(self) -> Iterator[None]:
        """A full disk is the caller's to retry; any other error of the disk takes the log out of service."""
        try:
            yield
        except Unsound as found:
            self.note_unsound(found)
            raise self.corrupt(Corruption(found.offset, found.reason)) from None
        except OSError as error:
            if error.errno in DISK_FULL:
                raise StorageFull(path=str(self.directory)) from error
            raise self.fail(error) from error
