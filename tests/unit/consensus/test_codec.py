"""Commands as bytes: every one there and back, and nothing that cannot be read is anything but refused."""

from __future__ import annotations

from random import Random
from typing import get_args

import pytest

from millpond.v1.internal import commands_pb2 as pb
from millpond.wire.errors import ErrorCode
from millpond_broker.consensus.codec import (
    COMMAND_BYTES_MAX,
    ROWS,
    CommandTooLarge,
    decode,
    decode_snapshot,
    encode,
    encode_snapshot,
)
from millpond_broker.core.commands import (
    AddPartitions,
    AddVoter,
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
    ElectionKind,
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
    RemoveVoter,
    SetTopicConfig,
    StopBroker,
    Undecodable,
    UnfenceBroker,
    Voter,
)
from millpond_broker.core.image import HANDLERS, Refused, apply
from tests.unit.core.clusters import PROPOSER, cluster, id_of
from tests.unit.core.test_snapshot import lived

EXAMPLES: list[Command] = [
    InitCluster(id_of("c"), (Voter(1, "d"), Voter(2, "e", "host:7071")), 1),
    RegisterBroker(1, id_of("i"), "d", "a:1", "ä:2", "", "0.1"),
    ClaimController(1, 2**63),
    CreateTopic(id_of("t"), "orders", 2, 1, (("b", "2"), ("a", "1")), ((1, 2), (2, 1))),
    DeleteTopic(id_of("t")),
    AddPartitions(id_of("t"), 4, ((1,), ())),
    SetTopicConfig(id_of("t"), (("a", ""),), ("b", "c")),
    ChangePartitions(
        (
            PartitionChange(id_of("t"), 0, None, 0, (1,), (), 0),
            PartitionChange(id_of("t"), 2**32 - 1, 0, 7, (), (3, 1), 9),
        )
    ),
    AllocateProducerIds(1, 2**40, 1000),
    Barrier(),
    AddVoter(Voter(3, "f", "host:7071"), (1, 2)),
    RemoveVoter(2**31 - 1, (1, 2**31 - 1)),
    RaiseFeatureLevel(2, (BrokerStart(1, 2**40), BrokerStart(2, 0))),
    FenceBroker(1, 2**40),
    UnfenceBroker(2, 9),
    StopBroker(3, 1),
    AlterPartitions(
        1, 2**40, (InSyncChange(id_of("t"), 7, 3, 9, (InSyncMember(1, 4, 9), InSyncMember(2, 5)), (3,)),)
    ),
    GiveUpPartitions(1, 4, (GiveUp(id_of("t"), 0, 9, True), GiveUp(id_of("t"), 1, 0))),
    ElectLeaders((Election(id_of("t"), 0, 1, 9, ElectionKind.UNCLEAN), Election(id_of("t"), 1, 2, 3, 77))),
    ReassignPartitions((Reassignment(id_of("t"), 0, (3, 2, 1), 9),)),
    FinishReassignments((PartitionSeen(id_of("t"), 0, 9),)),
]
FULL: list[Command] = [
    RegisterBroker(
        *(1, id_of("i"), "d", "a:1", "b:2", "r", "0.1"),
        feature_level=2,
        previous_epoch=2**40,
        cuts=(CutReport(id_of("t"), 3, None, 0), CutReport(id_of("t"), 4, 0, 2**40)),
    ),
    SetTopicConfig(id_of("t"), (), (), 2),
]
"""With the fields that came later."""


def envelope(command: Command) -> Envelope:
    return Envelope(PROPOSER, 2**40, 3, command)


def test_every_command_has_a_row_an_effect_an_example_and_a_field() -> None:
    """The table is exhaustive, on both sides."""
    commands = set(get_args(Command))
    assert set(ROWS) == commands
    assert set(HANDLERS) == commands | {Undecodable}
    assert {type(command) for command in EXAMPLES} == commands
    fields = {field.name for field in pb.Envelope.DESCRIPTOR.oneofs_by_name["command"].fields}
    assert sorted(row.field for row in ROWS.values()) == sorted(fields)


@pytest.mark.parametrize("command", [*EXAMPLES, *FULL], ids=lambda command: type(command).__name__)
def test_a_command_comes_back_as_it_went(command: Command) -> None:
    assert decode(encode(envelope(command))) == envelope(command)
    assert encode(envelope(command)) == encode(envelope(command))


@pytest.mark.parametrize("command", EXAMPLES, ids=lambda command: type(command).__name__)
def test_every_field_of_a_command_travels(command: Command) -> None:
    """A message field that the row forgets would be lost in silence."""
    row = ROWS[type(command)]
    message = pb.Envelope.DESCRIPTOR.fields_by_name[row.field].message_type
    assert message is not None
    assert {field.name for field in message.fields} == set(type(command).__slots__)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xff", "no command"),
        (b"", "format 0"),
        (pb.Envelope(format=2, barrier=pb.Barrier()).SerializeToString(), "format 2"),
        (pb.Envelope(format=1).SerializeToString(), "without a command"),
        (
            encode(envelope(Barrier())) + b"\xa2\x06\x02\x08\x01",
            "does not know",
        ),  # field 100: a later command
        (encode(envelope(DeleteTopic(b""))) + b"\xa2\x01\x02\x50\x01", "does not know"),  # and a later field
    ],
)
def test_what_this_version_cannot_read_is_refused_alike_everywhere(data: bytes, says: str) -> None:
    """By a reason that depends on the bytes alone."""
    read = decode(data)
    assert isinstance(read.command, Undecodable)
    assert says in read.command.reason
    image = cluster(1).image
    after, result = apply(image, image.version + 1, read)
    assert isinstance(result, Refused)
    assert result.code is ErrorCode.UNSUPPORTED_FORMAT
    assert after.proposers == image.proposers


def test_no_bytes_make_the_decoder_or_the_image_fail() -> None:
    """DESIGN §7: `apply` never fails for a decodable command; and everything decodes to something."""
    random = Random(7)
    image = lived()
    for command in (*EXAMPLES, *FULL):
        sound = encode(envelope(command))
        for _ in range(300):
            data = bytearray(sound)
            for _ in range(random.randint(1, 3)):
                data[random.randrange(len(data))] = random.randrange(256)
            cut = bytes(data[: random.randint(0, len(data))]) if random.random() < 0.3 else bytes(data)
            apply(image, image.version + 1, decode(cut))


def test_a_command_has_a_bounded_size() -> None:
    large = SetTopicConfig(id_of("t"), (("k", "v" * COMMAND_BYTES_MAX),), ())
    with pytest.raises(CommandTooLarge):
        encode(envelope(large))


def test_a_number_that_does_not_fit_is_our_bug_and_never_gets_into_a_log() -> None:
    with pytest.raises(ValueError, match="out of range"):
        encode(envelope(ClaimController(-1, 1)))


def test_a_snapshot_comes_back_from_its_bytes_and_other_bytes_are_refused() -> None:
    assert decode_snapshot(encode_snapshot(lived())) == lived()
    for data in (b"", b"[]", b"{}", b'{"format":1}', b"\xff", encode_snapshot(lived())[:-1]):
        with pytest.raises(ValueError, match="not a metadata snapshot"):
            decode_snapshot(data)
