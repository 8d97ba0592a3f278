"""`admin.status()`: whose word it is, how old, and who answers. Brokers say what a test has them say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

import millpond
from millpond import cli
from millpond._core.cluster import NotReady
from millpond._local.ports import free_ports
from millpond._transport import describing, survey
from millpond._transport.connection import Connection
from millpond.errors import BrokerNotReady, ClientClosed, ClusterUnavailable, InternalError, MillpondError
from millpond.v1 import metadata_pb2
from tests.awake import awake
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
        began = awake()
        assert (await client.admin.status()).silent == {2: "no answer within 2 s"}
        assert awake() - began < 10.0
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


@pytest_asyncio.fixture
async def left_behind(pair: Pair) -> AsyncIterator[tuple[ScriptedBroker, millpond.Client]]:
    """Broker 2, and a client that was told of newer by broker 1, which is down."""
    one, two = pair
    one.version, two.version = 100, 99
    async with millpond.connect(f"{one.address},{two.address}") as client:
        await client.admin.status()
        await one.stop()
        yield two, client


@pytest.mark.parametrize("timeout", [30.0, 1.0])
async def test_the_one_that_is_left_is_believed_though_this_client_was_told_of_newer(
    left_behind: tuple[ScriptedBroker, millpond.Client], monkeypatch: pytest.MonkeyPatch, timeout: float
) -> None:
    """With no majority nobody's metadata grow: it will never catch up."""
    monkeypatch.setattr(describing, "BEHIND_S", 3600.0)
    two, client = left_behind
    two.unheard_ms = 14_000
    async with asyncio.timeout(30):
        status = await client.admin.status(timeout=timeout)
        assert (status.current, status.behind, status.told_by) == (False, True, 2)
        assert [topic.name for topic in status.topics] == ["t"]
        assert [broker.controller for broker in status.brokers] == [False]
        brief = await client.admin.status(brief=True, timeout=timeout)
        assert (brief.current, brief.behind) == (False, True)
        assert [broker.controller for broker in await client.admin.brokers(timeout=timeout)] == [False]


async def test_one_in_touch_that_is_behind_is_given_the_time_to_catch_up(
    left_behind: tuple[ScriptedBroker, millpond.Client],
) -> None:
    two, client = left_behind
    asking = asyncio.ensure_future(client.admin.status(brief=True))
    async with asyncio.timeout(30):
        while not two.described:
            await asyncio.sleep(0.005)
    two.version = 100
    status = await asking
    assert (status.current, status.behind) == (True, False)


async def test_one_that_stays_behind_and_does_not_say_that_it_is_out_of_touch_is_believed_in_the_end(
    left_behind: tuple[ScriptedBroker, millpond.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(describing, "BEHIND_S", 0.2)
    two, client = left_behind
    two.told_by = 0
    async with asyncio.timeout(30):
        status = await client.admin.status()
    assert (status.current, status.behind, status.told_by) == (False, True, None)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (BrokerNotReady(reason="broker 2 is starting"), "broker 2 is starting"),
        (InternalError(reason="a bug"), "the broker failed: a bug"),
    ],
)
async def test_a_broker_that_says_it_is_not_ready_answers(
    pair: Pair, error: MillpondError, says: str
) -> None:
    one, two = pair
    two.refuses = error
    async with millpond.connect(one.address) as client:
        status = await client.admin.status()
        assert (status.silent, status.not_ready) == ({}, {2: says})
        assert [broker.state for broker in status.brokers] == ["running", "running"], (
            "as the controller has it"
        )
        one.unheard_ms = 14_000
        status = await client.admin.status()
        assert [broker.state for broker in status.brokers] == ["running", "not_ready"]


async def test_where_all_that_answer_are_not_ready_that_is_what_was_tried(pair: Pair) -> None:
    """Not in words that would have to be read: what to do about it depends on it."""
    one, two = pair
    async with millpond.connect(one.address) as client:
        await one.stop()
        await two.stop()
        one.refuses = BrokerNotReady(reason="broker 1 is starting")
        await one.start()
        with pytest.raises(ClusterUnavailable) as by_call:
            await client.admin.list_topics(timeout=1.0)
        with pytest.raises(ClusterUnavailable) as at_first:
            await millpond.connect(one.address, timeout=0.5)
    for raised in (by_call, at_first):
        reason = raised.value.tried[one.address]
        assert isinstance(reason, NotReady)
        assert reason == "the broker is not ready: broker 1 is starting"


async def test_in_brief_nobody_else_is_asked_unless_the_first_is_out_of_touch(pair: Pair) -> None:
    one, two = pair
    async with millpond.connect(one.address) as client:
        status = await client.admin.status(brief=True)
        assert (status.current, status.told_by, status.topics) == (True, 1, ())
        assert [broker.id for broker in status.brokers] == [1, 2]
        assert (one.described, two.described) == (["."], []), "one of all, and no topic"
        one.unheard_ms = 14_000
        status = await client.admin.status(brief=True)
        assert (status.current, status.told_by, status.topics) == (True, 2, ())


async def test_a_list_of_brokers_waits_for_none_that_hangs(
    pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = pair
    assert await asyncio.to_thread(cli.main, ["cluster", "brokers", "-b", one.address]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert (one.described, two.described) == (["."], [])


async def test_of_a_client_that_is_closed_while_brokers_are_asked_none_is_said_to_be_silent(
    pair: Pair,
) -> None:
    one, two = pair
    async with millpond.connect(one.address) as client:
        two.stalled = True
        asking = asyncio.ensure_future(client.admin.status())
        async with asyncio.timeout(30):
            while "." not in one.described:
                await asyncio.sleep(0.005)
    with pytest.raises(ClientClosed):
        await asking


async def test_nobody_goes_on_asking_where_asking_one_broker_fails(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 10."""
    one, two = pair
    two.stalled = True
    ask, under_way = survey._ask, set()

    async def asked(connection: Connection, broker: metadata_pb2.Broker, *rest: Any) -> Any:
        if broker.id == 1:
            await asyncio.sleep(0)  # the other has begun
            raise RuntimeError("a bug")
        under_way.add(broker.id)
        try:
            return await ask(connection, broker, *rest)
        finally:
            under_way.remove(broker.id)

    monkeypatch.setattr(survey, "_ask", asked)
    async with millpond.connect(one.address) as client:
        with pytest.raises(ExceptionGroup):
            await client.admin.status()
        assert not under_way


async def test_with_nobody_there_nobody_is_asked() -> None:
    (port,) = free_ports(1)
    with pytest.raises(ClusterUnavailable):
        async with millpond.connect(f"127.0.0.1:{port}", timeout=0.5) as client:
            await client.admin.status()
