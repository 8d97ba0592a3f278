"""From a fetched batch to what a user gets: columns trimmed, deserialized, and made into records.

All the work is done for a batch at a time. What cannot be read is either handed out raw, with its error, or
cuts the batch: what stands before it, the error, what follows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any, Generic, NamedTuple, TypeVar

from millpond._core.fetch_buffer import FetchedBatch
from millpond._core.serdes import Decode, decode_column
from millpond.wire.batch import DecodedBatch, decode_batch
from millpond.wire.errors import CorruptBatch, DeserializationError, MillpondError, UnsupportedFormat
from millpond.wire.header import Attributes
from millpond.wire.record import NO_HEADERS, BadRecord, Headers, Record, TopicPartition

K = TypeVar("K")
V = TypeVar("V")


class RecordBatch(Generic[K, V]):
    """Records of one partition as columns of equal length, in offset order.

    `timestamps` are milliseconds UTC. `errors` says, by index, what could not be deserialized and is raw:
    only where the consumer was told to deliver such records.
    """

    __slots__ = (
        "_headers",
        "_keys",
        "errors",
        "next_offset",
        "offsets",
        "partition",
        "timestamps",
        "topic",
        "values",
    )

    def __init__(
        self,
        key: TopicPartition,
        values: Sequence[V],
        offsets: Sequence[int],
        timestamps: Sequence[int],
        *,
        keys: Sequence[K] | None = None,
        headers: Sequence[Headers] | None = None,
        errors: Mapping[int, MillpondError] | None = None,
        next_offset: int,
    ) -> None:
        self.topic, self.partition = key
        self.values = values
        self.offsets = offsets
        self.timestamps = timestamps
        self.errors = errors or {}
        self.next_offset = next_offset
        """Where the partition goes on after it."""
        self._keys = keys
        self._headers = headers

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        where = f"{self.topic}-{self.partition}"
        return f"<RecordBatch {where}: {len(self)} records, next offset {self.next_offset}>"

    @property
    def keys(self) -> Sequence[K]:
        """The keys; None where a record has none."""
        if self._keys is None:
            nothing: Any = None
            self._keys = [nothing] * len(self)
        return self._keys

    @property
    def headers(self) -> Sequence[Headers]:
        """The headers of each record."""
        if self._headers is None:
            self._headers = [NO_HEADERS] * len(self)
        return self._headers

    def records(self) -> list[Record[K, V]]:
        """The same as records, made in C."""
        columns = zip(
            repeat(self.topic),
            repeat(self.partition),
            self.offsets,
            self.timestamps,
            repeat(None) if self._keys is None else self._keys,
            self.values,
            repeat(NO_HEADERS) if self._headers is None else self._headers,
            strict=False,
        )
        records: list[Record[K, V]] = list(map(tuple.__new__, repeat(Record), columns))
        for index, error in self.errors.items():
            records[index] = BadRecord.of(records[index], error)
        return records

    def slice(self, start: int, stop: int, next_offset: int | None = None) -> RecordBatch[K, V]:
        """Its records from index `start` to `stop` (exclusive)."""
        return RecordBatch(
            TopicPartition(self.topic, self.partition),
            self.values[start:stop],
            self.offsets[start:stop],
            self.timestamps[start:stop],
            keys=None if self._keys is None else self._keys[start:stop],
            headers=None if self._headers is None else self._headers[start:stop],
            errors={index - start: error for index, error in self.errors.items() if start <= index < stop},
            next_offset=self.next_offset if next_offset is None else next_offset,
        )


class Refused(NamedTuple):
    """What is raised in place of a record or a batch, and where the partition goes on behind it."""

    error: DeserializationError
    next_offset: int


class Reading(NamedTuple):
    """How a consumer wants its records. A decoder that is None leaves the bytes as they are."""

    decode_key: Decode | None = None
    decode_value: Decode | None = None
    deliver_bad: bool = False


def open_batch(item: FetchedBatch, reading: Reading) -> list[RecordBatch[Any, Any] | Refused]:
    """What a fetched batch holds for the user, in order; nothing, where none of its records is wanted."""
    if item.batch.header.attributes & Attributes.CONTROL:
        return []  # the system's own, not for users
    try:
        if item.unreadable is not None:
            raise item.unreadable
        decoded = decode_batch(item.batch)
    except (CorruptBatch, UnsupportedFormat) as error:
        return [_whole_batch_refused(item, error, reading)]
    batch = _trimmed(item, decoded)
    if not len(batch):
        return []
    return _deserialized(batch, reading)


def _whole_batch_refused(
    item: FetchedBatch, error: MillpondError, reading: Reading
) -> RecordBatch[Any, Any] | Refused:
    header = item.batch.header
    key = item.cursor.key
    offset = max(header.base_offset, item.start)
    data = bytes(item.batch.data)
    if reading.deliver_bad:
        return RecordBatch(
            key, [data], [offset], [header.max_timestamp], errors={0: error}, next_offset=item.next_offset
        )
    raw: Record[Any, Any] = Record(*key, offset, header.max_timestamp, None, data)
    refusal = DeserializationError(record=BadRecord.of(raw, error), reason=f"the whole batch: {error}")
    refusal.__cause__ = error
    return Refused(refusal, item.next_offset)


def _trimmed(item: FetchedBatch, decoded: DecodedBatch) -> RecordBatch[Any, Any]:
    """The records that are wanted: not those before the position, nor those past the end."""
    whole: RecordBatch[Any, Any] = RecordBatch(
        item.cursor.key,
        decoded.values,
        decoded.offsets,
        decoded.timestamps,
        keys=decoded.keys,
        headers=decoded.headers,
        next_offset=item.next_offset,
    )
    start = bisect_left(decoded.offsets, item.start)
    stop = len(whole) if item.stop is None else bisect_left(decoded.offsets, item.stop)
    return whole if (start, stop) == (0, len(whole)) else whole.slice(start, stop)


def _deserialized(batch: RecordBatch[Any, Any], reading: Reading) -> list[RecordBatch[Any, Any] | Refused]:
    failed: dict[int, tuple[str, Exception]] = {}
    keys, values, headers = batch._keys, batch.values, batch._headers  # noqa: SLF001 - None where there are none
    if reading.decode_value is not None:
        values, errors = decode_column(reading.decode_value, batch.topic, "value", values, headers)
        failed |= {index: ("value", error) for index, error in errors.items()}
    if reading.decode_key is not None and keys is not None:
        keys, errors = decode_column(reading.decode_key, batch.topic, "key", keys, headers)
        failed |= {index: ("key", error) for index, error in errors.items()}
    made: RecordBatch[Any, Any] = RecordBatch(
        TopicPartition(batch.topic, batch.partition),
        values,
        batch.offsets,
        batch.timestamps,
        keys=keys,
        headers=headers,
        next_offset=batch.next_offset,
    )
    if not failed:
        return [made]
    raw = batch.records()
    refusals = {index: _refusal(raw[index], *failed[index]) for index in sorted(failed)}
    return _delivered(made, raw, refusals) if reading.deliver_bad else _cut(made, refusals)


def _refusal(raw: Record[Any, Any], field: str, error: Exception) -> DeserializationError:
    where = f"{raw.topic}-{raw.partition} offset {raw.offset}"
    refusal = DeserializationError(
        record=raw, reason=f"the {field} of {where}: {type(error).__name__}: {error}"
    )
    refusal.__cause__ = error
    return refusal


def _delivered(
    made: RecordBatch[Any, Any], raw: Sequence[Record[Any, Any]], refusals: Mapping[int, DeserializationError]
) -> list[RecordBatch[Any, Any] | Refused]:
    values, keys = list(made.values), list(made.keys)
    for index in refusals:
        values[index], keys[index] = raw[index].value, raw[index].key
    delivered: RecordBatch[Any, Any] = RecordBatch(
        TopicPartition(made.topic, made.partition),
        values,
        made.offsets,
        made.timestamps,
        keys=keys,
        headers=made.headers,
        errors=refusals,
        next_offset=made.next_offset,
    )
    return [delivered]


def _cut(
    made: RecordBatch[Any, Any], refusals: Mapping[int, DeserializationError]
) -> list[RecordBatch[Any, Any] | Refused]:
    pieces: list[RecordBatch[Any, Any] | Refused] = []
    start = 0
    for index, error in refusals.items():
        if start < index:
            pieces.append(made.slice(start, index, made.offsets[index]))
        last = index + 1 == len(made)
        pieces.append(Refused(error, made.next_offset if last else made.offsets[index + 1]))
        start = index + 1
    if start < len(made):
        pieces.append(made.slice(start, len(made)))
    return pieces
