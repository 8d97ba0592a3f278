"""A full disk refuses appends, changes nothing, and is over when there is room again (rule 40)."""

from __future__ import annotations

from contextlib import suppress
from random import Random

import pytest

from millpond.wire.batch import Producer
from millpond.wire.errors import Outcome, StorageFailed, StorageFull
from millpond_broker.storage.log import Log, LogOptions
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
    get,
    last_segment,
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

BATCH_BYTES = STORED_BYTES + VALUE_BYTES


@pytest.fixture
def files() -> SimFiles:
    return disk()


def used_bytes(files: SimFiles) -> int:
    return sum(files.list(DIRECTORY).values())


def leave_room(files: SimFiles, room_bytes: int) -> None:
    files.capacity_bytes = used_bytes(files) + room_bytes


def state(log: Log) -> object:
    return (
        log.log_start,
        log.log_end,
        log.segments(),
        log.epochs.entries(),
        log.producers.snapshot(),
        contents(log),
    )


def test_an_append_without_room_is_not_written_at_whatever_byte_the_room_ended(
    files: SimFiles,
) -> None:
    """Rule 40: a short write truncates back to the last whole batch, retriable."""
    with opened(files) as log:
        fill(log, 2)
        sync(log)
        fill(log, 1)
        before = state(log)
        stored = get(files, last_segment(log))
        for room_bytes in range(2 * BATCH_BYTES):
            leave_room(files, room_bytes)
            with pytest.raises(StorageFull) as raised:
                log.append([batch(value(3)), batch(value(4))], EPOCH)
            assert raised.value.outcome is Outcome.NOT_WRITTEN
            assert raised.value.retriable
            assert state(log) == before
            assert get(files, last_segment(log)) == stored
        leave_room(files, 2 * BATCH_BYTES)
        assert log.append([batch(value(3), timestamp=1003)], EPOCH) == (3, 4)
        fill(log, 1)
        assert contents(log) == expected(0, 5)


def test_a_refused_append_of_several_writes_leaves_none_of_them(files: SimFiles) -> None:
    """Rule 40: all or none, also past what one vectored write takes."""
    with opened(files) as log:
        fill(log, 1)
        leave_room(files, 700 * BATCH_BYTES)
        with pytest.raises(StorageFull):
            log.append([batch(value(at)) for at in range(2000)], EPOCH)
        assert log.log_end == 1
        assert files.list(DIRECTORY)[last_segment(log).name] == BATCH_BYTES
        fill(log, 3)
        assert contents(log) == expected(0, 4)


@pytest.mark.parametrize("room_bytes", [0, 1, BATCH_BYTES, 2 * BATCH_BYTES - 1])
def test_a_refused_record_is_not_there_after_a_crash_at_any_later_point(
    files: SimFiles, room_bytes: int
) -> None:
    """Rules 8 and 40: StorageFull says not_written, for good."""
    with opened(files) as log:
        fill(log, 2)
        leave_room(files, room_bytes)
        with pytest.raises(StorageFull):
            log.append([batch(b"refused!"), batch(b"refused!")], EPOCH)
        stages = [files.clone(Random(0))]
        assert log.durable_end == 2, "the cut was synced, and all before it with it"
        files.capacity_bytes = None
        fill(log, 1)
        stages.append(files.clone(Random(0)))
        sync(log)
        stages.append(files.clone(Random(0)))
    for stage in stages:
        for seed in range(8):
            machine = stage.clone(Random(seed))
            machine.crash()
            with opened(machine) as log:
                assert contents(log) == expected(0, log.log_end)
                assert log.log_end >= 2


@pytest.mark.parametrize("operations", range(3))
def test_a_crash_while_a_refused_append_is_cut_leaves_whole_batches_only(
    files: SimFiles, operations: int
) -> None:
    """Rule 8: until the call returned the answer is open; a torn part is cut by recovery."""
    with opened(files) as log:
        fill(log, 1)
        sync(log)
        leave_room(files, BATCH_BYTES + 30)
    for seed in range(8):
        machine = files.clone(Random(seed))
        with opened(machine) as log:
            machine.crash_after(operations)
            with pytest.raises(SimulatedCrash):
                log.append([batch(value(1), timestamp=1001), batch(value(2))], EPOCH)
        machine.crash()
        machine.capacity_bytes = None
        with opened(machine) as log:
            assert contents(log) == expected(0, log.log_end)
            assert log.log_end in (1, 2)


def test_reads_go_on_while_the_disk_is_full(files: SimFiles) -> None:
    """Rule 40: also of sealed segments whose index has to be made again."""
    options = per_segment(2, VALUE_BYTES)
    with opened(files, options) as log:
        fill(log, 7)
        log.close(1)
    for name in files.list(DIRECTORY):
        if name.endswith("index"):
            files.unlink(DIRECTORY / name)
    leave_room(files, 0)
    with opened(files, options) as log:
        with pytest.raises(StorageFull):
            fill(log, 1)
        assert contents(log) == expected(0, 7)
        assert log.find_time(1003) == (3, 1003)


def test_a_log_opens_on_a_full_disk_after_a_clean_close_and_after_a_crash(
    files: SimFiles,
) -> None:
    """Rule 40: reads go on."""
    options = per_segment(2, VALUE_BYTES)
    log = open_log(files, options)
    fill(log, 5)
    sync(log)
    machine = files.clone(Random(1))
    log.close(1)
    machine.crash()
    for target in (files, machine):
        leave_room(target, 0)
        with opened(target, options) as log:
            assert contents(log) == expected(0, 5)


def test_a_new_log_on_a_full_disk_is_refused_and_opens_once_there_is_room(files: SimFiles) -> None:
    """Rule 40."""
    files.capacity_bytes = 0
    with pytest.raises(StorageFull):
        open_log(files)
    files.capacity_bytes = None
    with opened(files) as log:
        fill(log, 1)
        assert contents(log) == expected(0, 1)


# --- rolling on a full disk -----------------------------------------------------------------------


def rolling() -> LogOptions:
    return per_segment(2, VALUE_BYTES)


def changes_of_a_roll() -> list[str]:
    tap = TapFiles(disk())
    with opened(tap, rolling()) as log:
        fill(log, 2)
        tap.clear()
        fill(log, 1)
    return tap.changes[:-1]


@pytest.mark.parametrize("at", range(len(changes_of_a_roll())))
@pytest.mark.parametrize("lasting", [False, True])
def test_a_roll_that_finds_no_room_leaves_the_log_usable(at: int, lasting: bool) -> None:
    """Rules 40 and 41: at each operation of the roll; appends go on in the old or the new."""
    files = disk(at)
    tap = TapFiles(files)
    log = open_log(tap, rolling())
    fill(log, 2)
    sync(log)
    plan = Countdown(at, full, once=not lasting)
    tap.plan = plan
    with suppress(StorageFull, StorageFailed):
        fill(log, 1)
    is_sync_of_log = changes_of_a_roll()[at] == f"sync {segment_path(0).name}"
    assert (log.failure is not None) == is_sync_of_log, "only a sync may not be tried again"
    assert plan.fired
    tap.plan = None
    assert contents(log)[:2] == expected(0, 2)
    if log.failure is not None:
        log.reopen()
    for seed in range(4):
        machine = files.clone(Random(seed))
        machine.crash()
        with opened(machine, rolling()) as other:
            assert other.corruption is None
            assert contents(other) == expected(0, other.log_end)
            assert other.log_end in (2, 3)
    fill(log, 6)
    sync(log)
    end = log.log_end
    assert end in (8, 9)
    assert contents(log) == expected(0, end)
    for seed in range(4):
        machine = files.clone(Random(seed))
        machine.crash()
        with opened(machine, rolling()) as other:
            assert other.corruption is None
            assert contents(other) == expected(0, end)
            fill(other, 3)
            assert contents(other) == expected(0, end + 3)
    log.close(1)
    assert not +tap.open_files, "nothing that failed half-way stays open"
    with opened(files, rolling()) as other:
        assert other.recovery.clean_epoch == 1
        assert contents(other) == expected(0, end)


@pytest.mark.parametrize("at", range(len(changes_of_a_roll())))
def test_a_log_whose_roll_failed_may_go_on_in_the_old_segment(at: int) -> None:
    """Rule 41: an empty segment that a failed roll left is never taken for the log's end."""
    files = disk(at)
    tap = TapFiles(files)
    log = open_log(tap, tiny(segment_bytes=2 * BATCH_BYTES))
    fill(log, 2)
    sync(log)
    tap.plan = Countdown(at, full)
    with pytest.raises((StorageFull, StorageFailed)):
        fill(log, 1)
    tap.plan = None
    log.abandon()
    wide = tiny()
    for seed in range(4):
        machine = files.clone(Random(seed))
        machine.crash()
        with opened(machine, wide) as other:
            fill(other, 3)
            sync(other)
        machine.crash()
        with opened(machine, wide) as other:
            assert other.corruption is None
            assert contents(other) == expected(0, 5)


def test_a_log_that_could_not_roll_appends_to_the_old_segment_what_needs_no_roll(
    files: SimFiles,
) -> None:
    """Rule 41: also when the attempt left an empty file behind."""
    tap = TapFiles(files)
    log = open_log(tap, tiny(segment_bytes=3 * BATCH_BYTES))
    fill(log, 2)
    tap.plan = lambda change: full() if change.startswith("sync_directory") else None
    with pytest.raises(StorageFull):
        log.append([batch(b"x" * 500)], EPOCH)
    tap.plan = None
    fill(log, 1)
    sync(log)
    files.crash()
    with opened(files) as log:
        assert log.corruption is None
        assert contents(log) == expected(0, 3)


@pytest.mark.parametrize("clean", [True, False])
def test_an_empty_segment_that_a_failed_roll_could_not_even_unlink_does_no_harm(
    files: SimFiles, clean: bool
) -> None:
    """Rule 41: the log went on in the one before, past where the empty one would begin, and rolled later."""
    tap = TapFiles(files)
    log = open_log(tap, tiny(segment_bytes=3 * BATCH_BYTES))
    fill(log, 2)
    empty = segment_path(2)
    tap.plan = lambda change: (
        full() if files.exists(empty) and ("unlink" in change or change.startswith("sync_dir")) else None
    )
    with pytest.raises(StorageFull):
        log.append([batch(b"x" * 500)], EPOCH)
    assert files.exists(empty)
    tap.plan = None
    fill(log, 4)
    assert [segment.base_offset for segment in log.segments()] == [0, 3]
    sync(log)
    if clean:
        log.close(1)
    files.kill()
    with opened(files) as log:
        assert (log.recovery.clean_epoch == 1) == clean
        assert contents(log) == expected(0, 6)


# --- making room ----------------------------------------------------------------------------------


def test_a_completely_full_disk_can_be_trimmed_and_takes_appends_again(files: SimFiles) -> None:
    """Rule 40: recovery without a restart."""
    options = rolling()
    with opened(files, options) as log:
        fill(log, 40)
        sync(log)
        leave_room(files, 0)
        with pytest.raises(StorageFull):
            fill(log, 1)
        log.trim(30)
        assert log.log_start == 30
        fill(log, 2)
        assert contents(log) == expected(30, 42)
        sync(log)
    files.crash()
    with opened(files, options) as log:
        assert contents(log) == expected(30, 42)


@pytest.mark.parametrize("by", ["time", "size"])
def test_retention_makes_room_on_a_completely_full_disk(files: SimFiles, by: str) -> None:
    """Rules 35 and 40: also when the last segment cannot be sealed for want of room."""
    options = tiny(
        segment_bytes=2 * BATCH_BYTES,
        retention_ms=10 if by == "time" else None,
        retention_bytes=0 if by == "size" else None,
    )
    with opened(files, options) as log:
        fill(log, 40)
        sync(log)
        leave_room(files, 0)
        log.retain(now_ms=1_000_000, below=40)
        assert log.log_start >= 38
        fill(log, 2)
        assert contents(log) == expected(log.log_start, 42)


def test_a_producer_is_remembered_only_for_what_was_written(files: SimFiles) -> None:
    """Rules 16 and 40: or the retry of a refused batch would be taken for a duplicate."""
    with opened(files) as log:
        log.append([batch(b"a", producer=Producer(7, 0, 0))], EPOCH)
        leave_room(files, 10)
        with pytest.raises(StorageFull):
            log.append([batch(b"b", producer=Producer(7, 0, 1))], EPOCH)
        assert log.producers.snapshot() == [[7, 0, [[0, 0, 0, 1000]]]]


def test_an_error_other_than_a_full_disk_takes_the_log_out_of_service_until_reopened(
    files: SimFiles,
) -> None:
    """Rule 40: EIO on write."""
    with opened(files) as log:
        fill(log, 2)
        sync(log)
        fill(log, 1)
        files.fail_writes(last_segment(log))
        with pytest.raises(StorageFailed) as raised:
            fill(log, 1)
        assert raised.value.outcome is Outcome.UNKNOWN
        with pytest.raises(StorageFailed) as raised:
            fill(log, 1)
        assert raised.value.outcome is Outcome.NOT_WRITTEN
        assert read(log, 0) == expected(0, 2)
        files.heal()
        log.reopen()
        assert contents(log) == expected(0, 2)
        fill(log, 1)
        assert contents(log) == expected(0, 3)


def test_a_disk_error_while_the_partial_write_is_cut_takes_the_log_out_of_service(
    files: SimFiles,
) -> None:
    """Rules 8 and 40: it cannot say not_written of what it could not cut."""
    tap = TapFiles(files)
    with opened(tap) as log:
        fill(log, 1)
        sync(log)
        leave_room(files, 10)
        tap.plan = lambda change: broken() if change.startswith("truncate") else None
        with pytest.raises(StorageFailed) as raised:
            fill(log, 1)
        assert raised.value.outcome is Outcome.UNKNOWN
        tap.plan = None
        log.reopen()
        assert contents(log) == expected(0, 1)
        files.capacity_bytes = None
        fill(log, 2)
        assert contents(log) == expected(0, 3)


def test_a_full_disk_at_close_still_closes_the_files_and_the_next_start_verifies(
    files: SimFiles,
) -> None:
    """Rule 15: a close that could not say so is no clean close."""
    tap = TapFiles(files)
    log = open_log(tap)
    fill(log, 3)
    tap.plan = lambda change: full() if "checkpoint" in change else None
    with pytest.raises(StorageFull):
        log.close(7)
    assert not +tap.open_files
    tap.plan = None
    with opened(files) as log:
        assert log.recovery.clean_epoch is None
        assert contents(log) == expected(0, 3)
