"""The 61-byte batch header: the layout of Kafka's RecordBatch v2, with a magic and attributes of our own.

Its checksum covers byte 21 to the end, so that a leader sets base offset and leader epoch (which stand
before it) without reading the batch again. A header is parsed once, here, and passed on.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from millpond.wire.compression import Codec
from millpond.wire.errors import CorruptBatch, UnsupportedFormat

_LAYOUT: Final = struct.Struct(">qiibIHiqqqhii")

HEADER_BYTES: Final = _LAYOUT.size
LENGTH_END: Final = 12
"""Bytes that `batch_length` does not count: base offset and batch_length itself."""
CRC_START: Final = 21
"""First byte the checksum covers; what stands before it is patched by the leader (DESIGN: batches)."""
MAGIC_COLUMNS: Final = 3
NO_PRODUCER_ID: Final = -1
RECORDS_MAX: Final = 1 << 20
"""Most records in a batch: the smallest takes 4 bytes of it, and some hundred of whoever decodes it."""

assert HEADER_BYTES == 61, "the header is Kafka's, byte for byte"


class Attributes:
    """Bits of the attributes field. 0 to 6 are Kafka's (0 to 2 hold the codec), 7 and up are ours.

    Plain integers: an operation on an enum.IntFlag costs more than parsing the header does.
    """

    LOG_APPEND_TIME: Final = 1 << 3
    TRANSACTIONAL: Final = 1 << 4
    CONTROL: Final = 1 << 5
    DELETE_HORIZON: Final = 1 << 6
    COLUMNS: Final = 1 << 7
    """Repeats the magic under the checksum, which the magic byte itself is not."""
    KEYS: Final = 1 << 8
    NULL_KEYS: Final = 1 << 9
    NULL_VALUES: Final = 1 << 10
    HEADERS: Final = 1 << 11
    TIMESTAMP_DELTAS: Final = 1 << 12
    """An i64 column; without it every record has base_timestamp."""
    OFFSET_DELTAS: Final = 1 << 13
    """A u32 column; without it offsets are consecutive. Only compaction makes it."""


CODEC_MASK: Final = 0b111
_KNOWN_BITS: Final = (1 << 14) - 1
_CODECS: Final = frozenset(Codec)


class BatchHeader(NamedTuple):
    """The fields of one batch header, in wire order. End offsets derived from it are exclusive."""

    base_offset: int
    batch_length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole batch, header included."""
        return LENGTH_END + self.batch_length

    @property
    def next_offset(self) -> int:
        """The offset that follows the batch."""
        return self.base_offset + self.last_offset_delta + 1

    @property
    def codec(self) -> Codec:
        """How the body is compressed. `check_header` has vouched that the number is known."""
        return Codec(self.attributes & CODEC_MASK)

    def pack(self) -> bytes:
        """The 61 bytes."""
        return _LAYOUT.pack(*self)


def parse_header(data: bytes | memoryview, at: int = 0) -> BatchHeader:
    """Unpack the 61 bytes at `at`. Raises CorruptBatch when there are fewer. Judges nothing else."""
    if len(data) - at < HEADER_BYTES:
        raise CorruptBatch(reason=f"{len(data) - at} bytes are no batch header of {HEADER_BYTES}")
    return BatchHeader._make(_LAYOUT.unpack_from(data, at))


def check_header(header: BatchHeader) -> None:
    """Refuse what no sound batch says, and what a later version might: an unknown bit is never guessed at.

    Raises UnsupportedFormat for an unknown magic, attribute or codec, and CorruptBatch for lengths and
    counts that contradict each other.
    """
    if header.magic != MAGIC_COLUMNS:
        raise UnsupportedFormat(
            what=f"record batch of magic {header.magic}; this version reads {MAGIC_COLUMNS}"
        )
    attributes = header.attributes
    if attributes & ~_KNOWN_BITS:
        raise UnsupportedFormat(
            what=f"record batch with unknown attribute bits {attributes & ~_KNOWN_BITS:#06x}"
        )
    if not attributes & Attributes.COLUMNS:
        raise CorruptBatch(reason="the attributes deny the magic")
    if attributes & CODEC_MASK not in _CODECS:
        raise UnsupportedFormat(what=f"record batch with unknown compression {attributes & CODEC_MASK}")
    if header.batch_length < HEADER_BYTES - LENGTH_END:
        raise CorruptBatch(reason=f"length {header.batch_length} is shorter than a header")
    if header.record_count < 0 or header.last_offset_delta < 0:
        counts = f"{header.record_count} records, last offset delta {header.last_offset_delta}"
        raise CorruptBatch(reason=f"{counts}: one is negative")
    if header.record_count > RECORDS_MAX:
        raise CorruptBatch(reason=f"{header.record_count} records; {RECORDS_MAX} are allowed")
    if header.record_count > header.last_offset_delta + 1:
        raise CorruptBatch(reason=f"{header.record_count} records in {header.last_offset_delta + 1} offsets")
    if not attributes & Attributes.OFFSET_DELTAS and header.record_count != header.last_offset_delta + 1:
        raise CorruptBatch(
            reason=f"{header.record_count} records, last offset delta {header.last_offset_delta}"
        )
    if header.max_timestamp < header.base_timestamp and not attributes & Attributes.TIMESTAMP_DELTAS:
        raise CorruptBatch(reason="the greatest timestamp lies before the first")
