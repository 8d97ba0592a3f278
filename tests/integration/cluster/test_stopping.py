"""Clusters that are stopped: nobody waits for a broker that is not there any more."""

from __future__ import annotations

import asyncio
import time

from millpond.errors import MillpondError
from millpond.testing import LocalCluster
from tests.integration.cluster.load import Load

STOP_TIMEOUT_MS = 60_000
"""What a broker may wait for, and would here if it waited for anybody."""
STOPPED_S = 10.0
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
            began = time.monotonic()
            for broker in range(3):
                await cluster.aio.stop(broker)
            assert time.monotonic() - began < STOPPED_S
            await cluster.aio.restart(0, 1, 2)
            await load.progress()
            began = time.monotonic()
            await asyncio.gather(*[asyncio.to_thread(cluster.stop, broker) for broker in range(3)])
            assert time.monotonic() - began < STOPPED_S
            await cluster.aio.restart(0, 1, 2)
            await load.progress()
        assert not [error for error in load.failures if isinstance(error, MillpondError)]
        await load.audit(cluster.bootstrap)
