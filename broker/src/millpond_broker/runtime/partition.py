"""One partition on this broker: its log, its part in replication, and those who wait for either to move.

The path of a batch ends here: admitted, checked against its producer's sequence, appended, and answered
when the leader machine says so. What is durable is known from the `Syncer`, which this partition tells
when it has something to sync. All on the loop, nothing awaits.

A replica leads (`leader`, here), follows (`following`), or waits for the metadata or for its log.
"""

from __future__ import annotations

import asyncio
import enum
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from millpond.wire.batch import Batch
from millpond.wire.errors import (
    BrokerNotReady,
    CorruptBatch,
    MillpondError,
    NotLeader,
    OffsetOutOfRange,
    Outcome,
    StorageFailed,
)
from millpond.wire.record import TopicPartition
from millpond_broker.core.admission import AdmissionLimits, admit, check_record_size
from millpond_broker.core.in_sync import AlterOutcome, Committed, Member, WantedIsr
from millpond_broker.core.leader import Acks, Leader, Reign, Step
from millpond_broker.core.replication import (
    Acknowledgement,
    FencedLeaderEpoch,
    OutOfRange,
    Push,
    Statement,
    UnknownLeaderEpoch,
)
from millpond_broker.core.replication import (
    Answer as Answered,
)
from millpond_broker.observe.metrics import BrokerMetrics
from millpond_broker.runtime.ports import Clock
from millpond_broker.storage.log import Log
from millpond_broker.storage.scan import StoredBatch

if TYPE_CHECKING:
    from millpond_broker.runtime.following import Following

LAST_READ_BYTES_MAX: Final = 16 << 10
"""Kept of what was read to be pushed, for the next follower: each partition that is led may have as much."""

Key = tuple[bytes, int]
"""Topic id and number."""


class Answer(Protocol):
    """Somebody who waits for a batch."""

    def settle(self, error: MillpondError | None) -> None:
        """The batch is where its acks want it, or will never be known to be. Called once."""


class _Trimmed:
    """An `Answer`: somebody who waits for a log start."""

    def __init__(self, done: asyncio.Future[None]) -> None:
        self.done = done

    def settle(self, error: MillpondError | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


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


class Surroundings(Protocol):
    """What a partition needs of the broker around it. Nothing of it waits."""

    def has_lease(self) -> bool:
        """Whether this broker may speak for the cluster now (rule 39)."""

    def request_sync(self, partition: Partition) -> None:
        """It has something to sync, or its log has failed."""

    def alter(self, partition: Partition, wanted: WantedIsr) -> None:
        """Ask the controller for that ISR; `altered` hears what it said."""

    def corrupt(self, partition: Partition) -> bool:
        """Its log was found damaged. Whether it is given up for that, since there are other replicas."""

    def push(self, partition: Partition, followers: list[int]) -> None:
        """There is something to push to these."""

    def tell_later(self, partition: Partition) -> None:
        """Its high watermark has moved: `owe` it to the followers soon, unless they hear of it before."""


class State(enum.Enum):
    """What a replica does."""

    OPENING = "opening"
    """The log is being recovered or cut, or waits for the metadata to say whom to follow."""
    LEADING = "leading"
    FOLLOWING = "following"
    OFFLINE = "offline"
    """The log failed; what it is waiting for is in `error`."""
    CLOSED = "closed"
    """The broker stops, or the topic is gone."""


_ANY: Final = frozenset({State.OPENING, State.LEADING, State.FOLLOWING, State.OFFLINE, State.CLOSED})
_NEXT: Final[dict[State, frozenset[State]]] = {
    State.OPENING: _ANY,
    State.LEADING: _ANY,
    State.FOLLOWING: _ANY,
    State.OFFLINE: _ANY,
    State.CLOSED: frozenset(),
}


class Partition:
    """A replica of one partition. See the module."""

    def __init__(
        self,
        topic_id: bytes,
        name: TopicPartition,
        options: PartitionOptions,
        *,
        clock: Clock,
        metrics: BrokerMetrics,
        around: Surroundings,
    ) -> None:
        self.topic_id: Final = topic_id
        self.name: Final = name
        self.key: Final[Key] = (topic_id, name.partition)
        self.options = options
        self.state = State.OPENING
        # Why it does not serve: raised, as a copy, to whoever asks. None while it leads.
        self.error: MillpondError | None = BrokerNotReady(reason=f"{name.topic}-{name.partition} is opening")
        # None until it was opened, and again while another thread works on it.
        self.log: Log | None = None
        # Not None in the states LEADING and FOLLOWING, each in its own.
        self.leader: Leader[Answer] | None = None
        self.following: Following | None = None
        # Of the latest leadership here: a log that was cut is led again in a later one only (rule 12).
        self.last_epoch = -1
        # Its log was opened after this broker had registered, and lost bytes then that nobody was told of.
        self.has_lost = False
        # Its log cannot be cut, nor opened again, for what is damaged in it. Found in this partition epoch.
        self.spoilt_in: int | None = None
        # The greatest floor that the metadata have had for this replica: it has given up the seat by what it
        # had before that partition epoch. The metadata forget a floor once the replica is in sync again.
        self.floor = 0
        # When its log, which had failed, was last opened again, by the clock's monotonic time.
        self.mended_at = float("-inf")
        # As it was known when this replica neither led nor followed, and in which leader epoch: a machine
        # begins with it and goes on from there.
        self.known_high_watermark = 0
        self.known_in_epoch = -1
        # Of this leadership, what was read last to be pushed: from where, up to which log end; and that.
        self._last_read: tuple[int, int, bytes, int] | None = None
        self._clock = clock
        self._metrics = metrics
        self._around = around
        # Woken and forgotten when the high watermark moves: as many as have subscribed, bounded by them.
        self._watchers: dict[Watcher, None] = {}

    @property
    def high_watermark(self) -> int:
        """As far as it is known here."""
        if self.leader is not None:
            return self.leader.high_watermark
        if self.following is not None:
            return self.following.high_watermark
        return self.known_high_watermark

    # --- standing -------------------------------------------------------------------------------------

    def opened(self, log: Log) -> None:
        """The log is there: as it was left behind, or cut, or opened again."""
        self.log = log
        known = max(self.known_high_watermark, log.high_watermark)
        self.known_high_watermark = max(log.log_start, min(known, log.durable_end))

    def lead(self, log: Log, reign: Reign) -> None:
        """Take the partition for one leader epoch (rule 1: the epoch is on record with its first batch)."""
        self._step_down(NotLeader(topic=reign.topic, partition=reign.partition, outcome=Outcome.UNKNOWN))
        self._enter(State.LEADING, None)
        self.last_epoch = reign.leader_epoch
        self.leader = Leader(
            reign,
            log_start=log.log_start,
            log_end=log.log_end,
            durable_end=log.durable_end,
            high_watermark=self.known_high_watermark,
            now_ms=self._monotonic_ms(),
            first_offset=log.first_offset,
        )

    def follow(self, following: Following, error: NotLeader) -> None:
        """Follow a leader; who asks for what leaders do is told `error`."""
        self._step_down(error)
        self._enter(State.FOLLOWING, error)
        self.following = following

    def stand_by(self, error: MillpondError) -> None:
        """Neither for now; whoever waits is told `error` with outcome unknown."""
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
        following, self.following = self.following, None
        self._last_read = None
        if following is not None:
            self.known_high_watermark = following.high_watermark
            self.known_in_epoch = following.known_in_epoch
            following.end()
        if leader is not None:
            self.known_high_watermark = leader.high_watermark
            self.known_in_epoch = leader.reign.leader_epoch
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
            leader.check_in_sync(has_lease=self._around.has_lease())
        header = batch.header
        seen = log.producers.check(header)
        if seen is None:
            base_offset = self._append(log, leader, batch)
        else:
            base_offset = seen.base_offset
            self._metrics.duplicates += 1
        settled = answer is None or leader.wait(base_offset + header.last_offset_delta + 1, acks, answer)
        if settled and acks is Acks.LEADER and (lapsed := self._lapsed(Outcome.UNKNOWN)) is not None:
            raise lapsed
        return Appended(base_offset, header.record_count, seen is not None, settled)

    def _append(self, log: Log, leader: Leader[Answer], batch: Batch) -> int:
        began = self._clock.monotonic()
        try:
            appended = log.append((batch,), leader.reign.leader_epoch)
        except StorageFailed as error:
            self.fail(error)
            self._around.request_sync(self)  # the one that looks after failed logs
            raise
        except CorruptBatch as error:
            raise self._unreadable(error) from None
        metrics = self._metrics
        metrics.append_seconds.observe(self._clock.monotonic() - began)
        metrics.batches_in += 1
        metrics.records_in += batch.header.record_count
        metrics.bytes_in += batch.header.size_bytes
        if log.is_dirty:
            self._around.request_sync(self)
        self.advance()
        return appended.base_offset

    def advance(self) -> None:
        """The log was appended to, synced or trimmed: answer, push and wake whom that concerns."""
        log, leader = self.log, self.leader
        if self.following is not None:
            self.following.advance()
        elif leader is not None and log is not None:
            now_ms, first = self._monotonic_ms(), log.first_offset
            self._do(leader.advance(log.log_start, log.log_end, log.durable_end, now_ms, first_offset=first))

    def _do(self, step: Step[Answer]) -> None:
        """What the leader says is due."""
        leader = self.leader
        assert leader is not None, "a step is a leader's"
        for answer in step.written:
            answer.settle(self._lapsed(Outcome.UNKNOWN))
        for answer in step.committed:
            answer.settle(None)
        for answer in step.too_few:
            answer.settle(leader.too_few)
        if step.wanted is not None:
            self._around.alter(self, step.wanted)
        if step.push_to:
            self._around.push(self, step.push_to)
        if step.high_watermark_moved:
            self._wake_watchers()
            self._around.tell_later(self)

    def _lapsed(self, outcome: Outcome) -> NotLeader | None:
        """Why it may not speak for the cluster: without the lease another may lead by now (rule 39)."""
        if self._around.has_lease():
            return None
        return NotLeader(topic=self.name.topic, partition=self.name.partition, outcome=outcome)

    # --- replication, as the leader -------------------------------------------------------------------

    def committed(self, committed: Committed) -> None:
        """The metadata shows this now, and still this leadership."""
        _, leader = self.leading()
        self._do(leader.commit(committed, self._monotonic_ms()))

    def altered(self, wanted: WantedIsr, outcome: AlterOutcome) -> None:
        """What the controller said to an ISR that was wanted."""
        if self.leader is not None and self.leader.reign.leader_epoch == wanted.leader_epoch:
            self._do(self.leader.altered(wanted, outcome, self._monotonic_ms()))

    def tick(self) -> None:
        """Time went on. Costs next to nothing while nobody lags and nothing is asked for."""
        if self.leader is not None and not self.leader.is_quiet:
            self._do(self.leader.tick(self._monotonic_ms()))

    def stated(self, statement: Statement) -> Answered:
        """A follower says where it is; the answer is to go out before any push."""
        if self.leader is None or self.log is None:
            refusal = FencedLeaderEpoch if statement.leader_epoch < self.last_epoch else UnknownLeaderEpoch
            return refusal(statement.leader_epoch, statement.session, max(0, self.last_epoch))
        answer, step = self.leader.stated(statement, self.log.epochs, self._monotonic_ms())
        self._do(step)
        return answer

    def acknowledged(self, sender: Member, acknowledgement: Acknowledgement) -> None:
        """A follower has more."""
        if self.leader is not None:
            self._do(self.leader.acknowledged(sender, acknowledgement, self._monotonic_ms()))

    def lost(self, sender: Member, leader_epoch: int, session: int) -> None:
        """The stream is gone that a follower's session was on."""
        if self.leader is not None and self.leader.reign.leader_epoch == leader_epoch:
            self._do(self.leader.lost(sender, session, self._monotonic_ms()))

    def is_in_sync(self, follower: int) -> bool:
        """Whether it is in the ISR of this leadership."""
        return self.leader is not None and follower in self.leader.in_sync.committed.isr

    def next_push(self, follower: int, bytes_max: int) -> tuple[Push, bytes] | OutOfRange | None:
        """The next of its log for a follower, and that it is on its way; with 0 bytes only what is no log.
        None: there is nothing.

        Raises StorageFailed and CorruptBatch, after seeing to what that means for this leadership.
        """
        if self.leader is None or self.log is None:
            return None
        push = self.leader.due(follower)
        if not isinstance(push, Push):
            return push
        if push.from_offset < self.log.log_end and not bytes_max:
            return None
        data, next_offset = b"", push.from_offset
        if push.from_offset < self.log.log_end:
            data, next_offset = self._read_framed(self.log, push.from_offset, bytes_max)
        self.leader.pushed(follower, push, next_offset)
        return push, data

    def _read_framed(self, log: Log, offset: int, bytes_max: int) -> tuple[bytes, int]:
        """What was appended last is read once for all followers: most often all lack the same."""
        last = self._last_read
        if last is not None and last[:2] == (offset, log.log_end) and len(last[2]) <= bytes_max:
            return last[2:]
        try:
            data, next_offset = log.read_framed(offset, bytes_max, log.log_end)
        except (StorageFailed, CorruptBatch) as error:
            raise self._unreadable(error) from None
        is_kept = next_offset == log.log_end and len(data) <= LAST_READ_BYTES_MAX
        self._last_read = (offset, next_offset, data, next_offset) if is_kept else None
        return data, next_offset

    def owe(self, high_watermark: int) -> None:
        """Have followers told that, which no push has told it yet."""
        if self.leader is not None and (followers := self.leader.owe(high_watermark)):
            self._around.push(self, followers)

    def _unreadable(self, error: StorageFailed | CorruptBatch) -> StorageFailed | CorruptBatch:
        """Who finds its own log damaged does not lead on (rule 15); the rest of it is read by nobody. What to
        tell whoever asked: with other replicas it passes, since one of them leads as soon as one can.
        """
        log = self.log
        assert log is not None, "it was read"
        if log.corruption is not None:
            if self._around.corrupt(self):
                reason = log.corruption.reason
                return StorageFailed(path=str(log.directory), reason=reason, outcome=Outcome.NOT_WRITTEN)
        elif log.failure is not None:
            self.fail(error)
            self._around.request_sync(self)
        return error

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
        except (StorageFailed, CorruptBatch) as error:
            raise self._unreadable(error) from None
        self._metrics.fetch_read_seconds.observe(self._clock.monotonic() - began)
        return batches

    def bounds(self) -> Bounds:
        """Raises why the partition does not serve."""
        log, leader = self.leading()
        return Bounds(log.log_start, leader.high_watermark, log.log_end)

    def offsets(self, timestamp: int | None) -> tuple[Bounds, int | None]:
        """Where it begins and ends, and the first offset below the high watermark at or after a time (ms).

        Raises as `Log.find_time`, and why the partition does not serve; BrokerNotReady without the lease
        (rule 39), or while a new leader does not know yet how far its predecessor got (rule 7).
        """
        log, leader = self.leading()
        if not self._around.has_lease():
            out_of_touch = "no controller answers this broker, and another may lead"
            raise BrokerNotReady(reason=f"{out_of_touch} {self.name.topic}-{self.name.partition} by now")
        if not leader.answers_offsets:
            raise BrokerNotReady(reason=f"{self.name.topic}-{self.name.partition} has a new leader")
        try:
            found = None if timestamp is None else log.find_time(timestamp, leader.high_watermark)
        except (StorageFailed, CorruptBatch) as error:
            raise self._unreadable(error) from None
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
        self.advance()
        return log.log_start

    @property
    def unsynced_seconds_max(self) -> float:
        """For how long what was appended may wait for its sync."""
        return 0.0 if self.options.waits_for_sync else self.options.flush_interval_ms / 1000

    async def trimmed_everywhere(self, log_start: int) -> None:
        """Wait until all in sync begin there: before that a fail-over could bring back what was deleted (rule
        7). The caller has the deadline. Raises NotLeader and its kind when the leadership ends.
        """
        _, leader = self.leading()
        answer = _Trimmed(asyncio.get_running_loop().create_future())
        if not leader.wait_for_log_start(log_start, answer):
            try:
                await answer.done
            finally:
                leader.forget(answer)

    def retain(self) -> None:
        """Drop what the topic's retention says (rule 35). Raises as `Log.retain`."""
        log, leader = self.leading()
        log.retain(self._clock.now_ms(), min(leader.high_watermark, log.durable_end))
        self.advance()
