"""Several brokers' membership in memory and virtual time: what keeps them in their cluster, and no logs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

from millpond_broker.core.image import BrokerState
from millpond_broker.runtime.controller import Controller, Seat
from millpond_broker.runtime.digests import Digests
from millpond_broker.runtime.heartbeats import Heartbeats, Lease
from millpond_broker.runtime.membership import Membership
from millpond_broker.runtime.metadata import Metadata
from millpond_broker.runtime.partitions import Partitions
from millpond_broker.runtime.peering import Peering
from millpond_broker.runtime.peers import Peer, Purpose
from tests.sim.cluster.ports import SimClock
from tests.sim.loop import SimLoop, simulated
from tests.unit.runtime.streams import MemoryStreams, Network
from tests.unit.runtime.voters import Voters, address_of, directory_of, incarnation_of, registration


class NoPartitions:
    """Has no logs, and so follows any metadata at once."""

    async def remove_orphans(self) -> None:
        """There are none."""

    async def reached(self, version: int) -> None:
        """It has."""


class Node:
    """One start of a broker."""

    def __init__(self, cluster: Cluster, broker_id: int, start: int) -> None:
        loop = cast("SimLoop", asyncio.get_running_loop())
        clock = SimClock(loop)
        self.broker_id = broker_id
        self.start = start
        self.incarnation = incarnation_of(broker_id, start)
        self.log = cluster.voters.logs[broker_id]
        self.streams = MemoryStreams(cluster.network, address_of(broker_id))
        self.metadata = Metadata(self.log, broker_id, self.incarnation, self.streams)
        seat = Seat(
            metadata=self.metadata,
            broker_id=broker_id,
            incarnation=self.incarnation,
            clock=clock,
            streams=self.streams,
        )
        self.lease, digests = Lease(clock, is_alone=False), Digests(clock)
        self.controller = Controller(seat, digests)
        self.heartbeats = Heartbeats(seat, self.controller.beat, lease=self.lease, digests=digests)
        self.membership = Membership(
            self.metadata,
            cast("Partitions", NoPartitions()),
            self.heartbeats,
            broker_id,
            self.incarnation,
            is_alone=False,
            streams=self.streams,
        )
        self.peering = Peering(Peer(broker_id, directory_of(broker_id), self.incarnation, b""), None)
        self.failure: BaseException | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def up(self) -> None:
        """Serve, beat, and control if it comes to that; join in the background."""
        self.peering.follow(self.metadata, self.controller)
        self.streams.serve(Purpose.CONTROL, self.peering.serve)
        await self.streams.start(self.peering.me, self.peering.admit)
        join = self.membership.join(registration(self.broker_id, self.start))
        for coro in (self.controller.run(), self.heartbeats.run(), join):
            self._tasks.append(asyncio.Task(self._watched(coro)))

    async def _watched(self, coro: Coroutine[Any, Any, None]) -> None:
        try:
            await coro
        except Exception as error:  # a test looks at it
            self.failure = error

    async def down(self) -> None:
        """As when its process is killed."""
        await self.streams.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self.metadata.close()

    def stop_beating(self) -> None:
        """As it does when it has stopped, and closes its logs."""
        self.peering.leave()
        self._tasks[1].cancel()

    @property
    def state(self) -> BrokerState | None:
        """As this very broker sees itself."""
        broker = self.membership.registered()
        return None if broker is None else broker.state


class Cluster:
    """All of them."""

    def __init__(self, *broker_ids: int) -> None:
        self.voters = Voters(*broker_ids)
        self.network = Network()
        self.nodes: dict[int, Node] = {}

    async def start(self, broker_id: int, start: int = 0) -> Node:
        node = self.nodes[broker_id] = Node(self, broker_id, start)
        await node.up()
        return node

    async def kill(self, broker_id: int) -> None:
        await self.nodes.pop(broker_id).down()

    async def running(self) -> None:
        """Wait until all that were started are in."""
        await until(lambda: all(node.state is BrokerState.RUNNING for node in self.nodes.values()), 5.0)


async def until(condition: Callable[[], bool], seconds: float) -> None:
    """Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def play(story: Callable[[Cluster], Coroutine[Any, Any, None]], *, seconds: float = 120.0) -> None:
    """Three brokers, of which 1 leads the voters, and what happens then. Time is virtual."""

    async def run() -> None:
        cluster = Cluster(1, 2, 3)
        cluster.voters.elect(1)
        try:
            for broker_id in (1, 2, 3):
                await cluster.start(broker_id)
            await cluster.running()
            await story(cluster)
        finally:
            for broker_id in list(cluster.nodes):
                await cluster.kill(broker_id)

    with simulated(SimLoop()) as loop:
        loop.run_for(run(), seconds)
