"""One segment and its indexes, which are caches: right, or made again (rules 36 and 41)."""

from __future__ import annotations

import pytest

from millpond_broker.storage.scan import BadBatch
from millpond_broker.storage.segment import Segment
from tests.sim.disk import SimFiles
from tests.unit.storage.builders import DIRECTORY, batch, disk, placed, segment_path
from tests.unit.storage.tap import TapFiles

BASE = 100
TIMES = [50, 40, 60, 60, 70, 10]


@pytest.fixture
def files() -> SimFiles:
    made = disk()
    made.make_directory(DIRECTORY)
    made.sync_directory(DIRECTORY.parent)
    return made


def grown(files: SimFiles | TapFiles, interval_bytes: int = 1) -> Segment:
    """Six batches of two records each, the times of both the same."""
    segment = Segment.planned(files, DIRECTORY, BASE, interval_bytes).make()
    for number, time in enumerate(TIMES):
        one = batch(b"x" * number, b"y", timestamp=time)
        offset = BASE + 2 * number
        segment.file.write_at(segment.size_bytes, [placed(one, offset)])
        segment.note(one.header._replace(base_offset=offset))
    return segment


def again(files: SimFiles | TapFiles, of: Segment, interval_bytes: int = 1) -> Segment:
    """The segment as a start after a clean close makes it: by the length of its file."""
    return Segment(
        files,
        DIRECTORY,
        BASE,
        size_bytes=of.size_bytes,
        next_offset=of.next_offset,
        index_interval_bytes=interval_bytes,
    )


def knows(segment: Segment) -> object:
    """What look-ups learn from its indexes; every floor of a time is checked on the way (rule 36)."""
    offsets = range(BASE - 1, segment.next_offset + 2)
    batches = [stored.batch.header for stored in segment.batches()]
    for time in range(80):
        floor = segment.offset_before_time(time)
        assert all(one.max_timestamp < time for one in batches if one.base_offset < floor)
    return [segment.entry_before(offset) for offset in offsets], segment.max_timestamp()


def test_a_new_segment_is_empty_and_its_name_durable(files: SimFiles) -> None:
    """Rule 41."""
    tap = TapFiles(files)
    segment = Segment.planned(tap, DIRECTORY, BASE, 1).make()
    assert (segment.size_bytes, segment.next_offset, segment.max_timestamp()) == (0, BASE, None)
    assert segment.first_timestamp() is None
    assert tap.changes == [f"create {segment_path(BASE).name}", "sync_directory log"]
    segment.close()


def test_a_new_segment_takes_the_place_of_what_a_failed_attempt_left(files: SimFiles) -> None:
    """Rule 41: neither its bytes nor its indexes are seen again."""
    old = grown(files)
    old.flush_indexes()
    old.close()
    segment = Segment.planned(files, DIRECTORY, BASE, 1).make()
    assert files.list(DIRECTORY) == {segment_path(BASE).name: 0}
    segment.close()
    files.crash()
    assert files.list(DIRECTORY) == {segment_path(BASE).name: 0}


@pytest.mark.parametrize("interval_bytes", [1, 150, 1 << 20])
def test_an_entry_leads_to_the_batch_that_holds_an_offset_or_to_one_before(
    files: SimFiles, interval_bytes: int
) -> None:
    segment = grown(files, interval_bytes)
    for offset in range(BASE, segment.next_offset):
        entry, position = segment.entry_before(offset)
        assert entry <= offset
        first = next(segment.batches(position))
        assert first.batch.header.base_offset == entry
        found = next(segment.batches_from(offset)).batch.header
        assert found.base_offset <= offset < found.next_offset
    assert list(segment.batches_from(segment.next_offset)) == []


@pytest.mark.parametrize("interval_bytes", [1, 150, 1 << 20])
def test_every_record_before_the_floor_of_a_time_is_older(files: SimFiles, interval_bytes: int) -> None:
    """Rule 36: entry (T, O): max timestamp before O is T."""
    segment = grown(files, interval_bytes)
    for time in range(80):
        floor = segment.offset_before_time(time)
        assert all(at < time for number, at in enumerate(TIMES) if BASE + 2 * number < floor)
    assert segment.max_timestamp() == 70
    assert segment.first_timestamp() == 50


@pytest.mark.parametrize("interval_bytes", [1, 150, 1 << 20])
@pytest.mark.parametrize("kind", ["kept", "missing", "torn", "flipped", "stale"])
@pytest.mark.parametrize("suffix", [".index", ".timeindex"])
def test_indexes_that_were_lost_damaged_or_old_are_made_again_and_written(
    files: SimFiles, interval_bytes: int, kind: str, suffix: str
) -> None:
    """An index is a cache, rebuilt on any doubt."""
    segment = grown(files, interval_bytes)
    live = knows(segment)
    path = segment_path(BASE, suffix)
    segment.flush_indexes()
    segment.close()
    match kind:
        case "missing":
            files.unlink(path)
        case "torn":
            files.cut(path, files.list(DIRECTORY)[path.name] - 1)
        case "flipped":
            files.flip_bit(path, 8 * 14)
        case "stale":
            one = batch(b"late", timestamp=75)
            segment.file.write_at(segment.size_bytes, [placed(one, segment.next_offset)])
            segment.note(one.header._replace(base_offset=segment.next_offset))
            live = knows(segment)
            segment.close()
        case _:
            pass
    tap = TapFiles(files)
    loaded = again(tap, segment, interval_bytes)
    assert knows(loaded) == live
    assert loaded.first_timestamp() == 50
    loaded.close()
    tap.clear()
    third = again(tap, segment, interval_bytes)
    third.load_indexes()
    assert tap.reads[segment_path(BASE).name] == 0, "what was made again was written"
    assert knows(third) == live
    third.close()


def test_an_index_that_cannot_be_written_is_still_used(files: SimFiles) -> None:
    """Rule 40: reads go on on a full disk."""
    segment = grown(files)
    live = knows(segment)
    segment.close()
    files.capacity_bytes = sum(files.list(DIRECTORY).values())
    loaded = again(files, segment)
    assert knows(loaded) == live
    loaded.close()


def test_an_index_cannot_be_made_of_a_damaged_segment_and_its_bounds_stay(files: SimFiles) -> None:
    segment = grown(files)
    segment.close()
    files.flip_bit(segment_path(BASE), 8 * 200)
    loaded = again(files, segment)
    for _ in range(2):
        with pytest.raises(BadBatch):
            loaded.load_indexes()
        assert (loaded.size_bytes, loaded.next_offset) == (segment.size_bytes, segment.next_offset)
    loaded.close()


def test_a_released_segment_opens_again_on_the_next_use(files: SimFiles) -> None:
    tap = TapFiles(files)
    segment = grown(tap)
    live = knows(segment)
    segment.flush_indexes()
    segment.release()
    assert not +tap.open_files
    assert knows(segment) == live
    assert len(list(segment.batches())) == len(TIMES)
    segment.close()
    assert not +tap.open_files


@pytest.mark.parametrize("interval_bytes", [1, 150, 1 << 20])
@pytest.mark.parametrize("kept", range(len(TIMES) + 1))
@pytest.mark.parametrize("flushed", [False, True])
def test_a_cut_segment_knows_what_one_knows_that_never_held_more(
    files: SimFiles, interval_bytes: int, kept: int, flushed: bool
) -> None:
    """Rule 41: no index entry and no greatest time of what was cut."""
    segment = grown(files, interval_bytes)
    if flushed:
        segment.flush_indexes()
    end = BASE + 2 * kept
    segment.cut(end)
    assert segment.next_offset == end
    assert files.list(DIRECTORY)[segment_path(BASE).name] == segment.size_bytes
    assert segment.max_timestamp() == max(TIMES[:kept], default=None)
    assert segment.first_timestamp() == (50 if kept else None)
    assert [one.batch.header.base_offset for one in segment.batches()] == list(range(BASE, end, 2))
    for number in range(kept, len(TIMES)):
        one = batch(b"x" * number, b"y", timestamp=TIMES[number])
        offset = BASE + 2 * number
        segment.file.write_at(segment.size_bytes, [placed(one, offset)])
        segment.note(one.header._replace(base_offset=offset))
    other = disk()
    other.make_directory(DIRECTORY)
    untouched = grown(other, interval_bytes)
    for time in range(80):
        floor = segment.offset_before_time(time)
        assert all(at < time for number, at in enumerate(TIMES) if BASE + 2 * number < floor)
    assert [segment.entry_before(at) for at in range(BASE, BASE + 12)] == [
        untouched.entry_before(at) for at in range(BASE, BASE + 12)
    ]
    live = knows(segment)
    segment.flush_indexes()
    segment.close()
    loaded = again(files, segment, interval_bytes)
    assert knows(loaded) == live
    loaded.close()


def test_a_removed_segment_leaves_no_file(files: SimFiles) -> None:
    segment = grown(files)
    segment.flush_indexes()
    segment.remove()
    assert files.list(DIRECTORY) == {}


def test_a_batch_that_goes_back_or_too_far_is_our_bug(files: SimFiles) -> None:
    """Offsets only grow, and entries hold them in 31 bits."""
    segment = grown(files)
    header = batch(b"x").header
    for offset in (BASE, BASE + 2**31):
        with pytest.raises(AssertionError):
            segment.note(header._replace(base_offset=offset))
    segment.close()
