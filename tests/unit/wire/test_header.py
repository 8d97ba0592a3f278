"""The 61 bytes in front of every batch: where each field stands, and which headers are refused."""

import struct
from typing import Any

import pytest

from millpond.wire.compression import Codec
from millpond.wire.errors import CorruptBatch, UnsupportedFormat
from millpond.wire.header import (
    CRC_START,
    HEADER_BYTES,
    LENGTH_END,
    MAGIC_COLUMNS,
    Attributes,
    BatchHeader,
    check_header,
    parse_header,
)

SOUND = BatchHeader(
    base_offset=100,
    batch_length=200,
    leader_epoch=4,
    magic=MAGIC_COLUMNS,
    crc=0xDEADBEEF,
    attributes=Attributes.COLUMNS,
    last_offset_delta=9,
    base_timestamp=1_000,
    max_timestamp=2_000,
    producer_id=77,
    producer_epoch=3,
    base_sequence=50,
    record_count=10,
)
"""A header that nothing is wrong with."""


def test_every_field_stands_where_kafka_has_it() -> None:
    places = {
        "base_offset": (0, ">q"),
        "batch_length": (8, ">i"),
        "leader_epoch": (12, ">i"),
        "magic": (16, ">b"),
        "crc": (17, ">I"),
        "attributes": (21, ">H"),
        "last_offset_delta": (23, ">i"),
        "base_timestamp": (27, ">q"),
        "max_timestamp": (35, ">q"),
        "producer_id": (43, ">q"),
        "producer_epoch": (51, ">h"),
        "base_sequence": (53, ">i"),
        "record_count": (57, ">i"),
    }
    packed = SOUND.pack()
    assert len(packed) == HEADER_BYTES == 61
    assert list(places) == list(BatchHeader._fields)
    for name, (at, code) in places.items():
        assert struct.unpack_from(code, packed, at) == (getattr(SOUND, name),)
    assert (LENGTH_END, CRC_START) == (12, 21)


def test_a_header_is_parsed_from_anywhere_in_any_buffer() -> None:
    packed = SOUND.pack()
    assert parse_header(packed) == SOUND
    assert parse_header(memoryview(b"before" + packed + b"behind"), 6) == SOUND


@pytest.mark.parametrize("size", [0, 1, 60])
def test_fewer_bytes_than_a_header_are_corrupt(size: int) -> None:
    with pytest.raises(CorruptBatch, match=f"{size} bytes are no batch header of 61"):
        parse_header(SOUND.pack()[:size])
    with pytest.raises(CorruptBatch):
        parse_header(b"before" + SOUND.pack()[:size], 6)


def test_ends_are_exclusive_and_sizes_whole() -> None:
    assert SOUND.next_offset == 110
    assert SOUND.size_bytes == 212
    assert SOUND._replace(attributes=Attributes.COLUMNS | Codec.ZSTD).codec is Codec.ZSTD


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"batch_length": HEADER_BYTES - LENGTH_END},
        {"attributes": Attributes.COLUMNS | Codec.SNAPPY},
        {"attributes": 0b0011_1111_1111_1000},
        {"attributes": Attributes.COLUMNS | Attributes.OFFSET_DELTAS, "record_count": 0},
        {"attributes": Attributes.COLUMNS | Attributes.OFFSET_DELTAS, "record_count": 3},
        {"record_count": 1, "last_offset_delta": 0},
        {
            "attributes": Attributes.COLUMNS | Attributes.TIMESTAMP_DELTAS,
            "max_timestamp": 999,
        },
        {"producer_id": -1, "producer_epoch": -1, "base_sequence": -1},
    ],
)
def test_a_sound_header_passes(change: dict[str, Any]) -> None:
    check_header(SOUND._replace(**change))


@pytest.mark.parametrize("magic", [-128, -1, 0, 1, 2, 4, 127])
def test_an_unknown_magic_is_unsupported_and_named(magic: int) -> None:
    with pytest.raises(UnsupportedFormat, match=f"magic {magic}; this version reads 3"):
        check_header(SOUND._replace(magic=magic))


@pytest.mark.parametrize("bit", [14, 15])
def test_an_unknown_attribute_bit_is_unsupported_and_never_guessed_at(bit: int) -> None:
    with pytest.raises(UnsupportedFormat, match=f"unknown attribute bits {1 << bit:#06x}"):
        check_header(SOUND._replace(attributes=Attributes.COLUMNS | 1 << bit))


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_an_unknown_codec_is_unsupported(codec: int) -> None:
    with pytest.raises(UnsupportedFormat, match=f"unknown compression {codec}"):
        check_header(SOUND._replace(attributes=Attributes.COLUMNS | codec))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"attributes": 0}, "deny the magic"),
        ({"batch_length": 48}, "shorter than a header"),
        ({"batch_length": -1}, "shorter than a header"),
        ({"record_count": -1}, "negative"),
        ({"last_offset_delta": -1}, "negative"),
        ({"record_count": 11}, "11 records in 10 offsets"),
        ({"record_count": 9}, "9 records, last offset delta 9"),
        ({"record_count": 0, "last_offset_delta": 0}, "0 records, last offset delta 0"),
        (
            {"attributes": Attributes.COLUMNS | Attributes.OFFSET_DELTAS, "record_count": 11},
            "11 records in 10 offsets",
        ),
        ({"max_timestamp": 999}, "greatest timestamp"),
    ],
)
def test_lengths_and_counts_that_contradict_each_other_are_corrupt(
    change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(CorruptBatch, match=reason):
        check_header(SOUND._replace(**change))
