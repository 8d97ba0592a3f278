"""What one client has open: its view, its tasks, its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from millpond._transport.connection import Connection
from millpond._transport.tasks import Tasks
from millpond.errors import ClientClosed, ClusterUnavailable, OperationTimeout
from tests.integration.client.scripted import ScriptedBroker


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    made = ScriptedBroker()
    await made.start()
    yield made
    await made.stop()


@pytest_asyncio.fixture
async def connection(broker: ScriptedBroker) -> AsyncIterator[Connection]:
    made = await Connection.open(broker.address, "tests", 5.0)
    yield made
    await made.close()


class Child:
    def __init__(self, closed: list[str], name: str, error: Exception | None = None) -> None:
        self.closed = closed
        self.name = name
        self.error = error

    async def close(self, timeout: float | None = None) -> None:
        self.closed.append(self.name)
        if self.error is not None:
            raise self.error


async def test_the_view_follows_the_cluster_over_a_restart(
    broker: ScriptedBroker, connection: Connection
) -> None:
    assert connection.view.version == 1
    broker.add_partition()
    view = await connection.newer_than(1, connection.deadline(5.0))
    assert len(view.topics["t"].partitions) == 2
    await broker.stop()
    broker.add_partition()
    await broker.start()
    view = await connection.newer_than(2, connection.deadline(5.0))
    assert len(view.topics["t"].partitions) == 3


async def test_waiting_for_a_view_ends_by_its_deadline(connection: Connection) -> None:
    with pytest.raises(OperationTimeout) as caught:
        await connection.newer_than(99, connection.deadline(0.05))
    assert caught.value.timeout == 0.05


async def test_a_broker_of_an_unknown_id_is_not_available(connection: Connection) -> None:
    with pytest.raises(ClusterUnavailable, match="broker 7"):
        connection.link(7)
    assert connection.link(1) is connection.link(connection.view.brokers[1].address)


async def test_children_are_closed_newest_first_and_their_errors_are_raised_last(
    connection: Connection,
) -> None:
    closed: list[str] = []
    forgotten = Child(closed, "forgotten")
    for child in (Child(closed, "a"), Child(closed, "b", ValueError("b")), forgotten, Child(closed, "c")):
        connection.adopt(child)
    connection.release(forgotten)
    with pytest.raises(ValueError, match="b"):
        await connection.close()
    assert closed == ["c", "b", "a"]
    await connection.close()
    with pytest.raises(ClientClosed):
        connection.adopt(forgotten)


async def test_a_close_that_is_cancelled_closes_the_other_children_all_the_same(
    connection: Connection,
) -> None:
    class Slow(Child):
        async def close(self, timeout: float | None = None) -> None:
            await super().close(timeout)
            await asyncio.sleep(3600)

    closed: list[str] = []
    connection.adopt(Child(closed, "a"))
    connection.adopt(Slow(closed, "slow"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await connection.close()
    assert closed == ["slow", "a"]
    assert connection.closed


async def test_closing_wakes_whoever_waits(connection: Connection) -> None:
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(_fails_closed(connection))
        await asyncio.sleep(0)
        await connection.close()
        await waiting


async def _fails_closed(connection: Connection) -> None:
    with pytest.raises(ClientClosed):
        await connection.newer_than(99, connection.deadline(5.0))


async def test_a_call_under_way_is_told_that_its_client_was_closed(
    broker: ScriptedBroker, connection: Connection
) -> None:
    broker.stalled = True

    async def ask() -> None:
        with pytest.raises(ClientClosed):
            await connection.topic("other", connection.deadline(5.0))

    async with asyncio.TaskGroup() as group:
        group.create_task(ask())
        await asyncio.sleep(0.05)
        await connection.close()


async def test_closing_ends_tasks_and_no_more_begin(connection: Connection) -> None:
    task = connection.start(asyncio.sleep(3600), "sleep")
    await connection.close()
    assert task.cancelled()
    with pytest.raises(ClientClosed):
        connection.start(asyncio.sleep(0), "late")


async def test_a_task_that_fails_is_logged_by_its_owner(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("boom")

    tasks = Tasks("test")
    task = tasks.start(fail(), "failing")
    await asyncio.wait([task])
    await tasks.stop()
    assert "millpond-failing failed: ValueError('boom')" in caplog.text


async def test_tasks_may_be_stopped_by_one_of_them() -> None:
    tasks = Tasks("test")
    other = tasks.start(asyncio.sleep(3600), "other")
    await tasks.start(tasks.stop(), "stopper")
    assert other.cancelled()
