"""One partition's log: append, read, truncate, trim, and what of it is durable.

A log belongs to one owner at a time (a loop, or whoever holds its lock); the one thing that may run
elsewhere is the blocking sync of a `PendingSync`. Its invariants:

    log_start <= durable_end <= log_end
    every segment but the last is sealed: synced before its successor existed
    what an answer called durable was confirmed by a sync that returned without error

Two things take it out of service for appends, while reads of what is sound go on: a failed sync
(`failure`, until `reopen`: rule 40) and proven corruption (`corruption`, for good: rule 15).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from millpond.wire.batch import Batch
from millpond.wire.errors import (
    CorruptBatch,
    OffsetOutOfRange,
    Outcome,
    RecordTooLarge,
    StorageFailed,
    StorageFull,
)
from millpond.wire.frame import FRAME_BYTES, pack_frame
from millpond.wire.header import CRC_START, BatchHeader
from millpond.wire.record import TopicPartition
from millpond_broker.core.retention import Retained, retained_from
from millpond_broker.storage.checkpoint import CheckpointFile, CleanClose
from millpond_broker.storage.files import BUFFERS_PER_WRITE_MAX, DISK_FULL, Buffer, File, Files
from millpond_broker.storage.recovery import Corruption, Recovery, recover
from millpond_broker.storage.scan import CHUNK_BYTES, StoredBatch, Unsound, first_at
from millpond_broker.storage.segment import APPEND_BYTES_MAX, RELATIVE_OFFSET_MAX, Segment
from millpond_broker.storage.segments import SegmentInfo, Segments
from millpond_broker.storage.sidecars import load_producers, save_epochs, save_producers

_READ_AHEAD_BYTES: Final = 8 << 10
"""Read beyond what was asked for: the way from an index entry to the batch that holds the offset."""


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """What a log needs to know of its topic and its broker."""

    segment_bytes: int = 64 << 20
    """A segment that would grow past this is sealed. Larger: fewer files; smaller: retention and recovery
    work in finer steps."""
    segment_ms: int | None = 7 * 24 * 3600 * 1000
    """A segment whose records would span more time than this is sealed, so that retention by time can
    drop old ones. None: unlimited."""
    retention_ms: int | None = None
    """Records older than this may go, a whole segment at a time. None: kept."""
    retention_bytes: int | None = None
    """Oldest segments may go while the rest holds at least this. None: kept."""
    index_interval_bytes: int = 4096
    """An index entry every so many bytes: what a look-up scans at most, against memory for entries."""
    sealed_segments_open_max: int = 8
    """Sealed segments that keep file and indexes open after a read: descriptors and memory against
    opening again."""


class Appended(NamedTuple):
    """Offsets given to one append; `next_offset` is exclusive. Nothing is durable yet."""

    base_offset: int
    next_offset: int


class PendingSync(NamedTuple):
    """One log's part of a group commit: what `file.sync()` makes durable. Give it back to the log, once,
    with `confirm` or `sync_failed`.
    """

    log: Log
    file: File
    generation: int
    next_offset: int


class Log:
    """A partition's log in one directory. See the module for its rules."""

    def __init__(self, files: Files, directory: Path, partition: TopicPartition, options: LogOptions) -> None:
        """Start in `directory`, which exists. Use `open`, which makes it and gives errors their names."""
        found = recover(files, directory, options.index_interval_bytes)
        self.directory = directory
        self.partition = partition
        self.options = options
        self.recovery: Recovery = found.report
        # Exclusive end of what a sync confirmed: log_start <= durable_end <= log_end. Moved on by `confirm`
        # and `_sync`, back by a cut alone.
        self.durable_end = found.durable_end
        # Why no appends are taken, if so: set by a failed sync, write or cut, ended by `reopen` alone. While
        # it is set, nothing past durable_end is served.
        self.failure: StorageFailed | None = None
        # From where on the log is proven damaged, if it is; for good, and remembered over a restart. Nothing
        # at or past it is served, and no appends are taken (rule 15).
        self.corruption: Corruption | None = found.report.corruption
        # Grows with every cut; a sync begun before one says nothing after it (rule 41).
        self.generation = 0
        # The log end right after the last cut: of what was appended before it, just what lies below was kept.
        self.generation_start = 0
        self.epochs = found.epochs
        self.producers = found.producers
        self._files = files
        self._segments = Segments(
            files,
            directory,
            found.segments,
            index_interval_bytes=options.index_interval_bytes,
            open_max=options.sealed_segments_open_max,
        )
        self._checkpoint = CheckpointFile(files, directory, found.checkpoint)
        self._check()

    @classmethod
    def open(cls, files: Files, directory: Path, partition: TopicPartition, options: LogOptions) -> Log:
        """Start the log in `directory`, made if missing; see `recovery` for what a crash left behind.

        Everything below the log end is durable when it returns. Raises UnsupportedFormat, StorageFull,
        StorageFailed, and CorruptBatch for a log that cannot even be started up to its damage.
        """
        try:
            if not files.exists(directory):
                files.make_directory(directory)
                files.sync_directory(directory.parent)
            return cls(files, directory, partition, options)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise StorageFull(path=str(directory)) from error
            raise StorageFailed(path=str(directory), reason=str(error)) from error

    # --- where it stands ------------------------------------------------------------------------------

    @property
    def log_start(self) -> int:
        """First offset that may be read."""
        return self._checkpoint.current.log_start

    @property
    def log_end(self) -> int:
        """The offset that the next record gets."""
        return self._segments.last.next_offset

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments."""
        return self._segments.size_bytes

    @property
    def is_dirty(self) -> bool:
        """Whether a sync would confirm anything."""
        return self.durable_end < self.log_end and self.failure is None

    def segments(self) -> list[SegmentInfo]:
        """The segments, oldest first."""
        return self._segments.infos()

    def _check(self) -> None:
        assert self.durable_end <= self.log_end, "what is durable was appended"
        if self.corruption is None:
            assert self.log_start <= self.durable_end, "trimming stays below what is durable"

    # --- append ---------------------------------------------------------------------------------------

    def append(self, batches: Sequence[Batch], leader_epoch: int) -> Appended:
        """Place the batches at the log end, in one write, under `leader_epoch`.

        The caller has validated them. All or none: StorageFull says that none is in the log, now or after
        a crash. Raises StorageFailed while a failed disk keeps the log from appends, CorruptBatch when it
        is corrupt. Durable once a sync confirmed `next_offset`.
        """
        self.check_writable()
        added_bytes = sum(FRAME_BYTES + batch.header.size_bytes for batch in batches)
        if added_bytes > APPEND_BYTES_MAX:
            raise RecordTooLarge(size_bytes=added_bytes, limit_bytes=APPEND_BYTES_MAX)
        self._prepare(batches, added_bytes, leader_epoch)
        offset = base_offset = self.log_end
        headers: list[BatchHeader] = []
        buffers: list[Buffer] = []
        for batch in batches:
            header = batch.header._replace(base_offset=offset, leader_epoch=leader_epoch)
            packed = header.pack()
            frame = pack_frame(packed, self.durable_end, offset)
            buffers += (frame + packed[:CRC_START], memoryview(batch.data)[CRC_START:])
            headers.append(header)
            offset = header.next_offset
        self._write(buffers, added_bytes)
        last = self._segments.last
        try:
            for header in headers:
                last.note(header)
                self.producers.observe(header)
        except BaseException as error:  # half counted: out of service, and cut by `reopen`; re-raised
            self._fail(OSError(errno.EINTR, f"interrupted in an append: {error!r}"))
            raise
        self._check()
        return Appended(base_offset, offset)

    def _prepare(self, batches: Sequence[Batch], added_bytes: int, leader_epoch: int) -> None:
        """What has to be on disk before an append. An error says that its batches are not written."""
        try:
            with self._failing_safely():
                self._checkpoint.mark_in_use()
                self._roll_if_due(added_bytes, batches)
                if self.epochs.latest is None or leader_epoch > self.epochs.latest:
                    self._begin_epoch(leader_epoch)
        except StorageFailed as error:
            raise StorageFailed(path=error.path, reason=error.reason, outcome=Outcome.NOT_WRITTEN) from error

    def _write(self, buffers: list[Buffer], added_bytes: int) -> None:
        """All of it at the end of the last segment, or nothing."""
        segment = self._segments.last
        written = 0
        try:
            for at in range(0, len(buffers), BUFFERS_PER_WRITE_MAX):
                chunk = buffers[at : at + BUFFERS_PER_WRITE_MAX]
                due = sum(map(len, chunk))
                done = segment.file.write_at(segment.size_bytes + written, chunk)
                written += done
                if done < due:
                    break
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise self._fail(error) from error
        if written < added_bytes:
            # The answer is "not written", so the bytes must not come back after a crash: cut and sync.
            try:
                segment.file.truncate(segment.size_bytes)
            except OSError as error:
                raise self._fail(error) from error
            self._sync(segment)
            raise StorageFull(path=str(self.directory))

    def _roll_if_due(self, added_bytes: int, batches: Sequence[Batch]) -> None:
        segment = self._segments.last
        if not segment.size_bytes:
            return
        records = sum(batch.header.last_offset_delta + 1 for batch in batches)
        latest = max(batch.header.max_timestamp for batch in batches)
        segment_ms = self.options.segment_ms
        first = self._segments.first_timestamp_of_last() if segment_ms is not None else None
        if (
            segment.size_bytes + added_bytes > self.options.segment_bytes
            or segment.next_offset + records - segment.base_offset > RELATIVE_OFFSET_MAX
            or (segment_ms is not None and first is not None and latest - first > segment_ms)
        ):
            self._roll()

    def _roll(self) -> None:
        """Seal the last segment and start another. Raises OSError; the log then goes on in the old one."""
        sealed = self._segments.last
        self._sync(sealed)
        sealed.flush_indexes()
        latest = sealed.max_timestamp()
        if latest is not None:
            self.producers.expire(latest)
        save_producers(self._files, self.directory, self.producers, self.log_end)
        self._checkpoint.save(durable_end=self.durable_end)
        self._segments.add()

    def _begin_epoch(self, leader_epoch: int) -> None:
        """Rule 1: on record before a batch of it is. An entry for nothing is cut at the next start."""
        entries = [*self.epochs.entries(), (leader_epoch, self.log_end)]
        epochs = type(self.epochs)(entries)
        save_epochs(self._files, self.directory, epochs)
        self.epochs = epochs

    # --- durability -----------------------------------------------------------------------------------

    def begin_sync(self) -> PendingSync | None:
        """What a sync would confirm now; None if nothing. Every one is answered by `confirm` or
        `sync_failed`, in the order they were begun.
        """
        if not self.is_dirty:
            return None
        return PendingSync(self, self._segments.lend_last(), self.generation, self.log_end)

    def confirm(self, pending: PendingSync) -> None:
        """`pending.file.sync()` returned: everything it covered is durable, unless it was cut since."""
        self._segments.give_back()
        if pending.generation == self.generation and self.failure is None:
            self.durable_end = max(self.durable_end, pending.next_offset)
        self._check()

    def sync_failed(self, pending: PendingSync, error: OSError) -> None:
        """`pending.file.sync()` raised: nothing it covered may ever be called durable (rule 40).

        Of whatever generation it was: pages that it lost may lie below a cut made since.
        """
        self._fail(error)
        self._segments.give_back()

    def abandon_syncs(self, error: OSError) -> None:
        """Whoever ran the syncs was interrupted and will answer none: as `sync_failed` for each begun."""
        if self._segments.give_back_all():
            self._fail(error)

    def reopen(self) -> None:
        """After a failed sync: cut to the last confirmed end and go on (rule 40).

        What is cut was never called durable. Not for a log whose answers did not wait for a sync. Raises
        StorageFailed or StorageFull when the disk fails again; the log stays out of service then.
        """
        assert self.failure is not None, "there is something to recover from"
        self._segments.retire_all()
        self.failure = None
        self._cut_to(self.durable_end)

    # --- read -----------------------------------------------------------------------------------------

    def read(self, offset: int, bytes_max: int, below: int) -> list[StoredBatch]:
        """Whole batches from the one that holds `offset`, up to `bytes_max` but at least one, none that
        begins at or past `below` (exclusive). Empty when there is nothing to read at `offset` yet.

        Every batch was verified. Raises OffsetOutOfRange, CorruptBatch when the batch at `offset` is not
        sound (later ones end the answer), StorageFailed when the disk cannot be read.
        """
        if self.corruption is not None and offset >= self.corruption.offset:
            raise self._corrupt(self.corruption)
        if not self.log_start <= offset <= self.log_end:
            raise OffsetOutOfRange(
                topic=self.partition.topic,
                partition=self.partition.partition,
                offset=offset,
                log_start=self.log_start,
                log_end=self.log_end,
            )
        batches: list[StoredBatch] = []
        if self.failure is not None:
            below = min(below, self.durable_end)  # past it the disk may show anything
        if offset >= min(below, self.log_end):
            return batches
        size_bytes = 0
        for stored in self._batches_from(offset, bytes_max + _READ_AHEAD_BYTES):
            header = stored.batch.header
            size_bytes += header.size_bytes
            if header.base_offset >= below or (batches and size_bytes > bytes_max):
                break
            batches.append(stored)
            if header.next_offset >= below or size_bytes >= bytes_max:
                break  # without a look at the next: it may not be synced yet, and it is work
        if not batches and self.corruption is not None and offset >= self.corruption.offset:
            raise self._corrupt(self.corruption)
        return batches

    def _batches_from(self, offset: int, chunk_bytes: int) -> Iterator[StoredBatch]:
        """Sound batches from the one that holds `offset`, up to where the log is sound."""
        try:
            for stored in self._segments.batches_from(offset, chunk_bytes):
                if self._is_past_corruption(stored):
                    return
                yield stored
        except Unsound as found:
            self._note_unsound(found)
        except OSError as error:
            raise StorageFailed(path=str(self.directory), reason=str(error)) from error

    def _is_past_corruption(self, stored: StoredBatch) -> bool:
        return self.corruption is not None and stored.batch.header.next_offset > self.corruption.offset

    def find_time(self, timestamp: int, below: int | None = None) -> tuple[int, int] | None:
        """(offset, timestamp) of the first record at or after `timestamp` (ms); None if there is none
        before offset `below` (None: the log end), which is what a reader may see.

        Unpacks two batches at most. Raises CorruptBatch, also for a batch that lies under a sound checksum;
        UnsupportedFormat for a compression that is not installed; StorageFailed.
        """
        end = self.log_end if self.failure is None else self.durable_end
        below = end if below is None else min(below, end)
        try:
            for stored in self._segments.batches_at_time(timestamp, self.log_start):
                if self._is_past_corruption(stored):
                    break
                header = stored.batch.header
                if header.base_offset >= below:
                    return None
                found = first_at(stored.batch, timestamp, self.log_start)
                if found is not None:
                    return found if found[0] < below else None
                if header.base_offset >= self.log_start:
                    # Nobody unpacks a batch before it is appended. To go on would be to unpack one after
                    # another, as many as a liar has sent.
                    raise CorruptBatch(
                        reason=f"no record is as late as the {header.max_timestamp} ms of its header",
                        offset=header.base_offset,
                    )
                if header.next_offset >= below:
                    return None
        except Unsound as found:
            self._note_unsound(found)
        except OSError as error:
            raise StorageFailed(path=str(self.directory), reason=str(error)) from error
        if self.corruption is not None:  # what is not sound may hide it
            raise self._corrupt(self.corruption)
        return None

    # --- shortening -----------------------------------------------------------------------------------

    def truncate(self, offset: int) -> int:
        """Drop every batch that reaches past `offset`; the new log end, which may lie before it, but not
        before the log start.

        Durable when it returns (rule 41). Syncs that were begun before say nothing afterwards. Raises
        StorageFailed, StorageFull; the log is out of service then, until `reopen` finishes the cut.
        """
        assert offset >= self.log_start, "below the log start there is nothing to keep"
        self.check_writable()
        if offset < self.log_end:
            first = next(self._batches_from(offset, CHUNK_BYTES), None)
            if self.corruption is not None:
                raise self._corrupt(self.corruption)
            self._cut_to(self.log_end if first is None else first.batch.header.base_offset)
        return self.log_end

    def _cut_to(self, end: int) -> None:
        """Cut at `end`, where a batch begins or the log ends. A cut that fails half-way leaves the log out
        of service, because what is still there of the rest would come back beside what is appended.
        """
        try:
            self._cut_or_fail(end)
        except BaseException as error:  # whatever stopped it; re-raised
            if self.failure is None:
                self._fail(OSError(errno.EIO, f"the cut at {end} is unfinished: {error}"))
            raise
        self._check()

    def _cut_or_fail(self, end: int) -> None:
        with self._failing_safely():
            self.generation += 1
            # Nothing is left when the cut is at the log start, nor of a batch that reaches across both.
            keep_none = end <= self.log_start
            end = max(end, self.log_start)
            self.durable_end = min(self.durable_end, end)
            self.generation_start = end
            self._checkpoint.save(durable_end=min(self._checkpoint.current.durable_end, end))
            self._segments.cut(end, keep_none=keep_none)
            self.epochs.cut_from(self.log_end)
            save_epochs(self._files, self.directory, self.epochs)
            self.producers = load_producers(self._files, self.directory, self._segments.as_list())

    def trim(self, log_start: int) -> None:
        """Forget records below `log_start`, which is at most the durable end; whole segments are unlinked.

        The new start is durable before any name goes, so that a start never finds records missing.
        Raises StorageFailed, StorageFull.
        """
        assert log_start <= self.durable_end, "what is not durable yet cannot be trimmed"
        log_start = max(log_start, self.log_start)
        if log_start == self.log_start and not self._segments.has_dead(log_start):
            return
        self.check_writable()
        with self._failing_safely():
            if log_start > self.log_start:
                self._checkpoint.save(log_start=log_start, durable_end=self.durable_end)
            self._segments.drop_dead(log_start)
            if self.epochs.cut_before(log_start):
                save_epochs(self._files, self.directory, self.epochs)

    def retain(self, now_ms: int, below: int) -> None:
        """Trim what the topic's retention says may go, below offset `below` (the high watermark): rule 35.

        The last segment is sealed if all of it is too old: after the others went, because sealing takes
        room, which a full disk may get from them only. Raises as `trim`.
        """
        options = self.options
        if options.retention_ms is None and options.retention_bytes is None:
            return
        self.check_writable()
        self._trim_sealed(now_ms, below)
        last = self._segments.last
        with self._failing_safely():
            latest = self._segments.max_timestamp(last)
            if (
                options.retention_ms is None
                or latest is None
                or now_ms - latest <= options.retention_ms
                or last.next_offset > below
            ):
                return
            self._checkpoint.mark_in_use()
            self._roll()
        self._trim_sealed(now_ms, below)

    def _trim_sealed(self, now_ms: int, below: int) -> None:
        with self._failing_safely():
            sealed = (
                Retained(segment.next_offset, segment.size_bytes, self._segments.max_timestamp(segment))
                for segment in self._segments.sealed
            )
            start = retained_from(
                sealed,
                self.log_start,
                size_bytes=self.size_bytes,
                now_ms=now_ms,
                retention_ms=self.options.retention_ms,
                retention_bytes=self.options.retention_bytes,
                below=below,
            )
        self.trim(start)

    # --- end ------------------------------------------------------------------------------------------

    def close(self, broker_epoch: int) -> None:
        """Make everything durable and say so, under `broker_epoch`: the next start believes it, unread.

        A log that is corrupt or failed is closed without saying so. Raises StorageFailed, StorageFull;
        the files are closed all the same, and the next start verifies.
        """
        assert not self._segments.is_lent, "syncs are answered before a log is closed"
        said = self._checkpoint.current.clean
        try:
            if (
                self.failure is None
                and self.corruption is None
                and (said is None or said.broker_epoch != broker_epoch)
            ):
                with self._failing_safely():
                    last = self._segments.last
                    self._sync(last)
                    last.flush_indexes()
                    save_producers(self._files, self.directory, self.producers, self.log_end)
                    clean = CleanClose(broker_epoch, last.base_offset, last.size_bytes)
                    self._checkpoint.save(durable_end=self.durable_end, clean=clean)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the files and say nothing, as a crash would."""
        self._segments.close()

    # --- trouble --------------------------------------------------------------------------------------

    def check_writable(self) -> None:
        """Raise what keeps the log from changes, if anything: CorruptBatch, StorageFailed (not written)."""
        if self.corruption is not None:
            raise self._corrupt(self.corruption)
        if self.failure is not None:
            raise StorageFailed(
                path=self.failure.path, reason=self.failure.reason, outcome=Outcome.NOT_WRITTEN
            )

    def _corrupt(self, corruption: Corruption) -> CorruptBatch:
        topic, partition = self.partition
        return CorruptBatch(reason=f"{topic}-{partition}: {corruption.reason}", offset=corruption.offset)

    def _note_unsound(self, found: Unsound) -> None:
        """Found while running. Below the durable end it is corruption, and remembered, so that the next
        start looks there first (rule 15). Past it, unsynced bytes are gone: a write failed in the
        background, and StorageFailed is raised.
        """
        if found.offset >= self.durable_end:
            raise self._fail(OSError(errno.EIO, f"unsynced bytes are gone {found}"))
        if self.corruption is None or found.offset < self.corruption.offset:
            self.corruption = Corruption(found.offset, found.reason)
            with suppress(OSError):  # the memory is a courtesy: whoever reads there next finds it again
                self._checkpoint.save(corrupt_at=found.offset)

    def _fail(self, error: OSError) -> StorageFailed:
        """Out of service for appends until reopened. An error to raise: another than the one that is kept,
        because a traceback grows with every raise.
        """
        self.failure = StorageFailed(path=str(self.directory), reason=str(error))
        return copy(self.failure)

    @contextmanager
    def _failing_safely(self) -> Iterator[None]:
        """A full disk is the caller's to retry; any other error of the disk takes the log out of service."""
        try:
            yield
        except Unsound as found:
            self._note_unsound(found)
            raise self._corrupt(Corruption(found.offset, found.reason)) from None
        except OSError as error:
            if error.errno in DISK_FULL:
                raise StorageFull(path=str(self.directory)) from error
            raise self._fail(error) from error

    def _sync(self, segment: Segment) -> None:
        """Sync on the owner's own time: everything appended is durable when it returns."""
        try:
            segment.file.sync()
        except OSError as error:  # of any kind: a full disk that shows here has lost pages all the same
            raise self._fail(error) from error
        self.durable_end = self.log_end
