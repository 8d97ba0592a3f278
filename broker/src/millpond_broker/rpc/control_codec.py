"""Control messages as parcels of a peer stream, and back: one row for each kind, both ways side by side.

Commands travel inside as `consensus.codec` writes them to the log; what became of them is written here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import DecodeError, Message

from millpond.v1.internal import control_pb2 as pb
from millpond.wire.errors import ErrorCode, InternalError
from millpond_broker.consensus import codec
from millpond_broker.consensus.metadata_log import NotApplied, Ok, ProposeOutcome, Unknown
from millpond_broker.core.commands import Undecodable
from millpond_broker.core.results import Applied, CommandResult, Fact, Refused, RefusedItem, Value
from millpond_broker.core.sessions import Heard, Heartbeat
from millpond_broker.rpc.peer_frames import Parcel
from millpond_broker.rpc.peer_handshake import LinkRefused, Reason
from millpond_broker.runtime.control_messages import (
    Asked,
    Beat,
    Beaten,
    Control,
    Failed,
    Found,
    Founded,
    HandOver,
    Here,
    Propose,
    Proposed,
    Question,
    Ready,
    ReadyToVote,
    Replied,
    Reply,
    Who,
)

_NUMBER_END: Final = 1 << 63
"""Of what travels as a signed number."""


@dataclass(frozen=True, slots=True)
class Row:
    """How one kind travels: its field of the message's oneof, and the way there and back."""

    field: str
    encode: Callable[[Any], Message]
    decode: Callable[[Any], Question | Reply]


# --- what became of a command ------------------------------------------------------------------------------


def _fact(name: str, value: Fact) -> pb.ControlFact:
    if value is None:
        return pb.ControlFact(name=name)
    if isinstance(value, int) and -_NUMBER_END <= value < _NUMBER_END:
        return pb.ControlFact(name=name, number=value)
    return pb.ControlFact(name=name, text=str(value).encode(errors="backslashreplace").decode())


def _to_fact(message: pb.ControlFact) -> tuple[str, Fact]:
    match message.WhichOneof("value"):
        case "text":
            return message.name, message.text
        case "number":
            return message.name, message.number
    return message.name, None


def _refused(refused: Refused) -> pb.ControlRefused:
    facts = [_fact(name, value) for name, value in refused.facts]
    return pb.ControlRefused(code=str(refused.code), facts=facts)


def _to_refused(message: pb.ControlRefused) -> Refused:
    """A newer broker's table may have other rows and facts than ours: then that is what is told."""
    try:
        refused = Refused(ErrorCode(message.code), tuple(map(_to_fact, message.facts)))
        refused.error  # noqa: B018 - whether it can be raised: not first where it has to be
    except (TypeError, ValueError):
        return Refused.of(InternalError(reason=f"{message.code[:64]!r}, which is unknown here"))
    return refused


def _value(value: Value) -> pb.ControlValue:
    match value:
        case int():
            return pb.ControlValue(number=value)
        case bytes():
            return pb.ControlValue(data=value)
        case None:
            return pb.ControlValue()
    items = [pb.ControlRefusedItem(position=item.position, refused=_refused(item.refused)) for item in value]
    return pb.ControlValue(refused=pb.ControlRefusedItems(items=items))


def _to_value(message: pb.ControlValue) -> Value:
    match message.WhichOneof("kind"):
        case "number":
            return message.number
        case "data":
            return message.data
        case "refused":
            items = message.refused.items
            return tuple(RefusedItem(item.position, _to_refused(item.refused)) for item in items)
    return None


def _to_result(message: pb.ControlCommitted) -> CommandResult:
    match message.WhichOneof("result"):
        case "applied":
            return Applied(_to_value(message.applied))
        case "refused":
            return _to_refused(message.refused)
    raise LinkRefused(Reason.MALFORMED, "a committed command without a result")


def _proposed(m: Proposed) -> pb.ControlProposed:
    match m.outcome:
        case Ok(index, Applied(value)):
            ok = pb.ControlCommitted(index=index, applied=_value(value))
            return pb.ControlProposed(leader=m.leader, ok=ok)
        case Ok(index, Refused() as refused):
            ok = pb.ControlCommitted(index=index, refused=_refused(refused))
            return pb.ControlProposed(leader=m.leader, ok=ok)
        case NotApplied(reason):
            return pb.ControlProposed(leader=m.leader, not_applied=pb.ControlNotApplied(reason=_text(reason)))
        case Unknown(reason, sequence):
            unknown = pb.ControlUnknown(reason=_text(reason), sequence=sequence)
            return pb.ControlProposed(leader=m.leader, unknown=unknown)
    raise AssertionError("an outcome has one of these kinds")


def _to_proposed(m: pb.ControlProposed) -> Proposed:
    outcome: ProposeOutcome
    match m.WhichOneof("outcome"):
        case "ok":
            outcome = Ok(m.ok.index, _to_result(m.ok))
        case "not_applied":
            outcome = NotApplied(m.not_applied.reason)
        case "unknown":
            outcome = Unknown(m.unknown.reason, m.unknown.sequence)
        case _:
            raise LinkRefused(Reason.MALFORMED, "an answer to a proposal without an outcome")
    return Proposed(outcome, _leader(m))


def _leader(m: pb.ControlProposed | pb.ControlBeaten) -> int | None:
    return m.leader if m.HasField("leader") else None


# --- the other kinds ---------------------------------------------------------------------------------------


def _to_propose(m: pb.ControlPropose) -> Propose:
    envelope = codec.decode(m.envelope)
    if isinstance(envelope.command, Undecodable):
        # It would be proposed as what it is not. A newer broker waits until the feature level is raised.
        raise LinkRefused(Reason.MALFORMED, f"a proposal of {envelope.command.reason}")
    return Propose(envelope, m.timeout_ms)


def _beat(m: Beat) -> pb.ControlBeat:
    h = m.heartbeat
    return pb.ControlBeat(
        broker_id=h.broker_id,
        broker_epoch=h.broker_epoch,
        applied_index=h.applied_index,
        feature_level=h.feature_level,
        loop_lag_ms=h.loop_lag_ms,
        digest=m.digest,
    )


def _to_beat(m: pb.ControlBeat) -> Beat:
    heartbeat = Heartbeat(
        broker_id=m.broker_id,
        broker_epoch=m.broker_epoch,
        applied_index=m.applied_index,
        feature_level=m.feature_level,
        loop_lag_ms=m.loop_lag_ms,
    )
    return Beat(heartbeat, m.digest)


HEARD: Final[dict[Heard | None, pb.ControlHeard]] = {
    None: pb.CONTROL_HEARD_UNSPECIFIED,
    Heard.EXTENDED: pb.CONTROL_HEARD_EXTENDED,
    Heard.FENCED: pb.CONTROL_HEARD_FENCED,
    Heard.IGNORED: pb.CONTROL_HEARD_IGNORED,
    Heard.STRANGER: pb.CONTROL_HEARD_STRANGER,
}
_HEARD_BACK: Final = {number: heard for heard, number in HEARD.items()}


def _to_beaten(m: pb.ControlBeaten) -> Beaten:
    if m.heard not in _HEARD_BACK:
        raise LinkRefused(Reason.MALFORMED, f"an answer {m.heard} to a heartbeat")
    return Beaten(
        _HEARD_BACK[m.heard], m.controller_epoch, m.version, _leader(m), m.everywhere, differs=m.differs
    )


ROWS: Final[dict[type, Row]] = {
    Propose: Row(
        "propose",
        lambda m: pb.ControlPropose(envelope=codec.encode(m.envelope), timeout_ms=m.timeout_ms),
        _to_propose,
    ),
    Proposed: Row("proposed", _proposed, _to_proposed),
    Beat: Row("beat", _beat, _to_beat),
    Beaten: Row(
        "beaten",
        lambda m: pb.ControlBeaten(
            heard=HEARD[m.heard],
            controller_epoch=m.controller_epoch,
            version=m.version,
            leader=m.leader,
            everywhere=m.everywhere,
            differs=m.differs,
        ),
        _to_beaten,
    ),
    Who: Row("who", lambda m: pb.ControlWho(), lambda m: Who()),
    Here: Row("here", lambda m: pb.ControlHere(incarnation=m.incarnation), lambda m: Here(m.incarnation)),
    Found: Row(
        "found",
        lambda m: pb.ControlFound(
            voters=[pb.ControlVoter(broker_id=broker_id, address=address) for broker_id, address in m.voters]
        ),
        lambda m: Found(tuple((voter.broker_id, voter.address) for voter in m.voters)),
    ),
    Founded: Row(
        "founded",
        lambda m: pb.ControlFounded(
            first=m.first,
            refused=None if m.refused is None else _text(m.refused),
            without_you=m.without_you,
        ),
        lambda m: Founded(
            m.first if m.HasField("first") else None,
            m.refused if m.HasField("refused") else None,
            without_you=m.without_you,
        ),
    ),
    ReadyToVote: Row("ready_to_vote", lambda m: pb.ControlReadyToVote(), lambda m: ReadyToVote()),
    Ready: Row(
        "ready",
        lambda m: pb.ControlReady(directory_id=m.directory_id, reached=m.reached),
        lambda m: Ready(m.directory_id, tuple(m.reached)),
    ),
    HandOver: Row("hand_over", lambda m: pb.ControlHandOver(), lambda m: HandOver()),
    Failed: Row("failed", lambda m: pb.ControlFailed(reason=_text(m.reason)), lambda m: Failed(m.reason)),
}
"""Every kind, exhaustively: a test holds it against the unions and against the fields."""

_BY_FIELD: Final = {row.field: row for row in ROWS.values()}
_QUESTIONS: Final = (Propose, Beat, Who, Found, ReadyToVote, HandOver)


def encode(message: Control) -> Parcel:
    """Raises ValueError: a number that does not fit its field, which is a mistake of ours, or a command that
    is too large for the log (`codec.CommandTooLarge`).
    """
    said = message.question if isinstance(message, Asked) else message.reply
    row = ROWS[type(said)]
    whole = pb.ControlMessage(number=message.number, **{row.field: row.encode(said)})  # type: ignore[arg-type]  # by its name
    return whole.SerializeToString(), b""


def decode(head: bytes, body: bytes) -> Control:
    """What `encode` was given. Raises LinkRefused."""
    try:
        message = pb.ControlMessage.FromString(head)
    except DecodeError:
        raise LinkRefused(Reason.MALFORMED, "bytes that are no control message") from None
    field = message.WhichOneof("kind")
    if field is None:
        raise LinkRefused(Reason.MALFORMED, "a control message of no known kind")
    if body:
        raise LinkRefused(Reason.MALFORMED, f"{len(body)} bytes behind a control message")
    if not message.number:
        raise LinkRefused(Reason.MALFORMED, "a question or an answer without a number")
    said = _BY_FIELD[field].decode(getattr(message, field))
    if isinstance(said, _QUESTIONS):
        return Asked(message.number, said)
    return Replied(message.number, said)


def _text(text: str) -> str:
    """As it can travel: a path may hold what is no Unicode."""
    return text.encode(errors="backslashreplace").decode()
