"""One partition on this broker: its log, its leadership, and those who wait for either to move.

The path of a batch ends here: admitted, checked against its producer's sequence, appended, and answered
when the leader machine says so. What is durable is known from the `Syncer`, which this partition tells
when it has something to sync. All on the loop, nothing awaits.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from millpond.wire.batch import Batch
from millpond.wire.errors import (
    BrokerNotReady,
    MillpondError,
    NotLeader,
    OffsetOutOfRange,
    Outcome,
    StorageFailed,
)
from millpond.wire.record import TopicPartition
from millpond_broker.core.admission import AdmissionLimits, admit, check_record_size
from millpond_broker.core.leader import Acks, Leader, Reign
from millpond_broker.observe.metrics import BrokerMetrics
from millpond_broker.runtime.ports import Clock
from millpond_broker.storage.log import Log
from millpond_broker.storage.scan import StoredBatch


class Answer(Protocol):
    """Somebody who waits for a batch."""

    def settle(self, error: MillpondError | None) -> None:
        """The batch is where its acks want it, or will never be known to be. Called once."""


class Watcher(Protocol):
    """Somebody who waits for records past the high watermark."""

    def wake(self) -> None:
        """There are some, or the leadership is over. Called once for each `watch`."""


class Appended(NamedTuple):
    """Where a batch is. `settled`: nothing is left to wait for."""

    base_offset: int
    records: int
    is_duplicate: bool
    settled: bool


class Bounds(NamedTuple):
    """Where a partition begins and ends. Ends are exclusive."""

    log_start: int
    high_watermark: int
    log_end: int


@dataclass(frozen=True, kw_only=True)
class PartitionOptions:
    """What holds for every partition of a broker, and for this one's topic."""

    limits: AdmissionLimits
    record_bytes_max: int
    waits_for_sync: bool
    flush_interval_ms: int


class State(enum.Enum):
    """Whether a partition serves."""

    OPENING = "opening"
    """The log is being recovered, or waits for a leadership."""
    LEADING = "leading"
    OFFLINE = "offline"
    """The log failed; what it is waiting for is in `error`."""
    CLOSED = "closed"
    """The broker stops, or the topic is gone."""


_NEXT: dict[State, frozenset[State]] = {
    State.OPENING: frozenset({State.LEADING, State.OFFLINE, State.CLOSED}),
    State.LEADING: frozenset({State.LEADING, State.OPENING, State.OFFLINE, State.CLOSED}),
    State.OFFLINE: frozenset({State.LEADING, State.OPENING, State.OFFLINE, State.CLOSED}),
    State.CLOSED: frozenset(),
}


class Partition:
    """A replica of one partition, which leads or waits to lead. See the module."""

    def __init__(
        self,
        topic_id: bytes,
        name: TopicPartition,
        options: PartitionOptions,
        *,
        clock: Clock,
        metrics: BrokerMetrics,
        request_sync: Callable[[Partition], None],
    ) -> None:
        self.topic_id = topic_id
        self.name = name
        self.options = options
        self.state = State.OPENING
        # Why it does not serve: raised, as a copy, to whoever asks. None while it leads.
        self.error: MillpondError | None = BrokerNotReady(reason=f"{name.topic}-{name.partition} is opening")
        # None until it was opened, and again while another thread works on it.
        self.log: Log | None = None
        # None unless the state is LEADING.
        self.leader: Leader[Answer] | None = None
        # Epoch of the last leadership: a log that was cut is led again in a later one only (rule 12).
        self.last_epoch = -1
        self._clock = clock
        self._metrics = metrics
        self._request_sync = request_sync
        # Woken and forgotten when the high watermark moves: as many as have subscribed, bounded by them.
        self._watchers: dict[Watcher, None] = {}

    # --- standing -------------------------------------------------------------------------------------

    def lead(self, log: Log, reign: Reign) -> None:
        """Take the partition for one leader epoch (rule 1: the epoch is on record with its first batch)."""
        self._step_down(NotLeader(topic=reign.topic, partition=reign.partition, outcome=Outcome.UNKNOWN))
        self._enter(State.LEADING, None)
        self.log = log
        self.last_epoch = reign.leader_epoch
        self.leader = Leader(
            reign,
            log_start=log.log_start,
            log_end=log.log_end,
            durable_end=log.durable_end,
            high_watermark=log.log_start,
            now_ms=self._monotonic_ms(),
        )

    def stand_by(self, error: MillpondError) -> None:
        """No leadership for now; whoever waits is told `error` with outcome unknown."""
        self._enter(State.OPENING, error)
        self._step_down(error)

    def fail(self, error: MillpondError) -> None:
        """Out of service until it is opened again."""
        self._enter(State.OFFLINE, error)
        self._step_down(error)

    def close(self, error: MillpondError) -> None:
        """For good. The log is the caller's to close."""
        self._enter(State.CLOSED, error)
        self._step_down(error)

    def _enter(self, state: State, error: MillpondError | None) -> None:
        assert state in _NEXT[self.state], f"{self.name} went from {self.state} to {state}: {error!r}"
        assert (state is State.LEADING) == (error is None), "who does not lead says why"
        self.state, self.error = state, error

    def _step_down(self, error: MillpondError) -> None:
        leader, self.leader = self.leader, None
        if leader is not None:
            told = copy(error)
            told.outcome = Outcome.UNKNOWN  # type: ignore[attr-defined]  # a fact like any other: rule 8
            for answer in leader.retire():
                answer.settle(told)
        self._wake_watchers()

    def leading(self) -> tuple[Log, Leader[Answer]]:
        """The log and the leadership, for who needs both. Raises why there is none."""
        if self.leader is None or self.log is None:
            assert self.error is not None, "who does not lead says why"
            raise copy(self.error)
        return self.log, self.leader

    # --- writing --------------------------------------------------------------------------------------

    def produce(self, data: bytes, acks: Acks, answer: Answer | None) -> Appended:
        """Append one batch, or recognise it. Unless it is settled, `answer` hears later.

        Raises what `admit`, `Producers.check` and `Log.append` raise, NotLeader and its kind, and
        NotEnoughReplicas; the batch is not in the log then, unless the error's outcome says otherwise.
        """
        log, leader = self.leading()
        batch = admit(data, self.options.limits, self._clock.now_ms())
        check_record_size(batch, self.options.record_bytes_max)
        if acks is Acks.ALL:
            leader.check_in_sync()
        header = batch.header
        seen = log.producers.check(header)
        if seen is None:
            base_offset = self._append(log, leader, batch)
        else:
            base_offset = seen.base_offset
            self._metrics.duplicates += 1
        settled = answer is None or leader.wait(base_offset + header.last_offset_delta + 1, acks, answer)
        return Appended(base_offset, header.record_count, seen is not None, settled)

    def _append(self, log: Log, leader: Leader[Answer], batch: Batch) -> int:
        began = self._clock.monotonic()
        try:
            appended = log.append((batch,), leader.reign.leader_epoch)
        except StorageFailed as error:
            self.fail(error)
            self._request_sync(self)  # the one that looks after failed logs
            raise
        metrics = self._metrics
        metrics.append_seconds.observe(self._clock.monotonic() - began)
        metrics.batches_in += 1
        metrics.records_in += batch.header.record_count
        metrics.bytes_in += batch.header.size_bytes
        if log.is_dirty:
            self._request_sync(self)
        self.advance()
        return appended.base_offset

    def advance(self) -> None:
        """The log was appended to or synced: answer and wake whom that concerns."""
        log, leader = self.leading()
        step = leader.advance(log.log_start, log.log_end, log.durable_end, self._monotonic_ms())
        for answer in step.written + step.committed:
            answer.settle(None)
        for answer in step.too_few:
            answer.settle(leader.too_few)
        if step.high_watermark_moved:
            self._wake_watchers()

    def _monotonic_ms(self) -> int:
        return int(self._clock.monotonic() * 1000)

    # --- reading --------------------------------------------------------------------------------------

    def read(self, offset: int, bytes_max: int) -> list[StoredBatch]:
        """Batches below the high watermark from the one that holds `offset`; empty at the high watermark.

        Raises as `Log.read`, and why the partition does not serve.
        """
        log, leader = self.leading()
        began = self._clock.monotonic()
        try:
            batches = log.read(offset, bytes_max, leader.high_watermark)
        except StorageFailed as error:
            if log.failure is not None:
                self.fail(error)
                self._request_sync(self)
            raise
        self._metrics.fetch_read_seconds.observe(self._clock.monotonic() - began)
        return batches

    def bounds(self) -> Bounds:
        """Raises why the partition does not serve."""
        log, leader = self.leading()
        return Bounds(log.log_start, leader.high_watermark, log.log_end)

    def offsets(self, timestamp: int | None) -> tuple[Bounds, int | None]:
        """Where it begins and ends, and the first offset below the high watermark at or after a time (ms).

        Raises as `Log.find_time`, and why the partition does not serve; BrokerNotReady while a new leader
        does not know yet how far its predecessor got (rule 7).
        """
        log, leader = self.leading()
        if not leader.answers_offsets:
            raise BrokerNotReady(reason=f"{self.name.topic}-{self.name.partition} has a new leader")
        found = None if timestamp is None else log.find_time(timestamp, leader.high_watermark)
        return self.bounds(), None if found is None else found[0]

    def watch(self, watcher: Watcher) -> None:
        """Wake it once, when the high watermark moves or the leadership ends."""
        self._watchers[watcher] = None

    def unwatch(self, watcher: Watcher) -> None:
        """Do not."""
        self._watchers.pop(watcher, None)

    def _wake_watchers(self) -> None:
        watchers, self._watchers = self._watchers, {}
        for watcher in watchers:
            watcher.wake()

    # --- shortening -----------------------------------------------------------------------------------

    def trim(self, before_offset: int) -> int:
        """Forget what lies before the offset, which is at most the high watermark; the new log start.

        Raises OffsetOutOfRange, StorageFailed, StorageFull.
        """
        log, leader = self.leading()
        if before_offset > leader.high_watermark:
            raise OffsetOutOfRange(
                topic=self.name.topic,
                partition=self.name.partition,
                offset=before_offset,
                log_start=log.log_start,
                log_end=leader.high_watermark,
            )
        # With flush=interval the high watermark may be past what is durable; what is not cannot be trimmed.
        log.trim(min(before_offset, log.durable_end))
        return log.log_start

    def retain(self) -> None:
        """Drop what the topic's retention says (rule 35). Raises as `Log.retain`."""
        log, leader = self.leading()
        log.retain(self._clock.now_ms(), min(leader.high_watermark, log.durable_end))
        self.advance()
