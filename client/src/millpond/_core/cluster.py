"""The cluster as a client sees it: who is there, what topics there are, who leads their partitions.

Immutable: an update makes the next view, so that a reader keeps one for as long as it decides. Versions
order the views of all brokers; the first update of a watch replaces everything, the others add to it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from millpond.wire.errors import InvalidConfig

RECORD_BYTES_MAX_DEFAULT: Final = 1 << 20
"""For a broker that does not name the setting."""
BATCH_BYTES_MAX_DEFAULT: Final = 4 << 20
"""Likewise."""


class BrokerView(NamedTuple):
    """One broker. `address` is host:port for clients; `state` is running, fenced, stopping or unknown."""

    id: int
    address: str
    rack: str
    state: str
    epoch: int
    version: str
    voter: bool = False


class PartitionView(NamedTuple):
    """One partition. `leader` is None while nobody leads it."""

    partition: int
    leader: int | None
    leader_epoch: int
    partition_epoch: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    elr: tuple[int, ...]
    adding: tuple[int, ...] = ()
    """Replicas that a reassignment adds."""
    removing: tuple[int, ...] = ()
    """Those that it drops once these are in sync."""

    @property
    def target(self) -> tuple[int, ...]:
        """The replicas that it has, or is to have."""
        return tuple(member for member in self.replicas if member not in self.removing)

    @property
    def is_moving(self) -> bool:
        """Whether a reassignment is under way."""
        return bool(self.adding or self.removing)


class TopicView(NamedTuple):
    """One topic; `partitions` are in order, from 0, without gaps. `config` has every setting, as text."""

    name: str
    topic_id: bytes
    partitions: tuple[PartitionView, ...]
    replicas: int
    min_insync: int
    config: Mapping[str, str]

    @property
    def record_bytes_max(self) -> int:
        """Largest record the topic takes, in bytes."""
        return int(self.config.get("record_bytes_max", RECORD_BYTES_MAX_DEFAULT))

    @property
    def compacted(self) -> bool:
        """Whether compaction may take records out of the middle of its logs."""
        return "compact" in self.config.get("cleanup_policy", "delete")


class ClusterUpdate(NamedTuple):
    """One message of a watch. `whole`: it is the first and holds everything; else the topics that changed.

    Brokers are complete in either.
    """

    whole: bool
    cluster_id: bytes
    version: int
    controller_id: int | None
    brokers: tuple[BrokerView, ...]
    topics: tuple[TopicView, ...]
    removed_topic_ids: tuple[bytes, ...]
    batch_bytes_max: int


class ClusterView(NamedTuple):
    """Everything at one version. `version` is -1 before the first update."""

    cluster_id: bytes = b""
    version: int = -1
    controller_id: int | None = None
    brokers: Mapping[int, BrokerView] = MappingProxyType({})
    topics: Mapping[str, TopicView] = MappingProxyType({})
    batch_bytes_max: int = BATCH_BYTES_MAX_DEFAULT

    def updated(self, update: ClusterUpdate) -> ClusterView:
        """The view after `update`; this one where the update is of an older version of the same cluster.

        A broker that lags behind sends, first, what is older than what is known here; its later updates
        say what changed since *that*, hence again what is known, and are right from our version on.
        """
        if update.cluster_id == self.cluster_id and update.version < self.version:
            return self
        if not update.whole and update.version == self.version:
            return self
        topics = {topic.name: topic for topic in update.topics}
        if not update.whole:
            kept = _without(self.topics.values(), set(update.removed_topic_ids))
            topics = kept | topics
        return ClusterView(
            cluster_id=update.cluster_id,
            version=update.version,
            controller_id=update.controller_id,
            brokers=MappingProxyType({broker.id: broker for broker in update.brokers}),
            topics=MappingProxyType(topics),
            batch_bytes_max=update.batch_bytes_max or BATCH_BYTES_MAX_DEFAULT,
        )

    def leader(self, topic: str, partition: int) -> BrokerView | None:
        """Who leads the partition; None where nobody does, or where topic, partition or broker is unknown."""
        view = self.topics.get(topic)
        if view is None or not 0 <= partition < len(view.partitions):
            return None
        leader = view.partitions[partition].leader
        return None if leader is None else self.brokers.get(leader)


def _without(topics: Iterable[TopicView], removed: set[bytes]) -> dict[str, TopicView]:
    return {topic.name: topic for topic in topics if topic.topic_id not in removed}


class Unreached(enum.StrEnum):
    """Why no broker was reached at an address, where that decides something. In `ClusterUnavailable.tried`
    it stands among texts, and reads as one; what is decided asks for the member, never for its words.
    """

    REFUSED = "connection refused"
    """Nobody listens there: nothing was sent."""
    HTTP_PORT = "it speaks HTTP: this is no port for clients, but perhaps a broker's for metrics"
    PEER_PORT = "it speaks gRPC, but is no port for clients: perhaps a broker's for other brokers"

    @property
    def is_misdirected(self) -> bool:
        """Whether somebody answers there, who is no broker's port for clients: nor will be by waiting."""
        return self is not Unreached.REFUSED

    def __repr__(self) -> str:
        return repr(self.value)


class NotReady(str):
    """Likewise, of a broker that answers that it is not ready, in its words: it runs, and starts or stops."""

    __slots__ = ()


DEFAULT_PORT: Final = 7070
HOW_TO_WRITE: Final = "write host:port, several with commas between"


def addresses_of(bootstrap: str) -> tuple[str, ...]:
    """The addresses of `host:port[,host:port…]`, in order, each once; a port that is left out is 7070.

    Raises InvalidConfig for one that is no address.
    """
    found: list[str] = []
    for word in bootstrap.split(","):
        text = word.strip()
        if not text:
            continue
        host, colon, port = text.rpartition(":")
        if not colon or (text.startswith("[") and text.endswith("]")):
            host, port = text, str(DEFAULT_PORT)
        if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise InvalidConfig(key="bootstrap", reason=f"{text!r} is no address; {HOW_TO_WRITE}")
        if (address := f"{host}:{port}") not in found:
            found.append(address)
    if not found:
        raise InvalidConfig(key="bootstrap", reason=f"no address in {bootstrap!r}; {HOW_TO_WRITE}")
    return tuple(found)
