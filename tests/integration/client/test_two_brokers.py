"""A client of two brokers, one of which hangs, or is behind: it goes to the other, and never back in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

import millpond
from millpond._transport import connection as connection_module
from millpond.errors import ClusterUnavailable, InvalidRequest
from millpond.v1 import metadata_pb2
from tests.awake import awake
from tests.integration.client.scripted import ScriptedBroker


@pytest_asyncio.fixture
async def brokers() -> AsyncIterator[tuple[ScriptedBroker, ScriptedBroker]]:
    one, other = ScriptedBroker(), ScriptedBroker()
    await one.start()
    await other.start()
    yield one, other
    await one.stop()
    await other.stop()


async def until(holds: Callable[[], bool], within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.005)


def addresses(*brokers: ScriptedBroker) -> str:
    return ",".join(broker.address for broker in brokers)


async def test_a_broker_that_falls_silent_is_left_within_three_of_its_signs_of_life(
    brokers: tuple[ScriptedBroker, ScriptedBroker],
) -> None:
    """Its connection stays, and nothing on it says that it hangs."""
    silent, other = brokers
    silent.idle_ms, other.idle_ms = 100, 500
    async with millpond.connect(addresses(silent, other)) as client:
        silent.stalled = True
        other.version = 7
        began = time.monotonic()
        await until(lambda: client.connection.view.version == 7)
        assert time.monotonic() - began > 0.2
        await asyncio.sleep(3.5 * other.idle_ms / 1000)
        await until(lambda: client.connection._watched == other.address)  # it gives its signs


async def test_a_broker_that_never_promised_a_sign_of_life_may_be_silent(
    brokers: tuple[ScriptedBroker, ScriptedBroker],
) -> None:
    quiet, other = brokers
    async with millpond.connect(addresses(quiet, other)) as client:
        await asyncio.sleep(0.5)
        assert client.connection._watched == quiet.address


async def test_a_broker_whose_metadata_stay_behind_is_left(
    brokers: tuple[ScriptedBroker, ScriptedBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "WATCH_BEHIND_S", 0.3)
    ahead, behind = brokers
    ahead.idle_ms = behind.idle_ms = 50
    ahead.version = 5
    async with millpond.connect(addresses(ahead, behind)) as client:
        await ahead.stop()
        await until(lambda: client.connection._watched == behind.address)
        assert client.connection.view.version == 5, "what was known is not forgotten"
        await until(lambda: client.connection._watched is None)
        behind.version = 6
        behind.changed()
        await until(lambda: client.connection.view.version == 6)


async def test_a_description_is_never_older_than_what_was_seen(
    brokers: tuple[ScriptedBroker, ScriptedBroker],
) -> None:
    ahead, behind = brokers
    ahead.version = 5
    async with millpond.connect(addresses(ahead, behind)) as client:
        ahead.topics = False
        ahead.version = 6
        ahead.changed()
        await until(lambda: client.connection.view.version == 6)
        assert await client.admin.list_topics() == []
        await ahead.stop()
        with pytest.raises(ClusterUnavailable) as unavailable:
            await client.admin.list_topics(timeout=2.0)
        assert unavailable.value.tried[behind.address] == "its metadata is behind"
        behind.topics, behind.version = True, 8
        assert [topic.name for topic in await client.admin.list_topics()] == ["t"]


async def test_a_call_to_a_broker_that_hangs_is_made_again_at_the_next(
    brokers: tuple[ScriptedBroker, ScriptedBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millpond._transport.describing.DESCRIBE_S", 0.3)
    hung, other = brokers
    async with millpond.connect(addresses(hung, other)) as client:
        hung.stalled = True
        assert [topic.name for topic in await client.admin.list_topics(timeout=5.0)] == ["t"]


async def test_a_call_to_a_broker_that_gives_no_sign_of_life_is_soon_made_again_at_the_next(
    brokers: tuple[ScriptedBroker, ScriptedBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the sum of the two times, not within that of a whole attempt."""
    monkeypatch.setattr(connection_module, "SILENT_S", 0.1)
    monkeypatch.setattr(connection_module, "SIGN_OF_LIFE_S", 0.2)
    hung, other = brokers
    async with millpond.connect(addresses(hung, other)) as client:
        hung.stalled = True
        began, awake_at = time.monotonic(), awake()
        assert (await client.admin.describe_topic("t")).name == "t"
        assert time.monotonic() - began >= 0.3
        assert awake() - awake_at < 4.5
        assert hung.described == []
        assert other.described == ["t"]


async def test_where_one_leader_refuses_to_tell_the_ends_nobody_goes_on_asking_the_others() -> None:
    """Rule 10."""
    one, two = ScriptedBroker(partitions=2), ScriptedBroker(partitions=2)
    one.leaders = {1: 2}
    one.others = [metadata_pb2.Broker(id=2, address=two.address, state=metadata_pb2.BROKER_STATE_RUNNING)]
    one.refuses_offsets, two.stalls_offsets = InvalidRequest(reason="no"), True
    await one.start()
    await two.start()
    before = asyncio.all_tasks()
    async with millpond.connect(one.address) as client:
        with pytest.raises(InvalidRequest):
            await client.admin.describe_topic("t")
        left = [repr(task.get_coro()) for task in asyncio.all_tasks() - before]
        assert not [coroutine for coroutine in left if "_ends_at_leader" in coroutine]
    await one.stop()
    await two.stop()


async def test_a_slow_broker_is_waited_for_while_it_gives_signs_of_life(
    brokers: tuple[ScriptedBroker, ScriptedBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To ask another the same would make a slow cluster slower."""
    monkeypatch.setattr(connection_module, "SILENT_S", 0.1)
    slow, other = brokers
    slow.slow_s = 0.6
    async with millpond.connect(addresses(slow, other)) as client:
        assert (await client.admin.describe_topic("t")).name == "t"
    assert [name for name in slow.described if name != "."] == ["t"]
    assert slow.described.count(".") >= 2
    assert other.described == []
