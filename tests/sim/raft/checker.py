"""What must never happen, each a class that is told what happened and raises `Anomaly`.

They know nothing of how a voter works: an entry is whatever compares equal when it is the same one.
`CommittedHistory` is what all voters are held against: what the first of them applied at an index.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from typing import Final

FLAPS_PER_MINUTE_MAX: Final = 2
"""Changes of the leader while one voter's link is cut one way."""


class Anomaly(Exception):
    """What was promised did not hold. `name` says which promise."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.name = name
        self.detail = detail

    def __reduce__(self) -> tuple[type[Anomaly], tuple[str, str]]:
        return Anomaly, (self.name, self.detail)


@dataclass
class Acknowledged:
    """`lost-acknowledged`: what a caller was told is applied stays so, at its index."""

    by_index: dict[int, Hashable] = field(default_factory=dict)
    by_key: dict[Hashable, tuple[int, object]] = field(default_factory=dict)

    def acknowledged(self, key: Hashable, index: int, result: object) -> None:
        """A caller was told: this proposal is applied, by the entry at `index`, with this result."""
        self.by_index.setdefault(index, key)
        known = self.by_key.setdefault(key, (index, result))
        if known[1] != result:
            raise Anomaly("duplicate", f"{key} gave {known[1]} at {known[0]}, and {result} at {index}")

    @property
    def last_index(self) -> int:
        """Of what was acknowledged."""
        return max(self.by_index, default=0)


@dataclass
class CommittedHistory:
    """`applied-prefix`: at an index all voters apply the same; none leaves one out or repeats one.

    `None` stands for an index that has no command: a voter went from the one before to the one after.
    """

    acknowledged: Acknowledged
    entries: dict[int, Hashable | None] = field(default_factory=dict)
    last_index: int = 0
    positions: dict[int, int] = field(default_factory=dict)
    """By voter: through which index its state goes."""

    def begins(self, voter: int, index: int) -> None:
        """Its state goes through this index: at a start, or by a snapshot."""
        self.positions[voter] = index

    def applied(self, voter: int, index: int, entry: Hashable) -> bool:
        """It applied this entry; whether it is the first to do so."""
        position = self.positions.get(voter, 0)
        if index <= position:
            raise Anomaly("applied-prefix", f"voter {voter} applied {index} after {position}")
        for between in range(position + 1, index):
            self._agree(voter, between, None)
        self.positions[voter] = index
        return self._agree(voter, index, entry)

    def _agree(self, voter: int, index: int, entry: Hashable | None) -> bool:
        if index not in self.entries:
            if index <= self.last_index:
                raise Anomaly("applied-prefix", f"voter {voter} applied {index}, which nobody else has")
            self.entries[index] = entry
            self.last_index = index
            return True
        if self.entries[index] != entry:
            lost = index in self.acknowledged.by_index
            name = "lost-acknowledged" if lost else "applied-prefix"
            detail = f"at {index} voter {voter} has {_short(entry)}, others {_short(self.entries[index])}"
            raise Anomaly(name, detail)
        return False


@dataclass
class Executed:
    """`duplicate`: a proposal that is retried counts once, and no id is given out twice."""

    at: dict[Hashable, int] = field(default_factory=dict)
    given: dict[int, int] = field(default_factory=dict)

    def executed(self, key: Hashable, index: int) -> None:
        """The proposal was carried out by the entry at `index`, not answered from memory."""
        known = self.at.setdefault(key, index)
        if known != index:
            raise Anomaly("duplicate", f"{key} was carried out at {known}, and again at {index}")

    def gave(self, value: int, index: int) -> None:
        """An id was given out by the entry at `index`."""
        known = self.given.setdefault(value, index)
        if known != index:
            raise Anomaly("duplicate", f"id {value} was given out at {known}, and again at {index}")


@dataclass
class NotApplied:
    """`not-applied-but-was`: what a caller was told never got into the log is not in it."""

    told: dict[Hashable, int] = field(default_factory=dict)
    """How many attempts of a proposal are neither known to have failed nor told to have been applied."""

    def attempted(self, key: Hashable) -> None:
        """The proposal was handed in, once more."""
        self.told[key] = self.told.get(key, 0) + 1

    def not_applied(self, key: Hashable) -> None:
        """One attempt is known to have come to nothing."""
        self.told[key] -= 1

    def check(self, key: Hashable) -> None:
        """The proposal is in the log."""
        if key in self.told and self.told[key] == 0:
            raise Anomaly("not-applied-but-was", f"{key} is in the log")


@dataclass
class Elected:
    """`two-leaders`: of one term there is one leader."""

    by_term: dict[int, int] = field(default_factory=dict)
    changes: int = 0

    def leads(self, voter: int, term: int) -> bool:
        """It believes to lead in that term; whether that is new."""
        known = self.by_term.get(term)
        if known is None:
            self.by_term[term] = voter
            self.changes += 1
        elif known != voter:
            raise Anomaly("two-leaders", f"voters {known} and {voter} both lead in term {term}")
        return known is None


@dataclass
class Votes:
    """`vote-twice`: a voter votes for one candidate in a term, itself included. `too-few-votes`: a leader has
    the votes of a majority.
    """

    given: dict[tuple[int, int], int] = field(default_factory=dict)

    def voted(self, voter: int, term: int, candidate: int) -> None:
        """It said so."""
        known = self.given.setdefault((voter, term), candidate)
        if known != candidate:
            raise Anomaly("vote-twice", f"voter {voter} voted for {known} and {candidate} in term {term}")

    def elected(self, leader: int, term: int, voters: Collection[int]) -> None:
        """It leads in that term, and `voters` are those that it takes for the group's."""
        granted = [voter for voter in voters if voter == leader or self.given.get((voter, term)) == leader]
        if 2 * len(granted) <= len(voters):
            detail = f"voter {leader} leads in term {term} by {granted} of {sorted(voters)}"
            raise Anomaly("too-few-votes", detail)


def check_flaps(changes: int, seconds: float) -> None:
    """`leader-flaps`: one voter with a link that is cut one way does not keep the group from its work."""
    if changes > FLAPS_PER_MINUTE_MAX * max(1.0, seconds / 60):
        raise Anomaly("leader-flaps", f"{changes} changes of the leader in {seconds:.0f} s")


def _short(entry: object) -> str:
    text = repr(entry)
    return text if len(text) < 200 else text[:200] + "…"
