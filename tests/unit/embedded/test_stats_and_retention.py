"""What a queue says of itself, and what it drops on request."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from millpond import embedded
from millpond.embedded import queue as queue_module
from millpond.wire.partitioner import partition_for
from tests.unit.embedded.watched import WAIT_SECONDS_MAX, WatchedFiles


def key_of(partition: int, partitions: int) -> bytes:
    """A key that goes to this partition."""
    return next(b"%d" % n for n in range(10_000) if partition_for(b"%d" % n, partitions) == partition)


# --- stats ----------------------------------------------------------------------------------------


def test_an_empty_queue_is_even(directory: Path) -> None:
    with embedded.open(directory) as queue:
        stats = queue.stats()
    assert (stats.records, stats.skew, stats.groups) == (0, 1.0, {})
    assert [entry.share for entry in stats.partitions] == [0.0] * 4
    assert [entry.partition for entry in stats.partitions] == [0, 1, 2, 3]


def test_skew_and_shares_show_a_hot_partition(directory: Path) -> None:
    with embedded.open(directory, partitions=4) as queue:
        queue.produce_many([(key_of(0, 4), b"v")] * 70)
        for partition in (1, 2, 3):
            queue.produce_many([(key_of(partition, 4), b"v")] * 10)
        stats = queue.stats()
    assert [entry.share for entry in stats.partitions] == [0.7, 0.1, 0.1, 0.1]
    assert stats.skew == pytest.approx(2.8)
    assert stats.records == 100
    hot = stats.partitions[0]
    assert (hot.log_start, hot.readable_end, hot.log_end, hot.segments, hot.state) == (
        0,
        70,
        70,
        1,
        "ok",
    )
    assert hot.size_bytes > stats.partitions[1].size_bytes > 0


def test_lag_counts_what_a_group_has_not_committed_in_every_partition(directory: Path) -> None:
    with embedded.open(directory, partitions=3) as queue:
        for partition in range(3):
            queue.produce_many([(key_of(partition, 3), b"v")] * 10)
        seen = {
            record.partition: record for record in queue.consume("group", timeout=0) if record.offset == 3
        }
        queue.commit("group", seen[0])
        queue.commit("group", seen[2]._replace(offset=9))
        group = queue.stats().groups["group"]
    assert group.committed == {0: 4, 2: 10}
    assert group.lag_records == {0: 6, 1: 10, 2: 0}


def test_stats_taken_while_writers_go_on_add_up(directory: Path) -> None:
    stop = threading.Event()
    with embedded.open(directory, flush="interval") as queue, ThreadPoolExecutor() as pool:

        def write() -> None:
            while not stop.is_set():
                queue.produce(None, b"v")

        writers = [pool.submit(write) for _ in range(3)]
        try:
            while queue.stats().records < 2000:
                stats = queue.stats()
                if stats.records:
                    assert sum(entry.share for entry in stats.partitions) == pytest.approx(1.0)
                    assert 0.999 < stats.skew < 4.001
        finally:
            stop.set()
        for writer in writers:
            writer.result(WAIT_SECONDS_MAX)


# --- retention ------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The wall clock of the queue, in ms; and retention looks at every produce."""
    now = [1_800_000_000_000]
    monkeypatch.setattr(queue_module, "_now_ms", lambda: now[0])
    monkeypatch.setattr(queue_module, "_RETENTION_SECONDS", 0.0)
    monkeypatch.setattr(queue_module, "OsFiles", lambda: WatchedFiles(syncs_really=False))
    return iter([now])


def test_nothing_is_dropped_by_default(directory: Path, clock: Iterator[list[int]]) -> None:
    now = next(clock)
    with embedded.open(directory, partitions=1, config={"segment_bytes": 4096}) as queue:
        for n in range(100):
            queue.produce(b"k", b"%d" % n * 50)
            now[0] += 365 * 24 * 3600 * 1000
        assert queue.stats().records == 100
        assert queue.stats().partitions[0].segments > 1


def test_retention_by_size_drops_oldest_segments_but_keeps_at_least_that_much(
    directory: Path, clock: Iterator[list[int]]
) -> None:
    config = {"segment_bytes": 4096, "retention_bytes": 20_000}
    with embedded.open(directory, partitions=1, config=config) as queue:
        for n in range(200):
            queue.produce(b"k", bytes(1000))
            size_bytes = queue.stats().partitions[0].size_bytes
            assert min(20_000, (n + 1) * 1000) <= size_bytes < 20_000 + 2 * 4096 + 1100
        first = next(queue.consume("group", timeout=0))
        assert first.offset == queue.stats().partitions[0].log_start > 100
    logs = list(directory.rglob("queue-0-*/*.log"))
    assert sum(path.stat().st_size for path in logs) < 30_000


def test_retention_by_age_drops_segments_whose_newest_record_is_older(
    directory: Path, clock: Iterator[list[int]]
) -> None:
    now = next(clock)
    config: dict[str, Any] = {"segment_bytes": 4096, "retention_ms": 60_000}
    with embedded.open(directory, partitions=1, config=config) as queue:
        for _ in range(20):
            queue.produce(b"k", bytes(1000))
        now[0] += 60_000
        queue.produce(b"k", b"fresh")
        assert queue.stats().records == 21
        now[0] += 1
        queue.produce(b"k", b"fresher")
        assert 2 <= queue.stats().records < 10
    now[0] += 60_001
    with embedded.open(directory, partitions=1, config=config) as queue:
        assert queue.stats().records == 0, "an open looks too, and seals the last segment"
        assert queue.produce(b"k", b"v") == (0, 22)


def test_retention_holds_for_one_opening_only(directory: Path, clock: Iterator[list[int]]) -> None:
    with embedded.open(directory, partitions=1, config={"segment_bytes": 4096}) as queue:
        for _ in range(50):
            queue.produce(b"k", bytes(1000))
    with embedded.open(directory, partitions=1, config={"retention_bytes": 4096}) as queue:
        assert queue.stats().records < 10
    with embedded.open(directory, partitions=1, config={"segment_bytes": 4096}) as queue:
        for _ in range(50):
            queue.produce(b"k", bytes(1000))
        assert queue.stats().records > 50


def test_a_group_whose_next_records_were_dropped_skips_them_with_a_warning(
    directory: Path, clock: Iterator[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    with embedded.open(
        directory, partitions=1, config={"segment_bytes": 4096, "retention_bytes": 4096}
    ) as queue:
        queue.produce(b"k", b"first")
        (first,) = queue.consume("group", timeout=0)
        queue.commit("group", first)
        running = queue.consume("running", timeout=0)
        next(running)
        for _ in range(50):
            queue.produce(b"k", bytes(1000))
        log_start = queue.stats().partitions[0].log_start
        with caplog.at_level(logging.WARNING, "millpond.embedded"):
            assert next(queue.consume("group", timeout=0)).offset == log_start
        assert f"group group skips {log_start - 1} records of partition 0" in caplog.text
        assert queue.stats().groups["group"].lag_records == {0: 51 - log_start}
        caplog.clear()
        with caplog.at_level(logging.WARNING, "millpond.embedded"):
            assert next(running).offset == log_start
        assert "group running skips" in caplog.text
        caplog.clear()
        with caplog.at_level(logging.WARNING, "millpond.embedded"):
            assert next(queue.consume("newcomer", timeout=0)).offset == log_start
        assert "skips" not in caplog.text, "a group that never committed missed nothing"


def test_trouble_with_dropping_old_segments_is_logged_and_the_records_are_acknowledged(
    directory: Path, clock: Iterator[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    files = WatchedFiles()
    config = {"segment_bytes": 4096, "retention_bytes": 4096}
    with embedded.open(directory, partitions=1, config=config, files=files) as queue:

        def fail(operation: str, path: Path) -> None:
            if operation == "unlink" and path.suffix == ".log":
                raise OSError(5, "planted", str(path))

        files.hook = fail
        with caplog.at_level(logging.WARNING, "millpond.embedded"):
            for n in range(20):
                assert queue.produce(b"k", bytes(1000)) == (0, n)
        assert "retention of" in caplog.text
        files.hook = lambda operation, path: None
        for n in range(20, 40):
            assert queue.produce(b"k", bytes(1000)) == (0, n)
        assert queue.stats().records < 20
    with embedded.open(directory, partitions=1, config=config) as queue:
        assert [record.offset for record in queue.consume("group", timeout=0)][-1] == 39
