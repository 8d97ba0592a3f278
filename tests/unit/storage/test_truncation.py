"""Truncation: what is cut stays cut, whatever happens on the way; nothing else goes (rule 41)."""

from __future__ import annotations

from random import Random

import pytest

from millpond.wire.batch import Producer
from millpond.wire.errors import CorruptBatch, StorageFailed, StorageFull
from millpond_broker.storage.log import Log
from tests.sim.disk import SimFiles, SimulatedCrash
from tests.unit.storage.builders import (
    DIRECTORY,
    EPOCH,
    VALUE_BYTES,
    Seen,
    batch,
    begun,
    contents,
    disk,
    expected,
    fill,
    open_log,
    opened,
    per_segment,
    segment_path,
    sync,
    value,
)
from tests.unit.storage.tap import Countdown, TapFiles, broken, full

OPTIONS = per_segment(3, VALUE_BYTES)
RECORDS = 11
"""In segments 0, 3, 6 and 9, the last of them not full."""


@pytest.fixture
def files() -> SimFiles:
    return disk()


def filled(files: SimFiles | TapFiles, *, durable: int = RECORDS) -> Log:
    log = open_log(files, OPTIONS)
    fill(log, durable)
    if log.is_dirty:
        sync(log)
    fill(log, RECORDS - durable)
    return log


@pytest.mark.parametrize("end", range(RECORDS + 1))
def test_a_cut_at_any_offset_drops_all_from_there_on_and_the_log_goes_on(files: SimFiles, end: int) -> None:
    """Rule 41: within a segment, at its edges, down to nothing."""
    with opened(files, OPTIONS) as log:
        fill(log, RECORDS)
        sync(log)
        assert log.truncate(end) == end
        assert (log.log_end, log.durable_end) == (end, end)
        assert contents(log) == expected(0, end)
        assert log.find_time(1000 + end) is None
        fill(log, 5)
        assert contents(log) == expected(0, end + 5)
        assert log.find_time(1000 + end) == (end, 1000 + end)
        assert [segment.base_offset for segment in log.segments()][: end // 3] == [
            3 * at for at in range(end // 3)
        ]


def test_a_cut_inside_a_batch_takes_the_whole_batch(files: SimFiles) -> None:
    """Rule 4: a follower truncates to at most the offset, and asks again."""
    with opened(files) as log:
        log.append([batch(b"a", b"b"), batch(b"c", b"d", b"e")], EPOCH)
        assert log.truncate(4) == 2
        assert [record.value for record in contents(log)] == [b"a", b"b"]


def test_a_cut_at_or_past_the_log_end_changes_nothing(files: SimFiles) -> None:
    """And costs nothing."""
    tap = TapFiles(files)
    with opened(tap, OPTIONS) as log:
        fill(log, 4)
        tap.clear()
        generation = log.generation
        assert log.truncate(4) == 4
        assert log.truncate(99) == 4
        assert tap.changes == []
        assert log.generation == generation


def test_a_cut_keeps_what_is_durable_below_it_and_no_more(files: SimFiles) -> None:
    """Rule 41: durable_end = min(...)."""
    log = filled(files, durable=10)
    assert log.durable_end == 10
    log.truncate(10)
    assert log.durable_end == 10
    log.truncate(5)
    assert log.durable_end == 5
    log.abandon()


def test_completions_of_an_older_generation_are_ignored(files: SimFiles) -> None:
    """Rule 41."""
    log = filled(files, durable=9)
    pending = begun(log)
    generation = log.generation
    log.truncate(10)
    assert log.generation == generation + 1
    fill(log, 1)
    pending.file.sync()
    log.confirm(pending)
    assert log.durable_end == 9, "what it covered was cut, and what took its place was not synced"
    sync(log)
    assert log.durable_end == 11
    log.abandon()


def test_a_sync_that_runs_while_its_segment_is_dropped_keeps_its_descriptor(
    files: SimFiles,
) -> None:
    """A descriptor closed under a sync could be another file's by the time it is used."""
    tap = TapFiles(files)
    log = open_log(tap, OPTIONS)
    fill(log, 4)
    pending = begun(log)
    log.truncate(2)
    assert tap.open_files[segment_path(3).name] == 1
    pending.file.sync()
    log.confirm(pending)
    assert tap.open_files[segment_path(3).name] == 0
    log.abandon()
    assert not +tap.open_files


def test_the_order_of_a_cut_is_checkpoint_then_segments_from_the_last_down_then_the_rest(
    files: SimFiles,
) -> None:
    """Rule 41: a hole must never look like compaction."""
    tap = TapFiles(files)
    log = filled(tap)
    tap.clear()
    log.truncate(4)
    changes = tap.changes
    checkpoint = [
        "create checkpoint.new",
        "write checkpoint.new",
        "sync checkpoint.new",
        "rename checkpoint",
        "sync_directory log",
    ]
    assert changes[:5] == checkpoint
    of_logs = [
        change
        for change in changes[5:]
        if change.endswith(".log") or change == f"sync_directory {DIRECTORY.name}"
    ]
    nine, six, three = (segment_path(base).name for base in (9, 6, 3))
    assert of_logs[:7] == [
        f"unlink {nine}",
        "sync_directory log",
        f"unlink {six}",
        "sync_directory log",
        "sync_directory log",
        f"truncate {three}",
        f"sync {three}",
    ]
    index_gone = changes.index(f"unlink {segment_path(3, '.index').name}")
    assert index_gone < changes.index(f"truncate {three}"), "or it would mislead a later start"
    log.abandon()


def test_a_cut_forgets_the_epochs_that_began_past_it(files: SimFiles) -> None:
    """Rules 1 and 41: also after a restart."""
    log = open_log(files)
    fill(log, 2, epoch=1)
    fill(log, 2, epoch=4)
    fill(log, 2, epoch=6)
    log.truncate(4)
    assert log.epochs.entries() == [(1, 0), (4, 2)]
    log.truncate(3)
    assert log.epochs.entries() == [(1, 0), (4, 2)]
    files.crash()
    with opened(files) as log:
        assert log.epochs.entries() == [(1, 0), (4, 2)]


def test_a_cut_forgets_the_producers_batches_past_it_and_their_snapshots(files: SimFiles) -> None:
    """Rules 16 and 41: a snapshot of what was cut never comes back."""
    with opened(files, OPTIONS) as log:
        for sequence in range(RECORDS):
            log.append([batch(value(0), producer=Producer(7, 0, sequence))], EPOCH)
        assert [name for name in files.list(DIRECTORY) if name.endswith(".producers")]
        log.truncate(4)
        state = log.producers.get(7)
        assert state is not None
        assert [seen.first_sequence for seen in state.batches] == [0, 1, 2, 3]
        for sequence in range(50, 50 + 7):
            log.append([batch(value(0), producer=Producer(8, 0, sequence))], EPOCH)
        sync(log)
        live = log.producers.snapshot()
    for seed in range(8):
        machine = files.clone(Random(seed))
        machine.crash()
        with opened(machine, OPTIONS) as log:
            assert log.producers.snapshot() == live


def test_indexes_of_what_was_cut_never_come_back(files: SimFiles) -> None:
    """Rule 41: other batches at other places take the offsets that were cut."""
    with opened(files, OPTIONS) as log:
        fill(log, RECORDS)
        log.truncate(4)
        replaced = expected(0, 4)
        for offset in range(4, 12):
            log.append([batch(b"x" * (offset * 7), timestamp=offset)], EPOCH)
            replaced.append(Seen(offset, offset, b"x" * (offset * 7)))
        sync(log)
    for seed in range(8):
        machine = files.clone(Random(seed))
        machine.crash()
        with opened(machine, OPTIONS) as log:
            assert contents(log) == replaced
            for offset in range(12):
                stored = log.read(offset, 1, 1 << 40)
                assert stored[0].batch.header.base_offset == offset
            assert log.find_time(1000) == (0, 1000)
            assert log.find_time(1004) is None


# --- interruptions --------------------------------------------------------------------------------


def changes_of_a_cut(end: int) -> int:
    files = disk()
    log = filled(files)
    before = files.operations
    log.truncate(end)
    done = files.operations - before
    log.abandon()
    return done


CUTS = [(end, at) for end in (0, 3, 4, 8, 10) for at in range(changes_of_a_cut(end))]


@pytest.mark.parametrize(("end", "operations"), CUTS)
def test_a_crash_at_any_step_of_a_cut_leaves_a_prefix_that_holds_all_below_the_cut(
    end: int, operations: int
) -> None:
    """Rule 41: never a hole, never less than the cut keeps, and the log takes appends."""
    files = disk()
    log = filled(files)
    files.crash_after(operations)
    with pytest.raises(SimulatedCrash):
        log.truncate(end)
    for seed in range(6):
        machine = files.clone(Random(seed))
        machine.crash()
        with opened(machine, OPTIONS) as after:
            assert after.corruption is None
            assert end <= after.log_end <= RECORDS
            assert contents(after) == expected(0, after.log_end)
            if end < after.log_end:
                after.truncate(end)
            after.append([batch(b"other", timestamp=5)], EPOCH + 1)
            sync(after)
        machine.crash()
        with opened(machine, OPTIONS) as last:
            assert contents(last) == [*expected(0, end), Seen(end, 5, b"other")]
            assert last.epochs.entries()[-1] == (EPOCH + 1, end)


@pytest.mark.parametrize(("end", "operations"), CUTS)
@pytest.mark.parametrize("kind", ["full", "broken"])
def test_a_cut_that_fails_half_way_takes_no_appends_until_it_is_finished(
    end: int, operations: int, kind: str
) -> None:
    """Rules 40 and 41: what is left of it would come back once the log had grown there again."""
    files = disk()
    tap = TapFiles(files)
    log = filled(tap)
    plan = Countdown(operations, full if kind == "full" else broken, once=True)
    tap.plan = plan
    error: Exception | None = None
    try:
        log.truncate(end)
    except (StorageFull, StorageFailed) as raised:
        error = raised
    assert plan.fired
    assert (log.failure is not None) == (error is not None)
    if error is not None:
        with pytest.raises(StorageFailed):
            fill(log, 1)
        log.reopen()
    assert contents(log) == expected(0, end)
    fill(log, 12 - end)
    sync(log)
    for seed in range(3):
        machine = files.clone(Random(seed))
        machine.crash()
        with opened(machine, OPTIONS) as after:
            assert after.corruption is None
            assert contents(after) == expected(0, 12)
    log.abandon()
    assert not +tap.open_files


@pytest.mark.parametrize("seed", range(16))
def test_a_cut_is_durable_when_it_returns(files: SimFiles, seed: int) -> None:
    """Rule 41: before the next statement."""
    log = filled(files)
    log.truncate(4)
    machine = files.clone(Random(seed))
    machine.crash()
    with opened(machine, OPTIONS) as after:
        assert after.log_end == 4
    log.abandon()


def test_epochs_that_a_crash_kept_from_being_cut_do_not_come_back_later(files: SimFiles) -> None:
    """Rules 1 and 41: the log grows past their start again, under an older epoch."""
    log = open_log(files)
    fill(log, 4, epoch=1)
    fill(log, 4, epoch=5)
    sync(log)
    cut_done = changes_until_cut(files.clone(Random(0)))
    files.crash_after(cut_done)
    with pytest.raises(SimulatedCrash):
        log.truncate(4)
    files.crash()
    with opened(files) as log:
        assert (log.log_end, log.epochs.entries()) == (4, [(1, 0)])
        fill(log, 4, epoch=1)
        sync(log)
    files.crash()
    with opened(files) as log:
        assert log.epochs.entries() == [(1, 0)]
        assert log.epochs.end_offset_for(5, log.log_end) == (1, 8)


def changes_until_cut(files: SimFiles) -> int:
    """How many changes a cut at 4 makes until the segment is cut, the epochs not yet."""
    tap = TapFiles(files)
    with opened(tap) as log:
        tap.clear()
        log.truncate(4)
    return tap.changes.index(f"sync {segment_path(0).name}") + 1


def test_a_cut_that_meets_damage_is_refused_and_keeps_every_byte(files: SimFiles) -> None:
    """Rule 15: corrupt bytes are kept."""
    log = open_log(files, OPTIONS)
    fill(log, 11)
    log.close(1)
    for name in list(files.list(DIRECTORY)):
        if name.endswith(".producers"):
            files.unlink(DIRECTORY / name)
    with opened(files, OPTIONS) as log:
        files.flip_bit(segment_path(0), 8 * 120)
        before = files.list(DIRECTORY)[segment_path(0).name]
        with pytest.raises(CorruptBatch):
            log.truncate(5)
        assert files.list(DIRECTORY)[segment_path(0).name] == before
        with pytest.raises(CorruptBatch):
            fill(log, 1)
