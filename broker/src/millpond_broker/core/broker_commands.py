"""What the commands about the cluster and its brokers do to the image. Called by `image.apply` only.

A handler takes (image, index, command) and returns the changed image and its result, or raises a
MillpondError: refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from millpond.wire.errors import BrokerNotReady, FencedEpoch, InvalidRequest, UnsupportedFormat
from millpond_broker.core.commands import (
    FEATURE_LEVEL,
    ID_BYTES,
    REPLICATION_LEVEL,
    AddVoter,
    AllocateProducerIds,
    ClaimController,
    FenceBroker,
    InitCluster,
    RaiseFeatureLevel,
    RegisterBroker,
    RemoveVoter,
    StopBroker,
    UnfenceBroker,
)
from millpond_broker.core.partition_changes import led_if_possible, registered, settled, without
from millpond_broker.core.replication_commands import running, start_of, with_partitions
from millpond_broker.core.results import Applied
from millpond_broker.core.state import (
    BrokerImage,
    BrokerState,
    MetadataImage,
    PartitionImage,
    TopicImage,
    frozen,
)

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
    if command.decided_on and set(command.decided_on) != image.voters.keys():
        # Rule 12: two removals that were each right by themselves may leave no majority.
        return f"the voters are {sorted(image.voters)} by now, and not {sorted(command.decided_on)}"
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
    """A new incarnation gets the index of its registration as its broker epoch (rule 12).

    Up to level 1 it runs at once and takes the place of the one before it, which is fenced by that. From
    level 2 on that one has to be fenced before, and the new one is until it has caught up; what it says it
    lost has its consequences now (rule 15).
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
    is_replicated = image.feature_level >= REPLICATION_LEVEL
    if is_replicated:
        _check_start(image, command, None if same is not None else known)
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
    if is_replicated:
        state, since = (BrokerState.FENCED, index) if same is None else (same.state, same.since)
        broker = replace(broker, state=state, since=since, feature_level=command.feature_level)
    elif same is None:
        image = _without(image, command.broker_id)
    changed = _with_broker(image, broker)
    if is_replicated and same is None and known is not None:
        changed = _with_losses(changed, command, known)
    return changed, Applied(broker.epoch)


def _check_start(image: MetadataImage, command: RegisterBroker, before: BrokerImage | None) -> None:
    """`before`: the start whose place a new one takes."""
    if command.feature_level < image.feature_level:
        raise UnsupportedFormat(
            what=f"broker {command.broker_id} knows feature level {command.feature_level}; this cluster is at"
            f" {image.feature_level}"
        )
    if before is not None and before.state is not BrokerState.FENCED:
        raise BrokerNotReady(reason=f"another start of broker {command.broker_id} is {before.state.value}")


def _with_losses(image: MetadataImage, command: RegisterBroker, before: BrokerImage) -> MetadataImage:
    """Rule 15, for every partition in which the broker that has just registered is eligible."""
    reports = {(cut.topic_id, cut.partition): cut for cut in command.cuts}
    was_clean = command.previous_epoch == before.epoch
    broker_id, topics = command.broker_id, {}
    for topic_id, topic in image.topics.items():
        may_lose_acknowledged = topic.config.flush == "interval"
        partitions = []
        for number, old in enumerate(topic.partitions):
            report = reports.get((topic_id, number))
            lost_seat = may_lose_acknowledged and (report is not None or not was_clean)
            partitions.append(registered(old, broker_id, report, image.brokers, lost_seat=lost_seat))
        if any(new is not old for new, old in zip(partitions, topic.partitions, strict=True)):
            topics[topic_id] = replace(topic, partitions=tuple(partitions))
    return replace(image, topics=frozen({**image.topics, **topics})) if topics else image


def fence_broker(image: MetadataImage, index: int, command: FenceBroker) -> tuple[MetadataImage, Applied]:
    """Out of every ISR, with new leaders for what it led: one step for all its partitions (rule 12)."""
    broker = start_of(image, command.broker_id, command.broker_epoch)
    if broker.is_lost:
        return image, Applied()
    changed = _with_broker(image, replace(broker, state=BrokerState.FENCED, since=index))
    return _without_broker(changed, broker.broker_id, keep_last=False), Applied()


def unfence_broker(image: MetadataImage, index: int, command: UnfenceBroker) -> tuple[MetadataImage, Applied]:
    """It may lead: what waited for it is led in the same step, and what others cut is settled."""
    broker = start_of(image, command.broker_id, command.broker_epoch)
    if broker.state is not BrokerState.FENCED:
        return image, Applied()
    changed = _with_broker(image, replace(broker, state=BrokerState.RUNNING, since=index))
    alive, brokers, broker_id = running(changed), changed.brokers, broker.broker_id

    def change(topic: TopicImage, old: PartitionImage) -> PartitionImage:
        if old.leader is not None or (broker_id not in old.isr and broker_id not in old.elr):
            return old
        after = settled(old, brokers)
        after = led_if_possible(after, alive, topic.min_insync_of(len(old.replicas)))
        if after.partition_epoch > old.partition_epoch + 1:  # one change, however many steps
            after = replace(after, partition_epoch=old.partition_epoch + 1)
        return after

    return with_partitions(changed, change), Applied()


def stop_broker(image: MetadataImage, index: int, command: StopBroker) -> tuple[MetadataImage, Applied]:
    """A controlled stop (rule 12). Again for one that is stopping: what has others by now moves, too."""
    broker = start_of(image, command.broker_id, command.broker_epoch)
    if broker.state is BrokerState.FENCED:
        return image, Applied()
    if broker.state is BrokerState.RUNNING:
        image = _with_broker(image, replace(broker, state=BrokerState.STOPPING, since=index))
    return _without_broker(image, broker.broker_id, keep_last=True), Applied()


def _without_broker(image: MetadataImage, broker_id: int, *, keep_last: bool) -> MetadataImage:
    alive = running(image)

    def change(topic: TopicImage, old: PartitionImage) -> PartitionImage:
        if broker_id not in old.isr or (keep_last and not any(member in alive for member in old.isr)):
            return old
        return without(old, broker_id, alive, topic.min_insync_of(len(old.replicas)))

    return with_partitions(image, change)


def _with_broker(image: MetadataImage, broker: BrokerImage) -> MetadataImage:
    return replace(image, brokers=frozen(dict(sorted({**image.brokers, broker.broker_id: broker}.items()))))


def raise_feature_level(
    image: MetadataImage, _index: int, command: RaiseFeatureLevel
) -> tuple[MetadataImage, Applied]:
    """The next level, if every broker and voter is among those that know it, as it is registered now."""
    if command.level <= image.feature_level:
        return image, Applied()
    if command.level != image.feature_level + 1 or command.level > FEATURE_LEVEL:
        raise UnsupportedFormat(what=f"feature level {command.level} after {image.feature_level}")
    if why := why_not_raise(image, command):
        raise InvalidRequest(reason=why)
    brokers = {
        key: replace(broker, feature_level=max(broker.feature_level, command.level))
        for key, broker in image.brokers.items()
    }
    return replace(image, feature_level=command.level, brokers=frozen(brokers)), Applied()


def why_not_raise(image: MetadataImage, command: RaiseFeatureLevel) -> str | None:
    """Who is not known to know that level; None if everybody does."""
    reported = {start.broker_id: start.broker_epoch for start in command.supporters}
    for broker_id in sorted({*image.brokers, *image.voters}):
        broker = image.brokers.get(broker_id)
        if broker is not None and broker.feature_level >= command.level:
            continue
        if reported.get(broker_id) != (0 if broker is None else broker.epoch):
            return f"broker {broker_id} has not reported to know feature level {command.level}"
    return None


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
