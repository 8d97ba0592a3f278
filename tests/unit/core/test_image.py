"""The metadata image, command by command: what each does, what it refuses, and that it never does more.

DESIGN §7, rules 11 to 14.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from millpond.wire.errors import ERRORS, ErrorCode, FencedEpoch, MillpondError, Outcome, TopicExists
from millpond_broker.core import broker_commands, image, topic_commands
from millpond_broker.core.broker_commands import why_not_change_voters
from millpond_broker.core.commands import (
    AddPartitions,
    AddVoter,
    AllocateProducerIds,
    Barrier,
    ChangePartitions,
    ClaimController,
    Command,
    CreateTopic,
    DeleteTopic,
    Envelope,
    InitCluster,
    PartitionChange,
    RemoveVoter,
    SetTopicConfig,
    Undecodable,
    Voter,
)
from millpond_broker.core.image import (
    Applied,
    BrokerState,
    PartitionImage,
    Refused,
    RefusedItem,
    from_snapshot,
    to_snapshot,
)
from tests.unit.core.clusters import (
    CLUSTER,
    PROPOSER,
    Cluster,
    change,
    cluster,
    disk_of,
    id_of,
    registration,
    topic,
)

ORDERS = id_of("orders")


def test_voters_come_and_go_and_what_speaks_against_it_is_said_before() -> None:
    c = cluster(2)
    new = Voter(9, "disk-9", "nine:7071")
    assert why_not_change_voters(c.image, AddVoter(new)) is None
    c.must(AddVoter(new))
    assert c.image.voters[9] == new
    assert from_snapshot(to_snapshot(c.image)) == c.image
    for refused in (
        AddVoter(new),
        AddVoter(replace(new, broker_id=10)),
        AddVoter(Voter(2, "another disk", "two:7071")),
        AddVoter(Voter(0, "d", "a:1")),
        AddVoter(Voter(11, "d", "")),
        AddVoter(Voter(11, "d", "a" * 600)),
        RemoveVoter(7),
        RemoveVoter(2, (1, 2)),  # rule 12: another change came first
        AddVoter(replace(new, broker_id=10, directory_id="disk-10"), (1, 2)),
    ):
        assert why_not_change_voters(c.image, refused), refused
    assert why_not_change_voters(c.image, RemoveVoter(2, tuple(c.image.voters))) is None
    c.must(RemoveVoter(2))
    assert list(c.image.voters) == [9]
    assert why_not_change_voters(c.image, RemoveVoter(9)) == "the last voter stays"


def test_a_snapshot_from_before_voters_had_addresses_is_read() -> None:
    c = cluster(1)
    values = to_snapshot(c.image)
    values["voters"] = {"1": disk_of(1)}
    assert from_snapshot(values).voters == {1: Voter(1, disk_of(1), "")}


def test_a_day_in_the_life_of_a_cluster() -> None:
    """A transcript: what each command gives, in the order in which one broker meets them."""
    c = Cluster()
    said = [
        c.do(InitCluster(CLUSTER, (Voter(1, disk_of(1)),))),
        c.do(registration(1)),
        c.do(ClaimController(1, 5)),
        c.do(topic("orders", (1,), (1,), config={"retention_ms": "1000"})),
        c.do(AddPartitions(ORDERS, 2, ((1,),))),
        c.do(SetTopicConfig(ORDERS, (("retention_bytes", "100"),), ("retention_ms",))),
        c.do(AllocateProducerIds(1, 2, 1000)),
        c.do(AllocateProducerIds(1, 2, 10)),
        c.do(Barrier()),
        c.do(DeleteTopic(ORDERS)),
    ]
    assert [result.value for result in said if isinstance(result, Applied)] == [
        CLUSTER, 2, 5, None, None, None, 0, 1000, None, None,
    ]  # fmt: skip
    assert c.image.version == len(said)
    assert c.image.next_producer_id == 1010
    assert not c.image.topics
    assert not c.image.topic_ids


# --- the cluster and its brokers ---------------------------------------------------------------------


def test_the_first_init_decides_and_later_ones_are_told_its_id() -> None:
    c = cluster(1)
    assert c.do(InitCluster(id_of("another"), ())) == Applied(CLUSTER)
    assert c.image.cluster_id == CLUSTER
    assert c.image.voters == {1: Voter(1, disk_of(1))}


def test_before_there_is_a_cluster_nothing_else_is_applied() -> None:
    for command in (registration(1), ClaimController(1, 1), topic("orders", (1,)), Barrier()):
        assert Cluster().refused(command).code is ErrorCode.INVALID_REQUEST


def test_a_broker_epoch_is_the_index_of_its_registration() -> None:
    """Rule 12."""
    c = cluster(1, 2)
    assert c.do(registration(2, start=2)) == Applied(c.index)
    assert c.image.brokers[2].epoch == c.index
    assert c.image.brokers[2].state is BrokerState.RUNNING


def test_the_same_incarnation_keeps_its_epoch_and_what_it_leads() -> None:
    c = cluster(1)
    c.must(topic("orders", (1,)))
    epoch = c.image.brokers[1].epoch
    assert c.do(registration(1)) == Applied(epoch)
    assert c.partition("orders") == PartitionImage(1, 0, 0, (1,), (1,))


def test_another_disk_under_a_known_id_is_refused() -> None:
    """A wiped disk forgot what it acknowledged and how it voted (DESIGN §7)."""
    c = cluster(1)
    assert c.refused(registration(1, start=2, directory_id="new")).code is ErrorCode.INVALID_REQUEST
    fresh = Cluster()
    fresh.must(InitCluster(CLUSTER, (Voter(1, disk_of(1)),)))
    refused = fresh.refused(registration(1, directory_id="new"))
    assert "disk-1" in str(refused.error), "a voter is pinned from the start"


def test_a_restart_leaves_what_it_led_leaderless_in_one_step_and_alone_in_its_isr() -> None:
    """Rules 12 to 14: it is elected again, in an epoch of the new incarnation."""
    c = cluster(1)
    c.must(topic("orders", (1,), (1,)))
    c.must(registration(1, start=2))
    assert [c.partition("orders", number) for number in (0, 1)] == [
        PartitionImage(None, 0, 1, (1,), (1,)),
        PartitionImage(None, 0, 1, (1,), (1,)),
    ]


def test_a_restart_leaves_the_isr_to_the_others_and_the_elr_keeps_it_below_min_insync() -> None:
    """Rules 12 and 13."""
    c = cluster(1, 2, 3)
    c.must(topic("two", (1, 2, 3), min_insync=2))
    c.must(topic("three", (1, 2, 3), min_insync=3))
    c.must(registration(1, start=2))
    assert c.partition("two") == PartitionImage(None, 0, 1, (1, 2, 3), (2, 3))
    assert c.partition("three") == PartitionImage(None, 0, 1, (1, 2, 3), (2, 3), (1,))
    c.must(registration(2, start=2))
    assert c.partition("two") == PartitionImage(None, 0, 2, (1, 2, 3), (3,), (2,))
    c.must(registration(3, start=2))
    assert c.partition("two").isr == (3,), "the last one keeps its seat"


def test_what_a_restarted_broker_has_no_part_in_is_the_same_object() -> None:
    """Readers tell what changed by identity."""
    c = cluster(1, 2)
    c.must(topic("mine", (1,)))
    c.must(topic("other", (2,)))
    before = c.image
    c.must(registration(1, start=2))
    assert c.image.topics[id_of("other")] is before.topics[id_of("other")]
    assert c.image.topics[id_of("mine")] is not before.topics[id_of("mine")]


def test_a_claim_must_be_of_a_newer_term() -> None:
    c = cluster(1, 2)
    assert c.refused(ClaimController(2, 1)).error.facts()["current"] == 1
    assert c.do(ClaimController(2, 7)) == Applied(7)
    assert (c.image.controller_id, c.image.controller_epoch) == (2, 7)


def test_a_deposed_controller_changes_nothing() -> None:
    """DESIGN §7: every command carries its controller's epoch, and older ones are refused."""
    c = cluster(1, 2)
    c.must(topic("orders", (1,)))
    c.must(ClaimController(2, 2))
    commands: list[Command] = [
        registration(3),
        topic("more", (1,)),
        DeleteTopic(ORDERS),
        AddPartitions(ORDERS, 1, ((1,),)),
        SetTopicConfig(ORDERS, (), ()),
        ChangePartitions((change("orders", c.partition("orders"), leader=None),)),
        AllocateProducerIds(1, 2, 1),
    ]
    for command in commands:
        refused = c.refused(command, epoch=1)
        assert isinstance(refused.error, FencedEpoch)
        assert refused.error.facts() == {"epoch": 1, "current": 2, "outcome": Outcome.NOT_WRITTEN}
    assert c.refused(topic("more", (1,)), epoch=3).code is ErrorCode.INVALID_REQUEST, "not claimed yet"


def test_producer_ids_go_to_the_incarnation_that_asks() -> None:
    """Rule 12: a command names the broker epoch it was decided on."""
    c = cluster(1)
    epoch = c.image.brokers[1].epoch
    c.must(registration(1, start=2))
    assert c.refused(AllocateProducerIds(1, epoch, 1)).code is ErrorCode.FENCED_EPOCH
    assert c.refused(AllocateProducerIds(9, epoch, 1)).code is ErrorCode.INVALID_REQUEST
    for count in (0, broker_commands.PRODUCER_IDS_MAX + 1):
        refused = c.refused(AllocateProducerIds(1, c.image.brokers[1].epoch, count))
        assert refused.code is ErrorCode.INVALID_REQUEST


# --- topics ------------------------------------------------------------------------------------------


def test_a_new_topic_is_led_at_once_by_the_first_of_its_replicas() -> None:
    c = cluster(1, 2, 3)
    c.must(topic("orders", (2, 3, 1), (3, 1, 2), min_insync=2, config={"retention_ms": "-1"}))
    made = c.image.topics[ORDERS]
    assert made.partitions == (
        PartitionImage(2, 0, 0, (2, 3, 1), (2, 3, 1)),
        PartitionImage(3, 0, 0, (3, 1, 2), (3, 1, 2)),
    )
    assert (made.replicas, made.min_insync) == (3, 2)
    assert made.config.retention_ms is None
    assert made.config_set == (("retention_ms", "-1"),)
    assert c.image.topic_ids == {"orders": ORDERS}


REFUSED_TOPICS: list[tuple[CreateTopic, ErrorCode]] = [
    (topic("orders", (1,)), ErrorCode.TOPIC_EXISTS),
    (topic("", (1,)), ErrorCode.INVALID_TOPIC_NAME),
    (topic("__offsets", (1,)), ErrorCode.INVALID_TOPIC_NAME),
    (topic("a/b", (1,)), ErrorCode.INVALID_TOPIC_NAME),
    (topic("x" * 250, (1,)), ErrorCode.INVALID_TOPIC_NAME),
    (topic("t", (9,)), ErrorCode.INVALID_REQUEST),
    (topic("t", (1, 1)), ErrorCode.INVALID_REQUEST),
    (topic("t", (1,), (1, 2)), ErrorCode.INVALID_REQUEST),
    (topic("t", (1,), min_insync=0), ErrorCode.INVALID_REQUEST),
    (topic("t", (1,), min_insync=2), ErrorCode.INVALID_REQUEST),
    (topic("t", (1,), config={"retention": "1"}), ErrorCode.INVALID_CONFIG),
    (topic("t", (1,), config={"retention_ms": "soon"}), ErrorCode.INVALID_CONFIG),
    (topic("t", (1,), config={"cleanup_policy": "compact"}), ErrorCode.INVALID_CONFIG),
    (CreateTopic(b"short", "t", 1, 1, (), ((1,),)), ErrorCode.INVALID_REQUEST),
    (CreateTopic(ORDERS, "t", 1, 1, (), ((1,),)), ErrorCode.INVALID_REQUEST),
    (CreateTopic(id_of("t"), "t", 1, 1, (), ()), ErrorCode.INVALID_REQUEST),
    (CreateTopic(id_of("t"), "t", 0, 0, (), ((),)), ErrorCode.INVALID_REQUEST),
    (CreateTopic(id_of("t"), "t", 1, 1, (("flush", "commit"),) * 2, ((1,),)), ErrorCode.INVALID_CONFIG),
    (CreateTopic(id_of("t"), "t", 1, 1, (), ((1,),) * 10_001), ErrorCode.INVALID_REQUEST),
]


@pytest.mark.parametrize(("command", "code"), REFUSED_TOPICS)
def test_a_topic_that_cannot_be_is_refused_with_its_error(command: CreateTopic, code: ErrorCode) -> None:
    c = cluster(1, 2)
    c.must(topic("orders", (1,)))
    assert c.refused(command).code is code


def test_all_topics_together_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_commands, "PARTITIONS_TOTAL_MAX", 3)
    c = cluster(1)
    c.must(topic("orders", (1,), (1,)))
    assert c.refused(topic("more", (1,), (1,))).code is ErrorCode.INVALID_REQUEST
    assert c.refused(AddPartitions(ORDERS, 2, ((1,), (1,)))).code is ErrorCode.INVALID_REQUEST
    c.must(AddPartitions(ORDERS, 2, ((1,),)))


def test_a_topic_made_again_is_another() -> None:
    c = cluster(1)
    c.must(topic("orders", (1,)))
    c.must(DeleteTopic(ORDERS))
    again = CreateTopic(id_of("again"), "orders", 1, 1, (), ((1,),))
    c.must(again)
    assert c.refused(DeleteTopic(ORDERS)).code is ErrorCode.UNKNOWN_TOPIC
    assert c.image.topic_ids == {"orders": id_of("again")}


def test_partitions_are_added_to_those_that_were_seen() -> None:
    """Two that were decided on the same image do not both apply (rule 12)."""
    c = cluster(1)
    c.must(topic("orders", (1,)))
    c.must(AddPartitions(ORDERS, 1, ((1,), (1,))))
    assert c.refused(AddPartitions(ORDERS, 1, ((1,), (1,)))).code is ErrorCode.INVALID_REQUEST
    assert c.refused(AddPartitions(ORDERS, 3, ())).code is ErrorCode.INVALID_REQUEST
    assert c.refused(AddPartitions(id_of("gone"), 0, ((1,),))).code is ErrorCode.UNKNOWN_TOPIC
    assert len(c.image.topics[ORDERS].partitions) == 3


def test_settings_change_together_or_not_at_all_and_flush_never() -> None:
    c = cluster(1)
    c.must(topic("orders", (1,), config={"flush": "interval", "segment_ms": "5"}))
    c.must(SetTopicConfig(ORDERS, (("retention_ms", "9"), ("flush", "interval")), ("segment_ms",)))
    made = c.image.topics[ORDERS]
    assert made.config_set == (("flush", "interval"), ("retention_ms", "9"))
    assert made.config.segment_ms is not None
    assert made.config.segment_ms > 5
    for put, unset in [
        ((("retention_ms", "8"), ("nothing", "1")), ()),
        ((("flush", "commit"),), ()),
        ((), ("flush",)),
        ((), ("nothing",)),
        ((), ("compression",)),
        ((("retention_ms", "8"),), ("retention_ms",)),
    ]:
        assert c.refused(SetTopicConfig(ORDERS, put, unset)).code is ErrorCode.INVALID_CONFIG
    assert c.image.topics[ORDERS] is made
    c.must(SetTopicConfig(ORDERS, (), ("retention_bytes",)))  # one that is not set: nothing to do


# --- partitions (rules 11 to 14) -----------------------------------------------------------------------


def with_one_partition(leader: int | None = 1, isr: tuple[int, ...] = (1, 2)) -> Cluster:
    c = cluster(1, 2, 3)
    c.must(topic("orders", (1, 2, 3), min_insync=2))
    old = c.partition("orders")
    elr = tuple(member for member in old.isr if member not in isr) if len(isr) < 2 else ()
    c.must(ChangePartitions((change("orders", old, isr=isr, leader=leader, elr=elr),)))
    assert c.partition("orders").isr == isr
    return c


def only(result: Applied) -> Refused | None:
    """What was refused of a command with one change."""
    assert isinstance(result.value, tuple)
    return result.value[0].refused if result.value else None


def test_a_leader_resigns_in_its_epoch_and_the_next_one_is_elected_in_the_next() -> None:
    c = with_one_partition()
    old = c.partition("orders")
    c.must(ChangePartitions((change("orders", old, leader=None),)))
    resigned = c.partition("orders")
    assert (resigned.leader, resigned.leader_epoch) == (None, old.leader_epoch)
    assert resigned.partition_epoch == old.partition_epoch + 1
    c.must(ChangePartitions((change("orders", resigned, leader=2, leader_epoch=old.leader_epoch + 1),)))
    assert c.partition("orders").leader == 2


Wrong = Callable[[PartitionImage], PartitionChange]
WRONG: list[tuple[str, int | None, Wrong, ErrorCode]] = [
    ("another partition", 1, lambda old: change("orders", old, 1), ErrorCode.UNKNOWN_PARTITION),
    ("another topic", 1, lambda old: change("gone", old), ErrorCode.UNKNOWN_TOPIC),
    ("seen too early", 1, lambda old: change("orders", old, partition_epoch_seen=0), ErrorCode.FENCED_EPOCH),
    ("not seen yet", 1, lambda old: change("orders", old, partition_epoch_seen=9), ErrorCode.INVALID_REQUEST),
    ("two epochs on", 1, lambda old: change("orders", old, leader=2, leader_epoch=2),
     ErrorCode.INVALID_REQUEST),
    ("another in the same epoch", 1, lambda old: change("orders", old, leader=2), ErrorCode.INVALID_REQUEST),
    ("nobody in the next epoch", 1, lambda old: change("orders", old, leader=None, leader_epoch=1),
     ErrorCode.INVALID_REQUEST),
    ("a leader not in the ISR", None, lambda old: change("orders", old, leader=3, leader_epoch=1),
     ErrorCode.INVALID_REQUEST),
    ("a leader that lets itself in", None,
     lambda old: change("orders", old, leader=3, leader_epoch=1, isr=(1, 2, 3)), ErrorCode.INVALID_REQUEST),
    ("joining without a leader", None, lambda old: change("orders", old, isr=(1, 2, 3)),
     ErrorCode.INVALID_REQUEST),
    ("joining, and not registered", 1, lambda old: change("orders", old, isr=(1, 2, 9)),
     ErrorCode.INVALID_REQUEST),
    ("leaving its own ISR", 1, lambda old: change("orders", old, isr=(2,)), ErrorCode.INVALID_REQUEST),
    ("nobody left", None, lambda old: change("orders", old, isr=()), ErrorCode.INVALID_REQUEST),
    ("twice in the ISR", 1, lambda old: change("orders", old, isr=(1, 1)), ErrorCode.INVALID_REQUEST),
    ("in ISR and ELR", 1, lambda old: change("orders", old, elr=(2,)), ErrorCode.INVALID_REQUEST),
    ("eligible from nowhere", 1, lambda old: change("orders", old, elr=(3,)), ErrorCode.INVALID_REQUEST),
]  # fmt: skip


@pytest.mark.parametrize(("what", "leader", "make", "code"), WRONG)
def test_a_change_that_could_lose_records_is_refused(
    what: str, leader: int | None, make: Wrong, code: ErrorCode
) -> None:
    """Rule 11, checked where it is applied."""
    c = with_one_partition(leader)
    before = c.image.topics
    refused = only(c.must(ChangePartitions((make(c.partition("orders")),))))
    assert refused is not None, what
    assert refused.code is code, what
    assert c.image.topics == before


def test_of_two_changes_decided_on_one_image_the_second_is_refused() -> None:
    """Rule 11: both valid then, together they would elect from outside the ISR."""
    c = with_one_partition()
    old = c.partition("orders")
    shrink = change("orders", old, isr=(1,), elr=(2,))
    elect = change("orders", old, leader=2, leader_epoch=1)
    result = c.must(ChangePartitions((shrink, elect)))
    assert isinstance(result.value, tuple)
    assert [item.position for item in result.value] == [1]
    assert result.value[0].refused.code is ErrorCode.FENCED_EPOCH
    assert c.partition("orders").leader == 1


def test_each_change_of_a_batch_stands_for_itself() -> None:
    c = cluster(1)
    c.must(topic("orders", (1,), (1,), (1,)))
    old = c.partition("orders")
    changes = (
        change("orders", old, 0, leader=None),
        change("orders", old, 7),
        change("orders", old, 2, leader=None),
    )
    result = c.must(ChangePartitions(changes))
    assert isinstance(result.value, tuple)
    assert all(isinstance(item, RefusedItem) for item in result.value)
    assert [item.position for item in result.value] == [1]
    assert [c.partition("orders", number).leader for number in range(3)] == [None, 1, None]


def test_a_leader_lets_a_running_replica_into_its_isr() -> None:
    """Rule 10, as far as the image can tell; and rule 13: with enough in sync nobody is merely eligible."""
    c = with_one_partition(1, (1,))
    old = c.partition("orders")
    assert old.elr == (2, 3)
    c.must(ChangePartitions((change("orders", old, isr=(1, 3), elr=()),)))
    assert c.partition("orders").isr == (1, 3)


def test_without_an_isr_an_eligible_replica_is_elected_and_is_the_isr() -> None:
    """Rule 14."""
    c = with_one_partition(1, (1,))
    old = c.partition("orders")
    c.must(ChangePartitions((change("orders", old, leader=None, isr=(), elr=(1, 2, 3)),)))
    old = c.partition("orders")
    both = change("orders", old, leader=2, leader_epoch=1, isr=(2, 3), elr=(1,))
    assert only(c.must(ChangePartitions((both,)))) is not None, "one has what was acknowledged; two, perhaps"
    c.must(ChangePartitions((change("orders", old, leader=2, leader_epoch=1, isr=(2,), elr=(1, 3)),)))
    assert c.partition("orders") == PartitionImage(2, 1, old.partition_epoch + 1, (1, 2, 3), (2,), (1, 3))


# --- retries -------------------------------------------------------------------------------------------


def test_a_retry_is_answered_with_what_the_first_gave_and_applied_once() -> None:
    c = cluster(1)
    epoch = c.image.brokers[1].epoch
    envelope = c.envelope(AllocateProducerIds(1, epoch, 100), 50)
    first = c.send(envelope)
    c.must(AllocateProducerIds(1, epoch, 1))
    assert c.send(envelope) == first == Applied(0)
    assert c.image.next_producer_id == 101
    refusal = c.send(c.envelope(DeleteTopic(ORDERS), 51))
    c.must(topic("orders", (1,)))
    assert c.send(c.envelope(DeleteTopic(ORDERS), 51)) == refusal, "a refusal is remembered too"
    assert "orders" in c.image.topic_ids


def test_what_is_too_old_to_be_remembered_is_refused_with_outcome_unknown() -> None:
    c = cluster(1)
    epoch = c.image.brokers[1].epoch
    first = c.envelope(AllocateProducerIds(1, epoch, 1), 100)
    c.send(first)
    for sequence in range(101, 101 + image.RESULTS_REMEMBERED):
        c.send(c.envelope(Barrier(), sequence))
    result = c.send(first)
    assert isinstance(result, Refused)
    assert result.error.facts()["outcome"] is Outcome.UNKNOWN
    assert c.image.next_producer_id == 1
    assert len(c.image.proposers[PROPOSER].results) == image.RESULTS_REMEMBERED


def test_the_proposer_that_was_silent_longest_is_forgotten_first() -> None:
    c = cluster(1)
    names = [id_of(f"p{number}") for number in range(image.PROPOSERS_MAX)]
    for name in (*names, names[0], id_of("one more")):
        c.send(Envelope(name, c.index, 0, Barrier()))
    assert len(c.image.proposers) == image.PROPOSERS_MAX
    assert PROPOSER not in c.image.proposers
    assert names[0] in c.image.proposers
    assert names[1] not in c.image.proposers


def test_a_proposal_without_a_name_is_refused_and_not_remembered() -> None:
    c = cluster(1)
    for proposer, sequence in ((b"", 1), (b"x" * 17, 1), (id_of("p"), 0)):
        result = c.send(Envelope(proposer, sequence, 1, Barrier()))
        assert isinstance(result, Refused)
        assert proposer not in c.image.proposers


def test_what_cannot_be_decoded_is_refused_and_only_the_version_moves() -> None:
    c = cluster(1)
    before = c.image
    result = c.send(Envelope(PROPOSER, 1, 0, Undecodable("a command of format 2")))
    assert isinstance(result, Refused)
    assert result.code is ErrorCode.UNSUPPORTED_FORMAT
    assert c.image.version == before.version + 1
    assert (c.image.proposers, c.image.topics) == (before.proposers, before.topics)


# --- results as values ---------------------------------------------------------------------------------


def test_every_error_of_a_refusal_is_raised_anew_with_its_facts() -> None:
    refused = Refused.of(TopicExists(topic="orders"))
    assert refused == Refused.of(TopicExists(topic="orders"))
    assert refused.error is not refused.error
    with pytest.raises(TopicExists, match="orders"):
        raise refused.error


def test_facts_of_a_refusal_are_bounded_and_rebuild_every_error_apply_can_give() -> None:
    long = Refused.of(TopicExists(topic="x" * 100_000))
    assert len(str(long.facts)) < 1000
    for code in (ErrorCode.FENCED_EPOCH, ErrorCode.INVALID_REQUEST, ErrorCode.INTERNAL):
        facts = {"epoch": 1, "current": 2} if code is ErrorCode.FENCED_EPOCH else {"reason": "r"}
        error: MillpondError = ERRORS[code](**facts)
        again = Refused.of(error).error
        assert (type(again), again.facts()) == (type(error), error.facts())
