"""What `produce` and `produce_many` promise."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import mmh3
import pytest

from millpond import embedded
from millpond.errors import RecordTooLarge
from tests.unit.embedded.watched import WAIT_SECONDS_MAX, WatchedFiles

Pair = tuple[bytes | None, bytes | None]


def test_produce_returns_partition_and_offset_and_a_consumer_finds_the_record_there(
    directory: Path,
) -> None:
    with embedded.open(directory) as queue:
        partition, offset = queue.produce(b"key", b"value")
        (record,) = queue.consume("group", timeout=0)
    assert (record.partition, record.offset, record.key, record.value) == (
        partition,
        offset,
        b"key",
        b"value",
    )
    assert record.topic == "queue"
    assert dict(record.headers) == {}
    assert record.datetime.year >= 2024


def test_a_key_always_goes_to_the_partition_that_murmur3_says(directory: Path) -> None:
    keys = [b"", b"a", b"customer-7", "naïve".encode(), bytes(range(256))] + [b"%d" % n for n in range(50)]
    with embedded.open(directory, partitions=7) as queue:
        for key in keys:
            expected = mmh3.hash(key, seed=0, signed=False) % 7
            assert queue.produce(key, b"v")[0] == expected
            assert queue.produce_many([(key, b"v")])[0][0] == expected


def test_the_mapping_of_keys_is_pinned_by_values_that_any_client_must_agree_on(
    directory: Path,
) -> None:
    with embedded.open(directory, partitions=4) as queue:
        placed = [queue.produce(key, b"")[0] for key in (b"", b"a", b"hello", b"customer-7")]
    # murmur3 x86 32, seed 0: 0, 0x3c2569b2, 0x248bfa47, 0x84e0a83a
    assert placed == [
        0 % 4,
        0x3C2569B2 % 4,
        0x248BFA47 % 4,
        mmh3.hash(b"customer-7", signed=False) % 4,
    ]


def test_records_without_a_key_go_to_each_partition_in_turn(directory: Path) -> None:
    with embedded.open(directory, partitions=3) as queue:
        placed = [queue.produce(None, b"%d" % n)[0] for n in range(9)]
        assert Counter(placed) == {0: 3, 1: 3, 2: 3}
        assert placed[:3] == placed[3:6] == placed[6:]
        assert {record.key for record in queue.consume("group", timeout=0)} == {None}


def test_records_without_a_key_of_one_call_stay_together_in_order(directory: Path) -> None:
    with embedded.open(directory, partitions=3) as queue:
        placed = queue.produce_many([(None, b"%d" % n) for n in range(5)])
        assert len({partition for partition, _ in placed}) == 1
        assert [offset for _, offset in placed] == [0, 1, 2, 3, 4]
        assert queue.produce_many([(None, b"next")])[0][0] != placed[0][0]


@pytest.mark.parametrize(
    ("key", "value"),
    [(b"k", None), (None, None), (b"", b""), (b"k", b""), (None, b""), (b"", None)],
)
def test_none_and_empty_are_told_apart_in_keys_and_values(
    directory: Path, key: bytes | None, value: bytes | None
) -> None:
    """A value of None is a tombstone."""
    with embedded.open(directory) as queue:
        queue.produce(key, value)
        queue.produce_many([(key, value), (b"other", b"other"), (key, value)])
    with embedded.open(directory) as queue:
        found = [(record.key, record.value) for record in queue.consume("group", timeout=0)]
    assert found.count((key, value)) == 3
    assert found.count((b"other", b"other")) == 1


def test_produce_many_answers_in_the_order_of_the_call_and_keeps_it_in_each_partition(
    directory: Path,
) -> None:
    pairs: list[Pair] = [(b"%d" % (n * 7919 % 13), b"%d" % n) for n in range(500)]
    with embedded.open(directory) as queue:
        queue.produce(b"3", b"before")
        placed = queue.produce_many(pairs)
        by_place = {(record.partition, record.offset): record for record in queue.consume("group", timeout=0)}
    assert len(placed) == len(set(placed)) == len(pairs)
    for place, (key, value) in zip(placed, pairs, strict=True):
        assert (by_place[place].key, by_place[place].value) == (key, value)
    per_partition: dict[int, list[int]] = defaultdict(list)
    for partition, offset in placed:
        per_partition[partition].append(offset)
    for offsets in per_partition.values():
        assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))


def test_produce_many_takes_any_iterable_and_nothing_at_all(directory: Path) -> None:
    with embedded.open(directory) as queue:
        assert queue.produce_many([]) == []
        assert len(queue.produce_many((b"k", b"%d" % n) for n in range(3))) == 3
        assert len(queue.produce_many({b"a": b"1", b"b": b"2"}.items())) == 2


def test_produce_many_larger_than_a_batch_is_stored_whole(directory: Path) -> None:
    pairs: list[Pair] = [(b"k", b"%d" % n) for n in range(25_000)]
    large: list[Pair] = [(b"k", bytes(400_000)) for _ in range(7)]
    with embedded.open(directory) as queue:
        placed = queue.produce_many(pairs + large)
        values = [record.value for record in queue.consume("group", timeout=0)]
    assert [offset for _, offset in placed] == list(range(25_007))
    assert values == [value for _, value in pairs + large]


def test_produce_many_is_one_group_commit_however_many_partitions_it_touches(
    directory: Path,
) -> None:
    files = WatchedFiles()
    with embedded.open(directory, partitions=8, files=files) as queue:
        before = files.syncs
        placed = queue.produce_many([(b"%d" % n, b"v") for n in range(2_000)])
        assert len({partition for partition, _ in placed}) == 8
        assert files.syncs - before == 1
        before = files.syncs
        queue.produce_many([(b"one key", b"v")] * 1_000)
        assert files.syncs - before == 1


def test_flush_commit_syncs_for_each_produce(directory: Path) -> None:
    files = WatchedFiles()
    with embedded.open(directory, files=files) as queue:
        before = files.syncs
        for _ in range(5):
            queue.produce(b"k", b"v")
        assert files.syncs - before == 5


def test_flush_interval_syncs_for_none_and_lets_consumers_read_at_once(directory: Path) -> None:
    files = WatchedFiles()
    config = {"flush_interval_ms": 3_600_000}
    with embedded.open(directory, flush="interval", config=config, files=files) as queue:
        before = files.syncs
        for _ in range(5):
            queue.produce(b"k", b"v")
        assert len(list(queue.consume("group", timeout=0))) == 5
        assert files.syncs == before


def test_flush_interval_syncs_by_itself_within_the_interval(directory: Path) -> None:
    files = WatchedFiles()
    synced = threading.Event()
    with embedded.open(directory, flush="interval", config={"flush_interval_ms": 10}, files=files) as queue:
        files.hook = lambda operation, path: synced.set() if operation == "sync" else None
        queue.produce(b"k", b"v")
        assert synced.wait(WAIT_SECONDS_MAX)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("text", b"v", "key must be bytes or None, not str"),
        (b"k", "text", "value must be bytes or None, not str"),
        (b"k", bytearray(b"v"), "value must be bytes or None, not bytearray"),
        (b"k", 7, "value must be bytes or None, not int"),
    ],
)
def test_anything_but_bytes_is_a_type_error_that_names_the_argument(
    directory: Path, key: Any, value: Any, named: str
) -> None:
    with embedded.open(directory) as queue:
        with pytest.raises(TypeError, match=named):
            queue.produce(key, value)
        with pytest.raises(TypeError, match=named):
            queue.produce_many([(b"fine", b"fine"), (key, value)])
        assert queue.stats().records == 0


def test_a_record_over_the_limit_is_refused_with_nothing_written(directory: Path) -> None:
    with embedded.open(directory, config={"record_bytes_max": 10}) as queue:
        with pytest.raises(RecordTooLarge) as caught:
            queue.produce(b"12345", b"678901")
        assert (caught.value.size_bytes, caught.value.limit_bytes) == (11, 10)
        assert caught.value.outcome == "not_written"
        with pytest.raises(RecordTooLarge):
            queue.produce_many([(b"fine", b"fine"), (b"12345", b"678901"), (b"fine", b"fine")])
        assert queue.stats().records == 0
        queue.produce(b"12345", b"67890")
        assert queue.stats().records == 1
    with embedded.open(directory) as queue:
        assert [record.value for record in queue.consume("group", timeout=0)] == [b"67890"]


def test_an_iterable_that_fails_half_way_writes_nothing(directory: Path) -> None:
    def pairs() -> Any:
        yield b"k", b"v"
        raise LookupError("the source is gone")

    with embedded.open(directory) as queue:
        with pytest.raises(LookupError, match="the source is gone"):
            queue.produce_many(pairs())
        assert queue.stats().records == 0
        assert queue.produce(b"k", b"v")[1] == 0
