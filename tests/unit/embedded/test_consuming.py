"""What `consume` and `commit` promise."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from millpond import embedded
from millpond.errors import ClientClosed, InvalidGroupName, InvalidRecord, UnknownPartition
from millpond.wire.partitioner import partition_for
from tests.awake import awake
from tests.unit.embedded.watched import WAIT_SECONDS_MAX


def values(queue: embedded.Queue, group: str, partitions: list[int] | None = None) -> list[bytes | None]:
    """What the group gets now, without waiting."""
    return [record.value for record in queue.consume(group, partitions=partitions, timeout=0)]


def test_asking_for_the_next_record_commits_nothing(directory: Path) -> None:
    with embedded.open(directory, partitions=1) as queue:
        for n in range(5):
            queue.produce(b"k", b"%d" % n)
        assert values(queue, "group") == values(queue, "group") == [b"0", b"1", b"2", b"3", b"4"]
        assert queue.stats().groups == {}
    with embedded.open(directory, partitions=1) as queue:
        assert len(values(queue, "group")) == 5


def test_a_reopened_queue_resumes_at_the_commit_partition_by_partition(directory: Path) -> None:
    with embedded.open(directory) as queue:
        placed = queue.produce_many([(b"%d" % n, b"%d" % n) for n in range(100)])
        seen: dict[int, int] = defaultdict(int)
        for record in queue.consume("group", timeout=0):
            seen[record.partition] += 1
            if seen[record.partition] == 5:
                queue.commit("group", record)
    with embedded.open(directory) as queue:
        left = {(record.partition, record.offset) for record in queue.consume("group", timeout=0)}
        assert left == {(partition, offset) for partition, offset in placed if offset >= 5}
        assert len(values(queue, "another")) == 100


def test_a_commit_covers_everything_before_it_and_an_earlier_one_takes_the_group_back(
    directory: Path,
) -> None:
    with embedded.open(directory, partitions=1) as queue:
        for n in range(5):
            queue.produce(b"k", b"%d" % n)
        records = list(queue.consume("group", timeout=0))
        queue.commit("group", records[3])
        assert values(queue, "group") == [b"4"]
        queue.commit("group", records[1])
        assert values(queue, "group") == [b"2", b"3", b"4"]
    with embedded.open(directory, partitions=1) as queue:
        assert values(queue, "group") == [b"2", b"3", b"4"]


def test_groups_are_independent_and_their_names_may_hold_anything_legal(directory: Path) -> None:
    names = ["a", "A", "a.b-c_d", "0", "x" * 249]
    with embedded.open(directory, partitions=1) as queue:
        for n in range(len(names) + 1):
            queue.produce(b"k", b"%d" % n)
        records = list(queue.consume("reader", timeout=0))
        for name, record in zip(names, records, strict=False):
            queue.commit(name, record)
    with embedded.open(directory, partitions=1) as queue:
        for n, name in enumerate(names):
            assert len(values(queue, name)) == len(names) - n


def test_a_running_iterator_keeps_its_own_position_whatever_is_committed(directory: Path) -> None:
    with embedded.open(directory, partitions=1) as queue:
        for n in range(4):
            queue.produce(b"k", b"%d" % n)
        iterator = queue.consume("group", timeout=0)
        first = next(iterator)
        for later in itertools.islice(queue.consume("group", timeout=0), 3):
            queue.commit("group", later)
        queue.commit("group", first)
        assert [record.value for record in iterator] == [b"1", b"2", b"3"]


def test_two_iterators_of_one_group_each_get_everything_unless_they_divide_the_partitions(
    directory: Path,
) -> None:
    with embedded.open(directory, partitions=4) as queue:
        queue.produce_many([(b"%d" % n, b"%d" % n) for n in range(40)])
        one, two = queue.consume("group", timeout=0), queue.consume("group", timeout=0)
        pairs = list(zip(one, two, strict=True))
        assert len(pairs) == 40
        assert all(left == right for left, right in pairs)
        low, high = (
            values(queue, "group", partitions=[0, 1]),
            values(queue, "group", partitions=[2, 3]),
        )
        assert low
        assert high
        assert sorted(map(str, low + high)) == sorted(str(b"%d" % n) for n in range(40))


def test_partitions_may_be_named_twice_or_not_at_all(directory: Path) -> None:
    with embedded.open(directory, partitions=2) as queue:
        queue.produce_many([(b"%d" % n, b"%d" % n) for n in range(20)])
        assert values(queue, "group", partitions=[1, 1]) == values(queue, "group", partitions=[1])
        assert values(queue, "group", partitions=[]) == []


def test_order_within_a_partition_is_the_order_of_the_offsets(directory: Path) -> None:
    with embedded.open(directory) as queue:
        for n in range(300):
            queue.produce(b"%d" % (n % 10), b"%d" % n)
        offsets: dict[int, list[int]] = defaultdict(list)
        for record in queue.consume("group", timeout=0):
            offsets[record.partition].append(record.offset)
    assert all(found == list(range(len(found))) for found in offsets.values())


def test_a_waiting_consumer_is_woken_by_a_record(directory: Path) -> None:
    with embedded.open(directory) as queue, ThreadPoolExecutor() as pool:
        waiting = [pool.submit(next, queue.consume(f"group-{n}", timeout=WAIT_SECONDS_MAX)) for n in range(3)]
        started = awake()
        queue.produce(b"k", b"v")
        assert [future.result(WAIT_SECONDS_MAX).value for future in waiting] == [b"v"] * 3
        assert awake() - started < WAIT_SECONDS_MAX / 2


def test_a_consumer_of_other_partitions_is_not_given_a_record_and_still_times_out(
    directory: Path,
) -> None:
    with embedded.open(directory, partitions=2) as queue, ThreadPoolExecutor() as pool:
        partition, _ = queue.produce(b"k", b"v")
        idle = pool.submit(list, queue.consume("group", partitions=[1 - partition], timeout=0.2))
        while not idle.done():
            queue.produce(b"k", b"v")
        assert idle.result() == []


def test_the_timeout_counts_from_the_last_record(directory: Path) -> None:
    with embedded.open(directory, partitions=1) as queue:
        queue.produce(b"k", b"v")
        iterator = queue.consume("group", timeout=0.3)
        next(iterator)
        started, awake_at = time.monotonic(), awake()
        assert next(iterator, None) is None
        assert time.monotonic() - started > 0.25
        assert awake() - awake_at < WAIT_SECONDS_MAX
        assert next(iterator, None) is None  # an iterator that ended has ended


@pytest.mark.parametrize("timeout", [0, 0.0])
def test_a_timeout_of_zero_takes_what_is_there_and_ends(directory: Path, timeout: float) -> None:
    with embedded.open(directory) as queue:
        assert list(queue.consume("group", timeout=timeout)) == []
        queue.produce(b"k", b"v")
        assert len(list(queue.consume("group", timeout=timeout))) == 1


@pytest.mark.parametrize("timeout", [-1, -0.1, float("nan")])
def test_a_timeout_that_is_no_time_is_refused(directory: Path, timeout: float) -> None:
    with embedded.open(directory) as queue, pytest.raises(ValueError, match="timeout"):
        queue.consume("group", timeout=timeout)


def test_no_partitions_have_no_records_however_long_one_would_wait(directory: Path) -> None:
    with embedded.open(directory) as queue:
        assert list(queue.consume("group", partitions=[])) == []
        assert list(queue.consume("group", partitions=iter([]))) == []  # type: ignore[arg-type]  # an iterator is read once


def test_a_waiting_consumer_ends_when_the_queue_is_closed(directory: Path) -> None:
    queue = embedded.open(directory)
    queue.produce(b"k", b"v")
    got_one = threading.Event()

    def consume() -> int:
        count = 0
        for _ in queue.consume("group"):
            count += 1
            got_one.set()
        return count

    with ThreadPoolExecutor() as pool:
        consumers = [pool.submit(consume) for _ in range(3)]
        assert got_one.wait(WAIT_SECONDS_MAX)
        queue.close()
        assert all(consumer.result(WAIT_SECONDS_MAX) <= 1 for consumer in consumers)


def test_an_iterator_hands_out_nothing_after_close_though_it_read_ahead(directory: Path) -> None:
    """A record whose commit could only raise ClientClosed is not worth handing out."""
    queue = embedded.open(directory, partitions=1)
    queue.produce_many([(b"k", b"%d" % n) for n in range(100)])
    iterator = queue.consume("group")
    record = next(iterator)
    queue.close()
    assert next(iterator, None) is None
    with pytest.raises(ClientClosed, match="queue is closed"):
        queue.commit("group", record)


def test_an_iterator_that_was_not_begun_before_close_is_empty(directory: Path) -> None:
    queue = embedded.open(directory)
    queue.produce(b"k", b"v")
    iterator = queue.consume("group")
    queue.close()
    assert list(iterator) == []


def test_a_large_backlog_in_one_partition_does_not_starve_the_others(directory: Path) -> None:
    with embedded.open(directory, partitions=2) as queue:
        busy = b"a"
        quiet = next(b"%d" % n for n in range(99) if partition_for(b"%d" % n, 2) != partition_for(busy, 2))
        queue.produce_many([(busy, bytes(1000)) for _ in range(10_000)])
        queue.produce(quiet, b"small")
        ahead = list(
            itertools.takewhile(lambda record: record.key != quiet, queue.consume("group", timeout=0))
        )
    assert len(ahead) < 5_000


@pytest.mark.parametrize("group", ["", "with space", "a/b", "é", "x" * 250, ".", ".."])
def test_an_illegal_group_name_is_refused_at_once(directory: Path, group: str) -> None:
    with embedded.open(directory) as queue:
        queue.produce(b"k", b"v")
        (record,) = queue.consume("fine", timeout=0)
        with pytest.raises(InvalidGroupName) as caught:
            queue.consume(group)
        assert caught.value.group == group
        with pytest.raises(InvalidGroupName):
            queue.commit(group, record)


@pytest.mark.parametrize("partition", [4, -1, 1000])
def test_an_unknown_partition_is_refused_at_once_and_said_with_how_many_there_are(
    directory: Path, partition: int
) -> None:
    with embedded.open(directory) as queue:
        with pytest.raises(UnknownPartition) as caught:
            queue.consume("group", partitions=[0, partition])
        assert (caught.value.partition, caught.value.partitions) == (partition, 4)
        queue.produce(b"k", b"v")
        (record,) = queue.consume("fine", timeout=0)
        with pytest.raises(UnknownPartition):
            queue.commit("group", record._replace(partition=partition))


def test_only_records_that_are_in_the_queue_can_be_committed(directory: Path) -> None:
    with embedded.open(directory, partitions=1) as queue:
        queue.produce(b"k", b"v")
        (record,) = queue.consume("group", timeout=0)
        for stranger in (
            record._replace(offset=1),
            record._replace(offset=-1),
            record._replace(topic="orders"),
        ):
            with pytest.raises(InvalidRecord, match="is not in this queue"):
                queue.commit("group", stranger)
        assert queue.stats().groups == {}
