"""A broker that hangs: its connections stay, and nothing comes over them."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from millpond._transport import link
from millpond._transport.link import KEEPALIVE_ANSWER_MS_MAX, KEEPALIVE_MS, Link
from millpond.errors import ClusterUnavailable
from millpond.testing import LocalCluster
from millpond.v1 import metadata_pb2
from millpond_broker.rpc.server import PING_INTERVAL_MS_MIN

METADATA = metadata_pb2.DESCRIPTOR.services_by_name["MetadataService"]


async def test_a_watch_of_a_broker_that_hangs_ends_as_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is under way but the watch, which waits for whatever comes. A tenth of the times in use."""
    in_use = (KEEPALIVE_MS, KEEPALIVE_ANSWER_MS_MAX)
    options = tuple((name, value // 10 if value in in_use else value) for name, value in link._OPTIONS)
    monkeypatch.setattr(link, "_OPTIONS", options)
    async with LocalCluster() as cluster:
        made = Link(cluster.bootstrap, "tests", lambda: None)
        watch = made.watch(METADATA, "Watch", metadata_pb2.WatchRequest())
        await watch.read()
        cluster.pause(0)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            async with asyncio.timeout(30):
                await watch.read()
        assert isinstance(made.error_of(ended.value, "Watch"), ClusterUnavailable)
        cluster.resume(0)
        await made.close()


def test_a_hang_is_noticed_within_20_s_and_asking_is_never_too_often() -> None:
    assert KEEPALIVE_MS + KEEPALIVE_ANSWER_MS_MAX <= 20_000
    assert KEEPALIVE_MS >= 2 * PING_INTERVAL_MS_MIN, "a broker cuts off who asks more often"
