"""Everything of one run: time, machines, the network and the voters, all drawn from one seed."""

from __future__ import annotations

import gc
import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Final
from zlib import crc32

from millpond_broker.core.commands import REPLICATION_LEVEL, Voter
from millpond_broker.core.leader import Acks
from tests.sim.cluster.metadata import Voters
from tests.sim.cluster.network import Network
from tests.sim.cluster.peers import SimPeerStreams, address_of, through_codecs
from tests.sim.cluster.process import BrokerHost
from tests.sim.loop import OWNER, Owner, SimLoop, simulated

TRACE_EVENTS: Final = 400
"""The latest ones, told when a run fails."""

CODECS_EVERY: Final = 3
"""In one world of so many messages between brokers pass through their codecs, which takes time."""


class Anomaly(Exception):
    """Something that must not be. `name` is what it is known by."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.name = name
        self.detail = detail


class World:
    """See the module. Made inside `running`."""

    def __init__(
        self,
        loop: SimLoop,
        seed: int,
        brokers: int = 3,
        *,
        feature_level: int = REPLICATION_LEVEL,
        lag_seconds: float = 0.01,
        voters: int | None = None,
    ) -> None:
        """`voters`: so many of the brokers, the first ones, vote on the metadata; all if not given."""
        self.seed = seed
        self.loop = loop
        self.random = Random(f"world {seed}")
        self.counts: dict[str, int] = {}
        self.trace: deque[tuple[float, str, Any]] = deque(maxlen=TRACE_EVENTS)
        self.fingerprint = 0
        """Of everything that happened so far: equal for equal runs."""
        self.on_gone: list[Callable[[BrokerHost], None]] = []
        """Told of each process of a broker that ended."""
        self.on_answered: Callable[[BrokerHost, tuple[bytes, int], Acks], None] = lambda *_told: None
        """Told of each batch that a broker acknowledges, as it does."""
        self.judges_answers = False
        """Whether anybody hears of those of the SDK's producers, which have to be taken apart for it."""
        self.on_round: list[Callable[[], None]] = []
        """Called after each round of callbacks; may raise Anomaly."""
        self.network = Network(loop, Random(f"network {seed}"), self.note)
        if seed % CODECS_EVERY == 0:
            self.network.passed = through_codecs
        self.doors: dict[int, SimPeerStreams] = {}
        self.hosts = {broker_id: BrokerHost(self, broker_id) for broker_id in range(1, brokers + 1)}
        for broker_id in self.hosts:
            self.network.add(broker_id)
        founders = tuple(
            Voter(broker_id, host.directory_id, address_of(broker_id))
            for broker_id, host in self.hosts.items()
            if voters is None or broker_id <= voters
        )
        self.voters = Voters(
            loop,
            Random(f"voters {seed}"),
            self.network,
            founders,
            self.note,
            feature_level=feature_level,
            lag_seconds=lag_seconds,
        )
        self.failure: Anomaly | None = None
        loop.on_failure = self._failed

    def note(self, what: str, about: Any = None) -> None:
        """Something happened: it is part of the trace, and of what two equal runs have in common."""
        at, steps = self.loop.time(), self.loop.steps
        self.trace.append((at, what, about))
        told = f"{at:.6f} {steps} {what} {type(about).__name__}"
        self.fingerprint = crc32(told.encode(), self.fingerprint)

    def told(self) -> list[str]:
        """The latest of what happened."""
        return [
            f"{at:.6f} {what}" + ("" if about is None else f" {about!r}"[:600])
            for at, what, about in self.trace
        ]

    def count(self, what: str) -> None:
        """One more of these."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def run(self, seconds: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Let so much time pass, or less if it is `done`; whether it was. Raises Anomaly."""
        return self.loop.run(self.loop.time() + seconds, done)

    def look(self) -> None:
        """After each round."""
        if self.failure is not None:
            raise self.failure
        for host in self.hosts.values():
            host.look()
        for look in self.on_round:
            look()

    def broker_gone(self, host: BrokerHost) -> None:
        """A process of a broker ended, however."""
        for tell in self.on_gone:
            tell(host)

    def broker_failed(self, host: BrokerHost, error: Exception) -> None:
        """One ended by itself, which is right for some reasons only."""
        self._failed(host.owner, f"broker {host.broker_id} ended by itself: {_flat(error)}")

    def client_failed(self, owner: Owner, error: Exception) -> None:
        """A client ended by itself, for what it found or for a fault of its own."""
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, Anomaly):
            self.failure = self.failure or error
        else:
            self._failed(owner, f"ended by itself: {_flat(error)}")

    def _failed(self, owner: Owner | None, told: str) -> None:
        self.note(f"failed {owner}: {told}")
        if self.failure is None:
            self.failure = Anomaly("exception", f"{owner}: {told}")


def _flat(error: BaseException) -> str:
    """An exception with those inside it, and where they came from."""
    if isinstance(error, BaseExceptionGroup):
        return f"{type(error).__name__}({', '.join(map(_flat, error.exceptions))})"
    at, where = error.__traceback__, ""
    while at is not None:
        where, at = f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}", at.tb_next
    return f"{error!r} at {where}"


class _Logs(logging.Handler):
    """What brokers log is part of the trace."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.INFO)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        owner = OWNER.get()
        if owner is None or not owner.is_dead:
            fields = getattr(record, "millpond_fields", {})
            self._world.note(f"{owner} {record.getMessage()} {fields}")


@contextmanager
def running(make: Callable[[SimLoop], World]) -> Iterator[World]:
    """A world to run things in. Behind it nothing is left: no task, and none that would not end."""
    logger = logging.getLogger("millpond_broker")
    level, propagate = logger.level, logger.propagate
    gc.collect()
    gc.disable()  # when it runs depends on the process, not on the seed
    try:
        with simulated(SimLoop()) as loop:
            world = make(loop)
            loop.on_round = world.look
            logs = _Logs(world)
            logger.addHandler(logs)
            logger.setLevel(logging.INFO)
            logger.propagate = False
            try:
                yield world
            finally:
                _end(world)
                logger.removeHandler(logs)
    finally:
        logger.setLevel(level)
        logger.propagate = propagate
        gc.enable()


def _end(world: World) -> None:
    for host in world.hosts.values():
        if host.owner is not None:
            host.kill()
    world.loop.on_round = lambda: None
    left = world.loop.end()
    assert not left, f"these tasks do not end: {left}"
