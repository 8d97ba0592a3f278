"""Record batches under any input: what goes in comes out, and what is damaged is refused in good
order.
"""

import tracemalloc
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millpond.wire.batch import (
    Batch,
    Producer,
    declared_body_bytes,
    decode_batch,
    decode_times,
    encode_batch,
    parse_batch,
    seal,
)
from millpond.wire.columns import Columns, decode_columns, encode_columns
from millpond.wire.compression import Codec, compress, decompress
from millpond.wire.errors import CorruptBatch, InvalidGroupName, InvalidTopicName, UnsupportedFormat
from millpond.wire.frame import FRAME_BYTES, check_frame, pack_frame
from millpond.wire.header import (
    CRC_START,
    HEADER_BYTES,
    LENGTH_END,
    BatchHeader,
    check_header,
    parse_header,
)
from millpond.wire.names import check_group_name, check_topic_name
from millpond.wire.record import NO_HEADERS, Headers, Record

REFUSED = (CorruptBatch, UnsupportedFormat)
CODECS = st.sampled_from([Codec.NONE, Codec.GZIP, Codec.LZ4, Codec.ZSTD])
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
ITEMS = st.none() | st.binary(max_size=40)
HEADERS = st.just(NO_HEADERS) | st.builds(
    Headers,
    st.lists(
        st.tuples(st.sampled_from(["a", "trace", "ключ"]) | st.text(max_size=8), st.binary()),
        max_size=4,
    ),
)
TIMESTAMPS = st.integers(-(1 << 62), (1 << 62) - 1)

thorough = settings(max_examples=400)


class Records(NamedTuple):
    """What a producer hands over."""

    values: list[bytes | None]
    timestamps: list[int] | int
    keys: list[bytes | None] | None
    headers: list[Headers] | None


@st.composite
def records(draw: st.DrawFn, *, least: int = 1) -> Records:
    count = draw(st.integers(least, 20))

    def column(items: st.SearchStrategy[Any]) -> Any:
        return draw(st.lists(items, min_size=count, max_size=count))

    return Records(
        values=column(ITEMS),
        timestamps=column(TIMESTAMPS) if draw(st.booleans()) else draw(TIMESTAMPS),
        keys=column(ITEMS) if draw(st.booleans()) else None,
        headers=column(HEADERS) if draw(st.booleans()) else None,
    )


PRODUCERS = st.builds(Producer, INT64, st.integers(-1, (1 << 15) - 1), st.integers(-1, (1 << 31) - 1))


def encoded(made: Records, codec: Codec, producer: Producer) -> Batch:
    return encode_batch(
        made.values,
        made.timestamps,
        keys=made.keys,
        headers=made.headers,
        codec=codec,
        producer=producer,
    )


def read_framed(data: bytes) -> Batch:
    """What a scan of a log believes."""
    check_frame(data, 0)
    return parse_batch(data[FRAME_BYTES:])


def resealed(header: BatchHeader, body: bytes) -> Batch:
    """A batch whose length and checksum are right, whatever else it says."""
    return seal(header._replace(batch_length=HEADER_BYTES - LENGTH_END + len(body)), body)


@thorough
@given(records(), CODECS, PRODUCERS, st.integers(0, 1 << 62), st.integers(0, (1 << 31) - 1))
def test_every_batch_comes_back_as_it_went_in(
    made: Records, codec: Codec, producer: Producer, base_offset: int, epoch: int
) -> None:
    batch = encoded(made, codec, producer)
    placed = batch.header._replace(base_offset=base_offset, leader_epoch=epoch)
    parsed = parse_batch(memoryview(placed.pack() + bytes(batch.data[HEADER_BYTES:])))
    assert parsed.header == placed
    count = len(made.values)
    timestamps = [made.timestamps] * count if isinstance(made.timestamps, int) else made.timestamps
    assert parsed.header.max_timestamp == max(timestamps)
    decoded = decode_batch(parsed)
    assert decoded.values == made.values
    assert decoded.keys == made.keys
    assert decoded.headers == made.headers
    assert list(decoded.timestamps) == timestamps
    assert list(decoded.offsets) == list(range(base_offset, base_offset + count))
    assert decode_times(parsed) == (decoded.timestamps, decoded.offsets)
    assert decoded.records("topic", 1) == [
        Record("topic", 1, base_offset + index, timestamp, key, value, headers)
        for index, (timestamp, key, value, headers) in enumerate(
            zip(
                timestamps,
                made.keys or [None] * count,
                made.values,
                made.headers or [NO_HEADERS] * count,
                strict=True,
            )
        )
    ]


@thorough
@given(records(least=0), CODECS, st.data())
def test_a_compacted_batch_keeps_any_offsets_it_was_left_with(
    made: Records, codec: Codec, data: st.DataObject
) -> None:
    count = len(made.values)
    offsets = sorted(
        data.draw(st.sets(st.integers(0, (1 << 31) - 1), min_size=count, max_size=count), label="deltas")
    )
    last = data.draw(st.integers(max(offsets, default=0), (1 << 31) - 1), label="last delta")
    flags, body = encode_columns(Columns(made.values, made.keys, made.headers, offset_deltas=offsets))
    header = encode_batch([b""], 5).header._replace(
        attributes=flags | codec, record_count=count, last_offset_delta=last, base_offset=1_000
    )
    batch = resealed(header, len(body).to_bytes(4, "little") + compress(codec, body))
    decoded = decode_batch(parse_batch(batch.data))
    assert list(decoded.offsets) == [1_000 + delta for delta in offsets]
    assert decoded.values == made.values
    assert decoded.keys == made.keys
    assert decoded.headers == made.headers
    assert list(decoded.timestamps) == [5] * count
    assert decode_times(batch) == (decoded.timestamps, decoded.offsets)


@thorough
@given(records(), CODECS, st.integers(0, 1 << 50), st.integers(0, 1 << 50), st.data())
def test_any_changed_byte_of_a_framed_batch_is_seen(
    made: Records, codec: Codec, base_offset: int, behind: int, data: st.DataObject
) -> None:
    batch = encoded(made, codec, Producer())
    placed = batch.header._replace(base_offset=base_offset, leader_epoch=3).pack()
    stored = placed + batch.data[HEADER_BYTES:]
    framed = bytearray(pack_frame(stored, max(0, base_offset - behind), base_offset) + stored)
    read_framed(bytes(framed))
    framed[data.draw(st.integers(0, len(framed) - 1), label="at")] ^= data.draw(
        st.integers(1, 255), label="mask"
    )
    with pytest.raises(REFUSED):
        read_framed(bytes(framed))


def assert_refused_or_consistent(batch: Batch) -> None:
    """Decoding raises one of two errors, or gives columns of the length that the header says. The times alone
    may be had where the rest may not, and are the same.
    """
    times: tuple[Sequence[int], Sequence[int]] | None = None
    with suppress(*REFUSED):
        times = decode_times(parse_batch(batch.data))
        assert [len(column) for column in times] == [batch.header.record_count] * 2
    try:
        decoded = decode_batch(parse_batch(batch.data))
    except REFUSED:
        return
    assert times == (decoded.timestamps, decoded.offsets)
    count = batch.header.record_count
    columns: Sequence[Sequence[Any] | None] = (
        decoded.values,
        decoded.keys,
        decoded.headers,
        decoded.timestamps,
        decoded.offsets,
    )
    assert all(column is None or len(column) == count for column in columns)
    assert len(decoded.records("topic", 0)) == count
    assert all(left < right for left, right in pairwise(decoded.offsets))


@settings(max_examples=1000)
@given(records(), CODECS, st.data())
def test_damage_that_a_right_checksum_covers_is_refused_or_decodes_consistently(
    made: Records, codec: Codec, data: st.DataObject
) -> None:
    batch = bytearray(encoded(made, codec, Producer()).data)
    changes = st.tuples(st.integers(CRC_START, len(batch) - 1), st.integers(0, 255))
    for at, byte in data.draw(st.lists(changes, min_size=1, max_size=4), label="changes"):
        batch[at] = byte
    end = data.draw(st.just(len(batch)) | st.integers(HEADER_BYTES, len(batch)), label="end")
    more = data.draw(st.just(b"") | st.binary(max_size=8), label="more")
    header = parse_header(bytes(batch))
    assert_refused_or_consistent(resealed(header, bytes(batch[HEADER_BYTES:end]) + more))


@settings(max_examples=1000)
@given(
    st.integers(0, (1 << 14) - 1),
    st.integers(-1, 12) | st.integers(-(1 << 31), (1 << 31) - 1),
    st.integers(-1, 12) | st.integers(-(1 << 31), (1 << 31) - 1),
    st.none() | st.integers(0, (1 << 32) - 1),
    st.binary(max_size=120)
    | st.lists(st.integers(0, 3), max_size=30).map(
        lambda numbers: b"".join(number.to_bytes(4, "little") for number in numbers)
    ),
)
def test_any_bytes_behind_any_header_are_refused_or_decode_consistently(
    attributes: int, count: int, last_offset_delta: int, declared: int | None, plain: bytes
) -> None:
    codec = attributes & 0b111
    block = compress(Codec(codec), plain) if codec in (1, 3, 4) else plain
    header = encode_batch([b""], 0).header._replace(
        attributes=attributes | 1 << 7, record_count=count, last_offset_delta=last_offset_delta
    )
    size = len(plain) if declared is None else declared
    # A declared size that is allowed may be allocated, so keep it small unless it is refused.
    if 1 << 20 < size <= 64 << 20:
        size >>= 10
    assert_refused_or_consistent(resealed(header, size.to_bytes(4, "little") + block))


@thorough
@given(st.binary(max_size=300))
def test_any_bytes_at_all_are_no_batch_and_no_frame(data: bytes) -> None:
    with pytest.raises(REFUSED):
        parse_batch(data)
    with pytest.raises(REFUSED):
        check_frame(data, 0)


@thorough
@given(
    st.sampled_from([Codec.NONE, Codec.GZIP, Codec.LZ4, Codec.ZSTD]),
    st.binary(max_size=200),
    st.integers(0, 1 << 16),
)
def test_any_bytes_as_a_block_are_refused_or_give_what_was_declared(
    codec: Codec, block: bytes, size_bytes: int
) -> None:
    with suppress(CorruptBatch):
        assert len(decompress(codec, block, size_bytes)) == size_bytes


@thorough
@given(CODECS, st.binary(min_size=1, max_size=400), st.data())
def test_a_damaged_block_is_refused_or_gives_what_was_declared_within_its_memory(
    codec: Codec, plain: bytes, data: st.DataObject
) -> None:
    block = bytearray(compress(codec, plain * 50))
    for _ in range(data.draw(st.integers(1, 3), label="changes")):
        at = data.draw(st.integers(0, len(block) - 1), label="at")
        block[at] = data.draw(st.integers(0, 255), label="byte")
    declared = len(plain) * 50
    damaged = bytes(block)
    tracemalloc.start()
    try:
        with suppress(CorruptBatch):
            assert len(decompress(codec, damaged, declared)) == declared
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2 * declared + (1 << 18)


@thorough
@given(records(least=0), st.lists(st.integers(0, (1 << 32) - 1), max_size=20))
def test_columns_come_back_whatever_their_flags(made: Records, offsets: list[int]) -> None:
    count = len(made.values)
    deltas = None if isinstance(made.timestamps, int) else made.timestamps
    columns = Columns(
        made.values,
        made.keys,
        made.headers,
        deltas,
        offsets[:count] if len(offsets) >= count else None,
    )
    flags, body = encode_columns(columns)
    decoded = decode_columns(flags, count, body)
    for went_in, came_out in zip(columns, decoded, strict=True):
        assert (came_out is None) == (went_in is None)
        assert list(came_out or ()) == list(went_in or ())


@thorough
@given(
    st.builds(
        BatchHeader,
        base_offset=INT64,
        batch_length=st.integers(-(1 << 31), (1 << 31) - 1),
        leader_epoch=st.integers(-(1 << 31), (1 << 31) - 1),
        magic=st.sampled_from([2, 3, 4]),
        crc=st.integers(0, (1 << 32) - 1),
        attributes=st.integers(0, (1 << 16) - 1),
        last_offset_delta=st.integers(-2, 20),
        base_timestamp=INT64,
        max_timestamp=INT64,
        producer_id=INT64,
        producer_epoch=st.integers(-(1 << 15), (1 << 15) - 1),
        base_sequence=st.integers(-(1 << 31), (1 << 31) - 1),
        record_count=st.integers(-2, 20),
    )
)
def test_any_header_comes_back_and_a_sound_one_keeps_its_promises(header: BatchHeader) -> None:
    assert parse_header(header.pack()) == header
    try:
        check_header(header)
    except REFUSED:
        return
    assert header.size_bytes >= HEADER_BYTES
    assert header.next_offset > header.base_offset
    assert 0 <= header.record_count <= header.last_offset_delta + 1
    assert header.codec in Codec


@thorough
@given(st.text(max_size=300) | st.text("a0._-/", max_size=6))
def test_a_name_that_passes_is_safe_in_a_path_and_in_ascii(name: str) -> None:
    for check, error in (
        (check_topic_name, InvalidTopicName),
        (check_group_name, InvalidGroupName),
    ):
        try:
            check(name)
        except error:
            continue
        assert name.isascii()
        assert not set(name) & set("/\\\0 \n")
        assert name not in {"", ".", ".."}


@thorough
@given(records(), CODECS)
def test_the_declared_size_is_the_size_of_the_columns(made: Records, codec: Codec) -> None:
    plain = encoded(made, Codec.NONE, Producer())
    packed = encoded(made, codec, Producer())
    assert declared_body_bytes(packed) == declared_body_bytes(plain)
    assert len(packed.data) <= len(plain.data)
