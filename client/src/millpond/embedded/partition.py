"""One partition of an embedded queue: a log, and the lock that says who owns it just now."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final, NamedTuple

from millpond.wire.batch import Batch, decode_batch
from millpond.wire.errors import CorruptBatch, Outcome, StorageFailed
from millpond.wire.record import Record
from millpond_broker.storage.log import Log

LEADER_EPOCH: Final = 0
"""A log without replicas has one leader for good."""

RawRecord = Record[bytes | None, bytes | None]


class Ticket(NamedTuple):
    """An append, and what has to become durable for it: `next_offset`, in the log's `generation`."""

    partition: Partition
    generation: int
    base_offset: int
    next_offset: int


class Partition:
    """A log that threads take turns with: `lock` is held for every use of it, never during a sync."""

    def __init__(self, log: Log, *, waits_for_sync: bool) -> None:
        self.log = log
        self.lock = threading.Lock()
        self.waits_for_sync = waits_for_sync

    @property
    def readable_end(self) -> int:
        """Offset before which consumers may read: what will survive, under this queue's flush setting.
        After a failed sync nothing past the last good one can be relied on.
        """
        log = self.log
        return log.durable_end if self.waits_for_sync or log.failure is not None else log.log_end

    def bounds(self) -> tuple[int, int]:
        """(log start, log end) as they are between two uses of the log: within one they may not agree."""
        with self.lock:
            return self.log.log_start, self.log.log_end

    def check_takes_appends(self) -> None:
        """Raise CorruptBatch or StorageFailed, as an append would. After a failed sync the disk is given
        another chance first: what was never confirmed is cut, and the log goes on (rule 40).
        """
        with self.lock:
            self._back_in_service()

    def _back_in_service(self) -> None:
        if self.log.failure is not None and self.waits_for_sync:
            try:
                self.log.reopen()
            except StorageFailed as error:
                raise StorageFailed(
                    path=error.path, reason=error.reason, outcome=Outcome.NOT_WRITTEN
                ) from error
        self.log.check_writable()

    def append(self, batches: Sequence[Batch]) -> Ticket:
        """Append; the caller waits for the ticket. Raises as `Log.append`."""
        with self.lock:
            self._back_in_service()
            appended = self.log.append(batches, LEADER_EPOCH)
            return Ticket(self, self.log.generation, *appended)

    def read(self, offset: int, bytes_max: int) -> list[RawRecord]:
        """Records from `offset` on, a few batches of them; empty at the readable end. Raises as
        `Log.read`, and CorruptBatch for a batch whose checksum holds and whose columns do not.
        """
        with self.lock:
            stored = self.log.read(offset, bytes_max, self.readable_end)
        topic, number = self.log.partition
        records: list[RawRecord] = []
        for item in stored:
            try:
                records += decode_batch(item.batch).records(topic, number)
            except CorruptBatch as error:
                if records:
                    break  # these first: the next read begins at the bad one
                base_offset = item.batch.header.base_offset
                reason = f"{topic}-{number}: {error.reason}"
                raise CorruptBatch(reason=reason, offset=base_offset) from error
        if records and records[0].offset < offset:
            records = [record for record in records if record.offset >= offset]
        return records
