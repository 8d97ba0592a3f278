"""Whole record batches: columns of records to the bytes of one batch, and back.

A batch is a header (`header`), the u32 size of its uncompressed body, and the body (`columns`) as one
block of its codec (`compression`). Brokers pass batches on by their header alone; only the two ends of a
log, producer and consumer, come here for the records.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise, repeat
from typing import Final, NamedTuple

from crc32c import crc32c

from millpond.wire.columns import Columns, decode_columns, encode_columns
from millpond.wire.columns import decode_times as decode_time_columns
from millpond.wire.compression import Codec, compress, decompress
from millpond.wire.errors import CorruptBatch, InvalidRecord, RecordTooLarge
from millpond.wire.header import (
    CRC_START,
    HEADER_BYTES,
    LENGTH_END,
    MAGIC_COLUMNS,
    NO_PRODUCER_ID,
    RECORDS_MAX,
    Attributes,
    BatchHeader,
    check_header,
    parse_header,
)
from millpond.wire.record import NO_HEADERS, Headers, Record

_BODY_SIZE: Final = struct.Struct("<I")
BODY_BYTES_MAX: Final = 64 << 20
"""Largest uncompressed body a decoder makes room for: a bound on what one batch costs a consumer."""


MESSAGE_BATCHES_MAX: Final = 1000
"""Batches in one message of a produce stream: each may become a result, and a broker takes no more."""
TIMESTAMP_MAX_MS: Final = 1 << 62
"""A timestamp and the difference of any two fit in 64 bits."""


class Batch(NamedTuple):
    """One batch, its header parsed once. `data` is the whole of it, header included, as it travels."""

    header: BatchHeader
    data: bytes | memoryview


class Producer(NamedTuple):
    """Whose batch it is and where it stands in that producer's sequence (rules 16 to 19)."""

    producer_id: int = NO_PRODUCER_ID
    epoch: int = -1
    base_sequence: int = -1


ANONYMOUS: Final = Producer()


class DecodedBatch(NamedTuple):
    """The records of one batch as columns of equal length. `keys` and `headers` are None where none has any.

    `timestamps` are milliseconds UTC; `offsets` are absolute and strictly increasing.
    """

    values: Sequence[bytes | None]
    keys: Sequence[bytes | None] | None
    headers: Sequence[Headers] | None
    timestamps: Sequence[int]
    offsets: Sequence[int]

    def records(self, topic: str, partition: int) -> list[Record[bytes | None, bytes | None]]:
        """One Record for each, made in C: a constructor of ours would halve the rate of a consumer."""
        keys = repeat(None) if self.keys is None else self.keys
        headers = repeat(NO_HEADERS) if self.headers is None else self.headers
        columns = zip(
            repeat(topic),
            repeat(partition),
            self.offsets,
            self.timestamps,
            keys,
            self.values,
            headers,
            strict=False,
        )
        return list(map(tuple.__new__, repeat(Record), columns))


def encode_batch(
    values: Sequence[bytes | None],
    timestamps: Sequence[int] | int,
    *,
    keys: Sequence[bytes | None] | None = None,
    headers: Sequence[Headers] | None = None,
    codec: Codec = Codec.NONE,
    producer: Producer = ANONYMOUS,
) -> Batch:
    """The batch of these records, at base offset 0 and leader epoch -1 until a leader places it.

    All columns have the length of `values`, at least 1; one timestamp serves for all. A block that its
    codec does not make smaller is stored plain. Raises TypeError for an item that is not bytes or None,
    RecordTooLarge for a body and InvalidRecord for a timestamp that no decoder would accept.
    """
    count = len(values)
    assert 1 <= count <= RECORDS_MAX, "a producer's batch holds a record, and no more than can be decoded"
    if isinstance(timestamps, int):
        base, latest, deltas = timestamps, timestamps, None
    else:
        assert len(timestamps) == count, "a timestamp for each value"
        base, latest, earliest = timestamps[0], max(timestamps), min(timestamps)
        deltas = None if latest == base == earliest else [timestamp - base for timestamp in timestamps]
        _check_time(earliest)
    _check_time(latest)
    flags, body = encode_columns(Columns(values, keys, headers, deltas))
    if len(body) > BODY_BYTES_MAX:
        raise RecordTooLarge(size_bytes=len(body), limit_bytes=BODY_BYTES_MAX)
    block = compress(codec, body)
    if len(block) >= len(body):
        codec, block = Codec.NONE, body
    unchecked = BatchHeader(
        base_offset=0,
        batch_length=HEADER_BYTES - LENGTH_END + _BODY_SIZE.size + len(block),
        leader_epoch=-1,
        magic=MAGIC_COLUMNS,
        crc=0,
        attributes=flags | codec,
        last_offset_delta=count - 1,
        base_timestamp=base,
        max_timestamp=latest,
        producer_id=producer.producer_id,
        producer_epoch=producer.epoch,
        base_sequence=producer.base_sequence,
        record_count=count,
    )
    return seal(unchecked, _BODY_SIZE.pack(len(body)) + block)


def _check_time(timestamp: int) -> None:
    if not -TIMESTAMP_MAX_MS <= timestamp <= TIMESTAMP_MAX_MS:
        raise InvalidRecord(reason=f"timestamp {timestamp} ms is no time that a record can have")


def seal(header: BatchHeader, body: bytes | memoryview) -> Batch:
    """The batch of `header`, its checksum set, and the bytes that follow a header."""
    checked = header.pack()[CRC_START:]
    header = header._replace(crc=crc32c(body, crc32c(checked)))
    return Batch(header, b"".join((header.pack(), body)))


def parse_batch(data: bytes | memoryview) -> Batch:
    """The one batch that `data` is, vouched for: known format, consistent header, exact length, checksum.

    Raises CorruptBatch or UnsupportedFormat. The body is not unpacked.
    """
    header = parse_header(data)
    if header.size_bytes != len(data):
        raise CorruptBatch(reason=f"a batch of {header.size_bytes} bytes in {len(data)}")
    check_header(header)
    if crc32c(memoryview(data)[CRC_START:]) != header.crc:
        raise CorruptBatch(reason="checksum")
    return Batch(header, data)


def declared_body_bytes(batch: Batch) -> int:
    """The size that the body says it has uncompressed. Raises CorruptBatch where there is no room for it."""
    if len(batch.data) < HEADER_BYTES + _BODY_SIZE.size:
        raise CorruptBatch(reason="no room for the size of the body")
    (size,) = _BODY_SIZE.unpack_from(batch.data, HEADER_BYTES)
    return int(size)


def decode_batch(batch: Batch) -> DecodedBatch:
    """The records of a batch that `parse_batch` or a sound frame vouched for.

    The declared size of the body, which is at most BODY_BYTES_MAX, bounds what is allocated: twice
    that to unpack it, and the records' own objects. Raises CorruptBatch for a body that is not
    exactly what the header says.
    """
    header = batch.header
    columns = decode_columns(header.attributes, header.record_count, _unpacked(batch))
    return DecodedBatch(
        columns.values,
        columns.keys,
        columns.headers,
        _timestamps(header, columns.timestamp_deltas),
        _offsets(header, columns.offset_deltas),
    )


def decode_times(batch: Batch) -> tuple[Sequence[int], Sequence[int]]:
    """The timestamps and offsets of a batch's records, for a fraction of the work of `decode_batch`, and
    none at all where the header says everything.

    Raises CorruptBatch for a body that does not get as far as these columns; what follows is not looked at.
    """
    header = batch.header
    deltas: tuple[Sequence[int] | None, Sequence[int] | None] = (None, None)
    if header.attributes & (Attributes.TIMESTAMP_DELTAS | Attributes.OFFSET_DELTAS):
        deltas = decode_time_columns(header.attributes, header.record_count, _unpacked(batch))
    return _timestamps(header, deltas[0]), _offsets(header, deltas[1])


def _unpacked(batch: Batch) -> bytes:
    size = declared_body_bytes(batch)
    if size > BODY_BYTES_MAX:
        raise CorruptBatch(reason=f"a body of {size} bytes; {BODY_BYTES_MAX} are allowed")
    block = memoryview(batch.data)[HEADER_BYTES + _BODY_SIZE.size :]
    return decompress(batch.header.codec, block, size)


def _timestamps(header: BatchHeader, deltas: Sequence[int] | None) -> Sequence[int]:
    if header.attributes & Attributes.LOG_APPEND_TIME:
        return [header.max_timestamp] * header.record_count
    if deltas is None:
        return [header.base_timestamp] * header.record_count
    base = header.base_timestamp
    return [base + delta for delta in deltas]


def _offsets(header: BatchHeader, deltas: Sequence[int] | None) -> Sequence[int]:
    base = header.base_offset
    if deltas is None:
        return range(base, base + header.record_count)
    offsets = [base + delta for delta in deltas]
    if any(left >= right for left, right in pairwise(offsets)):
        raise CorruptBatch(reason="offsets that do not increase")
    if offsets and offsets[-1] >= header.next_offset:
        raise CorruptBatch(reason="an offset past the end of the batch")
    return offsets
