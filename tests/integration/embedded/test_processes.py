"""A queue among processes: killed, interrupted, forked, and one at a time."""

from __future__ import annotations

import signal
from collections import defaultdict
from pathlib import Path
from random import Random

import pytest

from millpond import embedded
from millpond.errors import DirectoryInUse
from tests.integration.embedded.processes import Worker, report
from tests.integration.embedded.worker import KEYS, pairs

Place = tuple[int, int]


def places(lines: list[str]) -> dict[Place, int]:
    """(partition, offset) to number, of lines that say so."""
    return {(int(p), int(o)): int(n) for p, o, n in map(str.split, lines)}


def check_everything_is_there(directory: Path, acknowledged: dict[Place, int]) -> None:
    """A fresh process finds each acknowledged record in its place, in order, and no hole."""
    found: dict[Place, int] = {}
    offsets: dict[int, list[int]] = defaultdict(list)
    order: dict[str, list[int]] = defaultdict(list)
    for partition, offset, key, number in map(str.split, report("dump", directory)):
        found[int(partition), int(offset)] = int(number)
        offsets[int(partition)].append(int(offset))
        order[key].append(int(number))
        assert key == f"key-{int(number) % KEYS}", "the value belongs to the key"
    assert {place: found.get(place) for place in acknowledged} == acknowledged
    for numbers in offsets.values():
        assert numbers == list(range(len(numbers)))
    for values in order.values():
        assert values == sorted(values)


@pytest.mark.parametrize("role", ["produce", "produce_many"])
def test_a_producer_killed_in_the_middle_of_writing_loses_nothing_it_reported(
    directory: Path, role: str
) -> None:
    """Several times on the same queue, each continuing what the last one left."""
    random = Random(7)
    acknowledged: dict[Place, int] = {}
    for life in range(5):
        with Worker(role, directory, life * 1_000_000) as producer:
            lines = []
            for _ in range(random.randrange(1, 60) * (50 if role == "produce_many" else 3)):
                line = producer.line()
                assert line is not None
                lines.append(line)
            producer.kill()
            lines += producer.lines()
        acknowledged |= places(lines)
    check_everything_is_there(directory, acknowledged)


def test_a_consumer_killed_half_way_resumes_without_loss_and_repeats_only_what_it_had_not_committed(
    directory: Path,
) -> None:
    with embedded.open(directory) as queue:
        source = pairs(0)
        written = queue.produce_many([next(source) for _ in range(600)])
    committed: dict[int, int] = {}
    received: set[Place] = set()
    for hang_after in (24, 150, 250, 0):
        with Worker("consume", directory, "group", 7, hang_after) as consumer:
            lines: list[str] = []
            while (line := consumer.line()) not in (None, "hanging"):
                assert line is not None
                lines.append(line)
            consumer.kill()
        seen: set[Place] = set()
        covered = dict(committed)
        for word, partition, offset, *_ in map(str.split, lines):
            if word == "committed":
                covered[int(partition)] = int(offset)
            else:
                seen.add((int(partition), int(offset)))
        due = {(partition, offset) for partition, offset in written if offset > committed.get(partition, -1)}
        assert seen <= due, "what was committed does not come again"
        if hang_after == 0:
            assert seen == due, "what was in hand and not committed does"
        received |= seen
        committed = covered
    assert received == set(written)


def test_a_consumer_killed_anywhere_is_not_sent_back_behind_a_commit_it_reported(
    directory: Path,
) -> None:
    with embedded.open(directory) as queue:
        source = pairs(0)
        written = queue.produce_many([next(source) for _ in range(600)])
    committed: dict[int, int] = {}
    received: set[Place] = set()
    for life in range(5):
        with Worker("consume", directory, "group", 3, 0) as consumer:
            lines = []
            if life < 4:
                for _ in range(50 + 13 * life):
                    line = consumer.line()
                    assert line is not None
                    lines.append(line)
                consumer.kill()
            lines += consumer.lines()
        before = dict(committed)
        for word, partition, offset, *_ in map(str.split, lines):
            assert int(offset) > before.get(int(partition), -1)
            if word == "committed":
                committed[int(partition)] = int(offset)
            else:
                received.add((int(partition), int(offset)))
    assert received == set(written)


def test_ctrl_c_ends_a_producer_cleanly_wherever_it_strikes(directory: Path) -> None:
    """It nearly always strikes inside a sync; the queue is closed by its `with`."""
    acknowledged: dict[Place, int] = {}
    for life in range(6):
        with Worker("produce", directory, life * 1_000_000) as producer:
            lines = []
            for _ in range(20 + life):
                line = producer.line()
                assert line is not None
                lines.append(line)
            producer.interrupt()
            lines += producer.lines()
            status, errors = producer.end()
        assert status == -signal.SIGINT, errors
        assert errors.rstrip().endswith("KeyboardInterrupt")
        acknowledged |= places(lines)
    check_everything_is_there(directory, acknowledged)


def test_a_second_process_is_refused_until_the_first_is_gone_however_it_goes(
    directory: Path,
) -> None:
    with Worker("hold", directory) as holder:
        assert holder.line() == "open"
        with pytest.raises(DirectoryInUse) as caught:
            embedded.open(directory)
        assert caught.value.path == str(directory)
        assert report("try_open", directory) == ["DirectoryInUse"]
        holder.kill()
        embedded.open(directory).close()
    with Worker("hold", directory) as holder:
        assert holder.line() == "open"
        assert holder.end() == (0, "")
        assert report("try_open", directory) == ["open"]
    with embedded.open(directory):
        assert report("try_open", directory) == ["DirectoryInUse"]


def test_a_forked_child_gets_forked_client_and_does_not_keep_the_directory_locked(
    directory: Path,
) -> None:
    assert report("fork", directory) == ["ok"]
