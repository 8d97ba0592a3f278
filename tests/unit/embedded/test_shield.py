"""Calls of the main thread run in another one, where no signal handler interrupts them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from millpond import embedded
from millpond.embedded.partition import Partition
from millpond.embedded.shield import Arrivals, Shield


def test_nothing_that_changes_a_log_runs_in_the_main_thread(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[threading.Thread] = set()
    for name in ("append", "read", "bounds", "check_takes_appends"):
        original = getattr(Partition, name)

        def watched(*args: object, original: object = original) -> object:
            threads.add(threading.current_thread())
            return original(*args)  # type: ignore[operator]  # a method of Partition

        monkeypatch.setattr(Partition, name, watched)
    with embedded.open(directory) as queue:
        threads.clear()  # opening is another matter: an open that is interrupted lets everything go
        queue.produce(b"k", b"v")
        queue.produce_many([(b"k", b"w")])
        for record in queue.consume("group", timeout=0):
            queue.commit("group", record)
        queue.stats()
    assert len(threads) == 1
    assert threading.main_thread() not in threads


def test_other_threads_run_their_own_calls_and_errors_reach_whoever_called() -> None:
    shield = Shield("thing")
    seen: list[threading.Thread] = []
    other = threading.Thread(target=lambda: seen.append(shield.run(threading.current_thread)))
    other.start()
    other.join()
    assert seen == [other]
    assert shield.run(threading.current_thread).name == "millpond-calls"
    with pytest.raises(ZeroDivisionError):
        shield.run(divmod, 1, 0)
    shield.stop()
    shield.join(10)
    assert shield.run(threading.current_thread) is threading.main_thread(), "after the end, in its own"


def test_a_call_within_a_call_does_not_wait_for_itself() -> None:
    shield = Shield("thing")
    assert shield.run(lambda: shield.run(lambda: 7)) == 7
    shield.stop()
    shield.join(10)


def test_an_arrival_wakes_who_waits_and_is_not_missed_by_who_comes_late() -> None:
    arrivals = Arrivals()
    before = arrivals.count
    assert not arrivals.wait(before, 0)
    arrivals.notify()
    assert arrivals.wait(before, 0), "it came before the wait began"
    woken: list[bool] = []
    thread = threading.Thread(target=lambda: woken.append(arrivals.wait(arrivals.count, 30)))
    thread.start()
    while thread.is_alive():
        arrivals.notify()
    assert woken == [True]
