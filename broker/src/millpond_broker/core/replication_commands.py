"""What the commands about replicas, leaders and ISRs do to the image, from feature level 2 on. Called by
`image.apply` only.

A handler takes (image, index, command) and returns the changed image and its result, or raises a
MillpondError: refused. What a command says of several partitions is checked and done for each by itself, in
order, on what those before it left (rules 11 and 12); `partition_changes` knows what becomes of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from millpond.wire.errors import (
    FencedEpoch,
    IneligibleReplica,
    InvalidRequest,
    InvalidUpdateVersion,
    MillpondError,
    NotController,
    UnknownPartition,
    UnknownTopic,
)
from millpond_broker.core.commands import (
    AlterPartitions,
    Election,
    ElectionKind,
    ElectLeaders,
    FinishReassignments,
    GiveUp,
    GiveUpPartitions,
    InSyncChange,
    InSyncMember,
    PartitionSeen,
    Reassignment,
    ReassignPartitions,
)
from millpond_broker.core.partition_changes import (
    finished,
    led,
    led_in_recovery,
    next_leader,
    reassigned,
    resigned,
    why_not_finished,
    with_isr,
    without,
)
from millpond_broker.core.results import Applied, Refused, RefusedItem
from millpond_broker.core.state import (
    BrokerImage,
    BrokerState,
    MetadataImage,
    PartitionImage,
    TopicImage,
    frozen,
)
from millpond_broker.core.topic_commands import EPOCH_MAX, REPLICAS_MAX


class _Item(Protocol):
    """What a command says of one partition, and in which state it was decided."""

    @property
    def topic_id(self) -> bytes: ...
    @property
    def partition(self) -> int: ...
    @property
    def partition_epoch_seen(self) -> int: ...


Item = TypeVar("Item", bound=_Item)
Change = Callable[[TopicImage, PartitionImage, Item], PartitionImage]

# --- what brokers ask for --------------------------------------------------------------------------------


def alter_partitions(
    image: MetadataImage, _index: int, command: AlterPartitions
) -> tuple[MetadataImage, Applied]:
    """A leader's ISRs (rule 11)."""
    sender = start_of(image, command.broker_id, command.broker_epoch)

    def change(topic: TopicImage, old: PartitionImage, item: InSyncChange) -> PartitionImage:
        isr = _checked_isr(image, sender, old, item)
        return with_isr(old, isr, item.unseated, topic.min_insync_of(len(old.replicas)))

    return _each(image, command.changes, change, check=_check_leader_epochs)


def _check_leader_epochs(old: PartitionImage, item: InSyncChange) -> None:
    """Rule 11's first two checks: who knows more than the image asks one that is behind."""
    if item.leader_epoch > old.leader_epoch or item.partition_epoch_seen > old.partition_epoch:
        raise NotController
    if item.leader_epoch < old.leader_epoch:
        raise FencedEpoch(epoch=item.leader_epoch, current=old.leader_epoch)


def _checked_isr(
    image: MetadataImage, sender: BrokerImage, old: PartitionImage, item: InSyncChange
) -> tuple[int, ...]:
    """The rest of rule 11's checks, in its order."""
    if sender.broker_id != old.leader:
        raise InvalidRequest(reason=f"broker {sender.broker_id} does not lead; {old.leader} does")
    _check_seen(old, item)
    isr = tuple([member.broker_id for member in item.isr])
    members = set(isr)
    if len(members) != len(isr) or not members.issubset(old.replicas) or sender.broker_id not in members:
        raise InvalidRequest(reason=f"ISR {isr[:REPLICAS_MAX]} of replicas {old.replicas} under {old.leader}")
    if item.unseated and not members.isdisjoint(item.unseated):
        raise InvalidRequest(reason="who is unseated leaves the ISR")
    for member in item.isr:
        if member.broker_id not in old.isr:
            _check_eligible(image, member.broker_id, member.broker_epoch)
            _check_floor(old, member)
    return isr


def give_up_partitions(
    image: MetadataImage, _index: int, command: GiveUpPartitions
) -> tuple[MetadataImage, Applied]:
    """Leaderships that end, and seats that are given up (rules 15 and 40)."""
    broker_id = start_of(image, command.broker_id, command.broker_epoch).broker_id
    alive = running(image)

    def change(topic: TopicImage, old: PartitionImage, item: GiveUp) -> PartitionImage:
        min_insync = topic.min_insync_of(len(old.replicas))
        if item.leaves:
            return without(old, broker_id, alive, min_insync, unseated=True)
        if old.leader != broker_id:
            raise InvalidRequest(reason=f"broker {broker_id} does not lead; {old.leader} does")
        return resigned(old, broker_id, alive, min_insync)

    return _each(image, command.partitions, change)


# --- what the controller and administrators decide -------------------------------------------------------


def elect_leaders(image: MetadataImage, _index: int, command: ElectLeaders) -> tuple[MetadataImage, Applied]:
    """Leaders, each as its kind allows (rules 14 and 15)."""
    alive = running(image)

    def change(topic: TopicImage, old: PartitionImage, item: Election) -> PartitionImage:
        leader, min_insync = item.leader, topic.min_insync_of(len(old.replicas))
        if leader not in old.replicas:
            raise InvalidRequest(reason=f"leader {leader} of replicas {old.replicas}")
        _check_eligible(image, leader, None)
        if why := _why_not_elected(alive, topic, old, item):
            raise InvalidRequest(reason=why)
        if item.kind in (ElectionKind.CLEAN, ElectionKind.PREFERRED):
            return led(old, leader, min_insync)
        return led_in_recovery(old, leader)

    return _each(image, command.elections, change)


def _why_not_elected(
    alive: frozenset[int], topic: TopicImage, old: PartitionImage, item: Election
) -> str | None:
    """What speaks against this election, of a broker that runs."""
    leader = item.leader
    if item.kind == ElectionKind.PREFERRED:
        is_better = old.leader is not None and leader == old.target[0] != old.leader and leader in old.isr
        return None if is_better else f"broker {leader} is not preferred to {old.leader}"
    if old.leader is not None:
        return f"broker {old.leader} leads"
    clean = next_leader(old, alive)
    match item.kind:
        case ElectionKind.CLEAN:
            # Not necessarily the first by assignment: that is a matter of taste, this one of safety.
            if next_leader(old, (leader,)) != leader:
                return f"broker {leader} may lack what was acknowledged"
            return None
        case ElectionKind.RECOVERING | ElectionKind.UNCLEAN if clean is not None:
            return f"broker {clean} has what was acknowledged"
        case ElectionKind.RECOVERING:
            return None if leader in recoverable(topic, old) else f"broker {leader} is not the one to recover"
        case ElectionKind.UNCLEAN:
            return None
        case _:
            return f"no kind of election has the number {item.kind}"


def recoverable(topic: TopicImage, old: PartitionImage) -> tuple[int, ...]:
    """Who may lead in recovery: without ISR and ELR, the last known leader (rule 14); with an ELR of which
    everybody there is cut bytes, whoever has most by its reports, once there are as many as minISR (rule 15).
    Whether to wait for more of them is the controller's to say.
    """
    if old.leader is not None or old.isr or old.is_offline:
        return ()
    if not old.elr:
        return () if old.last_leader not in old.replicas else (old.last_leader,)
    is_enough = len(old.cuts) >= min(topic.min_insync_of(len(old.replicas)), len(old.elr))
    if not old.cuts or not is_enough:
        return ()
    most = max(cut.rank for cut in old.cuts)
    holders = {cut.broker_id for cut in old.cuts if cut.rank == most}
    return tuple(member for member in old.replicas if member in holders)


def reassign_partitions(
    image: MetadataImage, _index: int, command: ReassignPartitions
) -> tuple[MetadataImage, Applied]:
    """Replicas are added, and those that are to go marked."""

    def change(_topic: TopicImage, old: PartitionImage, item: Reassignment) -> PartitionImage:
        target = item.replicas
        if not 1 <= len(target) <= REPLICAS_MAX or len(set(target)) != len(target):
            raise InvalidRequest(reason=f"replicas {target[:REPLICAS_MAX]}: each once, at least one")
        if unknown := [member for member in target if member not in image.brokers]:
            raise InvalidRequest(reason=f"broker {unknown[0]} has not registered")
        return reassigned(old, target)

    return _each(image, command.reassignments, change)


def finish_reassignments(
    image: MetadataImage, _index: int, command: FinishReassignments
) -> tuple[MetadataImage, Applied]:
    """Replicas that were to go are dropped; a leader among them is replaced."""
    alive = running(image)

    def change(topic: TopicImage, old: PartitionImage, _item: PartitionSeen) -> PartitionImage:
        min_insync = topic.min_insync_of(len(old.target))
        if why := why_not_finished(old, min_insync):
            raise InvalidRequest(reason=why)
        return finished(old, alive, min_insync)

    return _each(image, command.partitions, change)


# --- helpers ---------------------------------------------------------------------------------------------


def running(image: MetadataImage) -> frozenset[int]:
    """Brokers that may lead and join an ISR."""
    return frozenset(key for key, broker in image.brokers.items() if broker.state is BrokerState.RUNNING)


def members(image: MetadataImage) -> frozenset[int]:
    """Brokers that are expected to run: those that do, that vote, or that hold a replica of anything. Others
    that registered once have left for good.
    """
    holding = (state.replicas for topic in image.topics.values() for state in topic.partitions)
    return running(image).union(image.voters, *holding).intersection(image.brokers)


def start_of(image: MetadataImage, broker_id: int, broker_epoch: int) -> BrokerImage:
    """The broker, if that is its latest start (rule 12). Raises InvalidRequest, FencedEpoch."""
    broker = image.brokers.get(broker_id)
    if broker is None:
        raise InvalidRequest(reason=f"broker {broker_id} has not registered")
    if broker.epoch != broker_epoch:
        raise FencedEpoch(epoch=broker_epoch, current=broker.epoch)
    return broker


def with_partitions(
    image: MetadataImage, change: Callable[[TopicImage, PartitionImage], PartitionImage]
) -> MetadataImage:
    """The image with every partition changed; topics of which none was are the same objects."""
    changed = {}
    for topic_id, topic in image.topics.items():
        partitions = tuple([change(topic, old) for old in topic.partitions])
        if any(map(_is_not, partitions, topic.partitions)):
            changed[topic_id] = replace(topic, partitions=partitions)
    return replace(image, topics=frozen({**image.topics, **changed})) if changed else image


def _is_not(one: object, other: object) -> bool:
    return one is not other


def _check_eligible(image: MetadataImage, broker_id: int, broker_epoch: int | None) -> None:
    """That this start of a broker may lead and join ISRs (rule 11). None: whichever there is."""
    broker = image.brokers.get(broker_id)
    if broker is None:
        raise IneligibleReplica(broker=broker_id, reason="it has not registered")
    if broker.state is not BrokerState.RUNNING:
        raise IneligibleReplica(broker=broker_id, reason=f"it is {broker.state.value}")
    if broker_epoch is not None and broker_epoch != broker.epoch:
        reason = f"it caught up in broker epoch {broker_epoch}, and is in {broker.epoch}"
        raise IneligibleReplica(broker=broker_id, reason=reason)


def _check_floor(old: PartitionImage, member: InSyncMember) -> None:
    for broker_id, floor in old.floors:
        if broker_id == member.broker_id and member.stated_in < floor:
            reason = f"it stated its position in partition epoch {member.stated_in}, and has another log"
            raise IneligibleReplica(broker=broker_id, reason=f"{reason} since {floor}")


def _check_seen(old: PartitionImage, item: _Item) -> None:
    """Rule 12: a change is of the state it was decided on."""
    if item.partition_epoch_seen > old.partition_epoch:
        raise NotController
    if item.partition_epoch_seen < old.partition_epoch:
        raise InvalidUpdateVersion(partition_epoch=item.partition_epoch_seen, current=old.partition_epoch)
    if max(old.leader_epoch, old.partition_epoch) >= EPOCH_MAX:
        raise InvalidRequest(reason="this partition has no epochs left")


def _each(
    image: MetadataImage,
    items: Sequence[Item],
    change: Change[Item],
    *,
    check: Callable[[PartitionImage, Item], None] | None = None,
) -> tuple[MetadataImage, Applied]:
    """Every item done or refused. `check` comes before the one that all share."""
    changed: dict[bytes, dict[int, PartitionImage]] = {}
    refused = []
    for position, item in enumerate(items):
        try:
            topic = image.topics.get(item.topic_id)
            if topic is None:
                raise UnknownTopic(topic=item.topic_id.hex())
            states = changed.setdefault(item.topic_id, {})
            old = states.get(item.partition) or _partition(topic, item.partition)
            if check is None:
                _check_seen(old, item)
            else:
                check(old, item)
            states[item.partition] = change(topic, old, item)
        except MillpondError as error:
            refused.append(RefusedItem(position, Refused.of(error)))
    return _with_states(image, changed), Applied(tuple(refused))


def _with_states(image: MetadataImage, changed: dict[bytes, dict[int, PartitionImage]]) -> MetadataImage:
    topics = {}
    for topic_id, states in changed.items():
        there = image.topics[topic_id]
        if any(state is not there.partitions[number] for number, state in states.items()):
            partitions = list(there.partitions)
            for number, state in states.items():
                partitions[number] = state
            topics[topic_id] = replace(there, partitions=tuple(partitions))
    return replace(image, topics=frozen({**image.topics, **topics})) if topics else image


def _partition(topic: TopicImage, number: int) -> PartitionImage:
    if not 0 <= number < len(topic.partitions):
        raise UnknownPartition(topic=topic.name, partition=number, partitions=len(topic.partitions))
    return topic.partitions[number]
