"""A broker whose name stands for another address when it is back."""

from __future__ import annotations

import asyncio

from millpond._transport.connection import METADATA
from millpond._transport.link import Link
from millpond.errors import ClusterUnavailable, OperationTimeout
from millpond.v1 import metadata_pb2
from tests.awake import awake
from tests.integration.client.scripted import ScriptedBroker
from tests.integration.peers.nameserver import NameServer

FOUND_S_MAX = 8.0
"""A second between two questions to the name server, one attempt to connect, and a busy machine."""


async def test_a_name_that_moves_is_looked_up_again_within_seconds() -> None:
    """By a channel that was connected before, as the links of a client are."""
    before, after = ScriptedBroker(host="127.0.0.2"), ScriptedBroker(host="127.0.0.3")
    after.port = before.port
    request = metadata_pb2.DescribeRequest(topics=["t"])
    with NameServer("127.0.0.2") as names:
        name = f"dns://127.0.0.1:{names.port}/broker.cluster.test:{before.port}"
        link = Link(name, "test", lambda: None)
        await before.start()
        try:
            await link.call(METADATA, "Describe", request, 10.0)
            await before.stop()
            await after.start()
            names.address = "127.0.0.3"
            moved_at = awake()
            async with asyncio.timeout(60):
                while True:
                    try:
                        await link.call(METADATA, "Describe", request, 2.0)
                        break
                    except (ClusterUnavailable, OperationTimeout):
                        await asyncio.sleep(0.05)
            assert awake() - moved_at < FOUND_S_MAX
            assert after.described
        finally:
            await link.close()  # before its name server
            await before.stop()
            await after.stop()
