"""The view of a cluster: what an update adds, takes away, and does not bring back."""

from __future__ import annotations

import pytest

from millpond._core.cluster import (
    RECORD_BYTES_MAX_DEFAULT,
    BrokerView,
    ClusterUpdate,
    ClusterView,
    PartitionView,
    TopicView,
    addresses_of,
)
from millpond.wire.errors import InvalidConfig

CLUSTER = b"c" * 16


def broker(number: int) -> BrokerView:
    return BrokerView(number, f"b{number}:7070", "", "running", 1, "1")


def topic(name: str, *leaders: int | None, generation: int = 0) -> TopicView:
    partitions = tuple(
        PartitionView(number, leader, 0, 0, (1, 2, 3), (1, 2, 3), ()) for number, leader in enumerate(leaders)
    )
    return TopicView(name, f"{name}{generation}".encode().ljust(16, b"."), partitions, 3, 2, {})


def update(
    version: int,
    *topics: TopicView,
    whole: bool = False,
    removed: tuple[bytes, ...] = (),
    cluster: bytes = CLUSTER,
) -> ClusterUpdate:
    brokers = (broker(1), broker(2), broker(3))
    return ClusterUpdate(whole, cluster, version, 1, brokers, topics, removed, 1 << 20)


def test_the_first_update_replaces_everything() -> None:
    view = ClusterView().updated(update(5, topic("a", 1), whole=True))
    assert (view.version, view.controller_id, sorted(view.topics)) == (5, 1, ["a"])
    assert view.updated(update(6, topic("b", 1), whole=True)).topics.keys() == {"b"}


def test_a_later_update_adds_changes_and_removes_topics() -> None:
    view = ClusterView().updated(update(5, topic("a", 1), topic("b", 2), whole=True))
    after = view.updated(update(6, topic("a", 3), topic("c", 1), removed=(topic("b", 2).topic_id,)))
    assert sorted(after.topics) == ["a", "c"]
    leader = after.leader("a", 0)
    assert leader is not None
    assert leader.id == 3
    assert sorted(view.topics) == ["a", "b"], "the earlier view stays as it was"


def test_a_topic_made_again_in_one_update_is_the_new_one() -> None:
    view = ClusterView().updated(update(1, topic("a", 1), whole=True))
    again = topic("a", 1, 2, generation=1)
    assert view.updated(update(3, again, removed=(topic("a", 1).topic_id,))).topics["a"] == again


def test_what_a_broker_that_lags_behind_sends_changes_nothing() -> None:
    view = ClusterView().updated(update(5, topic("a", 1), whole=True))
    assert view.updated(update(4, whole=True)) is view
    assert view.updated(update(5, topic("b", 1))) is view
    caught_up = view.updated(update(6, topic("b", 1)))
    assert sorted(caught_up.topics) == ["a", "b"]


def test_another_cluster_counts_versions_anew() -> None:
    view = ClusterView().updated(update(5, topic("a", 1), whole=True))
    other = view.updated(update(1, topic("b", 1), whole=True, cluster=b"d" * 16))
    assert (other.version, list(other.topics)) == (1, ["b"])


def test_a_leader_is_known_or_none() -> None:
    view = ClusterView().updated(update(1, topic("a", 2, None, 9), whole=True))
    assert view.leader("a", 0) == broker(2)
    assert view.leader("a", 1) is None
    assert view.leader("a", 2) is None, "a broker that is not a member"
    assert view.leader("a", 3) is None
    assert view.leader("a", -1) is None
    assert view.leader("b", 0) is None


def test_a_topic_says_what_its_records_may_weigh() -> None:
    assert topic("a", 1).record_bytes_max == RECORD_BYTES_MAX_DEFAULT
    assert topic("a", 1)._replace(config={"record_bytes_max": "77"}).record_bytes_max == 77


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("a:1", ("a:1",)),
        ("a:1, b:2,a:1", ("a:1", "b:2")),
        ("a", ("a:7070",)),
        ("10.0.0.1,", ("10.0.0.1:7070",)),
        ("[::1]:7071", ("[::1]:7071",)),
        ("[::1]", ("[::1]:7070",)),
    ],
)
def test_addresses_are_read(text: str, addresses: tuple[str, ...]) -> None:
    assert addresses_of(text) == addresses


@pytest.mark.parametrize("text", ["", ",", "a:", ":1", "a:b", "a:0", "a:65536", "a:1:x"])
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidConfig, match=r"bootstrap: .*address"):
        addresses_of(text)
