"""The segments of one log: which there are, reading across them, and which of them are open.

`log` decides when to seal, cut and drop; this holds the list in step with the directory. Descriptors are
looked after here too: few sealed segments keep theirs, and none is closed while another thread syncs it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from millpond.wire.header import BatchHeader
from millpond_broker.core.retention import Retained
from millpond_broker.storage.files import File, Files
from millpond_broker.storage.options import LogOptions
from millpond_broker.storage.scan import CHUNK_BYTES, BadBatch, StoredBatch, Unsound
from millpond_broker.storage.segment import RELATIVE_OFFSET_MAX, Segment, follows, segment_bases


class SegmentInfo(NamedTuple):
    """One segment, for metrics and tools."""

    base_offset: int
    next_offset: int
    size_bytes: int


class Segments:
    """At least one segment, in order, each beginning where the one before it ends; only the last takes
    appends. So a segment that is missing is known by that. Gaps that compaction left lie inside segments, in
    front of any of their batches.

    `_recently_read`: sealed segments whose file and indexes are open, the latest last; at most `open_max`.
    `_lent`: how many syncs of other threads may be using a descriptor. `_retired`: descriptors to close
    once that is none.
    """

    def __init__(
        self,
        files: Files,
        directory: Path,
        segments: Sequence[Segment],
        *,
        index_interval_bytes: int,
        open_max: int,
        may_have_gaps: bool,
    ) -> None:
        # Whether compaction may have left gaps. If not, one is damage: a hole must not look like compaction.
        self.may_have_gaps = may_have_gaps
        self._files = files
        self._directory = directory
        self._list = list(segments)
        self._index_interval_bytes = index_interval_bytes
        self._open_max = open_max
        self._recently_read: list[Segment] = []
        self._lent = 0
        self._retired: list[File] = []

    @property
    def last(self) -> Segment:
        """Where appends go."""
        return self._list[-1]

    @property
    def sealed(self) -> list[Segment]:
        """All but the last, oldest first."""
        return self._list[:-1]

    @property
    def first_offset(self) -> int:
        """Where the oldest begins."""
        return self._list[0].base_offset

    def as_list(self) -> list[Segment]:
        """All of them, oldest first."""
        return list(self._list)

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size_bytes for segment in self._list)

    def infos(self) -> list[SegmentInfo]:
        """What they are, oldest first."""
        return [
            SegmentInfo(segment.base_offset, segment.next_offset, segment.size_bytes)
            for segment in self._list
        ]

    # --- reading --------------------------------------------------------------------------------------

    def batches_from(self, offset: int, chunk_bytes: int = CHUNK_BYTES) -> Iterator[StoredBatch]:
        """Sound batches from the one that holds `offset` to the end. Raises Unsound where one is not, or
        is missing; OSError.
        """
        first = bisect_right(self._list, offset, key=lambda segment: segment.base_offset) - 1
        for segment in self._list[max(0, first) :]:
            sound_end, position = segment.base_offset, 0
            try:
                with suppress(BadBatch):  # no index can be made: from the beginning, as far as it is sound
                    sound_end, position = segment.entry_before(offset)
                for stored in segment.batches(position, chunk_bytes):
                    header = stored.batch.header
                    # The batch that an index entry speaks of begins where the entry says, or is another one.
                    gap_ok = self.may_have_gaps and not stored.position == position > 0
                    if not follows(header, sound_end, gap_ok=gap_ok):
                        raise Unsound(sound_end, f"offset {header.base_offset} stands there")
                    sound_end = header.next_offset
                    if sound_end > offset:
                        yield stored
            except BadBatch as bad:
                raise Unsound(sound_end, str(bad)) from None
            finally:
                self._note_read(segment)
            if sound_end != segment.next_offset:
                raise Unsound(
                    sound_end, f"{segment.path.name} ends there, and the next begins at {segment.next_offset}"
                )

    def batches_at_time(self, timestamp: int, log_start: int) -> Iterator[StoredBatch]:
        """Sound batches with a record of `timestamp` (ms) or later, in order, from `log_start` on (rule
        36). Raises as `batches_from`.
        """
        for segment in self.as_list():
            latest = self.max_timestamp(segment)
            if latest is None or latest < timestamp or segment.next_offset <= log_start:
                continue
            for stored in self.batches_from(max(log_start, segment.offset_before_time(timestamp))):
                if stored.batch.header.max_timestamp >= timestamp:
                    yield stored
            return

    def end_of_cut(self, offset: int) -> int:
        """Where the log ends once every batch that reaches past `offset` is gone: at `offset`, or before it.
        Raises Unsound, OSError.
        """
        at = bisect_right(self._list, offset, key=lambda segment: segment.base_offset) - 1
        segment = self._list[max(0, at)]
        try:
            return segment.end_of_cut(offset)
        finally:
            self._note_read(segment)

    def last_epoch(self) -> int | None:
        """The leader epoch of the last batch in the log, None if there is none. Raises Unsound, OSError."""
        segment = next((segment for segment in reversed(self._list) if segment.size_bytes), None)
        if segment is None:
            return None
        try:
            return segment.last_epoch()
        finally:
            self._note_read(segment)

    def is_due(self, headers: Sequence[BatchHeader], added_bytes: int, options: LogOptions) -> bool:
        """Whether the last segment is to be sealed before these batches. Raises Unsound, OSError."""
        segment = self.last
        if not segment.size_bytes:
            return False
        if (
            segment.size_bytes + added_bytes > options.segment_bytes
            or headers[-1].next_offset - segment.base_offset > RELATIVE_OFFSET_MAX
        ):
            return True
        if options.segment_ms is None:
            return False
        first = self.first_timestamp_of_last()
        return first is not None and max(at.max_timestamp for at in headers) - first > options.segment_ms

    def retained(self) -> Iterator[Retained]:
        """What retention goes by, of each sealed segment, oldest first. Raises Unsound, OSError."""
        for segment in self.sealed:
            yield Retained(segment.next_offset, segment.size_bytes, self.max_timestamp(segment))

    def max_timestamp(self, segment: Segment) -> int | None:
        """The greatest timestamp of a segment, None while it is empty. Raises Unsound, OSError."""
        try:
            return segment.max_timestamp()
        except BadBatch as bad:
            raise Unsound(segment.base_offset, str(bad)) from None
        finally:
            self._note_read(segment)

    def first_timestamp_of_last(self) -> int | None:
        """Where the last segment begins in time, None while it is empty. Raises Unsound, OSError."""
        try:
            return self.last.first_timestamp()
        except BadBatch as bad:
            raise Unsound(self.last.base_offset, str(bad)) from None

    # --- changing -------------------------------------------------------------------------------------

    def add(self) -> None:
        """A new last segment; the one before it is sealed, which the caller has synced. Durable when it
        returns. Raises OSError, and nothing has changed then.
        """
        sealed = self.last
        self._list.append(self._planned(sealed.next_offset).make())
        self._note_read(sealed)

    def cut(self, end: int, *, keep_none: bool) -> None:
        """Drop what lies at or past offset `end`, a boundary of batches; with `keep_none` everything, to
        begin anew at `end`. Durable when it returns, each step before the next (rule 41). Raises OSError;
        what is on disk may then be more than what is held, until a cut succeeds.
        """
        kept = [] if keep_none else [segment for segment in self._list if segment.base_offset < end]
        self._drop_behind(kept, end)
        if not kept:
            self.last.make()
        self.last.cut(end)

    def empty(self, offset: int) -> None:
        """Drop everything. Durable when it returns, and a start finds a log that was cut, at any step. The
        one segment that is left, to begin at `offset`, is not on disk. Raises OSError, as `cut`.
        """
        self._drop_behind([], offset)

    def begin(self, offset: int) -> None:
        """After `empty`: have an empty segment at `offset`. Durable when it returns. Raises OSError."""
        assert not self.size_bytes, "nothing is left"
        self._list = [self._planned(offset)]
        self.last.make()

    def _drop_behind(self, kept: list[Segment], end: int) -> None:
        # By name, because an earlier cut or roll may have failed and left some that we do not hold.
        held = {segment.base_offset: segment for segment in self._list}
        doomed = [
            held.get(base) or self._planned(base)
            for base in segment_bases(self._files, self._directory)
            if not kept or base > kept[-1].base_offset
        ]
        self._list = kept or [self._planned(end)]
        for segment in doomed:
            self._retire(segment)
        for segment in reversed(doomed):
            self._drop(segment)
            # One by one from the end: a hole must never look like compaction.
            self._files.sync_directory(self._directory)
        if self.last in self._recently_read:
            self._recently_read.remove(self.last)

    def has_dead(self, log_start: int) -> bool:
        """Whether a segment lies wholly below `log_start`. The last one never counts."""
        return len(self._list) > 1 and self._list[0].next_offset <= log_start

    def drop_dead(self, log_start: int) -> None:
        """Unlink the segments that lie wholly below `log_start`, which is durable. A crash may leave any of
        them, and the next start unlinks those. Raises OSError.
        """
        while self.has_dead(log_start):
            self._drop(self._list.pop(0))
        self._files.sync_directory(self._directory)

    def _planned(self, base_offset: int) -> Segment:
        return Segment.planned(self._files, self._directory, base_offset, self._index_interval_bytes)

    def _drop(self, segment: Segment) -> None:
        if segment in self._recently_read:
            self._recently_read.remove(segment)
        self._retire(segment)
        segment.remove()

    # --- descriptors ----------------------------------------------------------------------------------

    def lend_last(self) -> File:
        """The last segment's file, for another thread to sync. Until it is given back, no descriptor is
        closed: its number could be another file's by then.
        """
        self._lent += 1
        return self.last.file

    def give_back(self) -> None:
        """One sync is over."""
        self._lent -= 1
        if not self._lent:
            self._close_retired()

    def give_back_all(self) -> bool:
        """Every sync is over, as far as will ever be known; whether there was any."""
        was_lent = bool(self._lent)
        self._lent = 0
        self._close_retired()
        return was_lent

    @property
    def is_lent(self) -> bool:
        """Whether another thread may be syncing."""
        return bool(self._lent)

    def retire_all(self) -> None:
        """Descriptors from before a failed sync are done with: a sync through one may report the failure
        again, or success for pages that are gone.
        """
        for segment in self._list:
            self._retire(segment)

    def close(self) -> None:
        """Close every file."""
        for segment in self._list:
            segment.close()
        self._close_retired()

    def _note_read(self, segment: Segment) -> None:
        """Keep the most recently read sealed segments open, and only so many."""
        if segment is self.last:
            return
        if segment in self._recently_read:
            self._recently_read.remove(segment)
        self._recently_read.append(segment)
        if len(self._recently_read) > self._open_max:
            idle = self._recently_read.pop(0)
            self._retire(idle)
            idle.release()

    def _retire(self, segment: Segment) -> None:
        file = segment.detach()
        if file is None:
            return
        if self._lent:
            self._retired.append(file)
        else:
            file.close()

    def _close_retired(self) -> None:
        for file in self._retired:
            file.close()
        self._retired.clear()
