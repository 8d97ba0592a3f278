"""Replication messages as parcels of a peer stream, and back: one row for each kind, both ways side by side.

A parcel is a message and the bytes that belong to it: batches travel behind their message and not in it, so
that they are copied no more often than gRPC and the frame around them need.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import DecodeError, Message

from millpond.v1.internal import replication_pb2 as pb
from millpond_broker.core.commands import ID_BYTES
from millpond_broker.core.replication import (
    Acknowledgement,
    Answer,
    Diverging,
    FencedLeaderEpoch,
    OutOfRange,
    Push,
    Serving,
    Statement,
    UnknownLeaderEpoch,
)
from millpond_broker.rpc.peer_frames import Parcel
from millpond_broker.rpc.peer_handshake import LinkRefused, Reason
from millpond_broker.runtime.replication_messages import (
    Acknowledged,
    Answered,
    FromFollower,
    FromLeader,
    Hello,
    Pushed,
    Stated,
    Taken,
)


@dataclass(frozen=True, slots=True)
class Row:
    """How one kind travels: its field of the message's oneof, and the way there and back."""

    field: str
    encode: Callable[[Any], Message]
    decode: Callable[[Any], FromFollower | FromLeader]


def _session(
    m: Stated | Acknowledged | Answered | Pushed, leader_epoch: int, session: int
) -> pb.ReplicaSession:
    return pb.ReplicaSession(
        topic_id=m.topic_id, partition=m.partition, leader_epoch=leader_epoch, session=session
    )


def _stated(m: Stated) -> pb.ReplicaStatement:
    s = m.statement
    return pb.ReplicaStatement(
        session=_session(m, s.leader_epoch, s.session),
        follower=s.follower,
        broker_epoch=s.broker_epoch,
        fetch_offset=s.fetch_offset,
        last_epoch=s.last_epoch,
        durable_end=s.durable_end,
        stated_in=s.stated_in,
        log_start=s.log_start,
    )


def _to_stated(m: pb.ReplicaStatement) -> Stated:
    statement = Statement(
        follower=m.follower,
        broker_epoch=m.broker_epoch,
        leader_epoch=m.session.leader_epoch,
        session=m.session.session,
        fetch_offset=m.fetch_offset,
        last_epoch=m.last_epoch if m.HasField("last_epoch") else None,
        durable_end=m.durable_end,
        stated_in=m.stated_in,
        log_start=m.log_start,
    )
    return Stated(_topic_id(m.session.topic_id), m.session.partition, statement)


def _acknowledged(m: Acknowledged) -> pb.ReplicaAcknowledgement:
    a = m.acknowledgement
    return pb.ReplicaAcknowledgement(
        session=_session(m, a.leader_epoch, a.session),
        log_end=a.log_end,
        durable_end=a.durable_end,
        log_start=a.log_start,
        leaves=a.leaves,
    )


def _to_acknowledged(m: pb.ReplicaAcknowledgement) -> Acknowledged:
    s = m.session
    acknowledgement = Acknowledgement(
        s.leader_epoch, s.session, m.log_end, m.durable_end, m.log_start, m.leaves
    )
    return Acknowledged(_topic_id(s.topic_id), s.partition, acknowledgement)


def _answered(s: pb.ReplicaSession, answer: Answer) -> Answered:
    return Answered(_topic_id(s.topic_id), s.partition, answer)


def _pushed(m: Pushed) -> pb.ReplicaPush:
    p = m.push
    return pb.ReplicaPush(
        session=_session(m, p.leader_epoch, p.session),
        from_offset=p.from_offset,
        high_watermark=p.high_watermark,
        log_start=p.log_start,
    )


def _to_pushed(m: pb.ReplicaPush) -> Pushed:
    s = m.session
    push = Push(s.leader_epoch, s.session, m.from_offset, m.high_watermark, m.log_start)
    return Pushed(_topic_id(s.topic_id), s.partition, push, b"")


ROWS: Final[dict[type, Row]] = {
    Hello: Row(
        "hello",
        lambda m: pb.ReplicaHello(broker_id=m.broker_id, broker_epoch=m.broker_epoch, number=m.number),
        lambda m: Hello(m.broker_id, m.broker_epoch, m.number),
    ),
    Stated: Row("stated", _stated, _to_stated),
    Acknowledged: Row("acknowledged", _acknowledged, _to_acknowledged),
    Taken: Row(
        "taken",
        lambda m: pb.ReplicaTaken(topic_id=m.topic_id, partition=m.partition, size_bytes=m.size_bytes),
        lambda m: Taken(_topic_id(m.topic_id), m.partition, m.size_bytes),
    ),
    Pushed: Row("pushed", _pushed, _to_pushed),
    # An Answered is known by its answer.
    Serving: Row(
        "serving",
        lambda m: pb.ReplicaServing(
            session=_session(m, m.answer.leader_epoch, m.answer.session),
            from_offset=m.answer.from_offset,
            high_watermark=m.answer.high_watermark,
            log_start=m.answer.log_start,
        ),
        lambda m: _answered(
            m.session,
            Serving(m.session.leader_epoch, m.session.session, m.from_offset, m.high_watermark, m.log_start),
        ),
    ),
    Diverging: Row(
        "diverging",
        lambda m: pb.ReplicaDiverging(
            session=_session(m, m.answer.leader_epoch, m.answer.session),
            epoch=m.answer.epoch,
            end=m.answer.end,
        ),
        lambda m: _answered(m.session, Diverging(m.session.leader_epoch, m.session.session, m.epoch, m.end)),
    ),
    OutOfRange: Row(
        "out_of_range",
        lambda m: pb.ReplicaOutOfRange(
            session=_session(m, m.answer.leader_epoch, m.answer.session),
            log_start=m.answer.log_start,
            log_end=m.answer.log_end,
            starts_at=m.answer.starts_at,
        ),
        lambda m: _answered(
            m.session,
            OutOfRange(m.session.leader_epoch, m.session.session, m.log_start, m.log_end, m.starts_at),
        ),
    ),
    FencedLeaderEpoch: Row(
        "fenced",
        lambda m: pb.ReplicaFenced(
            session=_session(m, m.answer.leader_epoch, m.answer.session),
            current_epoch=m.answer.current_epoch,
        ),
        lambda m: _answered(
            m.session, FencedLeaderEpoch(m.session.leader_epoch, m.session.session, m.current_epoch)
        ),
    ),
    UnknownLeaderEpoch: Row(
        "unknown_epoch",
        lambda m: pb.ReplicaUnknownEpoch(
            session=_session(m, m.answer.leader_epoch, m.answer.session),
            current_epoch=m.answer.current_epoch,
        ),
        lambda m: _answered(
            m.session, UnknownLeaderEpoch(m.session.leader_epoch, m.session.session, m.current_epoch)
        ),
    ),
}
"""Every kind, exhaustively: a test holds it against the unions and against the fields."""

_BY_FIELD: Final = {row.field: row for row in ROWS.values()}


def encode(message: FromFollower | FromLeader) -> Parcel:
    """Raises ValueError for a number that does not fit its field: a mistake of ours."""
    kind = type(message.answer) if isinstance(message, Answered) else type(message)
    row = ROWS[kind]
    part = row.encode(message)
    head = pb.ReplicationMessage(**{row.field: part}).SerializeToString()  # type: ignore[arg-type]  # by its name
    return head, message.data if isinstance(message, Pushed) else b""


def decode(head: bytes, body: bytes) -> FromFollower | FromLeader:
    """What `encode` was given. Raises LinkRefused."""
    try:
        message = pb.ReplicationMessage.FromString(head)
    except DecodeError:
        raise LinkRefused(Reason.MALFORMED, "bytes that are no replication message") from None
    field = message.WhichOneof("kind")
    if field is None:
        raise LinkRefused(Reason.MALFORMED, "a replication message of no known kind")
    decoded = _BY_FIELD[field].decode(getattr(message, field))
    if isinstance(decoded, Pushed):
        return Pushed(decoded.topic_id, decoded.partition, decoded.push, body)
    if body:
        raise LinkRefused(Reason.MALFORMED, f"{len(body)} bytes behind a message that has none")
    return decoded


def _topic_id(data: bytes) -> bytes:
    if len(data) != ID_BYTES:
        raise LinkRefused(Reason.MALFORMED, f"a topic id of {len(data)} bytes")
    return data
