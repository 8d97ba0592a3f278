"""Who leads, and who may have lost what: rules 14 and 15, in the image and in the planner."""

from __future__ import annotations

from dataclasses import replace

import pytest

from millpond.wire.errors import ErrorCode
from millpond_broker.core.commands import ElectionKind
from millpond_broker.core.controller import CHANGES_MAX, PlanOptions, plan
from millpond_broker.core.image import Refused
from millpond_broker.core.requests import preferred_elections, unclean_elections
from millpond_broker.core.state import frozen
from tests.unit.core.clusters import topic
from tests.unit.core.replicas import ORDERS, Replicated, raised, replicated


def three(min_insync: int = 2, flush: str = "commit") -> Replicated:
    c = replicated(1, 2, 3)
    c.must(topic("orders", (1, 2, 3), min_insync=min_insync, config={"flush": flush}))
    return c


def power_loss(c: Replicated) -> None:
    """All at once, as the controller that comes back sees it: one after another."""
    c.fence(3, 2, 1)
    assert c.says == "leader - in 0, isr -, elr 1,2, last 1"


def refused_as(refused: Refused | None, code: ErrorCode) -> bool:
    return refused is not None and refused.code is code


# --- clean (rule 14) -----------------------------------------------------------------------------------


def test_without_an_isr_an_eligible_replica_leads_as_the_whole_isr() -> None:
    """Rule 14."""
    c = three()
    power_loss(c)
    c.unfence(2)
    assert c.says == "leader 2 in 1, isr 2, elr 1"


def test_who_was_not_in_isr_or_elr_leads_nothing_however_long_it_waits() -> None:
    """Rule 14: 3 lacks what 1 and 2 acknowledged without it."""
    c = three()
    power_loss(c)
    c.unfence(3)
    c.control(3, now_ms=10**9)
    assert c.says == "leader - in 0, isr -, elr 1,2, last 1"
    for kind in (ElectionKind.CLEAN, ElectionKind.RECOVERING, ElectionKind.PREFERRED):
        assert refused_as(c.elect(3, kind), ErrorCode.INVALID_REQUEST)


def test_who_is_not_there_or_no_replica_is_not_elected() -> None:
    c = three()
    power_loss(c)
    assert refused_as(c.elect(1, ElectionKind.CLEAN), ErrorCode.INELIGIBLE_REPLICA)
    assert refused_as(c.elect(1, ElectionKind.UNCLEAN), ErrorCode.INELIGIBLE_REPLICA)
    assert refused_as(c.elect(9, ElectionKind.UNCLEAN), ErrorCode.INVALID_REQUEST)
    c.unfence(3)
    assert refused_as(c.elect(3, 77), ErrorCode.INVALID_REQUEST)


def test_a_partition_that_is_led_is_not_led_by_another_for_nothing() -> None:
    """Rule 14: the current leader, if it is valid."""
    c = three()
    for kind in (ElectionKind.CLEAN, ElectionKind.RECOVERING, ElectionKind.UNCLEAN):
        assert refused_as(c.elect(2, kind), ErrorCode.INVALID_REQUEST)


# --- cuts, flush=commit (rule 15) ----------------------------------------------------------------------


def test_an_unclean_restart_that_cut_nothing_keeps_its_seat() -> None:
    """Rule 15, flush=commit."""
    c = three()
    power_loss(c)
    assert not isinstance(c.start(1, 2, previous_epoch=0), Refused)
    assert c.says == "leader - in 0, isr -, elr 1,2, last 1"


def test_who_cut_bytes_is_out_at_once_while_somebody_is_in_sync() -> None:
    """Rule 15: that one cut nothing."""
    c = three()
    c.fence(3)
    c.restart(2, cuts=[(0, 0, 7)])
    assert c.says == "leader 1 in 0, isr 1"


def test_a_power_loss_everybody_cut_and_the_one_with_most_leads() -> None:
    """Rule 15: their logs agree up to where the shortest ends, so that the greatest (epoch, end) has all."""
    story = []
    c = three()
    power_loss(c)
    c.start(2, 2, cuts=[(0, 0, 9)])
    story.append(c.says)
    c.unfence(2)
    c.control(2)
    story.append(c.says)
    c.start(1, 2, cuts=[(0, 0, 7)])
    c.unfence(1)
    story.append(c.says)
    c.control(1, 2)
    story.append(c.says)
    assert story == [
        "leader - in 0, isr -, elr 1,2, last 1, cut 2",
        "leader - in 0, isr -, elr 1,2, last 1, cut 2",  # 1 may have cut nothing: wait for it
        "leader - in 0, isr -, elr 1,2, last 1, cut 1,2",
        "leader 2 in 1, isr 2, recovering",
    ]


def test_a_power_loss_and_one_that_cut_nothing_leads_alone() -> None:
    """Rule 15: who cut keeps its seat until such a one is registered, and loses it then."""
    c = three()
    power_loss(c)
    c.start(2, 2, cuts=[(0, 0, 9)])
    c.unfence(2)
    c.start(1, 2)
    assert c.says == "leader - in 0, isr -, elr 1, last 1"
    c.unfence(1)
    assert c.says == "leader 1 in 1, isr 1"


def test_a_member_that_was_cut_off_and_not_restarted_settles_it_too() -> None:
    """Rule 15: down or not yet heard is not uncut; there again as the same start is."""
    c = three()
    power_loss(c)
    c.start(2, 2, cuts=[(0, 0, 9)])
    assert c.partition("orders").cuts
    c.unfence(1)
    assert c.says == "leader 1 in 1, isr 1"


def test_a_report_stands_through_another_restart_that_cuts_nothing_more() -> None:
    """Rule 15: the bytes are still gone."""
    c = three()
    power_loss(c)
    c.start(2, 2, cuts=[(0, 0, 9)])
    c.unfence(2)
    c.restart(2, 3)
    assert c.says == "leader - in 0, isr -, elr 1,2, last 1, cut 2"
    c.restart(2, 4, cuts=[(0, 0, 5)])
    assert [cut.end for cut in c.partition("orders").cuts] == [5]


def test_who_cut_is_not_elected_until_the_others_have_had_their_time() -> None:
    """Rule 15's grace period, and at least minISR of them."""
    c = replicated(1, 2, 3)
    c.must(topic("orders", (1, 2, 3), min_insync=3))
    c.fence(3, 2, 1)
    assert c.says == "leader - in 0, isr -, elr 1,2,3, last 1"
    for number, member in enumerate((1, 2)):
        c.start(member, 2, cuts=[(0, 1, 5 + number)])
        c.unfence(member)
    c.control(1, 2, now_ms=10**9)
    assert "recovering" not in c.says, "two of minISR 3"
    assert refused_as(c.elect(2, ElectionKind.RECOVERING), ErrorCode.INVALID_REQUEST)

    c = replicated(1, 2, 3)
    c.must(topic("orders", (1, 2, 3), min_insync=2))
    c.fence(2, 1)  # 3 is the last one in sync
    assert c.says == "leader 3 in 1, isr 3, elr 1"
    c.fence(3)
    assert c.says == "leader - in 1, isr -, elr 1,3, last 3"
    c.start(1, 2, cuts=[(0, 0, 5)])
    c.unfence(1)
    assert refused_as(c.elect(1, ElectionKind.RECOVERING), ErrorCode.INVALID_REQUEST)
    options = PlanOptions(cut_grace_ms=1000)
    c.control(1, now_ms=10**9, options=options)
    assert c.says == "leader - in 1, isr -, elr 1,3, last 3, cut 1", "one of minISR 2"


def test_after_its_time_the_greatest_of_enough_reports_leads() -> None:
    """Rule 15: ELR 1, 2 and 3 of minISR 2, of which 3 does not come back."""
    c = replicated(1, 2, 3)
    c.must(topic("orders", (1, 2, 3), min_insync=3))
    c.fence(3, 2, 1)
    topics = {ORDERS: replace(c.image.topics[ORDERS], min_insync=2)}
    c.image = replace(c.image, topics=frozen(topics))
    for member, end in ((1, 8), (2, 6)):
        c.start(member, 2, cuts=[(0, 1, end)])
        c.unfence(member)
    options = PlanOptions(cut_grace_ms=1000)
    c.control(1, 2, now_ms=999, options=options)
    assert c.says == "leader - in 0, isr -, elr 1,2,3, last 1, cut 1,2"
    assert refused_as(c.elect(2, ElectionKind.RECOVERING), ErrorCode.INVALID_REQUEST), "1 has more"
    c.control(1, 2, now_ms=1000, options=options)
    assert c.says == "leader 1 in 1, isr 1, recovering"


@pytest.mark.parametrize(
    ("reports", "leader"),
    [
        ({1: (0, 9), 2: (0, 8)}, 1),
        ({1: (0, 9), 2: (1, 3)}, 2),  # the epoch counts first
        ({1: (None, 0), 2: (0, 1)}, 2),
        ({1: (0, 5), 2: (0, 5)}, 1),  # by assignment
    ],
)
def test_of_cut_logs_the_greatest_last_epoch_then_end_leads(
    reports: dict[int, tuple[int | None, int]], leader: int
) -> None:
    """Rule 15."""
    c = three()
    power_loss(c)
    for member, (epoch, end) in reports.items():
        c.start(member, 2, cuts=[(0, epoch, end)])
        c.unfence(member)
    c.control(1, 2)
    assert c.partition("orders").leader == leader


def test_the_one_with_most_is_waited_for_when_it_is_gone_again() -> None:
    c = three()
    power_loss(c)
    c.start(2, 2, cuts=[(0, 0, 9)])
    c.start(1, 2, cuts=[(0, 0, 7)])
    c.unfence(1)
    c.fence(2)
    c.control(1, now_ms=10**9)
    assert c.says == "leader - in 0, isr -, elr 1,2, last 1, cut 1,2"
    c.unfence(2)
    c.control(1, 2)
    assert c.says == "leader 2 in 1, isr 2, recovering"


def test_the_mark_of_a_recovery_stays_with_its_epoch() -> None:
    """Rule 5: who has a high watermark from before that epoch may have to truncate below it."""
    c = three()
    power_loss(c)
    for member in (1, 2):
        c.start(member, 2, cuts=[(0, 0, 5)])
        c.unfence(member)
    c.control(1, 2)
    assert c.says == "leader 1 in 1, isr 1, recovering"
    assert c.in_sync(1, 2) is None
    c.fence(1)
    assert c.says == "leader 2 in 2, isr 2, elr 1"
    assert c.partition("orders").recovering_epoch == 1


def test_reports_of_partitions_that_are_gone_or_not_its_own_change_nothing() -> None:
    c = three()
    before = c.partition("orders")
    c.fence(3)
    c.start(3, 2, cuts=[(0, 0, 1), (7, 0, 1)])
    assert c.says == "leader 1 in 0, isr 1,2"
    assert c.partition("orders").partition_epoch == before.partition_epoch + 1


# --- flush=interval (rule 15) ----------------------------------------------------------------------------


def test_with_flush_interval_an_unclean_restart_loses_its_seat() -> None:
    """Rule 15: what it acknowledged since its last sync may be gone."""
    c = three(flush="interval")
    power_loss(c)
    c.start(2, 2, previous_epoch=0)
    assert c.says == "leader - in 0, isr -, elr 1, last 1"
    c.start(1, 2)
    assert c.says == "leader - in 0, isr -, elr 1, last 1", "this one stopped cleanly"
    c.unfence(1)
    assert c.says == "leader 1 in 1, isr 1"


def test_with_flush_interval_a_marker_of_an_earlier_start_is_no_marker() -> None:
    """Rule 15: it holds the broker epoch."""
    c = three(flush="interval")
    first = c.epoch(2)
    c.restart(2)
    c.fence(3, 1)
    assert c.says == "leader - in 0, isr -, elr 1,3, last 1"
    c.unfence(1, 2)
    assert c.in_sync(1, 2) is None
    c.fence(1, 2)
    assert c.says == "leader - in 2, isr -, elr 1,2, last 2"
    c.start(2, 3, previous_epoch=first)
    assert c.says == "leader - in 2, isr -, elr 1, last 2"


def test_with_flush_interval_a_report_of_one_partition_costs_its_seat_there() -> None:
    """Rule 15: its own marker is missing, though the broker stopped cleanly."""
    c = replicated(1, 2, 3)
    c.must(topic("orders", (1, 2, 3), (1, 2, 3), min_insync=2, config={"flush": "interval"}))
    c.fence(3, 2, 1)
    c.start(2, 2, cuts=[(1, 0, 3)])
    assert [c.partition("orders", number).elr for number in (0, 1)] == [(1, 2), (1,)]


def test_when_everybody_lost_their_seats_the_last_known_leader_leads_marked() -> None:
    """Rule 14: with ISR and ELR empty, that one and no other, and its followers are told."""
    c = three(flush="interval")
    power_loss(c)
    c.start(1, 2, previous_epoch=0)
    c.start(2, 2, previous_epoch=0)
    assert c.says == "leader - in 0, isr -, last 1"
    c.unfence(2, 3)
    c.control(2, 3, now_ms=10**9)
    assert c.says == "leader - in 0, isr -, last 1"
    assert refused_as(c.elect(2, ElectionKind.RECOVERING), ErrorCode.INVALID_REQUEST)
    c.unfence(1)
    c.control(1, 2, 3)
    assert c.says == "leader 1 in 1, isr 1, recovering"


# --- unclean and preferred -----------------------------------------------------------------------------


def test_an_unclean_election_is_only_where_the_topic_allows_it_or_an_administrator_asks() -> None:
    """Rule 14."""
    c = three()
    power_loss(c)
    c.unfence(3)
    c.control(3)
    assert c.partition("orders").leader is None
    asked = Replicated(c.image)
    asked.sequence = 500
    (command,) = unclean_elections(asked.image, [(ORDERS, 0)])
    assert asked.must(command).value == ()
    assert asked.says == "leader 3 in 1, isr 3, recovering"
    allowed = replace(c.image.topics[ORDERS], config_set=(("unclean_election", "true"),))
    c.image = replace(c.image, topics=frozen({ORDERS: allowed}))
    c.control(3)
    assert c.says == "leader 3 in 1, isr 3, recovering"


def test_an_unclean_election_is_refused_while_a_clean_one_is_there_to_be_had() -> None:
    c = three()
    c.fence(3, 2)
    c.stop(1)
    assert c.give_up(1, leaves=False) is None
    assert c.says == "leader - in 0, isr 1, elr 2, last 1"
    c.unfence(3)
    assert c.elect(3, ElectionKind.UNCLEAN) is None, "1 is stopping: it will not lead again"

    c = three()
    power_loss(c)
    c.restart(2)
    c.unfence(3)
    before = c.image
    c.unfence(2)
    assert refused_as(c.elect(3, ElectionKind.UNCLEAN), ErrorCode.INVALID_REQUEST)
    assert before.topics[ORDERS].partitions[0].leader is None


def test_an_administrator_who_asks_for_unclean_elections_gets_clean_ones_where_they_can_be_had() -> None:
    c = three()
    assert unclean_elections(c.image, [(ORDERS, 0)]) == []
    power_loss(c)
    assert unclean_elections(c.image, [(ORDERS, 0)]) == [], "nobody is there"


def test_a_preferred_leader_gets_its_partitions_back_once_it_has_settled() -> None:
    """Rule 14 leaves the current leader; balance does not."""
    c = three()
    c.fence(1)
    c.unfence(1)
    assert c.in_sync(1, 2, 3) is None
    options = PlanOptions(rebalance_after_ms=1000)
    c.control(1, 2, 3, now_ms=999, options=options)
    assert c.says == "leader 2 in 1, isr 1,2,3"
    c.control(1, 2, 3, now_ms=1000, options=options)
    assert c.says == "leader 1 in 2, isr 1,2,3"


def test_preferred_leaders_are_elected_on_request_where_they_are_in_sync() -> None:
    c = three()
    assert preferred_elections(c.image, [(ORDERS, 0)]) == []
    c.fence(1)
    c.unfence(1)
    assert preferred_elections(c.image, [(ORDERS, 0)]) == []
    assert refused_as(c.elect(1, ElectionKind.PREFERRED), ErrorCode.INVALID_REQUEST)
    assert c.in_sync(1, 2, 3) is None
    (command,) = preferred_elections(c.image, [(ORDERS, 0)])
    assert c.must(command).value == ()
    assert c.says == "leader 1 in 2, isr 1,2,3"


def test_balance_moves_a_bounded_number_of_leaders_at_once() -> None:
    c = replicated(1, 2)
    c.must(topic("orders", *[(1, 2)] * 7))
    c.fence(1)
    c.unfence(1)
    for number in range(7):
        assert c.in_sync(1, 2, number=number) is None
    (command,) = plan(c.image, c.sessions(1, 2), 10**9, PlanOptions(rebalance_max=3))
    assert len(command.elections) == 3  # type: ignore[union-attr]  # of that kind
    assert CHANGES_MAX >= 3


# --- planning --------------------------------------------------------------------------------------------


def test_who_has_no_session_is_fenced_and_who_caught_up_is_unfenced() -> None:
    """Rules 12, 39 and 44: up to the command that fenced it, or registered it."""
    c = three()
    (fence,) = plan(c.image, c.sessions(1, 2), 0)
    c.must(fence)
    assert plan(c.image, c.sessions(1, 2), 0) == []
    sessions = c.sessions(1, 2, 3)
    behind = replace(sessions[3], applied_index=c.image.brokers[3].since - 1)
    unheard = replace(sessions[3], is_heard=False)
    of_another_start = replace(sessions[3], broker_epoch=c.epoch(3) - 1)
    for session in (behind, unheard, of_another_start):
        assert plan(c.image, {**sessions, 3: session}, 0) == []
    c.control(1, 2, 3)
    assert c.in_sync(1, 2, 3) is None
    assert c.says == "leader 1 in 0, isr 1,2,3"


def test_who_registered_and_is_gone_again_before_it_was_unfenced_is_lost() -> None:
    """Rule 15: what it has nobody knows any more."""
    c = three()
    power_loss(c)
    c.start(1, 2)
    assert not c.image.brokers[1].is_lost
    c.control()
    assert c.image.brokers[1].is_lost
    c.start(2, 2, cuts=[(0, 0, 5)])
    assert c.says == "leader - in 0, isr -, elr 1,2, last 1, cut 2"


def test_the_level_is_raised_when_all_that_are_registered_know_it() -> None:
    c = Replicated(three().image)
    c.sequence = 100
    c.image = replace(c.image, feature_level=1, brokers=frozen(
        {key: replace(broker, feature_level=1) for key, broker in c.image.brokers.items()}
    ))  # fmt: skip
    sessions = c.sessions(1, 2, 3)
    assert plan(c.image, {**sessions, 3: replace(sessions[3], feature_level=1)}, 0) == []
    assert plan(c.image, c.sessions(1, 2), 0) == []
    (command,) = plan(c.image, sessions, 0)
    c.must(command)
    assert c.image.feature_level == 2
    raised(c)
