"""Numbers that commands make of what they were told: the cluster's state, percentiles, tables, tallies."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from millpond.admin import BrokerDescription, PartitionDescription, TopicDescription
from millpond.cli.bench import latencies_of
from millpond.cli.cluster import status_of
from millpond.cli.columns import Columns, Format
from millpond.cli.output import counted, print_table
from millpond.cli.records import Parsed
from millpond.cli.sending import Tally

BROKER = BrokerDescription(
    id=1, address="b1:7070", rack="", state="running", controller=True, epoch=1, version="1"
)
PARTITION = PartitionDescription(
    partition=0, leader=1, leader_epoch=3, replicas=(1, 2, 3), isr=(1, 2, 3), elr=()
)


def topic(*partitions: PartitionDescription) -> TopicDescription:
    return TopicDescription(
        name="t", id=uuid.UUID(int=1), replicas=3, min_insync=2, config={}, partitions=partitions
    )


def test_the_state_of_a_cluster_counts_what_is_not_as_it_should_be() -> None:
    topics = [
        topic(PARTITION, replace(PARTITION, isr=(1, 2))),
        topic(replace(PARTITION, isr=(1,)), replace(PARTITION, leader=None, isr=())),
    ]
    assert status_of(
        [replace(BROKER, voter=True), replace(BROKER, id=2, controller=False, state="fenced")], topics
    ) == {
        "controller": 1,
        "brokers": 2,
        "brokers_running": 1,
        "voters": 1,
        "voters_running": 1,
        "topics": 2,
        "partitions": 4,
        "without_leader": 1,
        "under_replicated": 3,
        "under_min_insync": 2,
    }


def test_a_cluster_without_a_controller_says_so() -> None:
    assert status_of([replace(BROKER, controller=False)], [])["controller"] is None


def test_percentiles_are_latencies_that_were_measured() -> None:
    found = latencies_of([n * 1_000_000 for n in range(1000, 0, -1)])
    assert found == {"p50_ms": 501, "p90_ms": 901, "p99_ms": 991, "p99.9_ms": 1000, "max_ms": 1000}
    assert set(latencies_of([5_000_000]).values()) == {5.0}


def test_a_table_is_aligned_with_numbers_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(
        ("NAME", "N", "SET", "UP"),
        [("a", 5, (1, 2), True), ("long", 1000, (), False), ("x", None, (3,), True)],
    )
    assert capsys.readouterr().out == (
        "NAME     N  SET  UP\na        5  1,2  yes\nlong  1000  -    no\nx        -  3    yes\n"
    )


def test_a_table_without_rows_is_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "N"), [])
    assert capsys.readouterr().out == "NAME  N\n"


def test_one_is_not_many() -> None:
    assert [counted(n, "record") for n in (0, 1, 2000)] == ["0 records", "1 record", "2,000 records"]


def test_a_tally_claims_no_acknowledgement_that_nobody_gave() -> None:
    tally = Tally("none", sent=5)
    assert tally.told() == "5 records sent; with --acks none nobody acknowledges them"
    assert tally.as_dict("t")["acknowledged"] is None
    assert Tally("all", sent=5, acknowledged=1).told() == "1 record acknowledged"


def test_a_line_is_a_value_or_a_key_and_a_value() -> None:
    assert Format(json=False, key=b"k").parse(b"a:b") == Parsed(b"k", b"a:b", (), None)
    form = Format(json=False, separator=b":", headers=(("h", b"1"),))
    assert form.parse(b"a:b:c") == Parsed(b"a", b"b:c", (("h", b"1"),), None)
    assert form.parse(b":") == Parsed(b"", b"", (("h", b"1"),), None)
    with pytest.raises(ValueError, match="has no separator ':'"):
        form.parse(b"ab")


def test_headers_of_the_command_line_come_after_those_of_the_object() -> None:
    form = Format(json=True, headers=(("h", b"2"),))
    assert form.parse(b'{"value": "v", "headers": {"h": "1"}}').headers == (("h", b"1"), ("h", b"2"))


def test_columns_that_no_record_needs_are_left_out() -> None:
    bare = Parsed(None, b"v", (), None)
    assert Columns.of([bare, bare]) == Columns([b"v", b"v"], None, None, None)
    some = Columns.of([bare, Parsed(b"k", None, (("h", b"1"),), 7)])
    assert (some.keys, some.values, some.headers) == ([None, b"k"], [b"v", None], [(), (("h", b"1"),)])
    assert some.timestamps is not None
    assert some.timestamps[1] == 7
    assert some.timestamps[0] > 1_700_000_000_000


def test_a_record_is_as_large_as_its_value_key_and_headers_together() -> None:
    columns = Columns.of([Parsed(None, b"1234", (), None), Parsed(b"k", b"12", (("h", b"1"),), None)], line=5)
    assert [columns.first_over(limit) for limit in (3, 4, 5)] == [0, 1, None]
    assert columns.until(1) == Columns([b"1234"], [None], [()], None, 5)
