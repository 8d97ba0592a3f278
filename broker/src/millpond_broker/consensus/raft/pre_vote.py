"""No election that cannot be won, or that nobody needs (Raft §9.6).

The library stands as soon as it has heard nobody for a while, in a new term, which deposes whoever leads.
Here it has to ask first: a voter that still hears a leader says no, and so does one whose log goes further.
So a voter that can send and not hear, or comes back from behind a broken link, disturbs nobody.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from random import Random

from millpond_broker.consensus.raft.guards import Guards
from millpond_broker.consensus.raft.library import AT_ONCE, NEVER, Library, Timing
from millpond_broker.consensus.raft.messages import PreVote, PreVoted


@dataclass
class _Round:
    """One question to all voters: whether this one should stand in `term`."""

    term: int
    granted: set[int] = field(default_factory=set)


class Elections:
    """When the library may stand."""

    def __init__(
        self, library: Library, broker_id: int, *, guards: Guards, timing: Timing, random: Random, now: float
    ) -> None:
        self._library = library
        self._broker_id = broker_id
        self._guards = guards
        self._timing = timing
        self._random = random
        self._round: _Round | None = None
        # When to stand, by what the library set last. The library itself has NEVER, but for a tick in which
        # it may: it reads the clock again in its tick, and a pause in between would have it stand unasked.
        self._stand_at = library.election_at
        self._not_before = 0.0
        # One that has just started may have heard of a leader a moment before: it must not help to depose it.
        self._leader_heard_at = now

    @property
    def due_at(self) -> float:
        """When it may be time to stand, unless a leader is heard."""
        armed = self._library.election_at
        return self._stand_at if armed == NEVER else armed

    def put_off(self, until: float) -> None:
        """Do not stand before that."""
        self._not_before = until

    def gate(self, now: float, voters: Collection[int]) -> PreVote | None:
        """Before each tick of the library: lets it stand in this one, or not; the question to ask the other
        voters, if it would stand and may not yet.
        """
        library = self._library
        self._stand_at = self.due_at
        library.election_at = NEVER
        if library.is_leader:
            self._round = None
            return None
        if set(voters) == {self._broker_id}:
            self._stand_at = min(self._stand_at, now)  # nobody could object
        if max(self._stand_at, self._not_before) > now:
            return None
        if not self._guards.is_member(self._broker_id, voters):
            self._stand_at = now + self._timing.election_max
            return None
        if library.is_asked_to_stand or self._is_granted(voters):
            library.election_at = AT_ONCE
            return None
        log_end = library.log_end()
        self._round = _Round(log_end.term + 1, {self._broker_id})
        if self._is_granted(voters):
            library.election_at = AT_ONCE
            return None
        # Asking costs nobody anything: again soon, not after another time-out.
        self._stand_at = now + self._timing.heartbeat * self._random.uniform(1.0, 2.0)
        return PreVote(log_end.term + 1, log_end.last_index, log_end.last_term)

    def heard_leader(self, now: float) -> None:
        """A leader of the current term has spoken."""
        self._leader_heard_at = now
        self._round = None

    def has_heard_leader(self, now: float) -> bool:
        """Whether a leader has spoken in the time that two elections take."""
        return now - self._leader_heard_at <= 2 * self._timing.election_max

    def answer(self, asked: PreVote, now: float) -> PreVoted:
        """What this voter says to another's question."""
        library = self._library
        hears_leader = library.is_leader or now - self._leader_heard_at < self._timing.election_min
        granted = self._guards.grants_pre_vote(asked, library.log_end(), hears_leader=hears_leader)
        return PreVoted(library.term, granted, asked.term)

    def answered(self, voter: int, answer: PreVoted, voters: Collection[int]) -> None:
        """Another voter's answer: the library may stand in its next tick if that made a majority."""
        if answer.term > self._library.term:
            # Its log may be the one that ends first: then this one has to stand, in a term beyond the
            # other's.
            self._library.adopt_term(answer.term)
            return
        if self._round is None or not answer.granted or answer.asked_term != self._round.term:
            return
        self._round.granted.add(voter)
        if self._is_granted(voters):
            self._stand_at = AT_ONCE

    def _is_granted(self, voters: Collection[int]) -> bool:
        granted = self._round.granted if self._round and self._round.term == self._library.term + 1 else ()
        return self._guards.may_stand(granted, voters)
