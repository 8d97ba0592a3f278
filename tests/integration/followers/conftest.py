"""One cluster of five real brokers, of which three vote, for these tests: each leaves it whole."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from millpond.client import Client
from millpond.errors import InvalidRequest
from millpond.testing import LocalCluster
from tests.integration.cluster.conftest import healed

BROKERS = 5
VOTERS = 3


@pytest.fixture(scope="package")
def five() -> Iterator[LocalCluster]:
    """Brokers 1 to 3 vote, 4 and 5 follow."""
    with LocalCluster(brokers=BROKERS, voters=VOTERS) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def client(five: LocalCluster) -> AsyncIterator[Client]:
    """A test that failed half-way leaves the others their brokers."""
    async with five.client(timeout=30.0) as made:
        yield made
    dead = []
    for broker in range(BROKERS):
        try:
            five.resume(broker)
        except InvalidRequest:
            dead.append(broker)
    if dead:
        await five.aio.restart(*dead)


@pytest_asyncio.fixture
async def topic(client: Client) -> AsyncIterator[str]:
    """A topic of five partitions with three replicas, each led by another broker."""
    await healed(client)
    name = f"t-{uuid.uuid4().hex[:8]}"
    made = await client.admin.create_topic(name, partitions=BROKERS)
    assert sorted(partition.replicas[0] for partition in made.partitions) == [1, 2, 3, 4, 5]
    yield name
    await client.admin.delete_topic(name)
