"""The SDK in a simulated process: the released client, over simulated connections, clocks and dice.

`installed` has `grpc.aio` give channels of the simulated network to whoever asks within a simulated process,
and the SDK's own randomness drawn from the seed. Nothing else of it is replaced.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc.aio

import millpond
from millpond._transport import outgoing
from millpond.client import Client as SdkClient
from millpond.wire.errors import ClusterUnavailable
from tests.sim.cluster.calls import Channel, client_address_of
from tests.sim.cluster.clients import Client
from tests.sim.cluster.ports import EPOCH_MS
from tests.sim.cluster.world import World
from tests.sim.loop import OWNER, Owner

CALL_SECONDS = 10.0
"""For a call that names no time of its own."""


class SdkProcess(Client):
    """A process that has the SDK. `connected` runs in it, with a client, until it ends by itself."""

    def run(self, connected: Callable[[SdkClient], Any]) -> None:
        """Begin to."""
        self.begin(self._connected(connected))

    async def _connected(self, connected: Callable[[SdkClient], Any]) -> None:
        brokers = list(self.world.hosts)
        self.random.shuffle(brokers)
        some = brokers[: self.random.randint(1, len(brokers))]
        bootstrap = ",".join(map(client_address_of, some))
        client = await self._connect(bootstrap)
        await connected(client)

    async def _connect(self, bootstrap: str) -> SdkClient:
        while True:
            try:
                return await millpond.connect(bootstrap, client_id=self.name, timeout=CALL_SECONDS)
            except ClusterUnavailable:
                await self.back_off()

    def crash(self) -> None:
        """End where it stands."""
        self.world.note(f"crash {self.name}")
        self.owner.is_dead = True
        self.world.network.down(self.host_id)
        for task in self.owner.tasks():
            task.cancel()


class _Time:
    """`time`, as the SDK uses it."""

    def __init__(self, world: World) -> None:
        self._world = world

    def time_ns(self) -> int:
        return (EPOCH_MS + int(self._world.loop.time() * 1000)) * 1_000_000


class _Logs(logging.Handler):
    """What the SDK logs is part of the trace; that a task of its own failed is a fault."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.INFO)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        owner = OWNER.get()
        if owner is None or owner.is_dead:
            return
        self._world.note(f"{owner} {record.getMessage()}")
        if record.levelno >= logging.ERROR:
            error = record.exc_info[1] if record.exc_info else None
            self._world.client_failed(
                owner, error if isinstance(error, Exception) else Exception(record.getMessage())
            )


@contextmanager
def installed(world: World) -> Iterator[None]:
    """While it lasts, the SDK lives in that world."""
    hosts: dict[Owner, int] = world.network.hosts_of

    def channel(address: str, **_options: Any) -> Channel:
        owner = OWNER.get()
        assert owner is not None, "a channel is opened by some process"
        return Channel(world.network, owner, hosts[owner], address)

    real_channel, state = grpc.aio.insecure_channel, random.getstate()
    logger, logs = logging.getLogger("millpond"), _Logs(world)
    level, propagate = logger.level, logger.propagate
    grpc.aio.insecure_channel = channel  # type: ignore[assignment]  # for as long as the simulation runs
    setattr(outgoing, "time", _Time(world))  # noqa: B010 - the module that it imports is not its to export
    random.seed(f"sdk {world.seed}")
    logger.addHandler(logs)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(logs)
        logger.setLevel(level)
        logger.propagate = propagate
        random.setstate(state)
        setattr(outgoing, "time", time)  # noqa: B010 - put back
        grpc.aio.insecure_channel = real_channel
