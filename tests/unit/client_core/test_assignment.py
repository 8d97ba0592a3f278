"""Which partitions a subscription means."""

from __future__ import annotations

import re

import pytest

from millpond._core.assignment import Subscription, assign
from millpond._core.cluster import ClusterView
from millpond.wire.errors import UnknownPartition
from millpond.wire.record import TopicPartition
from tests.unit.client_core.test_cluster import topic, update

VIEW = ClusterView().updated(
    update(
        1, topic("orders", 1, 1), topic("orders-eu", 1), topic("users", 1), topic("__offsets", 1), whole=True
    )
)


def test_named_topics_with_all_their_partitions() -> None:
    wanted, missing = assign(VIEW, Subscription(("orders", "gone")))
    assert list(wanted) == [TopicPartition("orders", 0), TopicPartition("orders", 1)]
    assert set(wanted.values()) == {VIEW.topics["orders"].topic_id}
    assert missing == ("gone",)


def test_a_pattern_means_whole_names_and_no_internal_topics() -> None:
    def names(pattern: str) -> set[str]:
        return {key.topic for key in assign(VIEW, Subscription(pattern=re.compile(pattern))).wanted}

    assert names("orders") == {"orders"}
    assert names("orders.*") == {"orders", "orders-eu"}
    assert names(".*") == {"orders", "orders-eu", "users"}


def test_an_internal_topic_is_had_by_name() -> None:
    assert list(assign(VIEW, Subscription(("__offsets",))).wanted) == [TopicPartition("__offsets", 0)]


def test_some_partitions_only_and_none_that_is_not_there() -> None:
    assert list(assign(VIEW, Subscription(("orders",), partitions=(1,))).wanted) == [
        TopicPartition("orders", 1)
    ]
    with pytest.raises(UnknownPartition) as caught:
        assign(VIEW, Subscription(("orders", "users"), partitions=(1,)))
    assert (caught.value.topic, caught.value.partition, caught.value.partitions) == ("users", 1, 1)
