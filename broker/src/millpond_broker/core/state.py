"""The cluster's metadata as of one command: immutable, handed to readers by reference.

`image.apply` makes the next one; it shares with the one before it whatever did not change, so that a reader
can tell what changed by identity. Mappings are read-only.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from millpond_broker.core.commands import Pairs, Voter
from millpond_broker.core.results import CommandResult
from millpond_broker.core.topic_config import TopicConfig


class BrokerState(enum.Enum):
    """Whether a broker may lead and be in sync."""

    RUNNING = "running"
    FENCED = "fenced"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class BrokerImage:
    """A broker that registered. `epoch` is the index of the registration of this incarnation: it grows with
    every start, and leadership is bound to it (rule 12).
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


@dataclass(frozen=True, slots=True)
class PartitionImage:
    """Who holds a partition and who leads it.

    isr ⊆ replicas; elr ⊆ replicas, disjoint from isr; not both empty; a leader is in the isr.
    leader_epoch grows with every election, partition_epoch with every change, neither goes back.
    """

    leader: int | None
    leader_epoch: int
    partition_epoch: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    elr: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        assert self.isr or self.elr, "somebody has what was acknowledged"
        assert set(self.isr) <= set(self.replicas), "who is in sync is a replica"
        assert set(self.elr) <= set(self.replicas) - set(self.isr), "who is eligible is not in sync"
        assert self.leader is None or self.leader in self.isr, "a leader is in sync with itself"


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
