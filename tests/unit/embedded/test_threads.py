"""Many threads on one queue: who waits for whom, and what stays in order."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest

from millpond import embedded
from millpond.embedded import commits
from millpond.errors import DeliveryTimeout, StorageFailed
from millpond.wire.partitioner import partition_for
from tests.unit.embedded.watched import WAIT_SECONDS_MAX, WatchedFiles

THREADS = 8


def key_of(partition: int, partitions: int) -> bytes:
    """A key that goes to this partition."""
    return next(b"%d" % n for n in range(10_000) if partition_for(b"%d" % n, partitions) == partition)


@pytest.mark.parametrize("flush", ["commit", "interval"])
@pytest.mark.parametrize("partitions", [1, 4])
def test_threads_get_distinct_contiguous_offsets_and_keep_their_own_order(
    directory: Path, flush: Literal["commit", "interval"], partitions: int
) -> None:
    """Half of them call produce, half produce_many; keys are shared between threads."""

    def write(thread: int) -> list[tuple[bytes, bytes, tuple[int, int]]]:
        start.wait(WAIT_SECONDS_MAX)
        written = []
        for n in range(60):
            pairs = [(b"%d" % (n % 5), b"%d:%d:%d" % (thread, n, m)) for m in range(3)]
            if thread % 2:
                places = [queue.produce(*pair) for pair in pairs]
            else:
                places = queue.produce_many(pairs)
            written += [(*pair, place) for pair, place in zip(pairs, places, strict=True)]
        return written

    start = threading.Barrier(THREADS)
    with (
        embedded.open(directory, partitions=partitions, flush=flush) as queue,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        by_thread = list(pool.map(write, range(THREADS)))
    everything = [entry for written in by_thread for entry in written]
    offsets: dict[int, set[int]] = defaultdict(set)
    for _, _, (partition, offset) in everything:
        assert offset not in offsets[partition]
        offsets[partition].add(offset)
    for found in offsets.values():
        assert found == set(range(len(found)))
    for written in by_thread:
        last: dict[bytes, int] = {}
        for key, _, (_, offset) in written:
            assert offset > last.get(key, -1)
            last[key] = offset
    with embedded.open(directory, partitions=None, flush=flush) as queue:
        stored = {
            (record.partition, record.offset): (record.key, record.value)
            for record in queue.consume("group", timeout=0)
        }
    assert stored == {place: (key, value) for key, value, place in everything}


class Gate:
    """Holds syncs back until `open` is called, and says how many arrived."""

    def __init__(self, files: WatchedFiles) -> None:
        self.arrived = threading.Semaphore(0)
        self._opened = threading.Event()
        files.hook = self._hold

    def _hold(self, operation: str, path: Path) -> None:
        if operation in ("sync", "sync_file_system") and path.name != "checkpoint.new":
            self.arrived.release()
            assert self._opened.wait(WAIT_SECONDS_MAX)

    def open(self) -> None:
        self._opened.set()


def all_appended(queue: embedded.Queue, records: int) -> None:
    """Wait until that many records were appended, durable or not."""
    until(lambda: sum(entry.log_end for entry in queue.stats().partitions) == records)


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that nothing announces."""
    changed, deadline = threading.Event(), WAIT_SECONDS_MAX
    while not condition():
        assert deadline > 0, "the condition did not come true"
        changed.wait(0.002)
        deadline -= 0.002


@pytest.mark.parametrize("partitions", [1, 8])
def test_producers_that_arrive_during_a_sync_share_the_next_one(directory: Path, partitions: int) -> None:
    files = WatchedFiles()
    with embedded.open(directory, partitions=partitions, files=files) as queue:
        queue.produce_many([(key_of(partition, partitions), b"v") for partition in range(partitions)])
        gate, before = Gate(files), files.syncs
        with ThreadPoolExecutor(32) as pool:
            first = pool.submit(queue.produce, key_of(0, partitions), b"first")
            assert gate.arrived.acquire(timeout=WAIT_SECONDS_MAX)
            rest = [pool.submit(queue.produce, b"%d" % n, b"v") for n in range(31)]
            all_appended(queue, partitions + 32)
            assert not any(future.done() for future in (first, *rest))
            gate.open()
            places = [future.result(WAIT_SECONDS_MAX) for future in (first, *rest)]
        assert len(set(places)) == 32
        assert files.syncs - before == 2


def test_commits_of_many_groups_share_syncs_with_each_other_and_with_producers(
    directory: Path,
) -> None:
    files = WatchedFiles()
    with embedded.open(directory, partitions=1, files=files) as queue:
        queue.produce(b"k", b"v")
        (record,) = queue.consume("reader", timeout=0)
        queue.commit("reader", record)
        gate, before = Gate(files), files.syncs
        with ThreadPoolExecutor(16) as pool:
            first = pool.submit(queue.produce, b"k", b"w")
            assert gate.arrived.acquire(timeout=WAIT_SECONDS_MAX)
            rest = [pool.submit(queue.commit, f"group-{n}", record) for n in range(14)]
            until(lambda: len(queue.stats().groups) == 15)
            gate.open()
            first.result(WAIT_SECONDS_MAX)
            for future in rest:
                future.result(WAIT_SECONDS_MAX)
        assert files.syncs - before == 2
    with embedded.open(directory, partitions=1) as queue:
        assert all(stats.committed == {0: 1} for stats in queue.stats().groups.values())


def test_a_burst_of_threads_costs_far_fewer_syncs_than_records(directory: Path) -> None:
    files = WatchedFiles()
    with embedded.open(directory, files=files) as queue, ThreadPoolExecutor(16) as pool:
        before = files.syncs
        list(pool.map(lambda n: queue.produce(b"%d" % n, b"v"), range(800)))
        assert files.syncs - before < 400


def test_one_partition_that_is_stuck_does_not_keep_the_others_from_appending(
    directory: Path,
) -> None:
    """Nobody holds a lock that all partitions need while it works on one of them."""
    files = WatchedFiles()
    with embedded.open(directory, partitions=2, files=files, flush="interval") as queue:
        stuck, reached = threading.Event(), threading.Event()

        def hold(operation: str, path: Path) -> None:
            if operation == "write" and path.parent.name.startswith("queue-0-"):
                reached.set()
                assert stuck.wait(WAIT_SECONDS_MAX)

        files.hook = hold
        with ThreadPoolExecutor() as pool:
            slow = pool.submit(queue.produce, key_of(0, 2), b"slow")
            assert reached.wait(WAIT_SECONDS_MAX)
            for n in range(100):
                assert queue.produce(key_of(1, 2), b"fast") == (1, n)
            assert len(list(queue.consume("group", partitions=[1], timeout=0))) == 100
            assert not slow.done()
            stuck.set()
            assert slow.result(WAIT_SECONDS_MAX) == (0, 0)


def test_appends_go_on_while_a_sync_is_under_way(directory: Path) -> None:
    files = WatchedFiles()
    with embedded.open(directory, partitions=1, files=files) as queue:
        queue.produce(b"k", b"v")
        gate = Gate(files)
        with ThreadPoolExecutor() as pool:
            futures = [pool.submit(queue.produce, b"k", b"1")]
            assert gate.arrived.acquire(timeout=WAIT_SECONDS_MAX)
            futures.append(pool.submit(queue.produce, b"k", b"2"))
            all_appended(queue, 3)
            assert [record.value for record in queue.consume("group", timeout=0)] == [b"v"]
            gate.open()
            assert [future.result(WAIT_SECONDS_MAX) for future in futures] == [(0, 1), (0, 2)]


def test_a_disk_that_hangs_ends_in_delivery_timeout_with_the_outcome_unknown(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = WatchedFiles()
    with embedded.open(directory, partitions=1, files=files) as queue:
        queue.produce(b"k", b"v")
        gate = Gate(files)
        with ThreadPoolExecutor() as pool:
            syncing = pool.submit(queue.produce, b"k", b"1")
            assert gate.arrived.acquire(timeout=WAIT_SECONDS_MAX)
            monkeypatch.setattr(commits, "SYNC_SECONDS_MAX", 0.05)
            with pytest.raises(DeliveryTimeout) as caught:
                queue.produce(b"k", b"2")
            assert caught.value.outcome == "unknown"
            gate.open()
            assert syncing.result(WAIT_SECONDS_MAX) == (0, 1)
        assert queue.produce(b"k", b"3") == (0, 3)
        assert [record.value for record in queue.consume("group", timeout=0)] == [
            b"v",
            b"1",
            b"2",
            b"3",
        ]


def test_an_interrupt_during_a_sync_leaves_a_queue_that_works_and_closes(directory: Path) -> None:
    """Ctrl-C comes to the main thread, and a produce spends nearly all of its time in the sync."""
    files = WatchedFiles()
    with embedded.open(directory, partitions=2, files=files) as queue:
        queue.produce_many([(key_of(0, 2), b"v"), (key_of(1, 2), b"v")])
        files.hook = interrupt_sync
        with pytest.raises(KeyboardInterrupt):
            queue.produce_many([(key_of(0, 2), b"lost?"), (key_of(1, 2), b"lost?")])
        files.hook = lambda operation, path: None
        assert queue.produce(key_of(0, 2), b"after")[0] == 0
        files.hook = interrupt_sync
        with pytest.raises(KeyboardInterrupt):
            queue.produce(key_of(0, 2), b"lost?")
        files.hook = lambda operation, path: None
    with embedded.open(directory, partitions=2) as queue:
        found = [record.value for record in queue.consume("group", timeout=0)]
    assert [value for value in found if value != b"lost?"] == [b"v", b"after", b"v"]


def interrupt_sync(operation: str, path: Path) -> None:
    """Ctrl-C while the disk is at it."""
    if operation == "sync" and path.suffix == ".log":
        raise KeyboardInterrupt


def test_those_who_waited_for_an_interrupted_sync_are_told_and_nobody_hangs(
    directory: Path,
) -> None:
    files = WatchedFiles()
    with embedded.open(directory, partitions=1, files=files) as queue:
        queue.produce(b"k", b"v")
        reached, go = threading.Event(), threading.Event()

        def hold_then_interrupt(operation: str, path: Path) -> None:
            if operation == "sync" and path.suffix == ".log":
                reached.set()
                assert go.wait(WAIT_SECONDS_MAX)
                files.hook = lambda operation, path: None
                raise KeyboardInterrupt

        files.hook = hold_then_interrupt
        with ThreadPoolExecutor() as pool:
            interrupted = pool.submit(queue.produce, b"k", b"1")
            assert reached.wait(WAIT_SECONDS_MAX)
            waiting = [pool.submit(queue.produce, b"k", b"2") for _ in range(3)]
            all_appended(queue, 5)
            go.set()
            with pytest.raises(KeyboardInterrupt):
                interrupted.result(WAIT_SECONDS_MAX)
            for future in waiting:
                error = future.exception(WAIT_SECONDS_MAX)
                assert isinstance(error, StorageFailed)
                assert error.outcome == "unknown"
        assert queue.produce(b"k", b"3")[0] == 0
