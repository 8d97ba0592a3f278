"""A broker in this process, whose disk a test may hold, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

import millpond
from tests.integration.broker.serving import Served, serving


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with serving(tmp_path_factory.mktemp("broker") / "data") as running:
        yield running


@pytest_asyncio.fixture
async def client(served: Served) -> AsyncIterator[millpond.Client]:
    async with millpond.connect(served.address, timeout=10.0) as made:
        yield made
    served.syncs.release()


@pytest_asyncio.fixture
async def topic(client: millpond.Client, millpond_topic: str) -> str:
    """Three partitions."""
    await client.admin.create_topic(millpond_topic, partitions=3)
    return millpond_topic
