"""What can be asked of the cluster's metadata: one frozen dataclass for each command, and its envelope.

A command is data. What it does is `image.apply`'s business, how it travels `consensus.codec`'s. Each names
the versions of what it was decided on, so that a late one changes nothing (rule 12).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ID_BYTES: Final = 16
"""Length of the ids of clusters, topics, incarnations and proposers."""
FEATURE_LEVEL: Final = 1
"""The commands that this version knows. A command that comes later is refused until the replicated level has
been raised, which happens once every broker knows it."""

Pairs = tuple[tuple[str, str], ...]
"""Settings as key and text, each key once."""
Assignment = tuple[int, ...]
"""Broker ids that hold one partition; the first is preferred as its leader."""


@dataclass(frozen=True, slots=True)
class Voter:
    """A member of the group that decides on metadata, pinned to its disk: under its id, no other will do."""

    broker_id: int
    directory_id: str
    address: str = ""
    """host:port where the other voters reach it; empty while it is the only one."""


@dataclass(frozen=True, slots=True)
class InitCluster:
    """The first command of a cluster. Applied again, it changes nothing and tells the id that there is."""

    cluster_id: bytes
    voters: tuple[Voter, ...] = ()
    feature_level: int = FEATURE_LEVEL


@dataclass(frozen=True, slots=True)
class RegisterBroker:
    """A broker that has started. `incarnation` is drawn at each start, `directory_id` names its disk."""

    broker_id: int
    incarnation: bytes
    directory_id: str
    address: str
    peer_address: str
    rack: str
    version: str


@dataclass(frozen=True, slots=True)
class ClaimController:
    """The leader of the voters takes control in its term, which must be newer than the last one claimed."""

    broker_id: int
    term: int


@dataclass(frozen=True, slots=True)
class CreateTopic:
    """A topic with all its partitions. `config` has only what was set explicitly."""

    topic_id: bytes
    name: str
    replicas: int
    min_insync: int
    config: Pairs
    assignments: tuple[Assignment, ...]


@dataclass(frozen=True, slots=True)
class DeleteTopic:
    """The topic of this id, not of its name: one that was made again is another."""

    topic_id: bytes


@dataclass(frozen=True, slots=True)
class AddPartitions:
    """More partitions. `first_partition` is how many there were when this was decided."""

    topic_id: bytes
    first_partition: int
    assignments: tuple[Assignment, ...]


@dataclass(frozen=True, slots=True)
class SetTopicConfig:
    """Settings to set, and settings to put back to their defaults."""

    topic_id: bytes
    set: Pairs
    unset: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PartitionChange:
    """The state that a partition is to have. With a leader that is elected, `leader_epoch` is the next one;
    with the same leader, or none, it is the current one.
    """

    topic_id: bytes
    partition: int
    leader: int | None
    leader_epoch: int
    isr: tuple[int, ...]
    elr: tuple[int, ...]
    partition_epoch_seen: int


@dataclass(frozen=True, slots=True)
class ChangePartitions:
    """Changes of many partitions, each applied or refused by itself (rule 11)."""

    changes: tuple[PartitionChange, ...]


@dataclass(frozen=True, slots=True)
class AllocateProducerIds:
    """A block of producer ids for a broker to hand out; its first is the result."""

    broker_id: int
    broker_epoch: int
    count: int


@dataclass(frozen=True, slots=True)
class Barrier:
    """Changes nothing: whoever proposed it has then seen everything before it."""


@dataclass(frozen=True, slots=True)
class AddVoter:
    """One more member of the group that decides on metadata, on a disk that never voted.

    Whoever runs the voters lets it count from the entry on, not from its commit (Raft §6), so applying it
    cannot refuse: what speaks against it is said before it is appended. The same holds for RemoveVoter.
    """

    voter: Voter


@dataclass(frozen=True, slots=True)
class RemoveVoter:
    """One member less, for good: its disk's votes count no more."""

    broker_id: int


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Stands for bytes that this version cannot read; only a decoder makes one. Refused everywhere alike.
    `reason` depends on the bytes alone.
    """

    reason: str


Command = (
    InitCluster
    | RegisterBroker
    | ClaimController
    | CreateTopic
    | DeleteTopic
    | AddPartitions
    | SetTopicConfig
    | ChangePartitions
    | AllocateProducerIds
    | Barrier
    | AddVoter
    | RemoveVoter
)
"""What can be proposed."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A command as it is replicated.

    (proposer, sequence) names the proposal: a retry after an unknown outcome repeats both, and is answered
    with what the first one gave. `controller_epoch` is the epoch that the proposer claimed.
    """

    proposer: bytes
    sequence: int
    controller_epoch: int
    command: Command | Undecodable
