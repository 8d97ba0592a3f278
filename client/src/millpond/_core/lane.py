"""One partition's batches in the order in which they are written: sequences, attempts, losses (rules 16-19).

    open -> ready -> in flight -> settled

A lane writes under one *identity* (producer id, epoch) at a time; sequences run from 0 within it. Batches in
flight have a sequence and are accounted for one by one. The invariants:

    1  `in_flight` is in sequence order, without gaps, and never longer than 5: whatever is retried is among
       the five batches that the broker remembers. A batch acknowledged early stays until those before it are.
    2  An attempt of a batch is sent only when none before it waits to be sent: attempts leave in sequence
       order, on one stream.
    3  Until the broker has acknowledged something under this identity on this stream, one batch is in flight:
       a broker that does not know a producer takes any sequence as its first, hence also the second's.
    4  A batch gets another sequence only if no attempt of it can be in the log or get there: every attempt
       was refused before the append (`unknown` is False). Otherwise it fails, with outcome unknown.
    5  A batch that fails after it got a sequence leaves a *hole*. From then on nothing new is sent; what is
       in flight is settled; then the lane takes a newer identity and starts at 0. What old attempts still
       travel is fenced by that: their epoch is over as soon as the first batch of the new one is there.
    6  The lane takes the current identity whenever nothing is in flight. So an identity may be replaced at
       any time: each lane goes on with its own until it has nothing left of it, and brokers keep epochs by
       partition. An identity never comes back.

Without an identity (acks="none") there are no answers, no sequences and no second attempts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from millpond._core.pending_batch import BatchState, PendingBatch
from millpond.wire.batch import Producer
from millpond.wire.errors import (
    MillpondError,
    Outcome,
    OutOfOrderSequence,
    ProducerFenced,
    UnknownPartition,
    UnknownTopic,
)

IN_FLIGHT_MAX: Final = 5
"""As many as a broker remembers of a producer (rule 16)."""
SEQUENCE_MODULUS: Final = 1 << 31


class Identity(NamedTuple):
    """Whose batches they are. Each is a distinct object and compared as one: none is current twice."""

    producer_id: int
    epoch: int


Settle = Callable[[PendingBatch, int, MillpondError | None], None]


class Lane:
    """See the module. `settle` is called for each batch once, with its offset or its error."""

    def __init__(self, topic: str, topic_id: bytes, partition: int, settle: Settle) -> None:
        self.topic = topic
        self.topic_id = topic_id
        self.partition = partition
        self.open: PendingBatch | None = None
        self.ready: deque[PendingBatch] = deque()
        """Closed batches without a sequence, in order; settled ones are skipped. Bounded by the buffer."""
        self.in_flight: deque[PendingBatch] = deque()
        self.identity: Identity | None = None
        """What `in_flight` was sequenced under; None when nothing is."""
        self.retired: Identity | None = None
        """The identity that ended in a hole: not to be taken again."""
        self.next_sequence = 0
        self.confirmed = False
        """The broker is known to know this producer here (invariant 3)."""
        self.holed = False
        """A batch with a sequence was given up, or is to get another (invariant 5)."""
        self.broker: int | None = None
        """Who leads it, as far as is known."""
        self.partition_epoch = -1
        """Of the partition, as the metadata had it last."""
        self.not_before = 0.0
        """No attempt before then."""
        self.failures = 0
        """Refusals in a row."""
        self._settle = settle

    # --- what is to be sent -----------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether some attempt is unanswered."""
        return any(batch.state is BatchState.SENT for batch in self.in_flight)

    @property
    def idle(self) -> bool:
        """Nothing is here, or nothing but an open batch without records."""
        return not self.in_flight and not self.has_ready and not self.open

    @property
    def has_ready(self) -> bool:
        """Whether a closed batch waits for a sequence."""
        while self.ready and self.ready[0].settled:
            self.ready.popleft()
        return bool(self.ready)

    def close_open(self) -> None:
        """The open batch, if there is one, takes no more records."""
        batch = self.open
        if batch is None:
            return
        if not batch:
            self.discard(batch)
            return
        # In this order an interrupt leaves what `mend` puts right.
        batch.close()
        self.ready.append(batch)
        self.open = None

    def discard(self, batch: PendingBatch) -> None:
        """Let go of a batch without records."""
        assert not batch, "nothing is thrown away"
        if self.open is batch:
            self.open = None
        batch.close()
        self._settle(batch, -1, None)

    def mend(self) -> None:
        """After an interrupt: an open batch that was half closed is closed."""
        batch = self.open
        if batch is not None and batch.state is not BatchState.OPEN:
            if batch not in self.ready and not batch.settled:
                self.ready.append(batch)
            self.open = None

    def next_retry(self) -> PendingBatch | None:
        """The next batch to be sent again, with the sequence that it has."""
        for batch in self.in_flight:
            if batch.state is BatchState.WAITING:
                return None if not self.confirmed and self.busy else batch
        return None

    def takes_new(self, in_flight_max: int) -> bool:
        """Whether another batch may get a sequence and be sent."""
        if self.holed or any(batch.state is BatchState.WAITING for batch in self.in_flight):
            return False
        return len(self.in_flight) < (in_flight_max if self.confirmed or self.identity is None else 1)

    def begin(self, identity: Identity) -> None:
        """Write under this identity from now on (invariant 6)."""
        assert not self.in_flight, "nothing of the old identity is unsettled"
        assert identity is not self.retired, "an identity never comes back"
        if identity is not self.identity:
            self.identity, self.next_sequence, self.confirmed = identity, 0, False

    def sequence(self, batch: PendingBatch) -> None:
        """Give the next of the ready batches its place in the sequence. Then it is to be sent at once."""
        assert self.ready[0] is batch, "in order"
        assert not self.holed, "nothing new behind a hole"
        assert len(self.in_flight) < IN_FLIGHT_MAX, "the broker remembers five"
        self.ready.popleft()
        batch.state = BatchState.WAITING
        if self.identity is not None:
            batch.base_sequence = self.next_sequence
            self.next_sequence = (self.next_sequence + batch.count) % SEQUENCE_MODULUS
        self.in_flight.append(batch)

    def producer(self, batch: PendingBatch) -> Producer:
        """Whose batch it is, as its header says it."""
        if self.identity is None:
            return Producer()
        return Producer(self.identity.producer_id, self.identity.epoch, batch.base_sequence)

    def sent(self, batch: PendingBatch, attempt: int) -> None:
        """An attempt is on its way."""
        assert batch.state is BatchState.WAITING, "one attempt at a time"
        earlier = self._before(batch)
        assert all(other.state is not BatchState.WAITING for other in earlier), "in sequence order"
        batch.state, batch.attempt = BatchState.SENT, attempt

    # --- what became of it ------------------------------------------------------------------------------

    def acked(self, batch: PendingBatch, base_offset: int) -> None:
        """It is in the log, once. Also of a batch that was given up: then there is no hole after all."""
        batch.state = BatchState.ACKED
        self.confirmed, self.failures, self.not_before = True, 0, 0.0
        if not batch.settled:
            self._settle(batch, base_offset, None)
        self._advance()

    def refused(self, batch: PendingBatch, error: MillpondError) -> bool:
        """An attempt failed with this answer. Whether the identity itself was refused."""
        batch.last_error = error
        out_of_order = isinstance(error, OutOfOrderSequence)
        if not out_of_order and getattr(error, "outcome", Outcome.UNKNOWN) is Outcome.UNKNOWN:
            # The check of sequences comes before the append: that answer is certain for its own attempt.
            batch.unknown = True
        if batch.settled:
            batch.state = BatchState.GONE
        elif out_of_order:
            self._out_of_order(batch, error)
        elif error.retriable or isinstance(error, UnknownTopic | UnknownPartition):
            # A broker may hear of a topic later than we did; of one that is gone, we hear as well.
            batch.state = BatchState.WAITING
            if error.refresh_metadata:
                self.confirmed = False
        else:
            self.fail(batch, error)
        self._advance()
        return isinstance(error, ProducerFenced)

    def _out_of_order(self, batch: PendingBatch, error: MillpondError) -> None:
        unresolved = (BatchState.SENT, BatchState.WAITING)
        if any(other.state in unresolved for other in self._before(batch)):
            batch.state = BatchState.WAITING  # what it comes behind is not there yet
        elif batch.unknown:
            self.fail(batch, error)
        else:
            # Behind a hole; or the broker has lost what it had acknowledged to "leader". Not written, so far.
            batch.state = BatchState.AGAIN

    def unanswered(self, batch: PendingBatch) -> None:
        """Nobody will answer this attempt any more."""
        assert batch.state is BatchState.SENT, "answered already"
        batch.unknown = True
        batch.state = BatchState.GONE if batch.settled else BatchState.WAITING
        self._advance()

    def moved(self) -> Iterator[PendingBatch]:
        """Another stream or broker takes the lane over; the attempts that nobody will answer for us."""
        self.confirmed = False
        return iter([batch for batch in self.in_flight if batch.state is BatchState.SENT])

    def fail(self, batch: PendingBatch, error: MillpondError) -> None:
        """It will not be written by us; what was sent of it is answered."""
        self._settle(batch, -1, error)
        batch.state = BatchState.GONE

    def give_up(self, batch: PendingBatch, error: MillpondError) -> None:
        """Its time is over, wherever it stands. An attempt that is unanswered may be answered yet."""
        if batch.state is BatchState.OPEN:
            if self.open is batch:
                self.open = None
            batch.close()
        self._settle(batch, -1, error)
        if batch.state is not BatchState.SENT:
            batch.state = BatchState.GONE
        self._advance()

    def drop(self, error_of: Callable[[PendingBatch], MillpondError]) -> None:
        """The end of the lane: whatever is here fails."""
        self.close_open()
        for batch in [*self.in_flight, *self.ready]:
            batch.unknown = batch.unknown or batch.state is BatchState.SENT
            batch.state = BatchState.GONE
            if not batch.settled:
                self._settle(batch, -1, error_of(batch))
        self.in_flight.clear()
        self.ready.clear()

    # --- bookkeeping ------------------------------------------------------------------------------------

    def _before(self, batch: PendingBatch) -> list[PendingBatch]:
        earlier: list[PendingBatch] = []
        for other in self.in_flight:
            if other is batch:
                return earlier
            earlier.append(other)
        raise AssertionError("a batch with a sequence is in flight")

    def _advance(self) -> None:
        """Let go of what is done, and of a sequence with a hole once nothing of it is under way."""
        in_flight = self.in_flight
        if self.identity is None:
            while in_flight and in_flight[0].settled:
                in_flight.popleft()
            return
        while in_flight and in_flight[0].state is BatchState.ACKED:
            in_flight.popleft()
        lost = (BatchState.GONE, BatchState.AGAIN)
        self.holed = hole = False
        for batch in in_flight:
            if batch.state is BatchState.WAITING and not batch.unknown and hole:
                batch.state = BatchState.AGAIN  # behind a hole it could only be refused
            hole = hole or batch.state in lost
        self.holed = hole
        if hole and not any(b.state in (BatchState.SENT, BatchState.WAITING) for b in in_flight):
            self._restart()

    def _restart(self) -> None:
        again = [batch for batch in self.in_flight if batch.state is BatchState.AGAIN]
        for batch in again:
            assert not batch.unknown, "what may be in the log gets no other sequence"
            batch.state, batch.base_sequence = BatchState.READY, -1
        self.in_flight.clear()
        self.ready.extendleft(reversed(again))
        self.retired, self.identity, self.holed = self.identity, None, False
