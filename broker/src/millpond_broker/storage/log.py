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
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from millpond.wire.batch import Batch
from millpond.wire.errors import (
    Outcome,
    RecordTooLarge,
    StorageFailed,
    StorageFull,
    UnsupportedFormat,
)
from millpond.wire.frame import FRAME_BYTES, pack_frame
from millpond.wire.header import CRC_START, BatchHeader
from millpond.wire.record import TopicPartition
from millpond_broker.core.epochs import LeaderEpochs
from millpond_broker.core.producers import Producers
from millpond_broker.core.replication import Position
from millpond_broker.core.retention import retained_from
from millpond_broker.storage.checkpoint import CheckpointFile, CleanClose
from millpond_broker.storage.files import DISK_FULL, Buffer, File, Files
from millpond_broker.storage.health import Health
from millpond_broker.storage.options import LogOptions
from millpond_broker.storage.reading import Framed, LogReader, Readable
from millpond_broker.storage.recovery import Corruption, Recovery, recover
from millpond_broker.storage.replica import PushedBatches
from millpond_broker.storage.scan import StoredBatch
from millpond_broker.storage.segment import APPEND_BYTES_MAX, RELATIVE_OFFSET_MAX, Segment
from millpond_broker.storage.segments import SegmentInfo, Segments
from millpond_broker.storage.sidecars import (
    forget_all,
    load_producers,
    save_epochs,
    save_producers,
    with_epochs,
)

__all__ = ["Appended", "Log", "LogOptions", "PendingSync"]


class Appended(NamedTuple):
    """Offsets given to one append; `next_offset` is exclusive. Nothing is durable yet."""

    base_offset: int
    next_offset: int


class PendingSync(NamedTuple):
    """One log's part of a group commit: what `file.sync()` makes durable. Give it back to the log, once."""

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
        # The leader epoch of the last batch in the log, and never what the cache of epochs says (rule 4).
        # None: there is no batch.
        self.last_epoch = found.report.last_epoch
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
            may_have_gaps=found.checkpoint.may_have_gaps,
        )
        self._checkpoint = CheckpointFile(files, directory, found.checkpoint)
        self._health = Health(partition, directory, self._checkpoint, lambda: self.durable_end)
        self._health.corruption = found.report.corruption
        self._reader = LogReader(self._segments, self._health, self._readable)
        # As it was told, below the durable end at that time; what is cut is taken off it.
        self._noted_high_watermark = found.checkpoint.high_watermark
        # Where a restart was to begin that failed half-way: `reopen` has to finish it.
        self._restarting_at: int | None = None
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
    def first_offset(self) -> int:
        """Where the batches begin that are still there: at or before the log start."""
        return min(self._segments.first_offset, self.log_start)

    @property
    def log_end(self) -> int:
        """The offset that the next record gets."""
        return self._segments.last.next_offset

    @property
    def failure(self) -> StorageFailed | None:
        """Why no appends are taken, if so: set by a failed sync, write or cut, ended by `reopen`. While it is
        set, nothing past durable_end is served.
        """
        return self._health.failure

    @property
    def corruption(self) -> Corruption | None:
        """From where on the log is proven damaged, if it is; for good, and remembered over a restart. Nothing
        at or past it is served, and no appends are taken (rule 15). Only `restart_at` ends it.
        """
        return self._health.corruption

    def position(self) -> Position:
        """Where the log is, for whoever replicates it. What is corrupt in front of its log start is said to
        end there.
        """
        start = self.log_start
        return Position(start, max(start, self.log_end), max(start, self.durable_end), self.last_epoch)

    @property
    def high_watermark(self) -> int:
        """What was known here to be committed, as of the last `note_high_watermark`, or of the checkpoint
        after a start: log_start <= high_watermark <= durable_end, unless the log is corrupt (rule 7).
        """
        return max(self.log_start, min(self._noted_high_watermark, self.durable_end))

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

    def note_high_watermark(self, offset: int) -> None:
        """What is committed, as far as this replica may say (rule 7). On record by `checkpoint` at last."""
        self._noted_high_watermark = min(offset, self.durable_end)

    def loss_is_told(self) -> None:
        """What starts have cut was told (rule 15). Raises StorageFailed, StorageFull."""
        if self._checkpoint.current.has_lost:
            with self._health.safely():
                self._checkpoint.save(has_lost=False)

    def checkpoint(self) -> None:
        """Write down the high watermark and the durable end, if the first has moved since they were. Nothing
        rests on when. Two syncs. Raises StorageFailed, StorageFull.
        """
        if self.failure is not None or self.corruption is not None:
            return
        if self.high_watermark != self._checkpoint.current.high_watermark:
            with self._health.safely():
                self._save_checkpoint()

    def _save_checkpoint(self, *, log_start: int | None = None, clean: CleanClose | None = None) -> None:
        self._checkpoint.save(
            log_start=log_start,
            durable_end=self.durable_end,
            high_watermark=self.high_watermark,
            clean=clean,
        )

    # --- append ---------------------------------------------------------------------------------------

    def append(self, batches: Sequence[Batch], leader_epoch: int) -> Appended:
        """Place the batches at the log end, in one write, under `leader_epoch`.

        The caller has validated them. All or none: StorageFull says that none is in the log, now or after
        a crash. Raises StorageFailed while a failed disk keeps the log from appends, CorruptBatch when it
        is corrupt. Durable once a sync confirmed `next_offset`.
        """
        self.check_writable()
        added_bytes = sum(FRAME_BYTES + batch.header.size_bytes for batch in batches)
        offset = base_offset = self.log_end
        headers: list[BatchHeader] = []
        for batch in batches:
            header = batch.header._replace(base_offset=offset, leader_epoch=leader_epoch)
            headers.append(header)
            offset = header.next_offset
        self._prepare(headers, added_bytes)
        buffers: list[Buffer] = []
        for header, batch in zip(headers, batches, strict=True):
            packed = header.pack()
            frame = pack_frame(packed, self.durable_end, header.base_offset)
            buffers += (frame + packed[:CRC_START], memoryview(batch.data)[CRC_START:])
        self._put(headers, buffers, added_bytes)
        return Appended(base_offset, offset)

    def append_replica(self, pushed: PushedBatches) -> Appended:
        """Place a leader's batches at the log end as they are, in one write: offsets, leader epochs and the
        gaps that compaction left in front of them stay. Whether they belong there is `core.follower`'s to say
        before: they begin at or past the log end, and their epochs do not go back.

        All or none, and raises, as `append`; UnsupportedFormat for a gap that no segment can hold.
        """
        self.check_writable()
        base_offset, next_offset, first_epoch, _ = pushed.bounds
        assert base_offset >= self.log_end, "what is there already is not overwritten"
        assert self.last_epoch is None or first_epoch >= self.last_epoch, "epochs do not go back in a log"
        if next_offset - self.log_end > RELATIVE_OFFSET_MAX:
            raise UnsupportedFormat(what=f"offsets from {self.log_end} to {next_offset} in one segment")
        has_gaps = pushed.has_gaps or base_offset > self.log_end
        self._prepare(pushed.headers, pushed.size_bytes, has_gaps=has_gaps)
        self._put(pushed.headers, pushed.framed(self.durable_end), pushed.size_bytes)
        return Appended(base_offset, next_offset)

    def _prepare(self, headers: Sequence[BatchHeader], added_bytes: int, *, has_gaps: bool = False) -> None:
        """What has to be on disk before an append. An error says that its batches are not written."""
        if added_bytes > APPEND_BYTES_MAX:
            raise RecordTooLarge(size_bytes=added_bytes, limit_bytes=APPEND_BYTES_MAX)
        try:
            with self._health.safely():
                self._checkpoint.mark_in_use()
                if self._segments.is_due(headers, added_bytes, self.options):
                    self._roll()
                self._begin_epochs(headers)
                if has_gaps and not self._segments.may_have_gaps:
                    self._checkpoint.save(may_have_gaps=True)
                    self._segments.may_have_gaps = True
        except StorageFailed as error:
            raise StorageFailed(path=error.path, reason=error.reason, outcome=Outcome.NOT_WRITTEN) from error

    def _begin_epochs(self, headers: Sequence[BatchHeader]) -> None:
        """Rule 1: on record before a batch of it is. An entry for nothing is cut at the next start, and by
        the next append that is not of it.
        """
        if headers[-1].leader_epoch == self.last_epoch == self.epochs.latest:
            return
        epochs = with_epochs(self.epochs, self.log_end, headers)
        if epochs.entries() != self.epochs.entries():
            save_epochs(self._files, self.directory, epochs)
            self.epochs = epochs

    def _put(self, headers: Sequence[BatchHeader], buffers: Sequence[Buffer], added_bytes: int) -> None:
        """Write the batches, all or none, and account for them."""
        self._write(buffers, added_bytes)
        last = self._segments.last
        try:
            for header in headers:
                last.note(header)
                self.producers.observe(header)
            self.last_epoch = headers[-1].leader_epoch
        except BaseException as error:  # half counted: out of service, and cut by `reopen`; re-raised
            self._health.fail(OSError(errno.EINTR, f"interrupted in an append: {error!r}"))
            raise
        self._check()

    def _write(self, buffers: Sequence[Buffer], added_bytes: int) -> None:
        """All of it at the end of the last segment, or nothing."""
        segment = self._segments.last
        written = 0
        try:
            written = segment.write(buffers)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise self._health.fail(error) from error
        if written < added_bytes:
            # The answer is "not written", so the bytes must not come back after a crash: cut and sync.
            try:
                segment.file.truncate(segment.size_bytes)
            except OSError as error:
                raise self._health.fail(error) from error
            self._sync(segment)
            raise StorageFull(path=str(self.directory))

    def _roll(self) -> None:
        """Seal the last segment and start another. Raises OSError; the log then goes on in the old one."""
        sealed = self._segments.last
        self._sync(sealed)
        sealed.flush_indexes()
        latest = sealed.max_timestamp()
        if latest is not None:
            self.producers.expire(latest)
        save_producers(self._files, self.directory, self.producers, self.log_end)
        self._save_checkpoint()
        self._segments.add()

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
        self._health.fail(error)
        self._segments.give_back()

    def abandon_syncs(self, error: OSError) -> None:
        """Whoever ran the syncs was interrupted and will answer none: as `sync_failed` for each begun."""
        if self._segments.give_back_all():
            self._health.fail(error)

    def reopen(self) -> None:
        """After a failed sync: cut to the last confirmed end and go on (rule 40).

        What is cut was never called durable. Not for a log whose answers did not wait for a sync. Raises
        StorageFailed or StorageFull when the disk fails again; the log stays out of service then.
        """
        assert self.failure is not None, "there is something to recover from"
        self._segments.retire_all()
        self._health.failure = None
        if self._restarting_at is not None:
            self.restart_at(self._restarting_at)
        else:
            self._cut_to(self.durable_end)

    # --- read -----------------------------------------------------------------------------------------

    def read(self, offset: int, bytes_max: int, below: int) -> list[StoredBatch]:
        """Whole batches from the one that holds `offset`, up to `bytes_max` but at least one, none that
        begins at or past `below` (exclusive). Empty when there is nothing to read at `offset` yet.

        Every batch was verified. Raises OffsetOutOfRange, CorruptBatch when the batch at `offset` is not
        sound (later ones end the answer), StorageFailed when the disk cannot be read.
        """
        return self._reader.read(offset, bytes_max, below)

    def read_framed(self, offset: int, bytes_max: int, below: int) -> Framed:
        """As `read`, for a push, and from `first_offset` on: the batches behind their frames in one object,
        and where they end; no bytes, and `offset`, when there is nothing. `bytes_max` counts the frames.
        Raises as `read`: what is cold is verified before it is pushed (rule 15).
        """
        return self._reader.read_framed(offset, bytes_max, below)

    def find_time(self, timestamp: int, below: int | None = None) -> tuple[int, int] | None:
        """(offset, timestamp) of the first record at or after `timestamp` (ms); None if there is none
        before offset `below` (None: the log end), which is what a reader may see.

        Unpacks two batches at most. Raises CorruptBatch, also for a batch that lies under a sound checksum;
        UnsupportedFormat for a compression that is not installed; StorageFailed.
        """
        return self._reader.find_time(timestamp, below)

    def _readable(self) -> Readable:
        # After a failure, what lies past the durable end may be anything.
        served_end = self.log_end if self.failure is None else self.durable_end
        return Readable(self.first_offset, self.log_start, self.log_end, served_end)

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
            with self._health.safely():
                end = self._segments.end_of_cut(offset)
            self._cut_to(end)
        return self.log_end

    def _cut_to(self, end: int) -> None:
        """Cut at `end`, where a batch ends, or nothing is left. A cut that fails half-way leaves the log out
        of service, because what is still there of the rest would come back beside what is appended.
        """
        try:
            self._cut_or_fail(end)
        except BaseException as error:  # whatever stopped it; re-raised
            if self.failure is None:
                self._health.fail(OSError(errno.EIO, f"the cut at {end} is unfinished: {error}"))
            raise
        self._check()

    def _cut_or_fail(self, end: int) -> None:
        with self._health.safely():
            self.generation += 1
            # Nothing is left when the cut is at the log start, nor of a batch that reaches across both.
            keep_none = end <= self.log_start
            end = max(end, self.log_start)
            self.durable_end = min(self.durable_end, end)
            self.generation_start = end
            self._noted_high_watermark = min(self._noted_high_watermark, end)
            stored = self._checkpoint.current
            self._checkpoint.save(
                durable_end=min(stored.durable_end, end), high_watermark=min(stored.high_watermark, end)
            )
            self._segments.cut(end, keep_none=keep_none)
            self.epochs.cut_from(self.log_end)
            save_epochs(self._files, self.directory, self.epochs)
            self.producers = load_producers(self._files, self.directory, self._segments.as_list())
            self.last_epoch = self._segments.last_epoch()

    def restart_at(self, offset: int) -> None:
        """Drop everything and start empty at `offset`, wherever that is: also when the log is corrupt, which
        ends with it (rule 15: after the metadata has let go), or out of service.

        Durable when it returns. A crash before that leaves a log that was cut, or is empty, or is this one:
        the checkpoint is lowered first, then segments go from the last down, what tells of their batches
        after them, and the new start is on record when nothing of the old is left (rule 41). Raises
        StorageFailed, StorageFull; the log is out of service then, until `reopen` finishes it.
        """
        self._restarting_at = offset
        try:
            self._restart_or_fail(offset)
        except BaseException as error:  # whatever stopped it; re-raised
            if self.failure is None:
                self._health.fail(OSError(errno.EIO, f"the restart at {offset} is unfinished: {error}"))
            raise
        self._restarting_at = None
        self._health.failure = self._health.corruption = None
        self._check()

    def _restart_or_fail(self, offset: int) -> None:
        with self._health.safely():
            self.generation += 1
            start = self.log_start
            self.generation_start = min(start, offset)
            self.durable_end = self._noted_high_watermark = start
            # Where corruption is on record, it stays so until its bytes are gone.
            self._checkpoint.save(durable_end=start, high_watermark=start)
            self._segments.empty(start)
            self.epochs, self.producers, self.last_epoch = LeaderEpochs(), Producers(), None
            forget_all(self._files, self.directory)
            self._checkpoint.begin_anew(offset)
            self.durable_end = self._noted_high_watermark = offset
            self._segments.begin(offset)
            self._segments.may_have_gaps = False

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
        with self._health.safely():
            if log_start > self.log_start:
                self._save_checkpoint(log_start=log_start)
            self._segments.drop_dead(log_start)
            if not self.size_bytes:
                self.last_epoch = None  # the last batch went with the others, as a start would find it
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
        with self._health.safely():
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
        with self._health.safely():
            start = retained_from(
                self._segments.retained(),
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
        stored = self._checkpoint.current
        is_said = stored.clean is not None and stored.clean.broker_epoch == broker_epoch
        try:
            if (
                self.failure is None
                and self.corruption is None
                and not (is_said and stored.high_watermark == self.high_watermark)
            ):
                with self._health.safely():
                    last = self._segments.last
                    self._sync(last)
                    last.flush_indexes()
                    save_producers(self._files, self.directory, self.producers, self.log_end)
                    clean = CleanClose(broker_epoch, last.base_offset, last.size_bytes, self.last_epoch)
                    self._save_checkpoint(clean=clean)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the files and say nothing, as a crash would."""
        self._segments.close()

    # --- trouble --------------------------------------------------------------------------------------

    def check_writable(self) -> None:
        """Raise what keeps the log from changes, if anything: CorruptBatch, StorageFailed (not written)."""
        self._health.check_writable()

    def _sync(self, segment: Segment) -> None:
        """Sync on the owner's own time: everything appended is durable when it returns."""
        try:
            segment.file.sync()
        except OSError as error:  # of any kind: a full disk that shows here has lost pages all the same
            raise self._health.fail(error) from error
        self.durable_end = self.log_end
