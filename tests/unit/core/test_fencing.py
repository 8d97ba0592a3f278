"""Brokers that come and go: registration, fences and controlled stops, and what they do to partitions.

Rules 12 and 13, DESIGN §7; from feature level 2 on.
"""

from __future__ import annotations

import pytest

from millpond.wire.errors import ErrorCode
from millpond_broker.core.commands import (
    ChangePartitions,
    FenceBroker,
    SetTopicConfig,
    StopBroker,
    UnfenceBroker,
)
from millpond_broker.core.image import Applied, BrokerState, Refused
from tests.unit.core.clusters import change, cluster, id_of, topic
from tests.unit.core.replicas import ORDERS, Replicated, raised, replicated


def three(min_insync: int = 2) -> Replicated:
    c = replicated(1, 2, 3)
    c.must(topic("orders", (1, 2, 3), min_insync=min_insync))
    assert c.says == "leader 1 in 0, isr 1,2,3"
    return c


def test_a_registration_begins_fenced_and_has_its_index_as_its_epoch() -> None:
    """Rule 12."""
    c = replicated(1)
    assert c.start(2) == Applied(c.index)
    broker = c.image.brokers[2]
    assert (broker.state, broker.epoch, broker.is_lost) == (BrokerState.FENCED, c.index, False)
    c.unfence(2)
    assert c.image.brokers[2].state is BrokerState.RUNNING


def test_a_new_start_is_registered_only_once_the_old_one_is_fenced() -> None:
    """Rule 12: two processes of one id are never both taken for it."""
    c = replicated(1, 2)
    refused = c.start(2, 2)
    assert isinstance(refused, Refused)
    assert refused.code is ErrorCode.BROKER_NOT_READY
    assert refused.error.retriable
    c.fence(2)
    assert isinstance(c.start(2, 2), Applied)


def test_the_same_incarnation_registers_again_as_what_it_was() -> None:
    """Rule 12: a registration whose answer was lost."""
    c = three()
    before = c.image.brokers[2]
    assert c.start(2) == Applied(before.epoch)
    assert c.image.brokers[2] == before
    assert c.says == "leader 1 in 0, isr 1,2,3"


@pytest.mark.parametrize("command", [FenceBroker, UnfenceBroker, StopBroker])
def test_a_command_about_an_earlier_start_changes_nothing(command: type[FenceBroker]) -> None:
    """Rule 12: it names the broker epoch that it was decided on."""
    c = three()
    old = c.epoch(2)
    c.restart(2)
    assert c.refused(command(2, old)).code is ErrorCode.FENCED_EPOCH
    assert c.refused(command(9, 1)).code is ErrorCode.INVALID_REQUEST


def test_a_fence_takes_a_broker_out_of_every_isr_and_leads_on_in_one_step() -> None:
    """Rule 12, DESIGN §7: one command for all partitions of a lost broker."""
    c = replicated(1, 2, 3)
    c.must(topic("orders", (1, 2, 3), (2, 3, 1), (3, 1, 2), min_insync=2))
    c.must(topic("elsewhere", (2, 3), min_insync=2))
    elsewhere = c.image.topics[id_of("elsewhere")]
    before = c.index
    c.fence(1)
    assert c.index == before + 1
    partitions = [c.partition("orders", number) for number in range(3)]
    assert [(state.leader, state.leader_epoch, state.isr) for state in partitions] == [
        (2, 1, (2, 3)),
        (2, 0, (2, 3)),
        (3, 0, (3, 2)),
    ]
    assert all(state.partition_epoch == 1 for state in partitions)
    assert c.image.topics[id_of("elsewhere")] is elsewhere, "what it had no part in is the same object"


def test_a_broker_that_is_fenced_already_stays_as_it_is() -> None:
    c = three()
    c.fence(1)
    since, says = c.image.brokers[1].since, c.says
    c.fence(1)
    assert (c.image.brokers[1].since, c.says) == (since, says)
    c.stop(1)
    assert c.image.brokers[1].state is BrokerState.FENCED


def test_below_min_insync_who_left_stays_eligible_and_the_last_one_too() -> None:
    """Rule 13: with an ISR that is too small nothing commits, so that who left still has everything."""
    c = three(min_insync=2)
    c.fence(3)
    assert c.says == "leader 1 in 0, isr 1,2"
    c.fence(2)
    assert c.says == "leader 1 in 0, isr 1, elr 2"
    c.fence(1)
    assert c.says == "leader - in 0, isr -, elr 1,2, last 1"


def test_a_partition_of_one_replica_waits_for_it_and_is_led_when_it_is_back() -> None:
    """Rules 13 and 14: a cluster of one broker."""
    c = replicated(1)
    c.must(topic("orders", (1,)))
    c.fence(1)
    assert c.says == "leader - in 0, isr -, elr 1, last 1"
    c.start(1, 2)
    assert c.says == "leader - in 0, isr -, elr 1, last 1"
    c.unfence(1)
    assert c.says == "leader 1 in 1, isr 1"


def test_who_comes_back_leads_what_waits_for_it_but_joins_no_isr_by_itself() -> None:
    """Rule 10: only a leader lets others in."""
    c = three()
    c.fence(3)
    c.unfence(3)
    assert c.says == "leader 1 in 0, isr 1,2"


def test_a_controlled_stop_moves_leaders_and_leaves_isrs_that_have_others() -> None:
    """Rule 12."""
    c = three()
    c.stop(1)
    assert c.image.brokers[1].state is BrokerState.STOPPING
    assert c.says == "leader 2 in 1, isr 2,3"
    c.stop(2)
    assert c.says == "leader 3 in 2, isr 3, elr 2"
    c.stop(3)
    assert c.says == "leader 3 in 2, isr 3, elr 2", "nobody else could lead: it goes on until it is gone"
    c.fence(3)
    assert c.says == "leader - in 2, isr -, elr 2,3, last 3"


def test_a_broker_that_is_stopping_moves_what_has_somebody_else_by_now() -> None:
    c = three()
    c.fence(3, 2)
    c.stop(1)
    assert c.says == "leader 1 in 0, isr 1, elr 2"
    c.unfence(2)
    assert c.in_sync(1, 2) is None
    c.control(1, 2)
    assert c.says == "leader 2 in 1, isr 2, elr 1"


def test_another_min_insync_clears_the_elr_in_the_same_step() -> None:
    """Rule 13: with fewer needed, what commits next is not what who left has."""
    c = three(min_insync=3)
    c.fence(3)
    assert c.says == "leader 1 in 0, isr 1,2, elr 3"
    c.must(SetTopicConfig(ORDERS, (), (), min_insync=2))
    assert c.says == "leader 1 in 0, isr 1,2"
    assert c.image.topics[ORDERS].min_insync == 2
    for number in (0, 4):
        assert c.refused(SetTopicConfig(ORDERS, (), (), number)).code is ErrorCode.INVALID_REQUEST


def test_another_min_insync_leaves_the_elr_where_nobody_is_in_sync() -> None:
    """Or nobody would have what was acknowledged; and until it is led nothing commits."""
    c = three(min_insync=2)
    c.fence(3, 2, 1)
    c.must(SetTopicConfig(ORDERS, (), (), min_insync=1))
    assert c.says == "leader - in 0, isr -, elr 1,2, last 1"
    c.unfence(2)
    assert c.says == "leader 2 in 1, isr 2"


def test_a_cluster_of_level_1_goes_on_at_level_2() -> None:
    c = cluster(1, 2)
    c.must(topic("orders", (1, 2), min_insync=2))
    made = Replicated(c.image)
    made.sequence = c.sequence
    raised(made)
    made.fence(1)
    assert made.says == "leader 2 in 1, isr 2, elr 1"
    old = made.partition("orders")
    refused = made.refused(ChangePartitions((change("orders", old, leader=None),)))
    assert refused.code is ErrorCode.INVALID_REQUEST
