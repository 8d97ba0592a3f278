"""Each promise that is checked under faults is noticed when it is broken, and not when it is kept."""

from __future__ import annotations

import pytest

from tests.sim.raft.checker import (
    Acknowledged,
    Anomaly,
    CommittedHistory,
    Elected,
    Executed,
    NotApplied,
    Votes,
    check_flaps,
)


def anomaly(caught: pytest.ExceptionInfo[Anomaly]) -> str:
    return caught.value.name


def history() -> CommittedHistory:
    """Voter 1 has applied a, nothing, b, of which b was acknowledged."""
    made = CommittedHistory(Acknowledged())
    made.begins(1, 0)
    made.applied(1, 1, "a")
    made.applied(1, 3, "b")
    made.acknowledged.acknowledged("key of b", 3, "result")
    made.begins(2, 0)
    return made


def test_voters_that_apply_the_same_agree() -> None:
    made = history()
    assert not made.applied(2, 1, "a")
    assert not made.applied(2, 3, "b")
    assert made.applied(2, 4, "c")
    made.begins(3, 3)  # by a snapshot
    assert not made.applied(3, 4, "c")


def test_another_entry_at_an_index_is_noticed() -> None:
    with pytest.raises(Anomaly) as caught:
        history().applied(2, 1, "x")
    assert anomaly(caught) == "applied-prefix"


def test_another_entry_in_place_of_an_acknowledged_one_is_a_loss() -> None:
    made = history()
    made.applied(2, 1, "a")
    with pytest.raises(Anomaly) as caught:
        made.applied(2, 3, "x")
    assert anomaly(caught) == "lost-acknowledged"


@pytest.mark.parametrize("index", [2, 4])
def test_an_entry_that_is_left_out_or_made_up_is_noticed(index: int) -> None:
    made = history()
    if index == 4:  # it leaves b out
        made.applied(2, 1, "a")
    with pytest.raises(Anomaly):
        made.applied(2, index, "c")


def test_an_entry_that_is_applied_again_is_noticed() -> None:
    made = history()
    with pytest.raises(Anomaly) as caught:
        made.applied(1, 3, "b")
    assert anomaly(caught) == "applied-prefix"


def test_a_voter_that_starts_again_applies_again() -> None:
    made = history()
    made.begins(1, 0)
    assert not made.applied(1, 1, "a")


def test_a_proposal_counts_once() -> None:
    executed = Executed()
    executed.executed("key", 5)
    executed.gave(1, 5)
    executed.gave(2, 6)
    with pytest.raises(Anomaly) as caught:
        executed.executed("key", 6)
    assert anomaly(caught) == "duplicate"
    with pytest.raises(Anomaly) as caught:
        executed.gave(1, 7)
    assert anomaly(caught) == "duplicate"


def test_a_retry_is_told_the_same() -> None:
    acknowledged = Acknowledged()
    acknowledged.acknowledged("key", 5, "result")
    acknowledged.acknowledged("key", 9, "result")
    assert acknowledged.last_index == 9
    with pytest.raises(Anomaly) as caught:
        acknowledged.acknowledged("key", 10, "another")
    assert anomaly(caught) == "duplicate"


def test_what_was_not_applied_is_nowhere() -> None:
    told = NotApplied()
    told.attempted("key")
    told.attempted("key")
    told.not_applied("key")
    told.check("key")  # the other attempt may have come through
    told.not_applied("key")
    with pytest.raises(Anomaly) as caught:
        told.check("key")
    assert anomaly(caught) == "not-applied-but-was"


def test_a_term_has_one_leader() -> None:
    elected = Elected()
    elected.leads(1, 2)
    elected.leads(1, 2)
    elected.leads(2, 3)
    assert elected.changes == 2
    with pytest.raises(Anomaly) as caught:
        elected.leads(1, 3)
    assert anomaly(caught) == "two-leaders"


def test_a_voter_votes_once_a_term() -> None:
    votes = Votes()
    votes.voted(1, 2, 3)
    votes.voted(1, 2, 3)
    votes.voted(1, 3, 2)
    with pytest.raises(Anomaly) as caught:
        votes.voted(1, 2, 1)
    assert anomaly(caught) == "vote-twice"


def test_a_leader_has_the_votes_of_a_majority() -> None:
    votes = Votes()
    votes.voted(2, 5, 1)
    votes.voted(3, 5, 4)
    votes.voted(3, 6, 1)
    votes.elected(1, 5, [1, 2, 3])
    votes.elected(1, 1, [1])
    with pytest.raises(Anomaly) as caught:
        votes.elected(1, 5, [1, 2, 3, 4])
    assert anomaly(caught) == "too-few-votes"


def test_two_changes_of_the_leader_a_minute_may_be() -> None:
    check_flaps(2, 60.0)
    with pytest.raises(Anomaly) as caught:
        check_flaps(3, 60.0)
    assert anomaly(caught) == "leader-flaps"
