"""Messages between voters as bytes. What comes in is checked for shape here: a peer may be of another
version, or wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from google.protobuf.message import DecodeError

from millpond.v1.internal import raft_pb2 as pb
from millpond_broker.consensus.codec import COMMAND_BYTES_MAX
from millpond_broker.consensus.journal import Entry, EntryKind
from millpond_broker.consensus.raft.messages import (
    Address,
    Appended,
    AppendEntries,
    InstallSnapshot,
    Message,
    NewerTerm,
    PreVote,
    PreVoted,
    RequestVote,
    TimeoutNow,
    Vote,
)
from millpond_broker.consensus.snapshots import Snapshot
from millpond_broker.core.broker_commands import TEXT_CHARACTERS_MAX

NUMBER_END: Final = 1 << 62
"""Of terms and indexes: more than anybody counts to, and nothing overflows on disk."""


class BadMessage(ValueError):
    """Bytes that no voter sends. Nothing was changed."""


def encode(message: Message) -> bytes:
    """The message as bytes for `decode`."""
    made = pb.RaftMessage(term=message.term)
    match message:
        case AppendEntries():
            made.append.CopyFrom(
                pb.AppendEntries(
                    commit_index=message.commit_index,
                    previous_index=message.previous_index,
                    previous_term=message.previous_term,
                    entries=[
                        pb.RaftEntry(term=entry.term, kind=entry.kind, data=entry.data)
                        for entry in message.entries
                    ],
                )
            )
        case Appended():
            made.appended.CopyFrom(pb.Appended(next_index=message.next_index, success=message.success))
        case RequestVote():
            made.request_vote.CopyFrom(
                pb.RequestVote(last_index=message.last_index, last_term=message.last_term)
            )
        case Vote():
            made.vote.SetInParent()
        case InstallSnapshot(snapshot=snapshot):
            made.snapshot.CopyFrom(
                pb.InstallSnapshot(
                    last_index=snapshot.last_index,
                    last_term=snapshot.last_term,
                    crc32c=message.checksum,
                    data=snapshot.data,
                )
            )
        case PreVote():
            made.pre_vote.CopyFrom(pb.RequestVote(last_index=message.last_index, last_term=message.last_term))
        case PreVoted():
            made.pre_voted.CopyFrom(pb.PreVoted(granted=message.granted, asked_term=message.asked_term))
        case NewerTerm():
            made.newer_term.SetInParent()
        case TimeoutNow():
            made.timeout_now.SetInParent()
        case Address():
            made.address.CopyFrom(pb.Address(address=message.address))
    return made.SerializeToString()


def decode(data: bytes) -> Message:
    """The message that `encode` made. Raises BadMessage."""
    made = pb.RaftMessage()
    try:
        made.ParseFromString(data)
    except DecodeError:
        raise BadMessage("bytes that are no message") from None
    term = made.term
    match made.WhichOneof("kind"):
        case "append":
            message: Message = _append(term, made.append)
        case "appended":
            message = Appended(term, made.appended.next_index, made.appended.success)
        case "request_vote":
            message = RequestVote(term, made.request_vote.last_index, made.request_vote.last_term)
        case "vote":
            message = Vote(term)
        case "snapshot":
            part = made.snapshot
            message = InstallSnapshot(term, Snapshot(part.last_index, part.last_term, part.data), part.crc32c)
        case "pre_vote":
            message = PreVote(term, made.pre_vote.last_index, made.pre_vote.last_term)
        case "pre_voted":
            message = PreVoted(term, made.pre_voted.granted, made.pre_voted.asked_term)
        case "newer_term":
            message = NewerTerm(term)
        case "timeout_now":
            message = TimeoutNow(term)
        case "address":
            message = Address(term, made.address.address)
            if not 0 < len(message.address) <= TEXT_CHARACTERS_MAX:
                raise BadMessage("an address that there cannot be")
        case _:
            raise BadMessage("a message of no kind that this version knows")
    _check_numbers(message)
    return message


def _append(term: int, part: pb.AppendEntries) -> AppendEntries:
    entries = []
    last_term = part.previous_term
    for index, entry in enumerate(part.entries, start=part.previous_index + 1):
        if not last_term <= entry.term <= term:
            raise BadMessage("entries whose terms go back, or beyond their sender's")
        if entry.kind not in EntryKind.__members__.values() or len(entry.data) > COMMAND_BYTES_MAX:
            raise BadMessage("an entry of an unknown kind, or too large")
        last_term = entry.term
        entries.append(Entry(index, entry.term, EntryKind(entry.kind), entry.data))
    return AppendEntries(term, part.commit_index, part.previous_index, part.previous_term, tuple(entries))


def _check_numbers(message: Message) -> None:
    numbers: Iterable[int]
    match message:
        case AppendEntries():
            numbers = (message.commit_index, message.previous_index, message.previous_term)
        case Appended():
            numbers = (message.next_index - 1,)
        case RequestVote() | PreVote():
            numbers = (message.last_index, message.last_term)
        case InstallSnapshot(snapshot=snapshot):
            numbers = (snapshot.last_index - 1, snapshot.last_term)
        case PreVoted():
            numbers = (message.asked_term,)
        case _:
            numbers = ()
    if not all(0 <= number < NUMBER_END for number in (message.term, *numbers)):
        raise BadMessage("a term or an index that there cannot be")
