"""What the commands about the cluster and its brokers do to the image. Called by `image.apply` only.

A handler takes (image, index, command) and returns the changed image and its result, or raises a
MillpondError: refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from millpond.wire.errors import FencedEpoch, InvalidRequest, UnsupportedFormat
from millpond_broker.core.commands import (
    FEATURE_LEVEL,
    ID_BYTES,
    AddVoter,
    AllocateProducerIds,
    ClaimController,
    InitCluster,
    RegisterBroker,
    RemoveVoter,
)
from millpond_broker.core.results import Applied
from millpond_broker.core.state import BrokerImage, BrokerState, MetadataImage, PartitionImage, frozen

BROKER_ID_MAX: Final = (1 << 31) - 1
"""0 says "none" on the wire."""
BROKERS_MAX: Final = 1000
"""Registered at any time: the image holds each for good."""
VOTERS_MAX: Final = 9
TEXT_CHARACTERS_MAX: Final = 512
"""Of an address, a rack, a version, a directory id."""
PRODUCER_IDS_MAX: Final = 1 << 20
"""In one block."""
_PRODUCER_ID_END: Final = 1 << 62
"""More than anybody counts to, and within the header's 64 bits."""
_TERM_END: Final = 1 << 62


def init_cluster(image: MetadataImage, _index: int, command: InitCluster) -> tuple[MetadataImage, Applied]:
    """The cluster's id and voters, once: the first command decides."""
    if image.cluster_id is not None:
        return image, Applied(image.cluster_id)
    if len(command.cluster_id) != ID_BYTES:
        raise InvalidRequest(reason=f"a cluster id has {ID_BYTES} bytes")
    if not 1 <= command.feature_level <= FEATURE_LEVEL:
        raise UnsupportedFormat(what=f"feature level {command.feature_level}")
    voters = {voter.broker_id: voter for voter in command.voters}
    if len(voters) != len(command.voters) or len(voters) > VOTERS_MAX:
        raise InvalidRequest(reason=f"{len(command.voters)} voters: each once, at most {VOTERS_MAX}")
    for voter in command.voters:
        _check_broker(voter.broker_id, [voter.directory_id, voter.address])
    changed = replace(
        image,
        cluster_id=command.cluster_id,
        feature_level=command.feature_level,
        voters=frozen(dict(sorted(voters.items()))),
    )
    return changed, Applied(command.cluster_id)


def why_not_change_voters(image: MetadataImage, command: AddVoter | RemoveVoter) -> str | None:
    """What speaks against it, where the image has every change of voters before it; None if nothing does."""
    if image.cluster_id is None:
        return "there is no cluster yet"
    if isinstance(command, RemoveVoter):
        if command.broker_id not in image.voters:
            return f"broker {command.broker_id} is no voter"
        return "the last voter stays" if len(image.voters) == 1 else None
    voter = command.voter
    known = image.brokers.get(voter.broker_id)
    if not 1 <= voter.broker_id <= BROKER_ID_MAX:
        return f"broker id {voter.broker_id} is not within 1 to {BROKER_ID_MAX}"
    if max(len(voter.directory_id), len(voter.address)) > TEXT_CHARACTERS_MAX:
        return f"an address or name of more than {TEXT_CHARACTERS_MAX} characters"
    if not voter.directory_id or not voter.address:
        return "a voter is named by its directory and its address"
    if voter.broker_id in image.voters:
        return f"broker {voter.broker_id} is a voter already"
    if known is not None and known.directory_id != voter.directory_id:
        return f"broker id {voter.broker_id} belongs to data directory {known.directory_id}"
    if any(voter.directory_id == other.directory_id for other in image.voters.values()):
        return f"data directory {voter.directory_id} is a voter's already"
    return f"there are {VOTERS_MAX} voters already" if len(image.voters) >= VOTERS_MAX else None


def add_voter(image: MetadataImage, _index: int, command: AddVoter) -> tuple[MetadataImage, Applied]:
    """The group has it from the entry on: this only takes note."""
    voters = {**image.voters, command.voter.broker_id: command.voter}
    return replace(image, voters=frozen(dict(sorted(voters.items())))), Applied()


def remove_voter(image: MetadataImage, _index: int, command: RemoveVoter) -> tuple[MetadataImage, Applied]:
    """Likewise."""
    voters = {key: voter for key, voter in image.voters.items() if key != command.broker_id}
    return replace(image, voters=frozen(voters)), Applied()


def register_broker(
    image: MetadataImage, index: int, command: RegisterBroker
) -> tuple[MetadataImage, Applied]:
    """A new incarnation gets the index of its registration as its broker epoch (rule 12), and takes the place
    of the one before it, which is fenced by that. No zombie is left: the directory id is the same, and a
    data directory is locked by the process that has it open.
    """
    texts = [command.directory_id, command.address, command.peer_address, command.rack, command.version]
    _check_broker(command.broker_id, texts)
    if len(command.incarnation) != ID_BYTES:
        raise InvalidRequest(reason=f"an incarnation has {ID_BYTES} bytes")
    known = image.brokers.get(command.broker_id)
    if known is None and len(image.brokers) >= BROKERS_MAX:
        raise InvalidRequest(reason=f"there are {BROKERS_MAX} brokers already")
    voter = image.voters.get(command.broker_id)
    disk = known.directory_id if known else voter.directory_id if voter else command.directory_id
    if disk != command.directory_id:
        raise InvalidRequest(
            reason=f"broker id {command.broker_id} belongs to data directory {disk}, not"
            f" {command.directory_id}; a broker with a new disk needs a new id"
        )
    same = known if known is not None and known.incarnation == command.incarnation else None
    broker = BrokerImage(
        broker_id=command.broker_id,
        epoch=index if same is None else same.epoch,
        incarnation=command.incarnation,
        directory_id=command.directory_id,
        address=command.address,
        peer_address=command.peer_address,
        rack=command.rack,
        version=command.version,
        state=BrokerState.RUNNING if same is None else same.state,
    )
    if same is None:
        image = _without(image, command.broker_id)
    brokers = dict(sorted({**image.brokers, broker.broker_id: broker}.items()))
    return replace(image, brokers=frozen(brokers)), Applied(broker.epoch)


def claim_controller(
    image: MetadataImage, _index: int, command: ClaimController
) -> tuple[MetadataImage, Applied]:
    """The term claimed is the controller's epoch from here on."""
    if not image.controller_epoch < command.term < _TERM_END:
        raise FencedEpoch(epoch=command.term, current=image.controller_epoch)
    _check_broker(command.broker_id, ())
    changed = replace(image, controller_id=command.broker_id, controller_epoch=command.term)
    return changed, Applied(command.term)


def allocate_producer_ids(
    image: MetadataImage, _index: int, command: AllocateProducerIds
) -> tuple[MetadataImage, Applied]:
    """The next ids, which nobody else gets."""
    broker = image.brokers.get(command.broker_id)
    if broker is None:
        raise InvalidRequest(reason=f"broker {command.broker_id} has not registered")
    if broker.epoch != command.broker_epoch:
        raise FencedEpoch(epoch=command.broker_epoch, current=broker.epoch)
    if not 1 <= command.count <= PRODUCER_IDS_MAX:
        raise InvalidRequest(reason=f"{command.count} producer ids; 1 to {PRODUCER_IDS_MAX} can be had")
    first = image.next_producer_id
    if first + command.count > _PRODUCER_ID_END:
        raise InvalidRequest(reason="all producer ids are taken")
    return replace(image, next_producer_id=first + command.count), Applied(first)


def _check_broker(broker_id: int, texts: Iterable[str]) -> None:
    if not 1 <= broker_id <= BROKER_ID_MAX:
        raise InvalidRequest(reason=f"broker id {broker_id} is not within 1 to {BROKER_ID_MAX}")
    if any(len(text) > TEXT_CHARACTERS_MAX for text in texts):
        raise InvalidRequest(reason=f"an address or name of more than {TEXT_CHARACTERS_MAX} characters")


def _without(image: MetadataImage, broker_id: int) -> MetadataImage:
    """What an incarnation that is over led or was in sync with, it is no longer: in one step (rule 12)."""
    changed = {}
    for topic_id, topic in image.topics.items():
        partitions = tuple(
            fenced(partition, broker_id, min(topic.min_insync, len(partition.replicas)))
            for partition in topic.partitions
        )
        if any(new is not old for new, old in zip(partitions, topic.partitions, strict=True)):
            changed[topic_id] = replace(topic, partitions=partitions)
    return replace(image, topics=frozen({**image.topics, **changed})) if changed else image


def fenced(partition: PartitionImage, broker_id: int, min_insync: int) -> PartitionImage:
    """The partition without that broker as leader and in the ISR; the last member keeps its seat, since
    nobody else has what was acknowledged. `min_insync` is the effective one (rule 13).
    """
    if broker_id not in partition.isr:
        return partition
    isr = tuple(member for member in partition.isr if member != broker_id) or partition.isr
    leader = None if partition.leader == broker_id else partition.leader
    if isr == partition.isr and leader == partition.leader:
        return partition
    eligible = {*partition.isr, *partition.elr} - set(isr) if len(isr) < min_insync else set()
    return replace(
        partition,
        leader=leader,
        isr=isr,
        elr=tuple(member for member in partition.replicas if member in eligible),
        partition_epoch=partition.partition_epoch + 1,
    )
