"""Records and headers as a user holds them."""

import pickle
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from millpond.wire.record import NO_HEADERS, Headers, Record, TopicPartition

REPEATED = [("trace", b"1"), ("tenant", b"a"), ("trace", b"2")]


def test_headers_are_a_mapping_in_which_the_last_of_a_repeated_name_wins() -> None:
    headers = Headers(REPEATED)
    assert isinstance(headers, Mapping)
    assert headers["trace"] == b"2"
    assert headers.get("missing") is None
    assert dict(headers) == {"trace": b"2", "tenant": b"a"}
    assert list(headers) == ["trace", "tenant"]
    assert len(headers) == 2
    assert "tenant" in headers
    with pytest.raises(KeyError):
        headers["missing"]


def test_every_pair_is_kept_in_order() -> None:
    assert Headers(REPEATED).multi_items() == tuple(REPEATED)


def test_headers_are_made_of_mappings_pairs_and_other_headers() -> None:
    assert Headers({"a": b"1"}) == Headers([("a", b"1")]) == Headers(iter([("a", b"1")]))
    assert Headers(Headers(REPEATED)).multi_items() == tuple(REPEATED), "no pair is dropped"
    assert Headers.from_items(tuple(REPEATED)) == Headers(REPEATED)
    assert Headers() == NO_HEADERS
    assert not NO_HEADERS


def test_headers_equal_headers_with_the_same_pairs_and_mappings_with_the_same_items() -> None:
    assert Headers(REPEATED) == {"tenant": b"a", "trace": b"2"}
    assert Headers(REPEATED) != Headers({"tenant": b"a", "trace": b"2"})
    assert Headers() != "no mapping"
    assert hash(Headers(REPEATED)) == hash(Headers(REPEATED))
    assert len({Headers(REPEATED), Headers(REPEATED), Headers()}) == 2


@pytest.mark.parametrize("pair", [("a", "1"), (b"a", b"1"), (1, b"1"), ("a", None), ("a", 1)])
def test_anything_but_str_to_bytes_is_refused(pair: tuple[Any, Any]) -> None:
    with pytest.raises(TypeError, match="headers map str to bytes"):
        Headers([pair])
    with pytest.raises(TypeError, match="headers map str to bytes"):
        Headers(dict([pair]))


def test_a_name_that_utf_8_cannot_hold_is_refused_before_it_gets_into_a_batch() -> None:
    assert Headers({"na\u00efve \U0001f41f": b""})
    with pytest.raises(UnicodeEncodeError):
        Headers({"half a pair: \ud83d": b""})


def test_headers_show_and_pickle_every_pair() -> None:
    headers = Headers(REPEATED)
    assert repr(headers) == f"Headers({REPEATED!r})"
    assert pickle.loads(pickle.dumps(headers)).multi_items() == tuple(REPEATED)


def test_a_record_has_no_headers_unless_it_was_given_some() -> None:
    record = Record("orders", 2, 7, 1_500, None, b"value")
    assert record.headers is NO_HEADERS
    assert pickle.loads(pickle.dumps(record)) == record


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (1_700_000_000_123, datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)),
        (-1_500, datetime(1969, 12, 31, 23, 59, 58, 500_000, tzinfo=UTC)),
    ],
)
def test_the_time_of_a_record_is_aware_and_in_utc(timestamp: int, expected: datetime) -> None:
    assert Record("orders", 0, 0, timestamp, None, None).datetime == expected
    assert expected.tzinfo is UTC


def test_a_topic_partition_is_a_tuple_that_sorts_and_hashes() -> None:
    assert sorted({TopicPartition("b", 0), TopicPartition("a", 10), TopicPartition("a", 9)}) == [
        ("a", 9),
        ("a", 10),
        ("b", 0),
    ]
