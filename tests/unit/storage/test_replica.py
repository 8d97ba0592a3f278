"""A leader's push at the end of a follower's log: verified before it is believed, kept as it was sent."""

from __future__ import annotations

from random import Random

import pytest

from millpond.wire.batch import Producer
from millpond.wire.errors import CorruptBatch, StorageFailed, StorageFull, UnsupportedFormat
from millpond_broker.core.replication import Batches, Position
from millpond_broker.storage.log import Log
from millpond_broker.storage.replica import parse_push
from tests.sim.disk import SimFiles
from tests.unit.storage.builders import (
    DIRECTORY,
    EPOCH,
    EVERYTHING,
    STORED_BYTES,
    VALUE_BYTES,
    batch,
    contents,
    disk,
    everything,
    expected,
    fail_sync,
    fill,
    open_log,
    opened,
    per_segment,
    placed,
    put,
    segment_path,
    sync,
    tiny,
    value,
)
from tests.unit.storage.tap import TapFiles

OPTIONS = per_segment(3, VALUE_BYTES)


@pytest.fixture
def files() -> SimFiles:
    return disk()


def push_of(leader: Log, start: int, end: int = EVERYTHING) -> bytes:
    return leader.read_framed(start, EVERYTHING, end).data


def leaders_push(*epochs: int) -> bytes:
    """The log of a leader: a batch of one record in each of these epochs."""
    with opened(disk(9)) as leader:
        for epoch in epochs:
            fill(leader, 1, epoch=epoch)
        return push_of(leader, 0)


# --- a push, taken apart --------------------------------------------------------------------------------


def test_a_push_tells_its_bounds_before_anything_is_written() -> None:
    """Rule 37: by them the follower knows whether it belongs at the end of its log."""
    data = placed(batch(b"a", b"b"), 7, epoch=2) + placed(batch(b"c"), 12, epoch=5)
    pushed = parse_push(data)
    assert pushed.bounds == Batches(base_offset=7, next_offset=13, first_epoch=2, last_epoch=5)
    assert pushed.has_gaps
    assert pushed.size_bytes == len(data)


def test_the_bytes_of_a_push_stay_one_object() -> None:
    """DESIGN: from rpc to writev."""
    data = leaders_push(1, 1, 1)
    assert all(view.obj is data for view in parse_push(data).views)
    assert not parse_push(data).has_gaps


@pytest.mark.parametrize("bit", range(8 * (STORED_BYTES + VALUE_BYTES)))
def test_a_flipped_bit_anywhere_in_a_push_is_found(bit: int) -> None:
    """Rule 15: followers verify each batch before they append it. The 4 bytes of the frame that tell the
    leader's durable end are vouched for with the rest.
    """
    data = bytearray(leaders_push(1, 2))
    data[len(data) // 2 + bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptBatch):
        parse_push(bytes(data))


@pytest.mark.parametrize("cut", range(1, STORED_BYTES + VALUE_BYTES))
def test_a_push_that_ends_inside_a_batch_is_refused_whole(cut: int) -> None:
    with pytest.raises(CorruptBatch):
        parse_push(leaders_push(1, 2)[:-cut])


def test_a_push_of_no_batch_is_refused() -> None:
    with pytest.raises(CorruptBatch):
        parse_push(b"")


@pytest.mark.parametrize(
    "places",
    [((3, 1), (2, 1)), ((3, 1), (3, 1)), ((3, 2), (4, 1)), ((0, -1),), ((-5, 1),)],
    ids=["back", "again", "epoch back", "no epoch", "no offset"],
)
def test_batches_that_cannot_follow_each_other_are_refused(places: tuple[tuple[int, int], ...]) -> None:
    """In a log offsets only grow, and epochs do not go back."""
    data = b"".join(placed(batch(b"x"), offset, -9, epoch) for offset, epoch in places)
    with pytest.raises(CorruptBatch):
        parse_push(data)


def test_a_sound_batch_of_a_later_version_is_no_damage() -> None:
    """A follower that is not upgraded yet must not call its leader corrupt."""
    one = batch(b"x")
    later = one._replace(header=one.header._replace(magic=4))
    with pytest.raises(UnsupportedFormat):
        parse_push(placed(later, 0))


# --- appended -------------------------------------------------------------------------------------------


def test_a_follower_holds_what_the_leader_holds(files: SimFiles) -> None:
    """Offsets, epochs, times, values, producers and where epochs begin; in segments of its own."""
    with opened(disk(9)) as leader, opened(files, OPTIONS) as log:
        for epoch in (1, 1, 4, 4, 4, 6, 6):
            leader.append([batch(value(0), producer=Producer(7, 0, leader.log_end))], epoch)
        for start, end in ((0, 2), (2, 3), (3, 7)):
            appended = log.append_replica(parse_push(push_of(leader, start, end)))
            assert appended == (start, end)
        assert contents(log) == contents(leader)
        assert log.epochs.entries() == leader.epochs.entries() == [(1, 0), (4, 2), (6, 5)]
        assert log.producers.snapshot() == leader.producers.snapshot()
        assert [info.base_offset for info in log.segments()] == [0, 3]
        assert log.position() == Position(0, 7, 3, 6)
        sync(log)
        live = log.producers.snapshot()
        held = contents(log)
    files.crash()
    with opened(files, OPTIONS) as log:
        assert contents(log) == held
        assert log.position() == Position(0, 7, 7, 6)
        assert log.epochs.entries() == [(1, 0), (4, 2), (6, 5)]
        assert log.producers.snapshot() == live


def test_the_frames_are_the_followers_own(files: SimFiles) -> None:
    """DESIGN: a frame tells what its own replica knew as durable; the batch behind it stays as it is."""
    with opened(disk(9)) as leader, opened(files) as log:
        fill(leader, 2)
        sync(leader)
        fill(leader, 2)
        log.append_replica(parse_push(push_of(leader, 0)))
        ours, theirs = log.read(0, EVERYTHING, EVERYTHING), leader.read(0, EVERYTHING, EVERYTHING)
        assert [stored.frame.durable_end(stored.batch.header.base_offset) for stored in ours] == [0, 0, 0, 0]
        assert theirs[2].frame.durable_end(2) == 2
        assert [bytes(stored.batch.data) for stored in ours] == [
            bytes(stored.batch.data) for stored in theirs
        ]
        # And it can be passed on.
        assert parse_push(push_of(log, 0)).bounds == parse_push(push_of(leader, 0)).bounds


def test_one_push_is_one_write(files: SimFiles) -> None:
    tap = TapFiles(files)
    with opened(tap) as log:
        log.append_replica(parse_push(leaders_push(*[EPOCH] * 20)))
        tap.clear()
        tap.written.clear()
        with opened(disk(9)) as leader:
            fill(leader, 40)
            log.append_replica(parse_push(push_of(leader, 20)))
        assert tap.changes == [f"write {segment_path(0).name}"]


def test_an_epoch_is_on_record_before_a_batch_of_it(files: SimFiles) -> None:
    """Rule 1: all of them, in one document."""
    tap = TapFiles(files)
    with opened(tap) as log:
        tap.clear()
        log.append_replica(parse_push(leaders_push(1, 2, 5)))
        assert tap.changes.index("rename leader-epochs") < tap.changes.index(f"write {segment_path(0).name}")
        assert tap.changes.count("rename leader-epochs") == 1


def test_epochs_of_a_push_that_was_not_written_are_not_believed_later(files: SimFiles) -> None:
    """Rules 1 and 3: another leader's log goes on with older epochs from there, and a start must agree."""
    with opened(files) as log:
        fill(log, 3, epoch=1)
        sync(log)
        files.capacity_bytes = sum(files.list(DIRECTORY).values()) + 3000
        data = b"".join(placed(batch(b"x" * 3000), 3 + at, epoch=4 + at) for at in range(3))
        before = contents(log)
        with pytest.raises(StorageFull):
            log.append_replica(parse_push(data))
        assert (contents(log), log.last_epoch) == (before, 1)
        files.capacity_bytes = None
        log.append_replica(parse_push(placed(batch(b"y"), 3, epoch=1) + placed(batch(b"y"), 4, epoch=2)))
        assert log.epochs.entries() == [(1, 0), (2, 4)]
        fill(log, 3, epoch=2)
        sync(log)
    files.crash()
    with opened(files) as log:
        assert log.epochs.entries() == [(1, 0), (2, 4)]
        assert log.last_epoch == 2


@pytest.mark.parametrize(("epoch", "entries"), [(1, [(1, 0)]), (4, [(1, 0), (4, 3)]), (5, [(1, 0), (5, 3)])])
def test_an_entry_for_nothing_goes_with_the_next_batch(
    files: SimFiles, epoch: int, entries: list[tuple[int, int]]
) -> None:
    """Rule 1: the new leader's log goes on in the epoch before, or begins that one elsewhere."""
    with opened(files) as log:
        fill(log, 3, epoch=1)
        sync(log)
        files.capacity_bytes = sum(files.list(DIRECTORY).values()) + 3000
        data = placed(batch(b"x" * 3000), 3, epoch=4) + placed(batch(b"x" * 3000), 4, epoch=5)
        with pytest.raises(StorageFull):
            log.append_replica(parse_push(data))
        files.capacity_bytes = None
        assert log.epochs.entries() == [(1, 0), (4, 3), (5, 4)]
        log.append_replica(parse_push(placed(batch(b"y"), 3, epoch=epoch)))
        assert log.epochs.entries() == entries


def test_an_emptied_log_may_go_on_in_an_older_epoch_than_it_began_in(files: SimFiles) -> None:
    """Rule 14: an unclean election lost what was trimmed here, too."""
    with opened(files) as log:
        fill(log, 6, epoch=5)
        sync(log)
        log.trim(4)
        log.truncate(4)
        log.append_replica(parse_push(placed(batch(b"y"), 4, epoch=2) + placed(batch(b"y"), 5, epoch=7)))
        assert log.epochs.entries() == [(2, 4), (7, 5)]
        sync(log)
    files.crash()
    with opened(files) as log:
        assert log.epochs.entries() == [(2, 4), (7, 5)]


@pytest.mark.parametrize("room", [0, 100, 700, 1500])
def test_a_full_disk_takes_all_of_a_push_or_none(files: SimFiles, room: int) -> None:
    """Rule 40: and none of it comes back after a crash."""
    log = open_log(files)
    fill(log, 4)
    sync(log)
    files.capacity_bytes = sum(files.list(DIRECTORY).values()) + room
    data = b"".join(placed(batch(b"x" * 500), 4 + at) for at in range(4))
    with pytest.raises(StorageFull):
        log.append_replica(parse_push(data))
    assert log.position() == Position(0, 4, 4, 3)
    files.capacity_bytes = None
    files.crash()
    with opened(files) as log:
        assert contents(log) == expected(0, 4)
        log.append_replica(parse_push(data))
        assert log.log_end == 8


def test_a_push_is_refused_while_the_log_is_out_of_service(files: SimFiles) -> None:
    """Rule 40: and afterwards the log goes on from where it was durable."""
    with opened(files) as log:
        fill(log, 2)
        sync(log)
        fill(log, 1, epoch=5)
        fail_sync(files, log)
        with pytest.raises(StorageFailed) as refused:
            log.append_replica(parse_push(placed(batch(b"x"), 3, epoch=5)))
        assert refused.value.outcome == "not_written"
        files.heal()
        log.reopen()
        assert log.position() == Position(0, 2, 2, 3)


# --- what compaction leaves -----------------------------------------------------------------------------


GAPS = [(2, 1), (3, 1), (10, 3), (11, 3), (30, 3), (31, 8), (90, 8)]
"""(offset, epoch) of a compacted log; with two of these to a segment, in segments 2, 4, 12, 32."""


def gapped(files: SimFiles, *, at: int = 2) -> Log:
    log = open_log(files, per_segment(2, VALUE_BYTES))
    log.restart_at(at)
    for offset, epoch in GAPS:
        log.append_replica(
            parse_push(placed(batch(value(offset), timestamp=1000 + offset), offset, -9, epoch))
        )
    sync(log)
    return log


@pytest.mark.parametrize("stop", ["close", "crash", "kill", "lose the indexes", "lose the checkpoint"])
def test_gaps_survive_a_restart(files: SimFiles, stop: str) -> None:
    """Rule 37: a batch may begin past the log end. The log's segments still meet end to end."""
    log = gapped(files)
    epochs = log.epochs.entries()
    if stop == "close":
        log.close(1)
    files.kill() if stop == "kill" else files.crash()
    for name in list(files.list(DIRECTORY)):
        if (stop == "lose the indexes" and name.endswith("index")) or (
            stop == "lose the checkpoint" and name == "checkpoint"
        ):
            files.unlink(DIRECTORY / name)
    with opened(files, per_segment(2, VALUE_BYTES)) as log:
        assert log.corruption is None
        assert [info.base_offset for info in log.segments()] == [2, 4, 12, 32]
        assert [record.offset for record in contents(log)] == [offset for offset, _ in GAPS]
        assert log.position() == Position(2, 91, 91, 8)
        assert log.epochs.entries() == epochs == [(1, 2), (3, 4), (8, 31)]
        assert log.find_time(1012) == (30, 1030)


@pytest.mark.parametrize("end", range(2, 93))
def test_a_cut_in_a_gap_ends_the_log_where_the_batch_before_it_ends(files: SimFiles, end: int) -> None:
    """Rules 4 and 41: at most at the offset; and a start finds the same end."""
    kept = [offset for offset, _ in GAPS if offset < end]
    log = gapped(files)
    log.truncate(end)
    wanted = (
        Position(2, kept[-1] + 1, kept[-1] + 1, dict(GAPS)[kept[-1]]) if kept else Position(2, 2, 2, None)
    )
    assert log.position() == wanted
    assert [record.offset for record in contents(log)] == kept
    files.crash()
    with opened(files, per_segment(2, VALUE_BYTES)) as log:
        assert log.corruption is None
        assert log.position() == wanted
        log.append_replica(parse_push(placed(batch(b"new"), 95, -9, epoch=9)))
        assert [record.offset for record in contents(log)] == [*kept, 95]


@pytest.mark.parametrize("start", [2, 3, 4, 7, 10, 12, 25, 31, 60, 91])
def test_a_log_with_gaps_is_trimmed_anywhere(files: SimFiles, start: int) -> None:
    """Rule 7: the leader's log start is adopted, and may lie in a gap."""
    log = gapped(files)
    log.trim(start)
    files.crash()
    with opened(files, per_segment(2, VALUE_BYTES)) as log:
        assert log.log_start == start
        assert [record.offset for record in contents(log)] == [at for at, _ in GAPS if at >= start]


def test_that_there_may_be_gaps_is_on_record_before_the_first(files: SimFiles) -> None:
    """Rule 41: without that a hole is damage, and never looks like compaction."""
    tap = TapFiles(files)
    with opened(tap) as log:
        fill(log, 2)
        tap.clear()
        log.append_replica(parse_push(placed(batch(b"x"), 7)))
        assert tap.changes.index("rename checkpoint") < tap.changes.index(f"write {segment_path(0).name}")


def test_a_hole_that_shows_while_running_is_damage(files: SimFiles) -> None:
    """Rule 41: also where no index entry tells what should stand there."""
    with opened(files, tiny(index_interval_bytes=1 << 20)) as log:
        fill(log, 3)
        sync(log)
        put(files, segment_path(0), placed(batch(value(7)), 7), 2 * (STORED_BYTES + VALUE_BYTES))
        assert log.read_framed(0, EVERYTHING, EVERYTHING).next_offset == 2
        assert log.corruption is not None
        assert log.corruption.offset == 2


def test_a_missing_segment_is_damage_also_where_there_may_be_gaps(files: SimFiles) -> None:
    """Rule 41: each segment begins where the one before it ends."""
    gapped(files).abandon()
    files.unlink(segment_path(12))
    files.sync_directory(DIRECTORY)
    files.crash()
    with opened(files, per_segment(2, VALUE_BYTES)) as log:
        with pytest.raises(CorruptBatch):
            log.read(12, 1, EVERYTHING)
        assert log.corruption is not None
        assert log.corruption.offset == 12


def test_a_push_that_spans_more_offsets_than_a_segment_can_is_refused(files: SimFiles) -> None:
    """Index entries hold 31-bit relative offsets."""
    with opened(files) as log:
        fill(log, 1)
        with pytest.raises(UnsupportedFormat):
            log.append_replica(parse_push(placed(batch(b"x"), 1 + 2**31)))
        before = everything(files)
        assert before[segment_path(0).name]
        assert log.append_replica(parse_push(placed(batch(b"x"), 2**31 - 1))) == (2**31 - 1, 2**31)
        fill(log, 1)
        assert [info.base_offset for info in log.segments()] == [0, 1, 2**31]


# --- the epoch of the last batch ------------------------------------------------------------------------


def test_the_last_epoch_is_the_last_batchs_and_not_the_caches(files: SimFiles) -> None:
    """Rule 4: through appends, cuts, restarts, and with an entry for an epoch that has no batch."""
    with opened(files, OPTIONS) as log:
        assert log.last_epoch is None
        for epoch in (1, 1, 1, 4, 4, 6):
            fill(log, 1, epoch=epoch)
            assert log.last_epoch == epoch
        files.capacity_bytes = sum(files.list(DIRECTORY).values()) + 2048
        with pytest.raises(StorageFull):
            log.append([batch(b"x" * 4000)], 9)
        files.capacity_bytes = None
        assert log.epochs.latest == 9
        assert log.last_epoch == 6
        for end, epoch in ((6, 6), (5, 4), (3, 1)):
            assert log.truncate(end) == end
            assert log.last_epoch == epoch
            machine = files.clone(Random(end))
            machine.crash()
            with opened(machine, OPTIONS) as after:
                assert after.last_epoch == epoch
        log.truncate(0)
        assert log.last_epoch is None


@pytest.mark.parametrize("closes", [False, True])
def test_a_follower_cuts_inside_a_batch_that_its_log_start_divides(files: SimFiles, closes: bool) -> None:
    """Rules 4, 7 and 41: nothing that may be read is left of it, and no epoch is stated of what is gone."""
    log = open_log(files)
    log.append([batch(b"a", b"b", b"c", b"d")], EPOCH)
    sync(log)
    log.trim(2)
    assert log.truncate(3) == 2
    assert log.position() == Position(2, 2, 2, None)
    if closes:
        log.close(1)
    files.crash()
    with opened(files) as log:
        assert log.position() == Position(2, 2, 2, None)
        log.append_replica(parse_push(placed(batch(b"e"), 2)))
        assert [record.value for record in contents(log)] == [b"e"]


@pytest.mark.parametrize("closes", [False, True])
def test_a_log_that_was_trimmed_whole_states_the_same_epoch_after_a_restart(
    files: SimFiles, closes: bool
) -> None:
    """Rule 4: None where no batch is left on disk; its batches were committed, every one."""
    log = open_log(files, tiny(segment_bytes=3 * (STORED_BYTES + VALUE_BYTES), retention_ms=1))
    fill(log, 5)
    sync(log)
    log.retain(10**9, 5)
    before = log.position()
    assert before == Position(5, 5, 5, None)
    if closes:
        log.close(1)
    files.crash()
    with opened(files) as log:
        assert log.position() == before
