"""One produce stream: batches go to their partitions, results come back as they settle.

Bounded twice: what one stream has unanswered, and what all streams of the broker have. A stream over a bound
is not read on, so that its sender waits in its write. Results settled together leave together.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, NamedTuple

from millpond.wire.errors import MillpondError
from millpond_broker.core.leader import Acks
from millpond_broker.observe.metrics import BrokerMetrics
from millpond_broker.runtime.partition import Partition
from millpond_broker.runtime.partitions import Partitions
from millpond_broker.runtime.ports import Clock

RESULTS_UNREAD_MAX: Final = 10_000
"""Results of one stream that its client has not taken: one that reads none is not read on."""


class Batch(NamedTuple):
    """One batch of a request. `id` is the sender's name for it."""

    id: int
    topic_id: bytes
    partition: int
    data: bytes


class Result(NamedTuple):
    """What became of a batch. With an error, the offset says nothing."""

    id: int
    base_offset: int
    error: MillpondError | None


@dataclass(frozen=True, kw_only=True)
class ProduceLimits:
    """Bytes of batches that are appended and not answered yet."""

    stream_bytes_max: int
    """Of one stream: no sender takes all of the room."""
    total_bytes_max: int
    """Of all streams: bounds what a stalled disk can pile up."""


class Backlog:
    """The unanswered bytes of all streams, and the streams that wait for them to fall."""

    def __init__(self, limits: ProduceLimits) -> None:
        self.limits = limits
        self.unanswered_bytes = 0
        # Streams that wait for room, each until it has some or is gone: no more than there are streams.
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def waiting(self) -> int:
        """Streams that are not read on for want of room."""
        return len(self._waiting)

    @property
    def has_room(self) -> bool:
        """Whether another batch may be taken."""
        return self.unanswered_bytes < self.limits.total_bytes_max

    def add(self, size_bytes: int) -> None:
        """A batch was appended, and its sender not answered."""
        self.unanswered_bytes += size_bytes

    def remove(self, size_bytes: int) -> None:
        """It was."""
        self.unanswered_bytes -= size_bytes
        assert self.unanswered_bytes >= 0, "every batch is answered once"
        if self.has_room:
            for waiter in self._waiting:
                if not waiter.done():
                    waiter.set_result(None)

    async def room(self) -> None:
        """Return when there is some. The caller has the deadline: its stream's end."""
        while not self.has_room:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.add(waiter)
            try:
                await waiter
            finally:
                self._waiting.discard(waiter)


class _Waiting:
    """An `Answer`: a batch that was appended, until its result goes out."""

    __slots__ = ("base_offset", "batch_id", "received_at", "session", "size_bytes")

    def __init__(self, session: ProduceSession, batch_id: int, size_bytes: int, received_at: float) -> None:
        self.session = session
        self.batch_id = batch_id
        self.size_bytes = size_bytes
        self.received_at = received_at
        self.base_offset = 0  # known right after the append, before anything can settle

    def settle(self, error: MillpondError | None) -> None:
        self.session.settled(self, error)


class ProduceSession:
    """One stream's batches. `offer` and `take` may be used by two tasks; `close` ends both."""

    def __init__(
        self, partitions: Partitions, backlog: Backlog, clock: Clock, metrics: BrokerMetrics
    ) -> None:
        self._partitions = partitions
        self._backlog = backlog
        self._clock = clock
        self._metrics = metrics
        # Results that the writer has not taken yet: RESULTS_UNREAD_MAX, those of one message, and those of
        # what was unanswered when that was reached.
        self._results: list[Result] = []
        self._has_results = asyncio.Event()
        self._has_room = asyncio.Event()
        self._unanswered_bytes = 0
        self._unanswered = 0
        self._input_ended = False
        self._error: MillpondError | None = None
        self._closed = False

    async def room(self) -> None:
        """Return when the next message may be read."""
        while (
            self._unanswered_bytes >= self._backlog.limits.stream_bytes_max
            or len(self._results) >= RESULTS_UNREAD_MAX
        ):
            self._has_room.clear()
            await self._has_room.wait()
        await self._backlog.room()

    def offer(self, batch: Batch, acks: Acks) -> None:
        """Take one batch to its partition; its result comes from `take`, unless nobody waits for it."""
        if self._error is not None:
            return  # the end of the stream tells the sender that nothing is known of it
        waiting: _Waiting | None = None
        size_bytes = len(batch.data)
        if acks is not Acks.NONE:
            waiting = _Waiting(self, batch.id, size_bytes, self._clock.monotonic())
        try:
            partition = self._partition_of(batch)
            appended = partition.produce(batch.data, acks, waiting)
        except MillpondError as error:
            refused = self._metrics.refused
            refused[error.code] = refused.get(error.code, 0) + 1
            if acks is not Acks.NONE:
                self._add(Result(batch.id, 0, error))
            return
        if waiting is None:
            return
        if appended.settled:
            self._add(Result(batch.id, appended.base_offset, None))
            self._metrics.produce_seconds.observe(self._clock.monotonic() - waiting.received_at)
            return
        waiting.base_offset = appended.base_offset
        self._unanswered += 1
        self._unanswered_bytes += size_bytes
        self._backlog.add(size_bytes)

    def _partition_of(self, batch: Batch) -> Partition:
        return self._partitions.find(batch.topic_id, batch.partition)

    def settled(self, waiting: _Waiting, error: MillpondError | None) -> None:
        """A batch's answer is known."""
        self._unanswered -= 1
        self._unanswered_bytes -= waiting.size_bytes
        self._backlog.remove(waiting.size_bytes)
        self._has_room.set()
        self._metrics.produce_seconds.observe(self._clock.monotonic() - waiting.received_at)
        if not self._closed:
            self._add(Result(waiting.batch_id, waiting.base_offset, error))

    def _add(self, result: Result) -> None:
        self._results.append(result)
        self._has_results.set()

    def end_of_input(self) -> None:
        """No more batches come: `take` returns nothing once all were answered."""
        self._input_ended = True
        self._has_results.set()

    def fail(self, error: MillpondError) -> None:
        """The stream cannot go on: it takes no more batches, and `take` raises the error once all that were
        appended are answered.
        """
        self._error = error
        self._has_results.set()

    async def take(self) -> list[Result]:
        """Results since the last call, at least one; empty once the input ended and all are answered.

        Raises what the stream failed with.
        """
        while not self._results:
            if not self._unanswered:
                if self._error is not None:
                    raise self._error
                if self._input_ended:
                    return []
            self._has_results.clear()
            await self._has_results.wait()
        results, self._results = self._results, []
        self._has_room.set()
        return results

    def close(self) -> None:
        """The stream is gone: nobody takes results any more. What was appended stays appended."""
        self._closed = True
        self._results.clear()
