"""What the controller does next, and the commands that requests amount to: pure functions of the image.

`plan` answers "what should change now"; `new_topic` and `new_partitions` validate a request and place it.
What they return passes `image.apply` if the image is still the same by then, and is refused there otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from millpond.wire.errors import InvalidRequest, NotEnoughBrokers, TopicExists, UnknownTopic
from millpond.wire.names import check_topic_name
from millpond_broker.core.commands import (
    AddPartitions,
    ChangePartitions,
    Command,
    CreateTopic,
    PartitionChange,
)
from millpond_broker.core.image import BrokerState, MetadataImage, PartitionImage, TopicImage
from millpond_broker.core.placement import assign
from millpond_broker.core.topic_commands import EPOCH_MAX, PARTITIONS_MAX
from millpond_broker.core.topic_config import TopicConfig

REPLICAS_DEFAULT_MAX: Final = 3
"""Replicas of a topic for which none are asked, given as many brokers: one may be lost while another is
down for maintenance."""
CHANGES_MAX: Final = 5000
"""Partition changes in one command: it stays well within what one entry of the log may have."""


def plan(image: MetadataImage, live: frozenset[int], now_ms: int) -> list[Command]:
    """Commands to propose now, in order: a leader for every partition that has none and can have one.

    `live`: brokers whose session is open. `now_ms`: milliseconds UTC; nothing waits for a time yet.
    """
    alive = frozenset(member for member in live if _runs(image, member))
    changes = tuple(_elections(image, alive))
    return [ChangePartitions(changes[at : at + CHANGES_MAX]) for at in range(0, len(changes), CHANGES_MAX)]


def _elections(image: MetadataImage, alive: frozenset[int]) -> Iterator[PartitionChange]:
    for topic in image.topics.values():
        for number, partition in enumerate(topic.partitions):
            if (
                partition.leader is None
                and max(partition.leader_epoch, partition.partition_epoch) < EPOCH_MAX
            ):
                change = elect(topic, number, partition, alive)
                if change is not None:
                    yield change


def elect(
    topic: TopicImage, number: int, partition: PartitionImage, alive: frozenset[int]
) -> PartitionChange | None:
    """The next leader by rule 14's order, as far as it is safe: of the ISR, by assignment; without an ISR,
    of the ELR, which it then is the ISR instead of. None: nobody who is alive has all that was acknowledged.
    """
    candidates = partition.isr or partition.elr
    leader = next((member for member in partition.replicas if member in candidates and member in alive), None)
    if leader is None:
        return None
    isr, elr = partition.isr or (leader,), partition.elr
    if not partition.isr:
        # Rule 13, by the effective minISR.
        is_enough = min(topic.min_insync, len(partition.replicas)) <= 1
        elr = () if is_enough else tuple(member for member in elr if member != leader)
    return PartitionChange(
        topic_id=topic.topic_id,
        partition=number,
        leader=leader,
        leader_epoch=partition.leader_epoch + 1,
        isr=isr,
        elr=elr,
        partition_epoch_seen=partition.partition_epoch,
    )


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
    """A topic as it was asked for, placed on the brokers that run. None: min(3, brokers) replicas, a majority
    of them as min_insync.

    Raises InvalidTopicName, TopicExists, NotEnoughBrokers, InvalidConfig, InvalidRequest.
    """
    check_topic_name(name)
    if name in image.topic_ids:
        raise TopicExists(topic=name)
    TopicConfig.parse(config)
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise InvalidRequest(reason=f"partitions: {partitions} is not within 1 to {PARTITIONS_MAX}")
    running = _running(image)
    if replicas is None:
        replicas = max(1, min(REPLICAS_DEFAULT_MAX, len(running)))
    if replicas < 1:
        raise InvalidRequest(reason=f"replicas: {replicas} is less than 1")
    if replicas > len(running):
        raise NotEnoughBrokers(replicas=replicas, brokers=len(running))
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
        assignments=assign(running, partitions, replicas, start=_partitions(image)),
    )


def new_partitions(image: MetadataImage, topic_id: bytes, partitions: int) -> AddPartitions:
    """What brings a topic to so many partitions, which are more than it has.

    Raises UnknownTopic, NotEnoughBrokers, InvalidRequest.
    """
    topic = image.topics.get(topic_id)
    if topic is None:
        raise UnknownTopic(topic=topic_id.hex())
    there, running = len(topic.partitions), _running(image)
    if not there < partitions <= PARTITIONS_MAX:
        raise InvalidRequest(
            reason=f"partitions: {partitions} is not more than the {there} there are, up to {PARTITIONS_MAX}"
        )
    if topic.replicas > len(running):
        raise NotEnoughBrokers(replicas=topic.replicas, brokers=len(running))
    # Go on where the topic began, so that it stays spread evenly.
    first = topic.partitions[0].replicas[0]
    start = running.index(first) if first in running else 0
    added = assign(running, partitions - there, topic.replicas, first_partition=there, start=start)
    return AddPartitions(topic_id=topic_id, first_partition=there, assignments=added)


def _partitions(image: MetadataImage) -> int:
    return sum(len(topic.partitions) for topic in image.topics.values())


def _running(image: MetadataImage) -> list[int]:
    return [member for member in image.brokers if _runs(image, member)]


def _runs(image: MetadataImage, broker_id: int) -> bool:
    broker = image.brokers.get(broker_id)
    return broker is not None and broker.state is BrokerState.RUNNING
