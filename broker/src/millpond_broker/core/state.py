"""The cluster's metadata as of one command: immutable, handed to readers by reference.

`image.apply` makes the next one; it shares with the one before it whatever did not change, so that a reader
can tell what changed by identity. Mappings are read-only.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from millpond_broker.core.commands import Assignment, Pairs, Voter
from millpond_broker.core.results import CommandResult
from millpond_broker.core.topic_config import TopicConfig


class BrokerState(enum.Enum):
    """Whether a broker may lead and be in sync."""

    RUNNING = "running"
    FENCED = "fenced"
    """It just registered, or its session is over: it leads nothing, and is in no ISR."""
    STOPPING = "stopping"
    """It leads and is in sync only where nobody else is."""


@dataclass(frozen=True, slots=True)
class BrokerImage:
    """A broker that registered. `epoch` is the index of the registration of this incarnation: it grows with
    every start, and leadership is bound to it (rule 12).

    feature_level, since: as of level 2; a cluster of level 1 knows neither.
    """

    broker_id: int
    epoch: int
    incarnation: bytes
    directory_id: str
    address: str
    peer_address: str
    rack: str
    version: str
    state: BrokerState = BrokerState.RUNNING
    feature_level: int = 1
    """The commands that it knows."""
    since: int = 0
    """Index of the command that gave it its state: its registration, then of each time that changed."""

    @property
    def is_lost(self) -> bool:
        """Fenced after it had registered: what is on its disk now nobody knows until it comes back (rule 15).
        A broker that has just registered is fenced, too, and has said what it has.
        """
        return self.state is BrokerState.FENCED and self.since > self.epoch


@dataclass(frozen=True, slots=True)
class Cut:
    """A member of the ELR that cut bytes at its start, and where its log ends now (rule 15)."""

    broker_id: int
    last_epoch: int | None
    end: int

    @property
    def rank(self) -> tuple[int, int]:
        """Greater: has more. Logs that agree on the last (epoch, end) agree on everything before."""
        return -1 if self.last_epoch is None else self.last_epoch, self.end


@dataclass(frozen=True, slots=True)
class PartitionImage:
    """Who holds a partition and who leads it.

    isr ⊆ replicas; elr ⊆ replicas, disjoint from isr; a leader is in the isr. Both are empty only when
    everybody lost their seats by rule 15: whoever led last is known then.
    leader_epoch grows with every election, partition_epoch with every change, neither goes back.
    """

    leader: int | None
    leader_epoch: int
    partition_epoch: int
    replicas: tuple[int, ...]
    """Those being added too, and at the end those being removed; the first is preferred as leader."""
    isr: tuple[int, ...]
    elr: tuple[int, ...] = ()
    last_leader: int | None = None
    """Who led last, while nobody leads (rule 14)."""
    recovering_epoch: int | None = None
    """The latest leader epoch whose leader may have lacked what was acknowledged (RECOVERING, or elected
    unclean). A replica that has a high watermark from before it may have to truncate below it (rule 5)."""
    adding: tuple[int, ...] = ()
    """Replicas that a reassignment adds, and that were none before it."""
    removing: tuple[int, ...] = ()
    """Replicas that it drops once those are in sync."""
    cuts: tuple[Cut, ...] = ()
    """Members of the ELR that wait for somebody who cut nothing, or for everybody's report. By broker id."""
    floors: tuple[tuple[int, int], ...] = ()
    """(broker, partition epoch): a replica that gave up its bytes, or is new, joins the ISR only by a
    position that it stated knowing that epoch. What a leader knows from before is of a log that is gone."""
    is_offline: bool = False
    """The only member of ISR and ELR has bad bytes there, and keeps what it has (rule 15)."""

    def __post_init__(self) -> None:
        isr, elr, replicas = self.isr, self.elr, self.replicas
        assert isr or elr or self.last_leader is not None, "somebody has what was acknowledged, or led last"
        for member in isr:
            assert member in replicas, "who is in sync is a replica"
        for member in elr:
            assert member in replicas, "who is eligible is a replica"
            assert member not in isr, "who is eligible is not in sync"
        assert self.leader is None or self.leader in isr, "a leader is in sync with itself"
        assert self.leader is None or self.last_leader is None, "nobody is the last while there is one"
        if self.adding or self.removing:
            assert set(self.adding) <= set(replicas) - set(self.removing), "what is added stays"
            assert set(self.removing) < set(replicas), "somebody is left"
        if self.cuts:
            assert not isr, "who is in sync cut nothing, and settles what others cut"
            assert {cut.broker_id for cut in self.cuts} <= set(elr), "until then they keep their seats"
        assert not self.is_offline or (not isr and len(elr) == 1), "who is not the only one leaves"

    @property
    def target(self) -> Assignment:
        """The replicas that it has, or is to have once a reassignment is finished."""
        return tuple(member for member in self.replicas if member not in self.removing)

    @property
    def is_recovering(self) -> bool:
        """Whether its followers may have to truncate below their high watermarks in this epoch (rule 5)."""
        return self.recovering_epoch == self.leader_epoch


@dataclass(frozen=True, slots=True)
class TopicImage:
    """A topic. `config` has every setting in effect, `config_set` what was set explicitly, by key."""

    topic_id: bytes
    name: str
    replicas: int
    min_insync: int
    config: TopicConfig
    config_set: Pairs
    partitions: tuple[PartitionImage, ...]

    def min_insync_of(self, replicas: int) -> int:
        """The effective minISR of a partition with so many replicas (PROTOCOL, "Words")."""
        return min(self.min_insync, replicas)

    def changed_since(self, before: TopicImage | None) -> Iterator[tuple[int, PartitionImage]]:
        """Partitions, by number, that are not what they were, or not under the same rules."""
        alike = before is not None and (before.config, before.min_insync) == (self.config, self.min_insync)
        known = before.partitions if before is not None and alike else ()
        for number, state in enumerate(self.partitions):
            if number >= len(known) or known[number] is not state:
                yield number, state


@dataclass(frozen=True, slots=True)
class ProposerImage:
    """What is remembered of one proposer, so that its retries are not applied twice."""

    last_index: int
    """Of its latest command: who has been silent longest is forgotten first."""
    forgotten_below: int
    """Sequences below it may have been applied, and nobody knows any more."""
    results: tuple[tuple[int, CommandResult], ...]
    """(sequence, result) by sequence, the latest few."""


def frozen(mapping: dict[Any, Any]) -> Mapping[Any, Any]:
    """A view that nobody writes to; the caller keeps no reference to the dict."""
    return MappingProxyType(mapping)


@dataclass(frozen=True, slots=True)
class MetadataImage:
    """See the module. `version` is the index of the last command applied, refused ones included."""

    version: int = 0
    cluster_id: bytes | None = None
    feature_level: int = 0
    voters: Mapping[int, Voter] = field(default_factory=lambda: frozen({}))
    """By broker id, in that order."""
    controller_id: int | None = None
    controller_epoch: int = 0
    brokers: Mapping[int, BrokerImage] = field(default_factory=lambda: frozen({}))
    topics: Mapping[bytes, TopicImage] = field(default_factory=lambda: frozen({}))
    topic_ids: Mapping[str, bytes] = field(default_factory=lambda: frozen({}))
    """Of every topic, by its name."""
    next_producer_id: int = 0
    proposers: Mapping[bytes, ProposerImage] = field(default_factory=lambda: frozen({}))


EMPTY = MetadataImage()
"""Before the first command."""
