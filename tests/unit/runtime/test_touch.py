"""How old a broker's knowledge is, and when it is not ready any more: rule 39, as people are told of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from millpond_broker.core.image import BrokerState
from millpond_broker.core.sessions import SessionOptions
from millpond_broker.runtime.heartbeats import SESSION_SECONDS, UNHEARD_SECONDS_MAX
from millpond_broker.runtime.touch import CURRENT_SECONDS_MAX, UNREADY_SECONDS, Touch
from tests.unit.runtime.members import Cluster, play, until
from tests.unit.runtime.test_lease import Time

A_BEAT = 0.75
"""Between two answers to a broker that is well: half a second, and what it takes."""


def test_its_bounds_are_those_of_a_session() -> None:
    assert CURRENT_SECONDS_MAX == SESSION_SECONDS == SessionOptions().session_ms / 1000
    assert UNREADY_SECONDS >= SESSION_SECONDS + UNHEARD_SECONDS_MAX, "a fail-over is no reason to be unready"


def test_a_broker_alone_knows_all_that_there_is() -> None:
    time = Time()
    touch = Touch(time, is_alone=True)
    time.now += 1000.0
    assert (touch.unheard_seconds(), touch.why_not_ready()) == (0.0, None)


def test_who_is_heard_and_in_no_session_is_in_touch_and_not_ready() -> None:
    time = Time()
    touch = Touch(time, is_alone=False)
    touch.heard(time.now, in_session=True)
    for _ in range(6):
        assert touch.why_not_ready() is None
        time.now += 1.0
        touch.heard(time.now, in_session=False)
    assert touch.unheard_seconds() == 0.0
    assert touch.why_not_ready() == "fenced for 6 s: it is out of the cluster, or catching up"
    touch.heard(time.now, in_session=True)
    assert touch.why_not_ready() is None


def test_who_took_long_to_be_let_in_is_ready_when_it_is() -> None:
    """Its first answer in a session is under way, and whoever asks meanwhile need not be told "fenced"."""
    time = Time()
    touch = Touch(time, is_alone=False)
    time.now += 60.0
    assert touch.why_not_ready() is not None
    touch.joined()
    assert touch.why_not_ready() is None


def test_an_answer_that_comes_late_tells_nothing_newer() -> None:
    time = Time()
    touch = Touch(time, is_alone=False)
    touch.heard(time.now - 0.5, in_session=True)
    touch.heard(time.now - 2.0, in_session=True)
    assert touch.unheard_seconds() <= 0.5


def is_well(cluster: Cluster, *ids: int) -> bool:
    return all(
        cluster.nodes[key].heartbeats.unheard_seconds() < A_BEAT + UNHEARD_SECONDS_MAX
        and cluster.nodes[key].heartbeats.touch.why_not_ready() is None
        for key in ids
    )


def test_without_a_majority_every_broker_that_is_left_says_how_long_ago_it_knew() -> None:
    async def story(cluster: Cluster) -> None:
        assert is_well(cluster, 1, 2, 3)
        await cluster.kill(1)
        cluster.voters.leader = None
        await asyncio.sleep(2.0)
        assert cluster.nodes[2].heartbeats.unheard_seconds() < CURRENT_SECONDS_MAX, "not yet"
        await asyncio.sleep(28.0)
        for key in (2, 3):
            heartbeats = cluster.nodes[key].heartbeats
            assert heartbeats.unheard_seconds() == pytest.approx(30.0, abs=1.0)
            assert heartbeats.touch.why_not_ready() == "out of touch: no controller has answered for 30 s"
        cluster.voters.elect(2)
        await until(lambda: is_well(cluster, 2, 3), 2.0)

    play(story)


def test_a_fail_over_of_the_controller_makes_nobody_unready() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.kill(1)
        cluster.voters.leader = None
        assert await never_in(3.0, lambda: not ready(cluster, 2, 3))
        cluster.voters.elect(3)
        assert await never_in(10.0, lambda: not ready(cluster, 2, 3))

    play(story)


def ready(cluster: Cluster, *ids: int) -> bool:
    return all(cluster.nodes[key].heartbeats.touch.why_not_ready() is None for key in ids)


async def never_in(seconds: float, condition: Callable[[], bool]) -> bool:
    for _ in range(int(seconds * 100)):
        if condition():
            return False
        await asyncio.sleep(0.01)
    return True


def test_who_is_behind_what_the_controller_has_knows_as_much_as_it_had_then() -> None:
    """Rule 44: the answers come, and say that there is something newer."""

    async def story(cluster: Cluster) -> None:
        cluster.voters.behind.add(3)
        await cluster.kill(2)
        known = cluster.nodes[1].metadata
        await until(lambda: known.image.brokers[2].state is BrokerState.FENCED, 5.0)
        await asyncio.sleep(2.5)
        assert cluster.nodes[3].heartbeats.touch.unheard_seconds() < A_BEAT, "it is answered"
        assert cluster.nodes[3].heartbeats.unheard_seconds() == pytest.approx(2.5, abs=A_BEAT)

    play(story)
