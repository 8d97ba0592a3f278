"""What is kept beside the segments, leader epochs and producers: caches of the log, rebuilt on any doubt."""

from __future__ import annotations

import pytest

from millpond.wire.batch import Producer
from tests.sim.disk import SimFiles
from tests.unit.storage.builders import (
    DIRECTORY,
    EPOCH,
    STORED_BYTES,
    VALUE_BYTES,
    batch,
    disk,
    fill,
    open_log,
    opened,
    per_segment,
    segment_path,
    sync,
    value,
)
from tests.unit.storage.tap import TapFiles

BATCH_BYTES = STORED_BYTES + VALUE_BYTES
OPTIONS = per_segment(3, VALUE_BYTES)


@pytest.fixture
def files() -> SimFiles:
    return disk()


@pytest.mark.parametrize("damage", ["none", "missing", "flipped"])
@pytest.mark.parametrize("clean", [True, False])
def test_leader_epochs_are_rebuilt_from_the_batches_when_the_record_is_lost(
    files: SimFiles, damage: str, clean: bool
) -> None:
    """Rule 4: a batch's epoch is in the batch."""
    log = open_log(files, OPTIONS)
    for epoch in (1, 4, 6):
        fill(log, 3, epoch=epoch)
    sync(log)
    if clean:
        log.close(1)
    files.kill()
    path = DIRECTORY / "leader-epochs"
    if damage == "missing":
        files.unlink(path)
    if damage == "flipped":
        for bit in (100, 8 * 512 + 100):
            files.flip_bit(path, bit)
    for _ in range(2):
        with opened(files, OPTIONS) as log:
            assert log.epochs.entries() == [(1, 0), (4, 3), (6, 6)]
            assert log.corruption is None


def test_an_epoch_that_began_without_a_batch_is_gone_after_a_restart(files: SimFiles) -> None:
    """Rule 1: an entry for nothing; also once the log has grown past its start under another."""
    with opened(files) as log:
        fill(log, 2, epoch=1)
        sync(log)
        files.capacity_bytes = sum(files.list(DIRECTORY).values()) + 1030
        with pytest.raises(Exception, match="no space"):
            log.append([batch(b"x" * 2000)], 5)
        assert log.epochs.entries() == [(1, 0), (5, 2)]
    files.kill()
    files.capacity_bytes = None
    with opened(files) as log:
        assert log.epochs.entries() == [(1, 0)]
        fill(log, 2, epoch=1)
        sync(log)
    files.kill()
    with opened(files) as log:
        assert log.epochs.entries() == [(1, 0)]


PRODUCERS = [Producer(7, 0, at) for at in range(7)] + [
    Producer(8, 2, 2**31 - 1),
    Producer(8, 2, 0),
    Producer(7, 1, 0),
]


def produced(files: SimFiles, clean: bool) -> list[object]:
    log = open_log(files, OPTIONS)
    for producer in PRODUCERS:
        log.append([batch(value(0), producer=producer)], EPOCH)
    sync(log)
    live = log.producers.snapshot()
    if clean:
        log.close(1)
    files.kill()
    return live


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("lost", ["none", "newest damaged", "all damaged", "all missing"])
def test_producers_restored_from_a_snapshot_equal_those_rebuilt_from_the_log(
    files: SimFiles, clean: bool, lost: str
) -> None:
    """Rule 16: five batches each, the epoch's own, sequences wrapped; a damaged snapshot falls back."""
    live = produced(files, clean)
    assert live == [[7, 1, [[0, 0, 9, 1000]]], [8, 2, [[2**31 - 1, 2**31 - 1, 7, 1000], [0, 0, 8, 1000]]]]
    snapshots = sorted(name for name in files.list(DIRECTORY) if name.endswith(".producers"))
    assert len(snapshots) == 2
    for name in snapshots[-1:] if lost == "newest damaged" else snapshots if lost != "none" else []:
        if lost == "all missing":
            files.unlink(DIRECTORY / name)
            continue
        for bit in (100, 8 * 512 + 100):
            files.flip_bit(DIRECTORY / name, bit)
    with opened(files, OPTIONS) as log:
        assert log.producers.snapshot() == live


def test_with_a_snapshot_at_hand_a_start_reads_only_what_came_after_it(files: SimFiles) -> None:
    """Rule 16: a start is quick, whatever the size of the log."""
    produced(files, clean=False)
    tap = TapFiles(files)
    with opened(tap, OPTIONS):
        assert {name for name in tap.reads if name.endswith(".log")} == {segment_path(9).name}


def test_a_snapshot_of_what_was_cut_is_not_taken_for_one_of_what_was_appended_since(files: SimFiles) -> None:
    """Rule 16: the log grows past the offset of an old snapshot again, with other producers' batches."""
    log = open_log(files)
    for sequence in range(3):
        log.append([batch(b"old", producer=Producer(1, 0, sequence))], EPOCH)
    log.close(broker_epoch=1)
    log = open_log(files)
    log.truncate(1)
    for sequence in range(4):
        log.append([batch(b"new", producer=Producer(2, 0, sequence))], EPOCH)
    sync(log)
    live = log.producers.snapshot()
    files.kill()
    with opened(files) as log:
        assert log.producers.snapshot() == live
