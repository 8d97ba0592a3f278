"""What a user gets of a fetched batch."""

from __future__ import annotations

import pytest

from millpond._core.fetch_buffer import FetchedBatch
from millpond._core.handout import Reading, RecordBatch, Refused, open_batch
from millpond._core.serdes import decode_with
from millpond._core.session import Cursor
from millpond.wire.batch import Batch, encode_batch, seal
from millpond.wire.errors import CorruptBatch, DeserializationError, UnsupportedFormat
from millpond.wire.header import HEADER_BYTES, Attributes
from millpond.wire.record import BadRecord, Headers, Record, TopicPartition
from tests.unit.client_core.leader import TOPIC_ID, placed

KEY = TopicPartition("t", 3)
NUMBERS = Reading(decode_value=decode_with(int, "value_deserializer"))


def fetched(batch: Batch, start: int = 0, stop: int | None = None) -> FetchedBatch:
    return FetchedBatch(Cursor(KEY, TOPIC_ID, start, start, False, stop), 0, 1, batch, start, stop)


def only(item: FetchedBatch, reading: Reading = Reading()) -> RecordBatch[object, object]:  # noqa: B008 - immutable
    (part,) = open_batch(item, reading)
    assert isinstance(part, RecordBatch)
    return part


def test_columns_and_records_say_the_same() -> None:
    batch = encode_batch([b"v", None], [5, 6], keys=[None, b"k"], headers=[Headers(), Headers({"h": b"1"})])
    part = only(fetched(batch))
    assert (part.topic, part.partition, len(part), part.next_offset) == ("t", 3, 2, 2)
    assert list(part.values) == [b"v", None]
    assert list(part.keys) == [None, b"k"]
    assert list(part.timestamps) == [5, 6]
    assert list(part.offsets) == [0, 1]
    assert list(part.headers) == [Headers(), Headers({"h": b"1"})]
    assert part.records() == [
        Record("t", 3, 0, 5, None, b"v", Headers()),
        Record("t", 3, 1, 6, b"k", None, Headers({"h": b"1"})),
    ]


def test_columns_that_are_not_there_are_made_when_asked_for() -> None:
    part = only(fetched(placed([b"a", b"b"], 0)))
    assert list(part.keys) == [None, None]
    assert list(part.headers) == [Headers(), Headers()]


def test_records_outside_what_is_wanted_are_left_out() -> None:
    part = only(fetched(placed([b"a", b"b", b"c", b"d"], 10), start=11, stop=13))
    assert list(part.values) == [b"b", b"c"]
    assert list(part.offsets) == [11, 12]
    assert part.next_offset == 13
    assert open_batch(fetched(placed([b"a"], 10), start=11), Reading()) == []


def test_the_systems_own_batches_are_not_for_users() -> None:
    plain = placed([b"a"], 0)
    attributes = plain.header.attributes | Attributes.CONTROL
    control = seal(plain.header._replace(attributes=attributes), plain.data[HEADER_BYTES:])
    assert open_batch(fetched(control), Reading()) == []


def test_values_and_keys_are_deserialized_and_null_is_kept() -> None:
    batch = encode_batch([b"1", None], 5, keys=[b"k", None])
    part = only(fetched(batch), Reading(decode_with(bytes.decode, "k"), decode_with(int, "v")))
    assert list(part.values) == [1, None]
    assert list(part.keys) == ["k", None]


def test_what_cannot_be_deserialized_is_raised_in_its_place() -> None:
    item = fetched(placed([b"1", b"x", b"y", b"4"], 10))
    before, first, second, behind = open_batch(item, NUMBERS)
    assert isinstance(before, RecordBatch)
    assert (list(before.values), before.next_offset) == ([1], 11)
    assert isinstance(first, Refused)
    assert isinstance(first.error, DeserializationError)
    assert first.next_offset == 12
    assert first.error.record == Record("t", 3, 11, 1010, None, b"x")
    assert "offset 11: ValueError" in str(first.error)
    assert isinstance(first.error.__cause__, ValueError)
    assert isinstance(second, Refused)
    assert second.next_offset == 13
    assert isinstance(behind, RecordBatch)
    assert (list(behind.values), list(behind.offsets), behind.next_offset) == ([4], [13], 14)


def test_at_the_ends_of_a_batch_too() -> None:
    (only_one,) = open_batch(fetched(placed([b"x"], 0)), NUMBERS)
    assert isinstance(only_one, Refused)
    assert only_one.next_offset == 1
    last = open_batch(fetched(placed([b"1", b"x"], 0)), NUMBERS)[-1]
    assert isinstance(last, Refused)
    assert last.next_offset == 2


def test_or_delivered_raw_with_its_error() -> None:
    batch = encode_batch([b"1", b"x"], 5, keys=[b"k", b"l"])
    reading = Reading(decode_with(bytes.decode, "k"), decode_with(int, "v"), deliver_bad=True)
    part = only(fetched(batch), reading)
    assert list(part.values) == [1, b"x"]
    assert list(part.keys) == ["k", b"l"]
    good, bad = part.records()
    assert good.error is None
    assert isinstance(bad, BadRecord)
    assert isinstance(bad.error, DeserializationError)
    assert (bad.offset, bad.value) == (1, b"x")
    assert [record.error for record in part.slice(1, 2).records()] == [bad.error]


def damaged(base_offset: int) -> Batch:
    """Its checksum holds, its columns do not."""
    plain = placed([b"abc", b"d"], base_offset)
    body = bytearray(plain.data[HEADER_BYTES:])
    body[4] = 200  # the length of the first value
    return seal(plain.header, bytes(body))


def test_a_batch_whose_columns_do_not_hold_is_refused_as_a_whole() -> None:
    (part,) = open_batch(fetched(damaged(10)), Reading())
    assert isinstance(part, Refused)
    assert part.next_offset == 12
    assert part.error.record.offset == 10
    assert isinstance(part.error.record.error, CorruptBatch)
    assert part.error.record.value == bytes(damaged(10).data)


def test_or_delivered_as_one_bad_record() -> None:
    part = only(fetched(damaged(10), start=11), Reading(deliver_bad=True))
    (record,) = part.records()
    assert isinstance(record.error, CorruptBatch)
    assert (record.offset, part.next_offset) == (11, 12)


@pytest.mark.parametrize("deliver_bad", [False, True])
def test_so_is_one_of_a_kind_that_this_version_does_not_know(deliver_bad: bool) -> None:
    item = fetched(placed([b"a"], 0))._replace(unreadable=UnsupportedFormat(what="magic 9"))
    (part,) = open_batch(item, Reading(deliver_bad=deliver_bad))
    record = part.error.record if isinstance(part, Refused) else part.records()[0]
    assert isinstance(record.error, UnsupportedFormat)
