"""One run from one seed: brokers, their clients, what strikes them, and the judgement."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Final

from millpond.wire.errors import MillpondError
from millpond_broker.core.image import BrokerState
from millpond_broker.core.leader import Acks
from tests.sim.cluster.clients import Client, NoAnswer, partition_name
from tests.sim.cluster.invariants import Invariants
from tests.sim.cluster.nemesis import (
    BAD_DISKS,
    NETWORK,
    OTHERS,
    PROCESSES,
    TAKE_UNSYNCED,
    Mix,
    Nemesis,
    mix_of,
)
from tests.sim.cluster.producer import ProducerClient
from tests.sim.cluster.reader import ReaderClient
from tests.sim.cluster.world import Anomaly, World, running
from tests.sim.history.checker import check
from tests.sim.history.operations import OK, Operation, Send, Settings
from tests.sim.loop import Failed, Idle, Livelock, SimLoop

RUN_SECONDS: Final = 20.0
"""Of faults."""
START_SECONDS: Final = 20.0
HEAL_SECONDS: Final = 60.0
"""Within which all is well again, once faults have ended."""
READ_SECONDS: Final = 30.0
TOPIC: Final = "t"
FIRST_CLIENT: Final = 100
ALL_FAULTS: Final = (*NETWORK, *PROCESSES, *OTHERS)
INTERVAL_EVERY: Final = 6
"""In one run of so many the topic has flush=interval."""


@dataclass(frozen=True)
class Plan:
    """What to run. None: drawn from the seed."""

    seed: int
    brokers: int = 3
    replicas: int | None = None
    seconds: float = RUN_SECONDS
    mix: Mix | None = None
    followers: int | None = None
    """Brokers beside the voters, which do not vote (rule 44)."""
    faults: tuple[str, ...] = ALL_FAULTS
    story: Callable[[Run], None] | None = None
    """What happens instead of faults that are drawn."""

    @property
    def takes_unsynced(self) -> bool:
        """Whether its faults may take bytes that were not synced."""
        return self.mix is not None or self.seed % INTERVAL_EVERY != INTERVAL_EVERY - 1

    @property
    def followers_drawn(self) -> int:
        """In one run of three there are some; in none whose faults are given."""
        if self.followers is not None or self.mix is not None or self.story is not None:
            return self.followers or 0
        return Random(f"followers {self.seed}").choice((0, 0, 0, 0, 1, 2))

    @property
    def allowed(self) -> tuple[str, ...]:
        """The faults to draw from."""
        if self.takes_unsynced:
            return self.faults
        return tuple(kind for kind in self.faults if kind not in TAKE_UNSYNCED)


@dataclass(frozen=True)
class Report:
    """What came of it."""

    seed: int
    seconds: float
    """In the world's time."""
    cpu_seconds: float
    anomaly: str | None
    detail: str
    acknowledged: int
    fingerprint: int
    counts: dict[str, int]
    trace: list[str] = field(default_factory=list)
    history: list[Operation] = field(default_factory=list)


class Run:
    """The world of one plan, and everybody in it."""

    def __init__(self, plan: Plan, world: World) -> None:
        self.plan = plan
        self.world = world
        self.random = Random(f"run {plan.seed}")
        self.history: list[Operation] = []
        self.invariants = Invariants(world)
        self.nemesis = Nemesis(world, plan.mix or mix_of(plan.seed, plan.allowed))
        self.invariants.only_pauses = set(self.nemesis.mix.kinds) <= {"pause", "clock", "reassign"}
        self.replicas = plan.replicas or self.random.choice((3, 3, 3, 2))
        self.partitions = [(TOPIC, number) for number in range(self.random.choice((1, 2, 3)))]
        self.producers: list[ProducerClient] = []
        self.readers: list[ReaderClient] = []
        self._clients = 0
        self._topic_id = b""

    # --- its parts --------------------------------------------------------------------------------------

    def start(self) -> None:
        """All brokers run, and there is a topic."""
        for host in self.world.hosts.values():
            host.start()
        self._until(START_SECONDS, self.is_ready, "stuck", "brokers do not start")
        made = self._client("admin")
        facts = {
            "name": TOPIC,
            "partitions": len(self.partitions),
            "replicas": self.replicas,
            "min_insync": None,
            "config": self._config(),
        }
        topic, _ = self.world.loop.run_for(made.ask_anybody("create", **facts), START_SECONDS)
        self._topic_id = topic.topic_id
        self.nemesis.on_reassign = lambda: made.begin(self._reassign(made))
        for name, number in self.partitions:
            self.history.append(Settings(partition=partition_name(name, number)))

    async def _reassign(self, admin: Client) -> None:
        """Have one partition get as many replicas, in another order, or on other brokers. Nobody insists."""
        _, number = self.random.choice(self.partitions)
        replicas = tuple(self.random.sample(list(self.world.hosts), self.replicas))
        asked = self.random.choice(list(self.world.hosts))
        with suppress(NoAnswer, MillpondError):
            await admin.ask(asked, "reassign", name=TOPIC, replicas={number: replicas})

    def _config(self) -> dict[str, str]:
        """Small segments in some runs; flush=interval in those without faults that take unsynced bytes."""
        config = {"flush": "commit" if self.plan.takes_unsynced else "interval"}
        segment_bytes = self.random.choice((None, 4096, 65536))
        return config if segment_bytes is None else config | {"segment_bytes": str(segment_bytes)}

    def begin(self) -> None:
        """Clients write and read."""
        for number in range(self.random.choice((1, 2, 3))):
            producer = ProducerClient(
                self.world,
                self._next_id(),
                f"p{number}",
                self.history,
                acks=Acks.LEADER if number and self.random.random() < 0.5 else Acks.ALL,
                every_seconds=self.random.choice((0.1, 0.3, 0.6)),
                delivery_seconds=self.random.uniform(8.0, 25.0),
            )
            producer.on_acknowledged = self._acknowledged
            producer.produce(self.partitions)
            self.producers.append(producer)
        for name, number in self.partitions:
            for reader in range(self.random.choice((1, 2))):
                self._reader(f"r{number}.{reader}", name, number)

    def settle(self) -> None:
        """Faults end: everything is answered, everybody in sync, and everything read. Raises Anomaly."""
        self.nemesis.heal()
        for producer in self.producers:
            producer.stopping = True
        self._until(HEAL_SECONDS, self.is_well, "stuck", "it does not get well")
        for reader in self.readers:
            reader.stopping = True
        finals = [
            self._reader(f"final {number}", name, number, rereads=False) for name, number in self.partitions
        ]
        self._until(
            READ_SECONDS,
            lambda: all(map(self._has_read_all, finals)),
            "unread",
            "a reader does not get to the end",
        )
        found = check(self.history)
        if found:
            told = "; ".join(f"{anomaly.partition}: {anomaly.detail}" for anomaly in found[:3])
            raise Anomaly(found[0].name, f"{told} ({len(found)} in all)")

    # --- what is so -------------------------------------------------------------------------------------

    def is_ready(self) -> bool:
        """All brokers take clients."""
        return all(host.is_ready for host in self.world.hosts.values())

    def is_well(self) -> bool:
        """Everything sent has an outcome, every broker is unfenced, every replica in sync."""
        if not all(producer.is_done for producer in self.producers) or not self.is_ready():
            return False
        image = self.world.voters.snapshots[self.world.voters.last_index]
        if any(broker.state is not BrokerState.RUNNING for broker in image.brokers.values()):
            return False
        return all(
            state.leader is not None
            and len(state.isr) == len(state.replicas)
            and not (state.adding or state.removing)
            for topic in image.topics.values()
            for state in topic.partitions
        )

    def _has_read_all(self, reader: ReaderClient) -> bool:
        key = (self._topic_id, reader.partition)
        return reader.next_offset >= self.invariants.committed_end(key)

    def _acknowledged(self, partition: int, end: int, acks: Acks, who: str) -> None:
        if acks is Acks.ALL:
            self.invariants.acknowledged((self._topic_id, partition), end, who)

    def _until(self, seconds: float, done: Callable[[], bool], name: str, what: str) -> None:
        if not self.world.run(seconds, done):
            image = self.world.voters.snapshots[self.world.voters.last_index]
            brokers = {broker_id: broker.state.value for broker_id, broker in image.brokers.items()}
            states = [state for topic in image.topics.values() for state in topic.partitions]
            ready = {host.broker_id: host.is_ready for host in self.world.hosts.values()}
            left = [producer.name for producer in self.producers if not producer.is_done]
            told = f"{what} in {seconds:.0f} s: ready {ready}, {brokers}, waiting {left}, {states}"
            raise Anomaly(name, told)

    def _next_id(self) -> int:
        self._clients += 1
        return FIRST_CLIENT + self._clients

    def _client(self, name: str) -> Client:
        return Client(self.world, self._next_id(), name)

    def _reader(self, name: str, topic: str, partition: int, *, rereads: bool = True) -> ReaderClient:
        reader = ReaderClient(
            self.world,
            self._next_id(),
            name,
            self.history,
            topic=topic,
            partition=partition,
            rereads=rereads,
        )
        reader.read()
        self.readers.append(reader)
        return reader


def run(plan: Plan) -> Report:
    """See the module."""
    began = time.process_time()
    anomaly: Anomaly | None = None

    def make(loop: SimLoop) -> World:
        lag = Random(f"lag {plan.seed}").choice((0.002, 0.05, 0.5))
        return World(loop, plan.seed, plan.brokers, followers=plan.followers_drawn, lag_seconds=lag)

    with running(make) as world:
        simulated = Run(plan, world)
        world.on_round.append(simulated.invariants.look)
        started_at = world.loop.time()
        try:
            simulated.start()
            if plan.story is None:
                simulated.begin()
                simulated.nemesis.begin()
                world.run(plan.seconds)
            else:
                plan.story(simulated)
            simulated.settle()
        except Anomaly as found:
            anomaly = found
        except (Failed, Idle, Livelock, AssertionError, TimeoutError) as error:
            anomaly = Anomaly("exception", repr(error))
        trace = world.told() if anomaly else []
        seconds = world.loop.time() - started_at
    sends = [
        operation for operation in simulated.history if isinstance(operation, Send) and operation.kind == OK
    ]
    return Report(
        seed=plan.seed,
        seconds=seconds,
        cpu_seconds=time.process_time() - began,
        anomaly=None if anomaly is None else anomaly.name,
        detail="" if anomaly is None else anomaly.detail,
        acknowledged=len(sends),
        fingerprint=world.fingerprint,
        counts=world.counts,
        trace=trace,
        history=simulated.history if anomaly else [],
    )


def run_seed(seed: int, replicas: int | None, *, flips: bool) -> Report:
    """One seed as it is run by the thousand, in processes that find it here."""
    return run(Plan(seed, replicas=replicas, faults=(*ALL_FAULTS, *BAD_DISKS) if flips else ALL_FAULTS))
