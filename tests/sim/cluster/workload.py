"""Who writes and reads in a run: processes that have the SDK, or models of clients that have nothing of it.

The first are the product, and in most runs. The second know the broker's side of the protocol only, and are
the other half of the proof: a mistake that both ends of the product make alike is none to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Protocol

from millpond.client import Client as SdkClient
from millpond.wire.errors import MillpondError
from millpond_broker.core.image import MetadataImage
from millpond_broker.core.leader import Acks
from tests.sim.cluster.clients import Client, Key, NoAnswer, named, partition_name
from tests.sim.cluster.invariants import Invariants
from tests.sim.cluster.model_producer import ModelProducer
from tests.sim.cluster.model_reader import ModelReader
from tests.sim.cluster.producer import ProducerProcess
from tests.sim.cluster.reader import ReaderProcess
from tests.sim.cluster.topics import PASSING, STEADY, AdminProcess
from tests.sim.cluster.world import World
from tests.sim.history.operations import Crash, Delete, Operation, Settings

FIRST_CLIENT = 100


class Workload(Protocol):
    """One of the two."""

    def create(self, partitions: int, replicas: int, config: Mapping[str, str], seconds: float) -> None:
        """Make the topic, within so much time. Raises TimeoutError."""

    def begin(self) -> None:
        """Write and read."""

    def change(self, what: str) -> None:
        """Have topics changed that way (`topics.CHANGES`), if it can be done here."""

    def crash_one(self) -> None:
        """A client ends where it stands, and another comes, if it can be done here."""

    def stop(self) -> None:
        """Write nothing new."""

    def read_all(self) -> Callable[[], bool]:
        """Have all be read from the beginning; whether it was."""

    @property
    def is_done(self) -> bool:
        """Everything that was sent has an outcome."""

    def waiting(self) -> list[str]:
        """Whose has not."""


class _Shared:
    """What both have."""

    def __init__(
        self, world: World, random: Random, history: list[Operation], invariants: Invariants
    ) -> None:
        self.world = world
        self.random = random
        self.history = history
        self.invariants = invariants
        self._clients = 0

    def next_id(self) -> int:
        """For the host of another client."""
        self._clients += 1
        return FIRST_CLIENT + self._clients

    def image(self) -> MetadataImage:
        """As of now, wherever it is known."""
        return self.world.voters.snapshots[self.world.voters.last_index]


class SdkWorkload(_Shared):
    """See the module."""

    def __init__(
        self, world: World, random: Random, history: list[Operation], invariants: Invariants
    ) -> None:
        super().__init__(world, random, history, invariants)
        self._admin = AdminProcess(world, self.next_id(), "admin", history)
        invariants.trimmed = self._admin.trimmed
        self._producers: list[ProducerProcess] = []
        self._readers: list[ReaderProcess] = []
        self._made = 0
        self._is_over = False

    def create(self, partitions: int, replicas: int, config: Mapping[str, str], seconds: float) -> None:
        created: list[bool] = []

        async def create(client: SdkClient) -> None:
            await self._admin.create(client, partitions, replicas, dict(config))
            created.append(True)

        self._admin.run(create)
        if not self.world.run(seconds, lambda: bool(created)):
            raise TimeoutError("the topic is not made")

    def begin(self) -> None:
        for _ in range(self.random.choice((1, 2, 3))):
            self._producer()
        for _ in range(self.random.choice((1, 2))):
            self._reader(f"r{len(self._readers)}", rereads=True)

    def _producer(self) -> None:
        number = self._made
        self._made += 1
        producer = ProducerProcess(
            self.world,
            self.next_id(),
            f"p{number}",
            self.history,
            acks=self.random.choice((Acks.ALL, Acks.LEADER, Acks.NONE)) if number % 3 else Acks.ALL,
            every_seconds=self.random.choice((0.1, 0.3, 0.6)),
            delivery_seconds=self.random.uniform(8.0, 25.0),
            topics=self._topics,
        )
        producer.on_acknowledged = self._acknowledged
        producer.produce()
        self._producers.append(producer)

    def _topics(self) -> list[str]:
        return list(self.image().topic_ids)

    def _reader(self, name: str, *, rereads: bool) -> ReaderProcess:
        both = self.random.random() < 0.5
        topics: tuple[str, ...] = (
            (STEADY, PASSING) if both and PASSING in self.image().topic_ids else (STEADY,)
        )
        if not rereads:
            topics = tuple(self.image().topic_ids)
        reader = ReaderProcess(self.world, self.next_id(), name, self.history, topics=topics, rereads=rereads)
        reader.on_read = self.invariants.was_read
        reader.read()
        self._readers.append(reader)
        return reader

    def change(self, what: str) -> None:
        self._admin.do(what)

    def crash_one(self) -> None:
        processes: list[ProducerProcess | ReaderProcess] = [*self._producers, *self._readers]
        alive = [process for process in processes if not process.owner.is_dead]
        if not alive or self._is_over:
            return
        process = self.random.choice(alive)
        process.crash()
        self.history.append(Crash(time=process.now(), process=process.name))
        if isinstance(process, ProducerProcess):
            self._producers.remove(process)
            self._producer()
        else:
            self._reader(f"r{len(self._readers)}", rereads=True)

    def stop(self) -> None:
        self._is_over = self._admin.stopping = True
        for producer in self._producers:
            producer.stopping = True

    @property
    def is_done(self) -> bool:
        return all(producer.is_done for producer in self._producers)

    def waiting(self) -> list[str]:
        return [producer.name for producer in self._producers if not producer.is_done]

    def read_all(self) -> Callable[[], bool]:
        for reader in self._readers:
            reader.stopping = True
        image = self.image()
        self._say_what_was_deleted(image)
        final = self._reader("final", rereads=False)
        keys = [
            (topic.name, (topic.topic_id, number))
            for topic in image.topics.values()
            for number in range(len(topic.partitions))
        ]
        return lambda: all(
            final.position(name, key) >= self.invariants.committed_end(key) for name, key in keys
        )

    def _say_what_was_deleted(self, image: MetadataImage) -> None:
        known = {
            (topic_id, number): topic.name
            for before in self.world.voters.snapshots.values()
            for topic_id, topic in before.topics.items()
            for number in range(len(topic.partitions))
        }
        for key, name in known.items():
            # With flush=interval nothing takes what was not synced in those runs: all is kept there, too.
            self.history.append(Settings(partition=named(name, key)))
            if key[0] not in image.topics:
                self.history.append(Delete(time=0.0, process="admin", partition=named(name, key)))

    def _acknowledged(self, key: Key, end: int, acks: Acks, who: str) -> None:
        if acks is Acks.ALL:
            self.invariants.acknowledged(key, end, who)


class ModelWorkload(_Shared):
    """See the module."""

    def __init__(
        self, world: World, random: Random, history: list[Operation], invariants: Invariants
    ) -> None:
        super().__init__(world, random, history, invariants)
        self._partitions: list[tuple[str, int]] = []
        self._replicas = 0
        self._admin: Client | None = None
        self._producers: list[ModelProducer] = []
        self._readers: list[ModelReader] = []
        self._topic_id = b""

    def create(self, partitions: int, replicas: int, config: Mapping[str, str], seconds: float) -> None:
        self._partitions = [(STEADY, number) for number in range(partitions)]
        self._replicas = replicas
        self._admin = Client(self.world, self.next_id(), "admin")
        facts = {
            "name": STEADY,
            "partitions": partitions,
            "replicas": replicas,
            "min_insync": None,
            "config": dict(config),
        }
        topic, _ = self.world.loop.run_for(self._admin.ask_anybody("create", **facts), seconds)
        self._topic_id = topic.topic_id
        for name, number in self._partitions:
            self.history.append(Settings(partition=partition_name(name, number)))

    def begin(self) -> None:
        for number in range(self.random.choice((1, 2, 3))):
            producer = ModelProducer(
                self.world,
                self.next_id(),
                f"p{number}",
                self.history,
                acks=Acks.LEADER if number and self.random.random() < 0.5 else Acks.ALL,
                every_seconds=self.random.choice((0.1, 0.3, 0.6)),
                delivery_seconds=self.random.uniform(8.0, 25.0),
            )
            producer.on_acknowledged = self._acknowledged
            producer.produce(self._partitions)
            self._producers.append(producer)
        for name, number in self._partitions:
            for reader in range(self.random.choice((1, 2))):
                self._reader(f"r{number}.{reader}", name, number)

    def _reader(self, name: str, topic: str, partition: int, *, rereads: bool = True) -> ModelReader:
        reader = ModelReader(
            self.world,
            self.next_id(),
            name,
            self.history,
            topic=topic,
            partition=partition,
            rereads=rereads,
        )
        reader.read()
        self._readers.append(reader)
        return reader

    def change(self, what: str) -> None:
        if what == "reassign" and self._admin is not None:
            self._admin.begin(self._reassign(self._admin))

    async def _reassign(self, admin: Client) -> None:
        """Have one partition get as many replicas, in another order, or on other brokers. Nobody insists."""
        _, number = self.random.choice(self._partitions)
        replicas = tuple(self.random.sample(list(self.world.hosts), self._replicas))
        asked = self.random.choice(list(self.world.hosts))
        try:
            await admin.ask(asked, "reassign", name=STEADY, replicas={number: replicas})
        except (NoAnswer, MillpondError) as error:
            self.world.note(f"reassign: {error!r}")

    def crash_one(self) -> None:
        """These do not."""

    def stop(self) -> None:
        for producer in self._producers:
            producer.stopping = True

    @property
    def is_done(self) -> bool:
        return all(producer.is_done for producer in self._producers)

    def waiting(self) -> list[str]:
        return [producer.name for producer in self._producers if not producer.is_done]

    def read_all(self) -> Callable[[], bool]:
        for reader in self._readers:
            reader.stopping = True
        finals = [
            self._reader(f"final {number}", name, number, rereads=False) for name, number in self._partitions
        ]
        return lambda: all(
            final.next_offset >= self.invariants.committed_end((self._topic_id, final.partition))
            for final in finals
        )

    def _acknowledged(self, partition: int, end: int, acks: Acks, who: str) -> None:
        if acks is Acks.ALL:
            self.invariants.acknowledged((self._topic_id, partition), end, who)
