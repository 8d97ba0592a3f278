"""The metadata image under any commands at all: it never fails, never parts ways, and keeps its promises.

DESIGN §7: `apply` is deterministic and never fails. Commands come from small worlds, so that they hit one
another, and now and then from nowhere; every one travels as bytes, and some of the bytes are spoiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millpond_broker.consensus.codec import decode, decode_snapshot, encode, encode_snapshot
from millpond_broker.core import image as machine
from millpond_broker.core.commands import (
    AddPartitions,
    AllocateProducerIds,
    AlterPartitions,
    Barrier,
    BrokerStart,
    ChangePartitions,
    ClaimController,
    Command,
    CreateTopic,
    CutReport,
    DeleteTopic,
    Election,
    ElectLeaders,
    Envelope,
    FenceBroker,
    FinishReassignments,
    GiveUp,
    GiveUpPartitions,
    InitCluster,
    InSyncChange,
    InSyncMember,
    PartitionChange,
    PartitionSeen,
    RaiseFeatureLevel,
    Reassignment,
    ReassignPartitions,
    RegisterBroker,
    SetTopicConfig,
    StopBroker,
    UnfenceBroker,
    Voter,
)
from millpond_broker.core.controller import plan
from millpond_broker.core.image import (
    EMPTY,
    Applied,
    BrokerState,
    CommandResult,
    MetadataImage,
    PartitionImage,
    Refused,
    apply,
    digest,
)
from tests.unit.core.clusters import alive

PLANS_MAX: Final = 9
"""After which a controller has nothing to do: whoever comes and goes, then who leads, then who moves."""
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)  # what protobuf takes as a string
NAMES = st.sampled_from(["orders", "billing", "a", "__x", "", "b d"]) | TEXT
IDS = st.sampled_from([bytes([letter]) * 16 for letter in b"abc"]) | st.binary(max_size=17)
BROKERS = st.integers(1, 4) | st.sampled_from([0, 2**31, 2**32 - 1])
EPOCHS = st.integers(0, 5) | U32
MEMBERS = st.lists(BROKERS, max_size=4).map(tuple)
RACE = st.permutations([1, 2, 3]).map(tuple)
KEYS = st.sampled_from(["flush", "retention_ms", "segment_ms", "compression", "nothing"]) | TEXT
VALUES = st.sampled_from(["commit", "interval", "-1", "0", "1000", "9" * 5000, "1_0", " 7"]) | TEXT
SETTINGS = st.lists(st.tuples(KEYS, VALUES), max_size=3).map(tuple)
ASSIGNMENTS = st.lists(RACE | MEMBERS, max_size=4).map(tuple)

CHANGES = st.builds(
    PartitionChange,
    topic_id=IDS,
    partition=st.integers(0, 3) | U32,
    leader=st.none() | BROKERS,
    leader_epoch=EPOCHS,
    isr=MEMBERS,
    elr=MEMBERS,
    partition_epoch_seen=EPOCHS,
)
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(
        InitCluster,
        IDS,
        st.lists(st.builds(Voter, BROKERS, st.sampled_from(["d1", "d2"])), max_size=2).map(tuple),
        st.integers(0, 2),
    ),
    st.builds(RegisterBroker, BROKERS, IDS, st.sampled_from(["d1", "d2"]), TEXT, TEXT, TEXT, TEXT),
    st.builds(ClaimController, BROKERS, EPOCHS | U64),
    st.builds(CreateTopic, IDS, NAMES, st.just(3) | U32, st.integers(1, 3) | U32, SETTINGS, ASSIGNMENTS),
    st.builds(CreateTopic, IDS, NAMES, st.just(3), st.integers(1, 3), st.just(()), st.tuples(RACE, RACE)),
    st.builds(DeleteTopic, IDS),
    st.builds(AddPartitions, IDS, st.integers(0, 4) | U32, ASSIGNMENTS),
    st.builds(SetTopicConfig, IDS, SETTINGS, st.lists(KEYS, max_size=2).map(tuple)),
    st.builds(ChangePartitions, st.lists(CHANGES, max_size=4).map(tuple)),
    st.builds(AllocateProducerIds, BROKERS, st.integers(0, 9) | U64, st.integers(0, 9) | U64),
    st.builds(Barrier),
)
INDEXES = st.integers(1, 30) | U64
STARTS = st.builds(BrokerStart, BROKERS, INDEXES)
CUTS = st.lists(st.builds(CutReport, IDS, st.integers(0, 2), st.none() | EPOCHS, U64), max_size=2).map(tuple)
ISRS = st.lists(st.builds(InSyncMember, BROKERS, INDEXES, EPOCHS), max_size=3).map(tuple)
PLACES = (IDS, st.integers(0, 2) | U32)
LEVEL_2: st.SearchStrategy[Command] = st.one_of(
    st.builds(RaiseFeatureLevel, st.integers(0, 3), st.lists(STARTS, max_size=4).map(tuple)),
    st.builds(
        RegisterBroker,
        *(BROKERS, IDS, st.just("d1"), TEXT, TEXT, TEXT, TEXT),
        feature_level=st.just(2) | U32,
        previous_epoch=INDEXES,
        cuts=CUTS,
    ),
    st.builds(FenceBroker, BROKERS, INDEXES),
    st.builds(UnfenceBroker, BROKERS, INDEXES),
    st.builds(StopBroker, BROKERS, INDEXES),
    st.builds(
        AlterPartitions,
        *(BROKERS, INDEXES),
        st.lists(st.builds(InSyncChange, *PLACES, EPOCHS, EPOCHS, ISRS, MEMBERS), max_size=3).map(tuple),
    ),
    st.builds(
        GiveUpPartitions,
        *(BROKERS, INDEXES),
        st.lists(st.builds(GiveUp, *PLACES, EPOCHS, st.booleans()), max_size=3).map(tuple),
    ),
    st.builds(
        ElectLeaders,
        st.lists(st.builds(Election, *PLACES, BROKERS, EPOCHS, st.integers(0, 5)), max_size=3).map(tuple),
    ),
    st.builds(
        ReassignPartitions,
        st.lists(st.builds(Reassignment, *PLACES, RACE | MEMBERS, EPOCHS), max_size=3).map(tuple),
    ),
    st.builds(
        FinishReassignments,
        st.lists(st.builds(PartitionSeen, *PLACES, EPOCHS), max_size=3).map(tuple),
    ),
    st.builds(SetTopicConfig, IDS, st.just(()), st.just(()), st.integers(0, 4)),
)


@st.composite
def proposals(draw: Any) -> bytes:
    """One proposal as bytes, perhaps spoiled."""
    proposer = draw(st.sampled_from([b"p" * 16, b"q" * 16]) | st.binary(max_size=17))
    sequence = draw(st.integers(1, 30) | U64)
    data = encode(Envelope(proposer, sequence, draw(st.integers(0, 3) | U64), draw(COMMANDS | LEVEL_2)))
    if draw(st.integers(0, 9)):
        return data
    spoiled = bytearray(data)
    for at, byte in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=3)):
        spoiled[at] = byte
    return bytes(spoiled[: draw(st.integers(0, len(data)))])


SETUP: list[Command] = [
    InitCluster(b"c" * 16),
    *(RegisterBroker(broker, bytes([broker]) * 16, "d1", "", "", "", "") for broker in (1, 2, 3)),
    CreateTopic(b"a" * 16, "orders", 3, 2, (), ((1, 2, 3), (2, 3, 1))),
]


RAISED: list[Command] = [*SETUP, RaiseFeatureLevel(2, tuple(BrokerStart(key, key + 1) for key in (1, 2, 3)))]
"""The brokers' epochs are the indexes of their registrations."""


def set_up(setup: Sequence[Command] = SETUP) -> MetadataImage:
    """A cluster with something in it, so that chance meets it."""
    image = EMPTY
    for index, command in enumerate(setup, start=1):
        image, result = apply(image, index, Envelope(b"setup of the test"[:16], index, 0, command))
        assert isinstance(result, Applied)
    return image


def check(before: MetadataImage, after: MetadataImage, result: CommandResult) -> None:
    """What holds after every command, whatever it was."""
    assert after.topic_ids == {topic.name: key for key, topic in after.topics.items()}
    assert len(after.proposers) <= machine.PROPOSERS_MAX
    assert after.controller_epoch >= before.controller_epoch
    assert after.next_producer_id >= before.next_producer_id
    for broker_id, broker in before.brokers.items():
        assert after.brokers[broker_id].epoch >= broker.epoch, "rule 12: broker epochs grow"
        assert after.brokers[broker_id].directory_id == broker.directory_id, "a disk is pinned to its id"
    for topic_id, topic in after.topics.items():
        assert 1 <= topic.min_insync <= topic.replicas
        known = before.topics.get(topic_id)
        for number, state in enumerate(topic.partitions):
            if known is not None and number < len(known.partitions):
                check_partition(known.partitions[number], state, after)
    if isinstance(result, Refused):
        assert (after.topics, after.brokers, after.voters) == (before.topics, before.brokers, before.voters)
        assert result.error.code is result.code, "it can be raised"


def check_partition(old: PartitionImage, new: PartitionImage, image: MetadataImage) -> None:
    """Rules 10 to 14, for one step of one partition."""
    if new == old:
        return
    assert new.partition_epoch == old.partition_epoch + 1
    assert new.leader_epoch in (old.leader_epoch, old.leader_epoch + 1)
    keeps = {*new.isr, *new.elr} & {*old.isr, *old.elr}
    assert keeps or new.is_recovering or new.last_leader is not None, "somebody has what was acknowledged"
    if new.leader not in (None, old.leader) or new.leader_epoch > old.leader_epoch:
        assert new.leader_epoch == old.leader_epoch + 1, "one leader for each epoch"
        assert new.leader in (*old.isr, *old.elr) or new.is_recovering, "rule 14"
        assert new.leader is not None
        assert image.brokers[new.leader].state is BrokerState.RUNNING
    for joining in set(new.isr) - set(old.isr):
        assert new.leader in (old.leader, joining), "only a leader lets others in (rule 10)"


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(proposals(), max_size=25), st.sampled_from([(), SETUP, RAISED, RAISED]))
def test_no_commands_make_the_image_fail_or_part_ways_or_break_a_promise(
    sent: list[bytes], setup: Sequence[Command]
) -> None:
    image = other = set_up(setup)
    for data in sent:
        index = image.version + 1
        before, (image, result) = image, apply(image, index, decode(data))
        assert image.version == index
        check(before, image, result)
        # Another voter that starts from a snapshot each time, and has it in another order.
        other, told = apply(decode_snapshot(encode_snapshot(other)), index, decode(data))
        assert (other, told) == (image, result)
    assert digest(other) == digest(image)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(proposals(), max_size=20), st.sets(st.integers(1, 4)), st.sampled_from([SETUP, RAISED]))
def test_what_the_controller_plans_is_applied_whole_and_leaves_it_nothing_to_plan(
    sent: list[bytes], live: set[int], setup: Sequence[Command]
) -> None:
    """A plan that is refused would be made again with every image, for good."""
    image = set_up(setup)
    for data in sent:
        image, _ = apply(image, image.version + 1, decode(data))
    sequence = 0
    for _ in range(PLANS_MAX):
        for command in plan(image, alive(image, *live), 0):
            sequence += 1
            envelope = Envelope(b"controller".ljust(16), sequence, image.controller_epoch, command)
            image, result = apply(image, image.version + 1, decode(encode(envelope)))
            assert result in (Applied(), Applied(()))
    assert plan(image, alive(image, *live), 0) == []


@settings(max_examples=100)
@given(proposals())
def test_what_was_decoded_is_encoded_again_to_what_is_decoded_alike(data: bytes) -> None:
    read = decode(data)
    if read.proposer or read.sequence:
        assert decode(encode(read)) == read
