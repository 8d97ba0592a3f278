"""Reading stored batches in order, each one verified before anything is believed of it.

One generator serves reads, recovery, index rebuilds and look-ups by time, so that there is one place
where a byte from disk becomes a batch.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final, NamedTuple

from crc32c import crc32c

from millpond.wire.batch import Batch, decode_times
from millpond.wire.errors import CorruptBatch, UnsupportedFormat
from millpond.wire.frame import FRAME_BYTES, PREFIX_BYTES, Frame, check_frame
from millpond.wire.header import (
    CRC_START,
    HEADER_BYTES,
    LENGTH_END,
    MAGIC_COLUMNS,
    check_header,
    parse_header,
)
from millpond_broker.storage.files import File

CHUNK_BYTES: Final = 1 << 20
"""Read at a time when scanning: large enough that a system call costs nothing, small enough to hold."""
_STORED_MIN: Final = FRAME_BYTES + HEADER_BYTES


class StoredBatch(NamedTuple):
    """A sound batch and where it stands. `framed`, the batch behind its frame as it is stored, is a view of
    the chunk it was read in, and `batch.data` is a view of that.
    """

    position: int
    frame: Frame
    batch: Batch
    framed: memoryview

    @property
    def end_position(self) -> int:
        """Where the next one begins."""
        return self.position + FRAME_BYTES + self.batch.header.size_bytes


class BadBatch(Exception):
    """The bytes at `position` are no sound batch."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"at byte {position}: {reason}")
        self.position = position
        self.reason = reason


class Unsound(Exception):
    """From `offset` on, a log is not sound; what lies before it is."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"at offset {offset}: {reason}")
        self.offset = offset
        self.reason = reason


def scan(file: File, position: int, end: int, chunk_bytes: int = CHUNK_BYTES) -> Iterator[StoredBatch]:
    """The batches from `position` to `end`, each vouched for by both checksums.

    Raises BadBatch at the first that is not sound, UnsupportedFormat at one that is sound but from the
    future, OSError when the disk does. A chunk is read at a time; a larger batch is read whole, once its
    frame vouches for its length.
    """
    chunk, origin = b"", position
    while position < end:
        at = position - origin
        if len(chunk) - at < _STORED_MIN:
            wanted = min(max(chunk_bytes, _STORED_MIN), end - position)
            chunk, origin, at = file.read_at(position, wanted), position, 0
        try:
            frame = check_frame(chunk, at)
            header = parse_header(chunk, at + FRAME_BYTES)
        except CorruptBatch as error:
            raise BadBatch(position, error.reason) from None
        if header.magic == MAGIC_COLUMNS and header.batch_length < HEADER_BYTES - LENGTH_END:
            raise BadBatch(position, f"length {header.batch_length}")
        stored_bytes = FRAME_BYTES + header.size_bytes
        if position + stored_bytes > end:
            raise BadBatch(position, f"{stored_bytes} bytes run past the end")
        if at + stored_bytes > len(chunk):
            wanted = min(max(chunk_bytes, stored_bytes), end - position)
            chunk, origin, at = file.read_at(position, wanted), position, 0
        framed = memoryview(chunk)[at : at + stored_bytes]
        data = framed[FRAME_BYTES:]
        if crc32c(data[CRC_START:]) != header.crc:
            raise BadBatch(position, "checksum")
        try:
            check_header(header)
        except CorruptBatch as error:
            raise BadBatch(position, error.reason) from None
        yield StoredBatch(position, frame, Batch(header, data), framed)
        position += stored_bytes


_MAGIC_AT: Final = PREFIX_BYTES - 5  # the magic byte stands in front of the 4-byte checksum of the batch
_MAGIC: Final = re.compile(b"[%c]" % MAGIC_COLUMNS)


def behind(file: File, position: int) -> int:
    """Where the batch after the bad one at `position` would begin, if its own frame vouches for its
    length; else the next byte.
    """
    chunk = file.read_at(position, _STORED_MIN)
    if not _is_frame(chunk, 0) or len(chunk) < _STORED_MIN:
        return position + 1
    return position + FRAME_BYTES + parse_header(chunk, FRAME_BYTES).size_bytes


def sound_frame_saw(file: File, position: int, end: int, offset: int) -> bool:
    """Whether a sound batch somewhere in [position, end) knew a durable end past `offset`.

    If so, the bad batch at `offset` was durable once. The search looks at every byte: a payload that quotes
    a log may mislead it, towards keeping bytes, where the frame of the bad batch is bad too (`behind`).
    """
    while position < end:
        chunk = file.read_at(position, min(CHUNK_BYTES, end - position))
        if len(chunk) < PREFIX_BYTES:
            return False
        for match in _MAGIC.finditer(chunk, _MAGIC_AT):
            start = match.start() - _MAGIC_AT
            if start + PREFIX_BYTES > len(chunk):
                break
            if _is_frame(chunk, start) and _saw(file, position + start, end, offset):
                return True
        position += len(chunk) - PREFIX_BYTES + 1
    return False


def _is_frame(chunk: bytes, start: int) -> bool:
    try:
        check_frame(chunk, start)
    except CorruptBatch:
        return False
    return True


def _saw(file: File, position: int, end: int, offset: int) -> bool:
    try:
        stored = next(scan(file, position, end))
    except (BadBatch, UnsupportedFormat):
        return False
    base_offset = stored.batch.header.base_offset
    return base_offset > offset and stored.frame.durable_end(base_offset) > offset


def first_at(batch: Batch, timestamp: int, from_offset: int) -> tuple[int, int] | None:
    """(offset, timestamp) of the first record of a batch at or after both. Raises as `decode_times`."""
    try:
        timestamps, offsets = decode_times(batch)
    except CorruptBatch as error:
        raise CorruptBatch(reason=error.reason, offset=batch.header.base_offset) from None
    first = bisect_left(offsets, from_offset)
    for offset, at in zip(offsets[first:], timestamps[first:], strict=True):
        if at >= timestamp:
            return offset, at
    return None
