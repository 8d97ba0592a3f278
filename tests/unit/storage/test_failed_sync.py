"""A failed fdatasync is never retried on that file; nothing that it covered counts (rule 40)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from random import Random

import pytest

from millpond.wire.errors import Outcome, StorageFailed, StorageFull
from millpond_broker.storage.log import Log
from tests.sim.disk import SimFiles
from tests.unit.storage.builders import (
    DIRECTORY,
    VALUE_BYTES,
    begun,
    contents,
    disk,
    expected,
    fail_sync,
    fill,
    last_segment,
    open_log,
    opened,
    per_segment,
    read,
    sync,
)
from tests.unit.storage.tap import Countdown, TapFiles, broken, full

SEEDS = range(12)


@pytest.fixture
def files() -> SimFiles:
    return disk()


@pytest.fixture
def log(files: SimFiles) -> Log:
    """Three records durable, two more whose sync failed."""
    made = open_log(files)
    fill(made, 3)
    sync(made)
    fill(made, 2)
    fail_sync(files, made)
    return made


def crashed(files: SimFiles, seed: int) -> SimFiles:
    machine = files.clone(Random(seed))
    machine.crash()
    return machine


def test_a_failed_sync_takes_the_log_out_of_service_for_appends_with_a_typed_error(
    log: Log,
) -> None:
    """Rule 40."""
    assert log.durable_end == 3
    assert not log.is_dirty
    assert log.begin_sync() is None
    for change in (lambda: fill(log, 1), lambda: log.truncate(4), lambda: log.trim(1)):
        with pytest.raises(StorageFailed) as raised:
            change()
        assert raised.value.outcome is Outcome.NOT_WRITTEN
        assert raised.value.retriable
        assert raised.value.path == str(DIRECTORY)
    assert log.log_end == 5


@pytest.mark.parametrize("evicted", [False, True])
def test_reads_of_what_is_durable_go_on_after_a_failed_sync(log: Log, files: SimFiles, evicted: bool) -> None:
    """Rule 40: past it the disk may show anything."""
    if evicted:
        files.evict()
    assert read(log, 0) == expected(0, 3)
    assert read(log, 3) == []
    assert log.find_time(1002) == (2, 1002)
    assert log.corruption is None


def test_reopening_cuts_to_the_confirmed_end_and_goes_on(log: Log, files: SimFiles) -> None:
    """Rule 40: in process, without a restart."""
    log.reopen()
    assert (log.failure, log.log_end, log.durable_end) == (None, 3, 3)
    assert contents(log) == expected(0, 3)
    fill(log, 4)
    sync(log)
    assert log.durable_end == 7
    for seed in SEEDS:
        with opened(crashed(files, seed)) as other:
            assert contents(other) == expected(0, 7)


def test_reopening_does_not_need_to_read_what_was_never_durable(log: Log, files: SimFiles) -> None:
    """Rule 40: pages of a failed sync may leave the cache and read as anything: no damage."""
    files.evict()
    log.reopen()
    assert log.corruption is None
    assert contents(log) == expected(0, 3)
    fill(log, 2)
    sync(log)
    files.crash()
    with opened(files) as other:
        assert contents(other) == expected(0, 5)


def test_a_sync_is_never_tried_again_on_the_descriptor_that_failed(files: SimFiles) -> None:
    """Rule 40: Linux marks the pages clean, and the retry lies."""
    tap = TapFiles(files)
    log = open_log(tap)
    fill(log, 2)
    pending = begun(log)
    name = last_segment(log).name
    tap.plan = Countdown(0, broken)
    with pytest.raises(OSError, match="error") as raised:
        pending.file.sync()
    log.sync_failed(pending, raised.value)
    tap.clear()
    with pytest.raises(StorageFailed):
        fill(log, 1)
    assert log.begin_sync() is None
    assert tap.changes == []
    assert tap.open_files[name] == 1
    log.reopen()
    assert tap.open_files[name] == 1, "another descriptor, the failed one is closed"
    fill(log, 1)
    again = begun(log)
    assert again.file is not pending.file
    again.file.sync()
    log.confirm(again)
    assert log.durable_end == 1
    log.close(1)
    assert not +tap.open_files


def test_a_sync_begun_before_the_failure_that_succeeds_after_it_confirms_nothing(
    files: SimFiles,
) -> None:
    """Rule 40: it may have found the lost pages clean."""
    log = open_log(files)
    fill(log, 1)
    first = begun(log)
    fill(log, 1)
    second = begun(log)
    files.fail_next_sync(last_segment(log))
    with pytest.raises(OSError, match="error") as raised:
        first.file.sync()
    with pytest.raises(OSError, match="error"):
        second.file.sync()
    log.sync_failed(first, raised.value)
    log.confirm(second)  # say, by a sync of the file system, which had told somebody else
    assert log.durable_end == 0
    log.reopen()
    assert (log.log_end, contents(log)) == (0, [])
    log.abandon()


def test_a_sync_begun_before_a_reopening_confirms_nothing_after_it(files: SimFiles) -> None:
    """Rules 40 and 41: completions of an older generation are ignored."""
    log = open_log(files)
    fill(log, 1)
    first = begun(log)
    second = begun(log)
    log.sync_failed(first, OSError(errno.EIO, "lost"))
    log.reopen()
    fill(log, 3)
    second.file.sync()
    log.confirm(second)
    assert log.durable_end == 0
    sync(log)
    assert log.durable_end == 3
    log.abandon()


def test_a_late_failure_of_an_older_generation_still_counts(files: SimFiles) -> None:
    """Rule 40: the pages it lost may lie below the cut made since."""
    log = open_log(files)
    fill(log, 4)
    pending = begun(log)
    log.truncate(2)
    log.sync_failed(pending, OSError(errno.EIO, "lost"))
    with pytest.raises(StorageFailed):
        fill(log, 1)
    log.abandon()


@pytest.mark.parametrize("room", [True, False])
def test_a_sync_that_fails_for_want_of_room_is_a_failed_sync(files: SimFiles, room: bool) -> None:
    """Rule 40: delayed allocation; the pages are lost all the same."""
    tap = TapFiles(files)
    log = open_log(tap)
    fill(log, 2)
    pending = begun(log)
    log.sync_failed(pending, full())
    with pytest.raises(StorageFailed):
        fill(log, 1)
    if not room:
        files.capacity_bytes = sum(files.list(DIRECTORY).values())
    log.reopen()
    assert log.log_end == 0
    log.abandon()


def test_a_failed_sync_while_rolling_takes_the_log_out_of_service(files: SimFiles) -> None:
    """Rule 40: sealing is a sync too."""
    options = per_segment(2, VALUE_BYTES)
    log = open_log(files, options)
    fill(log, 1)
    sync(log)
    fill(log, 1)
    files.fail_next_sync(last_segment(log))
    with pytest.raises(StorageFailed):
        fill(log, 1)
    assert (log.log_end, log.durable_end, len(log.segments())) == (2, 1, 1)
    assert read(log, 0) == expected(0, 1)
    log.reopen()
    assert contents(log) == expected(0, 1)
    fill(log, 4)
    sync(log)
    for seed in SEEDS:
        with opened(crashed(files, seed), options) as other:
            assert contents(other) == expected(0, 5)
    log.abandon()


def test_a_roll_does_not_vouch_for_a_segment_whose_sync_is_failing_in_another_thread(
    files: SimFiles,
) -> None:
    """Rule 40: the one descriptor reports a failure once, and the other thread was told."""
    options = per_segment(2, VALUE_BYTES)
    log = open_log(files, options)
    fill(log, 2)
    pending = begun(log)
    files.fail_next_sync(last_segment(log))
    with pytest.raises(OSError, match="error") as raised:
        pending.file.sync()
    with suppress(StorageFailed):
        fill(log, 1)
    assert log.durable_end == 0
    log.sync_failed(pending, raised.value)
    assert log.durable_end == 0
    log.reopen()
    assert contents(log) == []
    fill(log, 3)
    sync(log)
    for seed in SEEDS:
        with opened(crashed(files, seed), options) as other:
            assert contents(other) == expected(0, 3)
    log.abandon()


def changes_of_reopening(durable: int) -> list[str]:
    files = disk()
    tap = TapFiles(files)
    log = failed_across_segments(files, tap, durable)
    log.reopen()
    log.abandon()
    return tap.changes


def failed_across_segments(files: SimFiles, tap: TapFiles, durable: int) -> Log:
    """Seven records, so many of them durable; 4 is all of the first segment, none of the next."""
    log = open_log(tap, per_segment(4, VALUE_BYTES))
    fill(log, durable)
    sync(log)
    fill(log, 7 - durable)
    fail_sync(files, log)
    tap.clear()
    return log


CHANGES_OF_REOPENING = [
    (durable, at) for durable in (4, 5) for at in range(len(changes_of_reopening(durable)))
]


@pytest.mark.parametrize(("durable", "at"), CHANGES_OF_REOPENING)
@pytest.mark.parametrize("error", [broken, full])
def test_a_reopening_that_fails_leaves_the_log_out_of_service_and_can_be_tried_again(
    durable: int, at: int, error: Callable[[], OSError]
) -> None:
    """Rule 40: at each of its operations; nothing confirmed is lost, nothing cut comes back."""
    files = disk(at)
    tap = TapFiles(files)
    log = failed_across_segments(files, tap, durable)
    plan = Countdown(at, error, once=True)
    tap.plan = plan
    with suppress(StorageFailed, StorageFull):
        log.reopen()
    if log.failure is not None:
        with pytest.raises(StorageFailed):
            fill(log, 1)
        log.reopen()
    assert plan.fired
    assert contents(log) == expected(0, durable)
    fill(log, 1)
    sync(log)
    for seed in SEEDS:
        with opened(crashed(files, seed)) as other:
            assert other.corruption is None
            assert contents(other) == expected(0, durable + 1)
    fill(log, 4)
    assert contents(log) == expected(0, durable + 5)
    log.close(1)
    assert not +tap.open_files


@pytest.mark.parametrize("written", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_what_recovery_presents_as_durable_survives_even_pages_that_were_lost_but_clean(
    files: SimFiles, seed: int, written: float
) -> None:
    """Rule 40: after a failed sync and a kill, what the cache still has is rewritten and synced."""
    options = per_segment(6, VALUE_BYTES)
    log = open_log(files, options)
    fill(log, 8)
    sync(log)
    fill(log, 2)
    files.fail_next_sync(last_segment(log), written=written)
    with pytest.raises(OSError, match="error"):
        begun(log).file.sync()
    files.kill()
    with opened(files, options) as after:
        presented = contents(after)
        assert after.durable_end == after.log_end == 10
        assert presented == expected(0, 10)
    with opened(crashed(files, seed), options) as last:
        assert contents(last) == presented


@pytest.mark.parametrize("seed", SEEDS)
def test_a_failed_sync_then_power_loss_loses_nothing_confirmed(files: SimFiles, seed: int) -> None:
    """Rule 40."""
    options = per_segment(6, VALUE_BYTES)
    log = open_log(files, options)
    fill(log, 8)
    sync(log)
    fill(log, 2)
    fail_sync(files, log)
    with opened(crashed(files, seed), options) as after:
        assert after.corruption is None
        assert contents(after) == expected(0, after.log_end)
        assert after.log_end >= 8
    log.abandon()


def test_a_failed_sync_while_recovering_fails_the_open_and_the_next_start_rewrites_again(
    files: SimFiles,
) -> None:
    """Rule 40: a start answers for what it presents, or does not start."""
    log = open_log(files)
    fill(log, 3)
    files.kill()
    files.fail_next_sync(last_segment(log))
    with pytest.raises(StorageFailed):
        open_log(files)
    files.kill()
    with opened(files) as again:
        assert contents(again) == expected(0, 3)
    files.crash()
    with opened(files) as again:
        assert contents(again) == expected(0, 3)


def test_a_failed_sync_at_close_is_no_clean_close(files: SimFiles) -> None:
    """Rules 15 and 40."""
    tap = TapFiles(files)
    log = open_log(tap)
    fill(log, 3)
    files.fail_next_sync(last_segment(log))
    with pytest.raises(StorageFailed):
        log.close(7)
    assert not +tap.open_files
    with opened(files) as again:
        assert again.recovery.clean_epoch is None


def test_closing_a_failed_log_claims_nothing(log: Log, files: SimFiles) -> None:
    """Rules 15 and 40."""
    log.close(7)
    with opened(files) as again:
        assert again.recovery.clean_epoch is None
        assert contents(again)[:3] == expected(0, 3)


def test_a_read_error_is_typed_and_over_when_the_disk_heals(files: SimFiles) -> None:
    """Rule 40: EIO."""
    with opened(files, per_segment(2, VALUE_BYTES)) as log:
        fill(log, 5)
        files.fail_reads(last_segment(log))
        with pytest.raises(StorageFailed):
            contents(log)
        files.heal()
        assert contents(log) == expected(0, 5)
        assert log.corruption is None
        assert log.failure is None
