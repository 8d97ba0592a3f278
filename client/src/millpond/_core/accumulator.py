"""Records in: which partition and batch each joins, and whether the buffer has room for it.

A topic keeps one batch *hot*: it has leased a stretch of the buffer, so that a record without a key costs a
subtraction and an append, and no more. Leases are given back when the tick ends in which they were taken
(a tick: the sends between two turns of the event loop; all of its records have one time).

    free_bytes + the leases of all unsettled batches == buffer_bytes
    unsettled batches are in the order in which they were begun, hence of their deadlines
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from millpond._core.cluster import ClusterView, TopicView
from millpond._core.lane import Lane
from millpond._core.pending_batch import BatchState, Columns, PendingBatch, Row, Tally
from millpond.wire.errors import BufferFull, MillpondError, RecordTooLarge, UnknownPartition
from millpond.wire.header import RECORDS_MAX
from millpond.wire.partitioner import partition_for
from millpond.wire.record import NO_HEADERS, Headers

VALUE_OVERHEAD_BYTES: Final = 16
"""What a record costs in a batch beside its bytes: lengths, null bits, a time."""
ROW_OVERHEAD_BYTES: Final = 24
"""Likewise where there may be a key and headers."""
HEADER_OVERHEAD_BYTES: Final = 8
"""Likewise for each header."""
BATCH_MARGIN_BYTES: Final = 256
"""Room for what surrounds the records, within the largest batch that a broker takes."""
OPEN_S_MAX: Final = 1.0
"""A batch that nothing sends takes no records that are so much younger than its first: they share its
deadline."""

Partitioner = Callable[[bytes | None, bytes | None, int], int]
"""(key, value, number of partitions) to a partition; key and value as they are sent."""


@dataclass(frozen=True, kw_only=True)
class AccumulatorOptions:
    """How records are collected."""

    batch_bytes: int = 262_144
    buffer_bytes: int = 32 << 20
    delivery_timeout: float = 120.0
    """Seconds a record has from when it enters the buffer."""
    partitioner: Partitioner | None = None
    """For records that do not name a partition; None: by key, sticky without one."""


class RoomWaiter:
    """Somebody who waits for room. `granted`: the bytes are theirs, unless they `only_look`."""

    def __init__(self, size_bytes: int, wake: Callable[[], None], *, only_look: bool) -> None:
        self.size_bytes = size_bytes
        self.wake = wake
        self.only_look = only_look
        self.granted = False


class Accumulator:
    """The buffer and the lanes of one producer.

    `begin_tick` is called at the first send of a tick and gives (seconds, milliseconds UTC); whoever passes
    it sees to it that `end_tick` is called soon. `choose` gives a random number below its argument.
    """

    def __init__(
        self,
        options: AccumulatorOptions,
        *,
        begin_tick: Callable[[], tuple[float, int]],
        choose: Callable[[int], int],
    ) -> None:
        self.options = options
        self.choose = choose
        self.free_bytes = options.buffer_bytes
        self.unsettled: dict[int, PendingBatch] = {}
        self.active: dict[Lane, None] = {}
        """Lanes with something unsettled."""
        self.lanes: dict[tuple[bytes, int], Lane] = {}
        self.tally = Tally()
        self.on_settled: Callable[[PendingBatch], None] = _nothing
        """Told after a batch is settled and its bytes are free."""
        self.now = 0.0
        self.now_ms = 0
        self._begin_tick = begin_tick
        self._in_tick = False
        self._hot: list[TopicIntake] = []
        self._number = 0
        self._waiters: deque[RoomWaiter] = deque()
        """First come, first served. As many as there are tasks that send."""
        self._granted: set[RoomWaiter] = set()
        """Whose turn came, and who has not used the room yet."""
        self._refused_bytes = 1
        """Size of the last record that found no room."""

    # --- ticks ------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Before anything that a user does: a tick has begun."""
        if not self._in_tick:
            self.now, self.now_ms = self._begin_tick()
            self._in_tick = True

    def end_tick(self) -> None:
        """Give back what was leased and not used."""
        self._in_tick = False
        self.cool()

    def cool(self) -> None:
        """No topic keeps a batch hot any more."""
        if not self._hot:
            return
        for topic in self._hot:
            batch, topic.hot = topic.hot, None
            if batch is not None:
                self._return_lease(batch)
        self._hot = []

    def heat(self, topic: TopicIntake, batch: PendingBatch) -> None:
        """Lease room for records to come, as far as there is some."""
        room = min(topic.batch_bytes - batch.size_bytes, self.free_bytes)
        if room <= 0 or self._waiters:
            return
        # What is leased and in no batch's books is found again by `recount`.
        self.free_bytes -= room
        batch.leased += room
        batch.left += room
        self._hot.append(topic)  # first: a hot batch that nobody cools would take records for ever
        topic.hot = batch

    def _return_lease(self, batch: PendingBatch) -> None:
        left, batch.left = batch.left, 0
        if not batch.settled:
            batch.leased -= left
            self.free_bytes += left

    def recount(self) -> None:
        """Make the books right again after an interrupt in the middle of a send.

        A signal handler that raises does so between any two steps of the main thread. What `add` does is
        ordered for this: a record is in its batch or not, and whatever else was half done is mended here.
        """
        for topic in self._hot:
            topic.hot = None
        self._hot = []
        for batch in list(self.unsettled.values()):
            batch.lane.mend()
            if batch.state is BatchState.OPEN and not batch:
                batch.lane.discard(batch)
        for batch in self.unsettled.values():
            batch.leased, batch.left = batch.size_bytes, 0
        self.free_bytes = self.options.buffer_bytes - sum(b.leased for b in self.unsettled.values())
        self.free_bytes -= sum(waiter.size_bytes for waiter in self._granted)

    # --- room -------------------------------------------------------------------------------------------

    def take_room(self, size_bytes: int) -> bool:
        """Take bytes of the buffer, if there are so many and nobody waits for them."""
        if size_bytes > self.free_bytes:
            self.cool()
            if size_bytes > self.free_bytes:
                self._refused_bytes = size_bytes
                return False
        self.free_bytes -= size_bytes
        return True

    def give_room(self, size_bytes: int) -> None:
        """Bytes are free again: whoever waits first gets them first."""
        self.free_bytes += size_bytes
        assert self.free_bytes <= self.options.buffer_bytes, "nothing is given back twice"
        self.grant()

    def wait_for_room(self, size_bytes: int | None, wake: Callable[[], None]) -> RoomWaiter:
        """Join the queue for that many bytes. None: only to be told when the record that last found no room
        would fit.
        """
        only_look = size_bytes is None
        size = min(self._refused_bytes, self.options.buffer_bytes) if size_bytes is None else size_bytes
        waiter = RoomWaiter(size, wake, only_look=only_look)
        self.join(waiter)
        return waiter

    def join(self, waiter: RoomWaiter) -> None:
        """Have somebody wait who is not waiting yet."""
        self._waiters.append(waiter)
        self.cool()
        self.grant()

    def use(self, waiter: RoomWaiter) -> None:
        """The room that was granted is a record's now, or its waiter's own to give back."""
        self._granted.discard(waiter)

    def leave(self, waiter: RoomWaiter) -> None:
        """Whoever waited does not want the room any more."""
        if waiter.granted:
            if waiter.only_look:
                self.grant()  # it was their turn, and is the next one's now
            else:
                self._granted.remove(waiter)
                self.give_room(waiter.size_bytes)
        else:
            self._waiters.remove(waiter)
            self.grant()

    def abandon(self, waiter: RoomWaiter) -> None:
        """Whoever waited was interrupted, at whichever step: before it waited, in its turn, or after."""
        self._granted.discard(waiter)
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        self.recount()
        self.grant()

    @property
    def crowded(self) -> bool:
        """Whether somebody waits for room."""
        return bool(self._waiters)

    def grant(self) -> None:
        """Serve the queue as far as there is room. One who only looks ends the round: it is their turn."""
        while self._waiters and self._waiters[0].size_bytes <= self.free_bytes:
            waiter = self._waiters.popleft()
            waiter.granted = True
            if not waiter.only_look:
                self._granted.add(waiter)
                self.free_bytes -= waiter.size_bytes
            waiter.wake()
            if waiter.only_look:
                break

    # --- batches ----------------------------------------------------------------------------------------

    def lane(self, topic: TopicView, partition: int) -> Lane:
        """The lane of a partition."""
        key = topic.topic_id, partition
        if (lane := self.lanes.get(key)) is None:
            lane = self.lanes[key] = Lane(topic.name, topic.topic_id, partition, self._settle)
        return lane

    def new_batch(self, lane: Lane) -> PendingBatch:
        """An empty batch, whose time begins now."""
        self._number += 1
        batch = PendingBatch(lane, self._number, self.now, self.now + self.options.delivery_timeout)
        self.unsettled[batch.number] = batch
        self.active[lane] = None
        return batch

    def discard_empty(self, batch: PendingBatch) -> None:
        """Take back a batch that was begun for a record which found no room."""
        if not batch:
            batch.lane.discard(batch)

    @property
    def last_number(self) -> int:
        """Number of the newest batch."""
        return self._number

    def settled_up_to(self, number: int) -> bool:
        """Whether each batch up to this number is settled."""
        return not self.unsettled or next(iter(self.unsettled)) > number

    def _settle(self, batch: PendingBatch, base_offset: int, error: MillpondError | None) -> None:
        leased, batch.leased, batch.left = batch.leased, 0, 0
        del self.unsettled[batch.number]
        if error is not None:
            self.tally.add(batch)
        batch.settle(base_offset, error)
        self.give_room(leased)
        self.on_settled(batch)

    def forget(self, lane: Lane) -> None:
        """A lane has nothing left, and its partition is gone."""
        assert lane.idle, "nothing is forgotten that somebody waits for"
        self.active.pop(lane, None)
        self.lanes.pop((lane.topic_id, lane.partition), None)


def _nothing(_: PendingBatch) -> None:
    return


class TopicIntake:
    """One topic: chooses a lane for each record and adds it to the lane's open batch."""

    def __init__(self, accumulator: Accumulator, view: TopicView) -> None:
        self.accumulator = accumulator
        self.view = view
        self.hot: PendingBatch | None = None
        """The batch that takes records without a key at once, while its lease lasts."""
        self.record_bytes_max = 0
        """Largest record, key and headers included, without overhead."""
        self._batch_bytes = accumulator.options.batch_bytes
        self._sticky: Lane | None = None
        self._hot_allowed = False
        self._leaders: Sequence[int] = ()

    def follow(self, topic: TopicView, view: ClusterView) -> None:
        """Take over what the cluster says now about this topic (or another one of the name)."""
        self.view = topic
        batch_bytes_max = view.batch_bytes_max - BATCH_MARGIN_BYTES
        self._batch_bytes = min(self.accumulator.options.batch_bytes, batch_bytes_max)
        self.record_bytes_max = min(topic.record_bytes_max, batch_bytes_max - ROW_OVERHEAD_BYTES)
        led = [number for number, part in enumerate(topic.partitions) if part.leader is not None]
        self._leaders = led or range(len(topic.partitions))
        # A record in a hot batch is not measured by itself: what fits the batch must fit the topic.
        self._hot_allowed = (
            self.accumulator.options.partitioner is None and self.record_bytes_max >= self._batch_bytes
        )
        self._sticky = None
        self.accumulator.cool()

    def measure(self, value: bytes | None, key: bytes | None, headers: Headers) -> int:
        """Bytes of a record with its overhead. Raises RecordTooLarge."""
        size = (0 if value is None else len(value)) + (0 if key is None else len(key))
        pairs = headers.multi_items()
        size += sum(len(name.encode()) + len(content) for name, content in pairs)
        if size > self.record_bytes_max:
            raise RecordTooLarge(size_bytes=size, limit_bytes=self.record_bytes_max)
        size += ROW_OVERHEAD_BYTES + HEADER_OVERHEAD_BYTES * len(pairs)
        if size > self.accumulator.options.buffer_bytes:
            raise RecordTooLarge(size_bytes=size, limit_bytes=self.accumulator.options.buffer_bytes)
        return size

    def add(
        self,
        value: bytes | None,
        key: bytes | None,
        headers: Headers,
        partition: int | Partitioner | None,
        timestamp: int | None,
        *,
        granted_bytes: int = 0,
    ) -> tuple[PendingBatch, int]:
        """Add one record; its batch, and its place there. `granted_bytes`: room that was waited for.

        Raises BufferFull, RecordTooLarge, UnknownPartition; nothing has changed then, and granted room is
        still the caller's.
        """
        accumulator = self.accumulator
        accumulator.tick()
        size = self.measure(value, key, headers)
        batch = self._open_batch(self.partition_of(value, key, partition), size)
        if granted_bytes:
            assert granted_bytes == size, "what was waited for is what is used"
            batch.leased += size
        elif batch.left >= size:
            batch.left -= size
        elif accumulator.take_room(size):
            batch.leased += size
        else:
            accumulator.discard_empty(batch)
            raise BufferFull(buffer_bytes=accumulator.options.buffer_bytes)
        if key is None and timestamp is None and not headers and batch.rows is None:
            # One append is what adds a record: an interrupt leaves it in or out, never half.
            values = batch.values
            batch.stamp(accumulator.now_ms)
            index = len(values)
            values.append(value)
            if self._hot_allowed and batch.lane is self._sticky and self.hot is None:
                accumulator.heat(self, batch)
        else:
            if self.hot is batch:
                accumulator.cool()
            rows = batch.to_rows()
            index = len(rows)
            rows.append(Row(value, key, headers, accumulator.now_ms if timestamp is None else timestamp))
        return batch, index

    def _open_batch(self, number: int | None, size: int) -> PendingBatch:
        """The open batch of a partition, or of the sticky one, with room for a record of this size."""
        lane = self.sticky() if number is None else self.accumulator.lane(self.view, number)
        if not self._fits(lane.open, size):
            self.close(lane)
            if number is None:
                lane = self.sticky()
                if not self._fits(lane.open, size):
                    lane.close_open()
        if lane.open is None:
            lane.open = self.accumulator.new_batch(lane)
        return lane.open

    def _fits(self, batch: PendingBatch | None, size: int) -> bool:
        if batch is None or not batch.size_bytes:
            return True
        if batch.size_bytes + size > self._batch_bytes or len(batch) >= RECORDS_MAX:
            return False
        return self.accumulator.now - batch.created_at <= OPEN_S_MAX

    def close(self, lane: Lane) -> None:
        """Close the open batch of a lane; the next record without a key goes elsewhere."""
        if self.hot is not None and self.hot is lane.open:
            self.accumulator.cool()
        lane.close_open()
        if self._sticky is lane:
            self._sticky = None

    def partition_of(
        self, value: bytes | None, key: bytes | None, partition: int | Partitioner | None
    ) -> int | None:
        """Where a record belongs; None: wherever it is sent best. Raises UnknownPartition."""
        count = len(self.view.partitions)
        chosen = self.accumulator.options.partitioner if partition is None else partition
        if chosen is None:
            return None if key is None else partition_for(key, count)
        number = chosen(key, value, count) if callable(chosen) else chosen
        if not isinstance(number, int) or isinstance(number, bool):
            raise TypeError(f"partition= is an int or gives one, not {type(number).__name__}")
        if not 0 <= number < count:
            raise UnknownPartition(topic=self.view.name, partition=number, partitions=count)
        return number

    def sticky(self) -> Lane:
        """Where records without a key go now: one partition until its batch is closed, then any other."""
        lane = self._sticky
        if lane is None or lane.open is None:
            number = self._leaders[self.accumulator.choose(len(self._leaders))]
            lane = self._sticky = self.accumulator.lane(self.view, number)
        return lane

    # --- columns ----------------------------------------------------------------------------------------

    def add_columns(self, lane: Lane, columns: Columns, size_bytes: int) -> PendingBatch:
        """A closed batch of its own, behind what the lane has. The room was taken or waited for."""
        self.accumulator.tick()
        self.close(lane)
        batch = self.accumulator.new_batch(lane)
        batch.columns = columns
        batch.leased = size_bytes
        batch.close()
        lane.ready.append(batch)
        return batch

    @property
    def batch_bytes(self) -> int:
        """How much of records goes into one batch, overhead included."""
        return self._batch_bytes


def headers_of(headers: Headers | Mapping[str, bytes] | Any | None) -> Headers:
    """Headers as a record has them. Raises TypeError."""
    if headers is None:
        return NO_HEADERS
    return headers if isinstance(headers, Headers) else Headers(headers)
