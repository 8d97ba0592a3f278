"""The body of a batch of magic 3: columns of little-endian length arrays and joined blobs.

In order: value lengths, [key lengths], [null-key bitmap], [null-value bitmap], [header counts, name
lengths, value lengths], [i64 timestamp deltas], [u32 offset deltas], then the blobs: keys, values, header
names, header values. A column in brackets is there when its attribute bit is set. Whole columns move
through `array`, `map(len)`, `b"".join` and `accumulate`, so that the work for each record is done in C.

Every length is checked against the bytes that are there before anything is made from it: what can be
decoded is bounded by the body, whatever the counts in it say.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, islice
from typing import Any, Final, NamedTuple

from millpond.wire.errors import CorruptBatch
from millpond.wire.header import Attributes
from millpond.wire.record import NO_HEADERS, Headers

_U32: Final = "I"
_I64: Final = "q"
_SWAP: Final = sys.byteorder == "big"
assert array(_U32).itemsize == 4, "the code has the size of the column"
assert array(_I64).itemsize == 8, "likewise"


class Columns(NamedTuple):
    """The records of one batch, a list a field; all have the same length.

    `keys`, `headers`: None when no record of the batch has any. `timestamp_deltas`, `offset_deltas`:
    None when they say nothing (all equal to the base; consecutive).
    """

    values: Sequence[bytes | None]
    keys: Sequence[bytes | None] | None = None
    headers: Sequence[Headers] | None = None
    timestamp_deltas: Sequence[int] | None = None
    offset_deltas: Sequence[int] | None = None


def encode_columns(columns: Columns) -> tuple[int, bytes]:
    """The uncompressed body and the attribute bits that describe it.

    Raises TypeError for a value or key that is neither bytes nor None.
    """
    flags = Attributes.COLUMNS
    count = len(columns.values)
    lengths, null_values, value_blobs = _lengths("values", columns.values)
    head: list[bytes] = [_dump(lengths)]
    nulls: list[bytes] = []
    blobs: list[bytes] = []
    if columns.keys is not None:
        assert len(columns.keys) == count, "a key for each value"
        lengths, null_keys, key_blobs = _lengths("keys", columns.keys)
        head.append(_dump(lengths))
        blobs.append(b"".join(key_blobs))
        flags |= Attributes.KEYS
        if null_keys:
            nulls.append(_bitmap(columns.keys))
            flags |= Attributes.NULL_KEYS
    if null_values:
        nulls.append(_bitmap(columns.values))
        flags |= Attributes.NULL_VALUES
    blobs.append(b"".join(value_blobs))
    head += nulls
    if columns.headers is not None:
        assert len(columns.headers) == count, "headers for each value"
        pairs = [headers.multi_items() for headers in columns.headers]
        names = [name.encode() for name, _ in chain.from_iterable(pairs)]
        contents = [content for _, content in chain.from_iterable(pairs)]
        for column in (pairs, names, contents):
            head.append(_dump(array(_U32, map(len, column))))
        blobs += [*names, *contents]
        flags |= Attributes.HEADERS
    if columns.timestamp_deltas is not None:
        assert len(columns.timestamp_deltas) == count, "a timestamp for each value"
        head.append(_dump(array(_I64, columns.timestamp_deltas)))
        flags |= Attributes.TIMESTAMP_DELTAS
    if columns.offset_deltas is not None:
        assert len(columns.offset_deltas) == count, "an offset for each value"
        head.append(_dump(array(_U32, columns.offset_deltas)))
        flags |= Attributes.OFFSET_DELTAS
    return flags, b"".join([*head, *blobs])


def decode_columns(flags: int, count: int, body: bytes) -> Columns:
    """The columns of `count` records. Raises CorruptBatch unless the body is exactly what it says it is."""
    reader = _Reader(body)
    value_lengths = reader.column(_U32, count)
    key_lengths = reader.column(_U32, count) if flags & Attributes.KEYS else None
    null_keys = reader.bitmap(count) if flags & Attributes.NULL_KEYS else ()
    null_values = reader.bitmap(count) if flags & Attributes.NULL_VALUES else ()
    name_lengths = content_lengths = header_counts = None
    if flags & Attributes.HEADERS:
        header_counts = reader.column(_U32, count)
        pairs = sum(header_counts)
        name_lengths, content_lengths = reader.column(_U32, pairs), reader.column(_U32, pairs)
    timestamp_deltas = reader.column(_I64, count) if flags & Attributes.TIMESTAMP_DELTAS else None
    offset_deltas = reader.column(_U32, count) if flags & Attributes.OFFSET_DELTAS else None
    keys = headers = None
    if key_lengths is not None:
        keys = _with_nulls(reader.blobs(key_lengths), null_keys, "key")
    elif null_keys:
        raise CorruptBatch(reason="null keys without keys")
    values = _with_nulls(reader.blobs(value_lengths), null_values, "value")
    if header_counts is not None and name_lengths is not None and content_lengths is not None:
        names, contents = reader.blobs(name_lengths), reader.blobs(content_lengths)
        headers = _headers(header_counts, names, contents)
    reader.finish()
    return Columns(values, keys, headers, timestamp_deltas, offset_deltas)


def decode_times(flags: int, count: int, body: bytes) -> tuple[array[int] | None, array[int] | None]:
    """The timestamp and offset deltas of `count` records, the rest left alone, whatever it is.

    Raises CorruptBatch when the body is too short for the columns before them.
    """
    reader = _Reader(body)
    bitmaps = bool(flags & Attributes.NULL_KEYS) + bool(flags & Attributes.NULL_VALUES)
    reader.skip(count * 4 * (2 if flags & Attributes.KEYS else 1) + bitmaps * ((count + 7) // 8))
    if flags & Attributes.HEADERS:
        reader.skip(2 * 4 * sum(reader.column(_U32, count)))
    timestamp_deltas = reader.column(_I64, count) if flags & Attributes.TIMESTAMP_DELTAS else None
    offset_deltas = reader.column(_U32, count) if flags & Attributes.OFFSET_DELTAS else None
    return timestamp_deltas, offset_deltas


def _lengths(what: str, column: Sequence[bytes | None]) -> tuple[array[int], bool, Iterable[bytes]]:
    """Lengths of a column, whether any is null, and what to join. The common case has no null."""
    try:
        return array(_U32, map(len, column)), False, _bytes_only(what, column)  # type: ignore[arg-type]  # a null raises
    except TypeError:
        blobs = [b"" if item is None else item for item in column]
        return array(_U32, map(len, _bytes_only(what, blobs))), True, blobs


def _bytes_only(what: str, column: Iterable[Any]) -> Any:
    """`column`, once it holds nothing but bytes: a str has a length too, and would fail later, unnamed."""
    kinds = set(map(type, column)) - {bytes, type(None)}
    if kinds:
        raise TypeError(f"{what} must be bytes or None, not {min(kind.__name__ for kind in kinds)}")
    return column


def _bitmap(column: Sequence[bytes | None]) -> bytes:
    """One bit a record, least significant first, set where the item is None."""
    bits = bytearray((len(column) + 7) // 8)
    for index, item in enumerate(column):
        if item is None:
            bits[index >> 3] |= 1 << (index & 7)
    return bytes(bits)


def _dump(column: array[int]) -> bytes:
    if _SWAP:
        column.byteswap()
    return column.tobytes()


class _Reader:
    """Takes columns off the front of a body; each take is checked against what is left."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def skip(self, size: int) -> None:
        """Leave columns of so many bytes behind."""
        end = self._at + size
        if end > len(self._body):
            raise CorruptBatch(reason=f"a column of {size} bytes, {len(self._body) - self._at} are left")
        self._at = end

    def _take(self, size: int) -> bytes:
        self.skip(size)
        return self._body[self._at - size : self._at]

    def column(self, code: str, count: int) -> array[int]:
        column = array(code)
        column.frombytes(self._take(count * column.itemsize))
        if _SWAP:
            column.byteswap()
        return column

    def bitmap(self, count: int) -> Sequence[int]:
        """Indexes of the set bits. A set bit past the last record is damage, as is a map without any."""
        bits = int.from_bytes(self._take((count + 7) // 8), "little")
        if bits >> count or not bits:
            raise CorruptBatch(reason="a null bitmap that marks no record")
        # Through a string, because shifting a long integer once for each bit is quadratic.
        return [index for index, bit in enumerate(reversed(f"{bits:b}")) if bit == "1"]

    def blobs(self, lengths: array[int]) -> list[bytes]:
        ends = list(accumulate(lengths, initial=self._at))
        if ends[-1] > len(self._body):
            raise CorruptBatch(
                reason=f"blobs of {ends[-1] - self._at} bytes, {len(self._body) - self._at} are left"
            )
        self._at = ends[-1]
        return list(map(self._body.__getitem__, map(slice, ends, islice(ends, 1, None))))

    def finish(self) -> None:
        if self._at != len(self._body):
            raise CorruptBatch(reason=f"{len(self._body) - self._at} bytes behind the last column")


def _with_nulls(items: list[bytes], nulls: Sequence[int], what: str) -> list[bytes | None]:
    column: list[bytes | None] = items  # type: ignore[assignment]  # the list is ours: widening it in place is safe
    for index in nulls:
        if items[index]:
            raise CorruptBatch(reason=f"a null {what} with bytes")
        column[index] = None
    return column


def _headers(counts: array[int], names: list[bytes], contents: list[bytes]) -> list[Headers]:
    try:
        pairs = list(zip([name.decode() for name in names], contents, strict=True))
    except UnicodeDecodeError:
        raise CorruptBatch(reason="a header name that is not UTF-8") from None
    ends = accumulate(counts)
    return [
        Headers.from_items(tuple(pairs[end - count : end])) if count else NO_HEADERS
        for count, end in zip(counts, ends, strict=True)
    ]
