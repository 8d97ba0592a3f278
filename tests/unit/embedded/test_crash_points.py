"""Power loss and process death at any file operation: what was acknowledged is there, in order."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from random import Random
from typing import Literal

import pytest

from millpond import embedded
from millpond.errors import MillpondError, PartialDelivery
from tests.sim.disk import SimFiles, SimulatedCrash

HOME = Path("/queue")
Place = tuple[int, int]
Pair = tuple[bytes, bytes]
CONFIG = {"segment_bytes": 4096}
"""Small segments: a run of a few dozen records rolls several times."""


class History:
    """What a run was told, and what it may find afterwards."""

    def __init__(self) -> None:
        self.acknowledged: dict[Place, Pair] = {}
        self.attempted: list[Pair] = []
        self.committed = 0
        self.committing = 0

    def run(self, queue: embedded.Queue, random: Random, steps: int) -> None:
        """Produce, alone and by many, and commit what partition 0 has."""
        for _ in range(steps):
            n = len(self.attempted)
            count = random.choice((1, 1, 1, 7))
            pairs = [(b"%d" % random.randrange(5), b"%06d" % (n + m) * 40) for m in range(count)]
            self.attempted += pairs
            if count == 1:
                self.acknowledged[queue.produce(*pairs[0])] = pairs[0]
            else:
                self.acknowledged.update(zip(queue.produce_many(pairs), pairs, strict=True))
            if random.random() < 0.3:
                self.commit(queue)

    def commit(self, queue: embedded.Queue) -> None:
        record = next(queue.consume("group", partitions=[0], timeout=0), None)
        if record is not None:
            self.committing = record.offset + 1
            queue.commit("group", record)
            self.committed = self.committing

    def check(self, queue: embedded.Queue) -> None:
        """Acknowledged ⊆ recovered ⊆ attempted, offsets without a hole, each key in order."""
        found = {
            (record.partition, record.offset): (record.key, record.value)
            for record in queue.consume("reader", timeout=0)
        }
        for place, pair in self.acknowledged.items():
            assert found.get(place) == pair, f"{place} was acknowledged"
        assert set(found.values()) <= set(self.attempted)
        assert len(set(found.values())) == len(found), "nothing is there twice"
        offsets: dict[int, list[int]] = defaultdict(list)
        order: dict[bytes, list[bytes]] = defaultdict(list)
        for (partition, offset), (key, value) in sorted(found.items()):
            offsets[partition].append(offset)
            assert key is not None
            assert value is not None
            order[key].append(value)
        assert all(numbers == list(range(len(numbers))) for numbers in offsets.values())
        assert all(values == sorted(values) for values in order.values())
        committed = queue._offsets.get("group", 0) or 0
        assert committed in (self.committed, self.committing)


def opened(files: SimFiles, flush: Literal["commit", "interval"] = "commit") -> embedded.Queue:
    return embedded.open(HOME, partitions=2, flush=flush, config=CONFIG, files=files)


def operations_of(seed: int, *, fresh: bool) -> int:
    """How many file operations a whole run takes."""
    files = SimFiles(Random(seed))
    if not fresh:
        opened(files).close()
    before = files.operations
    queue = opened(files)
    History().run(queue, Random(seed), STEPS)
    queue.close()
    return files.operations - before


STEPS = 30


@pytest.mark.parametrize("seed", range(3))
def test_power_loss_at_any_operation_keeps_what_was_acknowledged(seed: int) -> None:
    """From the first open to the last close; and what was found once is found again."""
    total = operations_of(seed, fresh=True)
    assert total > 200
    for operations in range(total):
        files = SimFiles(Random(seed * 10_000 + operations))
        files.crash_after(operations)
        history = History()
        try:
            queue = opened(files)
            history.run(queue, Random(seed), STEPS)
            queue.close()
        except SimulatedCrash:
            pass
        files.crash()
        with opened(files) as queue:
            history.check(queue)
        with opened(files) as queue:
            history.check(queue)


@pytest.mark.parametrize("flush", ["commit", "interval"])
def test_death_of_the_process_at_any_operation_keeps_what_was_acknowledged(
    flush: Literal["commit", "interval"],
) -> None:
    """The page cache survives, so flush=interval loses nothing either."""
    total = operations_of(1, fresh=False)
    for operations in range(0, total, 2):
        files = SimFiles(Random(operations))
        opened(files, flush).close()
        history = History()
        queue = opened(files, flush)
        files.crash_after(operations)
        try:
            history.run(queue, Random(1), STEPS)
            queue.close()
        except SimulatedCrash:
            end_thread(queue)
        files.kill()
        with opened(files, flush) as queue:
            history.check(queue)


def end_thread(queue: embedded.Queue) -> None:
    """A simulated death of the process does not end the real thread of flush=interval."""
    with queue._changed:
        queue._closing = True
        queue._changed.notify_all()
    if queue._flusher.ident is not None:
        queue._flusher.join()
    queue._shield.stop()
    queue._shield.join(10)


@pytest.mark.parametrize("seed", range(40))
def test_a_life_of_crashes_failed_syncs_and_full_disks_keeps_what_was_acknowledged(
    seed: int,
) -> None:
    """Crash after crash on one disk, recoveries included, with errors of the disk in between."""
    random = Random(seed)
    files = SimFiles(random, whole_system_sync=seed % 2 == 0)
    history = History()
    for _ in range(12):
        files.crash_after(random.randrange(1, 120))
        if random.random() < 0.3:
            files.fail_next_sync(written=random.random())
        if random.random() < 0.3:
            files.capacity_bytes = sum(len(pages.cached) for pages in files._all_pages()) + random.randrange(
                9000
            )
        try:
            queue = opened(files)
            for _ in range(20):
                try:
                    history.run(queue, random, 1)
                except PartialDelivery as partial:
                    pairs = history.attempted[-len(partial.result) :]
                    placed = zip(partial.result, pairs, strict=True)
                    history.acknowledged.update({place: pair for place, pair in placed if place is not None})
                except MillpondError:
                    files.capacity_bytes = None
            queue.close()
        except (SimulatedCrash, MillpondError):
            pass
        files.heal()
        files.capacity_bytes = None
        files.crash()
    with opened(files) as queue:
        history.check(queue)
    assert history.acknowledged
