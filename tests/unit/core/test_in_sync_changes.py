"""What a leader asks about its ISR, checked where it is applied: rule 11, in its order, with its errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from millpond.wire.errors import ErrorCode
from millpond_broker.core.commands import (
    AlterPartitions,
    ElectionKind,
    InSyncChange,
    InSyncMember,
)
from millpond_broker.core.image import Refused
from tests.unit.core.clusters import id_of, topic
from tests.unit.core.replicas import ORDERS, Replicated, replicated


def without_three() -> Replicated:
    """Led by 1, with 2 in sync; 3 was fenced and is there again; 4 is no replica."""
    c = replicated(1, 2, 3, 4)
    c.must(topic("orders", (1, 2, 3), min_insync=2))
    c.fence(3)
    c.unfence(3)
    c.fence(2)
    c.unfence(2)
    assert c.in_sync(1, 2) is None
    assert c.says == "leader 1 in 0, isr 1,2"
    return c


def test_a_leader_lets_in_who_caught_up_and_shrinks_by_who_fell_behind() -> None:
    """Rules 10 and 13."""
    c = without_three()
    assert c.in_sync(1, 2, 3) is None
    assert c.says == "leader 1 in 0, isr 1,2,3"
    assert c.in_sync(1, 3) is None
    assert c.says == "leader 1 in 0, isr 1,3"
    assert c.in_sync(1) is None
    assert c.says == "leader 1 in 0, isr 1, elr 3"


def test_an_isr_that_is_asked_for_again_makes_a_new_partition_epoch() -> None:
    """By it a leader ends what it had asked for before: whoever it was may not join by that any more."""
    c = without_three()
    before = c.partition("orders")
    assert c.in_sync(2, 1) is None
    assert c.partition("orders") == replace(before, partition_epoch=before.partition_epoch + 1)


def test_who_lost_bytes_leaves_without_being_eligible() -> None:
    """Rules 13 and 37: below minISR who leaves is eligible, but for those that may lack what they had."""
    c = without_three()
    assert c.in_sync(1, unseated=(2,)) is None
    assert c.says == "leader 1 in 0, isr 1"


Ask = Callable[[Replicated], Refused | None]
# In rule 11's order: each line breaks everything after it as well.
CHECKS: list[tuple[str, Ask, ErrorCode]] = [
    ("a newer leader epoch than there is", lambda c: c.in_sync(9, by=2, leader_epoch=7, seen=0),
     ErrorCode.NOT_CONTROLLER),
    ("a newer partition epoch than there is", lambda c: c.in_sync(9, by=2, seen=99),
     ErrorCode.NOT_CONTROLLER),
    ("not the leader", lambda c: c.in_sync(9, by=2, seen=0), ErrorCode.INVALID_REQUEST),
    ("a partition epoch that is over", lambda c: c.in_sync(9, by=1, seen=0),
     ErrorCode.INVALID_UPDATE_VERSION),
    ("no replica", lambda c: c.in_sync(1, 2, 4), ErrorCode.INVALID_REQUEST),
    ("without the leader", lambda c: c.in_sync(2, 3, by=1), ErrorCode.INVALID_REQUEST),
    ("twice", lambda c: c.in_sync(1, 3, 3), ErrorCode.INVALID_REQUEST),
    ("in sync and unseated", lambda c: c.in_sync(1, 2, unseated=(2,)), ErrorCode.INVALID_REQUEST),
    ("caught up as another start", lambda c: c.in_sync(1, 3, member_epoch=3), ErrorCode.INELIGIBLE_REPLICA),
]  # fmt: skip


@pytest.mark.parametrize(("what", "ask", "code"), CHECKS)
def test_rule_11_refuses_a_change_by_its_first_fault(what: str, ask: Ask, code: ErrorCode) -> None:
    c = without_three()
    before = c.image.topics
    refused = ask(c)
    assert refused is not None, what
    assert refused.code is code, what
    assert c.image.topics == before


def test_a_leader_epoch_that_is_over_is_fenced() -> None:
    """Rule 11."""
    c = without_three()
    c.stop(1)
    refused = c.in_sync(1, by=1, leader_epoch=0)
    assert refused is not None
    assert refused.error.facts()["current"] == 1
    assert refused.code is ErrorCode.FENCED_EPOCH


@pytest.mark.parametrize("how", ["fence", "stop", "restart"])
def test_who_is_fenced_stopping_or_restarted_joins_no_isr(how: str) -> None:
    """Rules 10 and 11: also when it left between the leader's question and the answer."""
    c = without_three()
    epoch = c.epoch(3)
    getattr(c, how)(3)
    seen = c.partition("orders").partition_epoch
    change = InSyncChange(ORDERS, 0, 0, seen, (InSyncMember(1, c.epoch(1)), InSyncMember(3, epoch)))
    result = c.must(AlterPartitions(1, c.epoch(1), (change,)))
    assert isinstance(result.value, tuple)
    assert result.value[0].refused.code is ErrorCode.INELIGIBLE_REPLICA
    assert result.value[0].refused.error.retriable


def test_an_earlier_start_of_the_leader_changes_nothing() -> None:
    """Rule 12."""
    c = without_three()
    assert c.refused(AlterPartitions(1, c.epoch(1) - 1, ())).code is ErrorCode.FENCED_EPOCH
    assert c.refused(AlterPartitions(9, 1, ())).code is ErrorCode.INVALID_REQUEST


def test_each_item_is_applied_on_what_those_before_it_left() -> None:
    """Rules 11 and 12: of two that were decided on one state the second changes nothing."""
    c = replicated(1, 2)
    c.must(topic("orders", (1, 2), (1, 2), min_insync=1))
    one, two = (InSyncMember(1, c.epoch(1)), InSyncMember(2, c.epoch(2)))
    changes = (
        InSyncChange(ORDERS, 0, 0, 0, (one,)),
        InSyncChange(ORDERS, 0, 0, 0, (one, two)),
        InSyncChange(id_of("gone"), 0, 0, 0, (one,)),
        InSyncChange(ORDERS, 7, 0, 0, (one,)),
        InSyncChange(ORDERS, 1, 0, 0, (one,)),
    )
    result = c.must(AlterPartitions(1, c.epoch(1), changes))
    assert isinstance(result.value, tuple)
    assert [(item.position, item.refused.code) for item in result.value] == [
        (1, ErrorCode.INVALID_UPDATE_VERSION),
        (2, ErrorCode.UNKNOWN_TOPIC),
        (3, ErrorCode.UNKNOWN_PARTITION),
    ]
    assert [c.partition("orders", number).isr for number in (0, 1)] == [(1,), (1,)]


def test_a_shrink_and_an_election_that_were_decided_on_one_image_do_not_both_apply() -> None:
    """Rule 11: together they would elect from outside the ISR."""
    c = without_three()
    seen = c.partition("orders").partition_epoch
    assert c.in_sync(1) is None
    refused = c.elect(2, ElectionKind.PREFERRED)
    assert refused is not None
    assert c.in_sync(1, 2, seen=seen) is not None
    assert c.says == "leader 1 in 0, isr 1, elr 2"


# --- giving up (rules 15 and 40) -----------------------------------------------------------------------


def test_a_leader_resigns_to_another_and_leaves_the_isr() -> None:
    """Rule 40: it is preferred, and would lead again at once, before its disk works."""
    c = without_three()
    assert c.give_up(1, leaves=False) is None
    assert c.says == "leader 2 in 1, isr 2, elr 1"
    refused = c.give_up(1, leaves=False)
    assert refused is not None, "it does not lead any more"
    assert refused.code is ErrorCode.INVALID_REQUEST


def test_a_leader_that_is_alone_leads_on_in_the_next_epoch() -> None:
    """Rule 12: it loses no bytes within its epoch, and may cut what never was durable between two."""
    c = replicated(1)
    c.must(topic("orders", (1,)))
    assert c.give_up(1, leaves=False) is None
    assert c.says == "leader 1 in 1, isr 1"


def test_a_leader_that_stops_and_resigns_alone_leads_no_more() -> None:
    c = replicated(1)
    c.must(topic("orders", (1,)))
    c.stop(1)
    assert c.give_up(1, leaves=False) is None
    assert c.says == "leader - in 0, isr 1, last 1"


def test_who_found_bad_bytes_leaves_isr_and_elr() -> None:
    """Rule 15: only then may it wipe them."""
    c = without_three()
    assert c.give_up(1, leaves=True) is None
    assert c.says == "leader 2 in 1, isr 2"
    assert c.give_up(1, leaves=True) is None, "it has left"
    assert c.says == "leader 2 in 1, isr 2"


def test_who_gave_up_its_bytes_joins_only_by_what_it_stated_since() -> None:
    """Rule 15: a request that was made for the log it had may be under way, or be made by a leader that has
    not heard yet. Found by `metadata_world`.
    """
    c = without_three()
    assert c.give_up(3, leaves=True) is None
    given_up = c.partition("orders").partition_epoch
    for stated_in in (0, given_up - 1):
        refused = c.in_sync(1, 2, 3, stated_in=stated_in)
        assert refused is not None
        assert refused.code is ErrorCode.INELIGIBLE_REPLICA
    assert c.in_sync(1, 2, 3, seen=given_up - 1) is not None, "decided before it"
    assert c.in_sync(1, 2, 3, stated_in=given_up) is None
    assert c.partition("orders").floors == ()


def test_a_replica_that_is_added_joins_only_by_what_it_stated_as_one() -> None:
    """It may have been one before, with a log that its leader remembers."""
    c = without_three()
    assert c.reassign(1, 2, 4) is None
    added = c.partition("orders").partition_epoch
    assert c.in_sync(1, 2, 4, stated_in=added - 1) is not None
    assert c.in_sync(1, 2, 4, stated_in=added) is None


def test_the_only_one_that_has_what_was_acknowledged_goes_offline_and_keeps_it() -> None:
    """Rule 15."""
    c = without_three()
    c.fence(1)
    assert c.says == "leader 2 in 1, isr 2, elr 1"
    assert c.give_up(1, leaves=True) is None
    assert c.says == "leader 2 in 1, isr 2"
    assert c.give_up(2, leaves=True) is None
    assert c.says == "leader - in 1, isr -, elr 2, last 2, offline"
    assert c.give_up(2, leaves=True) is None
    c.control(2, 3, 4)
    assert c.says == "leader - in 1, isr -, elr 2, last 2, offline", "nobody else is elected, nor itself"
    c.restart(2)
    c.unfence(2)
    assert c.says == "leader 2 in 2, isr 2", "it recovered anew, and has not found it bad again"
