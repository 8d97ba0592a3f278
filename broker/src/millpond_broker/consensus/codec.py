"""Commands as bytes of the log, and the image as bytes of a snapshot.

One row for each command in `ROWS`, both directions beside one another. Decoding never raises: what this
version cannot read becomes an `Undecodable` command, which every voter refuses alike, for a reason that
depends on the bytes alone. A field that this version does not know makes a command undecodable too; ignoring
it would be applying another command than a newer broker does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import DecodeError, Message

from millpond.v1.internal import commands_pb2 as pb
from millpond.wire.errors import InvalidConfig
from millpond_broker.core.commands import (
    AddPartitions,
    AddVoter,
    AllocateProducerIds,
    AlterPartitions,
    Assignment,
    Barrier,
    BrokerStart,
    ChangePartitions,
    ClaimController,
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
    Pairs,
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
from millpond_broker.core.image import MetadataImage, from_snapshot, to_snapshot

FORMAT: Final = 1
"""Of the envelope."""
COMMAND_BYTES_MAX: Final = 1 << 20
"""Of one entry: what travels between voters in one piece."""


class CommandTooLarge(ValueError):
    """The command takes more than COMMAND_BYTES_MAX."""


@dataclass(frozen=True, slots=True)
class Row:
    """How one command travels: its field of the envelope's oneof, and the way there and back."""

    field: str
    encode: Callable[[Any], Message]
    decode: Callable[[Any], Any]


def _voters(voters: Iterable[Voter]) -> list[pb.Voter]:
    return list(map(_voter, voters))


def _voter(voter: Voter) -> pb.Voter:
    return pb.Voter(broker_id=voter.broker_id, directory_id=voter.directory_id, address=voter.address)


def _to_voter(message: pb.Voter) -> Voter:
    return Voter(message.broker_id, message.directory_id, message.address)


def _settings(pairs: Pairs) -> list[pb.Setting]:
    return [pb.Setting(key=key, value=value) for key, value in pairs]


def _pairs(settings: Iterable[pb.Setting]) -> Pairs:
    return tuple((setting.key, setting.value) for setting in settings)


def _assignments(assignments: Iterable[Assignment]) -> list[pb.Assignment]:
    return [pb.Assignment(replicas=replicas) for replicas in assignments]


def _replicas(assignments: Iterable[pb.Assignment]) -> tuple[Assignment, ...]:
    return tuple(tuple(assignment.replicas) for assignment in assignments)


def _change(change: PartitionChange) -> pb.PartitionChange:
    return pb.PartitionChange(
        topic_id=change.topic_id,
        partition=change.partition,
        leader=change.leader,
        leader_epoch=change.leader_epoch,
        isr=change.isr,
        elr=change.elr,
        partition_epoch_seen=change.partition_epoch_seen,
    )


def _to_change(message: pb.PartitionChange) -> PartitionChange:
    return PartitionChange(
        topic_id=message.topic_id,
        partition=message.partition,
        leader=message.leader if message.HasField("leader") else None,
        leader_epoch=message.leader_epoch,
        isr=tuple(message.isr),
        elr=tuple(message.elr),
        partition_epoch_seen=message.partition_epoch_seen,
    )


def _starts(starts: Iterable[BrokerStart]) -> list[pb.BrokerStart]:
    return [pb.BrokerStart(broker_id=start.broker_id, broker_epoch=start.broker_epoch) for start in starts]


def _to_starts(messages: Iterable[pb.BrokerStart]) -> tuple[BrokerStart, ...]:
    return tuple(BrokerStart(message.broker_id, message.broker_epoch) for message in messages)


def _cut(cut: CutReport) -> pb.CutReport:
    return pb.CutReport(
        topic_id=cut.topic_id, partition=cut.partition, last_epoch=cut.last_epoch, end=cut.end
    )


def _to_cut(message: pb.CutReport) -> CutReport:
    last_epoch = message.last_epoch if message.HasField("last_epoch") else None
    return CutReport(message.topic_id, message.partition, last_epoch, message.end)


def _in_sync(change: InSyncChange) -> pb.InSyncChange:
    return pb.InSyncChange(
        topic_id=change.topic_id,
        partition=change.partition,
        leader_epoch=change.leader_epoch,
        partition_epoch_seen=change.partition_epoch_seen,
        isr=[
            pb.InSyncMember(
                broker_id=member.broker_id, broker_epoch=member.broker_epoch, stated_in=member.stated_in
            )
            for member in change.isr
        ],
        unseated=change.unseated,
    )


def _to_in_sync(message: pb.InSyncChange) -> InSyncChange:
    return InSyncChange(
        topic_id=message.topic_id,
        partition=message.partition,
        leader_epoch=message.leader_epoch,
        partition_epoch_seen=message.partition_epoch_seen,
        isr=tuple(InSyncMember(m.broker_id, m.broker_epoch, m.stated_in) for m in message.isr),
        unseated=tuple(message.unseated),
    )


def _give_up(item: GiveUp) -> pb.GiveUp:
    return pb.GiveUp(
        topic_id=item.topic_id,
        partition=item.partition,
        partition_epoch_seen=item.partition_epoch_seen,
        leaves=item.leaves,
    )


def _to_give_up(m: pb.GiveUp) -> GiveUp:
    return GiveUp(m.topic_id, m.partition, m.partition_epoch_seen, m.leaves)


def _election(election: Election) -> pb.Election:
    return pb.Election(
        topic_id=election.topic_id,
        partition=election.partition,
        leader=election.leader,
        partition_epoch_seen=election.partition_epoch_seen,
        kind=election.kind,
    )


def _to_election(m: pb.Election) -> Election:
    return Election(m.topic_id, m.partition, m.leader, m.partition_epoch_seen, m.kind)


def _reassignment(item: Reassignment) -> pb.Reassignment:
    return pb.Reassignment(
        topic_id=item.topic_id,
        partition=item.partition,
        replicas=item.replicas,
        partition_epoch_seen=item.partition_epoch_seen,
    )


def _to_reassignment(m: pb.Reassignment) -> Reassignment:
    return Reassignment(m.topic_id, m.partition, tuple(m.replicas), m.partition_epoch_seen)


def _seen(item: PartitionSeen) -> pb.PartitionSeen:
    return pb.PartitionSeen(
        topic_id=item.topic_id, partition=item.partition, partition_epoch_seen=item.partition_epoch_seen
    )


def _to_seen(m: pb.PartitionSeen) -> PartitionSeen:
    return PartitionSeen(m.topic_id, m.partition, m.partition_epoch_seen)


ROWS: Final[dict[type, Row]] = {
    InitCluster: Row(
        "init_cluster",
        lambda c: pb.InitCluster(
            cluster_id=c.cluster_id, voters=_voters(c.voters), feature_level=c.feature_level
        ),
        lambda m: InitCluster(m.cluster_id, tuple(map(_to_voter, m.voters)), m.feature_level),
    ),
    RegisterBroker: Row(
        "register_broker",
        lambda c: pb.RegisterBroker(
            broker_id=c.broker_id,
            incarnation=c.incarnation,
            directory_id=c.directory_id,
            address=c.address,
            peer_address=c.peer_address,
            rack=c.rack,
            version=c.version,
            feature_level=c.feature_level,
            previous_epoch=c.previous_epoch,
            cuts=map(_cut, c.cuts),
        ),
        lambda m: RegisterBroker(
            broker_id=m.broker_id,
            incarnation=m.incarnation,
            directory_id=m.directory_id,
            address=m.address,
            peer_address=m.peer_address,
            rack=m.rack,
            version=m.version,
            feature_level=m.feature_level,
            previous_epoch=m.previous_epoch,
            cuts=tuple(map(_to_cut, m.cuts)),
        ),
    ),
    ClaimController: Row(
        "claim_controller",
        lambda c: pb.ClaimController(broker_id=c.broker_id, term=c.term),
        lambda m: ClaimController(m.broker_id, m.term),
    ),
    CreateTopic: Row(
        "create_topic",
        lambda c: pb.CreateTopic(
            topic_id=c.topic_id,
            name=c.name,
            replicas=c.replicas,
            min_insync=c.min_insync,
            config=_settings(c.config),
            assignments=_assignments(c.assignments),
        ),
        lambda m: CreateTopic(
            m.topic_id, m.name, m.replicas, m.min_insync, _pairs(m.config), _replicas(m.assignments)
        ),
    ),
    DeleteTopic: Row(
        "delete_topic",
        lambda c: pb.DeleteTopic(topic_id=c.topic_id),
        lambda m: DeleteTopic(m.topic_id),
    ),
    AddPartitions: Row(
        "add_partitions",
        lambda c: pb.AddPartitions(
            topic_id=c.topic_id,
            first_partition=c.first_partition,
            assignments=_assignments(c.assignments),
        ),
        lambda m: AddPartitions(m.topic_id, m.first_partition, _replicas(m.assignments)),
    ),
    SetTopicConfig: Row(
        "set_topic_config",
        lambda c: pb.SetTopicConfig(
            topic_id=c.topic_id, set=_settings(c.set), unset=c.unset, min_insync=c.min_insync
        ),
        lambda m: SetTopicConfig(
            m.topic_id,
            _pairs(m.set),
            tuple(m.unset),
            m.min_insync if m.HasField("min_insync") else None,
        ),
    ),
    ChangePartitions: Row(
        "change_partitions",
        lambda c: pb.ChangePartitions(changes=map(_change, c.changes)),
        lambda m: ChangePartitions(tuple(map(_to_change, m.changes))),
    ),
    AllocateProducerIds: Row(
        "allocate_producer_ids",
        lambda c: pb.AllocateProducerIds(broker_id=c.broker_id, broker_epoch=c.broker_epoch, count=c.count),
        lambda m: AllocateProducerIds(m.broker_id, m.broker_epoch, m.count),
    ),
    Barrier: Row("barrier", lambda c: pb.Barrier(), lambda m: Barrier()),
    AddVoter: Row(
        "add_voter",
        lambda c: pb.AddVoter(voter=_voter(c.voter), decided_on=c.decided_on),
        lambda m: AddVoter(_to_voter(m.voter), tuple(m.decided_on)),
    ),
    RemoveVoter: Row(
        "remove_voter",
        lambda c: pb.RemoveVoter(broker_id=c.broker_id, decided_on=c.decided_on),
        lambda m: RemoveVoter(m.broker_id, tuple(m.decided_on)),
    ),
    RaiseFeatureLevel: Row(
        "raise_feature_level",
        lambda c: pb.RaiseFeatureLevel(level=c.level, supporters=_starts(c.supporters)),
        lambda m: RaiseFeatureLevel(m.level, _to_starts(m.supporters)),
    ),
    FenceBroker: Row(
        "fence_broker",
        lambda c: pb.FenceBroker(broker_id=c.broker_id, broker_epoch=c.broker_epoch),
        lambda m: FenceBroker(m.broker_id, m.broker_epoch),
    ),
    UnfenceBroker: Row(
        "unfence_broker",
        lambda c: pb.UnfenceBroker(broker_id=c.broker_id, broker_epoch=c.broker_epoch),
        lambda m: UnfenceBroker(m.broker_id, m.broker_epoch),
    ),
    StopBroker: Row(
        "stop_broker",
        lambda c: pb.StopBroker(broker_id=c.broker_id, broker_epoch=c.broker_epoch),
        lambda m: StopBroker(m.broker_id, m.broker_epoch),
    ),
    AlterPartitions: Row(
        "alter_partitions",
        lambda c: pb.AlterPartitions(
            broker_id=c.broker_id, broker_epoch=c.broker_epoch, changes=map(_in_sync, c.changes)
        ),
        lambda m: AlterPartitions(m.broker_id, m.broker_epoch, tuple(map(_to_in_sync, m.changes))),
    ),
    GiveUpPartitions: Row(
        "give_up_partitions",
        lambda c: pb.GiveUpPartitions(
            broker_id=c.broker_id, broker_epoch=c.broker_epoch, partitions=map(_give_up, c.partitions)
        ),
        lambda m: GiveUpPartitions(m.broker_id, m.broker_epoch, tuple(map(_to_give_up, m.partitions))),
    ),
    ElectLeaders: Row(
        "elect_leaders",
        lambda c: pb.ElectLeaders(elections=map(_election, c.elections)),
        lambda m: ElectLeaders(tuple(map(_to_election, m.elections))),
    ),
    ReassignPartitions: Row(
        "reassign_partitions",
        lambda c: pb.ReassignPartitions(reassignments=map(_reassignment, c.reassignments)),
        lambda m: ReassignPartitions(tuple(map(_to_reassignment, m.reassignments))),
    ),
    FinishReassignments: Row(
        "finish_reassignments",
        lambda c: pb.FinishReassignments(partitions=map(_seen, c.partitions)),
        lambda m: FinishReassignments(tuple(map(_to_seen, m.partitions))),
    ),
}
"""Every command, exhaustively: a test holds it against the union."""

_BY_FIELD: Final = {row.field: row for row in ROWS.values()}


def encode(envelope: Envelope) -> bytes:
    """A proposal as bytes. Raises ValueError for a number that does not fit its field, CommandTooLarge."""
    command = envelope.command
    assert not isinstance(command, Undecodable), "only a decoder makes one"
    row = ROWS[type(command)]
    message = pb.Envelope(
        format=FORMAT,
        proposer=envelope.proposer,
        sequence=envelope.sequence,
        controller_epoch=envelope.controller_epoch,
    )
    part = getattr(message, row.field)
    part.SetInParent()  # one without a set field would not be there
    part.CopyFrom(row.encode(command))
    data = message.SerializeToString(deterministic=True)
    if len(data) > COMMAND_BYTES_MAX:
        raise CommandTooLarge(f"{len(data)} bytes of {type(command).__name__}; {COMMAND_BYTES_MAX} fit")
    return data


def decode(data: bytes) -> Envelope:
    """The proposal that `encode` made, in whichever version."""
    message = pb.Envelope()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return _undecodable("bytes that are no command")
    if message.format != FORMAT:
        return _undecodable(f"a command of format {message.format}; this version has {FORMAT}")
    whole = message.ByteSize()
    message.DiscardUnknownFields()
    if message.ByteSize() != whole:
        return _undecodable("a command, or a field of one, that this version does not know")
    field = message.WhichOneof("command")
    if field is None:
        return _undecodable("an envelope without a command")
    return Envelope(
        proposer=message.proposer,
        sequence=message.sequence,
        controller_epoch=message.controller_epoch,
        command=_BY_FIELD[field].decode(getattr(message, field)),
    )


def _undecodable(reason: str) -> Envelope:
    return Envelope(proposer=b"", sequence=0, controller_epoch=0, command=Undecodable(reason))


def encode_snapshot(image: MetadataImage) -> bytes:
    """The whole image."""
    return json.dumps(to_snapshot(image), sort_keys=True, separators=(",", ":")).encode()


def decode_snapshot(data: bytes) -> MetadataImage:
    """The image that `encode_snapshot` took. Raises ValueError for a format that this version does not know,
    and for bytes that are none: check them first.
    """
    try:
        return from_snapshot(json.loads(data))
    except (KeyError, TypeError, AttributeError, ValueError, InvalidConfig) as error:
        raise ValueError(f"not a metadata snapshot that this version can read: {error!r}") from None
