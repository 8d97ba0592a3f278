"""What a review found, each as the promise that it broke."""

from __future__ import annotations

import pytest

from millpond.wire.errors import CorruptBatch, StorageFailed
from tests.unit.storage.builders import (
    DIRECTORY,
    EPOCH,
    batch,
    contents,
    disk,
    expected,
    fail_sync,
    fill,
    get,
    last_segment,
    open_log,
    opened,
    placed,
    sync,
    tiny,
)


def test_a_cut_through_the_log_start_that_failed_is_finished_by_reopening() -> None:
    """Rule 41: what was to be cut does not come back, where the log start is inside a batch."""
    files = disk()
    log = open_log(files)
    log.append([batch(b"0", b"1", b"2", b"3"), batch(b"4", b"5", b"6", b"7")], 0)
    sync(log)
    log.trim(6)
    files.fail_next_sync(DIRECTORY)
    with pytest.raises(StorageFailed):
        log.truncate(6)
    log.reopen()
    assert (log.log_start, log.durable_end, log.log_end) == (6, 6, 6)
    assert log.append([batch(b"6'")], 1).base_offset == 6


def test_damage_that_a_reopening_meets_is_corruption_by_name() -> None:
    """Rule 15: a flipped bit near the cut is not an error of another kind, nor one that comes each time."""
    files = disk()
    log = open_log(files, tiny(index_interval_bytes=1 << 20))
    fill(log, 3)
    sync(log)
    files.flip_bit(last_segment(log), 8 * 100)
    fill(log, 1)
    fail_sync(files, log)
    with pytest.raises(CorruptBatch) as caught:
        log.reopen()
    assert caught.value.offset == 1
    with pytest.raises(CorruptBatch):
        log.append([batch(b"x")], 3)
    with opened(files) as again:
        assert again.corruption is not None


@pytest.mark.parametrize("lost_bytes", [1, 100, 700])
def test_a_payload_that_quotes_a_log_does_not_make_a_torn_append_look_corrupt(lost_bytes: int) -> None:
    """The quoted frames saw a durable end past the torn batch, but they are behind its own sound frame."""
    quotation = b"".join(placed(batch(b"q"), offset, durable_end=offset) for offset in range(2, 30))
    files = disk()
    log = open_log(files)
    fill(log, 1)
    sync(log)
    log.append([batch(quotation + b"p" * 700)], EPOCH)
    path = last_segment(log)
    files.kill()
    files.cut(path, len(get(files, path)) - lost_bytes)
    with opened(files) as log:
        assert log.corruption is None
        assert log.recovery.cut_offset == 1
        assert contents(log) == expected(0, 1)


def test_a_time_is_looked_up_before_a_bound_and_before_the_durable_end_of_a_failed_log() -> None:
    """Rule 7's readers see nothing at or past the high watermark, by time neither."""
    files = disk()
    log = open_log(files)
    fill(log, 2, timestamp=5)
    sync(log)
    log.append([batch(b"late", timestamp=10)], 3)
    assert log.find_time(7) == (2, 10)
    assert log.find_time(7, below=2) is None
    assert log.find_time(5, below=1) == (0, 5)
    fail_sync(files, log)
    assert log.find_time(7) is None
