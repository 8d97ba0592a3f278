"""A log that drops everything and starts anew: all of the old goes, and nothing of it ever comes back."""

from __future__ import annotations

from random import Random

import pytest

from millpond.wire.batch import Producer
from millpond.wire.errors import CorruptBatch, StorageFailed, StorageFull
from millpond_broker.core.replication import Position
from millpond_broker.storage.log import Log
from millpond_broker.storage.replica import parse_push
from tests.sim.disk import SimFiles, SimulatedCrash
from tests.unit.storage.builders import (
    DIRECTORY,
    EVERYTHING,
    VALUE_BYTES,
    Seen,
    batch,
    begun,
    contents,
    disk,
    expected,
    fail_sync,
    fill,
    open_log,
    opened,
    per_segment,
    placed,
    segment_path,
    sync,
    value,
)
from tests.unit.storage.tap import Countdown, TapFiles, broken, full

OPTIONS = per_segment(3, VALUE_BYTES)
START, RECORDS = 2, 11
"""Trimmed at 2; in segments 0, 3, 6 and 9, the last of them not full."""
PLACES = [0, 2, 5, 11, 50]
"""Before the log start, at it, inside, at the log end, far behind it."""


@pytest.fixture
def files() -> SimFiles:
    return disk()


def filled(files: SimFiles | TapFiles) -> Log:
    log = open_log(files, OPTIONS)
    fill(log, 5, epoch=3)
    for sequence in range(RECORDS - 5):
        at = log.log_end
        log.append([batch(value(at), timestamp=1000 + at, producer=Producer(7, 0, sequence))], 5)
    sync(log)
    log.trim(START)
    log.note_high_watermark(9)
    log.checkpoint()
    return log


@pytest.mark.parametrize("offset", PLACES)
@pytest.mark.parametrize("power_fails", [False, True])
def test_a_log_starts_anew_anywhere(files: SimFiles, offset: int, power_fails: bool) -> None:
    """Rule 4: when there is nothing to compare. With no epoch, producer or batch of before; durable when it
    returns.
    """
    log = filled(files)
    assert log.epochs.entries()
    assert log.producers.snapshot()
    generation = log.generation
    log.restart_at(offset)
    assert log.generation > generation
    assert log.generation_start == min(START, offset), "nothing that was appended before is kept"
    for _ in range(2):
        assert log.position() == Position(offset, offset, offset, None)
        assert log.high_watermark == offset
        assert log.epochs.entries() == []
        assert log.producers.snapshot() == []
        assert [info.base_offset for info in log.segments()] == [offset]
        files.crash() if power_fails else files.kill()
        log = open_log(files, OPTIONS)
    log.append_replica(parse_push(placed(batch(b"new"), offset, -9, epoch=1)))
    assert log.epochs.entries() == [(1, offset)]
    assert [record.value for record in contents(log)] == [b"new"]
    log.abandon()


def test_the_order_is_checkpoint_then_segments_from_the_last_down_then_the_new_start(files: SimFiles) -> None:
    """Rule 41: the new start is on record when nothing is left that could be taken for a part of it."""
    tap = TapFiles(files)
    log = filled(tap)
    tap.clear()
    log.restart_at(50)
    changes = [
        change
        for change in tap.changes
        if change.startswith(("unlink", "rename", "sync_directory", "create 0"))
        and not change.endswith(("index", ".new"))
    ]
    segments = []
    for base in (9, 6, 3, 0):
        segments += [f"unlink {segment_path(base).name}", "sync_directory log"]
    assert changes[: 2 + len(segments)] == ["rename checkpoint", "sync_directory log", *segments]
    rest = changes[2 + len(segments) :]
    assert rest[:2] == ["rename leader-epochs", "sync_directory log"]
    assert rest[-4:] == [
        "rename checkpoint",
        "sync_directory log",
        f"create {segment_path(50).name}",
        "sync_directory log",
    ]
    assert all(change.endswith((".producers", "log")) for change in rest[2:-4])
    log.abandon()


def changes_of_a_restart(offset: int) -> int:
    files = disk()
    log = filled(files)
    before = files.operations
    log.restart_at(offset)
    done = files.operations - before
    log.abandon()
    return done


RESTARTS = [(offset, at) for offset in (0, 5, 50) for at in range(changes_of_a_restart(offset))]


@pytest.mark.parametrize(("offset", "operations"), RESTARTS)
def test_a_crash_at_any_step_leaves_the_log_a_part_of_it_or_an_empty_one(
    offset: int, operations: int
) -> None:
    """Rule 41: never a hole, never damage, never a batch elsewhere; and it can be done again."""
    files = disk()
    log = filled(files)
    files.crash_after(operations)
    with pytest.raises(SimulatedCrash):
        log.restart_at(offset)
    for seed in range(6):
        machine = files.clone(Random(seed))
        machine.crash()
        with opened(machine, OPTIONS) as after:
            assert after.corruption is None
            if after.log_start == START:
                assert contents(after) == expected(START, after.log_end)
                assert after.last_epoch in {None, 3, 5}
            else:
                assert after.position() == Position(offset, offset, offset, None)
                assert after.epochs.entries() == []
                assert after.producers.snapshot() == []
            assert after.log_start <= after.high_watermark <= after.durable_end
            after.restart_at(offset)
            after.append_replica(parse_push(placed(batch(b"new", timestamp=5), offset, -9, epoch=1)))
            sync(after)
        machine.crash()
        with opened(machine, OPTIONS) as last:
            assert contents(last) == [Seen(offset, 5, b"new")]
            assert last.epochs.entries() == [(1, offset)]
            assert last.producers.snapshot() == []


@pytest.mark.parametrize(("offset", "operations"), RESTARTS)
@pytest.mark.parametrize("kind", ["full", "broken"])
def test_a_restart_that_fails_half_way_is_finished_by_reopening(
    offset: int, operations: int, kind: str
) -> None:
    """Rules 40 and 41: the log takes nothing meanwhile, and shows nothing that is gone."""
    files = disk()
    tap = TapFiles(files)
    log = filled(tap)
    tap.plan = Countdown(operations, full if kind == "full" else broken, once=True)
    error: Exception | None = None
    try:
        log.restart_at(offset)
    except (StorageFull, StorageFailed) as raised:
        error = raised
    assert (log.failure is not None) == (error is not None)
    if error is not None:
        with pytest.raises(StorageFailed):
            fill(log, 1)
        assert log.read(log.log_start, 1, EVERYTHING) == []
        log.reopen()
    assert log.position() == Position(offset, offset, offset, None)
    fill(log, 4)
    sync(log)
    machine = files.clone(Random(operations))
    machine.crash()
    with opened(machine, OPTIONS) as after:
        assert contents(after) == expected(offset, offset + 4)
    log.abandon()
    assert not +tap.open_files


@pytest.mark.parametrize("found", ["at start", "while running"])
def test_a_corrupt_log_is_well_once_it_started_anew(files: SimFiles, found: str) -> None:
    """Rule 15: once the metadata is without this replica, it wipes and replicates again."""
    log = filled(files)
    files.flip_bit(segment_path(6), 8 * 100)
    if found == "at start":
        log.abandon()
        files.unlink(DIRECTORY / "checkpoint")
        log = open_log(files, OPTIONS)
    with pytest.raises(CorruptBatch):
        log.read(7, 1, EVERYTHING)
    with pytest.raises(CorruptBatch):
        fill(log, 1)
    log.restart_at(START)
    assert log.corruption is None
    fill(log, 9)
    sync(log)
    assert contents(log) == expected(2, 11)
    log.close(4)
    with opened(files, OPTIONS) as log:
        assert log.recovery.clean_epoch == 4
        assert log.corruption is None
        assert contents(log) == expected(2, 11)


def corrupt(files: SimFiles, *, base: int = 6) -> Log:
    filled(files).close(1)
    files.flip_bit(segment_path(base), 8 * 200)
    log = open_log(files, OPTIONS)
    with pytest.raises(CorruptBatch):
        log.read(base + 2, 1, EVERYTHING)
    return log


@pytest.mark.parametrize("base", [0, 3, 6])
@pytest.mark.parametrize("operations", range(0, changes_of_a_restart(0), 2))
def test_a_crash_while_a_corrupt_log_goes_leaves_no_damage_unknown(base: int, operations: int) -> None:
    """Rule 15: what is bad stays on record until its bytes are gone."""
    files = disk()
    log = corrupt(files, base=base)
    files.crash_after(operations)
    with pytest.raises(SimulatedCrash):
        log.restart_at(START)
    for seed in range(3):
        machine = files.clone(Random(seed))
        machine.crash()
        with opened(machine, OPTIONS) as after:
            if after.corruption is None:
                assert contents(after) == expected(START, after.log_end)
            assert after.position().log_start <= after.position().durable_end
            after.restart_at(START)
            assert after.position() == Position(START, START, START, None)
            assert contents(after) == []


def test_a_log_whose_first_segment_is_gone_starts_anew(files: SimFiles) -> None:
    """Rule 15: no batch can be read, and yet it is well afterwards."""
    filled(files).abandon()
    files.unlink(segment_path(0))
    files.sync_directory(DIRECTORY)
    files.crash()
    with opened(files, OPTIONS) as log:
        assert log.corruption is not None
        log.restart_at(4)
        fill(log, 2)
        assert contents(log) == expected(4, 6)


def test_a_restart_ends_a_failed_sync(files: SimFiles) -> None:
    """Rule 40: nothing that was lost is counted on."""
    with opened(files, OPTIONS) as log:
        fill(log, 4)
        fail_sync(files, log)
        files.heal()
        log.restart_at(20)
        assert log.failure is None
        fill(log, 2)
        sync(log)
        assert contents(log) == expected(20, 22)


def test_syncs_begun_before_a_restart_say_nothing_after_it(files: SimFiles) -> None:
    """Rule 41."""
    tap = TapFiles(files)
    log = open_log(tap, OPTIONS)
    fill(log, 4)
    pending = begun(log)
    log.restart_at(2)
    fill(log, 1)
    pending.file.sync()
    log.confirm(pending)
    assert log.durable_end == 2
    sync(log)
    assert log.durable_end == 3
    log.abandon()
    assert not +tap.open_files
