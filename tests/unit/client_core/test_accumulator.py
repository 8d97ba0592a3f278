"""Records in: partitions, batches and the buffer's books; and what a lane does with batches one by one."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from millpond._core.accumulator import Accumulator, AccumulatorOptions, RoomWaiter, TopicIntake
from millpond._core.cluster import BrokerView, ClusterView, PartitionView, TopicView
from millpond._core.lane import Identity, Lane
from millpond._core.pending_batch import BatchState, PendingBatch, Tally
from millpond.errors import (
    BufferFull,
    DeliveryTimeout,
    NotEnoughReplicas,
    Outcome,
    OutOfOrderSequence,
    RecordTooLarge,
    StorageFull,
)
from millpond.wire.batch import decode_batch, parse_batch
from millpond.wire.compression import Codec
from millpond.wire.record import NO_HEADERS, Headers


class Clock:
    now = 100.0
    ticks = 0

    def tick(self) -> tuple[float, int]:
        self.ticks += 1
        return self.now, int(self.now * 1000)


def cluster(config: dict[str, str]) -> ClusterView:
    parts = tuple(PartitionView(number, 1, 0, 0, (1,), (1,), ()) for number in range(3))
    topic = TopicView("t", b"t" * 16, parts, 1, 1, config)
    broker = BrokerView(1, "b:1", "", "running", 1, "0")
    return ClusterView(b"c" * 16, 1, 1, MappingProxyType({1: broker}), MappingProxyType({"t": topic}))


def intake(
    clock: Clock, *, batch_bytes: int = 1000, buffer_bytes: int = 10_000, **config: str
) -> TopicIntake:
    turns = iter(range(1_000_000))
    accumulator = Accumulator(
        AccumulatorOptions(batch_bytes=batch_bytes, buffer_bytes=buffer_bytes),
        begin_tick=clock.tick,
        choose=lambda count: next(turns) % count,
    )
    view = cluster(config)
    made = TopicIntake(accumulator, view.topics["t"])
    made.follow(view.topics["t"], view)
    return made


def add(topic: TopicIntake, value: bytes = b"v", key: bytes | None = None) -> tuple[PendingBatch, int]:
    return topic.add(value, key, NO_HEADERS, None, None)


def books(topic: TopicIntake) -> int:
    accumulator = topic.accumulator
    return accumulator.free_bytes + sum(batch.leased for batch in accumulator.unsettled.values())


def test_records_without_a_key_stay_together_until_their_batch_is_closed() -> None:
    topic = intake(Clock(), batch_bytes=200)
    lanes = [add(topic, b"x" * 20)[0].lane.partition for _ in range(12)]
    assert lanes == [0] * 4 + [1] * 4 + [2] * 4


def test_one_tick_takes_the_time_once() -> None:
    clock = Clock()
    topic = intake(clock)
    first, _ = add(topic)
    add(topic)
    assert clock.ticks == 1
    topic.accumulator.end_tick()
    clock.now += 0.5
    again, index = add(topic)
    assert (again, index, clock.ticks) == (first, 2, 2)
    topic.accumulator.end_tick()
    topic.close(first.lane)
    decoded = decode_batch(
        parse_batch(first.encode(Codec.NONE, Lane("t", b"", 0, _drop).producer(first)).data)
    )
    assert list(decoded.timestamps) == [100_000, 100_000, 100_500]


def test_the_books_are_right_whatever_is_leased() -> None:
    topic = intake(Clock())
    batch, _ = add(topic)
    assert topic.hot is batch
    assert batch.left > 0
    assert books(topic) == 10_000
    topic.accumulator.end_tick()
    assert batch.left == 0
    assert books(topic) == 10_000
    assert topic.accumulator.free_bytes == 10_000 - batch.size_bytes


def test_a_full_buffer_refuses_and_changes_nothing() -> None:
    topic = intake(Clock(), buffer_bytes=300)
    for _ in range(2):
        add(topic, b"x" * 100)
    with pytest.raises(BufferFull):
        add(topic, b"x" * 100, key=b"k")
    assert books(topic) == 300
    assert all(topic.accumulator.unsettled[number] for number in topic.accumulator.unsettled), "none is empty"
    with pytest.raises(RecordTooLarge):
        add(topic, b"x" * 300)


def test_rows_take_over_what_was_only_values() -> None:
    topic = intake(Clock())
    batch, _ = topic.add(b"a", None, NO_HEADERS, 0, None)
    topic.add(b"b", b"k", Headers({"h": b"1"}), 0, 5)
    topic.add(None, None, NO_HEADERS, 0, None)
    topic.close(batch.lane)
    decoded = decode_batch(parse_batch(batch.encode(Codec.NONE, batch.lane.producer(batch)).data))
    assert decoded.values == [b"a", b"b", None]
    assert decoded.keys == [None, b"k", None]
    assert list(decoded.timestamps) == [100_000, 5, 100_000] == batch.timestamps()
    assert [batch.timestamp(index) for index in range(3)] == batch.timestamps()


def test_a_hot_batch_never_takes_what_the_topic_would_refuse() -> None:
    topic = intake(Clock(), record_bytes_max="500")
    add(topic)
    assert topic.hot is None, "its records would not be measured one by one"


def test_an_old_open_batch_takes_no_young_records() -> None:
    clock = Clock()
    topic = intake(clock)
    first, _ = topic.add(b"v", None, NO_HEADERS, 0, None)
    topic.accumulator.end_tick()
    clock.now += 1.5
    second, _ = topic.add(b"v", None, NO_HEADERS, 0, None)
    assert second is not first
    assert second.deadline > first.deadline


def test_who_waits_for_room_is_served_in_order() -> None:
    topic = intake(Clock(), buffer_bytes=1000)
    accumulator = topic.accumulator
    assert accumulator.take_room(1000)
    served: list[str] = []
    accumulator.wait_for_room(600, lambda: served.append("large"))
    accumulator.wait_for_room(100, lambda: served.append("small"))
    accumulator.give_room(500)
    assert served == [], "the small one does not overtake"
    accumulator.give_room(500)
    assert served == ["large", "small"]
    assert accumulator.free_bytes == 300


@pytest.mark.parametrize("is_granted", [False, True], ids=["waiting", "in-its-turn"])
def test_who_is_interrupted_as_it_waits_for_room_leaves_nothing_behind(is_granted: bool) -> None:
    accumulator = intake(Clock(), buffer_bytes=1000).accumulator
    first = accumulator.wait_for_room(1000, lambda: None)
    interrupted = RoomWaiter(600, lambda: None, only_look=False)
    accumulator.join(interrupted)
    if is_granted:
        accumulator.leave(first)
    assert interrupted.granted == is_granted
    for _ in range(2):  # an interrupt of this has it done anew
        accumulator.abandon(interrupted)
    assert not accumulator.crowded
    if not is_granted:
        assert accumulator.free_bytes == 0, "all of it is the first one's"
        accumulator.leave(first)
    assert accumulator.free_bytes == 1000


def test_what_was_granted_to_others_stays_theirs_when_one_is_interrupted() -> None:
    accumulator = intake(Clock(), buffer_bytes=1000).accumulator
    other = accumulator.wait_for_room(300, lambda: None)
    assert other.granted
    accumulator.abandon(RoomWaiter(600, lambda: None, only_look=False))
    assert accumulator.free_bytes == 700
    accumulator.leave(other)
    assert accumulator.free_bytes == 1000


# --- lanes -----------------------------------------------------------------------------------------------


def _drop(batch: PendingBatch, base_offset: int, error: Exception | None) -> None:
    batch.settle(base_offset, error)  # type: ignore[arg-type]  # a test's errors are ours


def lane_with(batches: int) -> tuple[Lane, list[PendingBatch]]:
    """A lane whose broker knows it, with that many batches sent."""
    lane = Lane("t", b"t" * 16, 0, _drop)
    made = []
    lane.begin(Identity(7, 0))
    lane.confirmed = True
    for number in range(batches):
        batch = PendingBatch(lane, number, 0.0, 1.0)
        batch.values.append(b"v")
        batch.stamp(1)
        lane.open = batch
        lane.close_open()
        lane.sequence(batch)
        lane.sent(batch, number)
        made.append(batch)
    return lane, made


def refused_out_of_order() -> OutOfOrderSequence:
    return OutOfOrderSequence(producer_id=7, sequence=1, expected=0)


def test_a_retry_keeps_its_sequence_and_goes_before_what_follows() -> None:
    """Rule 19."""
    lane, (first, second) = lane_with(2)
    lane.refused(first, StorageFull(path="/"))
    lane.refused(second, refused_out_of_order())
    assert (first.state, second.state) == (BatchState.WAITING, BatchState.WAITING)
    assert lane.next_retry() is first
    assert (first.base_sequence, second.base_sequence) == (0, 1)
    assert not lane.takes_new(5)


def test_behind_a_hole_a_batch_gets_another_sequence_only_if_it_is_nowhere() -> None:
    lane, (first, second, third) = lane_with(3)
    lane.unanswered(second)
    lane.sent(second, 9)
    lane.refused(first, RecordTooLarge(size_bytes=2, limit_bytes=1))
    assert lane.holed
    lane.refused(second, refused_out_of_order())
    assert second.settled, "its first attempt may be in the log yet"
    assert second.error is not None
    lane.refused(third, refused_out_of_order())
    assert not third.settled
    assert (list(lane.ready), lane.identity, lane.retired) == ([third], None, Identity(7, 0))


def test_a_batch_given_up_and_acknowledged_all_the_same_leaves_no_hole() -> None:
    lane, (first, second) = lane_with(2)
    lane.give_up(first, DeliveryTimeout(timeout=1.0))
    assert not lane.holed
    lane.acked(first, 10)
    lane.acked(second, 11)
    assert (lane.holed, len(lane.in_flight)) == (False, 0)
    assert isinstance(first.error, DeliveryTimeout)


def test_five_are_in_flight_counted_from_the_oldest_that_is_unsettled() -> None:
    """Rule 16: a broker remembers five."""
    lane, batches = lane_with(5)
    for batch in batches[1:]:
        lane.acked(batch, 1)
    assert not lane.takes_new(5)
    lane.acked(batches[0], 0)
    assert lane.takes_new(5)


def test_a_producer_that_the_broker_may_not_know_sends_one_batch_at_first() -> None:
    """Rule 18: an unknown producer id accepts any sequence."""
    lane, _ = lane_with(1)
    lane.confirmed = False
    assert not lane.takes_new(5)


def test_an_outcome_once_unknown_stays_unknown() -> None:
    """Rule 8."""
    lane, (batch,) = lane_with(1)
    lane.unanswered(batch)
    lane.sent(batch, 2)
    lane.refused(batch, NotEnoughReplicas(topic="t", partition=0, in_sync=1, needed=2))
    assert batch.unknown
    assert batch.state is BatchState.WAITING


def test_failures_are_counted_until_somebody_asks() -> None:
    lane, (batch,) = lane_with(1)
    batch.count = 3
    batch.claim(0)
    batch.settle(-1, DeliveryTimeout(timeout=1.0, outcome=Outcome.UNKNOWN))
    tally = Tally()
    tally.add(batch)
    assert tally.count == 2
    batch.claim(1)
    assert tally.count == 1
    batch.unclaim(1)
    assert tally.count == 2
    assert isinstance(tally.first(), DeliveryTimeout)
    assert tally.first() is not batch.error, "each is raised by itself"
    assert lane.partition == 0
