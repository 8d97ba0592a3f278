"""What `close` waits for, wakes and lets go."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest

from millpond import embedded
from millpond.embedded import queue as queue_module
from millpond.errors import ClientClosed, MillpondError, OperationTimeout, StorageFailed
from tests.unit.embedded.watched import WAIT_SECONDS_MAX, WatchedFiles


def test_closing_again_does_nothing(directory: Path) -> None:
    queue = embedded.open(directory)
    queue.close()
    queue.close()
    with embedded.open(directory) as queue:
        queue.close()


@pytest.mark.parametrize("flush", ["commit", "interval"])
def test_after_close_every_method_raises_client_closed(
    directory: Path, flush: Literal["commit", "interval"]
) -> None:
    with embedded.open(directory, flush=flush) as queue:
        queue.produce(b"k", b"v")
        (record,) = queue.consume("group", timeout=0)
    calls: list[Callable[[], object]] = [
        lambda: queue.produce(b"k", b"v"),
        lambda: queue.produce_many([(b"k", b"v")]),
        lambda: queue.consume("group"),
        lambda: queue.commit("group", record),
        queue.stats,
    ]
    for call in calls:
        with pytest.raises(ClientClosed, match="this queue is closed"):
            call()


def test_an_error_in_the_with_block_closes_the_queue_and_is_passed_on(directory: Path) -> None:
    def fail_at_work() -> None:
        with embedded.open(directory) as queue:
            queue.produce(b"k", b"v")
            raise LookupError

    with pytest.raises(LookupError):
        fail_at_work()
    with embedded.open(directory) as queue:
        assert queue.stats().records == 1


def test_a_clean_close_is_believed_and_nothing_is_verified(directory: Path) -> None:
    with embedded.open(directory) as queue:
        queue.produce_many([(b"%d" % n, b"v") for n in range(100)])
    with embedded.open(directory) as queue:
        assert all(entry.log.recovery.clean_epoch == 0 for entry in queue._partitions)


def test_close_waits_for_calls_under_way_and_they_succeed(directory: Path) -> None:
    files = WatchedFiles()
    queue = embedded.open(directory, files=files)
    reached, go = threading.Event(), threading.Event()

    def hold(operation: str, path: Path) -> None:
        if operation == "sync" and path.suffix == ".log":
            reached.set()
            assert go.wait(WAIT_SECONDS_MAX)

    files.hook = hold
    with ThreadPoolExecutor() as pool:
        producing = pool.submit(queue.produce, b"k", b"v")
        assert reached.wait(WAIT_SECONDS_MAX)
        closing = pool.submit(queue.close)
        while not queue._closing:
            assert not closing.done()
        with pytest.raises(ClientClosed):
            queue.produce(b"k", b"too late")
        assert not producing.done()
        assert not closing.done()
        go.set()
        place = producing.result(WAIT_SECONDS_MAX)
        closing.result(WAIT_SECONDS_MAX)
    with embedded.open(directory) as queue:
        (record,) = queue.consume("group", timeout=0)
        assert (record.partition, record.offset) == place


def test_close_gives_up_on_a_call_that_does_not_end_and_may_be_called_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory stays locked meanwhile: the call may yet write."""
    files = WatchedFiles()
    queue = embedded.open(directory, files=files)
    reached, go = threading.Event(), threading.Event()

    def hold(operation: str, path: Path) -> None:
        if operation == "sync" and path.suffix == ".log":
            reached.set()
            assert go.wait(WAIT_SECONDS_MAX)

    files.hook = hold
    monkeypatch.setattr(queue_module, "_CLOSE_SECONDS_MAX", 0.05)
    with ThreadPoolExecutor() as pool:
        producing = pool.submit(queue.produce, b"k", b"v")
        assert reached.wait(WAIT_SECONDS_MAX)
        with pytest.raises(OperationTimeout, match="closing the queue"):
            queue.close()
        with pytest.raises(MillpondError):
            embedded.open(directory)
        go.set()
        producing.result(WAIT_SECONDS_MAX)
    queue.close()
    with embedded.open(directory) as queue:
        assert queue.stats().records == 1


@pytest.mark.parametrize(("number", "error"), [(errno.EIO, StorageFailed), (errno.ENOSPC, StorageFailed)])
def test_a_close_whose_last_sync_fails_says_so_and_lets_the_directory_go(
    directory: Path, number: int, error: type[MillpondError]
) -> None:
    files = WatchedFiles()
    queue = embedded.open(directory, partitions=2, flush="interval", files=files)
    queue.produce_many([(b"%d" % n, b"v") for n in range(10)])

    def fail(operation: str, path: Path) -> None:
        if operation == "sync" and path.suffix == ".log":
            raise OSError(number, "planted", str(path))

    files.hook = fail
    with pytest.raises(error):
        queue.close()
    queue.close()
    embedded.open(directory, partitions=2, flush="interval").close()


def test_a_close_on_a_full_disk_succeeds_because_everything_acknowledged_is_there(
    directory: Path,
) -> None:
    """Only the mark that spares the next start its verification finds no room."""
    files = WatchedFiles()
    places = []
    with embedded.open(directory, files=files) as queue:
        places += queue.produce_many([(b"%d" % n, b"v") for n in range(10)])

        def fail(operation: str, path: Path) -> None:
            if operation == "write":
                raise OSError(errno.ENOSPC, "planted", str(path))

        files.hook = fail
    with embedded.open(directory) as queue:
        found = {(record.partition, record.offset) for record in queue.consume("group", timeout=0)}
    assert found == set(places)


def test_close_makes_what_flush_interval_left_open_durable_and_ends_its_thread(
    directory: Path,
) -> None:
    before = threading.active_count()
    with embedded.open(directory, flush="interval", config={"flush_interval_ms": 3_600_000}) as queue:
        assert threading.active_count() == before + 2
        queue.produce_many([(b"%d" % n, b"v") for n in range(10)])
    assert threading.active_count() == before
    with embedded.open(directory, flush="interval") as queue:
        assert all(entry.log.recovery.clean_epoch == 0 for entry in queue._partitions)
        assert queue.stats().records == 10


def test_flush_commit_needs_one_thread_for_the_calls_of_the_main_thread(directory: Path) -> None:
    before = threading.active_count()
    with embedded.open(directory) as queue:
        queue.produce(b"k", b"v")
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_threads_that_race_with_close_see_success_or_client_closed_and_nothing_is_lost(
    directory: Path,
) -> None:
    queue = embedded.open(directory)
    placed: list[tuple[int, int]] = []
    enough = threading.Event()

    def write() -> None:
        while True:
            try:
                placed.append(queue.produce(b"%d" % len(placed), b"v"))
            except ClientClosed:
                return
            if len(placed) > 100:
                enough.set()

    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(write) for _ in range(4)]
        assert enough.wait(WAIT_SECONDS_MAX)
        queue.close()
        for writer in writers:
            writer.result(WAIT_SECONDS_MAX)
    with embedded.open(directory) as queue:
        found = [(record.partition, record.offset) for record in queue.consume("group", timeout=0)]
    assert sorted(found) == sorted(placed)
