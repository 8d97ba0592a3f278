"""Reading one log: whole batches from an offset, and the first record of a time. Every batch was verified.

What may be read is the log's to say, at each call; damage that is met on the way is told to it (rule 15).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from millpond.wire.errors import CorruptBatch, OffsetOutOfRange, StorageFailed
from millpond.wire.frame import FRAME_BYTES
from millpond_broker.storage.health import Health
from millpond_broker.storage.scan import StoredBatch, Unsound, first_at
from millpond_broker.storage.segments import Segments

_READ_AHEAD_BYTES: Final = 8 << 10
"""Read beyond what was asked for: the way from an index entry to the batch that holds the offset."""


class Readable(NamedTuple):
    """log_start <= offset <= log_end may be asked for; what lies at or past `served_end` is not shown. Other
    replicas get what lies before the log start, too, from `first_offset` on.
    """

    first_offset: int
    log_start: int
    log_end: int
    served_end: int


class Framed(NamedTuple):
    """Whole batches, each behind its frame, as they lie on disk; `next_offset` is exclusive."""

    data: bytes
    next_offset: int


class LogReader:
    """See the module. `readable` is asked each time."""

    def __init__(
        self,
        segments: Segments,
        health: Health,
        readable: Callable[[], Readable],
    ) -> None:
        self._segments = segments
        self._health = health
        self._readable = readable

    def read(self, offset: int, bytes_max: int, below: int, *, framed: bool = False) -> list[StoredBatch]:
        """As `Log.read`; `framed`: as `Log.read_framed`."""
        self._health.check_readable(offset)
        first_offset, log_start, log_end, served_end = self._readable()
        if not (first_offset if framed else log_start) <= offset <= log_end:
            raise OffsetOutOfRange(
                topic=self._health.partition.topic,
                partition=self._health.partition.partition,
                offset=offset,
                log_start=log_start,
                log_end=log_end,
            )
        below = min(below, served_end)
        batches: list[StoredBatch] = []
        if offset >= below:
            return batches
        size_bytes, frame_bytes = 0, FRAME_BYTES if framed else 0
        for stored in self._batches_from(offset, bytes_max + _READ_AHEAD_BYTES):
            header = stored.batch.header
            size_bytes += header.size_bytes + frame_bytes
            if header.base_offset >= below or (batches and size_bytes > bytes_max):
                break
            batches.append(stored)
            if header.next_offset >= below or size_bytes >= bytes_max:
                break  # without a look at the next: it may not be synced yet, and it is work
        if not batches:
            self._health.check_readable(offset)
        return batches

    def read_framed(self, offset: int, bytes_max: int, below: int) -> Framed:
        """As `Log.read_framed`."""
        found = self.read(offset, bytes_max, below, framed=True)
        if not found:
            return Framed(b"", offset)
        return Framed(b"".join([stored.framed for stored in found]), found[-1].batch.header.next_offset)

    def _batches_from(self, offset: int, chunk_bytes: int) -> Iterator[StoredBatch]:
        """Sound batches from the one that holds `offset`, up to where the log is sound."""
        try:
            for stored in self._segments.batches_from(offset, chunk_bytes):
                if not self._health.covers(stored.batch.header.next_offset):
                    return
                yield stored
        except Unsound as found:
            self._health.note_unsound(found)
        except OSError as error:
            raise StorageFailed(path=str(self._health.directory), reason=str(error)) from error

    def find_time(self, timestamp: int, below: int | None) -> tuple[int, int] | None:
        """As `Log.find_time`."""
        _, log_start, _, end = self._readable()
        below = end if below is None else min(below, end)
        try:
            for stored in self._segments.batches_at_time(timestamp, log_start):
                header = stored.batch.header
                if not self._health.covers(header.next_offset):
                    break
                if header.base_offset >= below:
                    return None
                found = first_at(stored.batch, timestamp, log_start)
                if found is not None:
                    return found if found[0] < below else None
                if header.base_offset >= log_start:
                    # Nobody unpacks a batch before it is appended. To go on would be to unpack one after
                    # another, as many as a liar has sent.
                    raise CorruptBatch(
                        reason=f"no record is as late as the {header.max_timestamp} ms of its header",
                        offset=header.base_offset,
                    )
                if header.next_offset >= below:
                    return None
        except Unsound as unsound:
            self._health.note_unsound(unsound)
        except OSError as error:
            raise StorageFailed(path=str(self._health.directory), reason=str(error)) from error
        if self._health.corruption is not None:  # what is not sound may hide it
            raise self._health.corrupt(self._health.corruption)
        return None
