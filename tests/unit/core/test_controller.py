"""What the controller plans, and what requests become: rules 12 to 14, and the defaults of API.md."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from millpond.wire.errors import (
    InvalidConfig,
    InvalidRequest,
    InvalidTopicName,
    MillpondError,
    NotEnoughBrokers,
    TopicExists,
    UnknownTopic,
)
from millpond_broker.core import controller
from millpond_broker.core.commands import ChangePartitions, CreateTopic, SetTopicConfig
from millpond_broker.core.controller import elect, plan
from millpond_broker.core.image import EMPTY, MetadataImage, PartitionImage
from millpond_broker.core.placement import assign
from millpond_broker.core.requests import new_partitions, new_topic
from tests.unit.core.clusters import alive, change, cluster, id_of, registration, topic
from tests.unit.core.replicas import replicated

NOW_MS = 1_700_000_000_000


def test_all_that_a_restart_left_leaderless_is_elected_in_one_command() -> None:
    """Rules 12 and 14: the next epoch of each, for the new incarnation."""
    c = cluster(1)
    c.must(topic("orders", (1,), (1,)))
    c.must(topic("billing", (1,)))
    assert plan(c.image, alive(c.image, 1), NOW_MS) == []
    c.must(registration(1, start=2))
    (command,) = plan(c.image, alive(c.image, 1), NOW_MS)
    assert c.must(command).value == ()
    for name, number in (("orders", 0), ("orders", 1), ("billing", 0)):
        assert c.partition(name, number) == PartitionImage(1, 1, 2, (1,), (1,))
    assert plan(c.image, alive(c.image, 1), NOW_MS) == []


def test_nothing_is_planned_for_brokers_that_are_not_there() -> None:
    """A plan that is refused is made again with every image: it must not be made at all."""
    c = cluster(1)
    c.must(topic("orders", (1,)))
    c.must(registration(1, start=2))
    assert plan(c.image, {}, NOW_MS) == []
    assert plan(c.image, alive(c.image, 2), NOW_MS) == []
    assert plan(EMPTY, alive(EMPTY, 1), NOW_MS) == []


def test_a_command_has_a_bounded_number_of_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "CHANGES_MAX", 2)
    c = cluster(1)
    c.must(topic("orders", *[(1,)] * 5))
    c.must(registration(1, start=2))
    commands = plan(c.image, alive(c.image, 1), NOW_MS)
    assert [len(command.changes) for command in commands if isinstance(command, ChangePartitions)] == [
        2,
        2,
        1,
    ]
    assert all(c.must(command).value == () for command in commands)


def elected(partition: PartitionImage, live: set[int], min_insync: int = 2) -> Any:
    c = cluster(1, 2, 3)
    c.must(topic("orders", (1, 2, 3), min_insync=min_insync))
    return elect(c.image.topics[id_of("orders")], 0, partition, frozenset(live))


Members = tuple[int, ...]


@pytest.mark.parametrize(
    ("isr", "elr", "live", "expected"),
    [
        ((1, 2, 3), (), {1, 2, 3}, (2, (1, 2, 3), ())),  # by assignment, which is 2, 3, 1
        ((1, 3), (2,), {1, 2, 3}, (3, (1, 3), (2,))),
        ((1, 3), (2,), {1, 2}, (1, (1, 3), (2,))),
        ((1, 3), (2,), {2}, None),  # the ISR has it all, and may come back
        ((), (3, 1), {1, 2}, (1, (1,), (3,))),
        ((), (3, 1), {2}, None),
    ],
)
def test_a_leader_comes_from_the_isr_by_assignment_or_without_one_from_the_elr(
    isr: Members, elr: Members, live: set[int], expected: tuple[int, Members, Members] | None
) -> None:
    """Rule 14."""
    change = elected(PartitionImage(None, 4, 9, (2, 3, 1), isr, elr), live)
    if expected is None:
        assert change is None
        return
    assert (change.leader, change.isr, change.elr) == expected
    assert (change.leader_epoch, change.partition_epoch_seen) == (5, 9)


def test_an_eligible_leader_that_is_enough_leaves_nobody_merely_eligible() -> None:
    """Rule 13."""
    change = elected(PartitionImage(None, 4, 9, (2, 3, 1), (), (3, 1)), {1}, min_insync=1)
    assert (change.isr, change.elr) == ((1,), ())


def test_what_is_elected_from_the_elr_applies() -> None:
    """Rules 11, 13 and 14 agree with one another."""
    c = cluster(1, 2, 3)
    c.must(topic("orders", (1, 2, 3), min_insync=2))
    old = c.partition("orders")
    c.must(ChangePartitions((change("orders", old, leader=None, isr=(), elr=(1, 2, 3)),)))
    (command,) = plan(c.image, alive(c.image, 2, 3), NOW_MS)
    assert c.must(command).value == ()
    assert c.partition("orders") == PartitionImage(2, 1, 2, (1, 2, 3), (2,), (1, 3))


def test_what_is_as_it_was_can_be_told_by_looking() -> None:
    """A broker places again only what changed, out of a thousand partitions."""
    c = cluster(1, 2)
    c.must(topic("orders", (1, 2), (2, 1), (1, 2)))
    before = c.image.topics[id_of("orders")]
    assert [number for number, _ in before.changed_since(None)] == [0, 1, 2]
    c.must(ChangePartitions((change("orders", before.partitions[1], number=1, isr=(2,)),)))
    now = c.image.topics[id_of("orders")]
    assert list(now.changed_since(before)) == [(1, now.partitions[1])]
    c.must(new_partitions(c.image, id_of("orders"), 4))
    assert [number for number, _ in c.image.topics[id_of("orders")].changed_since(now)] == [3]
    now = c.image.topics[id_of("orders")]
    c.must(SetTopicConfig(id_of("orders"), (("retention_ms", "5"),), (), None))
    assert len(list(c.image.topics[id_of("orders")].changed_since(now))) == 4, (
        "under other rules, all of them"
    )


# --- requests ----------------------------------------------------------------------------------------


def asked(image: MetadataImage, name: str = "orders", **of: Any) -> CreateTopic:
    options: dict[str, Any] = {
        "partitions": 3,
        "replicas": None,
        "min_insync": None,
        "config": {},
        "topic_id": id_of(name),
    }
    return new_topic(image, name=name, **{**options, **of})


@pytest.mark.parametrize(
    ("brokers", "replicas", "min_insync"),
    [((1,), 1, 1), ((1, 2), 2, 2), ((1, 2, 3), 3, 2), ((1, 2, 3, 4), 3, 2)],
)
def test_replicas_default_to_three_or_all_and_min_insync_to_a_majority(
    brokers: tuple[int, ...], replicas: int, min_insync: int
) -> None:
    """API.md, "Command line"."""
    c = cluster(*brokers)
    command = asked(c.image)
    assert (command.replicas, command.min_insync, len(command.assignments)) == (replicas, min_insync, 3)
    c.must(command)


@pytest.mark.parametrize(
    ("of", "error"),
    [
        ({"name": "a b"}, InvalidTopicName),
        ({"name": "there"}, TopicExists),
        ({"partitions": 0}, InvalidRequest),
        ({"partitions": 10_001}, InvalidRequest),
        ({"replicas": 0}, InvalidRequest),
        ({"replicas": 3}, NotEnoughBrokers),
        ({"replicas": 2, "min_insync": 3}, InvalidRequest),
        ({"min_insync": 0}, InvalidRequest),
        ({"config": {"flsuh": "commit"}}, InvalidConfig),
        ({"config": {"flush": "never"}}, InvalidConfig),
    ],
)
def test_a_request_that_means_nothing_is_refused_before_it_is_proposed(
    of: dict[str, Any], error: type[MillpondError]
) -> None:
    c = cluster(1, 2)
    c.must(topic("there", (1,)))
    with pytest.raises(error):
        asked(c.image, **of)


def test_brokers_that_are_away_hold_what_the_others_are_too_few_for() -> None:
    """A topic that is made in the middle of a restart is not one replica short for ever."""
    c = replicated(1, 2, 3, 4)
    c.must(topic("everywhere", (1, 2, 3, 4)))
    c.fence(3)
    c.must(asked(c.image, "elsewhere"))
    assert all(set(state.replicas) == {1, 2, 4} for state in c.image.topics[id_of("elsewhere")].partitions)
    c.fence(1)
    c.must(asked(c.image, replicas=3))
    for state in c.image.topics[id_of("orders")].partitions:
        assert set(state.replicas) == {1, 2, 4}, "of those that are away, who went last"
        assert set(state.isr) == {2, 4}
        assert state.leader in state.isr
    assert sorted(state.target[0] for state in c.image.topics[id_of("orders")].partitions) == [1, 2, 4]
    c.must(new_partitions(c.image, id_of("orders"), 4))
    assert set(c.partition("orders", 3).replicas) == {1, 2, 4}
    c.fence(2, 4)
    with pytest.raises(NotEnoughBrokers):
        asked(c.image, "nobody-leads", replicas=1)


def test_a_broker_that_left_for_good_is_not_counted() -> None:
    """It does not vote and holds nothing: what is placed on it would wait for it for ever."""
    c = replicated(1, 2)
    c.fence(2)
    made = asked(c.image)
    assert (made.replicas, made.min_insync, set(made.assignments)) == (1, 1, {(1,)})
    with pytest.raises(NotEnoughBrokers):
        asked(c.image, replicas=2)


def test_the_largest_topic_and_the_smallest_are_made() -> None:
    c = cluster(1)
    c.must(asked(c.image, "large", partitions=10_000))
    c.must(asked(c.image, "small", partitions=1, config={"retention_ms": "5", "flush": "interval"}))
    assert c.image.topics[id_of("small")].config_set == (("flush", "interval"), ("retention_ms", "5"))


def test_no_broker_holds_no_topic() -> None:
    with pytest.raises(NotEnoughBrokers):
        asked(EMPTY)


def test_more_partitions_go_on_where_the_topic_began() -> None:
    c = cluster(1, 2, 3)
    c.must(asked(c.image, "first", partitions=1, replicas=1))
    c.must(asked(c.image, partitions=2, replicas=2))
    c.must(new_partitions(c.image, id_of("orders"), 6))
    leaders = Counter(partition.leader for partition in c.image.topics[id_of("orders")].partitions)
    assert leaders == {1: 2, 2: 2, 3: 2}


@pytest.mark.parametrize("partitions", [0, 2, 3, 10_001])
def test_partitions_never_become_fewer_nor_too_many(partitions: int) -> None:
    c = cluster(1)
    c.must(asked(c.image))
    with pytest.raises(InvalidRequest):
        new_partitions(c.image, id_of("orders"), partitions)


def test_partitions_are_added_to_topics_that_there_are() -> None:
    with pytest.raises(UnknownTopic):
        new_partitions(cluster(1).image, id_of("orders"), 2)


# --- placement ---------------------------------------------------------------------------------------


def test_leaders_go_round_and_small_topics_do_not_all_begin_at_one_broker() -> None:
    assert [replicas[0] for replicas in assign(dict.fromkeys((3, 1, 2), ""), 4, 1)] == [1, 2, 3, 1]
    c = cluster(1, 2, 3)
    for name in ("a", "b", "c"):
        c.must(asked(c.image, name, partitions=1, replicas=1))
    assert [c.partition(name).leader for name in ("a", "b", "c")] == [1, 2, 3]


@pytest.mark.parametrize(("brokers", "replicas"), [(1, 1), (2, 2), (3, 2), (3, 3), (5, 3), (7, 4)])
def test_replicas_are_distinct_and_spread_evenly(brokers: int, replicas: int) -> None:
    placed = assign(dict.fromkeys(range(1, brokers + 1), ""), 4 * brokers * max(1, brokers - 1), replicas)
    assert all(len(set(members)) == replicas for members in placed)
    held = Counter(member for members in placed for member in members)
    assert len(set(held.values())) == 1, "as many on each"


def test_the_partitions_of_a_lost_broker_find_new_leaders_on_all_the_others() -> None:
    placed = assign(dict.fromkeys(range(1, 5), ""), 48, 2)
    successors = Counter(members[1] for members in placed if members[0] == 1)
    assert successors == {2: 4, 3: 4, 4: 4}
