"""What a leader checks of a producer's batch before appending it, by its header and checksums alone.

Records are never unpacked here: a body that lies about its columns hurts nobody but its readers, who are
told. What would hurt the log is refused: times that pin a segment against retention (rule 35), counts that
eat offsets, bits that only the broker sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from millpond.wire.batch import BODY_BYTES_MAX, Batch, declared_body_bytes, parse_batch
from millpond.wire.errors import InvalidRecord, RecordTooLarge, UnsupportedFormat
from millpond.wire.header import NO_PRODUCER_ID, Attributes, BatchHeader

_BROKER_BITS: Final = (
    Attributes.CONTROL | Attributes.DELETE_HORIZON | Attributes.LOG_APPEND_TIME | Attributes.OFFSET_DELTAS
)
_COLUMN_BYTES_MIN: Final = 4
"""Every record has at least its value length in the body."""
_RECORD_OVERHEAD_BYTES: Final = 32
"""At most this much of a record's share of the body is columns, if it has no headers: lengths of value and
key, null bits, time and offset."""


@dataclass(frozen=True, kw_only=True)
class AdmissionLimits:
    """Bounds on what producers may send."""

    batch_bytes_max: int = 4 << 20
    """Largest batch as it travels: what a broker holds of one producer's message."""
    timestamp_ahead_ms_max: int = 3_600_000
    """How far a record may lie in the future: its segment outlives its retention by as much."""


def admit(data: bytes | memoryview, limits: AdmissionLimits, now_ms: int) -> Batch:
    """The producer's batch that `data` is, fit to be appended.

    Raises RecordTooLarge, CorruptBatch, UnsupportedFormat or InvalidRecord, each with outcome not_written
    where it has one. `now_ms`: milliseconds UTC.
    """
    if len(data) > limits.batch_bytes_max:
        raise RecordTooLarge(size_bytes=len(data), limit_bytes=limits.batch_bytes_max)
    batch = parse_batch(data)
    header = batch.header
    if header.attributes & Attributes.TRANSACTIONAL:
        raise UnsupportedFormat(what="transactional batch; this version has no transactions")
    if header.attributes & _BROKER_BITS:
        raise InvalidRecord(reason=f"attributes {header.attributes:#06x} have bits that only a broker sets")
    _check_counts(header, declared_body_bytes(batch))
    _check_times(header, now_ms + limits.timestamp_ahead_ms_max)
    _check_producer(header)
    return batch


def check_record_size(batch: Batch, record_bytes_max: int) -> None:
    """Raise RecordTooLarge for a batch that must hold a record larger than the topic's limit.

    By the mean of its records, because none is unpacked: exact for a batch of one, and what keeps to the
    limit is never refused. Batches with headers pass: their columns grow with the number of headers.
    """
    if batch.header.attributes & Attributes.HEADERS:
        return
    share_bytes = declared_body_bytes(batch) // batch.header.record_count
    if share_bytes > record_bytes_max + _RECORD_OVERHEAD_BYTES:
        raise RecordTooLarge(size_bytes=share_bytes, limit_bytes=record_bytes_max)


def _check_counts(header: BatchHeader, body_bytes: int) -> None:
    if header.record_count < 1:
        raise InvalidRecord(reason="a batch without records")
    if body_bytes > BODY_BYTES_MAX:
        raise RecordTooLarge(size_bytes=body_bytes, limit_bytes=BODY_BYTES_MAX)
    if header.record_count * _COLUMN_BYTES_MIN > body_bytes:
        raise InvalidRecord(reason=f"{header.record_count} records in a body of {body_bytes} bytes")


def _check_times(header: BatchHeader, latest: int) -> None:
    if not 0 <= header.base_timestamp <= header.max_timestamp:
        stated = f"timestamps from {header.base_timestamp} to {header.max_timestamp}"
        raise InvalidRecord(reason=f"{stated} are not in order from 1970 on")
    if header.max_timestamp > latest:
        raise InvalidRecord(
            reason=f"timestamp {header.max_timestamp} lies too far ahead; {latest} is allowed"
        )


def _check_producer(header: BatchHeader) -> None:
    stated = (header.producer_id, header.producer_epoch, header.base_sequence)
    if header.producer_id == NO_PRODUCER_ID:
        sound = stated == (-1, -1, -1)
    else:
        sound = min(stated) >= 0
    if not sound:
        raise InvalidRecord(reason=f"producer id, epoch and sequence {stated} do not go together")
