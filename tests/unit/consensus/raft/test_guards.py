"""Each guard by itself. What is lost without one, `tests/sim/raft` shows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from millpond_broker.consensus.journal import Entry, EntryKind
from millpond_broker.consensus.raft.guards import Guards
from millpond_broker.consensus.raft.messages import Appended, AppendEntries, PreVote, RequestVote, Vote

GUARDS = Guards()


def made(terms: list[int], start: int = 1) -> tuple[Entry, ...]:
    """Entries of those terms, from an index on."""
    return tuple(
        Entry(index, term, EntryKind.COMMAND, b"%d/%d" % (index, term))
        for index, term in enumerate(terms, start=start)
    )


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    """Terms of a follower's and a leader's log that agree as Raft's logs do, and the leader's term."""
    common = sorted(draw(st.lists(st.integers(1, 3), max_size=8)))
    last = common[-1] if common else 1
    # Behind what they share they never have the same term at one index.
    mine = sorted(draw(st.lists(st.integers(last, 3).map(lambda term: 2 * term), max_size=6)))
    theirs = sorted(draw(st.lists(st.integers(last, 3).map(lambda term: 2 * term + 1), max_size=6)))
    shared = [2 * term - 1 for term in common]
    return shared + mine, shared + theirs, draw(st.integers(7, 9))


@given(logs(), st.data())
def test_an_append_takes_back_only_what_conflicts(
    both: tuple[list[int], list[int], int], data: st.DataObject
) -> None:
    """However a leader repeats itself, with whatever of its log: what agrees stays, and what is said of how
    far both agree is true.
    """
    mine, theirs, term = both
    begins_after = data.draw(st.integers(0, len([1 for a, b in zip(mine, theirs, strict=False) if a == b])))
    previous = data.draw(st.integers(0, len(theirs)))
    count = data.draw(st.integers(0, len(theirs) - previous))
    message = AppendEntries(
        term,
        len(theirs),
        previous,
        theirs[previous - 1] if previous else 0,
        made(theirs[previous : previous + count], previous + 1),
    )

    def term_at(index: int) -> int | None:
        if index == 0:
            return 0
        return mine[index - 1] if begins_after <= index <= len(mine) else None

    trimmed, agrees = GUARDS.unrepeated(term_at, begins_after, len(mine), message)
    agreeing = 0
    for a, b in zip(mine, theirs, strict=False):
        if a != b:
            break
        agreeing += 1
    if agrees is not None:
        assert agrees <= agreeing
        assert agrees >= min(agreeing, previous + count)
        return
    if term_at(trimmed.previous_index) != trimmed.previous_term:
        assert not begins_after <= previous <= agreeing, "what fits is not refused"
        return
    # What the library does now: everything behind `previous_index` goes, and the entries come.
    assert trimmed.entries
    assert trimmed.previous_index >= min(agreeing, previous + count)
    after = mine[: trimmed.previous_index] + [entry.term for entry in trimmed.entries]
    assert after == theirs[: len(after)]
    assert len(after) >= agreeing


def test_a_heartbeat_of_the_same_term_confirms_what_came_before() -> None:
    """What is of the leader's own term came from it, with all before it."""
    mine = {0: 0, 1: 3, 2: 3}
    heartbeat = AppendEntries(3, 1, 1, 3, ())
    assert GUARDS.unrepeated(mine.get, 0, 2, heartbeat) == (heartbeat, 2)
    later = AppendEntries(4, 1, 1, 3, ())
    assert GUARDS.unrepeated(mine.get, 0, 2, later) == (later, 1)


def test_what_is_committed_is_what_agrees() -> None:
    assert GUARDS.known_commit(AppendEntries(3, 10, 4, 3, ()), 4) == 4
    assert GUARDS.known_commit(AppendEntries(3, 2, 4, 3, ()), 4) == 2


def test_a_leader_goes_on_behind_what_is_committed() -> None:
    assert GUARDS.resend_from(90, 10) == 11
    assert GUARDS.resend_from(5, 10) == 5


def test_an_answer_counts_in_its_term() -> None:
    assert GUARDS.is_answer_of_term(Appended(3, 5, success=True), 3)
    assert not GUARDS.is_answer_of_term(Appended(2, 5, success=True), 3)


def test_a_vote_counts_once_and_in_its_term() -> None:
    assert GUARDS.is_vote_counted(Vote(3), 3, 2, ())
    assert not GUARDS.is_vote_counted(Vote(3), 3, 2, {2})
    assert not GUARDS.is_vote_counted(Vote(2), 3, 2, ())


def test_a_majority_of_those_who_vote_is_asked_for() -> None:
    assert GUARDS.may_stand({1, 2}, {1, 2, 3})
    assert not GUARDS.may_stand({1, 9}, {1, 2, 3}), "9 does not vote"
    assert not GUARDS.may_stand({1, 2}, {1, 2, 3, 4})
    assert not GUARDS.may_stand((), ())


def test_a_pre_vote_is_for_one_who_could_win_and_is_needed() -> None:
    end = RequestVote(5, 10, 4)
    assert GUARDS.grants_pre_vote(PreVote(6, 10, 4), end, hears_leader=False)
    assert GUARDS.grants_pre_vote(PreVote(6, 1, 5), end, hears_leader=False)
    assert not GUARDS.grants_pre_vote(PreVote(6, 10, 4), end, hears_leader=True)
    assert not GUARDS.grants_pre_vote(PreVote(6, 9, 4), end, hears_leader=False)
    assert not GUARDS.grants_pre_vote(PreVote(5, 10, 4), end, hears_leader=False)


def test_voters_change_after_the_last_change_was_applied() -> None:
    assert GUARDS.may_change_voters(5, 5)
    assert not GUARDS.may_change_voters(6, 5)
