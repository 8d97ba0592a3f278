"""Brokers that are closed after each test, and what must be gone then."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

import pytest

from tests.integration.streams.brokers import Broker, nothing_left


class MakeBroker(Protocol):
    async def __call__(self, broker_id: int, **options: Any) -> Broker:
        """A broker that listens."""


@pytest.fixture
async def broker() -> AsyncIterator[MakeBroker]:
    made: list[Broker] = []

    async def make(broker_id: int, **options: Any) -> Broker:
        made.append(Broker(broker_id, **options))
        await made[-1].start()
        return made[-1]

    async with nothing_left():
        yield make
        for one in made:
            await one.close()
