"""Trimming and retention: whole old segments go, the new log start is durable first (rule 35)."""

from __future__ import annotations

from random import Random

import pytest

from millpond.wire.batch import Producer
from millpond.wire.errors import StorageFailed, StorageFull
from millpond_broker.storage.log import Log
from tests.sim.disk import SimFiles, SimulatedCrash
from tests.unit.storage.builders import (
    DIRECTORY,
    EPOCH,
    STORED_BYTES,
    VALUE_BYTES,
    batch,
    contents,
    disk,
    expected,
    fill,
    open_log,
    opened,
    per_segment,
    read,
    segment_path,
    sync,
    tiny,
    value,
)
from tests.unit.storage.tap import Countdown, TapFiles, broken, full

OPTIONS = per_segment(3, VALUE_BYTES)
SEGMENT_BYTES = 3 * (STORED_BYTES + VALUE_BYTES)
RECORDS = 11


@pytest.fixture
def files() -> SimFiles:
    return disk()


def filled(files: SimFiles | TapFiles) -> Log:
    log = open_log(files, OPTIONS)
    fill(log, RECORDS)
    sync(log)
    return log


def log_files(files: SimFiles) -> list[str]:
    return sorted(name for name in files.list(DIRECTORY) if name.endswith(".log"))


@pytest.mark.parametrize("start", range(RECORDS + 1))
def test_a_trim_forgets_what_is_below_and_unlinks_whole_segments_only(files: SimFiles, start: int) -> None:
    """Rule 35."""
    log = filled(files)
    log.trim(start)
    assert log.log_start == start
    assert contents(log) == expected(start, RECORDS)
    first = min(start // 3, 3)
    kept = [segment_path(3 * at).name for at in range(first, 4)]
    assert log_files(files) == kept
    fill(log, 3)
    sync(log)
    files.crash()
    with opened(files, OPTIONS) as log:
        assert log.log_start == start
        assert contents(log) == expected(start, RECORDS + 3)


def test_a_trim_below_the_log_start_changes_nothing(files: SimFiles) -> None:
    """The log start never moves back."""
    tap = TapFiles(files)
    log = filled(tap)
    log.trim(5)
    tap.clear()
    log.trim(5)
    log.trim(2)
    assert (log.log_start, tap.changes) == (5, [])
    log.abandon()


def test_what_is_not_durable_cannot_be_trimmed(files: SimFiles) -> None:
    """DESIGN §6: log_start <= durable_end, asserted."""
    with opened(files) as log:
        fill(log, 3)
        with pytest.raises(AssertionError):
            log.trim(1)


def test_the_new_start_is_durable_before_any_segment_is_unlinked(files: SimFiles) -> None:
    """Rule 41: a start never finds records missing."""
    tap = TapFiles(files)
    log = filled(tap)
    tap.clear()
    log.trim(7)
    renamed = tap.changes.index("rename checkpoint")
    assert tap.changes[renamed + 1] == "sync_directory log"
    unlinked = [at for at, change in enumerate(tap.changes) if change.startswith("unlink 0")]
    assert len(unlinked) == 6
    assert min(unlinked) > renamed + 1
    assert "sync_directory log" in tap.changes[max(unlinked) :]
    log.abandon()


def changes_of_a_trim() -> int:
    files = disk()
    log = filled(files)
    before = files.operations
    log.trim(7)
    done = files.operations - before
    log.abandon()
    return done


@pytest.mark.parametrize("operations", range(changes_of_a_trim()))
def test_a_crash_at_any_step_of_a_trim_loses_nothing_above_and_leaves_no_hole(
    operations: int,
) -> None:
    """Rules 35 and 41."""
    files = disk()
    log = filled(files)
    files.crash_after(operations)
    with pytest.raises(SimulatedCrash):
        log.trim(7)
    for seed in range(12):
        machine = files.clone(Random(seed))
        machine.crash()
        with opened(machine, OPTIONS) as after:
            assert after.corruption is None
            assert after.log_start in (0, 7)
            assert contents(after) == expected(after.log_start, RECORDS)
            if after.log_start == 7:
                assert log_files(machine) == [segment_path(6).name, segment_path(9).name]
            after.trim(7)
            fill(after, 2)
            assert contents(after) == expected(7, RECORDS + 2)


@pytest.mark.parametrize("operations", range(changes_of_a_trim()))
@pytest.mark.parametrize("kind", ["full", "broken"])
def test_a_trim_that_fails_at_any_step_loses_nothing_above(operations: int, kind: str) -> None:
    """Rule 40."""
    files = disk()
    tap = TapFiles(files)
    log = filled(tap)
    tap.plan = Countdown(operations, full if kind == "full" else broken, once=True)
    try:
        log.trim(7)
    except StorageFull:
        assert kind == "full"
    except StorageFailed:
        assert kind == "broken"
        log.reopen()
    start = log.log_start
    assert start in (0, 7)
    assert contents(log) == expected(start, RECORDS)
    fill(log, 3)
    sync(log)
    files.crash()
    with opened(files, OPTIONS) as after:
        assert after.corruption is None
        assert after.log_start in (start, 7)
        assert contents(after) == expected(after.log_start, RECORDS + 3)


def test_a_trim_keeps_the_epoch_in_force_at_the_log_start(files: SimFiles) -> None:
    """Rule 3: also after a restart."""
    log = open_log(files, OPTIONS)
    for epoch in (1, 4, 6):
        fill(log, 4, epoch=epoch)
    sync(log)
    log.trim(6)
    assert log.epochs.entries() == [(4, 4), (6, 8)]
    files.crash()
    with opened(files, OPTIONS) as log:
        assert log.epochs.entries() == [(4, 4), (6, 8)]


def test_a_log_trimmed_to_its_end_is_empty_and_goes_on_from_there(files: SimFiles) -> None:
    log = filled(files)
    log.trim(RECORDS)
    assert contents(log) == []
    assert read(log, RECORDS) == []
    log.close(1)
    with opened(files, OPTIONS) as log:
        assert (log.log_start, log.log_end) == (RECORDS, RECORDS)
        fill(log, 2)
        assert contents(log) == expected(RECORDS, RECORDS + 2)


def test_producers_are_remembered_after_all_their_batches_were_trimmed_and_the_log_restarted(
    files: SimFiles,
) -> None:
    """Rule 16: the snapshot outlives the segments."""
    log = open_log(files, OPTIONS)
    log.append([batch(value(0), producer=Producer(7, 0, 5))], EPOCH)
    fill(log, 6)
    sync(log)
    live = log.producers.snapshot()
    log.trim(6)
    files.crash()
    with opened(files, OPTIONS) as log:
        assert log.producers.snapshot() == live == [[7, 0, [[5, 5, 0, 1000]]]]


# --- retention ------------------------------------------------------------------------------------


def retained(files: SimFiles, *, retention_ms: int | None = None, retention_bytes: int | None = None) -> Log:
    """Eleven records of times 1000 to 1010 in four segments."""
    options = tiny(segment_bytes=SEGMENT_BYTES, retention_ms=retention_ms, retention_bytes=retention_bytes)
    log = open_log(files, options)
    fill(log, RECORDS)
    sync(log)
    return log


def test_without_limits_nothing_is_dropped(files: SimFiles) -> None:
    log = retained(files)
    log.retain(now_ms=1 << 50, below=RECORDS)
    assert log.log_start == 0
    log.abandon()


@pytest.mark.parametrize(
    ("now_ms", "start"), [(1102, 0), (1103, 3), (1105, 3), (1106, 6), (1109, 9), (1110, 9)]
)
def test_time_drops_whole_segments_once_their_newest_record_is_too_old(
    files: SimFiles, now_ms: int, start: int
) -> None:
    """Rule 35."""
    log = retained(files, retention_ms=100)
    log.retain(now_ms=now_ms, below=RECORDS)
    assert log.log_start == start
    assert contents(log) == expected(start, RECORDS)
    log.abandon()


def test_the_last_segment_is_sealed_and_dropped_when_all_of_it_is_too_old(files: SimFiles) -> None:
    """Rule 35: or an idle topic would keep its last records for good."""
    log = retained(files, retention_ms=100)
    log.retain(now_ms=1111, below=RECORDS)
    assert (log.log_start, log.log_end) == (RECORDS, RECORDS)
    assert log_files(files) == [segment_path(RECORDS).name]
    log.retain(now_ms=9999, below=RECORDS)
    assert log_files(files) == [segment_path(RECORDS).name], "an empty segment is not sealed"
    fill(log, 1)
    sync(log)
    files.crash()
    with opened(files, OPTIONS) as log:
        assert contents(log) == expected(RECORDS, RECORDS + 1)


@pytest.mark.parametrize(
    ("limit", "start"),
    [
        (4 * SEGMENT_BYTES, 0),
        (SEGMENT_BYTES * 8 // 3 + 1, 0),
        (SEGMENT_BYTES * 8 // 3, 3),
        (SEGMENT_BYTES * 2 // 3 + 1, 6),
        (SEGMENT_BYTES * 2 // 3, 9),
        (0, 9),
    ],
)
def test_size_drops_oldest_segments_while_the_rest_holds_the_limit(
    files: SimFiles, limit: int, start: int
) -> None:
    """Rule 35."""
    log = retained(files, retention_bytes=limit)
    log.retain(now_ms=0, below=RECORDS)
    assert log.log_start == start
    log.abandon()


@pytest.mark.parametrize(("below", "start"), [(0, 0), (2, 0), (3, 3), (5, 3), (8, 6), (10, 9), (11, 11)])
@pytest.mark.parametrize("restarted", [False, True])
def test_nothing_past_the_high_watermark_is_dropped_or_sealed(
    files: SimFiles, below: int, start: int, restarted: bool
) -> None:
    """Rule 35: below HW only."""
    log = retained(files, retention_ms=1)
    if restarted:
        log.close(1)
        log = open_log(files, log.options)
    segments = len(log.segments())
    log.retain(now_ms=1 << 40, below=below)
    assert log.log_start == start
    assert len(log.segments()) == segments - min(start // 3, 3)
    log.abandon()


@pytest.mark.parametrize("operations", range(60))
def test_a_crash_at_any_step_of_retention_loses_nothing_that_is_young_enough(
    operations: int,
) -> None:
    """Rules 35 and 41: with the last segment sealed on the way."""
    files = disk()
    log = retained(files, retention_ms=100)
    before = files.operations
    files.crash_after(operations)
    try:
        log.retain(now_ms=1111, below=RECORDS)
    except SimulatedCrash:
        pass
    else:
        assert operations >= files.operations - before
    for seed in range(4):
        machine = files.clone(Random(seed))
        machine.crash()
        with opened(machine, log.options) as after:
            assert after.corruption is None
            assert after.log_end == RECORDS
            assert contents(after) == expected(after.log_start, RECORDS)
            fill(after, 1)
            after.retain(now_ms=1111, below=RECORDS + 1)
            assert contents(after) == expected(9 if after.log_start == 9 else RECORDS, RECORDS + 1)
