"""One fetch stream: positions in, batches out, within the reader's credit and fair among its partitions.

A subscription is either ready (there may be something below the high watermark) or watches its partition,
which wakes it: nothing polls (rule 33). Ready ones take turns. Credit counts bytes of batches: while any is
left one more chunk is read, so that a batch larger than all of it still passes, and the rest is owed (rule
38).
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

from millpond.wire.errors import InvalidRequest, MillpondError
from millpond_broker.observe.metrics import BrokerMetrics
from millpond_broker.runtime.partition import Bounds, Partition
from millpond_broker.runtime.partitions import Partitions

SUBSCRIPTIONS_MAX: Final = 20_000
"""Of one stream: more than a broker holds partitions."""
ANSWERS_MAX: Final = 5000
"""Of one message: each may be an error with a page of facts, and the message has to fit gRPC's limit."""


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """What one stream may have."""

    credit_bytes_max: int
    """Credit beyond it is not remembered: what a reader cannot use at once it grants again later."""
    chunk_bytes: int
    """Of one partition at a turn, and of one message."""


class Fetched(NamedTuple):
    """What a subscription has for the reader. With an error it has ended."""

    handle: int
    batches: bytes
    bounds: Bounds | None
    error: MillpondError | None


class Taken(NamedTuple):
    """One message for the reader; false when there will be no more. `pong` 0: none."""

    fetched: list[Fetched]
    pong: int = 0

    def __bool__(self) -> bool:
        return bool(self.fetched or self.pong)


class Subscription:
    """One partition in one stream, and the next offset to send. A `Watcher` of its partition."""

    __slots__ = ("handle", "is_ready", "next_offset", "partition", "session", "told")

    def __init__(self, session: FetchSession, handle: int, partition: Partition, next_offset: int) -> None:
        self.session = session
        self.handle = handle
        self.partition = partition
        self.next_offset = next_offset
        self.is_ready = False
        # The bounds that the reader knows; None before the first answer, which comes with or without records.
        self.told: Bounds | None = None

    def wake(self) -> None:
        self.session.ready(self)


class FetchSession:
    """One stream's subscriptions. Requests and `take` may be used by two tasks."""

    def __init__(self, partitions: Partitions, limits: FetchLimits, metrics: BrokerMetrics) -> None:
        self._partitions = partitions
        self._limits = limits
        self._metrics = metrics
        self._subscriptions: dict[int, Subscription] = {}
        # Those that may have something, each once, in the order of their turns.
        self._ready: deque[Subscription] = deque()
        # Answers that cost no credit and wait for no turn: ends of subscriptions. SUBSCRIPTIONS_MAX of them,
        # and those of one message.
        self._ends: deque[Fetched] = deque()
        self._last_handle = 0
        # Bytes that the reader has room for; below 0 by at most one batch.
        self._credit_bytes = 0
        # The latest ping; one answer serves for those before it.
        self._pong = 0
        self._input_ended = False
        self._error: MillpondError | None = None
        self._wake = asyncio.Event()
        self._has_room = asyncio.Event()

    # --- requests -------------------------------------------------------------------------------------

    def grant(self, credit_bytes: int) -> None:
        """The reader has room for that much more."""
        self._credit_bytes = min(self._credit_bytes + credit_bytes, self._limits.credit_bytes_max)
        self._wake.set()

    def start(self, handle: int, topic_id: bytes, number: int, offset: int) -> None:
        """Subscribe from an offset on. What is wrong with it ends this subscription only.

        Raises InvalidRequest for a handle that is not greater than all before it, which would make two
        subscriptions one.
        """
        if handle <= self._last_handle:
            raise InvalidRequest(reason=f"handle {handle} is not greater than {self._last_handle}")
        self._last_handle = handle
        try:
            if offset < 0:
                raise InvalidRequest(reason=f"offset {offset} of subscription {handle}")
            if len(self._subscriptions) >= SUBSCRIPTIONS_MAX:
                raise InvalidRequest(reason=f"more than {SUBSCRIPTIONS_MAX} subscriptions in one stream")
            partition = self._partitions.find(topic_id, number)
        except MillpondError as error:
            self._end(handle, error)
            return
        subscription = Subscription(self, handle, partition, offset)
        self._subscriptions[handle] = subscription
        self.ready(subscription)

    def ping(self, number: int) -> None:
        """Answer with that number at once, whatever the credit: the reader asks whether anybody is there."""
        self._pong = number
        self._wake.set()

    def stop(self, handle: int) -> None:
        """End a subscription; one that has ended already is no error."""
        subscription = self._subscriptions.pop(handle, None)
        if subscription is not None:
            subscription.partition.unwatch(subscription)

    def ready(self, subscription: Subscription) -> None:
        """There may be something for it."""
        if not subscription.is_ready:
            subscription.is_ready = True
            self._ready.append(subscription)
            self._wake.set()

    async def room(self) -> None:
        """Return when the next message may be read: a client that takes no answers is not read on."""
        while len(self._ends) >= SUBSCRIPTIONS_MAX:
            self._has_room.clear()
            await self._has_room.wait()

    def end_of_input(self) -> None:
        """The reader has half-closed: it wants no more."""
        self._input_ended = True
        self._wake.set()

    def fail(self, error: MillpondError) -> None:
        """The stream cannot go on: `take` raises the error."""
        self._error = error
        self._wake.set()

    def _end(self, handle: int, error: MillpondError) -> None:
        self._subscriptions.pop(handle, None)
        self._ends.append(Fetched(handle, b"", None, error))
        self._wake.set()

    # --- answers --------------------------------------------------------------------------------------

    async def take(self) -> Taken:
        """What there is for the reader, at least one answer, at most about a chunk of bytes; empty once the
        reader has half-closed. Raises what the stream failed with.
        """
        while True:
            if self._error is not None:
                raise self._error
            if self._input_ended:
                return Taken([])
            if taken := Taken(self._collect(), self._pong):
                self._pong = 0
                return taken
            self._wake.clear()
            await self._wake.wait()

    def _collect(self) -> list[Fetched]:
        answers: list[Fetched] = []
        room_bytes = self._limits.chunk_bytes
        for _ in range(len(self._ready)):  # each gets at most one turn in a message
            if room_bytes <= 0 or self._credit_bytes <= 0 or len(answers) >= ANSWERS_MAX:
                break
            subscription = self._ready.popleft()
            subscription.is_ready = False
            if self._subscriptions.get(subscription.handle) is not subscription:
                continue  # stopped while it waited for its turn
            answer = self._turn(subscription, min(room_bytes, self._credit_bytes))
            if answer is not None:
                answers.append(answer)
                room_bytes -= len(answer.batches)
                self._credit_bytes -= len(answer.batches)
        while self._ends and len(answers) < ANSWERS_MAX:
            answers.append(self._ends.popleft())
        self._has_room.set()
        return answers

    def _turn(self, subscription: Subscription, bytes_max: int) -> Fetched | None:
        """Read what fits for one subscription; None if there is nothing to say."""
        partition = subscription.partition
        try:
            stored = partition.read(subscription.next_offset, bytes_max)
            bounds = partition.bounds()
        except MillpondError as error:
            self._end(subscription.handle, error)
            return None
        if not stored:
            partition.watch(subscription)
            if subscription.told is not None:
                return None
            subscription.told = bounds
            return Fetched(subscription.handle, b"", bounds, None)
        batches = b"".join([item.batch.data for item in stored])
        subscription.next_offset = stored[-1].batch.header.next_offset
        subscription.told = bounds
        if subscription.next_offset < bounds.high_watermark:
            self.ready(subscription)
        else:
            partition.watch(subscription)
        metrics = self._metrics
        metrics.batches_out += len(stored)
        metrics.bytes_out += len(batches)
        return Fetched(subscription.handle, batches, bounds, None)

    def close(self) -> None:
        """The stream is gone."""
        for subscription in self._subscriptions.values():
            subscription.partition.unwatch(subscription)
        self._subscriptions.clear()
        self._ready.clear()
