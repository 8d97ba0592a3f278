"""What a replica asks of its log besides batches: the high watermark that it remembers (rule 7), what a start
says of the end it found (rule 15), and bytes to push.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from millpond.wire.errors import CorruptBatch
from millpond_broker.storage.checkpoint import Checkpoint
from millpond_broker.storage.document import read_document, write_document
from millpond_broker.storage.log import Log
from millpond_broker.storage.replica import parse_push
from tests.sim.disk import SimFiles
from tests.unit.storage.builders import (
    DIRECTORY,
    EVERYTHING,
    VALUE_BYTES,
    batch,
    contents,
    disk,
    everything,
    expected,
    fail_sync,
    fill,
    last_segment,
    open_log,
    opened,
    per_segment,
    put,
    segment_path,
    sync,
)
from tests.unit.storage.tap import TapFiles

OPTIONS = per_segment(3, VALUE_BYTES)


@pytest.fixture
def files() -> SimFiles:
    return disk()


def filled(files: SimFiles | TapFiles, count: int = 8) -> Log:
    log = open_log(files, OPTIONS)
    fill(log, count)
    sync(log)
    return log


def restarted(files: SimFiles, log: Log, *, closes: bool = False) -> int:
    """The high watermark that the next start of the log knows."""
    if closes:
        log.close(1)
    files.crash()
    with opened(files, OPTIONS) as after:
        return after.high_watermark


# --- the high watermark -------------------------------------------------------------------------------


def test_a_log_that_was_told_nothing_knows_its_log_start(files: SimFiles) -> None:
    """Rule 7: nothing below the log start can be uncommitted."""
    with opened(files) as log:
        assert log.high_watermark == 0
        fill(log, 4)
        sync(log)
        log.trim(3)
        assert log.high_watermark == 3
    with opened(files) as log:
        assert log.high_watermark == 3


@pytest.mark.parametrize("how", ["checkpoint", "clean close", "roll"])
def test_what_was_noted_survives_once_it_is_written_down(files: SimFiles, how: str) -> None:
    """Rule 7."""
    log = filled(files)
    log.note_high_watermark(7)
    if how == "checkpoint":
        log.checkpoint()
    elif how == "roll":
        fill(log, 3)
    assert restarted(files, log, closes=how == "clean close") == 7


def test_a_clean_close_writes_it_down_though_nothing_else_has_changed(files: SimFiles) -> None:
    """A follower may have learned of it after a start, and nothing more."""
    filled(files).close(1)
    with opened(files, OPTIONS) as log:
        log.note_high_watermark(7)
        log.close(1)
    with opened(files, OPTIONS) as log:
        assert log.high_watermark == 7
        assert log.recovery.clean_epoch == 1


def test_what_was_not_written_down_is_as_it_was_before(files: SimFiles) -> None:
    """An older one is lower, and costs nothing but time."""
    log = filled(files)
    log.note_high_watermark(4)
    log.checkpoint()
    log.note_high_watermark(7)
    assert log.high_watermark == 7
    assert restarted(files, log) == 4


def test_it_is_never_above_what_is_durable(files: SimFiles) -> None:
    """Rule 7: min(HW, durable_end) is what is noted: more of it could be lost."""
    log = filled(files, 2)
    fill(log, 1)
    log.note_high_watermark(3)
    assert log.high_watermark == 2
    sync(log)
    assert log.high_watermark == 2, "it was not durable when it was noted"
    log.note_high_watermark(99)
    assert log.high_watermark == 3
    log.abandon()


def test_it_may_go_back(files: SimFiles) -> None:
    """Rule 7: after an election."""
    log = filled(files)
    log.note_high_watermark(7)
    log.checkpoint()
    log.note_high_watermark(5)
    log.checkpoint()
    assert restarted(files, log) == 5


@pytest.mark.parametrize("written", [False, True])
def test_a_cut_takes_it_along_and_it_does_not_come_back(files: SimFiles, written: bool) -> None:
    """Rules 7 and 41: what grows there afterwards is of another history."""
    log = open_log(files)
    fill(log, 8)
    sync(log)
    log.note_high_watermark(8)
    if written:
        log.checkpoint()
    log.truncate(5)
    assert log.high_watermark == 5
    fill(log, 4)
    sync(log)
    assert log.high_watermark == 5
    log.abandon()
    files.crash()
    with opened(files) as after:
        assert after.log_end == 9
        assert after.high_watermark == (5 if written else 0)


def test_a_failed_sync_takes_it_back_with_the_log(files: SimFiles) -> None:
    """Rule 40."""
    log = filled(files)
    log.note_high_watermark(8)
    fill(log, 1)
    fail_sync(files, log)
    files.heal()
    log.checkpoint()
    log.reopen()
    assert log.high_watermark == 8
    log.abandon()


def test_a_checkpoint_of_what_did_not_move_touches_nothing(files: SimFiles) -> None:
    """It is called for a thousand partitions, again and again."""
    tap = TapFiles(files)
    log = filled(tap)
    log.note_high_watermark(6)
    log.checkpoint()
    tap.clear()
    log.checkpoint()
    log.note_high_watermark(6)
    log.checkpoint()
    assert tap.changes == []
    log.abandon()


def test_a_checkpoint_tells_what_is_durable_too(files: SimFiles) -> None:
    """So that the next start verifies less of the log, and knows more damage for what it is (rule 15)."""
    log = open_log(files)
    fill(log, 20)
    sync(log)
    log.note_high_watermark(20)
    log.checkpoint()
    stored = Checkpoint.read(files, DIRECTORY)
    assert stored is not None
    assert (stored.durable_end, stored.high_watermark) == (20, 20)
    files.crash()
    files.flip_bit(segment_path(0), 8 * 85 * 19 + 8 * 40)
    with opened(files) as log:
        assert log.corruption is not None


def test_a_checkpoint_of_an_earlier_version_knows_the_log_start(files: SimFiles) -> None:
    """And no clean close that vouches for less than is needed now."""
    log = filled(files)
    log.trim(2)
    log.note_high_watermark(7)
    log.close(3)
    path = DIRECTORY / "checkpoint"
    content = read_document(files, path, "checkpoint")
    assert content is not None
    del content["high_watermark"], content["may_have_gaps"]
    content["clean"] = content["clean"][:3]
    write_document(files, path, "checkpoint", content)
    with opened(files, OPTIONS) as log:
        assert log.high_watermark == 2
        assert log.recovery.clean_epoch is None
        assert contents(log) == expected(2, 8)


# --- what a start reports -------------------------------------------------------------------------------


def test_a_clean_start_tells_the_broker_epoch_the_end_and_the_last_epoch_unread(files: SimFiles) -> None:
    """Rule 15: the marker of a clean close."""
    log = filled(files)
    fill(log, 1, epoch=9)
    log.close(42)
    tap = TapFiles(files)
    with opened(tap, OPTIONS) as log:
        report = log.recovery
        assert (report.clean_epoch, report.log_end, report.last_epoch) == (42, 9, 9)
        assert not report.may_have_lost
        assert log.last_epoch == 9
        assert not any(tap.reads[name] for name in tap.reads if name.endswith(".log"))


def test_an_unclean_start_that_cut_nothing_says_so(files: SimFiles) -> None:
    """Rule 15: it keeps its seat."""
    filled(files).abandon()
    files.crash()
    with opened(files, OPTIONS) as log:
        report = log.recovery
        assert (report.clean_epoch, report.may_have_lost) == (None, False)
        assert (report.log_end, report.last_epoch) == (8, 3)


@pytest.mark.parametrize("cut", [1, 40, 84])
def test_a_start_that_cut_a_byte_reports_the_end_and_the_last_epoch_that_are_left(
    files: SimFiles, cut: int
) -> None:
    """Rule 15: whatever was cut may have been acknowledged."""
    log = filled(files, 1)
    fill(log, 1, epoch=4)
    data = everything(files)[last_segment(log).name]
    path = last_segment(log)
    log.abandon()
    files.kill()
    file = files.open(path)
    file.truncate(len(data) - cut)
    file.sync()
    file.close()
    with opened(files, OPTIONS) as log:
        report = log.recovery
        assert report.may_have_lost
        assert (report.cut_bytes, report.cut_offset) == (85 - cut, 1)
        assert (report.log_end, report.last_epoch) == (1, 3) == (log.log_end, log.last_epoch)


def test_corruption_at_a_start_is_not_a_cut(files: SimFiles) -> None:
    """Rule 15: it is treated as found while running."""
    log = filled(files)
    log.note_high_watermark(8)
    log.close(1)
    data = everything(files)[segment_path(3).name]
    put(files, segment_path(3), b"\xff" * 20, len(data) - 20)
    checkpoint = Checkpoint.read(files, DIRECTORY)
    assert checkpoint is not None
    replace(checkpoint, clean=None, durable_end=0).write(files, DIRECTORY)
    with opened(files, OPTIONS) as log:
        report = log.recovery
        assert report.corruption is not None
        assert not report.may_have_lost
        assert report.log_end == 5
        assert log.position().log_start <= log.position().durable_end <= log.position().log_end


# --- what is pushed -------------------------------------------------------------------------------------


def test_a_read_for_a_push_is_the_bytes_as_they_lie_on_disk(files: SimFiles) -> None:
    """DESIGN: a push carries the leader's frames. Over segments, in one object."""
    log = filled(files)
    stored = [data for name, data in everything(files).items() if name.endswith(".log")]
    framed = log.read_framed(0, EVERYTHING, EVERYTHING)
    assert framed == (b"".join(stored), 8)
    assert type(framed.data) is bytes
    assert log.read_framed(8, EVERYTHING, EVERYTHING) == (b"", 8)
    assert log.read_framed(3, EVERYTHING, 3) == (b"", 3)
    log.abandon()


@pytest.mark.parametrize("bytes_max", [1, 84, 85, 86, 169, 170, 300])
def test_a_read_for_a_push_takes_at_most_so_many_bytes_but_at_least_one_batch(
    files: SimFiles, bytes_max: int
) -> None:
    """Rule 38: credit counts what travels, which is frames too."""
    log = filled(files)
    seen, offset = b"", 0
    while (framed := log.read_framed(offset, bytes_max, 7)).data:
        assert len(framed.data) <= max(bytes_max, 85)
        assert parse_push(framed.data).bounds[:2] == (offset, framed.next_offset)
        seen, offset = seen + framed.data, framed.next_offset
    assert offset == 7
    assert seen == log.read_framed(0, EVERYTHING, 7).data
    log.abandon()


def test_what_is_not_durable_yet_is_pushed_too(files: SimFiles) -> None:
    """Rule 37: pushing needs the leader's append alone."""
    log = filled(files, 2)
    fill(log, 1)
    assert log.read_framed(0, EVERYTHING, log.log_end).next_offset == 3
    fail_sync(files, log)
    assert log.read_framed(0, EVERYTHING, 3).next_offset == 2, "nobody knows what the disk holds there"
    log.abandon()


@pytest.mark.parametrize("byte", [3, 10, 40, 80])
def test_a_cold_batch_that_is_bad_is_not_pushed(files: SimFiles, byte: int) -> None:
    """Rule 15: the leader verifies what it pushes; what is sound before it goes out."""
    log = filled(files)
    files.flip_bit(segment_path(3), 8 * (85 + byte))
    framed = log.read_framed(0, EVERYTHING, EVERYTHING)
    assert framed.next_offset == 4
    parse_push(framed.data)
    assert log.corruption is not None
    assert log.corruption.offset == 4
    with pytest.raises(CorruptBatch):
        log.read_framed(4, EVERYTHING, EVERYTHING)
    log.abandon()


def test_a_push_holds_batches_larger_than_a_chunk_of_reading(files: SimFiles) -> None:
    """Where one chunk ends and the next begins nothing is lost."""
    with opened(files) as log, opened(disk(5)) as follower:
        for size in (10, 900_000, 700_000, 5, 1_200_000, 20):
            log.append([batch(b"x" * size)], 1)
        follower.append_replica(parse_push(log.read_framed(0, EVERYTHING, EVERYTHING).data))
        assert contents(follower) == contents(log)
