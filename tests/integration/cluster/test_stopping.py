"""Clusters that are stopped: nobody waits for a broker that is not there any more."""

from __future__ import annotations

import asyncio

from millpond.client import Client
from millpond.errors import MillpondError
from millpond.testing import LocalCluster
from tests.awake import awake
from tests.integration.cluster.load import Load

PARTITIONS = 24
"""Enough that a broker which is back takes a while until it is in sync in all of them."""
STOP_TIMEOUT_MS = 60_000
"""What a broker may wait for, and would here if it waited for anybody."""
STOPPED_S = 20.0
"""It takes less than 2 s; and more where several of these tests share two cores."""


async def test_brokers_stop_at_once_together_or_one_after_another_under_load() -> None:
    """Rule 12: leaders are moved while there is somebody to move them to. The last one leads on, and tells
    whoever waits for the others that nothing is known (rule 8).
    """
    config = {"limits.stop_timeout_ms": STOP_TIMEOUT_MS}
    async with LocalCluster(brokers=3, config=config) as cluster, cluster.client() as client:
        await client.admin.create_topic("written", partitions=3)
        load = Load("written", range(3), delivery_timeout=60.0)
        async with load.running(client):
            await load.progress()
            began = awake()
            for broker in range(3):
                await cluster.aio.stop(broker)
            assert awake() - began < STOPPED_S
            await cluster.aio.restart(0, 1, 2)
            await load.progress()
            began = awake()
            await asyncio.gather(*[asyncio.to_thread(cluster.stop, broker) for broker in range(3)])
            assert awake() - began < STOPPED_S
            await cluster.aio.restart(0, 1, 2)
            await load.progress()
        assert not [error for error in load.failures if isinstance(error, MillpondError)]
        await load.audit(cluster.bootstrap)


class Stops:
    """What a client's own watch tells of each stop as it begins: who runs, and is not in sync everywhere."""

    def __init__(self, client: Client, topic: str) -> None:
        self._connection = client.connection
        self._topic = topic
        self._stopping: set[int] = set()
        self.behind: list[set[int]] = []

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            view = self._connection.view
            stopping = {key for key, broker in view.brokers.items() if broker.state == "stopping"}
            if stopping - self._stopping:
                running = {key for key, broker in view.brokers.items() if broker.state == "running"}
                partitions = view.topics[self._topic].partitions
                in_sync = running.intersection(*(partition.isr for partition in partitions))
                self.behind.append(running - in_sync)
            self._stopping = stopping
            await self._connection.changed()


async def test_brokers_restarted_by_readiness_alone_are_in_sync_before_the_next_one_stops() -> None:
    """Ready is not in sync again: who is told to stop waits for that, where too few would be without it."""
    async with LocalCluster(brokers=3) as cluster, cluster.client() as client:
        await client.admin.create_topic("written", partitions=PARTITIONS)
        load, stops = Load("written", range(PARTITIONS), value_bytes=2000), Stops(client, "written")
        watching = asyncio.create_task(stops.watch())
        async with load.running(client):
            await load.progress()
            for broker in (0, 1, 2, 0):
                await cluster.aio.stop(broker)
                await cluster.aio.restart(broker)  # until it is ready
            await load.progress()
        watching.cancel()
        assert stops.behind == [set()] * 4
        assert not load.failures
        await load.audit(cluster.bootstrap)
