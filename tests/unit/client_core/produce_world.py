"""A world for a producer's machines: brokers that enforce rules 16 to 18, and a network that does its worst.

Streams deliver in order, as far as they deliver: one that breaks leaves a part of what it carried with the
broker, which may get to it at any later time. A leader that loses its office may lose what was not committed.
The sequence check is the broker's own.
"""

from __future__ import annotations

import random
from collections import deque
from types import MappingProxyType

from millpond._core.accumulator import Accumulator, AccumulatorOptions, TopicIntake
from millpond._core.cluster import BrokerView, ClusterView, PartitionView, TopicView
from millpond._core.pending_batch import PendingBatch
from millpond._core.sender import Answer, Attempt, Sender, SenderOptions, Session
from millpond.wire.batch import decode_batch, parse_batch
from millpond.wire.errors import (
    BufferFull,
    InternalError,
    MillpondError,
    NotEnoughReplicas,
    NotEnoughReplicasAfterAppend,
    NotLeader,
    Outcome,
    RecordTooLarge,
    StorageFull,
)
from millpond.wire.header import BatchHeader
from millpond.wire.record import NO_HEADERS
from millpond_broker.core.producers import Producers

TOPIC = "t"
BROKERS = (1, 2)


class Log:
    """One partition: batches of values, of which those below `committed` (in batches) stay."""

    def __init__(self, leader: int) -> None:
        self.leader = leader
        self.batches: list[tuple[BatchHeader, list[bytes]]] = []
        self.committed = 0
        self.producers = Producers()
        self.waiting: list[tuple[int, Wire, int, int]] = []
        """(batches up to, wire, attempt, base offset): answered once that is committed."""

    @property
    def values(self) -> list[bytes]:
        return [value for _, values in self.batches for value in values]

    def cut(self, batches: int) -> None:
        del self.batches[batches:]
        self.producers = Producers()
        for header, _ in self.batches:
            self.producers.observe(header)


class Wire:
    """One stream: attempts to the broker, answers from it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.broker = session.broker
        self.out: deque[tuple[int, int, bytes]] = deque()
        self.back: deque[Answer] = deque()
        self.broken = False


class World:
    """See the module. `faults` is the chance of a refusal for each batch."""

    def __init__(
        self,
        seed: int,
        *,
        partitions: int = 2,
        faults: float = 0.1,
        delivery_timeout: float = 20.0,
        buffer_bytes: int = 1 << 16,
    ) -> None:
        self.random = random.Random(seed)
        self.now = 100.0
        self.faults = faults
        self.logs = [Log(1 + number % 2) for number in range(partitions)]
        self.view = self._view(1)
        self.accumulator = Accumulator(
            AccumulatorOptions(batch_bytes=100, buffer_bytes=buffer_bytes, delivery_timeout=delivery_timeout),
            begin_tick=lambda: (self.now, int(self.now * 1000)),
            choose=self.random.randrange,
        )
        self.sender = Sender(
            SenderOptions(delivery_timeout=delivery_timeout), self.accumulator, jitter=self.random.random
        )
        self.topic = TopicIntake(self.accumulator, self.view.topics[TOPIC])
        self.topic.follow(self.view.topics[TOPIC], self.view)
        self.wires: dict[int, Wire] = {}
        self.zombies: list[Wire] = []
        self.sent: list[list[tuple[PendingBatch, int]]] = [[] for _ in self.logs]
        """By partition, in order; the value of the nth is str(n)."""
        self.producer_ids = 0
        self.start_epoch = 0

    def _view(self, version: int) -> ClusterView:
        parts = tuple(
            PartitionView(number, log.leader, version, version, BROKERS, BROKERS, ())
            for number, log in enumerate(self.logs)
        )
        brokers = {number: BrokerView(number, f"b{number}:1", "", "running", 1, "0") for number in BROKERS}
        topics = {TOPIC: TopicView(TOPIC, b"i" * 16, parts, 2, 1, {})}
        return ClusterView(b"c" * 16, version, 1, MappingProxyType(brokers), MappingProxyType(topics))

    # --- the client -------------------------------------------------------------------------------------

    def send(self, partition: int) -> bool:
        number = len(self.sent[partition])
        try:
            sent = self.topic.add(b"%d" % number, None, NO_HEADERS, partition, None)
        except BufferFull:
            return False
        self.sent[partition].append(sent)
        return True

    def end_tick(self) -> None:
        self.accumulator.end_tick()
        self.sender.place_new(self.view)
        self.look()

    def look(self) -> None:
        """What the supervisor does."""
        self.sender.tick(self.now)
        for session in self.sender.plan(self.view, self.now):
            self.wires[session.number] = Wire(session)
        for number, wire in list(self.wires.items()):
            if wire.session.failed is not None:
                self.break_stream(number, keep=len(wire.out))

    def write(self, number: int) -> list[Attempt]:
        """What a stream's writer does, once."""
        wire = self.wires[number]
        attempts = self.sender.take(wire.session, self.now)
        for attempt in attempts:
            wire.out.append((attempt.id, attempt.batch.lane.partition, bytes(attempt.data)))
        if self.sender.wants_identity:
            self.producer_ids += 1
            self.sender.identified(self.producer_ids, self.start_epoch)
        return attempts

    def read(self, number: int) -> None:
        """The client gets some of the answers."""
        wire = self.wires[number]
        count = self.random.randint(0, len(wire.back))
        self.sender.answered(wire.session, [wire.back.popleft() for _ in range(count)], self.now)

    def break_stream(self, number: int, keep: int | None = None) -> None:
        wire = self.wires.pop(number)
        keep = self.random.randint(0, len(wire.out)) if keep is None else keep
        while len(wire.out) > keep:
            wire.out.pop()
        wire.broken = True
        if wire.out:
            self.zombies.append(wire)
        self.sender.lost(wire.session, None, self.now)

    # --- the brokers ------------------------------------------------------------------------------------

    def serve(self, wire: Wire) -> None:
        """The broker takes one batch off a stream."""
        if not wire.out:
            if wire in self.zombies:
                self.zombies.remove(wire)
            return
        attempt, partition, data = wire.out.popleft()
        log = self.logs[partition]
        try:
            self._append(wire, log, attempt, partition, data)
        except MillpondError as error:
            wire.back.append(Answer(attempt, 0, error))

    def _append(self, wire: Wire, log: Log, attempt: int, partition: int, data: bytes) -> None:
        if log.leader != wire.broker:
            raise NotLeader(topic=TOPIC, partition=partition)
        fault = self.random.random() >= self.faults
        kind = (
            "none"
            if fault
            else self.random.choice(["replicas", "after", "full", "large", "internal", "lost"])
        )
        if kind == "replicas":
            raise NotEnoughReplicas(topic=TOPIC, partition=partition, in_sync=1, needed=2)
        if kind == "full":
            raise StorageFull(path="/")
        if kind == "large":
            raise RecordTooLarge(size_bytes=2, limit_bytes=1)
        if kind == "internal" and self.random.random() < 0.5:
            raise InternalError(reason="before")
        batch = parse_batch(data)
        seen = log.producers.check(batch.header)
        if seen is None:
            base_offset = len(log.values)
            placed = batch.header._replace(base_offset=base_offset)
            log.batches.append((placed, [value or b"" for value in decode_batch(batch).values]))
            log.producers.observe(placed)
        else:
            base_offset = seen.base_offset
        if kind == "after":
            raise NotEnoughReplicasAfterAppend(topic=TOPIC, partition=partition, in_sync=1, needed=2)
        if kind == "internal":
            raise InternalError(reason="after")
        if kind != "lost":
            log.waiting.append((len(log.batches), wire, attempt, base_offset))

    def commit(self, partition: int) -> None:
        """Everything in the log is replicated: answers go out, in offset order."""
        log = self.logs[partition]
        log.committed = len(log.batches)
        for _, wire, attempt, base_offset in sorted(log.waiting, key=lambda each: each[0]):
            wire.back.append(Answer(attempt, base_offset, None))
        log.waiting.clear()

    def move(self, partition: int, *, told: bool = True) -> None:
        """Another leader, who may lack what was not committed."""
        log = self.logs[partition]
        log.leader = 3 - log.leader
        log.cut(self.random.randint(log.committed, len(log.batches)))
        log.committed = min(log.committed, len(log.batches))
        for _, wire, attempt, _ in log.waiting:
            error = NotLeader(topic=TOPIC, partition=partition, outcome=Outcome.UNKNOWN)
            wire.back.append(Answer(attempt, 0, error))
        log.waiting.clear()
        if told:
            self.tell()

    def tell(self) -> None:
        """The client hears who leads."""
        self.view = self._view(self.view.version + 1)
        self.topic.follow(self.view.topics[TOPIC], self.view)
        self.sender.follow(self.view)

    # --- driving ----------------------------------------------------------------------------------------

    def step(self) -> None:
        """Something happens."""
        roll = self.random.random()
        partition = self.random.randrange(len(self.logs))
        wires = list(self.wires)
        if roll < 0.25:
            for _ in range(self.random.randint(1, 12)):
                self.send(partition)
            self.end_tick()
        elif roll < 0.45 and wires:
            self.write(self.random.choice(wires))
        elif roll < 0.65 and (live := [*self.wires.values(), *self.zombies]):
            self.serve(self.random.choice(live))
        elif roll < 0.78:
            self.commit(partition)
        elif roll < 0.90 and wires:
            self.read(self.random.choice(wires))
        elif roll < 0.93 and wires:
            self.break_stream(self.random.choice(wires))
        elif roll < 0.95:
            self.move(partition, told=self.random.random() < 0.7)
        elif roll < 0.96:
            self.tell()
        else:
            self.now += self.random.choice([0.01, 0.1, 1.0, 3.0])
            self.look()
        self.check()

    def heal(self) -> None:
        """Everything works from now on, until nothing is unsettled."""
        self.faults = 0.0
        self.tell()
        self.sender.flush()
        for _ in range(10_000):
            if not self.accumulator.unsettled:
                break
            self.end_tick()
            if self.zombies and self.random.random() < 0.5:
                self.serve(self.random.choice(self.zombies))
            for number in list(self.wires):
                while self.write(number):
                    pass
                wire = self.wires[number]
                while wire.out:
                    self.serve(wire)
                for partition in range(len(self.logs)):
                    self.commit(partition)
                self.sender.answered(wire.session, list(wire.back), self.now)
                wire.back.clear()
            self.now += 0.25
            self.look()
            self.sender.flush()
        assert not self.accumulator.unsettled, "a world that works settles everything"
        while self.zombies:
            self.serve(self.zombies[0])

    # --- what must hold ---------------------------------------------------------------------------------

    def check(self) -> None:
        """At any moment."""
        accumulator = self.accumulator
        leased = sum(batch.leased for batch in accumulator.unsettled.values())
        assert accumulator.free_bytes + leased == accumulator.options.buffer_bytes, "the books are right"
        for lane in accumulator.lanes.values():
            assert len(lane.in_flight) <= 5

    def check_end(self) -> None:
        """Once everything is settled."""
        self.check()
        for log, sent in zip(self.logs, self.sent, strict=True):
            values = [int(value) for value in log.values]
            assert len(values) == len(set(values)), f"a record is there twice: {values}"
            assert values == sorted(values), f"records changed places: {values}"
            there = set(values)
            for number, (batch, index) in enumerate(sent):
                assert batch.settled
                if batch.error is None:
                    offset = batch.ack(index).offset
                    assert values[offset] == number, f"{number} was acknowledged at {offset}"
                elif batch.error.outcome is Outcome.NOT_WRITTEN:  # type: ignore[attr-defined]  # rule 8
                    assert number not in there, f"{number} was said not to be written"
