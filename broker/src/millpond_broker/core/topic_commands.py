"""What the commands about topics and partitions do to the image. Called by `image.apply` only.

A handler takes (image, index, command) and returns the changed image and its result, or raises a
MillpondError: refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from millpond.wire.errors import (
    FencedEpoch,
    InvalidConfig,
    InvalidRequest,
    MillpondError,
    NotEnoughBrokers,
    TopicExists,
    UnknownPartition,
    UnknownTopic,
)
from millpond.wire.names import check_topic_name
from millpond_broker.core.commands import (
    ID_BYTES,
    REPLICATION_LEVEL,
    AddPartitions,
    Assignment,
    ChangePartitions,
    CreateTopic,
    DeleteTopic,
    Pairs,
    PartitionChange,
    SetTopicConfig,
)
from millpond_broker.core.partition_changes import with_cleared_elr
from millpond_broker.core.results import Applied, Refused, RefusedItem
from millpond_broker.core.state import BrokerState, MetadataImage, PartitionImage, TopicImage, frozen
from millpond_broker.core.topic_config import TopicConfig

PARTITIONS_MAX: Final = 10_000
"""Of one topic: each has files, and a place in every image."""
PARTITIONS_TOTAL_MAX: Final = 50_000
"""Of all topics: a snapshot of the image stays within what the voters pass to one another."""
REPLICAS_MAX: Final = 1000
EPOCH_MAX: Final = (1 << 31) - 1
"""Leader and partition epochs have 32 bits on the wire and in batches."""


def create_topic(image: MetadataImage, _index: int, command: CreateTopic) -> tuple[MetadataImage, Applied]:
    """A topic whose partitions are led at once by the first of their replicas that runs."""
    check_topic_name(command.name)
    if command.name in image.topic_ids:
        raise TopicExists(topic=command.name)
    if len(command.topic_id) != ID_BYTES or command.topic_id in image.topics:
        raise InvalidRequest(reason=f"a topic id has {ID_BYTES} bytes, and is new")
    if not 1 <= command.replicas <= REPLICAS_MAX:
        raise InvalidRequest(reason=f"{command.replicas} replicas")
    if not 1 <= command.min_insync <= command.replicas:
        raise InvalidRequest(reason=f"min_insync {command.min_insync} of {command.replicas} replicas")
    if not 1 <= len(command.assignments) <= PARTITIONS_MAX:
        raise InvalidRequest(
            reason=f"{len(command.assignments)} partitions; 1 to {PARTITIONS_MAX} can be had"
        )
    _check_total(image, len(command.assignments))
    config_set = _merged((), command.config, ())
    topic = TopicImage(
        topic_id=command.topic_id,
        name=command.name,
        replicas=command.replicas,
        min_insync=command.min_insync,
        config=TopicConfig.parse(dict(config_set)),
        config_set=config_set,
        partitions=_new_partitions(image, command.assignments, command.replicas),
    )
    changed = replace(
        image,
        topics=frozen({**image.topics, topic.topic_id: topic}),
        topic_ids=frozen({**image.topic_ids, topic.name: topic.topic_id}),
    )
    return changed, Applied()


def delete_topic(image: MetadataImage, _index: int, command: DeleteTopic) -> tuple[MetadataImage, Applied]:
    """The topic is gone, and its name free."""
    topic = _topic(image, command.topic_id)
    topics, topic_ids = dict(image.topics), dict(image.topic_ids)
    del topics[topic.topic_id], topic_ids[topic.name]
    return replace(image, topics=frozen(topics), topic_ids=frozen(topic_ids)), Applied()


def add_partitions(
    image: MetadataImage, _index: int, command: AddPartitions
) -> tuple[MetadataImage, Applied]:
    """More partitions behind those that there are."""
    topic = _topic(image, command.topic_id)
    there = len(topic.partitions)
    if command.first_partition != there:
        raise InvalidRequest(
            reason=f"{topic.name!r} has {there} partitions now, not {command.first_partition}"
        )
    if not 1 <= len(command.assignments) <= PARTITIONS_MAX - there:
        raise InvalidRequest(
            reason=f"{there + len(command.assignments)} partitions; up to {PARTITIONS_MAX} can be had"
        )
    _check_total(image, len(command.assignments))
    added = _new_partitions(image, command.assignments, topic.replicas)
    return _with_topics(image, [replace(topic, partitions=topic.partitions + added)]), Applied()


def set_topic_config(
    image: MetadataImage, _index: int, command: SetTopicConfig
) -> tuple[MetadataImage, Applied]:
    """All of it or nothing; `flush` stays what it was (PROTOCOL, "Words"). With another minISR nobody is
    merely eligible any more, in the same step (rule 13).
    """
    topic = _topic(image, command.topic_id)
    config_set = _merged(topic.config_set, command.set, command.unset)
    config = TopicConfig.parse(dict(config_set))
    if config.flush != topic.config.flush:
        raise InvalidConfig(key="flush", reason="is fixed when the topic is created")
    changed = replace(topic, config=config, config_set=config_set)
    if command.min_insync is not None and command.min_insync != topic.min_insync:
        if not 1 <= command.min_insync <= topic.replicas:
            raise InvalidRequest(reason=f"min_insync {command.min_insync} of {topic.replicas} replicas")
        partitions = tuple(map(with_cleared_elr, topic.partitions))
        changed = replace(changed, min_insync=command.min_insync, partitions=partitions)
    return _with_topics(image, [changed]), Applied()


def change_partitions(
    image: MetadataImage, _index: int, command: ChangePartitions
) -> tuple[MetadataImage, Applied]:
    """Each change by itself, in order, on what those before it left (rules 11 and 12)."""
    if image.feature_level >= REPLICATION_LEVEL:
        raise InvalidRequest(reason="from level 2 on, partitions change by what is asked of them")
    changed: dict[bytes, dict[int, PartitionImage]] = {}
    refused = []
    for position, change in enumerate(command.changes):
        try:
            topic = _topic(image, change.topic_id)
            old = changed.get(change.topic_id, {}).get(change.partition) or _partition(
                topic, change.partition
            )
            changed.setdefault(change.topic_id, {})[change.partition] = _changed(image, old, change)
        except MillpondError as error:
            refused.append(RefusedItem(position, Refused.of(error)))
    topics = []
    for topic_id, states in changed.items():
        there = image.topics[topic_id]
        partitions = tuple(states.get(number, state) for number, state in enumerate(there.partitions))
        topics.append(replace(there, partitions=partitions))
    return _with_topics(image, topics), Applied(tuple(refused))


# --- one partition ---------------------------------------------------------------------------------------


def _new_partitions(
    image: MetadataImage, assignments: Sequence[Assignment], replicas: int
) -> tuple[PartitionImage, ...]:
    return tuple(_new_partition(image, assignment, replicas) for assignment in assignments)


def _new_partition(image: MetadataImage, assignment: Assignment, replicas: int) -> PartitionImage:
    """In sync are those that run: nothing was acknowledged yet, so that nobody lacks anything."""
    if len(assignment) != replicas or len(set(assignment)) != replicas:
        raise InvalidRequest(reason=f"replicas {assignment[:REPLICAS_MAX]}, and there are to be {replicas}")
    if unknown := [member for member in assignment if member not in image.brokers]:
        raise InvalidRequest(reason=f"broker {unknown[0]} has not registered")
    running = tuple(member for member in assignment if _runs(image, member))
    if not running:
        raise NotEnoughBrokers(replicas=replicas, brokers=0)
    return PartitionImage(
        leader=running[0], leader_epoch=0, partition_epoch=0, replicas=assignment, isr=running
    )


def _partition(topic: TopicImage, number: int) -> PartitionImage:
    if not 0 <= number < len(topic.partitions):
        raise UnknownPartition(topic=topic.name, partition=number, partitions=len(topic.partitions))
    return topic.partitions[number]


def _changed(image: MetadataImage, old: PartitionImage, change: PartitionChange) -> PartitionImage:
    """The partition as the change wants it, after rule 11's checks."""
    if change.partition_epoch_seen != old.partition_epoch:
        if change.partition_epoch_seen > old.partition_epoch:
            raise InvalidRequest(reason=f"partition epoch {change.partition_epoch_seen} is not there yet")
        raise FencedEpoch(epoch=change.partition_epoch_seen, current=old.partition_epoch)
    _check_leader_epoch(old, change)
    _check_members(image, old, change)
    if max(old.leader_epoch, old.partition_epoch) >= EPOCH_MAX:
        raise InvalidRequest(reason="this partition has no epochs left")
    return PartitionImage(
        leader=change.leader,
        leader_epoch=change.leader_epoch,
        partition_epoch=old.partition_epoch + 1,
        replicas=old.replicas,
        isr=change.isr,
        elr=change.elr,
    )


def _check_leader_epoch(old: PartitionImage, change: PartitionChange) -> None:
    """Exactly the next epoch elects; a leader that stays, or that nobody follows yet, keeps its own."""
    if change.leader_epoch < old.leader_epoch:
        raise FencedEpoch(epoch=change.leader_epoch, current=old.leader_epoch)
    stays = change.leader is None or change.leader == old.leader
    elects = change.leader is not None
    if change.leader_epoch == old.leader_epoch and stays:
        return
    if change.leader_epoch == old.leader_epoch + 1 and elects:
        return
    before = f"after {old.leader} in {old.leader_epoch}"
    raise InvalidRequest(reason=f"leader {change.leader} in epoch {change.leader_epoch}, {before}")


def _check_members(image: MetadataImage, old: PartitionImage, change: PartitionChange) -> None:
    """Whoever is in the ISR or ELR afterwards has what was acknowledged: only a leader that stays lets others
    join its ISR (rule 10), only members of either are eligible (rule 13), or elected (rule 14).
    """
    isr, elr = set(change.isr), set(change.elr)
    if len(isr) != len(change.isr) or len(elr) != len(change.elr) or isr & elr or not isr | elr:
        raise InvalidRequest(reason="the ISR and ELR of a partition have each member once, and at least one")
    if not isr | elr <= set(old.replicas):
        raise InvalidRequest(reason=f"ISR {change.isr} and ELR {change.elr} of replicas {old.replicas}")
    if not elr <= {*old.isr, *old.elr}:
        raise InvalidRequest(reason=f"ELR {change.elr} of ISR {old.isr} and ELR {old.elr}")
    if change.leader is not None and change.leader not in isr:
        raise InvalidRequest(reason=f"leader {change.leader} is not in the ISR {change.isr}")
    if change.leader is not None and change.leader_epoch == old.leader_epoch:
        if joining := sorted(member for member in isr - set(old.isr) if not _runs(image, member)):
            raise InvalidRequest(reason=f"broker {joining[0]} does not run, and cannot join the ISR")
        return
    if not isr <= set(old.isr) and not (not old.isr and isr == {change.leader} and isr <= set(old.elr)):
        raise InvalidRequest(reason=f"ISR {change.isr} without a leader that let it in, of {old.isr}")
    if change.leader is not None and not _runs(image, change.leader):
        raise InvalidRequest(reason=f"broker {change.leader} does not run, and cannot lead")


# --- helpers ---------------------------------------------------------------------------------------------


def _topic(image: MetadataImage, topic_id: bytes) -> TopicImage:
    topic = image.topics.get(topic_id)
    if topic is None:
        raise UnknownTopic(topic=topic_id.hex())
    return topic


def _with_topics(image: MetadataImage, topics: Sequence[TopicImage]) -> MetadataImage:
    if not topics:
        return image
    return replace(image, topics=frozen({**image.topics, **{topic.topic_id: topic for topic in topics}}))


def _runs(image: MetadataImage, broker_id: int) -> bool:
    broker = image.brokers.get(broker_id)
    return broker is not None and broker.state is BrokerState.RUNNING


def _check_total(image: MetadataImage, added: int) -> None:
    there = sum(len(topic.partitions) for topic in image.topics.values())
    if there + added > PARTITIONS_TOTAL_MAX:
        raise InvalidRequest(
            reason=f"{there} partitions there and {added} more; a cluster has up to {PARTITIONS_TOTAL_MAX}"
        )


def _merged(there: Pairs, put: Pairs, unset: Sequence[str]) -> Pairs:
    """Explicit settings by key. Raises InvalidConfig for a key given twice or, to unset, unknown."""
    named: set[str] = set()
    for key in (*(key for key, _ in put), *unset):
        if key in named:
            raise InvalidConfig(key=key, reason="is given twice")
        named.add(key)
    TopicConfig.parse(_examples(unset))
    values = {key: value for key, value in there if key not in named} | dict(put)
    return tuple(sorted(values.items()))


def _examples(keys: Sequence[str]) -> Mapping[str, str]:
    """Each key with a value that it takes, so that only an unknown key is refused."""
    defaults = vars(TopicConfig())
    return {key: "-1" if defaults.get(key, 0) is None else str(defaults.get(key)) for key in keys}
