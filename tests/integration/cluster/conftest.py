"""One cluster of three real brokers for all of these tests: each leaves it whole."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from millpond.client import Client
from millpond.errors import InvalidRequest
from millpond.testing import LocalCluster

HEALED_S = 40.0
"""From whatever was done to the cluster until every replica is in sync again, on a busy machine."""


@pytest.fixture(scope="package")
def three() -> Iterator[LocalCluster]:
    """Three brokers. Tests may do to them what they like, and heal them (`healed`)."""
    with LocalCluster(brokers=3) as cluster:
        yield cluster


@pytest_asyncio.fixture(autouse=True)
async def all_run(three: LocalCluster) -> AsyncIterator[None]:
    """A test that failed half-way leaves the others their brokers."""
    yield
    dead = []
    for broker in range(3):
        try:
            three.resume(broker)
        except InvalidRequest:
            dead.append(broker)
    if dead:
        await three.aio.restart(*dead)


@pytest_asyncio.fixture
async def client(three: LocalCluster, all_run: None) -> AsyncIterator[Client]:
    async with three.client(timeout=30.0) as made:
        yield made


@pytest_asyncio.fixture
async def topic(client: Client) -> AsyncIterator[str]:
    """A topic of three partitions with three replicas, each led by another broker: all of them run, also on a
    machine so busy that one has just been taken for lost.
    """
    await healed(client, elect=False)
    name = f"t-{uuid.uuid4().hex[:8]}"
    made = await client.admin.create_topic(name, partitions=3)
    assert (made.replicas, made.min_insync) == (3, 2)
    assert sorted(partition.replicas[0] for partition in made.partitions) == [1, 2, 3]
    yield name
    await client.admin.delete_topic(name)


async def healed(client: Client, *, elect: bool = True) -> None:
    """Every broker runs and every replica is in sync; with `elect`, preferred leaders lead."""
    async with asyncio.timeout(HEALED_S):
        while True:
            brokers = await client.admin.brokers()
            topics = await client.admin.list_topics()
            partitions = [partition for topic in topics for partition in topic.partitions]
            if all(broker.state == "running" for broker in brokers) and all(
                sorted(partition.isr) == sorted(partition.replicas) for partition in partitions
            ):
                break
            await asyncio.sleep(0.1)
    if elect:
        await client.admin.elect_leaders()


async def controller_of(client: Client) -> int:
    """Its broker id."""
    async with asyncio.timeout(HEALED_S):
        while True:
            for broker in await client.admin.brokers():
                if broker.controller and broker.state == "running":
                    return broker.id
            await asyncio.sleep(0.1)


async def led_by(client: Client, topic: str, broker: int) -> int:
    """A partition that the broker leads."""
    described = await client.admin.describe_topic(topic)
    return next(partition.partition for partition in described.partitions if partition.leader == broker)


async def leaderships(client: Client, topic: str) -> dict[int, tuple[int | None, int]]:
    """(leader, leader epoch) of each partition."""
    described = await client.admin.describe_topic(topic)
    return {
        partition.partition: (partition.leader, partition.leader_epoch) for partition in described.partitions
    }
