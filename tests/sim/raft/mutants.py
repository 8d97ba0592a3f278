"""The adapter with one guard taken away: each has to be noticed, and by what.

A mutant overrides one method of `Guards` by what the library does by itself. A row of `MUTANTS` says with
which faults it is looked for, and the seed that found it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from millpond_broker.consensus.codec import decode_snapshot
from millpond_broker.consensus.journal import Journal
from millpond_broker.consensus.raft.compaction import CompactionOptions
from millpond_broker.consensus.raft.guards import Guards
from millpond_broker.consensus.raft.messages import (
    Appended,
    AppendEntries,
    InstallSnapshot,
    PreVote,
    RequestVote,
    Vote,
)
from millpond_broker.consensus.raft.voter import VoterOptions
from millpond_broker.core.image import MetadataImage
from tests.sim.raft import scenarios
from tests.sim.raft.nemesis import Mix
from tests.sim.raft.report import HEAL_SECONDS, Report
from tests.sim.raft.run import Group, Plan, run


class NoSyncBeforeSending(Guards):
    def sync_before_sending(self, journal: Journal) -> None:
        """Nothing: the library never syncs."""


class NoSyncBeforeCommit(Guards):
    def sync_before_commit(self, journal: Journal, index: int) -> None:
        """Nothing: likewise."""


class Repeated(Guards):
    def unrepeated(
        self, term_at: Callable[[int], int | None], begins_after: int, ends_at: int, message: AppendEntries
    ) -> tuple[AppendEntries, int | None]:
        return message, None


class CommitUnknown(Guards):
    def known_commit(self, message: AppendEntries, agrees_up_to: int) -> int:
        return message.commit_index


class ResendStepByStep(Guards):
    def resend_from(self, wanted_index: int, commit_index: int) -> int:
        return wanted_index


class AnswerOfAnyTerm(Guards):
    def is_answer_of_term(self, message: Appended, term: int) -> bool:
        return True


class SnapshotUnchecked(Guards):
    def image_of(self, message: InstallSnapshot) -> MetadataImage | None:
        try:
            return decode_snapshot(message.snapshot.data)
        except ValueError:
            return None


class SnapshotAlways(Guards):
    def is_snapshot_needed(self, message: InstallSnapshot, term_here: int | None, applied_index: int) -> bool:
        return True


class VotesByMessage(Guards):
    def is_vote_counted(self, message: Vote, term: int, voter: int, counted: Collection[int]) -> bool:
        return message.term == term


class StandsUnasked(Guards):
    def may_stand(self, granted: Collection[int], voters: Collection[int]) -> bool:
        return True


class PreVotesForAll(Guards):
    def grants_pre_vote(self, message: PreVote, log_end: RequestVote, *, hears_leader: bool) -> bool:
        return True


class AnybodyStands(StandsUnasked):
    def is_member(self, broker_id: int, voters: Collection[int]) -> bool:
        return True


class VotersFromAnyLog(Guards):
    def knows_voters(self, cluster_id: bytes | None) -> bool:
        return True


class NewerTermUntold(Guards):
    def tells_newer_term(self, term: int, current_term: int) -> bool:
        return False


class VotersChangeAtOnce(Guards):
    def may_change_voters(self, last_change_index: int, applied_index: int) -> bool:
        return True


@dataclass(frozen=True)
class Mutant:
    """A guard taken away, and how that is looked for."""

    guard: str
    found_by: int
    """The first seed that noticed."""
    anomaly: str
    """What it noticed. "assertion": an invariant that the broker itself asserts, and ends the process by."""
    guards: type[Guards]
    kinds: tuple[str, ...] = ()
    """Of faults."""
    nodes: int = 3
    every_seconds: float = 0.4
    duplicates: float = 0.0
    garbled: float = 0.0
    options: VoterOptions = field(
        default_factory=lambda: VoterOptions(compaction=CompactionOptions(entries=60, entries_max=200))
    )
    seconds: float = 40.0
    story: Callable[[Group], None] | None = None
    """What it depends on that guard for; without one, faults are drawn."""
    heal_seconds: float = HEAL_SECONDS
    admits_all: bool = False
    """Whether it is who may connect that is taken away."""
    besides: type[Guards] = Guards
    """What else is taken away, with which the guard is to be enough."""

    def run(self, seed: int, *, sound: bool = False) -> Report:
        """One run without the guard; `sound`: with it."""
        return run(self.plan(seed, sound=sound))

    def plan(self, seed: int, *, sound: bool = False) -> Plan:
        """The run of that seed; `sound`: with the guard in force."""
        return Plan(
            seed,
            nodes=self.nodes,
            seconds=self.seconds,
            guards=self.besides() if sound else self.guards(),
            mix=Mix(self.kinds, self.every_seconds, self.duplicates, self.garbled),
            options=self.options,
            admits_all=self.admits_all and not sound,
            story=self.story,
            heal_seconds=self.heal_seconds,
        )


_LOGS: Final = ("isolate leader", "stall", "delay", "break", "leader dies", "one way")

MUTANTS: Final = (
    Mutant(
        "sync_before_sending",
        2,
        "lost-acknowledged",
        NoSyncBeforeSending,
        story=scenarios.forgotten_acknowledgement,
    ),
    Mutant("sync_before_commit", 0, "lost-acknowledged", NoSyncBeforeCommit, ("power",), nodes=1),
    Mutant("unrepeated", 0, "assertion", Repeated, _LOGS),
    Mutant("known_commit", 0, "assertion", CommitUnknown, story=scenarios.tail_of_deposed),
    Mutant("resend_from", 0, "stuck", ResendStepByStep, story=scenarios.long_tail, heal_seconds=10.0),
    Mutant(
        "is_answer_of_term", 0, "lost-acknowledged", AnswerOfAnyTerm, nodes=5, story=scenarios.late_answers
    ),
    Mutant("image_of", 0, "digest", SnapshotUnchecked, garbled=0.8, story=scenarios.needs_a_snapshot),
    Mutant("is_snapshot_needed", 0, "image-went-back", SnapshotAlways, story=scenarios.late_refusals),
    Mutant(
        "is_vote_counted",
        0,
        "too-few-votes",
        VotesByMessage,
        nodes=5,
        duplicates=1.0,
        story=scenarios.vote_that_came_twice,
    ),
    Mutant("may_stand", 0, "leader-flaps", StandsUnasked, story=scenarios.deaf_voter),
    Mutant("grants_pre_vote", 0, "leader-flaps", PreVotesForAll, story=scenarios.unheard_leader),
    Mutant("is_member", 0, "too-few-votes", AnybodyStands, ("wipe", "replace"), besides=StandsUnasked),
    Mutant("knows_voters", 0, "too-few-votes", VotersFromAnyLog, ("wipe", "replace")),
    Mutant("tells_newer_term", 1, "stuck", NewerTermUntold, story=scenarios.one_ahead_in_term),
    Mutant("may_change_voters", 0, "assertion", VotersChangeAtOnce, story=scenarios.two_at_once),
    Mutant(
        "Voter.admit", 0, "lost-acknowledged", Guards, admits_all=True, story=scenarios.wiped_under_its_id
    ),
)
