"""A watch of the metadata at a broker that loses touch with the controller."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from millpond._transport.link import Link
from millpond.errors import BrokerNotReady
from millpond.v1 import metadata_pb2
from millpond_broker.rpc.metadata import LOOK_SECONDS, LOST_SECONDS, NEVER_SECONDS, LostTouch
from tests.integration.broker.serving import Served

METADATA = metadata_pb2.DESCRIPTOR.services_by_name["MetadataService"]


def test_a_watch_ends_soon_after_the_lease_and_later_where_there_was_none() -> None:
    """Rule 39: by then another may lead what this one led, and who sends to it hears of nothing else."""
    lost = LostTouch()
    assert not any(lost.is_lost(now, is_in_touch=True) for now in (0.0, 50.0))
    assert not lost.is_lost(50.5, is_in_touch=False), "a moment is nothing: a loop that was busy"
    assert not lost.is_lost(51.0, is_in_touch=True)
    assert not lost.is_lost(51.5, is_in_touch=False)
    assert lost.is_lost(52.0, is_in_touch=False)
    never = LostTouch()
    assert not any(never.is_lost(now, is_in_touch=False) for now in (0.0, 1.0, 2.5))
    assert never.is_lost(3.0, is_in_touch=False)
    assert LOOK_SECONDS + LOST_SECONDS <= 1.0 < NEVER_SECONDS


async def test_who_watches_a_broker_that_loses_touch_is_told(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Link(served.address, "tests", lambda: None)
    watch = link.watch(METADATA, "Watch", metadata_pb2.WatchRequest())
    assert (await watch.read()).HasField("changed")
    assert (await watch.read()).ByteSize() == 0, "a sign of life"
    monkeypatch.setattr(served.broker, "is_in_touch", lambda: False)

    async def read_on() -> None:
        while True:
            await watch.read()

    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await asyncio.wait_for(read_on(), NEVER_SECONDS - LOOK_SECONDS)
    assert isinstance(link.error_of(ended.value, "Watch"), BrokerNotReady)
    await link.close()
