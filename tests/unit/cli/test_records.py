"""Records as lines: JSON that comes back as it went out, and plain bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millpond import Headers, RecordBatch, TopicPartition
from millpond.cli.records import FIELDS, Parsed, json_lines, parse_json, plain_lines

Batch = RecordBatch[bytes | None, bytes | None]

texts = st.text().map(str.encode)
datas = st.none() | st.binary(max_size=40) | texts
names = st.text(alphabet=st.characters(codec="utf-8"), max_size=5)
headers = st.lists(st.tuples(names, st.binary(max_size=10) | texts), max_size=4)
records = st.tuples(datas, datas, headers, st.integers(0, (1 << 63) - 1))


def batch_of(records: Sequence[tuple[bytes | None, bytes | None, list[tuple[str, bytes]], int]]) -> Batch:
    keys, values, headers, timestamps = map(list, zip(*records, strict=True))
    return RecordBatch(
        TopicPartition("orders", 3),
        values,
        range(10, 10 + len(records)),
        timestamps,
        keys=keys,
        headers=[Headers(pairs) for pairs in headers],
        next_offset=10 + len(records),
    )


@given(st.lists(records, min_size=1, max_size=5))
def test_what_consume_writes_produce_reads_back_whole(
    records: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]], int]],
) -> None:
    lines = json_lines(batch_of(records))
    assert lines.isascii()
    # Readers that split at every line end that Unicode knows see the same lines.
    assert len(lines.decode().splitlines()) == len(records)
    parsed = [parse_json(line) for line in lines.splitlines()]
    assert parsed == [
        Parsed(key, value, tuple(headers), timestamp) for key, value, headers, timestamp in records
    ]


def test_a_json_line_has_the_fields_of_the_contract_in_their_order() -> None:
    batch = batch_of(
        [(b"k", b"\xff\x00", [("h", b"1")], 1700), (None, None, [("h", b"1"), ("h", b"2")], 1701)]
    )
    first, second = (json.loads(line) for line in json_lines(batch).splitlines())
    assert list(first) == list(FIELDS)
    assert first == {
        "topic": "orders",
        "partition": 3,
        "offset": 10,
        "timestamp": 1700,
        "key": "k",
        "value": {"base64": "/wA="},
        "headers": {"h": "1"},
    }
    assert (second["key"], second["value"]) == (None, None)
    assert second["headers"] == [["h", "1"], ["h", "2"]]


def test_json_can_be_of_some_fields_only() -> None:
    batch = batch_of([(b"k", b"v", [], 5)])
    assert json_lines(batch, ("offset", "key")) == b'{"offset": 10, "key": "k"}\n'


def test_plain_lines_are_the_values_as_they_are() -> None:
    batch = batch_of(
        [(None, b"\xff\x00", [], 1), (None, b"", [], 2), (None, None, [], 3), (None, b"x", [], 4)]
    )
    assert plain_lines(batch) == b"\xff\x00\n\n\nx\n"


def test_plain_lines_can_have_other_fields_with_tabs_between() -> None:
    batch = batch_of([(b"k", b"v", [("h", b"1")], 5), (None, None, [], 6)])
    assert plain_lines(batch, FIELDS) == b'orders\t3\t10\t5\tk\tv\t{"h": "1"}\norders\t3\t11\t6\t\t\t{}\n'


def test_a_value_is_all_that_a_json_line_needs() -> None:
    assert parse_json(b'{"value": "v"}') == Parsed(None, b"v", (), None)
    assert parse_json(b' {"value": null, "key": null, "headers": null, "timestamp": null} \r') == Parsed(
        None, None, (), None
    )


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (b"", "is not JSON"),
        (b"v", "is not JSON: Expecting value at column 1"),
        (b'{"value": "v"', "is not JSON"),
        (b"\xff", "is not UTF-8 at byte 0"),
        (b"[1]", "is not a JSON object"),
        (b'"v"', "is not a JSON object"),
        (b"{}", 'has no "value"'),
        (b'{"value": 1}', 'has a "value" that is not text'),
        (b'{"value": {"base64": 1}}', 'has a "value" that is not text'),
        (b'{"value": {"base64": "AA==", "x": 1}}', 'has a "value" that is not text'),
        (b'{"value": {"base64": "A"}}', 'has a "value" whose base64 is none'),
        (b'{"value": {"base64": "AA=="}, "key": ["k"]}', 'has a "key" that is not text'),
        (b'{"value": {"base64": "\xc3\xa9"}}', 'has a "value" whose base64 is none'),
        (b'{"value": "\\ud800"}', 'has a "value" with half a character'),
        (b'{"value": "v", "valu": 1}', "has an unknown field 'valu'"),
        (b'{"value": "v", "timestamp": "now"}', 'has a "timestamp"'),
        (b'{"value": "v", "timestamp": true}', 'has a "timestamp"'),
        (b'{"value": "v", "timestamp": -1}', 'has a "timestamp"'),
        (b'{"value": "v", "timestamp": 1e3}', 'has a "timestamp"'),
        (b'{"value": "v", "headers": "h"}', 'has "headers" that are neither'),
        (b'{"value": "v", "headers": ["ab"]}', 'has "headers" that are neither'),
        (b'{"value": "v", "headers": [[1, "x"]]}', 'has "headers" with a name that is not text'),
        (b'{"value": "v", "headers": {"h": null}}', "has a header 'h' that is null"),
        (b'{"value": "v", "headers": {"h": 1}}', "has a header 'h' that is not text"),
        (b'{"value": "v", "headers": {"\\udc00": "1"}}', "half a character"),
        (b'{"value": ' + b"9" * 5000 + b"}", "is not JSON that makes sense"),
        (b"[" * 100_000, "is not JSON that makes sense"),
    ],
)
def test_a_json_line_that_is_no_record_is_refused_with_what_is_wrong(line: bytes, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        parse_json(line)
