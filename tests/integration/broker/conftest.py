"""One broker in this process for all tests of a module, and a client of bare messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count

import pytest
import pytest_asyncio

from tests.integration.broker.raw import RawClient
from tests.integration.broker.serving import Served, serving

NewTopic = Callable[..., Awaitable[bytes]]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with serving(tmp_path_factory.mktemp("broker") / "data") as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def client(served: Served) -> AsyncIterator[RawClient]:
    async with RawClient(served.address) as made:
        yield made


_numbers = count()


@pytest.fixture
def new_topic(client: RawClient) -> NewTopic:
    """Makes a topic of its own for a test; its id."""

    async def make(partitions: int = 1, **config: str) -> bytes:
        return await client.create_topic(f"topic-{next(_numbers)}", partitions, **config)

    return make
