"""One log without trouble: append, roll, read by offset and by time."""

from __future__ import annotations

from random import Random

import pytest

from millpond.wire.batch import decode_batch
from millpond.wire.errors import OffsetOutOfRange
from millpond_broker.storage.log import Log
from tests.sim.disk import SimFiles
from tests.unit.storage.builders import (
    DIRECTORY,
    EPOCH,
    EVERYTHING,
    STORED_BYTES,
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
    read,
    segment_path,
    sync,
    tiny,
    value,
)
from tests.unit.storage.tap import TapFiles


@pytest.fixture
def files() -> SimFiles:
    return disk()


def offsets(seen: list[Seen]) -> list[int]:
    return [record.offset for record in seen]


def bases(log: Log) -> list[int]:
    return [segment.base_offset for segment in log.segments()]


# --- append ---------------------------------------------------------------------------------------


def test_a_new_log_is_empty_and_its_directory_durable(files: SimFiles) -> None:
    """Rule 41: creating syncs the parent directory."""
    with opened(files) as log:
        assert (log.log_start, log.durable_end, log.log_end, log.size_bytes) == (0, 0, 0, 0)
        assert not log.is_dirty
        assert log.begin_sync() is None
        assert read(log, 0) == []
    files.crash()
    assert files.exists(DIRECTORY)
    assert files.exists(segment_path(0))


def test_an_append_gives_consecutive_offsets_and_is_readable_at_once(files: SimFiles) -> None:
    with opened(files) as log:
        assert log.append([batch(b"a", b"b"), batch(b"c")], EPOCH) == (0, 3)
        assert log.append([batch(b"d")], EPOCH) == (3, 4)
        assert contents(log) == [Seen(at, 1000, bytes([97 + at])) for at in range(4)]


def test_several_batches_are_one_write(files: SimFiles) -> None:
    """DESIGN §5: append is one writev, not one for each batch."""
    tap = TapFiles(files)
    with opened(tap) as log:
        fill(log, 1)
        tap.clear()
        log.append([batch(value(at)) for at in range(1, 200)], EPOCH)
        assert tap.changes == [f"write {segment_path(0).name}"]
        assert offsets(contents(log)) == list(range(200))


def test_more_buffers_than_one_write_takes_are_all_written(files: SimFiles) -> None:
    with opened(files) as log:
        log.append([batch(value(at)) for at in range(2500)], EPOCH)
        assert [record.value for record in read(log, 0)] == [value(at) for at in range(2500)]


def test_a_batch_is_stored_under_its_offset_and_leader_epoch_with_its_body_untouched(
    files: SimFiles,
) -> None:
    """Rule 1, DESIGN §4: the leader patches what the checksum leaves bare."""
    sent = batch(b"a", b"b")
    with opened(files) as log:
        fill(log, 5)
        log.append([sent], EPOCH + 4)
        (stored,) = log.read(5, EVERYTHING, EVERYTHING)
    assert stored.batch.header == sent.header._replace(base_offset=5, leader_epoch=EPOCH + 4)
    assert bytes(stored.batch.data[21:]) == sent.data[21:]
    assert log.epochs.entries() == [(EPOCH, 0), (EPOCH + 4, 5)]


def test_a_frame_says_what_was_durable_when_its_batch_was_written(files: SimFiles) -> None:
    """DESIGN §4: the distance from this replica's own durable end at its own append."""
    with opened(files) as log:
        fill(log, 2)
        sync(log)
        fill(log, 2)
        sync(log)
        fill(log, 1)
        stored = log.read(0, EVERYTHING, EVERYTHING)
    seen = [one.frame.durable_end(one.batch.header.base_offset) for one in stored]
    assert seen == [0, 0, 2, 2, 4]


def test_nothing_is_durable_until_a_sync_was_confirmed(files: SimFiles) -> None:
    """Rule 40's ground: what counts is what fdatasync confirmed."""
    with opened(files) as log:
        fill(log, 3)
        assert (log.durable_end, log.is_dirty) == (0, True)
        pending = begun(log)
        fill(log, 2)
        pending.file.sync()
        assert log.durable_end == 0
        log.confirm(pending)
        assert (log.durable_end, log.is_dirty) == (3, True)
        sync(log)
        assert (log.durable_end, log.is_dirty) == (5, False)
    files.crash()
    with opened(files) as log:
        assert contents(log) == expected(0, 5)


def test_syncs_that_overlap_confirm_what_each_of_them_covered(files: SimFiles) -> None:
    with opened(files) as log:
        fill(log, 1)
        first = begun(log)
        fill(log, 1)
        second = begun(log)
        for pending in (first, second):
            pending.file.sync()
        log.confirm(first)
        assert log.durable_end == 1
        log.confirm(second)
        assert log.durable_end == 2


# --- rolling --------------------------------------------------------------------------------------


def test_a_segment_that_would_grow_past_its_size_is_sealed(files: SimFiles) -> None:
    with opened(files, per_segment(3, VALUE_BYTES)) as log:
        fill(log, 3)
        assert bases(log) == [0]
        fill(log, 4)
        assert bases(log) == [0, 3, 6]
        sizes = [segment.size_bytes // (STORED_BYTES + VALUE_BYTES) for segment in log.segments()]
        assert sizes == [3, 3, 1]
        assert contents(log) == expected(0, 7)


def test_one_append_is_never_split_and_an_empty_segment_takes_it_whatever_its_size(
    files: SimFiles,
) -> None:
    with opened(files, tiny(segment_bytes=100)) as log:
        log.append([batch(b"x" * 500), batch(b"y")], EPOCH)
        assert bases(log) == [0]
        log.append([batch(b"z" * 500)], EPOCH)
        assert bases(log) == [0, 2]


def test_a_segment_whose_records_would_span_too_much_time_is_sealed(files: SimFiles) -> None:
    """Rule 35's ground: by time of records, from the first batch of the segment."""
    with opened(files, tiny(segment_ms=100)) as log:
        fill(log, 1, timestamp=1000)
        fill(log, 1, timestamp=1100)
        assert bases(log) == [0]
        fill(log, 1, timestamp=1101)
        fill(log, 1, timestamp=1201)
        assert bases(log) == [0, 2]
        fill(log, 1, timestamp=500)
        assert bases(log) == [0, 2], "an older record spans nothing more"


def test_age_is_counted_from_the_first_record_also_after_a_restart(files: SimFiles) -> None:
    options = tiny(segment_ms=100)
    with opened(files, options) as log:
        fill(log, 1, timestamp=1000)
        fill(log, 1, timestamp=1050)
        log.close(1)
    with opened(files, options) as log:
        fill(log, 1, timestamp=1100)
        assert bases(log) == [0]
        fill(log, 1, timestamp=1101)
        assert bases(log) == [0, 3]


def test_age_is_counted_anew_once_a_cut_emptied_the_segment(files: SimFiles) -> None:
    with opened(files, tiny(segment_ms=100)) as log:
        fill(log, 1, timestamp=1000)
        log.truncate(0)
        fill(log, 1, timestamp=5000)
        fill(log, 1, timestamp=5100)
        assert bases(log) == [0]


def test_a_roll_syncs_the_sealed_segment_and_the_new_name_before_an_append(
    files: SimFiles,
) -> None:
    """Rule 41: a new segment's directory entry is synced before its first append."""
    tap = TapFiles(files)
    with opened(tap, per_segment(2, VALUE_BYTES)) as log:
        fill(log, 2)
        tap.clear()
        fill(log, 1)
        assert log.durable_end == 2
        changes = tap.changes
    old, new = segment_path(0).name, segment_path(2).name
    assert changes[0] == f"sync {old}"
    created = changes.index(f"create {new}")
    assert changes[created:] == [
        f"create {new}",
        f"sync_directory {DIRECTORY.name}",
        f"write {new}",
    ]


def test_a_sealed_segment_survives_any_crash_without_another_sync(files: SimFiles) -> None:
    """Rule 41."""
    options = per_segment(2, VALUE_BYTES)
    with opened(files, options) as log:
        fill(log, 3)
    for seed in range(16):
        machine = files.clone(Random(seed))
        machine.crash()
        with opened(machine, options) as log:
            assert contents(log)[:2] == expected(0, 2)
            assert log.log_end in (2, 3)


def test_a_log_rolls_before_offsets_outgrow_its_index(
    files: SimFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Index entries hold 31-bit relative offsets."""
    monkeypatch.setattr("millpond_broker.storage.segments.RELATIVE_OFFSET_MAX", 3)
    with opened(files) as log:
        fill(log, 9)
        assert bases(log) == [0, 3, 6]
        assert contents(log) == expected(0, 9)


# --- read by offset -------------------------------------------------------------------------------


@pytest.mark.parametrize("index_interval_bytes", [1, 150, 1 << 20])
@pytest.mark.parametrize("reopened", [False, True])
def test_a_read_from_any_offset_begins_with_the_batch_that_holds_it(
    files: SimFiles, index_interval_bytes: int, reopened: bool
) -> None:
    """Mid-batch, at segment borders, whatever the index knows; and goes on across segments."""
    options = tiny(segment_bytes=400, index_interval_bytes=index_interval_bytes)
    log = open_log(files, options)
    batch_of: dict[int, int] = {}
    for count in (1, 3, 2, 5, 1, 1, 4, 2, 6, 1):
        values = [value(log.log_end + at) for at in range(count)]
        base, end = log.append([batch(*values)], EPOCH)
        batch_of |= dict.fromkeys(range(base, end), base)
    if reopened:
        log.close(1)
        log = open_log(files, options)
    assert len(log.segments()) >= 3
    for offset in range(log.log_end):
        seen = read(log, offset)
        assert offsets(seen) == list(range(batch_of[offset], log.log_end))
        assert all(record.value == value(record.offset) for record in seen)
    log.abandon()


def test_a_read_returns_as_many_batches_as_fit_but_at_least_one(files: SimFiles) -> None:
    with opened(files, per_segment(2, VALUE_BYTES)) as log:
        fill(log, 6)
        size = STORED_BYTES + VALUE_BYTES - 8  # as it travels: without the frame
        for bytes_max, count in [(0, 1), (1, 1), (size, 1), (2 * size - 1, 1), (2 * size, 2)]:
            assert offsets(read(log, 1, bytes_max)) == list(range(1, 1 + count))
        assert offsets(read(log, 1, 4 * size)) == [1, 2, 3, 4], "across segments"


def test_a_batch_larger_than_any_chunk_is_read_whole(files: SimFiles) -> None:
    big = bytes(range(256)) * 8000
    with opened(files) as log:
        log.append([batch(b"small"), batch(big), batch(b"last")], EPOCH)
        assert [record.value for record in read(log, 0, 1)] == [b"small"]
        assert [record.value for record in read(log, 1, 1)] == [big]
        assert [record.value for record in contents(log)] == [b"small", big, b"last"]


def test_no_batch_that_begins_at_or_past_below_is_returned(files: SimFiles) -> None:
    """Rule 7: consumers read only below the high watermark."""
    with opened(files, tiny(segment_bytes=200)) as log:
        for count in (1, 3, 2, 1):
            log.append([batch(*[b"x"] * count)], EPOCH)
        ends = {
            0: [],
            1: [0],
            2: [0, 1, 2, 3],
            4: [0, 1, 2, 3],
            5: list(range(6)),
            7: list(range(7)),
        }
        for below, seen in ends.items():
            assert offsets(read(log, 0, below=below)) == seen
        assert read(log, 4, below=4) == []
        assert read(log, 6, below=5) == []


def test_at_the_log_end_there_is_nothing_yet_and_that_is_no_error(files: SimFiles) -> None:
    with opened(files, per_segment(2, VALUE_BYTES)) as log:
        for _ in range(5):
            assert read(log, log.log_end) == []
            fill(log, 1)


def test_an_offset_outside_the_log_is_refused_on_both_sides_with_its_bounds(
    files: SimFiles,
) -> None:
    with opened(files) as log:
        fill(log, 5)
        sync(log)
        log.trim(2)
        for offset in (-1, 0, 1, 6, 1 << 62):
            with pytest.raises(OffsetOutOfRange) as raised:
                log.read(offset, EVERYTHING, EVERYTHING)
            error = raised.value
            assert (error.topic, error.partition, error.offset) == ("orders", 0, offset)
            assert (error.log_start, error.log_end) == (2, 5)
        assert contents(log) == expected(2, 5)


def test_only_so_many_sealed_segments_stay_open_and_every_one_can_be_read_again(
    files: SimFiles,
) -> None:
    """DESIGN §9: descriptors are bounded."""
    tap = TapFiles(files)
    log = open_log(tap, tiny(segment_bytes=150, sealed_segments_open_max=2))
    fill(log, 12)
    assert len(log.segments()) == 12
    for _ in range(2):
        assert contents(log) == expected(0, 12)
        assert log.find_time(1000) == (0, 1000)
        assert sum(tap.open_files.values()) <= 3
    log.abandon()
    assert not +tap.open_files


def test_a_sealed_segment_is_not_closed_under_a_sync_that_another_thread_runs(
    files: SimFiles,
) -> None:
    """A descriptor closed under a sync could be another file's by the time it is used."""
    tap = TapFiles(files)
    log = open_log(tap, tiny(segment_bytes=150, sealed_segments_open_max=0))
    fill(log, 1)
    pending = begun(log)
    fill(log, 2)
    assert tap.open_files[segment_path(0).name] == 1
    pending.file.sync()
    log.confirm(pending)
    assert tap.open_files[segment_path(0).name] == 0
    log.abandon()


# --- look-up by time ------------------------------------------------------------------------------


def first_at(records: list[Seen], timestamp: int) -> tuple[int, int] | None:
    """What a scan through all records answers."""
    for record in records:
        if record.timestamp >= timestamp:
            return record.offset, record.timestamp
    return None


def test_a_look_up_by_time_finds_the_first_record_at_or_after_it(files: SimFiles) -> None:
    """Rule 36; before everything, after everything, between."""
    with opened(files, per_segment(2, VALUE_BYTES)) as log:
        assert log.find_time(0) is None
        for at in (10, 20, 30, 40, 50):
            fill(log, 1, timestamp=at)
        assert log.find_time(-(2**62)) == (0, 10)
        assert log.find_time(10) == (0, 10)
        assert log.find_time(11) == (1, 20)
        assert log.find_time(30) == (2, 30)
        assert log.find_time(50) == (4, 50)
        assert log.find_time(51) is None


def test_among_equal_times_the_first_is_found(files: SimFiles) -> None:
    """Rule 36: also when they fill several segments."""
    with opened(files, per_segment(2, VALUE_BYTES)) as log:
        fill(log, 1, timestamp=10)
        fill(log, 6, timestamp=20)
        fill(log, 1, timestamp=30)
        assert log.find_time(20) == (1, 20)
        assert log.find_time(21) == (7, 30)


def test_a_record_inside_a_batch_is_found(files: SimFiles) -> None:
    """Rule 36: then scan for the first."""
    with opened(files) as log:
        log.append([batch(b"a", b"b", b"c", timestamp=[10, 30, 20])], EPOCH)
        assert log.find_time(11) == (1, 30)
        assert log.find_time(10) == (0, 10)


def test_times_below_the_log_start_are_not_found(files: SimFiles) -> None:
    """Also not within the batch that the log start lies in."""
    with opened(files) as log:
        log.append([batch(b"a", b"b", b"c", timestamp=[50, 30, 40])], EPOCH)
        fill(log, 1, timestamp=45)
        sync(log)
        log.trim(1)
        assert log.find_time(20) == (1, 30)
        assert log.find_time(41) == (3, 45)
        assert log.find_time(50) is None


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("stop", ["running", "clean", "crash", "no index", "flipped index"])
def test_look_ups_by_time_agree_with_a_scan_however_unordered_the_times(
    files: SimFiles, seed: int, stop: str
) -> None:
    """Rule 36: across segments and restarts, with a time index lost or flipped."""
    random = Random(seed)
    options = tiny(
        segment_bytes=random.choice([200, 500, 1 << 20]),
        index_interval_bytes=random.choice([1, 300]),
    )
    log = open_log(files, options)
    for _ in range(25):
        times = [random.randint(1, 40) for _ in range(random.randint(1, 4))]
        log.append([batch(*[b"x"] * len(times), timestamp=times)], EPOCH)
    sync(log)
    records = [
        Seen(*pair, b"x")
        for stored in log.read(0, EVERYTHING, EVERYTHING)
        for decoded in [decode_batch(stored.batch)]
        for pair in zip(decoded.offsets, decoded.timestamps, strict=True)
    ]
    if stop in ("clean", "no index", "flipped index"):
        log.close(1)
    if stop == "crash":
        files.crash()
    if stop in ("no index", "flipped index"):
        for name, size in files.list(DIRECTORY).items():
            if name.endswith(".timeindex") and stop == "no index":
                files.unlink(DIRECTORY / name)
            elif name.endswith(".timeindex"):
                files.flip_bit(DIRECTORY / name, random.randrange(8 * size))
    if stop != "running":
        log = open_log(files, options)
    for timestamp in range(42):
        assert log.find_time(timestamp) == first_at(records, timestamp)
    log.abandon()
