"""An idempotent producer, written from rules 16 to 19 and nothing of the SDK: the other half of the proof.

A lane sends the batches of one partition in order, at most five at once, to whoever leads. What is not
answered, or refused for now, goes out again with the same sequence; what is given up is told as failed if no
attempt may have written it, and its lane then goes on in a new epoch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from millpond.wire.batch import Producer, encode_batch
from millpond.wire.errors import MillpondError, Outcome
from millpond_broker.core.leader import Acks
from millpond_broker.runtime.peers import StreamClosed
from millpond_broker.runtime.produce import Batch, Result
from tests.sim.cluster.clients import Client, NoAnswer, partition_name
from tests.sim.cluster.network import End
from tests.sim.cluster.serving import PRODUCE, Batches, Reply, Results
from tests.sim.cluster.world import World
from tests.sim.history.operations import FAIL, INFO, INVOKE, OK, Operation, Send

IN_FLIGHT_MAX: Final = 5
RECORDS_MAX: Final = 4
ANSWER_SECONDS: Final = 5.0
"""After which a stream without an answer is given up."""


@dataclass(eq=False)
class _Sent:
    """A batch that has no outcome yet."""

    values: tuple[str, ...]
    sequence: int
    epoch: int
    gives_up_at: float
    may_be_written: bool = False


@dataclass
class Lane:
    """One partition's batches of one producer."""

    topic: str
    partition: int
    epoch: int = 0
    next_sequence: int = 0
    unanswered: deque[_Sent] = field(default_factory=deque)
    made: int = 0
    next_at: float = 0.0


class ModelProducer(Client):
    """See the module. It writes to every partition it is given, until it is stopping."""

    def __init__(
        self,
        world: World,
        host_id: int,
        name: str,
        history: list[Operation],
        *,
        acks: Acks,
        every_seconds: float,
        delivery_seconds: float,
    ) -> None:
        super().__init__(world, host_id, name)
        self._history = history
        self._acks = acks
        self._every_seconds = every_seconds
        self._delivery_seconds = delivery_seconds
        self.on_acknowledged: Callable[[int, int, Acks, str], None] = lambda *_told: None
        """Told (partition, exclusive end offset, acks, what) of each acknowledgement, at that moment."""
        self._producer_id = -1
        self._lanes: list[Lane] = []
        self._next_id = 0

    @property
    def is_done(self) -> bool:
        """It is stopping, and everything it sent has an outcome."""
        return self.stopping and not any(lane.unanswered for lane in self._lanes)

    def produce(self, partitions: list[tuple[str, int]]) -> None:
        """Begin to."""
        self._lanes = [Lane(topic, partition) for topic, partition in partitions]
        self.begin(self._run())

    async def _run(self) -> None:
        self._producer_id = await self.ask_anybody("producer id")
        async with asyncio.TaskGroup() as tasks:
            for lane in self._lanes:
                tasks.create_task(self._drive(lane), name=f"{self.name} {lane.topic}-{lane.partition}")

    async def _drive(self, lane: Lane) -> None:
        """Sessions with leaders, one after another."""
        while not (self.stopping and not lane.unanswered):
            topic_id, leader = await self.leader_of(lane.topic, lane.partition)
            try:
                end = await self.open(leader, PRODUCE)
            except NoAnswer:
                self._give_up_old(lane)
                await self.back_off()
                continue
            session = _Session(self, lane, end, topic_id)
            try:
                await session.run()
            except StreamClosed:
                pass
            finally:
                session.close()
            self._give_up_old(lane)
            await self.back_off()

    # --- batches ----------------------------------------------------------------------------------------

    def make(self, lane: Lane) -> _Sent:
        """The next batch."""
        count = self.random.randint(1, RECORDS_MAX)
        values = tuple(f"{self.name}.{lane.made + number}" for number in range(count))
        lane.made += count
        now = self.world.loop.time()
        lane.next_at = now + self.random.expovariate(1 / self._every_seconds)
        sent = _Sent(values, lane.next_sequence, lane.epoch, now + self._delivery_seconds)
        lane.next_sequence += count
        lane.unanswered.append(sent)
        self._tell(lane, sent, INVOKE)
        return sent

    def encoded(self, lane: Lane, sent: _Sent, topic_id: bytes) -> Batch:
        """As it goes out, under a name of its own."""
        self._next_id += 1
        values = [value.encode() for value in sent.values]
        producer = Producer(self._producer_id, sent.epoch, sent.sequence)
        # Some are large, so that a log has several blocks to look up and segments to roll.
        padding = [b"k" * (sent.sequence % 3 * 400), *[None] * (len(values) - 1)]
        now_ms = self.world.hosts[1].clock.now_ms()
        batch = encode_batch(values, now_ms, keys=padding, producer=producer)
        return Batch(self._next_id, topic_id, lane.partition, bytes(batch.data))

    def message(self, batch: Batch) -> Batches:
        """With what it asks for."""
        return Batches((batch,), self._acks)

    def acknowledged(self, lane: Lane, sent: _Sent, offset: int) -> None:
        """It is where its acks want it."""
        lane.unanswered.remove(sent)
        self._tell(lane, sent, OK, offset=offset)
        told = f"{sent.values[0]} was acknowledged to {self.name}"
        self.on_acknowledged(lane.partition, offset + len(sent.values), self._acks, told)

    def give_up(self, lane: Lane, sent: _Sent, error: str) -> None:
        """It has no sequence any more, nor has what follows it: the lane goes on in a new epoch (rule 19)."""
        lane.epoch += 1
        lane.next_sequence = 0
        given_up = [sent, *(other for other in lane.unanswered if other.may_be_written and other is not sent)]
        for one in given_up:
            lane.unanswered.remove(one)
            self._tell(lane, one, INFO if one.may_be_written else FAIL, error=error)
        for other in lane.unanswered:
            other.epoch, other.sequence = lane.epoch, lane.next_sequence
            lane.next_sequence += len(other.values)

    def _give_up_old(self, lane: Lane) -> None:
        now = self.world.loop.time()
        while lane.unanswered and lane.unanswered[0].gives_up_at <= now:
            self.give_up(lane, lane.unanswered[0], "its time is up")

    def _tell(
        self, lane: Lane, sent: _Sent, kind: str, *, offset: int | None = None, error: str = ""
    ) -> None:
        self._history.append(
            Send(
                time=round(self.world.loop.time(), 6),
                process=self.name,
                kind=kind,
                partition=partition_name(lane.topic, lane.partition),
                values=sent.values,
                acks=self._acks.name.lower(),
                offset=offset,
                error=error,
            )
        )


class _Session:
    """A lane's stream to one leader."""

    def __init__(self, producer: ModelProducer, lane: Lane, end: End, topic_id: bytes) -> None:
        self._producer = producer
        self._lane = lane
        self._end = end
        self._topic_id = topic_id
        self._in_flight: dict[int, tuple[_Sent, float]] = {}
        # Something was refused: what follows it is, too, and all goes out again in another session.
        self._draining = False

    async def run(self) -> None:
        """Until something is refused, nothing is answered, or there is nothing more to send."""
        for sent in self._lane.unanswered:
            self._send(sent)
        while True:
            self._send_new()
            if not self._in_flight and (self._draining or self._producer.stopping):
                return
            try:
                async with asyncio.timeout(self._patience()):
                    messages = await self._end.receive()
            except TimeoutError:
                if self._is_unanswered():
                    return
                continue
            for message in messages:
                if isinstance(message, Reply):
                    return
                assert isinstance(message, Results), "nothing else is answered"
                for result in message.results:
                    self._hear(result)

    def close(self) -> None:
        """What is in flight may have been written, or be written yet."""
        for sent, _ in self._in_flight.values():
            sent.may_be_written = True
        self._end.close()

    def _send_new(self) -> None:
        producer, lane = self._producer, self._lane
        while (
            not self._draining
            and not producer.stopping
            and len(lane.unanswered) < IN_FLIGHT_MAX
            and lane.next_at <= producer.world.loop.time()
        ):
            self._send(producer.make(lane))

    def _send(self, sent: _Sent) -> None:
        batch = self._producer.encoded(self._lane, sent, self._topic_id)
        self._in_flight[batch.id] = (sent, self._producer.world.loop.time())
        self._end.send(self._producer.message(batch))

    def _patience(self) -> float:
        now = self._producer.world.loop.time()
        until = min((at + ANSWER_SECONDS for _, at in self._in_flight.values()), default=now + 1.0)
        if not self._draining and len(self._lane.unanswered) < IN_FLIGHT_MAX:
            until = min(until, self._lane.next_at)
        return max(until - now, 0.001)

    def _is_unanswered(self) -> bool:
        now = self._producer.world.loop.time()
        return any(at + ANSWER_SECONDS <= now for _, at in self._in_flight.values())

    def _hear(self, result: Result) -> None:
        sent, _ = self._in_flight.pop(result.id)
        if sent not in self._lane.unanswered:
            return  # it was given up with one before it
        if result.error is None:
            self._producer.acknowledged(self._lane, sent, result.base_offset)
            return
        self._draining = True
        self._refused(sent, result.error)

    def _refused(self, sent: _Sent, error: MillpondError) -> None:
        lane = self._lane
        if getattr(error, "outcome", Outcome.NOT_WRITTEN) is Outcome.UNKNOWN:
            sent.may_be_written = True
        is_for_good = not (error.retriable or error.refresh_metadata)
        if is_for_good and sent is lane.unanswered[0]:
            # Others of this session may be written meanwhile: nothing else is known of them.
            for other, _ in self._in_flight.values():
                other.may_be_written = True
            self._producer.give_up(lane, sent, repr(error))
