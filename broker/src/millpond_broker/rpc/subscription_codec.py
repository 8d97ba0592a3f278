"""Messages of a subscription as parcels of a peer stream, and back: one row for each kind, as for the others.

An image travels behind its message and not in it: it may have tens of MiB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import DecodeError, Message

from millpond.v1.internal import subscription_pb2 as pb
from millpond_broker.rpc.peer_frames import Parcel
from millpond_broker.rpc.peer_handshake import LinkRefused, Reason
from millpond_broker.runtime.subscription_messages import (
    At,
    Commands,
    NotServed,
    Subscribe,
    Subscription,
    Whole,
)


@dataclass(frozen=True, slots=True)
class Row:
    """How one kind travels: its field of the message's oneof, and the way there and back."""

    field: str
    encode: Callable[[Any], Message]
    decode: Callable[[Any, bytes], Subscription]


def _commands(m: Commands) -> pb.SubscriptionCommands:
    commands = [pb.SubscriptionCommand(index=index, envelope=envelope) for index, envelope in m.entries]
    return pb.SubscriptionCommands(after=m.after, commands=commands)


def _refused(m: NotServed) -> pb.SubscriptionRefused:
    voters = [pb.SubscriptionVoter(broker_id=key, address=address) for key, address in m.voters]
    reason = m.reason.encode(errors="backslashreplace").decode()  # a path may hold what is no Unicode
    return pb.SubscriptionRefused(reason=reason, voters=voters, for_good=m.for_good)


ROWS: Final[dict[type, Row]] = {
    Subscribe: Row("subscribe", lambda m: pb.Subscribe(after=m.after), lambda m, _: Subscribe(m.after)),
    Whole: Row(
        "whole", lambda m: pb.SubscriptionWhole(version=m.version), lambda m, body: Whole(m.version, body)
    ),
    Commands: Row(
        "commands",
        _commands,
        lambda m, _: Commands(m.after, tuple((entry.index, entry.envelope) for entry in m.commands)),
    ),
    At: Row(
        "at",
        lambda m: pb.SubscriptionAt(version=m.version, leader=m.leader),
        lambda m, _: At(m.version, m.leader if m.HasField("leader") else None),
    ),
    NotServed: Row(
        "refused",
        _refused,
        lambda m, _: NotServed(
            m.reason, tuple((voter.broker_id, voter.address) for voter in m.voters), for_good=m.for_good
        ),
    ),
}
"""Every kind, exhaustively: a test holds it against the union and against the fields."""

_BY_FIELD: Final = {row.field: row for row in ROWS.values()}


def encode(message: Subscription) -> Parcel:
    """Raises ValueError: a number that does not fit its field, which is a mistake of ours."""
    row = ROWS[type(message)]
    whole = pb.SubscriptionMessage(**{row.field: row.encode(message)})  # type: ignore[arg-type]  # by its name
    return whole.SerializeToString(), message.data if isinstance(message, Whole) else b""


def decode(head: bytes, body: bytes) -> Subscription:
    """What `encode` was given. Raises LinkRefused."""
    try:
        message = pb.SubscriptionMessage.FromString(head)
    except DecodeError:
        raise LinkRefused(Reason.MALFORMED, "bytes that are no message of a subscription") from None
    field = message.WhichOneof("kind")
    if field is None:
        raise LinkRefused(Reason.MALFORMED, "a message of a subscription of no known kind")
    if bool(body) != (field == "whole"):
        raise LinkRefused(Reason.MALFORMED, f"{len(body)} bytes behind a message of kind {field}")
    return _BY_FIELD[field].decode(getattr(message, field), body)
