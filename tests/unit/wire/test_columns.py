"""The body of a batch: columns in their order, and every way in which they can contradict each
other.
"""

import struct
from typing import Any

import pytest

from millpond.wire.columns import Columns, decode_columns, encode_columns
from millpond.wire.errors import CorruptBatch
from millpond.wire.header import Attributes
from millpond.wire.record import NO_HEADERS, Headers

BARE = Attributes.COLUMNS


def u32(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def i64(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}q", *numbers)


FULL = Columns(
    values=[b"one", None, b""],
    keys=[None, b"key", b""],
    headers=[Headers([("n", b"1"), ("n", b"")]), NO_HEADERS, Headers({"ö": b"2"})],
    timestamp_deltas=[0, -5, 7],
    offset_deltas=[0, 3, 4],
)
"""One of everything."""

FULL_PARTS = [
    u32(3, 0, 0),  # value lengths
    u32(0, 3, 0),  # key lengths
    b"\x01",  # null keys
    b"\x02",  # null values
    u32(2, 0, 1),  # headers of each record
    u32(1, 1, 2),  # lengths of header names
    u32(1, 0, 1),  # lengths of header values
    i64(0, -5, 7),  # timestamp deltas
    u32(0, 3, 4),  # offset deltas
    b"key",
    b"one",
    "nnö".encode(),
    b"12",
]

EVERY_FLAG = 0b0011_1111_1000_0000


def test_columns_stand_in_their_order_little_endian() -> None:
    flags, body = encode_columns(FULL)
    assert flags == EVERY_FLAG
    assert body == b"".join(FULL_PARTS)
    decoded = decode_columns(flags, 3, body)
    assert decoded[:3] == FULL[:3]
    assert [list(column or ()) for column in decoded[3:]] == [[0, -5, 7], [0, 3, 4]]


def test_a_column_is_there_only_when_it_says_something() -> None:
    assert encode_columns(Columns([b"a", b"bc"])) == (BARE, u32(1, 2) + b"abc")
    assert encode_columns(Columns([b"a"], keys=[b"k"])) == (
        BARE | Attributes.KEYS,
        u32(1) + u32(1) + b"k" + b"a",
    )
    assert encode_columns(Columns([None])) == (BARE | Attributes.NULL_VALUES, u32(0) + b"\x01")


def test_an_empty_item_is_no_null() -> None:
    flags, body = encode_columns(Columns([b"", None], keys=[None, b""]))
    assert decode_columns(flags, 2, body) == Columns([b"", None], keys=[None, b""])


@pytest.mark.parametrize("count", [1, 7, 8, 9, 64, 1000])
def test_nulls_are_marked_at_every_place_of_a_bitmap(count: int) -> None:
    for null in {0, count // 2, count - 1}:
        values = [None if index == null else b"v" for index in range(count)]
        flags, body = encode_columns(Columns(values))
        assert decode_columns(flags, count, body).values == values


def test_no_record_is_no_byte() -> None:
    columns = Columns([], keys=[], headers=[], timestamp_deltas=[], offset_deltas=[])
    flags, body = encode_columns(columns)
    assert body == b""
    decoded = decode_columns(flags, 0, body)
    assert [list(column) for column in decoded if column is not None] == [[]] * 5


@pytest.mark.parametrize("item", ["text", bytearray(b"a"), memoryview(b"a"), 1, [b"a"]])
def test_an_item_that_is_neither_bytes_nor_none_is_refused_by_its_type(item: Any) -> None:
    for others in ([], [b"a"], [None]):
        with pytest.raises(TypeError, match=f"values must be bytes or None.*{type(item).__name__}"):
            encode_columns(Columns([*others, item]))
        with pytest.raises(TypeError, match=f"keys must be bytes or None.*{type(item).__name__}"):
            encode_columns(Columns([b""] * (len(others) + 1), keys=[*others, item]))


@pytest.mark.parametrize(
    "columns",
    [
        Columns([b"a"], keys=[]),
        Columns([b"a"], headers=[NO_HEADERS, NO_HEADERS]),
        Columns([b"a"], timestamp_deltas=[0, 1]),
        Columns([b"a"], offset_deltas=[]),
    ],
)
def test_columns_of_different_length_are_a_bug_of_the_caller(columns: Columns) -> None:
    with pytest.raises(AssertionError):
        encode_columns(columns)


def test_a_body_cut_anywhere_or_with_more_behind_it_is_corrupt() -> None:
    flags, body = encode_columns(FULL)
    for size in range(len(body)):
        with pytest.raises(CorruptBatch):
            decode_columns(flags, 3, body[:size])
    with pytest.raises(CorruptBatch, match="1 bytes behind the last column"):
        decode_columns(flags, 3, body + b"\0")


@pytest.mark.parametrize("count", [0, 1, 2, 4, 1 << 31])
def test_another_count_than_the_body_has_is_corrupt(count: int) -> None:
    flags, body = encode_columns(FULL)
    with pytest.raises(CorruptBatch):
        decode_columns(flags, count, body)


@pytest.mark.parametrize(
    ("flags", "count", "body", "reason"),
    [
        (BARE, 1, u32(0xFFFF_FFFF), "blobs of 4294967295 bytes, 0 are left"),
        (BARE, 2, u32(1, 2) + b"ab", "blobs of 3 bytes, 2 are left"),
        (BARE, 1 << 30, u32(0), "a column of 4294967296 bytes, 4 are left"),
        (BARE | Attributes.NULL_VALUES, 1, u32(0) + b"\0", "a null bitmap that marks no record"),
        (BARE | Attributes.NULL_VALUES, 1, u32(0) + b"\x02", "a null bitmap"),
        (BARE | Attributes.NULL_VALUES, 1, u32(0) + b"\x81", "a null bitmap"),
        (BARE | Attributes.NULL_VALUES, 1, u32(1) + b"\x01a", "a null value with bytes"),
        (
            BARE | Attributes.KEYS | Attributes.NULL_KEYS,
            1,
            u32(0, 1) + b"\x01k",
            "a null key with bytes",
        ),
        (BARE | Attributes.NULL_KEYS, 1, u32(0) + b"\x01", "null keys without keys"),
        (BARE | Attributes.HEADERS, 1, u32(0, 0xFFFF_FFFF), "a column of 17179869180 bytes"),
        (BARE | Attributes.HEADERS, 1, u32(0, 1, 1, 0) + b"\xff", "not UTF-8"),
        (BARE | Attributes.HEADERS, 1, u32(0, 1, 3, 0) + b"\xed\xa0\x80", "not UTF-8"),
        (BARE | Attributes.HEADERS, 1, u32(0, 1, 1, 9) + b"n", "blobs of 9 bytes, 0 are left"),
        (BARE | Attributes.TIMESTAMP_DELTAS, 1, u32(0, 0), "a column of 8 bytes, 4 are left"),
        (BARE | Attributes.OFFSET_DELTAS, 1, u32(0), "a column of 4 bytes, 0 are left"),
    ],
)
def test_a_contradiction_is_corrupt_and_named(flags: int, count: int, body: bytes, reason: str) -> None:
    with pytest.raises(CorruptBatch, match=reason):
        decode_columns(flags, count, body)
