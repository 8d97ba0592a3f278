"""What a leader refuses of a batch: each refusal is typed, and says that nothing was written."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from millpond.wire.batch import BODY_BYTES_MAX, Batch, Producer, encode_batch, seal
from millpond.wire.compression import Codec
from millpond.wire.errors import (
    CorruptBatch,
    InvalidRecord,
    MillpondError,
    Outcome,
    RecordTooLarge,
    UnsupportedFormat,
)
from millpond.wire.header import HEADER_BYTES, RECORDS_MAX, Attributes
from millpond_broker.core.admission import AdmissionLimits, admit, check_record_size

NOW_MS = 1_700_000_000_000
LIMITS = AdmissionLimits(batch_bytes_max=4096, timestamp_ahead_ms_max=1000)


def sound(**changes: Any) -> bytes:
    """A batch of three records with `changes` in its header, its checksum right for them."""
    batch = encode_batch([b"one", b"two", b"three"], NOW_MS)
    return bytes(seal(batch.header._replace(**changes), batch.data[HEADER_BYTES:]).data)


def with_bits(bits: int) -> bytes:
    batch = encode_batch([b"one"], NOW_MS)
    return sound(attributes=batch.header.attributes | bits)


def admitted(data: bytes | memoryview) -> Batch:
    return admit(data, LIMITS, NOW_MS)


@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_a_sound_batch_comes_back_parsed_with_its_bytes_untouched(
    kind: Callable[[bytes], bytes | memoryview],
) -> None:
    data = sound()
    batch = admitted(kind(data))
    assert bytes(batch.data) == data
    assert batch.header.record_count == 3


@pytest.mark.parametrize("codec", [Codec.GZIP, Codec.LZ4, Codec.ZSTD])
def test_a_compressed_batch_is_judged_by_its_declared_size(codec: Codec) -> None:
    batch = encode_batch([b"x"] * 500, NOW_MS, codec=codec)
    assert len(batch.data) < 4 * 500, "it would not pass by its compressed size"
    assert admitted(batch.data).header.record_count == 500


def test_a_batch_larger_than_the_limit_is_refused_and_one_of_just_the_limit_is_not() -> None:
    data = sound()
    limit = AdmissionLimits(batch_bytes_max=len(data))
    assert admit(data, limit, NOW_MS).header.size_bytes == len(data)
    with pytest.raises(RecordTooLarge) as raised:
        admit(data, AdmissionLimits(batch_bytes_max=len(data) - 1), NOW_MS)
    assert (raised.value.size_bytes, raised.value.limit_bytes) == (len(data), len(data) - 1)
    assert raised.value.outcome is Outcome.NOT_WRITTEN


def test_a_body_that_declares_more_than_any_decoder_makes_room_for_is_refused() -> None:
    batch = encode_batch([b"one"], NOW_MS)
    body = struct.pack("<I", BODY_BYTES_MAX + 1) + bytes(batch.data[HEADER_BYTES + 4 :])
    with pytest.raises(RecordTooLarge) as raised:
        admitted(seal(batch.header, body).data)
    assert raised.value.size_bytes == BODY_BYTES_MAX + 1


def test_every_flipped_bit_is_refused_except_in_what_the_leader_overwrites() -> None:
    """The checksum covers byte 21 to the end; base offset and epoch are the leader's."""
    data = sound()
    overwritten = {*range(8), *range(12, 16)}
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        if bit // 8 in overwritten:
            assert bytes(admitted(flipped_bytes := bytes(flipped)).data) == flipped_bytes
        else:
            with pytest.raises((CorruptBatch, UnsupportedFormat)):
                admitted(bytes(flipped))


def refused(data: bytes, kind: type[MillpondError], reason: str) -> None:
    with pytest.raises(kind, match=reason) as raised:
        admitted(data)
    assert type(raised.value) is kind
    assert getattr(raised.value, "outcome", Outcome.NOT_WRITTEN) is Outcome.NOT_WRITTEN


def test_a_wrong_checksum_is_refused() -> None:
    batch = encode_batch([b"one"], NOW_MS)
    wrong = batch.header._replace(crc=batch.header.crc ^ 1).pack() + batch.data[HEADER_BYTES:]
    refused(wrong, CorruptBatch, "checksum")


@pytest.mark.parametrize("cut", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, -1])
def test_a_batch_cut_short_is_refused(cut: int) -> None:
    refused(sound()[:cut], CorruptBatch, "batch")


def test_bytes_behind_a_batch_are_refused() -> None:
    refused(sound() + b"x", CorruptBatch, "a batch of")


def test_a_body_without_room_for_its_size_is_refused() -> None:
    header = encode_batch([b"one"], NOW_MS).header._replace(batch_length=HEADER_BYTES - 12 + 3)
    refused(bytes(seal(header, b"abc").data), CorruptBatch, "no room")


@pytest.mark.parametrize("magic", [-1, 0, 1, 2, 4, 127])
def test_any_magic_but_ours_is_refused(magic: int) -> None:
    refused(sound(magic=magic), UnsupportedFormat, f"magic {magic}")


@pytest.mark.parametrize("bit", [14, 15])
def test_an_attribute_bit_from_the_future_is_refused(bit: int) -> None:
    refused(with_bits(1 << bit), UnsupportedFormat, "unknown attribute bits")


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_an_unknown_compression_is_refused(codec: int) -> None:
    refused(with_bits(codec), UnsupportedFormat, f"unknown compression {codec}")


def test_attributes_that_deny_the_magic_are_refused() -> None:
    refused(sound(attributes=0), CorruptBatch, "deny the magic")


def test_a_transactional_batch_is_refused_by_name() -> None:
    refused(with_bits(Attributes.TRANSACTIONAL), UnsupportedFormat, "transactional")


@pytest.mark.parametrize(
    "bit",
    [
        Attributes.CONTROL,
        Attributes.DELETE_HORIZON,
        Attributes.LOG_APPEND_TIME,
        Attributes.OFFSET_DELTAS,
    ],
)
def test_a_bit_that_only_a_broker_sets_is_refused(bit: int) -> None:
    refused(with_bits(bit), InvalidRecord, "only a broker sets")


@pytest.mark.parametrize(("record_count", "last_offset_delta"), [(-1, 2), (3, -1), (-1, -2), (4, 2), (2, 2)])
def test_counts_that_are_negative_or_contradict_each_other_are_refused(
    record_count: int, last_offset_delta: int
) -> None:
    data = sound(record_count=record_count, last_offset_delta=last_offset_delta)
    refused(data, CorruptBatch, "record")


def test_compaction_alone_may_leave_offsets_without_records() -> None:
    bits = encode_batch([b"one"], NOW_MS).header.attributes | Attributes.OFFSET_DELTAS
    data = sound(record_count=0, last_offset_delta=9, attributes=bits)
    refused(data, InvalidRecord, "only a broker sets")


def test_a_batch_without_records_is_refused() -> None:
    refused(sound(record_count=0, last_offset_delta=-1), CorruptBatch, "negative")
    refused(sound(record_count=0, last_offset_delta=0), CorruptBatch, "0 records")


def test_more_records_than_the_body_could_hold_are_refused_before_they_eat_offsets() -> None:
    batch = encode_batch([b""] * 3, NOW_MS)
    assert admitted(batch.data).header.record_count == 3, "four bytes a record are enough"
    for count in (4, 1000, RECORDS_MAX):
        header = batch.header._replace(record_count=count, last_offset_delta=count - 1)
        data = bytes(seal(header, batch.data[HEADER_BYTES:]).data)
        refused(data, InvalidRecord, f"{count} records in a body of 12")


@pytest.mark.parametrize("count", [RECORDS_MAX + 1, 2**31 - 1])
def test_more_records_than_any_batch_may_have_are_refused(count: int) -> None:
    refused(sound(record_count=count, last_offset_delta=count - 1), CorruptBatch, "are allowed")


def test_a_time_before_1970_is_refused() -> None:
    assert admitted(encode_batch([b"x"], 0).data).header.base_timestamp == 0
    refused(bytes(encode_batch([b"x"], -1).data), InvalidRecord, "1970")
    refused(bytes(encode_batch([b"x", b"y"], [-1, 5]).data), InvalidRecord, "1970")


def test_a_time_too_far_ahead_is_refused_because_it_would_pin_its_segment() -> None:
    """Rule 35: a future timestamp pins a segment against retention."""
    latest = NOW_MS + LIMITS.timestamp_ahead_ms_max
    assert admitted(encode_batch([b"x"], latest).data).header.max_timestamp == latest
    refused(bytes(encode_batch([b"x"], latest + 1).data), InvalidRecord, "too far ahead")
    refused(bytes(encode_batch([b"x", b"y"], [NOW_MS, latest + 1]).data), InvalidRecord, "too far ahead")


def test_a_greatest_time_before_the_first_is_refused() -> None:
    refused(sound(max_timestamp=NOW_MS - 1), CorruptBatch, "before the first")
    deltas = encode_batch([b"x", b"y"], [NOW_MS, NOW_MS - 9])
    swapped = seal(deltas.header._replace(max_timestamp=NOW_MS - 9), deltas.data[HEADER_BYTES:])
    refused(bytes(swapped.data), InvalidRecord, "not in order")


@pytest.mark.parametrize(
    "producer",
    [
        Producer(7, -1, -1),
        Producer(7, 0, -1),
        Producer(7, -1, 0),
        Producer(-1, 0, 0),
        Producer(-1, -1, 0),
        Producer(-1, 3, -1),
        Producer(-2, -1, -1),
        Producer(-2, 0, 0),
        Producer(7, 0, -2),
    ],
)
def test_a_producer_id_epoch_and_sequence_that_do_not_go_together_are_refused(
    producer: Producer,
) -> None:
    refused(bytes(encode_batch([b"x"], NOW_MS, producer=producer).data), InvalidRecord, "go together")


@pytest.mark.parametrize("producer", [Producer(), Producer(0, 0, 0), Producer(2**62, 2**15 - 1, 2**31 - 1)])
def test_a_whole_producer_or_none_is_admitted(producer: Producer) -> None:
    batch = encode_batch([b"x"], NOW_MS, producer=producer)
    assert admitted(batch.data).header.producer_id == producer.producer_id


def test_a_record_over_the_topic_s_limit_is_refused() -> None:
    """By the mean of a batch, which is exact for one record and refuses none that keeps to the limit."""
    limit = 100
    for values in ([b"x" * limit], [b"x" * limit] * 50, [b""] * 3):
        check_record_size(encode_batch(values, NOW_MS, keys=[None] * len(values)), limit)
    check_record_size(encode_batch([b"x" * 60], NOW_MS, keys=[b"k" * 40]), limit)
    with pytest.raises(RecordTooLarge) as refused:
        check_record_size(encode_batch([b"x" * (limit + 40)], NOW_MS), limit)
    assert refused.value.limit_bytes == limit
