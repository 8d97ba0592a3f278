"""What groups committed: kept through crashes, bounded on disk, and never ahead of the records."""

from __future__ import annotations

import logging
from pathlib import Path
from random import Random
from typing import Literal

import pytest

from millpond import embedded
from millpond.embedded import queue as queue_module
from millpond.embedded.partition import RawRecord
from millpond.errors import StorageFull
from millpond_broker.storage.document import write_document
from tests.sim.disk import SimFiles, SimulatedCrash

HOME = Path("/queue")
LAZY = {"flush_interval_ms": 3_600_000}


def offsets_bytes(queue: embedded.Queue) -> int:
    """Size of the log of committed offsets."""
    return queue._partitions[-1].log.size_bytes


def vanish(queue: embedded.Queue) -> None:
    """Let a queue's thread end without a word to the disk, as the death of its process would."""
    with queue._changed:
        queue._closing = True
        queue._changed.notify_all()
    if queue._flusher.ident is not None:
        queue._flusher.join()
    queue._shield.stop()
    queue._shield.join(10)


def filled(queue: embedded.Queue, records: int) -> list[RawRecord]:
    """The records of a queue of one partition that was given so many."""
    queue.produce_many([(b"k", b"%d" % n) for n in range(records)])
    return list(queue.consume("reader", timeout=0))


def test_a_commit_survives_power_loss_once_it_returned() -> None:
    for seed in range(30):
        files = SimFiles(Random(seed))
        queue = embedded.open(HOME, partitions=1, files=files)
        records = filled(queue, 10)
        for record in records[: 1 + seed % 9]:
            queue.commit("group", record)
        files.crash()
        with embedded.open(HOME, partitions=1, files=files) as queue:
            assert [record.offset for record in queue.consume("group", timeout=0)] == list(
                range(1 + seed % 9, 10)
            )


def test_the_offsets_log_stays_bounded_however_much_is_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """30,000 commits here shorten it as often as half a million do at its real segment size."""
    monkeypatch.setattr(queue_module, "_OFFSETS_SEGMENT_BYTES", 1 << 16)
    files = SimFiles(Random(1))
    with embedded.open(HOME, partitions=1, flush="interval", config=LAZY, files=files) as queue:
        records = filled(queue, 1000)
        largest = 0
        for n in range(30_000):
            queue.commit(f"group-{n % 7}", records[n % 1000])
            if n % 100 == 0:
                largest = max(largest, offsets_bytes(queue))
        assert largest < 3 << 16
        expected = queue.stats().groups
        assert len(expected) == 7
    with embedded.open(HOME, partitions=1, flush="interval", files=files) as queue:
        assert queue.stats().groups == expected
        assert offsets_bytes(queue) < 3 << 16


def test_the_offsets_log_stays_bounded_when_what_holds_is_larger_than_a_segment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Many groups: were shortening due again at once, every commit would write all of it."""
    monkeypatch.setattr(queue_module, "_OFFSETS_SEGMENT_BYTES", 4096)
    files = SimFiles(Random(1))
    with embedded.open(HOME, partitions=1, flush="interval", config=LAZY, files=files) as queue:
        (record,) = filled(queue, 1)
        for n in range(1000):
            queue.commit(f"group-{n}-{'x' * 50}", record)
        before = files.operations
        for n in range(1000):
            queue.commit(f"group-{n}-{'x' * 50}", record)
        assert files.operations - before < 5 * 1000, "a write for each, and now and then a shortening"
        assert offsets_bytes(queue) < 40 * 1000 * 10


@pytest.mark.parametrize("flush", ["commit", "interval"])
def test_a_crash_at_any_operation_while_the_offsets_log_is_shortened_loses_no_commit(
    monkeypatch: pytest.MonkeyPatch, flush: Literal["commit", "interval"]
) -> None:
    monkeypatch.setattr(queue_module, "_OFFSETS_SEGMENT_BYTES", 4096)
    prepared = SimFiles(Random(1))
    with embedded.open(HOME, partitions=1, flush=flush, files=prepared) as queue:
        records = filled(queue, 100)
        for n in range(30):
            queue.commit(f"group-{n % 3}", records[n])

    for operations in range(10_000):
        files = prepared.clone(Random(operations))
        committed: dict[str, int] = {}
        under_way = ("", 0)
        finished = True
        queue = embedded.open(HOME, partitions=1, flush=flush, files=files)
        before = queue._partitions[-1].log.log_start
        for group, offsets in queue._offsets.groups().items():
            committed[group] = offsets[0]
        try:
            files.crash_after(operations)
            for n in range(30, 60):
                under_way = (f"group-{n % 3}", records[n].offset + 1)
                queue.commit(f"group-{n % 3}", records[n])
                committed[under_way[0]] = under_way[1]
                if queue._partitions[-1].log.log_start > before and n > 50:
                    break
        except SimulatedCrash:
            finished = False
        vanish(queue)
        if flush == "commit":
            files.crash()
        else:
            files.kill()
        with embedded.open(HOME, partitions=1, flush=flush, files=files) as queue:
            for group, offset in committed.items():
                found = queue._offsets.get(group, 0)
                assert found == offset or (group, found) == under_way
        if finished:
            assert queue._partitions[-1].log.log_start > before, "the log was shortened meanwhile"
            break


def test_a_full_disk_while_the_offsets_log_is_shortened_does_not_fail_the_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queue_module, "_OFFSETS_SEGMENT_BYTES", 4096)
    files = SimFiles(Random(1))
    with embedded.open(HOME, partitions=1, files=files) as queue:
        records = filled(queue, 200)
        files.capacity_bytes = sum(len(pages.cached) for pages in files._all_pages()) + 6000

        def commit_all() -> None:
            for record in records:
                queue.commit("group", record)

        with pytest.raises(StorageFull):
            commit_all()
        done = queue.stats().groups["group"].committed[0]
        assert done > 10
        assert next(queue.consume("group", timeout=0)).offset == done
        files.capacity_bytes = None
        for record in records[done:]:
            queue.commit("group", record)
        assert list(queue.consume("group", timeout=0)) == []


def lose_records_but_not_commits(files: SimFiles, *, keep: int, records: int) -> None:
    """A queue with flush=interval whose power loss took records that a group had committed."""
    queue = embedded.open(HOME, partitions=1, flush="interval", config=LAZY, files=files)
    queue.produce_many([(b"k", b"old %d" % n) for n in range(keep)])
    queue._commits.sync(queue._partitions)
    for n in range(keep, records):
        queue.produce(b"k", b"old %d" % n)
    first, *_, last = queue.consume("group", timeout=0)
    queue.commit("group", last)
    queue.commit("other", first)
    queue._commits.sync(queue._partitions[1:])
    vanish(queue)
    files.crash()


def test_a_commit_that_outlived_its_records_is_taken_back_to_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clamped = 0
    for seed in range(20):
        files = SimFiles(Random(seed))
        lose_records_but_not_commits(files, keep=3, records=10)
        caplog.clear()
        with (
            caplog.at_level(logging.WARNING),
            embedded.open(HOME, partitions=1, flush="interval", files=files) as queue,
        ):
            end = queue.stats().partitions[0].log_end
            assert 3 <= end <= 10
            queue.produce(b"k", b"new")
            assert [record.value for record in queue.consume("group", timeout=0)] == [b"new"]
            if end < 10:
                clamped += 1
                assert "group group had committed up to 10 of partition 0" in caplog.text
    assert clamped > 5


def test_taking_a_commit_back_is_durable_before_new_records_can_be() -> None:
    """Or a second power loss, once new records reached the old commit's offset, would skip them."""
    for seed in range(20):
        files = SimFiles(Random(seed))
        lose_records_but_not_commits(files, keep=3, records=10)
        queue = embedded.open(HOME, partitions=1, flush="interval", config=LAZY, files=files)
        end = queue.stats().partitions[0].log_end
        queue.produce_many([(b"k", b"new %d" % n) for n in range(20)])
        queue._commits.sync(queue._partitions[:1])
        vanish(queue)
        files.crash()
        with embedded.open(HOME, partitions=1, flush="interval", files=files) as queue:
            found = [record.value for record in queue.consume("group", timeout=0)]
            assert found == [b"new %d" % n for n in range(20)], f"seed {seed}, the log ended at {end}"


def test_a_commit_past_the_end_is_not_believed_though_the_offsets_log_is_damaged() -> None:
    """It cannot be corrected on disk then, but the group must not miss what gets those offsets."""
    for seed in range(10):
        files = SimFiles(Random(seed))
        lose_records_but_not_commits(files, keep=3, records=10)
        (name,) = (entry for entry in files.list(HOME / "partitions") if entry.startswith("__offsets"))
        path = HOME / "partitions" / name / f"{0:020d}.log"
        write_document(files, path.with_name("checkpoint"), "checkpoint", DURABLE)
        files.flip_bit(path, (files.list(path.parent)[path.name] - 10) * 8)
        with embedded.open(HOME, partitions=1, flush="interval", config=LAZY, files=files) as queue:
            assert queue._offsets.damage is not None
            end = queue.stats().partitions[0].log_end
            queue.produce_many([(b"k", b"new %d" % n) for n in range(20)])
            found = [record.value for record in queue.consume("group", timeout=0)]
        assert found == [b"new %d" % n for n in range(20)], f"seed {seed}, the log ended at {end}"


DURABLE = {"log_start": 0, "durable_end": 2, "corrupt_at": None, "clean": None}
"""A checkpoint that vouches for both commits: damage is corruption then, and no torn write."""
