"""Starting after a crash: torn is cut, corrupt is kept, what is presented is durable (rules 15, 40)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from millpond.wire.batch import Producer, seal
from millpond.wire.errors import CorruptBatch, StorageFailed, UnsupportedFormat
from millpond.wire.header import HEADER_BYTES
from millpond_broker.storage.log import Log
from tests.sim.disk import SimFiles
from tests.unit.storage.builders import (
    DIRECTORY,
    EPOCH,
    STORED_BYTES,
    VALUE_BYTES,
    Seen,
    batch,
    contents,
    disk,
    everything,
    expected,
    fill,
    get,
    open_log,
    opened,
    per_segment,
    placed,
    put,
    read,
    segment_path,
    sound_contents,
    sync,
    tiny,
    value,
)
from tests.unit.storage.tap import TapFiles

BATCH_BYTES = STORED_BYTES + VALUE_BYTES
OPTIONS = per_segment(3, VALUE_BYTES)


@pytest.fixture
def files() -> SimFiles:
    return disk()


def stopped(files: SimFiles, *, durable: int, more: int = 0, synced: bool = False) -> Log:
    """A log in one segment that was killed: so many records confirmed, then more."""
    log = open_log(files)
    fill(log, durable)
    if durable:
        sync(log)
    fill(log, more)
    if synced:
        sync(log)
    files.kill()
    return log


def segments_closed(files: SimFiles, records: int = 11) -> None:
    """A log in segments of three, closed cleanly."""
    log = open_log(files, OPTIONS)
    fill(log, records)
    log.close(1)


def cut_off(files: SimFiles, path: Path, size: int) -> None:
    files.cut(path, size)


def refuses_changes(log: Log) -> None:
    """Rule 15: appends and cuts of a corrupt log."""
    with pytest.raises(CorruptBatch) as raised:
        fill(log, 1)
    assert log.corruption is not None
    assert raised.value.offset == log.corruption.offset
    with pytest.raises(CorruptBatch):
        log.truncate(log.log_start)


# --- torn -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", range(BATCH_BYTES))
def test_a_torn_tail_of_any_length_is_cut_and_reported(files: SimFiles, left: int) -> None:
    """Rule 40: an append that a crash cut short, and nobody was told of."""
    stopped(files, durable=2, more=2)
    cut_off(files, segment_path(0), 3 * BATCH_BYTES + left)
    with opened(files) as log:
        assert contents(log) == expected(0, 3)
        assert log.recovery.clean_epoch is None
        assert log.recovery.cut_bytes == left
        assert log.recovery.cut_offset == (3 if left else None)
        assert log.recovery.corruption is None
        fill(log, 2)
        assert contents(log) == expected(0, 5)
    assert files.list(DIRECTORY)[segment_path(0).name] == 5 * BATCH_BYTES


@pytest.mark.parametrize("byte", range(0, BATCH_BYTES, 3))
def test_damage_to_the_last_batch_that_nobody_saw_durable_is_taken_for_torn(
    files: SimFiles, byte: int
) -> None:
    """Rule 40: indistinguishable from a sector that was never written."""
    stopped(files, durable=2, more=2)
    files.flip_bit(segment_path(0), 8 * (3 * BATCH_BYTES + byte))
    with opened(files) as log:
        assert contents(log) == expected(0, 3)
        assert (log.recovery.cut_bytes, log.recovery.cut_offset) == (BATCH_BYTES, 3)


def test_a_bad_batch_with_sound_ones_behind_it_that_saw_no_durable_end_past_it_is_torn(
    files: SimFiles,
) -> None:
    """DESIGN §4: sectors reach a disk in any order; a later sound batch alone proves nothing."""
    stopped(files, durable=2, more=4)
    files.flip_bit(segment_path(0), 8 * (3 * BATCH_BYTES + 80))
    with opened(files) as log:
        assert log.corruption is None
        assert contents(log) == expected(0, 3)
        assert log.recovery.cut_bytes == 3 * BATCH_BYTES
        fill(log, 2)
        assert contents(log) == expected(0, 5)


def test_what_was_cut_as_torn_does_not_come_back(files: SimFiles) -> None:
    """Rule 41: the cut is durable before the log is used."""
    stopped(files, durable=2, more=3)
    files.flip_bit(segment_path(0), 8 * (2 * BATCH_BYTES + 80))
    with opened(files) as log:
        assert log.log_end == 2
    for seed in range(8):
        machine = files.clone(Random(seed))
        machine.crash()
        with opened(machine) as log:
            assert contents(log) == expected(0, 2)


@pytest.mark.parametrize("seed", range(40))
def test_after_a_power_loss_a_prefix_is_there_that_holds_all_that_was_confirmed(
    files: SimFiles, seed: int
) -> None:
    """Rules 8, 40 and 41: whatever sectors and names survived."""
    random = Random(seed)
    options = tiny(segment_bytes=random.choice([300, 900, 1 << 20]))
    log = open_log(files, options)
    records: list[Seen] = []
    for _ in range(random.randint(1, 20)):
        size = random.choice([1, 100, 700, 3000])
        log.append([batch(b"z" * size, timestamp=len(records))], EPOCH)
        records.append(Seen(len(records), len(records), b"z" * size))
        if random.random() < 0.3:
            sync(log)
    confirmed = log.durable_end
    machine = files.clone(random)
    machine.crash()
    with opened(machine, options) as after:
        assert after.corruption is None
        assert after.log_end >= confirmed
        assert contents(after) == records[: after.log_end]
        again = contents(after)
    machine.crash()
    with opened(machine, options) as last:
        assert contents(last) == again, "what recovery presented is durable"


# --- corrupt --------------------------------------------------------------------------------------


def damaged_below_checkpoint(files: SimFiles) -> int:
    with opened(files) as log:
        fill(log, 5)
        log.close(1)
    with opened(files) as log:
        fill(log, 1)
    files.kill()
    files.flip_bit(segment_path(0), 8 * (2 * BATCH_BYTES + 80))
    put(files, DIRECTORY / "nothing", b"")
    files.unlink(segment_path(0, ".index"))
    return 2


def damaged_below_a_seen_durable_end(files: SimFiles) -> int:
    stopped(files, durable=4, more=1)
    files.flip_bit(segment_path(0), 8 * (3 * BATCH_BYTES + 80))
    return 3


def damaged_in_a_sealed_segment(files: SimFiles) -> int:
    with opened(files, OPTIONS) as log:
        fill(log, 2)
        log.truncate(2)  # lowers the checkpoint: only the seal vouches for what follows
        fill(log, 3)
    files.kill()
    files.flip_bit(segment_path(0), 8 * (2 * BATCH_BYTES + 80))
    checkpoint = DIRECTORY / "checkpoint"
    files.unlink(checkpoint)
    return 2


def cut_below_the_durable_end(files: SimFiles) -> int:
    with opened(files) as log:
        fill(log, 5)
        log.close(1)
    files.kill()
    cut_off(files, segment_path(0), 3 * BATCH_BYTES)
    return 3


def cut_below_what_the_index_covers(files: SimFiles) -> int:
    with opened(files) as log:
        fill(log, 5)
        log.close(1)
    files.kill()
    cut_off(files, segment_path(0), 3 * BATCH_BYTES + 7)
    return 3


def first_segment_missing(files: SimFiles) -> int:
    segments_closed(files)
    files.unlink(segment_path(0))
    return 0


def all_segments_missing(files: SimFiles) -> int:
    segments_closed(files, 2)
    files.unlink(segment_path(0))
    return 0


DAMAGES = [
    damaged_below_checkpoint,
    damaged_below_a_seen_durable_end,
    damaged_in_a_sealed_segment,
    cut_below_the_durable_end,
    cut_below_what_the_index_covers,
    first_segment_missing,
    all_segments_missing,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_what_was_durable_is_corrupt_keeps_its_bytes_and_serves_what_is_before_it(
    files: SimFiles, damage: Callable[[SimFiles], int]
) -> None:
    """Rule 15: that partition refuses appends with CorruptBatch, and reads of what is not sound."""
    offset = damage(files)
    before = {name: data for name, data in everything(files).items() if name.endswith(".log")}
    for _ in range(3):
        with opened(files, OPTIONS) as log:
            assert log.corruption is not None
            assert log.corruption.offset == offset
            assert log.recovery.corruption == log.corruption
            assert log.recovery.cut_bytes == 0
            seen, error = sound_contents(log)
            assert seen == expected(0, offset)
            assert error is not None
            assert error.offset == offset
            for beyond in (offset, offset + 1, 1 << 40):
                with pytest.raises(CorruptBatch):
                    read(log, beyond)
            with pytest.raises(CorruptBatch):
                log.find_time(1000 + offset)
            if offset:
                assert log.find_time(1000) == (0, 1000)
            refuses_changes(log)
            log.close(9)
        after = everything(files)
        assert all(after[name] == data for name, data in before.items())


@pytest.mark.parametrize(
    "damage", [damaged_below_checkpoint, damaged_below_a_seen_durable_end, damaged_in_a_sealed_segment]
)
def test_a_corrupt_log_whose_file_was_repaired_is_accepted_again(
    files: SimFiles, damage: Callable[[SimFiles], int]
) -> None:
    """Rule 15: nothing but the batches themselves condemns a log."""
    offset = damage(files)
    with opened(files, OPTIONS) as log:
        assert log.corruption is not None
    files.flip_bit(segment_path(0), 8 * (offset * BATCH_BYTES + 80))
    with opened(files, OPTIONS) as log:
        assert log.corruption is None
        assert log.log_end >= 5
        fill(log, 2)
        assert contents(log) == expected(0, log.log_end)
        log.close(2)
    with opened(files, OPTIONS) as log:
        assert log.recovery.clean_epoch == 2


def test_producers_of_a_repaired_log_are_those_it_had_before_the_damage(files: SimFiles) -> None:
    """Rules 15 and 16: also of batches that were trimmed long ago."""
    with opened(files, OPTIONS) as log:
        log.append([batch(value(0), producer=Producer(7, 0, 5))], EPOCH)
        fill(log, 10)
        sync(log)
        log.trim(6)
        live = log.producers.snapshot()
    files.kill()
    files.flip_bit(segment_path(6), 8 * 80)
    checkpoint = everything(files)["checkpoint"]
    put(files, DIRECTORY / "checkpoint", checkpoint.replace(b'"durable_end":9', b'"durable_end":6'))
    with opened(files, OPTIONS) as log:
        if log.corruption is None:
            with pytest.raises(CorruptBatch):
                contents(log)
    with opened(files, OPTIONS) as log:
        assert log.corruption is not None
    files.flip_bit(segment_path(6), 8 * 80)
    with opened(files, OPTIONS) as log:
        assert log.corruption is None
        assert log.producers.snapshot() == live


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("kind", ["missing", "cut at a batch", "cut in a batch", "emptied"])
def test_a_hole_between_segments_is_corruption_and_never_looks_like_compaction(
    files: SimFiles, kind: str, clean: bool
) -> None:
    """Rule 41: found by reading at the latest, remembered, and served up to."""
    segments_closed(files)
    if not clean:
        with opened(files, OPTIONS) as log:
            fill(log, 1)
    match kind:
        case "missing":
            files.unlink(segment_path(3))
        case "emptied":
            cut_off(files, segment_path(3), 0)
        case "cut at a batch":
            cut_off(files, segment_path(3), BATCH_BYTES)
        case _:
            cut_off(files, segment_path(3), BATCH_BYTES + 5)
    sound = 4 if kind.startswith("cut") else 3
    for _ in range(2):
        with opened(files, OPTIONS) as log:
            seen, error = sound_contents(log)
            assert seen == expected(0, sound)
            assert error is not None
            assert error.offset == sound
            with pytest.raises(CorruptBatch):
                read(log, 5)
            with pytest.raises(CorruptBatch):
                log.find_time(1005)
            refuses_changes(log)


def test_corruption_found_by_a_read_is_remembered_across_a_restart(files: SimFiles) -> None:
    """Rule 15: a clean close would be believed unread."""
    segments_closed(files)
    with opened(files, OPTIONS) as log:
        files.flip_bit(segment_path(3), 8 * (BATCH_BYTES + 80))
        assert read(log, 0) == expected(0, 4)
        with pytest.raises(CorruptBatch) as raised:
            read(log, 4)
        assert raised.value.offset == 4
        log.close(2)
    with opened(files, OPTIONS) as log:
        assert log.corruption is not None
        assert log.corruption.offset == 4
        assert sound_contents(log)[0] == expected(0, 4)


def test_a_damaged_batch_in_a_segment_without_an_index_is_found_exactly(files: SimFiles) -> None:
    """Rule 15: what is sound before it is served, though no index can be made."""
    segments_closed(files)
    files.flip_bit(segment_path(3), 8 * (BATCH_BYTES + 80))
    files.unlink(segment_path(3, ".index"))
    with opened(files, OPTIONS) as log:
        seen, error = sound_contents(log)
        assert seen == expected(0, 4)
        assert error is not None
        assert error.offset == 4


# --- from the future ------------------------------------------------------------------------------


def test_a_batch_of_an_unknown_magic_with_a_sound_frame_is_refused_and_nothing_changes(
    files: SimFiles,
) -> None:
    """DESIGN §4: refused, not misread, and above all not cut as torn."""
    stopped(files, durable=3)
    later = batch(b"later")
    put(
        files,
        segment_path(0),
        placed(later._replace(header=later.header._replace(magic=9)), 3),
        3 * BATCH_BYTES,
    )
    unchanged(files, "magic 9")


@pytest.mark.parametrize("bit", [14, 15])
def test_a_batch_with_an_unknown_attribute_bit_and_a_sound_checksum_is_refused(
    files: SimFiles, bit: int
) -> None:
    """DESIGN §4: an unknown bit is refused."""
    stopped(files, durable=3)
    later = batch(b"later")
    attributes = later.header.attributes | 1 << bit
    if attributes >= 1 << 15:
        attributes -= 1 << 16
    header = later.header._replace(attributes=attributes & 0xFFFF)
    put(files, segment_path(0), placed(seal(header, later.data[HEADER_BYTES:]), 3), 3 * BATCH_BYTES)
    unchanged(files, "unknown attribute bits")


def unchanged(files: SimFiles, what: str) -> None:
    before = {name: data for name, data in everything(files).items() if "index" not in name}
    tap = TapFiles(files)
    for _ in range(2):
        with pytest.raises(UnsupportedFormat, match=what):
            open_log(tap)
        after = {name: data for name, data in everything(files).items() if "index" not in name}
        assert after == before
    assert not +tap.open_files


def test_a_batch_whose_checksums_hold_and_whose_counts_do_not_is_a_bad_batch(files: SimFiles) -> None:
    """Whoever wrote it was wrong: it is judged as damage, in the one typed way."""
    stopped(files, durable=3)
    wrong = batch(b"wrong")
    header = wrong.header._replace(record_count=-1)
    put(files, segment_path(0), placed(seal(header, wrong.data[HEADER_BYTES:]), 3), 3 * BATCH_BYTES)
    with opened(files) as log:
        assert contents(log) == expected(0, 3)
        assert log.recovery.cut_offset == 3


def test_a_sound_batch_at_the_wrong_offset_is_a_bad_batch(files: SimFiles) -> None:
    """Rule 41: a hole must never look like compaction."""
    stopped(files, durable=3)
    put(files, segment_path(0), placed(batch(b"far"), 7), 3 * BATCH_BYTES)
    with opened(files) as log:
        assert contents(log) == expected(0, 3)
        assert log.recovery.cut_offset == 3


# --- a clean close --------------------------------------------------------------------------------


def test_a_clean_close_is_believed_without_reading_a_batch(files: SimFiles) -> None:
    """DESIGN §5: whatever the size of the log."""
    segments_closed(files)
    tap = TapFiles(files)
    with opened(tap, OPTIONS) as log:
        assert log.recovery.clean_epoch == 1
        assert (log.recovery.verified_bytes, log.log_end, log.durable_end) == (0, 11, 11)
        assert not any(name.endswith(".log") for name in tap.reads)
        assert tap.changes == []
        assert contents(log) == expected(0, 11)


def test_a_clean_close_survives_any_crash_and_carries_the_broker_epoch(files: SimFiles) -> None:
    """Rule 15."""
    segments_closed(files)
    for seed in range(8):
        machine = files.clone(Random(seed))
        machine.crash()
        with opened(machine, OPTIONS) as log:
            assert log.recovery.clean_epoch == 1
            assert contents(log) == expected(0, 11)


def test_a_log_that_was_only_read_is_closed_under_the_epoch_of_this_close(
    files: SimFiles,
) -> None:
    """Rule 15: a mismatched epoch counts as an unclean stop."""
    segments_closed(files)
    with opened(files, OPTIONS) as log:
        contents(log)
        log.close(2)
    with opened(files, OPTIONS) as log:
        assert log.recovery.clean_epoch == 2
    with opened(files, OPTIONS) as log:
        assert log.recovery.clean_epoch == 2, "a stop before any change changed nothing"


@pytest.mark.parametrize("change", ["append", "truncate", "trim", "retain"])
def test_the_word_of_a_clean_close_is_taken_back_before_anything_changes(
    files: SimFiles, change: str
) -> None:
    """Rule 15: durably."""
    options = tiny(segment_bytes=3 * BATCH_BYTES, retention_ms=100)
    segments_closed(files)
    tap = TapFiles(files)
    log = open_log(tap, options)
    match change:
        case "append":
            fill(log, 1)
        case "truncate":
            log.truncate(10)
        case "trim":
            log.trim(4)
        case _:
            log.retain(1 << 40, 11)
    assert tap.changes[:5] == [
        "create checkpoint.new",
        "write checkpoint.new",
        "sync checkpoint.new",
        "rename checkpoint",
        "sync_directory log",
    ]
    files.kill()
    with opened(files, options) as log:
        assert log.recovery.clean_epoch is None


@pytest.mark.parametrize("difference", [-1, -BATCH_BYTES, 1, BATCH_BYTES])
def test_a_clean_close_is_not_believed_when_the_size_differs(files: SimFiles, difference: int) -> None:
    """DESIGN §5: somebody else was there."""
    with opened(files) as log:
        fill(log, 4)
        log.close(1)
    if difference < 0:
        cut_off(files, segment_path(0), 4 * BATCH_BYTES + difference)
    else:
        put(files, segment_path(0), b"\0" * difference, 4 * BATCH_BYTES)
    with opened(files) as log:
        assert log.recovery.clean_epoch is None
        assert (log.corruption is not None) == (difference < 0)
        assert sound_contents(log)[0] == expected(0, 3 if difference < 0 else 4)


# --- what is rewritten ----------------------------------------------------------------------------


def test_what_a_sound_frame_saw_durable_is_not_rewritten_and_all_after_it_is_and_is_synced(
    files: SimFiles,
) -> None:
    """Rule 40: bytes past the known durable end count only after they were rewritten and fsynced."""
    stopped(files, durable=4, more=3)
    tap = TapFiles(files)
    with opened(tap) as log:
        assert contents(log) == expected(0, 7)
    name = segment_path(0).name
    assert tap.written[name] == [(4 * BATCH_BYTES, 7 * BATCH_BYTES)]
    assert tap.changes.index(f"write {name}") < tap.changes.index(f"sync {name}")
    assert tap.changes.index(f"sync {name}") < tap.changes.index("rename checkpoint")


def test_without_a_frame_that_saw_it_everything_past_the_checkpoint_is_rewritten(files: SimFiles) -> None:
    """Rule 40: though it was synced, nothing says so."""
    stopped(files, durable=4)
    tap = TapFiles(files)
    for _ in range(2):
        with opened(tap):
            pass
    written = tap.written[segment_path(0).name]
    assert written[0] == (0, 4 * BATCH_BYTES)
    assert written[1:] == [(3 * BATCH_BYTES, 4 * BATCH_BYTES)], (
        "from the last index entry before the checkpoint"
    )


def test_a_start_on_a_disk_that_cannot_be_read_fails_typed_and_holds_nothing(files: SimFiles) -> None:
    """Rule 40: EIO."""
    stopped(files, durable=3)
    files.fail_reads(segment_path(0))
    tap = TapFiles(files)
    with pytest.raises(StorageFailed):
        open_log(tap)
    assert not +tap.open_files
    files.heal()
    with opened(tap) as log:
        assert contents(log) == expected(0, 3)


def test_what_was_read_is_still_what_was_written_byte_for_byte(files: SimFiles) -> None:
    """Recovery rewrites in place; it changes nothing."""
    stopped(files, durable=3, more=4)
    before = get(files, segment_path(0))
    with opened(files):
        pass
    assert get(files, segment_path(0)) == before
