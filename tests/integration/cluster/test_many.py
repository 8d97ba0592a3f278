"""Many partitions and a lost broker: each of them has a leader within seconds, and what was acknowledged.

As many as leave this test within half a minute on a busy machine; `python -m tests.bench.many` is the same
with a thousand, and prints its times.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from millpond.client import Client
from millpond.testing import LocalCluster
from tests.bench.many import Many, Times, lose_one

PARTITIONS = 150
LED_S = 20.0
"""From SIGKILL to leaders everywhere: one entry of the metadata for all of them."""
WHOLE_S = 30.0


@pytest_asyncio.fixture
async def many(three: LocalCluster, client: Client) -> AsyncIterator[Many]:
    """Their topic, in use."""
    made = Many(three, client, PARTITIONS)
    await made.create()
    await made.whole()
    await made.write_everywhere()
    yield made
    for name in made.topics:
        await client.admin.delete_topic(name)


async def test_many_partitions_are_led_again_after_one_broker_was_lost(
    three: LocalCluster, client: Client, many: Many
) -> None:
    times = Times(told=False)
    async with asyncio.timeout(90.0):
        await lose_one(three, client, many, times, controls=True)
    assert await many.missing() == 0
    for what, seconds in times.took.items():
        assert seconds < (LED_S if "lost" in what else WHOLE_S), times.took
