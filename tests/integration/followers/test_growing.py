"""Clusters that grow, and whose voters are replaced, while records are written: docs/operations.md, tried."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import millpond
from millpond.client import Client
from millpond.errors import InvalidRequest
from millpond.testing import LocalCluster
from tests.integration.cluster.conftest import controller_of, healed
from tests.integration.cluster.load import Load
from tests.integration.cluster.test_administration import millpond_command
from tests.integration.followers.test_followers import becomes

PARTITIONS = 3


async def in_sync(client: Client, topic: str, replicas: int) -> None:
    """Every partition has so many replicas in sync."""
    async with asyncio.timeout(60):
        while True:
            described = await client.admin.describe_topic(topic)
            if all(len(each.isr) == replicas for each in described.partitions):
                return
            await asyncio.sleep(0.1)


@pytest.fixture
async def lone(tmp_path: Path) -> tuple[Path, Load]:
    """The directory of a broker that was alone, with a topic in it, and what it acknowledged."""
    load = Load("t", range(PARTITIONS))
    async with LocalCluster(brokers=1, data_dir=tmp_path) as cluster, cluster.client() as client:
        await client.admin.create_topic("t", partitions=PARTITIONS)
        async with load.running(client):
            await load.progress(records=50)
    return tmp_path, load


async def test_a_broker_alone_becomes_the_first_of_three_voters(lone: tuple[Path, Load]) -> None:
    """One becomes three under load; then the first dies, and nothing that any acknowledged is missing."""
    directory, load = lone
    async with (
        LocalCluster(brokers=3, voters=1, data_dir=directory) as cluster,
        cluster.client(timeout=30) as client,
    ):
        assert [topic.name for topic in await client.admin.list_topics()] == ["t"]
        async with load.running(client):
            await load.progress()
            assert await client.admin.add_voter(2) == (1, 2)
            assert await millpond_command(cluster, "cluster", "add-voter", "3") == [{"voters": [1, 2, 3]}]
            assert await client.admin.add_voter(3) == (1, 2, 3), "asking twice is asking once"
            await load.progress()
            moves = {number: [1 + (number + k) % 3 for k in range(3)] for number in range(PARTITIONS)}
            await client.admin.reassign("t", moves)
            await in_sync(client, "t", 3)
            cluster.kill(0)
            await load.progress(timeout=15)
            assert await controller_of(client) != 1
            await cluster.aio.restart(0)
            await healed(client)
        assert not load.failures
        await load.audit(cluster.bootstrap)
    async with LocalCluster(brokers=3, data_dir=directory) as cluster:  # with all three in `cluster.voters`
        await load.audit(cluster.bootstrap)


async def test_a_dead_voter_is_replaced_by_a_broker_that_followed(tmp_path: Path) -> None:
    """Remove, then add: afterwards another voter may die. The one that was removed goes on as a broker."""
    load = Load("t", range(PARTITIONS))
    async with (
        LocalCluster(brokers=4, voters=3, data_dir=tmp_path) as cluster,
        cluster.client(timeout=30) as client,
    ):
        await client.admin.create_topic("t", partitions=PARTITIONS)
        async with load.running(client):
            await load.progress()
            dead = 1 + await controller_of(client) % 3
            cluster.kill(dead - 1)
            await becomes(client, dead, "fenced")
            staying = {1, 2, 3} - {dead}
            with pytest.raises(InvalidRequest, match="nothing could be decided"):
                await client.admin.remove_voter(min(staying))
            assert set(await client.admin.remove_voter(dead)) == staying
            assert set(await client.admin.add_voter(4)) == {*staying, 4}
            await cluster.aio.restart(dead - 1)
            await healed(client)
            with pytest.raises(InvalidRequest, match="only a new broker id"):
                await client.admin.add_voter(dead)
            second = await controller_of(client)
            cluster.kill(second - 1)
            await load.progress(timeout=15)
            await cluster.aio.restart(second - 1)
            await healed(client)
        assert not load.failures
        await load.audit(cluster.bootstrap)


async def test_a_controller_that_is_removed_hands_over_and_goes_on_as_a_broker(tmp_path: Path) -> None:
    load = Load("t", range(PARTITIONS))
    async with (
        LocalCluster(brokers=3, data_dir=tmp_path) as cluster,
        cluster.client(timeout=30) as client,
    ):
        await client.admin.create_topic("t", partitions=PARTITIONS)
        async with load.running(client):
            await load.progress()
            controller = await controller_of(client)
            epochs = {broker.id: broker.epoch for broker in await client.admin.brokers()}
            left = await client.admin.remove_voter(controller)
            assert set(left) == {1, 2, 3} - {controller}
            assert await controller_of(client) in left
            await load.progress()
            await client.admin.create_topic("later", partitions=3, replicas=3)
            by_removed = cluster.bootstrap.split(",")[controller - 1]
            async with asyncio.timeout(30), millpond.connect(by_removed) as at_removed:
                while "later" not in [topic.name for topic in await at_removed.admin.list_topics()]:
                    await asyncio.sleep(0.1)
            after = {broker.id: broker.epoch for broker in await client.admin.brokers()}
            assert after == epochs, "nobody was started anew"
            await healed(client, elect=False)
            await cluster.aio.restart(controller - 1)
            await healed(client)
        assert not load.failures
        await load.audit(cluster.bootstrap)


async def test_what_would_leave_nobody_to_decide_is_refused(tmp_path: Path) -> None:
    """A second voter that is not there leaves no majority, and nothing to take it back with."""
    async with (
        LocalCluster(brokers=2, voters=1, data_dir=tmp_path) as cluster,
        cluster.client(timeout=10) as client,
    ):
        with pytest.raises(InvalidRequest, match="not a member"):
            await client.admin.add_voter(7)
        with pytest.raises(InvalidRequest, match="the last voter stays"):
            await client.admin.remove_voter(1)
        with pytest.raises(InvalidRequest, match="not a member"):
            await client.admin.remove_voter(7)
        assert await client.admin.remove_voter(2) == (1,), "it does not vote anyway"
        cluster.kill(1)
        await becomes(client, 2, "fenced")
        with pytest.raises(InvalidRequest, match="broker 2 is fenced"):
            await client.admin.add_voter(2)
        await client.admin.create_topic("goes-on")
        await cluster.aio.restart(1)
        assert await client.admin.add_voter(2) == (1, 2)
        assert await client.admin.remove_voter(2) == (1,), "two voters become one again"
        await client.admin.create_topic("alone-again")
