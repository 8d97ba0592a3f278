"""One run from one seed: brokers, their clients, what strikes them, and the judgement."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Final

from millpond_broker.core.image import BrokerState
from tests.sim.cluster.covered import MODULES_EVERY, covering, noting_modules
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
from tests.sim.cluster.sdk import installed
from tests.sim.cluster.topics import CHANGES
from tests.sim.cluster.workload import ModelWorkload, SdkWorkload, Workload
from tests.sim.cluster.world import Anomaly, World, running
from tests.sim.history.checker import check
from tests.sim.history.operations import OK, Operation, Send
from tests.sim.loop import Failed, Idle, Livelock, SimLoop

RUN_SECONDS: Final = 20.0
"""Of faults."""
START_SECONDS: Final = 20.0
HEAL_SECONDS: Final = 60.0
"""Within which all is well again, once faults have ended."""
READ_SECONDS: Final = 30.0
MANY_EVERY: Final = 8
"""In one run of so many there are five brokers instead of three; in half of these, two do not vote."""
MODELS_EVERY: Final = 5
"""In one run of so many the clients are models, which have nothing of the SDK."""
ALL_FAULTS: Final = (*NETWORK, *PROCESSES, *OTHERS, *BAD_DISKS)
INTERVAL_EVERY: Final = 6
"""In one run of so many the topic has flush=interval."""


@dataclass(frozen=True)
class Plan:
    """What to run. None: drawn from the seed."""

    seed: int
    replicas: int | None = None
    seconds: float = RUN_SECONDS
    mix: Mix | None = None
    faults: tuple[str, ...] = ALL_FAULTS
    story: Callable[[Run], None] | None = None
    """What happens instead of faults that are drawn."""
    clients: str | None = None
    """"sdk" or "models"."""

    @property
    def models(self) -> bool:
        """Whether its clients are models."""
        if self.clients is not None:
            return self.clients == "models"
        return self.seed % MODELS_EVERY == MODELS_EVERY - 1

    @property
    def takes_unsynced(self) -> bool:
        """Whether its faults may take bytes that were not synced."""
        return self.mix is not None or self.seed % INTERVAL_EVERY != INTERVAL_EVERY - 1

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
    modules: tuple[str, ...] = ()
    """Of the product, those that ran; none where nobody looked."""
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
        self.invariants.only_pauses = set(self.nemesis.mix.kinds) <= {"pause", "clock", *CHANGES}
        world.judges_answers = self.invariants.only_pauses
        kind = ModelWorkload if plan.models else SdkWorkload
        self.workload: Workload = kind(world, self.random, self.history, self.invariants)
        self.nemesis.on_change = self.workload.change
        self.nemesis.on_client_crash = self.workload.crash_one

    def start(self) -> None:
        """All brokers run, and there is a topic."""
        for host in self.world.hosts.values():
            host.start()
        self._until(START_SECONDS, self.is_ready, "stuck", "brokers do not start")
        replicas = self.plan.replicas or self.random.choice((3, 3, 3, 2))
        partitions = self.random.choice((1, 2, 3))
        self.workload.create(partitions, replicas, self._config(), START_SECONDS)

    def _config(self) -> dict[str, str]:
        """Small segments in some runs; flush=interval in those without faults that take unsynced bytes."""
        config = {"flush": "commit" if self.plan.takes_unsynced else "interval"}
        segment_bytes = self.random.choice((None, 4096, 65536))
        return config if segment_bytes is None else config | {"segment_bytes": str(segment_bytes)}

    def settle(self) -> None:
        """Faults end: everything is answered, everybody in sync, and everything read. Raises Anomaly."""
        self.nemesis.heal()
        self.workload.stop()
        self._until(HEAL_SECONDS, self.is_well, "stuck", "it does not get well")
        self._until(READ_SECONDS, self.workload.read_all(), "unread", "a reader does not get to the end")
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
        if not self.workload.is_done or not self.is_ready():
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

    def _until(self, seconds: float, done: Callable[[], bool], name: str, what: str) -> None:
        if not self.world.run(seconds, done):
            image = self.world.voters.snapshots[self.world.voters.last_index]
            brokers = {broker_id: broker.state.value for broker_id, broker in image.brokers.items()}
            states = [state for topic in image.topics.values() for state in topic.partitions]
            ready = {host.broker_id: host.is_ready for host in self.world.hosts.values()}
            left = self.workload.waiting()
            told = f"{what} in {seconds:.0f} s: ready {ready}, {brokers}, waiting {left}, {states}"
            raise Anomaly(name, told)


def run(plan: Plan) -> Report:
    """See the module."""
    began = time.process_time()
    anomaly: Anomaly | None = None

    def make(loop: SimLoop) -> World:
        lag = Random(f"lag {plan.seed}").choice((0.002, 0.05, 0.5))
        many = plan.seed % MANY_EVERY == MANY_EVERY - 1 and plan.mix is None
        voters = 3 if plan.seed % (2 * MANY_EVERY) == MANY_EVERY - 1 else None
        return World(loop, plan.seed, 5 if many else 3, lag_seconds=lag, voters=voters if many else None)

    with running(make) as world, installed(world):
        simulated = Run(plan, world)
        world.on_round.append(simulated.invariants.look)
        started_at = world.loop.time()
        try:
            simulated.start()
            if plan.story is None:
                simulated.workload.begin()
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


def run_seed(
    seed: int,
    replicas: int | None,
    seconds: float = RUN_SECONDS,
    *,
    coverage: Path | None = None,
    names_modules: bool = False,
) -> Report:
    """One seed as it is run by the thousand, in processes that find it here. `coverage`: the directory where
    the lines that it runs are kept. `names_modules`: also where the seed is none of those that do.
    """
    plan = Plan(seed, replicas=replicas, seconds=seconds)
    if coverage is not None:
        return covering(lambda: run(plan), coverage / str(seed))
    if seed % MODULES_EVERY and not names_modules:
        return run(plan)
    report, modules = noting_modules(lambda: run(plan))
    return replace(report, modules=modules)
