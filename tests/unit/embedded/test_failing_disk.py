"""Disks that fill up, fail and lie: what callers are told, and what is there afterwards."""

from __future__ import annotations

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from millpond import embedded
from millpond.errors import CorruptBatch, MillpondError, PartialDelivery, StorageFailed, StorageFull
from millpond.wire.batch import encode_batch, seal
from millpond.wire.header import HEADER_BYTES
from millpond.wire.partitioner import partition_for
from tests.sim.disk import SimFiles
from tests.unit.embedded.watched import WAIT_SECONDS_MAX, WatchedFiles

HOME = Path("/queue")
"""Where a queue lies on a simulated disk."""


def key_of(partition: int, partitions: int) -> bytes:
    """A key that goes to this partition."""
    return next(b"%d" % n for n in range(10_000) if partition_for(b"%d" % n, partitions) == partition)


def outcome(error: MillpondError) -> str:
    """What an error of a send says of its record."""
    return str(error.facts()["outcome"])


def log_path(files: SimFiles, name: str) -> Path:
    """The first segment of the partition whose directory begins so."""
    (directory,) = (entry for entry in files.list(HOME / "partitions") if entry.startswith(name))
    path = HOME / "partitions" / directory
    return path / min(entry for entry in files.list(path) if entry.endswith(".log"))


def stored(files: SimFiles, partitions: int | None = None) -> list[bytes | None]:
    """Every value, read by a queue opened for it alone."""
    with embedded.open(HOME, partitions=partitions, files=files) as queue:
        return [record.value for record in queue.consume("reader", timeout=0)]


# --- full -----------------------------------------------------------------------------------------


def test_a_full_disk_is_storage_full_with_nothing_written_and_passes_when_room_returns() -> None:
    files = SimFiles(Random(1), capacity_bytes=200_000)
    written: list[tuple[bytes, tuple[int, int]]] = []
    with embedded.open(HOME, partitions=2, files=files) as queue:

        def fill() -> None:
            for key in map(b"%d".__mod__, range(10_000)):
                place = queue.produce(key, key * 200)
                written.append((key, place))

        with pytest.raises(StorageFull) as caught:
            fill()
        assert caught.value.outcome == "not_written"
        assert caught.value.retriable
        for _ in range(3):
            with pytest.raises(StorageFull):
                queue.produce(b"k", bytes(1000))
            with pytest.raises(StorageFull):
                queue.produce_many([(b"%d" % n, bytes(1000)) for n in range(20)])
        assert len(list(queue.consume("group", timeout=0))) == len(written), "reads go on"
        files.capacity_bytes = None
        written.append((b"back", queue.produce(b"back", b"again")))
        last = list(queue.consume("group", timeout=0))[-1]
        queue.commit("group", last)
    files.crash()
    with embedded.open(HOME, partitions=2, files=files) as queue:
        found = {
            (record.partition, record.offset): record.key for record in queue.consume("reader", timeout=0)
        }
    assert found == {place: key for key, place in written}


def test_a_call_that_does_not_fit_leaves_nothing_behind_even_after_a_crash() -> None:
    for spare in range(1, 3000, 77):
        files = SimFiles(Random(spare))
        queue = embedded.open(HOME, partitions=1, files=files)
        queue.produce(b"k", b"before")
        files.capacity_bytes = sum(sizes(files)) + spare
        with pytest.raises(StorageFull):
            queue.produce_many([(b"k", bytes(500)) for _ in range(20)])
        files.capacity_bytes = None
        files.crash()
        assert stored(files) == [b"before"]


def sizes(files: SimFiles) -> list[int]:
    """Lengths of all files."""
    return [len(pages.cached) for pages in files._all_pages()]


def test_a_commit_on_a_full_disk_is_refused_and_the_group_stays_where_it_was() -> None:
    files = SimFiles(Random(1))
    with embedded.open(HOME, partitions=1, files=files) as queue:
        queue.produce_many([(b"k", b"%d" % n) for n in range(3)])
        first, second, _ = queue.consume("group", timeout=0)
        queue.commit("group", first)
        files.capacity_bytes = sum(sizes(files))
        with pytest.raises(StorageFull):
            queue.commit("group", second)
        assert [record.value for record in queue.consume("group", timeout=0)] == [b"1", b"2"]
        files.capacity_bytes = None
        queue.commit("group", second)
        assert [record.value for record in queue.consume("group", timeout=0)] == [b"2"]


def test_a_full_disk_can_be_opened_and_read_and_freed_by_retention() -> None:
    """After a crash too: who cannot even start cannot make room."""
    files = SimFiles(Random(1))
    queue = embedded.open(HOME, partitions=1, files=files, config={"segment_bytes": 4096})
    for n in range(40):
        queue.produce(b"k", b"%03d" % n * 100)
    files.crash()
    files.capacity_bytes = sum(sizes(files))
    with embedded.open(HOME, partitions=1, files=files) as queue:
        assert len(list(queue.consume("group", timeout=0))) == 40
        with pytest.raises(StorageFull):
            queue.produce(b"k", bytes(9000))
    files.capacity_bytes = sum(sizes(files))
    with embedded.open(HOME, partitions=1, files=files, config={"retention_bytes": 4096}) as queue:
        assert queue.stats().records < 40
        queue.produce(b"k", b"there is room")


def test_produce_many_says_which_partitions_got_their_records_and_which_did_not(
    directory: Path,
) -> None:
    files = WatchedFiles()
    with embedded.open(directory, partitions=2, files=files) as queue:

        def full(operation: str, path: Path) -> None:
            if operation == "write" and path.parent.name.startswith("queue-1-") and path.suffix == ".log":
                raise OSError(errno.ENOSPC, "planted", str(path))

        files.hook = full
        fits, full_up = key_of(0, 2), key_of(1, 2)
        with pytest.raises(PartialDelivery) as caught:
            queue.produce_many([(fits, b"0"), (full_up, b"1"), (fits, b"2"), (full_up, b"3")])
        assert caught.value.result == [(0, 0), None, (0, 1), None]
        assert set(caught.value.failed) == {1, 3}
        assert all(isinstance(error, StorageFull) for error in caught.value.failed.values())
        with pytest.raises(StorageFull):
            queue.produce_many([(full_up, b"1")])
        files.hook = lambda operation, path: None
        queue.produce_many([(full_up, b"1"), (full_up, b"3")])
        assert sorted(str(record.value) for record in queue.consume("group", timeout=0)) == [
            str(b"%d" % n) for n in range(4)
        ]


def test_a_call_that_failed_in_two_ways_is_never_said_to_be_not_written_when_that_is_unknown(
    directory: Path,
) -> None:
    """Whoever retries on not_written must not make duplicates."""
    files = WatchedFiles()
    with embedded.open(directory, partitions=2, files=files) as queue:
        queue.produce_many([(key_of(0, 2), b""), (key_of(1, 2), b"")])

        def fail(operation: str, path: Path) -> None:
            if operation == "write" and path.parent.name.startswith("queue-0-") and path.suffix == ".log":
                raise OSError(errno.ENOSPC, "planted", str(path))
            if operation == "sync" and path.parent.name.startswith("queue-1-") and path.suffix == ".log":
                raise OSError(errno.EIO, "planted", str(path))

        files.hook = fail
        for order in ((0, 1), (1, 0)):
            with pytest.raises(MillpondError) as caught:
                queue.produce_many([(key_of(partition, 2), b"v") for partition in order])
            assert outcome(caught.value) == "unknown"
            files.hook = lambda operation, path: None
            queue.produce(key_of(1, 2), b"back in service")
            files.hook = fail
        files.hook = lambda operation, path: None


# --- failing --------------------------------------------------------------------------------------


def test_a_failed_sync_is_unknown_to_every_producer_that_waited_for_it(directory: Path) -> None:
    files = WatchedFiles()
    with embedded.open(directory, partitions=1, files=files) as queue:
        queue.produce(b"k", b"safe")
        reached, go = threading.Event(), threading.Event()

        def fail_later(operation: str, path: Path) -> None:
            if operation == "sync" and path.suffix == ".log":
                reached.set()
                assert go.wait(WAIT_SECONDS_MAX)
                files.hook = lambda operation, path: None
                raise OSError(errno.EIO, "planted", str(path))

        files.hook = fail_later
        with ThreadPoolExecutor() as pool:
            producers = [pool.submit(queue.produce, b"k", b"first")]
            assert reached.wait(WAIT_SECONDS_MAX)
            producers += [pool.submit(queue.produce, b"k", b"%d" % n) for n in range(5)]
            while queue.stats().partitions[0].log_end < 7:
                assert not any(producer.done() for producer in producers)
            assert queue.stats().partitions[0].readable_end == 1
            go.set()
            for producer in producers:
                error = producer.exception(WAIT_SECONDS_MAX)
                assert isinstance(error, StorageFailed)
                assert error.outcome == "unknown"
        assert queue.stats().partitions[0].state == "failed"
        assert [record.value for record in queue.consume("group", timeout=0)] == [b"safe"]
        assert queue.produce(b"k", b"back") == (0, 1)
        assert queue.stats().partitions[0].state == "ok"
        assert [record.value for record in queue.consume("group", timeout=0)] == [b"safe", b"back"]


def test_a_producer_is_not_told_of_success_because_another_got_its_offset_after_a_failed_sync() -> None:
    """It wakes late: the partition was cut and has grown past that offset again."""
    files = SimFiles(Random(1))
    with embedded.open(HOME, partitions=1, files=files) as queue:
        queue.produce(b"k", b"safe")
        ticket = queue._data[0].append([encode_batch([b"doubtful"], 0)])
        files.fail_next_sync()
        queue._commits.sync(queue._data)
        assert queue.produce(b"k", b"another") == (0, ticket.base_offset)
        (error,) = queue._commits.wait([ticket]).values()
        assert isinstance(error, StorageFailed)
        assert error.outcome == "unknown"


@pytest.mark.parametrize("partitions", [1, 8])
def test_after_a_failed_sync_the_next_produce_recovers_by_itself_and_survives_power_loss(
    partitions: int,
) -> None:
    for seed in range(20):
        files = SimFiles(Random(seed))
        queue = embedded.open(HOME, partitions=partitions, files=files)
        keys = [key_of(partition, partitions) for partition in range(partitions)]
        queue.produce_many([(key, b"safe") for key in keys])
        files.fail_next_sync()
        with pytest.raises((StorageFailed, PartialDelivery)) as caught:
            queue.produce_many([(key, b"doubtful") for key in keys])
        failed = caught.value.failed if isinstance(caught.value, PartialDelivery) else {0: caught.value}
        assert set(map(outcome, failed.values())) == {"unknown"}
        acknowledged = queue.produce_many([(key, b"after") for key in keys])
        files.crash()
        with embedded.open(HOME, partitions=partitions, files=files) as queue:
            found = {
                (record.partition, record.offset): record.value for record in queue.consume("g", timeout=0)
            }
        assert all(found[place] == b"after" for place in acknowledged)
        assert [value for value in found.values() if value != b"doubtful"].count(b"safe") == partitions


def test_a_disk_that_goes_on_failing_refuses_produces_as_not_written() -> None:
    files = SimFiles(Random(1))
    queue = embedded.open(HOME, partitions=1, files=files)
    queue.produce(b"k", b"safe")
    path = log_path(files, "queue-0-")
    files.fail_next_sync(path)
    with pytest.raises(StorageFailed):
        queue.produce(b"k", b"doubtful")
    for _ in range(3):
        files.fail_next_sync(path)
        with pytest.raises(StorageFailed) as caught:
            queue.produce(b"k", b"refused")
        assert caught.value.outcome == "not_written"
    assert [record.value for record in queue.consume("group", timeout=0)] == [b"safe"]
    assert queue.produce(b"k", b"healed") == (0, 1)
    queue.close()


def test_with_flush_interval_a_failed_partition_stays_offline_until_the_queue_is_opened_again() -> None:
    """Its answers waited for no sync: a cut to the last one would take back what was answered."""
    files = SimFiles(Random(1))
    config = {"flush_interval_ms": 3_600_000}
    queue = embedded.open(HOME, partitions=2, flush="interval", config=config, files=files)
    broken, sound = key_of(0, 2), key_of(1, 2)
    queue.produce(broken, b"1")
    files.fail_next_sync(log_path(files, "queue-0-"), written=1.0)
    queue._commits.sync(queue._partitions)
    for _ in range(2):
        with pytest.raises(StorageFailed) as caught:
            queue.produce(broken, b"2")
        assert caught.value.outcome == "not_written"
    queue.produce(sound, b"3")
    assert queue.stats().partitions[0].state == "failed"
    assert queue.stats().partitions[0].readable_end == 0, "the disk may show anything past the last good sync"
    assert [record.value for record in queue.consume("group", timeout=0)] == [b"3"]
    with pytest.raises(StorageFailed):  # what was acknowledged may be lost: silence would be a lie
        queue.close()
    with embedded.open(HOME, partitions=2, flush="interval", config=config, files=files) as queue:
        assert queue.produce(broken, b"2") == (0, 1), "the first had reached the disk all the same"
        assert len(list(queue.consume("group", timeout=0))) == 3


def test_a_failed_sync_of_the_offsets_log_fails_the_commit_and_the_next_one_recovers() -> None:
    files = SimFiles(Random(1))
    queue = embedded.open(HOME, partitions=1, files=files)
    queue.produce_many([(b"k", b"%d" % n) for n in range(4)])
    records = list(queue.consume("group", timeout=0))
    queue.commit("group", records[0])
    files.fail_next_sync(log_path(files, "__offsets-0-"))
    with pytest.raises(StorageFailed) as caught:
        queue.commit("group", records[1])
    assert caught.value.outcome == "unknown"
    queue.commit("group", records[2])
    files.crash()
    with embedded.open(HOME, files=files, partitions=1) as queue:
        assert [record.value for record in queue.consume("group", timeout=0)] == [b"3"]


def test_a_partition_that_cannot_be_read_raises_storage_failed_to_its_consumer() -> None:
    files = SimFiles(Random(1))
    with embedded.open(HOME, partitions=1, files=files) as queue:
        queue.produce(b"k", b"v")
        path = log_path(files, "queue-0-")
        files.fail_reads(path)
        with pytest.raises(StorageFailed):
            list(queue.consume("group", timeout=0))
        files.heal()
        assert len(list(queue.consume("group", timeout=0))) == 1


# --- corrupt --------------------------------------------------------------------------------------


def with_a_corrupt_partition(files: SimFiles) -> int:
    """Two partitions of ten records each, the first damaged after some sound ones: how many."""
    with embedded.open(HOME, partitions=2, files=files) as queue:
        for n in range(10):
            queue.produce(key_of(0, 2), b"%d" % n)
            queue.produce(key_of(1, 2), b"%d" % n)
    path = log_path(files, "queue-0-")
    size = files.list(path.parent)[path.name]
    files.flip_bit(path, (size * 6 // 10) * 8)
    return 6


@pytest.mark.parametrize("found", ["while running", "at start"])
def test_every_sound_record_is_handed_out_before_corruption_is_raised(found: str) -> None:
    files = SimFiles(Random(1))
    sound = with_a_corrupt_partition(files)
    if found == "at start":
        files.kill()
        queue = embedded.open(HOME, partitions=2, files=files)
        queue._closing = True
        queue._taken.close()
        (name,) = (entry for entry in files.list(HOME / "partitions") if entry.startswith("queue-0-"))
        files.unlink(HOME / "partitions" / name / "checkpoint")
    with embedded.open(HOME, partitions=2, files=files) as queue:
        received: dict[int, list[bytes | None]] = {0: [], 1: []}

        def consume() -> None:
            for record in queue.consume("group", timeout=WAIT_SECONDS_MAX):
                received[record.partition].append(record.value)

        with pytest.raises(CorruptBatch) as caught:
            consume()
        assert caught.value.offset == sound
        assert received[0] == [b"%d" % n for n in range(sound)]
        assert received[1] == [b"%d" % n for n in range(10)]
        assert [entry.state for entry in queue.stats().partitions] == ["corrupt", "ok"]


def test_a_corrupt_partition_takes_nothing_and_the_others_go_on() -> None:
    files = SimFiles(Random(1))
    with_a_corrupt_partition(files)
    with embedded.open(HOME, partitions=2, files=files) as queue:
        with pytest.raises(CorruptBatch):
            list(queue.consume("group", timeout=0))
        with pytest.raises(CorruptBatch) as caught:
            queue.produce(key_of(0, 2), b"v")
        assert caught.value.outcome == "not_written"
        assert queue.produce(key_of(1, 2), b"v") == (1, 10)
        with pytest.raises(CorruptBatch):
            queue.produce_many([(key_of(1, 2), b"v"), (key_of(0, 2), b"v")])
        assert queue.stats().partitions[1].log_end == 11, "a call that touches it writes nothing"
        others = list(queue.consume("group", partitions=[1], timeout=0))
        queue.commit("group", others[-1])
    with embedded.open(HOME, partitions=2, files=files) as queue:
        assert list(queue.consume("group", partitions=[1], timeout=0)) == []
        with pytest.raises(CorruptBatch):
            queue.produce(key_of(0, 2), b"v")


def test_a_group_that_was_past_the_damage_is_told_of_it_and_not_sent_back() -> None:
    files = SimFiles(Random(1))
    with embedded.open(HOME, partitions=2, files=files) as queue:
        for n in range(10):
            queue.produce(key_of(0, 2), b"%d" % n)
        queue.commit("group", list(queue.consume("group", timeout=0))[-1])
    path = log_path(files, "queue-0-")
    files.flip_bit(path, files.list(path.parent)[path.name] // 2 * 8)
    files.unlink(path.parent / "checkpoint")
    with embedded.open(HOME, partitions=2, files=files) as queue:
        assert queue.stats().groups["group"].committed == {0: 10}
        with pytest.raises(CorruptBatch):
            list(queue.consume("group", timeout=0))


def test_records_before_a_batch_whose_columns_make_no_sense_are_handed_out_first() -> None:
    """Its checksums hold, so that only unpacking it tells: whoever wrote it was wrong, not the disk."""
    files = SimFiles(Random(1))
    with embedded.open(HOME, partitions=1, files=files) as queue:
        queue.produce_many([(b"k", b"%d" % n) for n in range(3)])
        queue.produce(b"k", b"3")
        header = encode_batch([b"v", b"w"], 0).header
        senseless = seal(header, bytes(header.size_bytes - HEADER_BYTES))
        ticket = queue._data[0].append([senseless])
        assert queue._commits.wait([ticket]) == {}
        queue.produce(b"k", b"behind it")
        received = []

        def consume() -> None:
            for record in queue.consume("group", timeout=0):
                received.append(record.value)  # noqa: PERF401 - what came first counts

        with pytest.raises(CorruptBatch) as caught:
            consume()
        assert received == [b"0", b"1", b"2", b"3"]
        assert caught.value.offset == 4


def test_damage_in_the_offsets_log_takes_groups_back_and_commits_are_refused() -> None:
    files = SimFiles(Random(1))
    with embedded.open(HOME, partitions=1, files=files) as queue:
        for n in range(10):
            queue.produce(b"k", b"%d" % n)
        for record in queue.consume("group", timeout=0):
            queue.commit("group", record)
    path = log_path(files, "__offsets-0-")
    files.flip_bit(path, files.list(path.parent)[path.name] // 2 * 8)
    with embedded.open(HOME, partitions=1, files=files) as queue:
        left = list(queue.consume("group", timeout=0))
        assert 0 < len(left) < 10
        assert left[-1].value == b"9"
        with pytest.raises(CorruptBatch):
            queue.commit("group", left[0])
        assert list(queue.consume("group", timeout=0)) == left
        queue.produce(b"k", b"10")
