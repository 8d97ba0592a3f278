"""Producers: the SDK's own, each in a process of its own, with options drawn from the seed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Literal

from millpond._transport.delivery import Delivery
from millpond.client import Client as SdkClient
from millpond.producer import BoundTopic, Producer, ProducerOptions
from millpond.wire.errors import BufferFull, MillpondError, Outcome
from millpond_broker.core.leader import Acks
from tests.sim.cluster.clients import Key, named
from tests.sim.cluster.sdk import SdkProcess
from tests.sim.cluster.world import World
from tests.sim.history.operations import FAIL, INFO, INVOKE, OK, Operation, Send

NAMES: Final[dict[Acks, Literal["all", "leader", "none"]]] = {
    Acks.ALL: "all",
    Acks.LEADER: "leader",
    Acks.NONE: "none",
}
RECORDS_MAX: Final = 4
"""Sent in one go."""
KEYED: Final = 0.2
"""Of the records, those that name a key and no partition."""
UNSETTLED_MAX: Final = 40
"""Records on their way, beyond which a producer waits: an outage would have it send thousands."""


class ProducerProcess(SdkProcess):
    """See the module. It writes to every partition of the topics that there are, until it is stopping."""

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
        topics: Callable[[], list[str]],
    ) -> None:
        """`every_seconds`: from one send to the next, on average. `topics`: what there is to write to."""
        super().__init__(world, host_id, name)
        self._history = history
        self._acks = acks
        self._every_seconds = every_seconds
        self._delivery_seconds = delivery_seconds
        self._topics = topics
        self.on_acknowledged: Callable[[Key, int, Acks, str], None] = lambda *_told: None
        """Told (partition, exclusive end offset, acks, what) of each acknowledgement, when it is heard of."""
        self.is_done = False
        """It has stopped, and everything it sent has an outcome."""
        self._made = 0
        self._unsettled = 0
        self._settled = asyncio.Event()
        self._collectors: dict[Key, asyncio.Queue[tuple[str, Delivery]]] = {}

    def produce(self) -> None:
        """Begin to."""
        self.run(self._produce)

    async def _produce(self, client: SdkClient) -> None:
        random = self.random
        options: ProducerOptions = {
            "acks": NAMES[self._acks],
            "compression": random.choice((None, None, "gzip", "lz4", "zstd")),
            "linger": random.choice((None, None, 0.0, 0.02)),
            "batch_bytes": random.choice((100, 1000, 262_144)),
            "buffer_bytes": random.choice((4 << 10, 1 << 20)),
            "max_in_flight": random.choice((1, 2, 5, 5)),
            "delivery_timeout": self._delivery_seconds,
        }
        producer = await client.producer(**options)
        async with asyncio.TaskGroup() as tasks:
            while not self.stopping:
                await asyncio.sleep(min(1.0, random.expovariate(1 / self._every_seconds)))
                while self._unsettled >= UNSETTLED_MAX:
                    self._settled.clear()
                    await self._settled.wait()
                await self._send_some(producer, tasks)
            await producer.flush()
            while self._unsettled:
                self._settled.clear()
                await self._settled.wait()
            for collector in tasks._tasks:
                collector.cancel()
        await client.close()
        self.is_done = True

    async def _send_some(self, producer: Producer[bytes, bytes], tasks: asyncio.TaskGroup) -> None:
        topics = self._topics()
        if not topics:
            return
        bound = producer.topic(self.random.choice(topics))
        waits = self.random.random() < 0.7
        for _ in range(self.random.randint(1, RECORDS_MAX)):
            value = f"{self.name}.{self._made}"
            self._made += 1
            facts = self._facts(bound)
            try:
                if waits or not bound.view.topic_id:
                    delivery = await bound.enqueue(value.encode(), **facts)
                else:
                    delivery = bound.send_nowait(value.encode(), **facts)
            except (MillpondError, BufferFull):
                return  # there is no room, or no such topic now: nothing was sent
            self._sent(value, delivery, tasks)

    def _facts(self, bound: BoundTopic[bytes, bytes]) -> dict[str, Any]:
        """Some name a partition, some a key, which may be large, so that logs get blocks, and roll."""
        partitions = len(bound.view.partitions)
        padding = b"k" * self.random.choice((0, 3, 300, 800))
        if self.random.random() < KEYED or not partitions:
            return {"key": padding}
        number = self.random.randrange(partitions)
        return {"partition": number, "key": padding} if padding else {"partition": number}

    def _sent(self, value: str, delivery: Delivery, tasks: asyncio.TaskGroup) -> None:
        lane = delivery._batch.lane
        key = lane.topic_id, lane.partition
        self._unsettled += 1
        self._tell(key, lane.topic, value, INVOKE)
        if key not in self._collectors:
            queue = self._collectors[key] = asyncio.Queue()
            tasks.create_task(self._collect(key, lane.topic, queue), name=self.name)
        self._collectors[key].put_nowait((value, delivery))

    async def _collect(self, key: Key, topic: str, queue: asyncio.Queue[tuple[str, Delivery]]) -> None:
        """Hear of one partition's records, in the order in which they were sent."""
        while True:
            value, delivery = await queue.get()
            try:
                ack = await delivery
            except MillpondError as error:
                is_certain = getattr(error, "outcome", Outcome.UNKNOWN) is Outcome.NOT_WRITTEN
                self._tell(key, topic, value, FAIL if is_certain else INFO, error=repr(error))
            else:
                offset = None if ack.offset < 0 else ack.offset
                self._tell(key, topic, value, OK, offset=offset)
                if offset is not None:
                    told = f"{value} was acknowledged to {self.name}"
                    self.on_acknowledged(key, offset + 1, self._acks, told)
            self._unsettled -= 1
            self._settled.set()

    def _tell(
        self, key: Key, topic: str, value: str, kind: str, *, offset: int | None = None, error: str = ""
    ) -> None:
        self._history.append(
            Send(
                time=self.now(),
                process=self.name,
                kind=kind,
                partition=named(topic, key),
                values=(value,),
                acks=NAMES[self._acks],
                offset=offset,
                error=error,
            )
        )
