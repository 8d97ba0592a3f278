"""The replication machines with one rule taken away: the world of `replicas`, or a story, has to notice.

A row says which: a plan, under which a bug is found within 200 seeds (PROOF, section 5), or the story of
exactly this bug, for those that take too rare a chain of chances.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import pytest

from millpond_broker.core.commands import InSyncMember
from millpond_broker.core.epochs import LeaderEpochs
from millpond_broker.core.follower import Follower, FollowerState, Turn
from millpond_broker.core.followers import Follower as Known
from millpond_broker.core.followers import Followers
from millpond_broker.core.in_sync import AlterOutcome, InSync, Member, WantedIsr
from millpond_broker.core.leader import Leader
from millpond_broker.core.replication import Acknowledgement, Answer, Diverging, Push, Serving, Statement
from tests.property.replica_judge import Violation
from tests.property.replica_models import Plan
from tests.property.replicas import run
from tests.unit.core import test_leader_stories as stories

SEEDS_MAX = 200

_want = InSync.want
_answered = InSync.answered
_stated = Followers.stated
_begin = Follower.begin
_review = Leader._review


def leader_counts_its_log_end(self: Leader[Any], log_end: int, durable_end: int) -> int:
    """Rule 6."""
    return log_end


def followers_count_their_log_end(self: Followers, sender: Member, said: Acknowledgement) -> None:
    """Rule 6."""
    follower = self._current(sender, said.leader_epoch, said.session)
    if follower is not None:
        follower.end = max(follower.end, said.log_end)


def shrink_counts_at_once(
    self: InSync,
    joining: Collection[InSyncMember],
    leaving: Collection[int],
    unseated: Collection[int],
    now_ms: int,
) -> WantedIsr | None:
    """Rule 6."""
    wanted = _want(self, joining, leaving, unseated, now_ms)
    self.maximal -= frozenset(leaving)
    return wanted


def expansion_counts_when_committed(
    self: InSync,
    joining: Collection[InSyncMember],
    leaving: Collection[int],
    unseated: Collection[int],
    now_ms: int,
) -> WantedIsr | None:
    """Rules 6 and 10."""
    wanted = _want(self, joining, leaving, unseated, now_ms)
    self.maximal = self.committed.isr
    return wanted


def acknowledgements_of_any_session_count(self: Followers, sender: Member, said: Acknowledgement) -> None:
    """Rule 37."""
    follower = self._by_id[sender.broker_id]
    follower.end = max(follower.end, said.durable_end if self._waits_for_sync else said.log_end)


def cut_by_high_watermark(self: Follower) -> Turn:
    """Rule 5: as Kafka before KIP-101."""
    if self.state is FollowerState.IDLE and self.session == 0 and self.high_watermark < self.position.log_end:
        self.state, self.session = FollowerState.CUTTING, 1
        return Turn(cut_to=self.high_watermark)
    return _begin(self)


def high_watermark_moves_below_min_insync(self: InSync) -> bool:
    """Rule 6: strict minISR."""
    return True


def one_that_diverges_is_counted(
    self: Followers, statement: Statement, epochs: LeaderEpochs, registered_epoch: int
) -> Answer:
    """Rule 3."""
    answer = _stated(self, statement, epochs, registered_epoch)
    if isinstance(answer, Diverging):
        self._open(self._by_id[statement.follower], statement)
        self._by_id[statement.follower].has_session = True
    return answer


def divergence_is_not_looked_for(
    self: Followers, statement: Statement, epochs: LeaderEpochs, registered_epoch: int
) -> Answer:
    """Rule 3."""
    answer = _stated(self, statement, epochs, registered_epoch)
    if isinstance(answer, Diverging) and statement.fetch_offset <= self._ends.log_end:
        self._open(self._by_id[statement.follower], statement)
        ends = self._ends
        return Serving(
            answer.leader_epoch, answer.session, statement.fetch_offset, ends.high_watermark, ends.log_start
        )
    return answer


def whoever_has_a_session_may_join(self: Leader[Any], follower: Known, now_ms: int) -> None:
    """Rule 10: at or past the high watermark, and the start of the epoch."""
    _review(self, follower, now_ms)
    follower.is_joining |= (
        follower.has_session
        and follower.broker_id not in self.in_sync.committed.isr
        and self.in_sync.is_eligible(follower.broker_id, follower.broker_epoch)
    )


def ineligible_is_the_end_of_it(
    self: InSync, wanted: WantedIsr, outcome: AlterOutcome, now_ms: int
) -> WantedIsr | None:
    """Rule 11: another request of the same may still be under way."""
    if self._pending is not None:
        self._pending.asked = 1
    return _answered(self, wanted, outcome, now_ms)


def answers_of_any_session_are_heard(self: Follower, said: Answer | Push) -> bool:
    """Rule 37."""
    return True


def the_damaged_log_is_emptied_at_once(self: Follower) -> Turn:
    """Rule 15."""
    self._enter(FollowerState.LEAVING)
    return self._empty(self.position.log_start)


class Mutant(NamedTuple):
    """A method that is replaced, and where that shows."""

    owner: type
    name: str
    instead: Callable[..., Any]
    found_by: Plan | Callable[[], None]


MUTANTS = [
    Mutant(Leader, "_own_end", leader_counts_its_log_end, Plan()),
    Mutant(Followers, "acknowledged", followers_count_their_log_end, Plan()),
    Mutant(InSync, "want", shrink_counts_at_once, Plan()),
    Mutant(InSync, "want", expansion_counts_when_committed, Plan(trouble=0.1)),
    Mutant(
        Followers,
        "acknowledged",
        acknowledgements_of_any_session_count,
        stories.test_what_is_not_of_the_current_session_is_not_heard,
    ),
    Mutant(Follower, "begin", cut_by_high_watermark, Plan()),
    Mutant(InSync, "has_enough", property(high_watermark_moves_below_min_insync), Plan()),  # type: ignore[arg-type]  # replaces one
    Mutant(Followers, "stated", one_that_diverges_is_counted, Plan()),
    Mutant(Followers, "stated", divergence_is_not_looked_for, Plan()),
    Mutant(Leader, "_review", whoever_has_a_session_may_join, Plan()),
    Mutant(
        InSync,
        "answered",
        ineligible_is_the_end_of_it,
        stories.test_ineligible_does_not_end_one_that_may_still_be_under_way,
    ),
    Mutant(
        Follower,
        "_is_current",
        answers_of_any_session_are_heard,
        Plan(waits_for_sync=False, trouble=0.02, is_harsh=True),
    ),
    Mutant(Follower, "corrupt", the_damaged_log_is_emptied_at_once, Plan()),
]


def _name(mutant: Mutant) -> str:
    instead = mutant.instead
    return (instead.fget if isinstance(instead, property) else instead).__name__


@pytest.mark.parametrize("mutant", MUTANTS, ids=_name)
def test_a_planted_bug_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutant.owner, mutant.name, mutant.instead)
    found_by = mutant.found_by
    if not isinstance(found_by, Plan):
        with pytest.raises(AssertionError):
            found_by()
        return
    for seed in range(SEEDS_MAX):
        try:
            run(seed, found_by)
        except (Violation, AssertionError):
            return
    pytest.fail(f"{SEEDS_MAX} seeds do not notice it")
