"""What a journal file is made of: records that tell a write cut short from damage.

A record is a header of 32 bytes and a payload, padded to a multiple of 32, so that no header lies across two
sectors of the disk:

    crc32c over the rest of the header and the record's position
    kind, flags, length of the payload, crc32c of payload and padding
    durable_end: everything before this position was durable when the record was written
    index

The file is only appended to, and what a start cuts off is gone for good before anything is written in its
place. So a crash leaves what was never synced as it was written, short, or with sectors of zeros: that is
*torn*, and cut. Anything else, and whatever lies below a `durable_end` that a sound record saw, was durable
once: it is *damaged*, and no start goes on from that by itself.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from crc32c import crc32c

SECTOR_BYTES: Final = 512
"""What a disk writes whole or not at all."""
HEADER: Final = struct.Struct(">IBBHIIQQ")
UNIT_BYTES: Final = HEADER.size
PAYLOAD_BYTES_MAX: Final = (1 << 20) + 4096
"""More than any command with what is around it: a header that says more is damaged."""
_POSITION: Final = struct.Struct(">Q")
_PADDING: Final = b"\xa5" * UNIT_BYTES
"""Not zeros: those stand for what was never written."""
_ZEROS: Final = bytes(SECTOR_BYTES)

assert SECTOR_BYTES % UNIT_BYTES == 0, "no header lies across two sectors"


class JournalDamaged(Exception):
    """What was durable once is not what was written, or is gone. Nothing in the directory was changed."""


class Kind(enum.IntEnum):
    """What a record says. Never 0, which is what was never written."""

    BASE = 1
    """The first record of a file: what came before it."""
    ENTRY = 2
    TRUNCATE = 3
    """Entries from this index on are gone."""
    TERM = 4
    COMMIT = 5
    """Entries through this index are committed."""
    CLOSED = 6
    """All before it was synced, and nobody has the file open."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it was read. `position` is where it begins."""

    kind: Kind
    flags: int
    index: int
    payload: bytes
    position: int
    durable_end: int


@dataclass(frozen=True, slots=True)
class Draft:
    """A record that has no position yet."""

    kind: Kind
    index: int = 0
    payload: bytes = b""
    flags: int = 0


class Scan(NamedTuple):
    """A file as far as it is sound. `torn` says why there is more, None if there is not."""

    records: list[Record]
    end: int
    torn: str | None


def pack(draft: Draft, position: int, durable_end: int) -> bytes:
    """The record as it stands at `position`, a multiple of 32 as is its length."""
    payload = draft.payload
    assert position % UNIT_BYTES == 0, "records are aligned"
    assert len(payload) <= PAYLOAD_BYTES_MAX, "bounded where commands are encoded"
    body = payload + _PADDING[: -len(payload) % UNIT_BYTES]
    header = HEADER.pack(0, draft.kind, draft.flags, 0, len(payload), crc32c(body), durable_end, draft.index)
    return _header_crc(header, position).to_bytes(4, "big") + header[4:] + body


def _header_crc(header: bytes, position: int) -> int:
    return crc32c(header[4:] + _POSITION.pack(position))


class _Bad(Exception):
    """No sound record begins here. `is_torn`: this could be a write that was cut short."""

    def __init__(self, reason: str, *, is_torn: bool) -> None:
        super().__init__(reason)
        self.is_torn = is_torn


def scan(data: bytes) -> Scan:
    """Every record up to where the file is torn, if it is. Raises JournalDamaged."""
    records: list[Record] = []
    position = durable_end = 0
    torn = None
    while position < len(data):
        try:
            record = _read(data, position)
        except _Bad as bad:
            if not bad.is_torn:
                raise JournalDamaged(f"{bad} at byte {position}") from None
            durable_end = max(durable_end, *_later_claims(data, position), 0)
            torn = str(bad)
            break
        records.append(record)
        durable_end = max(durable_end, record.durable_end)
        position += _extent(len(record.payload))
    if position < durable_end:
        raise JournalDamaged(
            f"{torn or 'the file ends'} at byte {position}; it was durable up to {durable_end}"
        )
    return Scan(records, position, torn)


def _extent(payload_bytes: int) -> int:
    return UNIT_BYTES + payload_bytes + -payload_bytes % UNIT_BYTES


def _read(data: bytes, position: int) -> Record:
    header = data[position : position + UNIT_BYTES]
    if len(header) < UNIT_BYTES:
        raise _Bad("half a header", is_torn=True)
    crc, kind, flags, _, size, body_crc, durable_end, index = HEADER.unpack(header)
    if crc != _header_crc(header, position):
        never_written = header == _ZEROS[:UNIT_BYTES]
        raise _Bad("zeros" if never_written else "a header with a wrong checksum", is_torn=never_written)
    end = position + _extent(size)
    body = data[position + UNIT_BYTES : end]
    if end > len(data):
        raise _Bad("half a record", is_torn=True)
    if crc32c(body) != body_crc:
        is_torn = _has_empty_sector(data, position + UNIT_BYTES, end)
        raise _Bad("a record with a wrong checksum", is_torn=is_torn)
    return Record(Kind(kind), flags, index, body[:size], position, durable_end)


def _has_empty_sector(data: bytes, start: int, end: int) -> bool:
    """Whether a sector's share of these bytes is all zeros, as one that was never written is."""
    while start < end:
        stop = min(end, start - start % SECTOR_BYTES + SECTOR_BYTES)
        if data[start:stop] == _ZEROS[: stop - start]:
            return True
        start = stop
    return False


def _later_claims(data: bytes, position: int) -> Iterator[int]:
    """The durable ends that sound records past a bad one saw. What quotes a journal does not count: a
    record's checksum holds for its position alone.
    """
    for later in range(position + UNIT_BYTES, len(data) - UNIT_BYTES + 1, UNIT_BYTES):
        if data[later] | data[later + 1] | data[later + 2] | data[later + 3] == 0:
            continue  # for speed: nothing was written here, or one checksum in 2**32
        try:
            yield _read(data, later).durable_end
        except (_Bad, ValueError):
            continue
