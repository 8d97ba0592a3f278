"""What can be asked of the cluster's metadata: one frozen dataclass for each command, and its envelope.

A command is data. What it does is `image.apply`'s business, how it travels `consensus.codec`'s. Each names
the versions of what it was decided on, so that a late one changes nothing (rule 12).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

ID_BYTES: Final = 16
"""Length of the ids of clusters, topics, incarnations and proposers."""
FEATURE_LEVEL: Final = 2
"""The commands that this version knows. A command that comes later is refused until the replicated level has
been raised, which happens once every broker knows it. 2: brokers are fenced, and partitions replicated."""
FEATURE_LEVEL_FIRST: Final = 1
"""Of a cluster that is made, until it is raised."""
REPLICATION_LEVEL: Final = 2
"""From which on a registration begins fenced, and apply decides on leaders, ISR and ELR (rules 10 to 15)."""

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
    feature_level: int = FEATURE_LEVEL_FIRST


@dataclass(frozen=True, slots=True)
class CutReport:
    """A replica whose recovery had to cut bytes that may have been acknowledged, and where its log ends now:
    the epoch of its last batch (None: it has none) and the exclusive end offset (rule 15).
    """

    topic_id: bytes
    partition: int
    last_epoch: int | None
    end: int


@dataclass(frozen=True, slots=True)
class RegisterBroker:
    """A broker that has started. `incarnation` is drawn at each start, `directory_id` names its disk.

    From level 2 on: `feature_level` is what it knows; `previous_epoch` the broker epoch that its clean-stop
    marker has (0: none), by which topics with flush=interval know that nothing was lost; `cuts` what its
    recovery cut, and partitions of such topics whose own markers are missing (rule 15).
    """

    broker_id: int
    incarnation: bytes
    directory_id: str
    address: str
    peer_address: str
    rack: str
    version: str
    feature_level: int = 0
    previous_epoch: int = 0
    cuts: tuple[CutReport, ...] = ()


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
    """Settings to set, and settings to put back to their defaults. `min_insync`: None leaves it."""

    topic_id: bytes
    set: Pairs
    unset: tuple[str, ...]
    min_insync: int | None = None


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
    """Changes of many partitions, each applied or refused by itself (rule 11). Up to feature level 1, where
    one broker is all: from level 2 on the commands below say what is wanted, and apply works out the rest.
    """

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
    decided_on: tuple[int, ...] = ()
    """Who voted when it was found that a majority would be left (rule 12). Empty: whoever does."""


@dataclass(frozen=True, slots=True)
class RemoveVoter:
    """One member less, for good: its disk's votes count no more."""

    broker_id: int
    decided_on: tuple[int, ...] = ()
    """As AddVoter's."""


# --- from feature level 2 on ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BrokerStart:
    """A broker in one of its starts: rule 12 binds what it may do to the epoch of its registration."""

    broker_id: int
    broker_epoch: int


@dataclass(frozen=True, slots=True)
class RaiseFeatureLevel:
    """The next level, once all know it: `supporters` are the brokers, each as it is registered, and the
    voters (0 as the epoch of one that never registered) that reported so.
    """

    level: int
    supporters: tuple[BrokerStart, ...]


@dataclass(frozen=True, slots=True)
class FenceBroker:
    """The session of this start is over: it is in no ISR any more and leads nothing, at once (rule 12)."""

    broker_id: int
    broker_epoch: int


@dataclass(frozen=True, slots=True)
class UnfenceBroker:
    """This start is alive and has caught up: it may lead and join ISRs. What waits for it is led at once."""

    broker_id: int
    broker_epoch: int


@dataclass(frozen=True, slots=True)
class StopBroker:
    """A controlled stop: leaders move and the broker leaves the ISRs that have others (rule 12)."""

    broker_id: int
    broker_epoch: int


@dataclass(frozen=True, slots=True)
class InSyncMember:
    """A replica as it caught up: the broker epoch of its start, and the partition epoch of the image that it
    had when it stated its position. By the second it is known whether that was before it gave up its bytes,
    or before it was a replica.
    """

    broker_id: int
    broker_epoch: int
    stated_in: int = 0


@dataclass(frozen=True, slots=True)
class InSyncChange:
    """The ISR that a leader wants. `unseated`: who leaves and may lack what it had acknowledged, so that it
    is not eligible either.
    """

    topic_id: bytes
    partition: int
    leader_epoch: int
    partition_epoch_seen: int
    isr: tuple[InSyncMember, ...]
    unseated: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class AlterPartitions:
    """A leader's changes of its partitions' ISRs, each applied or refused by itself (rules 10, 11)."""

    broker_id: int
    broker_epoch: int
    changes: tuple[InSyncChange, ...]


@dataclass(frozen=True, slots=True)
class GiveUp:
    """A replica gives up a partition. `leaves` False: its leader resigns, with all it had (rule 40). True: it
    has bad bytes, and leaves ISR and ELR; if nobody else is there it is offline, and stays (rule 15).
    """

    topic_id: bytes
    partition: int
    partition_epoch_seen: int
    leaves: bool = False


@dataclass(frozen=True, slots=True)
class GiveUpPartitions:
    """What a broker gives up, each applied or refused by itself."""

    broker_id: int
    broker_epoch: int
    partitions: tuple[GiveUp, ...]


class ElectionKind(enum.IntEnum):
    """Why a leader is elected. Numbers are those in the log."""

    CLEAN = 1
    """There is none, and who is elected has all that was acknowledged (rule 14)."""
    PREFERRED = 2
    """There is one, and another is preferred."""
    RECOVERING = 3
    """Nobody is known to have everything, and this one has most (rules 14 and 15)."""
    UNCLEAN = 4
    """Whoever is there: the topic allows it, or an administrator asked for it."""


@dataclass(frozen=True, slots=True)
class Election:
    """One leader to elect. `kind` is an ElectionKind; a number that is none is refused."""

    topic_id: bytes
    partition: int
    leader: int
    partition_epoch_seen: int
    kind: int


@dataclass(frozen=True, slots=True)
class ElectLeaders:
    """Elections, each applied or refused by itself (rule 14)."""

    elections: tuple[Election, ...]


@dataclass(frozen=True, slots=True)
class Reassignment:
    """The replicas that a partition is to have in the end. Those that it has now cancel what is under way."""

    topic_id: bytes
    partition: int
    replicas: Assignment
    partition_epoch_seen: int


@dataclass(frozen=True, slots=True)
class ReassignPartitions:
    """Reassignments to begin, each applied or refused by itself: replicas are added first."""

    reassignments: tuple[Reassignment, ...]


@dataclass(frozen=True, slots=True)
class PartitionSeen:
    """A partition in the state that something was decided on."""

    topic_id: bytes
    partition: int
    partition_epoch_seen: int


@dataclass(frozen=True, slots=True)
class FinishReassignments:
    """Reassignments whose added replicas are in sync: the others are dropped."""

    partitions: tuple[PartitionSeen, ...]


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
    | RaiseFeatureLevel
    | FenceBroker
    | UnfenceBroker
    | StopBroker
    | AlterPartitions
    | GiveUpPartitions
    | ElectLeaders
    | ReassignPartitions
    | FinishReassignments
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
