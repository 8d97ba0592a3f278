"""Which partitions a consumer reads: of named topics or of a pattern, some or all, as the cluster is now."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from millpond._core.cluster import ClusterView, TopicView
from millpond.wire.errors import UnknownPartition
from millpond.wire.record import TopicPartition


class Subscription(NamedTuple):
    """What a user asked for. `pattern`: of whole topic names; internal topics are only had by name."""

    topics: tuple[str, ...] = ()
    pattern: re.Pattern[str] | None = None
    partitions: tuple[int, ...] | None = None

    def matches(self, topic: str) -> bool:
        """Whether the topic is one of those."""
        if topic in self.topics:
            return True
        internal = topic.startswith("__")
        return self.pattern is not None and not internal and self.pattern.fullmatch(topic) is not None


class Assignment(NamedTuple):
    """`wanted` partitions with the id of their topic; `missing` topics, which were named and do not exist."""

    wanted: dict[TopicPartition, bytes]
    missing: tuple[str, ...]


def assign(view: ClusterView, subscription: Subscription) -> Assignment:
    """What the subscription means in this view. Raises UnknownPartition for one that a topic has not."""
    found = [topic for name, topic in view.topics.items() if subscription.matches(name)]
    wanted = {
        TopicPartition(topic.name, partition): topic.topic_id
        for topic in found
        for partition in _numbers(topic, subscription.partitions)
    }
    return Assignment(wanted, tuple(name for name in subscription.topics if name not in view.topics))


def _numbers(topic: TopicView, wanted: Sequence[int] | None) -> Sequence[int]:
    count = len(topic.partitions)
    if wanted is None:
        return range(count)
    for partition in wanted:
        if not 0 <= partition < count:
            raise UnknownPartition(topic=topic.name, partition=partition, partitions=count)
    return wanted
