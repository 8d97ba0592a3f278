"""Whole batches: pinned bytes, round trips, and every kind of damage seen before it does harm."""

import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest

from millpond.wire import batch as batch_module
from millpond.wire.batch import (
    ANONYMOUS,
    BODY_BYTES_MAX,
    Batch,
    Producer,
    declared_body_bytes,
    decode_batch,
    encode_batch,
    parse_batch,
    seal,
)
from millpond.wire.columns import Columns, encode_columns
from millpond.wire.compression import Codec, compress
from millpond.wire.errors import CorruptBatch, InvalidRecord, RecordTooLarge, UnsupportedFormat
from millpond.wire.frame import FRAME_BYTES, check_frame, pack_frame
from millpond.wire.header import HEADER_BYTES, LENGTH_END, RECORDS_MAX, Attributes, BatchHeader
from millpond.wire.record import Headers, Record

PACKING = [Codec.GZIP, Codec.LZ4, Codec.ZSTD]
INSTALLED = [Codec.NONE, *PACKING]
REFUSED = (CorruptBatch, UnsupportedFormat)


def example(codec: Codec = Codec.NONE) -> Batch:
    """A batch with one of everything but offset deltas."""
    return encode_batch(
        [b"first", None, b""],
        [1_700_000_000_000, 1_699_999_999_999, 1_700_000_000_005],
        keys=[b"key", None, b""],
        headers=[
            Headers([("trace", b"\x01"), ("trace", b"")]),
            Headers(),
            Headers({"na\u00efve": b"x"}),
        ],
        codec=codec,
        producer=Producer(producer_id=7, epoch=1, base_sequence=42),
    )


def resealed(header: BatchHeader, body: bytes | memoryview, **changes: Any) -> Batch:
    """A batch with a right length and checksum, whatever it says."""
    length = HEADER_BYTES - LENGTH_END + len(body)
    return seal(header._replace(**{"batch_length": length, **changes}), body)


def with_body(
    flags: int, count: int, size: int, block: bytes, *, last_offset_delta: int | None = None
) -> Batch:
    """A sealed batch around any block, with any declared size."""
    delta = count - 1 if last_offset_delta is None else last_offset_delta
    return resealed(
        encode_batch([b""], 0).header,
        size.to_bytes(4, "little") + block,
        attributes=flags,
        record_count=count,
        last_offset_delta=delta,
    )


class TestFormat:
    def test_a_batch_with_everything_has_these_bytes(self) -> None:
        """If this fails, the format has changed: old logs and old clients cannot be read."""
        assert example().data.hex(" ", 4) == (
            # base offset, length, leader epoch, magic and checksum
            "00 00000000 00000000 0000a5ff ffffff03 5c421c4f "
            # attributes, last offset delta, base and max timestamp
            "1f800000 00020000 018bcfe5 68000000 018bcfe5 68050000 "
            # producer id, epoch and sequence, count, size of the body
            "00000000 00070001 0000002a 00000003 70000000 "
            # lengths of values and keys, null bitmaps, lengths of headers
            "05000000 00000000 00000000 03000000 00000000 00000000 02020200 00000000 "
            "00000100 00000500 00000500 00000600 00000100 00000000 00000100 0000"
            # timestamp deltas
            "0000 00000000 0000ffff ffffffff ffff0500 00000000 0000"
            # keys, values, header names, header values
            "6b65 79666972 73747472 61636574 72616365 6e61c3af 76650178"
        )

    def test_the_smallest_batch_has_these_bytes(self) -> None:
        assert encode_batch([b"a", b"b"], 0).data.hex() == (
            "0000000000000000" + "0000003f" + "ffffffff" + "03" + "250bc103" + "0080" + "00000001"
            "0000000000000000" + "0000000000000000" + "ffffffffffffffff" + "ffff" + "ffffffff"
            "00000002" + "0a000000" + "01000000" + "01000000" + "6162"
        )

    @pytest.mark.parametrize("codec", INSTALLED)
    def test_equal_records_give_equal_bytes(self, codec: Codec) -> None:
        assert example(codec).data == example(codec).data

    def test_a_new_batch_has_no_place_and_says_whose_it_is(self) -> None:
        header = example().header
        assert (header.base_offset, header.leader_epoch) == (0, -1)
        assert (header.producer_id, header.producer_epoch, header.base_sequence) == (7, 1, 42)
        assert (header.record_count, header.last_offset_delta) == (3, 2)
        assert (header.base_timestamp, header.max_timestamp) == (
            1_700_000_000_000,
            1_700_000_000_005,
        )
        assert encode_batch([b""], 0).header[-4:-1] == ANONYMOUS

    def test_the_header_of_a_batch_is_the_one_in_its_bytes(self) -> None:
        for codec in INSTALLED:
            made = example(codec)
            assert parse_batch(made.data) == made

    def test_a_leader_places_a_batch_without_touching_what_the_checksum_covers(self) -> None:
        made = example()
        placed = made.header._replace(base_offset=1 << 40, leader_epoch=9)
        parsed = parse_batch(placed.pack() + bytes(made.data[HEADER_BYTES:]))
        assert parsed.header == placed
        assert list(decode_batch(parsed).offsets) == [1 << 40, (1 << 40) + 1, (1 << 40) + 2]

    def test_equal_timestamps_take_no_column(self) -> None:
        one, many = encode_batch([b"a", b"b"], 5), encode_batch([b"a", b"b"], [5, 5])
        assert one.data == many.data
        assert not one.header.attributes & Attributes.TIMESTAMP_DELTAS
        assert list(decode_batch(one).timestamps) == [5, 5]

    @pytest.mark.parametrize("codec", PACKING)
    def test_a_block_that_its_codec_does_not_shrink_is_stored_plain(self, codec: Codec) -> None:
        assert encode_batch([b"tiny"], 0, codec=codec).header.codec is Codec.NONE
        assert encode_batch([b"long" * 100], 0, codec=codec).header.codec is codec

    def test_timestamps_of_another_number_are_a_bug_of_the_caller(self) -> None:
        for timestamps in ([5], [5, 6], [5, 5, 5]):
            with pytest.raises(AssertionError):
                encode_batch([b"a", b"b"] if len(timestamps) != 2 else [b"a"], timestamps)

    def test_no_record_is_no_batch_of_a_producer(self) -> None:
        with pytest.raises(AssertionError):
            encode_batch([], 0)

    def test_a_body_that_no_decoder_would_take_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(batch_module, "BODY_BYTES_MAX", 100)
        encode_batch([b"a" * 96], 0)
        with pytest.raises(RecordTooLarge) as caught:
            encode_batch([b"a" * 97], 0)
        assert (caught.value.size_bytes, caught.value.limit_bytes) == (101, 100)


class TestDecoding:
    @pytest.mark.parametrize("codec", INSTALLED)
    def test_records_come_back_as_they_went_in(self, codec: Codec) -> None:
        decoded = decode_batch(parse_batch(memoryview(example(codec).data)))
        assert decoded.records("orders", 3) == [
            Record(
                "orders",
                3,
                0,
                1_700_000_000_000,
                b"key",
                b"first",
                Headers([("trace", b"\x01"), ("trace", b"")]),
            ),
            Record("orders", 3, 1, 1_699_999_999_999, None, None),
            Record("orders", 3, 2, 1_700_000_000_005, b"", b"", Headers({"na\u00efve": b"x"})),
        ]
        assert all(type(record) is Record for record in decoded.records("orders", 3))

    def test_what_no_record_has_is_none_and_reads_as_absent(self) -> None:
        decoded = decode_batch(encode_batch([b"a"], 1))
        assert decoded.keys is None
        assert decoded.headers is None
        assert decoded.records("orders", 0) == [Record("orders", 0, 0, 1, None, b"a")]

    def test_log_append_time_stands_for_every_timestamp(self) -> None:
        made = example()
        attributes = made.header.attributes | Attributes.LOG_APPEND_TIME
        batch = resealed(made.header, made.data[HEADER_BYTES:], attributes=attributes, max_timestamp=99 << 40)
        assert list(decode_batch(parse_batch(batch.data)).timestamps) == [99 << 40] * 3

    def compacted(self, deltas: Sequence[int], last_offset_delta: int) -> Batch:
        values = [b"v"] * len(deltas)
        flags, body = encode_columns(Columns(values, offset_deltas=deltas))
        return with_body(flags, len(deltas), len(body), body, last_offset_delta=last_offset_delta)

    @pytest.mark.parametrize(("deltas", "last"), [([0], 0), ([5], 9), ([0, 3, 9], 9), ([], 9), ([], 0)])
    def test_a_compacted_batch_keeps_its_offsets_and_its_end(self, deltas: list[int], last: int) -> None:
        batch = parse_batch(self.compacted(deltas, last).data)
        assert list(decode_batch(batch).offsets) == deltas
        assert batch.header.next_offset == last + 1

    @pytest.mark.parametrize(
        ("deltas", "last", "reason"),
        [
            ([0, 0], 9, "do not increase"),
            ([3, 2], 9, "do not increase"),
            ([0, 10], 9, "past the end"),
            ([0xFFFF_FFFF], 9, "past the end"),
        ],
    )
    def test_offsets_out_of_order_or_bounds_are_corrupt(
        self, deltas: list[int], last: int, reason: str
    ) -> None:
        with pytest.raises(CorruptBatch, match=reason):
            decode_batch(parse_batch(self.compacted(deltas, last).data))

    def test_the_declared_size_is_read_without_unpacking(self) -> None:
        assert declared_body_bytes(example()) == 112
        assert declared_body_bytes(encode_batch([b"a" * 1000], 0, codec=Codec.ZSTD)) == 1004

    @pytest.mark.parametrize("body", [b"", b"\0", b"\0\0\0"])
    def test_no_room_for_the_declared_size_is_corrupt(self, body: bytes) -> None:
        batch = parse_batch(resealed(encode_batch([b""], 0).header, body).data)
        for use in (declared_body_bytes, decode_batch):
            with pytest.raises(CorruptBatch, match="no room for the size"):
                use(batch)


class TestRefusing:
    def test_a_batch_is_refused_unless_its_length_is_exact(self) -> None:
        data = bytes(example().data)
        for bad in (data + b"\0", data[:-1], data[:HEADER_BYTES]):
            with pytest.raises(CorruptBatch, match="a batch of 177 bytes in"):
                parse_batch(bad)
        for size in range(HEADER_BYTES):
            with pytest.raises(CorruptBatch):
                parse_batch(data[:size])

    @pytest.mark.parametrize("magic", [0, 1, 2, 4])
    def test_another_magic_is_unsupported(self, magic: int) -> None:
        made = example()
        with pytest.raises(UnsupportedFormat, match=f"magic {magic}"):
            parse_batch(resealed(made.header, made.data[HEADER_BYTES:], magic=magic).data)

    @pytest.mark.parametrize("codec", [5, 6, 7])
    def test_an_unknown_codec_is_unsupported(self, codec: int) -> None:
        with pytest.raises(UnsupportedFormat, match=f"unknown compression {codec}"):
            parse_batch(with_body(Attributes.COLUMNS | codec, 1, 4, bytes(4)).data)

    @pytest.mark.parametrize("bit", [14, 15])
    def test_an_unknown_attribute_bit_is_unsupported(self, bit: int) -> None:
        with pytest.raises(UnsupportedFormat, match="unknown attribute bits"):
            parse_batch(with_body(Attributes.COLUMNS | 1 << bit, 1, 4, bytes(4)).data)

    def test_snappy_is_a_sound_batch_that_this_installation_cannot_read(self) -> None:
        batch = parse_batch(with_body(Attributes.COLUMNS | Codec.SNAPPY, 1, 4, bytes(4)).data)
        with pytest.raises(UnsupportedFormat, match="snappy compression is not installed"):
            decode_batch(batch)

    @pytest.mark.parametrize("codec", INSTALLED)
    def test_every_changed_byte_of_a_framed_batch_is_seen(self, codec: Codec) -> None:
        framed = framed_batch(codec)
        read_framed(framed)
        for at in range(len(framed)):
            for mask in (0x01, 0x10, 0x55, 0x80, 0xFF):
                bad = bytearray(framed)
                bad[at] ^= mask
                with pytest.raises(REFUSED):
                    read_framed(bytes(bad))

    def test_every_flipped_bit_of_a_small_framed_batch_is_seen(self) -> None:
        data = bytes(encode_batch([b"ab"], 0).data)
        framed = pack_frame(data, 0, 0) + data
        for bit in range(8 * len(framed)):
            bad = bytearray(framed)
            bad[bit >> 3] ^= 1 << (bit & 7)
            with pytest.raises(REFUSED):
                read_framed(bytes(bad))

    def test_a_framed_batch_cut_anywhere_is_seen(self) -> None:
        framed = framed_batch(Codec.NONE)
        for size in range(len(framed)):
            with pytest.raises(CorruptBatch):
                read_framed(framed[:size])


def framed_batch(codec: Codec) -> bytes:
    """A batch as a replica stores it: placed, and behind its frame."""
    made = encode_batch(
        [b"some value"] * 20,
        list(range(20)),
        keys=[b"some key"] * 19 + [None],
        headers=[Headers({"name": b"content"})] * 20,
        codec=codec,
    )
    assert made.header.codec is codec
    placed = made.header._replace(base_offset=1_000, leader_epoch=5)
    data = placed.pack() + bytes(made.data[HEADER_BYTES:])
    return pack_frame(data, 990, 1_000) + data


def read_framed(data: bytes) -> Batch:
    """What a scan of a log believes."""
    check_frame(data, 0)
    return parse_batch(data[FRAME_BYTES:])


def peak_bytes_of_refusal(batch: Batch) -> int:
    """The most that was allocated at once until a batch was refused, which a checksum vouches
    for.
    """
    for codec in PACKING:
        decode_batch(encode_batch([b"warm" * 100], 0, codec=codec))
    parsed = parse_batch(batch.data)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptBatch):
            decode_batch(parsed)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class TestMemory:
    """A checksum is no protection from who made the batch: sizes are believed only within
    bounds.
    """

    SMALL = 1 << 20

    @pytest.mark.parametrize("codec", PACKING)
    def test_a_bomb_that_declares_little_stays_packed(self, codec: Codec) -> None:
        bomb = compress(codec, bytes(BODY_BYTES_MAX))
        batch = with_body(Attributes.COLUMNS | codec, 1, 1000, bomb)
        assert peak_bytes_of_refusal(batch) < self.SMALL

    @pytest.mark.parametrize("codec", INSTALLED)
    @pytest.mark.parametrize("declared", [BODY_BYTES_MAX + 1, 0xFFFF_FFFF])
    def test_more_than_the_limit_is_refused_before_anything_is_made(
        self, codec: Codec, declared: int
    ) -> None:
        block = compress(codec, bytes(100))
        batch = with_body(Attributes.COLUMNS | codec, 1, declared, block)
        assert peak_bytes_of_refusal(batch) < self.SMALL

    @pytest.mark.parametrize("codec", PACKING)
    def test_a_small_block_that_declares_much_costs_what_it_declares_at_most_twice(
        self, codec: Codec
    ) -> None:
        declared = 8 << 20
        batch = with_body(Attributes.COLUMNS | codec, 1, declared, compress(codec, bytes(100)))
        assert peak_bytes_of_refusal(batch) < 2 * declared + self.SMALL

    @pytest.mark.parametrize(
        "flag",
        [
            0,
            Attributes.KEYS,
            Attributes.NULL_VALUES,
            Attributes.HEADERS,
            Attributes.TIMESTAMP_DELTAS,
            Attributes.OFFSET_DELTAS,
        ],
    )
    def test_a_huge_count_in_a_small_body_costs_nothing(self, flag: int) -> None:
        batch = with_body(Attributes.COLUMNS | flag, RECORDS_MAX, 40, b"\xff" * 40)
        assert peak_bytes_of_refusal(batch) < self.SMALL

    def test_huge_lengths_in_a_small_body_cost_nothing(self) -> None:
        for flag in (0, Attributes.KEYS, Attributes.HEADERS):
            batch = with_body(Attributes.COLUMNS | flag, 2, 40, b"\xff" * 40)
            assert peak_bytes_of_refusal(batch) < self.SMALL

    @pytest.mark.parametrize("codec", PACKING)
    def test_records_cost_a_fixed_multiple_of_the_body_even_when_they_are_all_empty(
        self, codec: Codec
    ) -> None:
        """The worst ratio: an empty record is 4 bytes of body, an empty header 8, and objects
        each.
        """
        count = 1 << 16
        empty = [Headers({"": b""})] * count
        batch = encode_batch([b""] * count, 0, headers=empty, codec=codec)
        assert len(batch.data) < declared_body_bytes(batch) / 50
        tracemalloc.start()
        try:
            decoded = decode_batch(batch)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert len(decoded.values) == count
        assert peak < 32 * declared_body_bytes(batch)


@pytest.mark.parametrize("timestamps", [2**63, -(2**63), [0, 2**63], [-(2**63), 0]])
def test_a_timestamp_that_does_not_fit_is_refused_by_name(timestamps: int | list[int]) -> None:
    with pytest.raises(InvalidRecord, match="no time that a record can have"):
        encode_batch([b"a", b"b"], timestamps)


def test_more_records_than_a_reader_should_make_are_refused() -> None:
    batch = encode_batch([b"a"], 1)
    count = RECORDS_MAX + 1
    crowded = seal(
        batch.header._replace(record_count=count, last_offset_delta=count - 1), batch.data[HEADER_BYTES:]
    )
    with pytest.raises(CorruptBatch, match="are allowed"):
        parse_batch(crowded.data)
