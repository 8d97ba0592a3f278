"""Replicas that move: added, waited for, dropped; and at no time is anything lost by it."""

from __future__ import annotations

import pytest

from millpond.wire.errors import (
    ErrorCode,
    InvalidRequest,
    MillpondError,
    NotEnoughBrokers,
    UnknownPartition,
    UnknownTopic,
)
from millpond_broker.core.requests import new_reassignment
from tests.unit.core.clusters import id_of, topic
from tests.unit.core.replicas import ORDERS, Replicated, replicated


def five(*replicas: int, min_insync: int = 2) -> Replicated:
    c = replicated(1, 2, 3, 4, 5)
    c.must(topic("orders", replicas or (1, 2, 3), min_insync=min_insync))
    return c


def test_a_partition_moves_by_adding_waiting_and_dropping() -> None:
    story = []
    c = five()
    assert c.reassign(4, 5, 1) is None
    story.append(c.says)
    c.control(1, 2, 3, 4, 5)
    assert c.in_sync(1, 2, 3, 4) is None
    c.control(1, 2, 3, 4, 5)
    story.append(c.says)
    assert c.in_sync(1, 2, 3, 4, 5) is None
    c.control(1, 2, 3, 4, 5)
    story.append(c.says)
    assert story == [
        "leader 1 in 0, isr 1,2,3, adding 4,5, removing 2,3",
        "leader 1 in 0, isr 4,1,2,3, adding 4,5, removing 2,3",
        "leader 1 in 0, isr 4,5,1",
    ]
    assert c.partition("orders").replicas == (4, 5, 1)
    c.control(1, 2, 3, 4, 5, now_ms=10**9)
    assert c.says == "leader 4 in 1, isr 4,5,1", "the first is preferred"


def test_a_leader_that_is_dropped_is_replaced_in_the_same_step() -> None:
    c = five()
    assert c.reassign(4, 5) is None
    assert c.in_sync(1, 2, 3, 4, 5) is None
    assert c.finish() is None
    assert c.says == "leader 4 in 1, isr 4,5"


def test_a_reassignment_is_not_finished_before_enough_are_in_sync() -> None:
    c = five()
    assert c.finish() is not None, "there is none"
    assert c.reassign(4, 5, 1) is None
    refused = c.finish()
    assert refused is not None
    assert "4 is not in sync" in str(refused.error)
    assert c.in_sync(1, 4, 5) is None
    c.stop(4)
    assert c.says.startswith("leader 1 in 0, isr 5,1,")
    assert c.finish() is not None


def test_enough_are_as_many_as_min_insync_of_those_that_stay() -> None:
    """Rule 13: or an eligible replica would be dropped that has what was acknowledged."""
    c = five(1, 2, 3, min_insync=2)
    assert c.reassign(1, 2) is None
    c.fence(2)
    assert c.says == "leader 1 in 0, isr 1,3, removing 3"
    assert c.finish() is not None
    c.control(1, 3, 4, 5)
    assert c.partition("orders").replicas == (1, 2, 3)
    c.unfence(2)
    assert c.in_sync(1, 2, 3) is None
    c.control(1, 2, 3, 4, 5)
    assert c.says == "leader 1 in 0, isr 1,2"


def test_fewer_replicas_than_min_insync_need_all_of_them() -> None:
    """The effective minISR is that of the replicas there are."""
    c = five(1, 2, 3, min_insync=3)
    assert c.reassign(2) is None
    c.control(1, 2, 3, 4, 5)
    assert c.says == "leader 2 in 1, isr 2"


def test_a_reassignment_is_cancelled_by_the_replicas_that_were_there() -> None:
    c = five()
    assert c.reassign(4, 5) is None
    assert c.reassign(1, 2, 3) is None
    assert c.says == "leader 1 in 0, isr 1,2,3"
    assert c.reassign(4, 5) is None
    assert c.in_sync(1, 2, 3, 4) is None
    assert c.reassign(1, 2, 3) is None
    assert c.says == "leader 1 in 0, isr 4,1,2,3, removing 4", "4 is in sync, and goes in its turn"
    c.control(1, 2, 3, 4, 5)
    assert c.says == "leader 1 in 0, isr 1,2,3"


def test_a_reassignment_is_replaced_by_another() -> None:
    c = five()
    assert c.reassign(4, 1, 2) is None
    assert c.says == "leader 1 in 0, isr 1,2,3, adding 4, removing 3"
    assert c.reassign(5, 1, 2) is None
    assert c.says == "leader 1 in 0, isr 1,2,3, adding 5, removing 3"


def test_another_order_is_another_preferred_leader_and_nothing_else() -> None:
    c = five()
    assert c.reassign(3, 1, 2) is None
    assert c.says == "leader 1 in 0, isr 1,2,3"
    c.control(1, 2, 3, 4, 5, now_ms=10**9)
    assert c.says == "leader 3 in 1, isr 1,2,3"


def test_another_replication_factor_clears_the_elr() -> None:
    """Rule 13."""
    c = five(1, 2, 3, min_insync=3)
    c.fence(3)
    assert c.says == "leader 1 in 0, isr 1,2, elr 3"
    assert c.reassign(1, 2, 3, 4) is None
    assert c.says == "leader 1 in 0, isr 1,2, adding 4"


def test_the_last_known_leader_stays_a_replica_until_somebody_leads() -> None:
    """Rule 14: it is the one to ask."""
    c = five(1, min_insync=1)
    c.fence(1)
    assert c.reassign(4) is None
    assert c.says == "leader - in 0, isr -, elr 1, last 1, adding 4, removing 1"
    c.control(4, now_ms=10**9)
    assert c.partition("orders").leader is None
    c.unfence(1)
    assert c.says == "leader 1 in 1, isr 1, adding 4, removing 1"


@pytest.mark.parametrize("replicas", [(), (1, 1), (1, 9)])
def test_replicas_are_registered_and_each_is_there_once(replicas: tuple[int, ...]) -> None:
    c = five()
    refused = c.reassign(*replicas)
    assert refused is not None
    assert refused.code is ErrorCode.INVALID_REQUEST
    with pytest.raises(InvalidRequest):
        new_reassignment(c.image, ORDERS, 0, replicas)


def test_a_request_to_move_is_refused_before_it_is_proposed() -> None:
    c = five()
    c.fence(4)
    asked: list[tuple[bytes, int, tuple[int, ...], type[MillpondError]]] = [
        (id_of("gone"), 0, (1,), UnknownTopic),
        (ORDERS, 7, (1,), UnknownPartition),
        (ORDERS, 0, (1, 4), NotEnoughBrokers),
    ]
    for topic_id, number, replicas, error in asked:
        with pytest.raises(error):
            new_reassignment(c.image, topic_id, number, replicas)
    assert c.must(new_reassignment(c.image, ORDERS, 0, (5, 1))).value == ()
    assert c.says == "leader 1 in 0, isr 1,2,3, adding 5, removing 2,3"
