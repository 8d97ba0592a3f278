"""Batches out: what goes to which broker now, and what each answer means for the lanes.

Events in (a stream is there, is lost, has answered; the view changed; time passed), messages out (`take`).
One session a leading broker. Times are seconds of one monotonic clock. Policies, each with its bound:

- Adaptive linger: a batch that is not full goes at once while fewer than `NAGLE_MESSAGES` messages of its
  session are unanswered, and after `NAGLE_S` at the latest. So an idle producer does not wait, and a busy one
  fills its batches.
- A lane pauses after a refusal, growing to a second, or until the metadata have news of its partition; so
  does a broker whose stream was lost, growing likewise.
- A session that has owed answers for `stall_s` and given none is to be torn down.
- A record is here for delivery_timeout at most: then its batch is given up (see `lane` for what follows).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from millpond._core.accumulator import Accumulator
from millpond._core.cluster import ClusterView
from millpond._core.lane import IN_FLIGHT_MAX, Identity, Lane
from millpond._core.pending_batch import BatchState, PendingBatch
from millpond._core.retry import Backoff
from millpond.wire.batch import MESSAGE_BATCHES_MAX
from millpond.wire.compression import Codec
from millpond.wire.errors import (
    BrokerNotReady,
    ClientClosed,
    ClusterUnavailable,
    DeliveryTimeout,
    InvalidRecord,
    MillpondError,
    NotLeader,
    Outcome,
    UnknownPartition,
    UnknownTopic,
)

MESSAGE_BYTES: Final = 1 << 20
"""A message is closed once it has so much: one batch more than this is the most it holds."""
NAGLE_MESSAGES: Final = 2
"""One that the broker works on, one that is on its way meanwhile."""
NAGLE_S: Final = 0.005
STALL_S: Final = 20.0
"""Twice what a member may lag before it leaves the in-sync replicas (rule 9): acks=all may take that."""
EPOCH_MAX: Final = (1 << 15) - 1
"""16 bits in the header."""
RETRY: Final = Backoff(first_s=0.02, factor=2.0, max_s=1.0)


@dataclass(frozen=True, kw_only=True)
class SenderOptions:
    """How batches are sent."""

    codec: Codec = Codec.NONE
    linger: float | None = None
    """Seconds that a batch waits for more records; None: as long as it costs nothing."""
    max_in_flight: int = IN_FLIGHT_MAX
    """Unanswered batches of one partition."""
    delivery_timeout: float = 120.0
    answered: bool = True
    """False for acks="none": a batch is done when it is written to the stream."""

    @property
    def stall_s(self) -> float:
        """Seconds without any answer after which a session that owes some is torn down."""
        return min(STALL_S, self.delivery_timeout / 3)


class Answer(NamedTuple):
    """What became of one attempt."""

    attempt: int
    base_offset: int
    error: MillpondError | None


class Attempt(NamedTuple):
    """One batch to be written."""

    id: int
    batch: PendingBatch
    data: bytes | memoryview


class Session:
    """One stream to one broker, from the plan that asks for it to its loss."""

    def __init__(self, broker: int, number: int) -> None:
        self.broker = broker
        self.number = number
        self.outstanding: dict[int, PendingBatch] = {}
        """Attempts that are unanswered, by id."""
        self.messages = 0
        """Messages with unanswered batches."""
        self.heard_at = 0.0
        """When it last answered, or began to owe an answer."""
        self.wake_at = math.inf
        """When there may be something to take although nothing happens before."""
        self.failed: MillpondError | None = None


class Peer:
    """A broker that leads something, and the lanes that are sent to it, least recently served first."""

    def __init__(self, broker: int) -> None:
        self.broker = broker
        self.session: Session | None = None
        self.lanes: dict[Lane, None] = {}
        self.failures = 0
        self.not_before = 0.0
        self.trouble: MillpondError | None = None
        """Why its last session was lost, until the next answers."""


class Sender:
    """See the module. All of one producer's lanes; the accumulator fills them."""

    def __init__(
        self, options: SenderOptions, accumulator: Accumulator, *, jitter: Callable[[], float]
    ) -> None:
        self.options = options
        self.accumulator = accumulator
        self.peers: dict[int, Peer] = {}
        self.identity: Identity | None = None
        """What lanes begin with. None: one is to be asked for, see `wants_identity`."""
        self.wants_identity = False
        self.flush_up_to = 0
        """Batches up to this number do not linger."""
        self.trouble: MillpondError | None = None
        """Why nothing can be sent at all, where that is known: the cause of time-outs."""
        self._jitter = jitter
        self._attempts = 0
        self._sessions = 0

    # --- who sends what where ---------------------------------------------------------------------------

    def follow(self, view: ClusterView) -> None:
        """Give each lane to whoever leads its partition; let go of lanes whose partition is gone."""
        self.accumulator.cool()
        for lane in list(self.accumulator.lanes.values()):
            topic = view.topics.get(lane.topic)
            if topic is None or topic.topic_id != lane.topic_id:
                self._drop(lane, None)
            elif lane.partition >= len(topic.partitions):
                self._drop(lane, len(topic.partitions))
            else:
                told = topic.partitions[lane.partition]
                if told.partition_epoch != lane.partition_epoch:
                    # Its leader or who is in sync: what it was refused for may be over now.
                    lane.partition_epoch, lane.not_before, lane.failures = told.partition_epoch, 0.0, 0
                self._place(lane, told.leader)

    def place_new(self, view: ClusterView) -> bool:
        """Place lanes that records came to since; whether there is now a broker without a session."""
        waiting = False
        for lane in self.accumulator.active:
            if lane.broker is None:
                leader = view.leader(lane.topic, lane.partition)
                self._place(lane, None if leader is None else leader.id)
            waiting = waiting or lane.broker is None or self.peers[lane.broker].session is None
        return waiting

    def _place(self, lane: Lane, broker: int | None) -> None:
        if broker is None or broker == lane.broker:
            return  # while nobody leads it, who did may still answer
        if lane.broker is not None:
            old = self.peers[lane.broker]
            old.lanes.pop(lane, None)
            for batch in lane.moved():
                self._forget_attempt(old.session, batch)
                self._unanswered(lane, batch)
            self._retire_if_idle(lane)
        lane.broker, lane.not_before, lane.failures = broker, 0.0, 0
        if broker not in self.peers:
            self.peers[broker] = Peer(broker)
        self.peers[broker].lanes[lane] = None

    def _drop(self, lane: Lane, partitions: int | None) -> None:
        def error_of(batch: PendingBatch) -> MillpondError:
            outcome = Outcome.UNKNOWN if batch.unknown else Outcome.NOT_WRITTEN
            if partitions is None:
                return UnknownTopic(topic=lane.topic, outcome=outcome)
            return UnknownPartition(
                topic=lane.topic, partition=lane.partition, partitions=partitions, outcome=outcome
            )

        self._end(lane, error_of)
        self.accumulator.forget(lane)

    def _end(self, lane: Lane, error_of: Callable[[PendingBatch], MillpondError]) -> None:
        peer = None if lane.broker is None else self.peers[lane.broker]
        if peer is not None:
            for batch in lane.moved():
                self._forget_attempt(peer.session, batch)
            peer.lanes.pop(lane, None)
        lane.broker = None
        lane.drop(error_of)

    def plan(self, view: ClusterView, now: float) -> list[Session]:
        """Sessions to be opened now: for brokers that have something to get and no session."""
        sessions = []
        for peer in list(self.peers.values()):
            if peer.session is not None:
                continue
            if not peer.lanes and peer.broker not in view.brokers:
                del self.peers[peer.broker]
            elif now >= peer.not_before and self._wanted(peer):
                self._sessions += 1
                peer.session = Session(peer.broker, self._sessions)
                sessions.append(peer.session)
        return sessions

    def _wanted(self, peer: Peer) -> bool:
        return not self.accumulator.active.keys().isdisjoint(peer.lanes)

    def lost(self, session: Session, error: MillpondError | None, now: float) -> None:
        """A session has ended: what it had not answered, nobody knows."""
        peer = self.peers[session.broker]
        assert peer.session is session, "a session ends once"
        peer.session = None
        peer.failures += 1
        peer.trouble = error
        peer.not_before = now + RETRY.delay_s(peer.failures, self._jitter())
        outstanding, session.outstanding = session.outstanding, {}
        for batch in outstanding.values():
            batch.last_error = error or batch.last_error
            self._unanswered(batch.lane, batch)
            self._retire_if_idle(batch.lane)  # it was given up before: nobody wants a stream for it
        for lane in peer.lanes:
            lane.confirmed = False

    def _unanswered(self, lane: Lane, batch: PendingBatch) -> None:
        if self.options.answered:
            lane.unanswered(batch)
            return
        # Nobody can tell whether it arrived, and without a sequence it would be written twice.
        batch.unknown = True
        if not batch.settled:
            reason = "the stream broke while the batch was written to it"
            lane.fail(batch, BrokerNotReady(reason=reason, outcome=Outcome.UNKNOWN))
        lane.acked(batch, -1)

    def _forget_attempt(self, session: Session | None, batch: PendingBatch) -> None:
        if session is not None and session.outstanding.pop(batch.attempt, None) is not None:
            self._answered_one(session, batch)

    def _answered_one(self, session: Session, batch: PendingBatch) -> None:
        assert batch.message is not None, "sent in a message"
        batch.message[0] -= 1
        if not batch.message[0]:
            session.messages -= 1

    # --- sending ----------------------------------------------------------------------------------------

    def take(self, session: Session, now: float) -> list[Attempt]:
        """The next message of a session. Empty: nothing to send before `session.wake_at`, or an event."""
        self.accumulator.cool()
        peer = self.peers[session.broker]
        session.wake_at = math.inf
        attempts: list[Attempt] = []
        message = [0]
        size = 0
        busy = session.messages >= NAGLE_MESSAGES
        for lane in list(peer.lanes):
            if lane not in self.accumulator.active:
                continue
            served = False
            while (
                size < MESSAGE_BYTES
                and len(attempts) < MESSAGE_BATCHES_MAX
                and (batch := self._next(lane, session, now, busy=busy)) is not None
            ):
                if (attempt := self._attempt(lane, batch)) is None:
                    continue
                batch.message = message
                message[0] += 1
                if not session.outstanding:
                    session.heard_at = now
                session.outstanding[attempt.id] = batch
                attempts.append(attempt)
                size += len(attempt.data)
                served = True
            if served:
                del peer.lanes[lane]
                peer.lanes[lane] = None
            if size >= MESSAGE_BYTES or len(attempts) >= MESSAGE_BATCHES_MAX:
                break
        if attempts:
            session.messages += 1
        return attempts

    def _next(self, lane: Lane, session: Session, now: float, *, busy: bool) -> PendingBatch | None:
        """The batch of a lane that is to be sent next, in its sequence."""
        if now < lane.not_before:
            session.wake_at = min(session.wake_at, lane.not_before)
            return None
        if (batch := lane.next_retry()) is not None:
            return batch
        if not lane.has_ready and not self._closes(lane, session, now, busy=busy):
            return None
        if not lane.in_flight and not self._identified(lane):
            return None
        if not lane.takes_new(self.options.max_in_flight):
            return None
        if not lane.has_ready:
            lane.close_open()
            if not lane.has_ready:
                return None
        batch = lane.ready[0]
        lane.sequence(batch)
        return batch

    def _closes(self, lane: Lane, session: Session, now: float, *, busy: bool) -> bool:
        """Whether the open batch of a lane need not wait for more records."""
        batch = lane.open
        if batch is None or not batch:
            return False
        if batch.number <= self.flush_up_to:
            return True
        linger = self.options.linger
        if linger is None:
            linger = NAGLE_S if busy else 0.0
        due_at = batch.created_at + linger
        if now >= due_at:
            return True
        session.wake_at = min(session.wake_at, due_at)
        return False

    def _identified(self, lane: Lane) -> bool:
        """Let a lane that has nothing in flight begin under the current identity, if there is one."""
        if not self.options.answered:
            return True
        if self.identity is not None and self.identity is lane.retired:
            self._replace_identity()
        if self.identity is None:
            self.wants_identity = True
            return False
        lane.begin(self.identity)
        return True

    def _replace_identity(self) -> None:
        """The next epoch; a new producer id where there is none."""
        assert self.identity is not None, "replaced by another"
        producer_id, epoch = self.identity
        self.identity = None if epoch >= EPOCH_MAX else Identity(producer_id, epoch + 1)

    def identified(self, producer_id: int, epoch: int) -> None:
        """A broker gave a producer id that nobody else has."""
        self.identity = Identity(producer_id, epoch)
        self.wants_identity = False
        self.trouble = None

    def _attempt(self, lane: Lane, batch: PendingBatch) -> Attempt | None:
        self._attempts += 1
        try:
            data = batch.encode(self.options.codec, lane.producer(batch)).data
        except (MillpondError, TypeError) as error:  # a record that cannot be encoded fails its batch only
            refused = error if isinstance(error, MillpondError) else InvalidRecord(reason=str(error))
            lane.refused(batch, refused)
            return None
        lane.sent(batch, self._attempts)
        return Attempt(self._attempts, batch, data)

    # --- answers ----------------------------------------------------------------------------------------

    def answered(self, session: Session, answers: Iterable[Answer], now: float) -> None:
        """Results that a session received. Those of attempts that were given up say nothing any more."""
        session.heard_at = now
        peer = self.peers.get(session.broker)
        for attempt, base_offset, error in answers:
            batch = session.outstanding.pop(attempt, None)
            if batch is None:
                continue
            self._answered_one(session, batch)
            lane = batch.lane
            if error is None:
                if peer is not None:
                    peer.failures = 0
                    peer.trouble = None
                lane.acked(batch, base_offset)
            else:
                self._refused(lane, batch, error, now)
            self._retire_if_idle(lane)

    def _refused(self, lane: Lane, batch: PendingBatch, error: MillpondError, now: float) -> None:
        old, new = lane.identity, self.identity
        fenced = lane.refused(batch, self._named(lane, batch, error))
        if fenced and old is not None and new is not None and old.producer_id == new.producer_id:
            self.identity = None  # somebody else writes under this producer id: none of its epochs is ours
        if batch.state is BatchState.WAITING and now >= lane.not_before:  # once for all that were under way
            lane.failures += 1
            lane.not_before = now + RETRY.delay_s(lane.failures, self._jitter())

    def _named(self, lane: Lane, batch: PendingBatch, error: MillpondError) -> MillpondError:
        """The broker's error in the words of the user, its outcome that of all attempts (rule 8)."""
        facts = error.facts()
        if isinstance(error, UnknownTopic):
            facts["topic"] = lane.topic
        if batch.unknown and "outcome" in facts:
            facts["outcome"] = Outcome.UNKNOWN
        return type(error)(**facts)

    def written(self, session: Session, attempts: Iterable[Attempt]) -> None:
        """For acks="none": these batches are written to the stream, and that is all there is to wait for."""
        assert not self.options.answered, "what is answered is not done when it is written"
        for attempt in attempts:
            batch = session.outstanding.pop(attempt.id, None)
            if batch is not None:
                self._answered_one(session, batch)
                batch.lane.acked(batch, -1)
                self._retire_if_idle(batch.lane)

    def _retire_if_idle(self, lane: Lane) -> None:
        if lane.idle and lane.open is None:
            self.accumulator.active.pop(lane, None)

    # --- time -------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Give up what has been here too long; mark sessions that have stalled."""
        self.accumulator.cool()
        unsettled = self.accumulator.unsettled
        while unsettled and (batch := next(iter(unsettled.values()))).deadline <= now:
            self._expire(batch)
        for peer in self.peers.values():
            session = peer.session
            if session is None or not session.outstanding or session.failed is not None:
                continue
            if now >= session.heard_at + self.options.stall_s:  # as `wake_at` has it, to the last bit
                stalled = f"no answer for {self.options.stall_s:g} s"
                session.failed = ClusterUnavailable(tried={f"broker {session.broker}": stalled})

    def _expire(self, batch: PendingBatch) -> None:
        unknown = batch.unknown or batch.state is BatchState.SENT
        outcome = Outcome.UNKNOWN if unknown else Outcome.NOT_WRITTEN
        error = DeliveryTimeout(timeout=self.options.delivery_timeout, outcome=outcome)
        lane = batch.lane
        error.__cause__ = batch.last_error or self._trouble_of(lane)
        lane.give_up(batch, error)
        self._retire_if_idle(lane)

    def _trouble_of(self, lane: Lane) -> MillpondError | None:
        if lane.broker is None:
            return NotLeader(topic=lane.topic, partition=lane.partition)
        return self.peers[lane.broker].trouble or self.trouble

    def wake_at(self) -> float:
        """When `tick` or `plan` has something to do although nothing happens before."""
        unsettled = self.accumulator.unsettled
        wake_at = math.inf if not unsettled else next(iter(unsettled.values())).deadline
        for peer in self.peers.values():
            if peer.session is None:
                if self._wanted(peer):
                    wake_at = min(wake_at, peer.not_before)
            elif peer.session.outstanding and peer.session.failed is None:
                wake_at = min(wake_at, peer.session.heard_at + self.options.stall_s)
        return wake_at

    # --- the end ----------------------------------------------------------------------------------------

    def flush(self) -> int:
        """Let nothing that is here linger; the number up to which batches are to be settled."""
        self.flush_up_to = self.accumulator.last_number
        return self.flush_up_to

    def close(self, what: str) -> None:
        """Fail whatever is unsettled: nobody will send it."""
        self.accumulator.cool()

        def error_of(batch: PendingBatch) -> MillpondError:
            outcome = Outcome.UNKNOWN if batch.unknown else Outcome.NOT_WRITTEN
            return ClientClosed(what=what, outcome=outcome)

        for lane in list(self.accumulator.lanes.values()):
            self._end(lane, error_of)

    def fail(self, error: MillpondError) -> None:
        """Fail whatever is unsettled with that error: nobody can send it."""
        self.accumulator.cool()
        for lane in list(self.accumulator.lanes.values()):
            self._end(lane, lambda _: error)
