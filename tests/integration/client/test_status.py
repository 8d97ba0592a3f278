"""`admin.status()`: whose word it is, how old, and who answers. Brokers say what a test has them say."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

import millpond
from millpond._local.ports import free_ports
from millpond.errors import ClusterUnavailable
from millpond.v1 import metadata_pb2
from tests.integration.client.scripted import ScriptedBroker

Pair = tuple[ScriptedBroker, ScriptedBroker]


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[Pair]:
    """Broker 1 and broker 2 of one cluster. A client is told of broker 1."""
    one, two = ScriptedBroker(), ScriptedBroker()
    one.told_by, two.told_by = 1, 2
    # Each says to be broker 1 in its list, too, as scripted: what counts is who is asked where.
    one.others = [metadata_pb2.Broker(id=2, address=two.address, state=metadata_pb2.BROKER_STATE_RUNNING)]
    for broker in (one, two):
        await broker.start()
    yield one, two
    for broker in (one, two):
        await broker.stop()


async def test_who_answers_is_asked_one_by_one_and_one_that_hangs_is_waited_for_two_seconds(
    pair: Pair,
) -> None:
    one, two = pair
    async with millpond.connect(one.address) as client:
        well = await client.admin.status()
        assert (well.current, well.told_by, well.silent) == (True, 1, {})
        assert [broker.id for broker in well.brokers if broker.controller] == [1]
        two.stalled = True
        began = time.monotonic()
        assert (await client.admin.status()).silent == {2: "no answer within 2 s"}
        assert time.monotonic() - began < 10.0
        await two.stop()
        assert (await client.admin.status()).silent == {2: "connection refused"}


async def test_who_is_in_touch_is_believed_before_who_was_asked(pair: Pair) -> None:
    one, two = pair
    one.unheard_ms, two.version = 14_000, 2
    async with millpond.connect(one.address) as client:
        status = await client.admin.status()
        assert (status.current, status.told_by, status.unheard_seconds) == (True, 2, 0.0)


async def test_where_nobody_is_in_touch_what_is_told_is_old_and_nobody_controls(pair: Pair) -> None:
    one, two = pair
    one.unheard_ms = two.unheard_ms = 14_000
    async with millpond.connect(one.address) as client:
        status = await client.admin.status()
        assert (status.current, status.told_by, status.unheard_seconds) == (False, 1, 14.0)
        assert [(broker.id, broker.state, broker.controller) for broker in status.brokers] == [
            (1, "running", False),
            (2, "running", False),
        ]
        await two.stop()
        assert [broker.state for broker in (await client.admin.status()).brokers] == [
            "running",
            "unreachable",
        ]
        assert [topic.name for topic in status.topics] == ["t"]


async def test_a_broker_that_is_too_old_to_say_passes_for_current(pair: Pair) -> None:
    one, two = pair
    one.told_by = two.told_by = 0
    async with millpond.connect(one.address) as client:
        status = await client.admin.status()
        assert (status.current, status.told_by, status.silent) == (True, None, {})


async def test_another_broker_at_the_address_is_not_the_one_that_was_asked_for(pair: Pair) -> None:
    one, two = pair
    two.told_by = 7
    async with millpond.connect(one.address) as client:
        assert (await client.admin.status()).silent == {2: "broker 7 answers there"}
        two.cluster_id = b"d" * 16
        assert (await client.admin.status()).silent == {2: "a broker of another cluster answers there"}


async def test_with_nobody_there_nobody_is_asked() -> None:
    (port,) = free_ports(1)
    with pytest.raises(ClusterUnavailable):
        async with millpond.connect(f"127.0.0.1:{port}", timeout=0.5) as client:
            await client.admin.status()
