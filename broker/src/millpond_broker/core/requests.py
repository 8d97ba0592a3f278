"""The commands that administrators' requests amount to: validated, and placed. Pure functions of the image.

Who asks is told at once what is wrong with a request; what is returned passes `image.apply` if the image is
still the same by then, and is refused there otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from millpond.wire.errors import (
    InvalidRequest,
    NotEnoughBrokers,
    TopicExists,
    UnknownPartition,
    UnknownTopic,
)
from millpond.wire.names import check_topic_name
from millpond_broker.core.commands import (
    AddPartitions,
    Assignment,
    CreateTopic,
    Election,
    ElectionKind,
    ElectLeaders,
    Reassignment,
    ReassignPartitions,
)
from millpond_broker.core.controller import CHANGES_MAX, unclean_leader
from millpond_broker.core.image import MetadataImage, PartitionImage, TopicImage
from millpond_broker.core.partition_changes import next_leader
from millpond_broker.core.placement import assign
from millpond_broker.core.replication_commands import members, running
from millpond_broker.core.topic_commands import PARTITIONS_MAX
from millpond_broker.core.topic_config import TopicConfig

REPLICAS_DEFAULT_MAX: Final = 3
"""Replicas of a topic for which none are asked, given as many brokers: one may be lost while another is
down for maintenance."""


def new_topic(
    image: MetadataImage,
    *,
    topic_id: bytes,
    name: str,
    partitions: int,
    replicas: int | None,
    min_insync: int | None,
    config: Mapping[str, str],
) -> CreateTopic:
    """A topic as it was asked for, placed on the brokers that run, and on others where those are too few.
    None: min(3, brokers) replicas, a majority of them as min_insync.

    Raises InvalidTopicName, TopicExists, NotEnoughBrokers, InvalidConfig, InvalidRequest.
    """
    check_topic_name(name)
    if name in image.topic_ids:
        raise TopicExists(topic=name)
    TopicConfig.parse(config)
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise InvalidRequest(reason=f"partitions: {partitions} is not within 1 to {PARTITIONS_MAX}")
    if replicas is None:
        replicas = max(1, min(REPLICAS_DEFAULT_MAX, len(members(image))))
    if replicas < 1:
        raise InvalidRequest(reason=f"replicas: {replicas} is less than 1")
    racks = _racks(image, replicas)
    if min_insync is None:
        min_insync = replicas // 2 + 1
    if not 1 <= min_insync <= replicas:
        raise InvalidRequest(reason=f"min_insync: {min_insync} is not within 1 to the {replicas} replicas")
    return CreateTopic(
        topic_id=topic_id,
        name=name,
        replicas=replicas,
        min_insync=min_insync,
        config=tuple(sorted((key, str(value)) for key, value in config.items())),
        assignments=assign(racks, partitions, replicas, load=_load(image)),
    )


def new_partitions(image: MetadataImage, topic_id: bytes, partitions: int) -> AddPartitions:
    """What brings a topic to so many partitions, which are more than it has.

    Raises UnknownTopic, NotEnoughBrokers, InvalidRequest.
    """
    topic = image.topics.get(topic_id)
    if topic is None:
        raise UnknownTopic(topic=topic_id.hex())
    there = len(topic.partitions)
    if not there < partitions <= PARTITIONS_MAX:
        raise InvalidRequest(
            reason=f"partitions: {partitions} is not more than the {there} there are, up to {PARTITIONS_MAX}"
        )
    added = assign(
        _racks(image, topic.replicas),
        partitions - there,
        topic.replicas,
        there=[partition.target for partition in topic.partitions],
        load=_load(image),
    )
    return AddPartitions(topic_id=topic_id, first_partition=there, assignments=added)


def new_reassignment(
    image: MetadataImage, topic_id: bytes, number: int, replicas: Assignment
) -> ReassignPartitions:
    """What moves a partition to these replicas, the first preferred as leader.

    Raises UnknownTopic, UnknownPartition, InvalidRequest; NotEnoughBrokers where one does not run.
    """
    _topic, old = _partition(image, topic_id, number)
    if not replicas or len(set(replicas)) != len(replicas):
        raise InvalidRequest(reason=f"replicas: {replicas} has not each once, and at least one")
    alive = running(image)
    if any(member not in image.brokers for member in replicas):
        raise InvalidRequest(reason=f"replicas: of {replicas} only brokers that registered can be had")
    added = [member for member in replicas if member not in old.replicas]
    if any(member not in alive for member in added):
        raise NotEnoughBrokers(replicas=len(replicas), brokers=sum(member in alive for member in replicas))
    return ReassignPartitions((Reassignment(topic_id, number, replicas, old.partition_epoch),))


def preferred_elections(image: MetadataImage, wanted: Iterable[tuple[bytes, int]]) -> list[ElectLeaders]:
    """Preferred leaders for those of these partitions that another one leads, where they can."""
    alive, elections = running(image), []
    for topic_id, number, _topic, old in _each(image, wanted):
        preferred = old.target[0]
        if old.leader not in (None, preferred) and preferred in old.isr and preferred in alive:
            elections.append(
                Election(topic_id, number, preferred, old.partition_epoch, ElectionKind.PREFERRED)
            )
    return list(_commands(elections))


def unclean_elections(image: MetadataImage, wanted: Iterable[tuple[bytes, int]]) -> list[ElectLeaders]:
    """Leaders for those of these partitions that nobody leads, at the price of what was acknowledged where
    nobody has all of it (rule 14).
    """
    alive, elections = running(image), []
    for topic_id, number, topic, old in _each(image, wanted):
        if old.leader is not None:
            continue
        leader, kind = next_leader(old, alive), ElectionKind.CLEAN
        if leader is None:
            leader, kind = unclean_leader(topic, old, alive), ElectionKind.UNCLEAN
        if leader is not None:
            elections.append(Election(topic_id, number, leader, old.partition_epoch, kind))
    return list(_commands(elections))


def without_preference(image: MetadataImage, broker_id: int) -> list[ReassignPartitions]:
    """What lets others be preferred as leaders wherever this broker leads, or is preferred, and another one
    that runs is in sync: the same replicas with this one last, and first the one that is preferred least.

    The preference moves, and not only the leadership, which a controller would give back.
    """
    alive = running(image) - {broker_id}
    load, items = _load(image), []
    for topic_id, topic in image.topics.items():
        for number, old in enumerate(topic.partitions):
            target = old.target
            if broker_id not in (old.leader, target[0]):
                continue
            heirs = [member for member in target if member in alive and member in old.isr]
            if not heirs or target[0] in heirs:
                continue
            heir = min(heirs, key=lambda member: (load[member], member))
            load[heir] += 1
            others = [member for member in target if member not in (heir, broker_id)]
            replicas = (heir, *others, *(member for member in target if member == broker_id))
            items.append(Reassignment(topic_id, number, replicas, old.partition_epoch))
    return [
        ReassignPartitions(tuple(items[at : at + CHANGES_MAX])) for at in range(0, len(items), CHANGES_MAX)
    ]


def _commands(elections: list[Election]) -> Iterator[ElectLeaders]:
    return (
        ElectLeaders(tuple(elections[at : at + CHANGES_MAX])) for at in range(0, len(elections), CHANGES_MAX)
    )


def _each(
    image: MetadataImage, wanted: Iterable[tuple[bytes, int]]
) -> Iterator[tuple[bytes, int, TopicImage, PartitionImage]]:
    for topic_id, number in wanted:
        topic, partition = _partition(image, topic_id, number)
        yield topic_id, number, topic, partition


def _partition(image: MetadataImage, topic_id: bytes, number: int) -> tuple[TopicImage, PartitionImage]:
    topic = image.topics.get(topic_id)
    if topic is None:
        raise UnknownTopic(topic=topic_id.hex())
    if not 0 <= number < len(topic.partitions):
        raise UnknownPartition(topic=topic.name, partition=number, partitions=len(topic.partitions))
    return topic, topic.partitions[number]


def _racks(image: MetadataImage, replicas: int) -> dict[int, str]:
    """Of brokers that may hold so many replicas: all that run; where those are too few, others make up the
    number, who went last first. So every partition has one that runs, and a topic that is made while a broker
    restarts has the replicas that it would have had a moment later.

    Raises NotEnoughBrokers.
    """
    alive = running(image)
    absent = sorted(members(image) - alive, key=lambda member: (-image.brokers[member].since, member))
    holders = sorted([*alive, *absent[: max(0, replicas - len(alive))]])
    if not alive or len(holders) < replicas:
        raise NotEnoughBrokers(replicas=replicas, brokers=len(holders) if alive else 0)
    return {member: image.brokers[member].rack for member in holders}


def _load(image: MetadataImage) -> Counter[int]:
    """How many partitions each broker is preferred to lead."""
    return Counter(state.target[0] for topic in image.topics.values() for state in topic.partitions)
