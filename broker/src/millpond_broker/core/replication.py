"""What the leader and a follower of a partition say to each other, as values. End offsets are exclusive.

A follower states where it is; the leader answers, and from then on pushes what it appends; the follower
acknowledges what it has. A statement opens a session of (partition, leader epoch), and everything that
belongs to it repeats both numbers: whatever is late is known by them, and dropped (rule 37).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Position(NamedTuple):
    """Where a replica's log is. log_start <= durable_end <= log_end."""

    log_start: int
    log_end: int
    durable_end: int
    last_epoch: int | None
    """The leader epoch of the last batch in the log, and never what a cache says (rule 4). None: no batch."""


@dataclass(frozen=True, slots=True)
class Statement:
    """Where a follower is: a fetch of Kafka's (rule 2). Opens the session if it is served."""

    follower: int
    broker_epoch: int
    leader_epoch: int
    session: int
    """Greater than all that this follower used in this leader epoch since it started."""
    fetch_offset: int
    last_epoch: int | None
    """Of the last batch in its log."""
    durable_end: int
    """Counts once the statement is served, which shows that what lies below is the leader's own."""
    stated_in: int = 0
    """The partition epoch of the metadata that the follower had: whether it knew then that it had given up
    its bytes, or was new (rule 15)."""
    log_start: int = 0
    """Where its log begins, durably (rule 7)."""


# --- what the leader says: of the (leader epoch, session) that was stated ----------------------------------


@dataclass(frozen=True, slots=True)
class Serving:
    """The log agrees as far as it reaches: pushes follow from there."""

    leader_epoch: int
    session: int
    from_offset: int
    high_watermark: int
    log_start: int


@dataclass(frozen=True, slots=True)
class Diverging:
    """The follower's last batch is not in the leader's log: cut, and ask again (rules 3 and 4)."""

    leader_epoch: int
    session: int
    epoch: int
    """The greatest that the leader has up to the one asked for; that one itself, if it has none so old."""
    end: int
    """Where that epoch ends in the leader's log."""


@dataclass(frozen=True, slots=True)
class OutOfRange:
    """There is nothing to compare at that offset (rule 4). Ends a session that had been opened."""

    leader_epoch: int
    session: int
    log_start: int
    log_end: int
    starts_at: int
    """Where the batches that the leader still has begin: at or before its log start, which may lie within a
    batch. An empty log begins there."""


@dataclass(frozen=True, slots=True)
class FencedLeaderEpoch:
    """The follower's view is old: of the leader epoch, of its own start, or of its sessions (rule 2)."""

    leader_epoch: int
    session: int
    current_epoch: int
    """The leader's leader epoch."""


@dataclass(frozen=True, slots=True)
class UnknownLeaderEpoch:
    """The leader's view is old: of the leader epoch, or of who is a replica (rule 2). Ask again later."""

    leader_epoch: int
    session: int
    current_epoch: int
    """The leader's leader epoch."""


Answer = Serving | Diverging | OutOfRange | FencedLeaderEpoch | UnknownLeaderEpoch


@dataclass(frozen=True, slots=True)
class Push:
    """The leader's log from an offset on, and what to know with it. Without batches: only that."""

    leader_epoch: int
    session: int
    from_offset: int
    high_watermark: int
    log_start: int


class Batches(NamedTuple):
    """The bounds of the batches in a push. Compaction leaves gaps before and between them."""

    base_offset: int
    next_offset: int
    first_epoch: int
    last_epoch: int


# --- what a follower says ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """How far a follower has got: the next fetch of its session."""

    leader_epoch: int
    session: int
    log_end: int
    durable_end: int
    log_start: int = 0
    """Adopted from the leader, durably (rule 7)."""
    leaves: bool = False
    """Its disk hangs: it asks to leave the ISR, and the session is over (rule 40)."""
