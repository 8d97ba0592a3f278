"""What is looked up at a scrape rather than counted: partitions here, and the cluster as it is known here.

Nothing on the path of a batch pays for it. One pass over the metadata, and one over the replicas of this
broker: the loop stands still meanwhile, for some milliseconds where there are thousands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from millpond_broker.core.image import BrokerState, MetadataImage, PartitionImage
from millpond_broker.core.replication_commands import members
from millpond_broker.observe.metrics import Gauge
from millpond_broker.runtime.partition import Partition


def of_cluster(image: MetadataImage, broker_id: int) -> Iterator[Gauge]:
    """As of the metadata that were applied here. A partition is counted by whoever leads it, so that a sum
    over brokers counts it once; one without a leader, by every broker.
    """
    yield "metadata_version", {}, image.version
    expected = members(image)
    states = Counter(image.brokers[broker].state for broker in expected)
    for state in BrokerState:
        yield "brokers", {"state": state.name.lower()}, states[state]
    yield "brokers", {"state": "left"}, len(image.brokers) - len(expected)
    led = leaderless = under_replicated = under_min_insync = 0
    for topic in image.topics.values():
        for partition in topic.partitions:
            if partition.leader is None:
                leaderless += 1
            elif partition.leader == broker_id:
                led += 1
                target = partition.target
                under_replicated += not set(target).issubset(partition.isr)
                under_min_insync += len(partition.isr) < topic.min_insync_of(len(target))
    yield "partitions_led", {}, led
    yield "partitions_under_replicated", {}, under_replicated
    yield "partitions_under_min_insync", {}, under_min_insync
    yield "partitions_without_leader", {}, leaderless


def of_partitions(partitions: Iterable[Partition], image: MetadataImage) -> Iterator[Gauge]:
    """Of each replica here whose log is open."""
    for partition in partitions:
        log, leader = partition.log, partition.leader
        if log is None:
            continue
        # One object for all of them: whoever renders them does not make the text of labels anew.
        labels = {"topic": partition.name.topic, "partition": str(partition.name.partition)}
        yield "log_start_offset", labels, log.log_start
        yield "log_end_offset", labels, log.log_end
        yield "high_watermark_offset", labels, partition.high_watermark
        yield "log_bytes", labels, log.size_bytes
        yield "log_segments", labels, len(log.segments())
        yield "is_leader", labels, int(leader is not None)
        if leader is not None and (known := _known(image, partition)) is not None:
            yield "replicas", labels, len(known.replicas)
            yield "in_sync_replicas", labels, len(known.isr)


def _known(image: MetadataImage, partition: Partition) -> PartitionImage | None:
    """What the metadata say of it; None for a topic that is being deleted."""
    topic_id, number = partition.key
    topic = image.topics.get(topic_id)
    return None if topic is None or number >= len(topic.partitions) else topic.partitions[number]
