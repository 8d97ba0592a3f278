"""Counts of a scrape: a partition counts once over all brokers, and one without a leader at each of them."""

from __future__ import annotations

from types import MappingProxyType

from millpond_broker.core.image import (
    EMPTY,
    BrokerImage,
    BrokerState,
    MetadataImage,
    PartitionImage,
    TopicImage,
)
from millpond_broker.core.topic_config import TopicConfig
from millpond_broker.runtime.gauges import of_cluster

STATES = {1: BrokerState.RUNNING, 2: BrokerState.RUNNING, 3: BrokerState.FENCED}


def _partition(leader: int | None, isr: tuple[int, ...], *, removing: tuple[int, ...] = ()) -> PartitionImage:
    last, elr = (3, (3,)) if leader is None else (None, ())
    return PartitionImage(
        leader, 0, 0, replicas=(1, 2, 3), isr=isr, elr=elr, last_leader=last, removing=removing
    )


def _image(*partitions: PartitionImage) -> MetadataImage:
    topic = TopicImage(b"t" * 16, "t", 3, 2, TopicConfig(), (), partitions)
    brokers = {
        number: BrokerImage(number, 1, b"", "", "", "", "", "", state=state)
        for number, state in STATES.items()
    }
    return MetadataImage(
        version=7, brokers=MappingProxyType(brokers), topics=MappingProxyType({topic.topic_id: topic})
    )


def _counted(image: MetadataImage, broker: int) -> dict[str, float]:
    return {name + "".join(labels.values()): value for name, labels, value in of_cluster(image, broker)}


IMAGE = _image(
    _partition(1, (1, 2, 3)),
    _partition(1, (1, 2)),
    _partition(2, (2,)),
    _partition(None, ()),
    # A replica that is being dropped need not be in sync, and is none of those that have to be.
    _partition(2, (1, 2), removing=(3,)),
    _partition(2, (2, 3), removing=(3,)),
)


def test_each_partition_is_counted_by_whoever_leads_it() -> None:
    one, two = _counted(IMAGE, 1), _counted(IMAGE, 2)
    assert (one["partitions_led"], two["partitions_led"]) == (2, 3)
    assert (one["partitions_under_replicated"], two["partitions_under_replicated"]) == (1, 2)
    assert (one["partitions_under_min_insync"], two["partitions_under_min_insync"]) == (0, 1)


def test_one_that_nobody_leads_is_told_by_every_broker() -> None:
    assert [_counted(IMAGE, broker)["partitions_without_leader"] for broker in STATES] == [1, 1, 1]


def test_every_state_has_a_number_though_nobody_is_in_it() -> None:
    counted = _counted(IMAGE, 1)
    assert {name: value for name, value in counted.items() if name.startswith("brokers")} == {
        "brokersrunning": 2,
        "brokersfenced": 1,
        "brokersstopping": 0,
        "brokersleft": 0,
    }
    assert _counted(EMPTY, 1)["partitions_led"] == 0


def test_who_is_away_and_has_nothing_to_come_back_for_has_left() -> None:
    """Nobody is to be woken for it."""
    counted = _counted(_image(PartitionImage(1, 0, 0, replicas=(1, 2), isr=(1, 2))), 1)
    assert (counted["brokersfenced"], counted["brokersleft"], counted["brokersrunning"]) == (0, 1, 2)
