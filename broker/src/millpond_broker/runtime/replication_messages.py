"""What a follower and a leader broker say on a replication stream, of all partitions between them.

A follower opens the stream, says who it is, and then states where each of its replicas is that follows this
leader. Bytes of batches are one object from a leader's disk to a follower's.
"""

from __future__ import annotations

from dataclasses import dataclass

from millpond_broker.core.replication import Acknowledgement, Answer, Push, Statement


@dataclass(frozen=True, slots=True)
class Hello:
    """First on a stream. A leader keeps the stream of the greatest (broker epoch, number) alone (rule 37)."""

    broker_id: int
    broker_epoch: int
    number: int
    """Grows with each stream that this start of the follower opens to any leader."""


@dataclass(frozen=True, slots=True)
class Stated:
    """A statement of one partition's follower; opens a session if it is served."""

    topic_id: bytes
    partition: int
    statement: Statement


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """How far one partition's follower has got."""

    topic_id: bytes
    partition: int
    acknowledgement: Acknowledgement


@dataclass(frozen=True, slots=True)
class Taken:
    """So many bytes of pushes of a partition have been taken off the stream: credit comes back (rule 38)."""

    topic_id: bytes
    partition: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Answered:
    """A leader's answer to a statement, or the end of a session."""

    topic_id: bytes
    partition: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class Pushed:
    """The leader's log goes on. `data`: its batches as they lie on its disk, each behind the leader's frame,
    in order and whole; empty if only ends are told.
    """

    topic_id: bytes
    partition: int
    push: Push
    data: bytes


FromFollower = Hello | Stated | Acknowledged | Taken
FromLeader = Answered | Pushed
