"""One segment of a log: a file of framed batches and its two sparse indexes.

Only the last segment of a log takes writes. Sealing a segment syncs it before its successor exists, so
that a batch in a sealed segment was durable once: a bad one there is corrupt, never torn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from millpond.wire.frame import FRAME_BYTES
from millpond.wire.header import BatchHeader
from millpond_broker.storage.files import BUFFERS_PER_WRITE_MAX, Buffer, FailsForGood, File, Files
from millpond_broker.storage.index import OFFSET_KEY, TIME_KEY, SparseIndex
from millpond_broker.storage.scan import CHUNK_BYTES, BadBatch, StoredBatch, Unsound, scan

LOG_SUFFIX: Final = ".log"
INDEX_SUFFIX: Final = ".index"
TIME_INDEX_SUFFIX: Final = ".timeindex"
_LOG_NAME: Final = re.compile(r"\d{20}" + re.escape(LOG_SUFFIX))
RELATIVE_OFFSET_MAX: Final = 2**31 - 1
"""Index entries hold offsets relative to the base, in 32 bits; a segment rolls before they run out."""
APPEND_BYTES_MAX: Final = 1 << 30
"""Positions are 32 bits in the index: the largest segment, 1 GiB, and one append more stay below."""


def segment_name(base_offset: int) -> str:
    """The file name without suffix: twenty digits, so that names sort like offsets."""
    return f"{base_offset:020d}"


def segment_bases(files: Files, directory: Path) -> dict[int, int]:
    """Base offsets of the segment files on disk, ascending, with the sizes of the files."""
    return dict(
        sorted(
            (int(name.removesuffix(LOG_SUFFIX)), size)
            for name, size in files.list(directory).items()
            if _LOG_NAME.fullmatch(name)
        )
    )


def follows(header: BatchHeader, end: int, *, gap_ok: bool) -> bool:
    """Whether a batch may stand behind those that end at offset `end`. Compaction leaves gaps."""
    return header.base_offset == end or (gap_ok and header.base_offset > end)


class Segment:
    """`size_bytes` is the length of the sound batches; `max_timestamp` the greatest in them, None: empty.

    `next_offset` is exclusive; of a sealed segment it is its successor's base. File and indexes are opened
    on first use and may be let go between uses (`release`), for a log can have many segments.
    """

    def __init__(
        self,
        files: Files,
        directory: Path,
        base_offset: int,
        *,
        size_bytes: int,
        next_offset: int,
        index_interval_bytes: int,
    ) -> None:
        self.base_offset = base_offset
        self.size_bytes = size_bytes
        self.next_offset = next_offset
        self.path = directory / (segment_name(base_offset) + LOG_SUFFIX)
        self._files = files
        self._index_interval_bytes = index_interval_bytes
        self._file: File | None = None
        self._first_timestamp: int | None = None
        self._set_indexes()

    @classmethod
    def planned(cls, files: Files, directory: Path, base_offset: int, index_interval_bytes: int) -> Segment:
        """An empty segment that is not on disk before `make`."""
        return cls(
            files,
            directory,
            base_offset,
            size_bytes=0,
            next_offset=base_offset,
            index_interval_bytes=index_interval_bytes,
        )

    def make(self) -> Segment:
        """Put an empty segment on disk, its name durable before anything can be appended (rule 41)."""
        self.remove_indexes()
        if self._files.exists(self.path):  # left by an attempt that failed
            self._files.unlink(self.path)
        self._file = FailsForGood(self._files.open(self.path, create=True))
        try:
            self._files.sync_directory(self.path.parent)
        except OSError:
            self.close()
            with suppress(OSError):  # an empty segment that stays does no harm; a start knows it
                self._files.unlink(self.path)
            raise
        self._indexed = True
        return self

    def _set_indexes(self) -> None:
        self._offsets = SparseIndex(OFFSET_KEY, self.base_offset)
        self._times = SparseIndex(TIME_KEY, self.base_offset)
        self._max_timestamp: int | None = None
        self._indexed = False

    @property
    def file(self) -> File:
        """The open file."""
        if self._file is None:
            self._file = FailsForGood(self._files.open(self.path))
        return self._file

    def first_timestamp(self) -> int | None:
        """Base timestamp of the first batch: what rolling by age counts from. None while empty."""
        if self._first_timestamp is None and self.size_bytes:
            self._first_timestamp = next(self.batches(chunk_bytes=1)).batch.header.base_timestamp
        return self._first_timestamp

    def release(self) -> None:
        """Let file and indexes go until the next use. Nothing is lost: a sealed segment is on disk."""
        self.close()
        latest = self._max_timestamp
        self._set_indexes()
        self._max_timestamp = latest

    def detach(self) -> File | None:
        """The open file, if there is one, to be closed by the caller; the segment opens another."""
        file, self._file = self._file, None
        return file

    def close(self) -> None:
        """Close the file, if it is open."""
        if (file := self.detach()) is not None:
            file.close()

    # --- growing ------------------------------------------------------------------------------------

    def note(self, header: BatchHeader) -> None:
        """Account for a sound batch at the end: size, next offset, indexes. Nothing is written."""
        assert self._indexed, "a segment that grows has its indexes"
        relative = header.base_offset - self.base_offset
        assert self.next_offset <= header.base_offset, "offsets only grow"
        assert relative <= RELATIVE_OFFSET_MAX, "the log rolls before"
        unindexed_bytes = self.size_bytes - self._offsets.last_value()
        if not len(self._offsets) or unindexed_bytes >= self._index_interval_bytes:
            self._offsets.add(relative, self.size_bytes)
            if self._max_timestamp is not None:
                self._times.add(self._max_timestamp, relative)
        if self._first_timestamp is None and not self.size_bytes:
            self._first_timestamp = header.base_timestamp
        if self._max_timestamp is None or header.max_timestamp > self._max_timestamp:
            self._max_timestamp = header.max_timestamp
        self.size_bytes += FRAME_BYTES + header.size_bytes
        self.next_offset = header.next_offset
        self._offsets.covered = self._times.covered = self.size_bytes

    def write(self, buffers: Sequence[Buffer]) -> int:
        """Write behind the last noted batch; how many bytes, fewer when the disk is full. Raises OSError."""
        written = 0
        for at in range(0, len(buffers), BUFFERS_PER_WRITE_MAX):
            chunk = buffers[at : at + BUFFERS_PER_WRITE_MAX]
            done = self.file.write_at(self.size_bytes + written, chunk)
            written += done
            if done < sum(map(len, chunk)):
                break
        return written

    def flush_indexes(self) -> None:
        """Write and sync what the index files lack, so that the next start need not scan. Raises OSError."""
        if self._max_timestamp is not None:
            self._times.add(self._max_timestamp, self.next_offset - self.base_offset)
        for index, path in self._index_files():
            file = self._files.open(path, create=not self._files.exists(path))
            try:
                index.flush(file)
                file.sync()
            finally:
                file.close()

    # --- reading ------------------------------------------------------------------------------------

    def batches(
        self, position: int = 0, chunk_bytes: int = CHUNK_BYTES, *, end: int | None = None
    ) -> Iterator[StoredBatch]:
        """Sound batches from `position` to the end of the segment, or to `end`, which a start passes that
        does not know the end yet. Raises BadBatch, OSError.
        """
        return scan(self.file, position, self.size_bytes if end is None else end, chunk_bytes)

    def entry_before(self, offset: int) -> tuple[int, int]:
        """(offset, position) at or before the batch that holds `offset`, as near as the index knows."""
        self.load_indexes()
        key, position = self._offsets.floor(max(0, offset - self.base_offset))
        return self.base_offset + key, position

    def batches_from(self, offset: int) -> Iterator[StoredBatch]:
        """Sound batches from the one that holds `offset`, or the first after it. Raises as `batches`."""
        for stored in self.batches(self.entry_before(offset)[1]):
            if stored.batch.header.next_offset > offset:
                yield stored

    def end_of_cut(self, offset: int) -> int:
        """Where the last batch ends that does not reach past `offset`; the base if there is none. Raises
        Unsound, OSError.
        """
        at, sound_end = offset, self.base_offset
        try:
            while True:
                sound_end, position = self.entry_before(at)
                at, end = sound_end - 1, None
                for stored in self.batches(position):
                    header = stored.batch.header
                    if not follows(header, sound_end, gap_ok=not stored.position == position > 0):
                        raise Unsound(sound_end, f"offset {header.base_offset} stands there")
                    if header.next_offset > offset:
                        break
                    end = sound_end = header.next_offset
                if end is not None or not position:
                    return self.base_offset if end is None else end
                # The entry is of the very batch that reaches past it: what is before that is by the entry
                # before that, and there is no third turn.
        except BadBatch as bad:
            raise Unsound(sound_end, str(bad)) from None

    def last_epoch(self) -> int | None:
        """The leader epoch of the last batch, None while there is none. Raises Unsound, OSError."""
        latest: int | None = None
        try:
            self.load_indexes()
            for stored in self.batches(self._offsets.last_value()):
                latest = stored.batch.header.leader_epoch
        except BadBatch as bad:
            raise Unsound(self.base_offset, str(bad)) from None
        return latest

    def offset_before_time(self, timestamp: int) -> int:
        """An offset before which every record is older than `timestamp`, as near as the index knows:
        rule 36's floor, from which to look on.
        """
        self.load_indexes()
        return self.base_offset + self._times.below(timestamp)

    def max_timestamp(self) -> int | None:
        """The greatest timestamp of the segment, None while it is empty."""
        if self._max_timestamp is None and self.size_bytes:
            self.load_indexes()
        return self._max_timestamp

    # --- indexes are caches -------------------------------------------------------------------------

    def load_indexes(self) -> None:
        """Have indexes that cover the whole segment: from their files, or from the batches on any doubt."""
        if self._indexed:
            return
        self._read_index_files()
        if self._offsets.covered == self._times.covered == self.size_bytes:
            self._max_timestamp = self._times.last_key()
            self._indexed = True
        else:
            self._rebuild_indexes()

    def _rebuild_indexes(self) -> None:
        """Make both indexes anew from the batches. Raises BadBatch at the first that is not sound."""
        size_bytes, next_offset = self.size_bytes, self.next_offset
        self.restart()
        try:
            for stored in scan(self.file, 0, size_bytes):
                if stored.batch.header.base_offset < self.next_offset:
                    raise BadBatch(stored.position, f"offset {stored.batch.header.base_offset} again")
                self.note(stored.batch.header)
        except BadBatch:
            self._set_indexes()
            raise
        finally:
            self.size_bytes, self.next_offset = size_bytes, next_offset
        with suppress(OSError):  # an index is a cache: a later use makes it again
            self.flush_indexes()

    def restart(self) -> None:
        """Forget every batch, in memory: the caller notes them again, from the first."""
        self._set_indexes()
        self._first_timestamp = None
        self.size_bytes = 0
        self.next_offset = self.base_offset
        self._indexed = True

    def resume(self, checkpoint: int) -> None:
        """Forget every batch but those that the index files place before `checkpoint`, as near to it as
        they know; the caller notes the rest again. For a start after a crash.
        """
        self.restart()
        self._read_index_files()
        if self._offsets.covered != self._times.covered:
            self.restart()  # one of them lost its end: what they say of the same batch need not agree
            return
        self._cut_indexes(self._offsets.floor(checkpoint - self.base_offset)[1])

    def _cut_indexes(self, position: int) -> None:
        """Keep what the indexes say of the batches before `position`, which is the value of an entry."""
        self._offsets.keep_values_up_to(position, position)
        self._times.keep_values_up_to(self._offsets.last_key() or 0, position)
        self.size_bytes = position
        self.next_offset = self.base_offset + (self._offsets.last_key() or 0)
        self._max_timestamp = self._times.last_key()

    def cut(self, end: int) -> None:
        """Drop the batches from offset `end` on, which is where a batch begins or the last one ends.
        Durable when it returns (rule 41): index files first, since what they say past the cut would
        mislead a later start. Reads nothing past the cut, where a failed disk may show anything.
        """
        position = self._position_of(end)
        self.remove_indexes()
        self._files.sync_directory(self.path.parent)
        self.file.truncate(position)
        _, indexed_to = self._offsets.floor(end - self.base_offset - 1)
        self._cut_indexes(indexed_to)
        for stored in scan(self.file, indexed_to, position):
            self.note(stored.batch.header)
        if not self.size_bytes:
            self._first_timestamp = None
        self.file.sync()

    def _position_of(self, end: int) -> int:
        """Where offset `end`, a boundary, stands. Raises Unsound if damage lies before it, OSError."""
        offset = self.base_offset
        try:
            offset, position = self.entry_before(end)
            if offset == end:
                return position
            for stored in self.batches(position):
                if stored.batch.header.base_offset >= end:
                    return stored.position
                offset = stored.batch.header.next_offset
                assert offset <= end, "a cut is where a batch begins or ends"
                if offset == end:
                    return stored.end_position
        except BadBatch as bad:
            raise Unsound(offset, str(bad)) from None
        return self.size_bytes

    def discard_rest(self) -> None:
        """Cut the file behind the last noted batch. Durable when it returns, in the order `cut` keeps."""
        self.remove_indexes()
        self._files.sync_directory(self.path.parent)
        self.file.truncate(self.size_bytes)
        self.file.sync()

    def remove(self) -> None:
        """Unlink the segment. Durable after the directory is synced, which is the caller's to order."""
        self.close()
        self.remove_indexes()
        self._files.unlink(self.path)

    def remove_indexes(self) -> None:
        """Unlink the index files, where they exist."""
        for index, path in self._index_files():
            index.forget_file()
            if self._files.exists(path):
                self._files.unlink(path)

    def _read_index_files(self) -> None:
        for index, path in self._index_files():
            if self._files.exists(path):
                file = self._files.open(path)
                try:
                    index.load(file)
                finally:
                    file.close()

    def _index_files(self) -> tuple[tuple[SparseIndex, Path], tuple[SparseIndex, Path]]:
        return (
            (self._offsets, self.path.with_suffix(INDEX_SUFFIX)),
            (self._times, self.path.with_suffix(TIME_INDEX_SUFFIX)),
        )
