"""Messages between voters as bytes: each there and back, and whatever is none is refused."""

from __future__ import annotations

import contextlib
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millpond.v1.internal import raft_pb2 as pb
from millpond_broker.consensus.codec import COMMAND_BYTES_MAX
from millpond_broker.consensus.journal import Entry, EntryKind
from millpond_broker.consensus.raft.codec import NUMBER_END, BadMessage, decode, encode
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

EXAMPLES: list[Message] = [
    AppendEntries(5, 3, 4, 2, ()),
    AppendEntries(
        5,
        0,
        0,
        0,
        (
            Entry(1, 0, EntryKind.NO_OP, b""),
            Entry(2, 3, EntryKind.COMMAND, b"command"),
            Entry(3, 5, EntryKind.VOTERS, b"\0" * 1000),
        ),
    ),
    Appended(5, 1, success=False),
    Appended(NUMBER_END - 1, NUMBER_END, success=True),
    RequestVote(1, 0, 0),
    Vote(7),
    InstallSnapshot(7, Snapshot(1, 0, b"image"), 2**32 - 1),
    PreVote(8, 9, 10),
    PreVoted(8, granted=True, asked_term=9),
    NewerTerm(9),
    TimeoutNow(10),
    Address(11, "broker-1:7071"),
]


def test_every_kind_has_an_example_and_a_field() -> None:
    assert {type(message) for message in EXAMPLES} == set(get_args(Message))
    fields = pb.RaftMessage.DESCRIPTOR.oneofs_by_name["kind"].fields
    assert len(fields) == len(get_args(Message))


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_went(message: Message) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        AppendEntries(5, 0, 0, 3, (Entry(1, 2, EntryKind.NO_OP, b""),)),
        AppendEntries(5, 0, 0, 0, (Entry(1, 6, EntryKind.NO_OP, b""),)),
        AppendEntries(5, NUMBER_END, 0, 0, ()),
        AppendEntries(5, 0, 0, 0, (Entry(1, 1, EntryKind.COMMAND, b"x" * (COMMAND_BYTES_MAX + 1)),)),
        Appended(5, 0, success=True),
        RequestVote(5, NUMBER_END, 0),
        Vote(NUMBER_END),
        InstallSnapshot(5, Snapshot(0, 0, b""), 0),
        PreVoted(1, granted=True, asked_term=NUMBER_END),
        Address(1, ""),
        Address(1, "x" * 600),
    ],
    ids=repr,
)
def test_what_no_voter_says_is_refused(message: Message) -> None:
    with pytest.raises(BadMessage):
        decode(encode(message))


def test_a_kind_of_a_later_version_is_refused_by_name() -> None:
    made = pb.RaftMessage(term=3)
    made.MergeFromString(b"\xfa\x01\x02\x08\x01")  # field 31
    for data in (made.SerializeToString(), b"", b"\x08\x03"):
        with pytest.raises(BadMessage, match="no kind"):
            decode(data)
    unknown = pb.RaftMessage(term=3, append=pb.AppendEntries(entries=[pb.RaftEntry(kind=9)]))
    with pytest.raises(BadMessage, match="unknown kind"):
        decode(unknown.SerializeToString())


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    with contextlib.suppress(BadMessage):
        decode(data)


@given(st.sampled_from(EXAMPLES), st.data())
def test_any_damage_is_a_message_or_refused(message: Message, data: st.DataObject) -> None:
    encoded = bytearray(encode(message))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(BadMessage):
        decode(bytes(encoded))
