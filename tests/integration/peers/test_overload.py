"""A proven peer that does too much, or too little, loses its own link and harms nobody else's."""

from __future__ import annotations

import resource
import threading

import grpc
import pytest

from millpond.v1.internal import peer_pb2 as pb
from millpond_broker.rpc.peer_connection import QUEUED_BYTES_MAX, QUEUED_MESSAGES_MAX
from millpond_broker.rpc.peer_frames import FRAME_PAYLOAD_BYTES_MAX, MESSAGE_BYTES_MAX
from millpond_broker.rpc.peer_handshake import Reason
from tests.awake import awake
from tests.integration.peers.conftest import MakeVoter
from tests.integration.peers.raw import RawPeer
from tests.integration.peers.voters import link_all, until


def test_a_link_whose_receiver_has_no_room_is_broken_at_that_message_and_made_again(voter: MakeVoter) -> None:
    one, two = voter(1), voter(2)
    link_all(one, two)
    room = threading.Event()
    heard: list[bytes] = []

    def take(_: int, message: bytes) -> bool:
        if not room.is_set() and len(heard) == 10:
            return False
        heard.append(message)
        return True

    two.told.take = take
    one.links.send(2, [b"%d" % number for number in range(30)])
    one.told.wait(lambda: one.told.count("disconnected", 2) == 1)
    assert heard == [b"%d" % number for number in range(10)], "and none after the one that was left out"
    room.set()
    one.told.wait(lambda: one.told.linked(2))
    one.links.send(2, [b"again"])
    until(lambda: heard[-1] == b"again")
    assert len(heard) == 11
    assert two.told.events == [("connected", 1)], "its own link is another"


def test_a_peer_that_floods_loses_its_link_and_others_keep_theirs(voter: MakeVoter) -> None:
    """One that has the secret, and sends whatever is taken, in messages of all sizes."""
    two, three = voter(2), voter(3)
    link_all(two, three)
    held, told_no = [0], threading.Event()

    def take(peer: int, message: bytes) -> bool:
        if peer == 3:
            return two.told._keep(peer, message)
        if held[0] + len(message) > 8 << 20:
            told_no.set()
            return False
        held[0] += len(message)
        return True

    two.told.take = take
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        held[0] = 0
        told_no.clear()
        with RawPeer(two.address) as raw:
            raw.handshake(2)
            for number in range(60):
                raw.messages(bytes(number), bytes(1 << 20), bytes(3 << 18))
            code, details = raw.ended()
        assert told_no.is_set()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "room" in details
        three.links.send(2, [b"still heard"])
    two.told.wait(lambda: two.told.messages.get(3) == [b"still heard"] * 3)
    # What the flood itself was made of is in this process as well, three times a hundred MB at the most.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10
    assert two.told.count("disconnected", 3) == three.told.count("disconnected", 2) == 0


def test_a_message_without_end_breaks_the_link_when_it_is_too_large(voter: MakeVoter) -> None:
    two = voter(2)
    with RawPeer(two.address) as raw:
        raw.handshake(2)
        part = bytes(FRAME_PAYLOAD_BYTES_MAX)
        for _ in range(MESSAGE_BYTES_MAX // FRAME_PAYLOAD_BYTES_MAX + 1):
            raw.cutter._add(part, 0)
            raw.send(next(raw.cutter._rest()))
        assert raw.ended()[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert two.told.messages == {}


@pytest.mark.parametrize("what", ["altered", "again", "noise", "hello", "end"])
def test_a_stream_that_goes_wrong_after_its_proof_is_ended_and_nothing_after_that_is_heard(
    voter: MakeVoter, what: str
) -> None:
    two = voter(2)
    with RawPeer(two.address) as raw:
        raw.handshake(2)
        raw.messages(b"sound")
        two.told.wait(lambda: two.told.messages.get(1) == [b"sound"])
        frame = next(raw.cutter.cut([b"sound as well"]))
        match what:
            case "altered":
                raw.send(frame.replace(b"sound as well", b"bound as well"))
            case "again":
                raw.send(frame)
                raw.send(frame)
            case "noise":
                raw.send(b"\xff\xff\xff")
            case "hello":
                raw.send(pb.PeerFrame(hello=pb.PeerHello(version=1)))
            case _:
                raw.half_close()
        raw.messages(b"not heard")
        code, _ = raw.ended()
    assert code is {
        "altered": grpc.StatusCode.DATA_LOSS,
        "again": grpc.StatusCode.DATA_LOSS,
        "end": grpc.StatusCode.OK,
    }.get(what, grpc.StatusCode.INVALID_ARGUMENT)
    assert two.told.got(1) == [b"sound"] + [b"sound as well"] * (what == "again")


@pytest.mark.parametrize(
    ("size", "at_once", "count_max"),
    [(256 << 10, 16, QUEUED_BYTES_MAX // (256 << 10)), (1, 256, QUEUED_MESSAGES_MAX)],
    ids=["large", "small"],
)
def test_a_peer_that_does_not_read_breaks_the_link_when_the_queue_is_full(
    voter: MakeVoter, size: int, at_once: int, count_max: int
) -> None:
    one, two = voter(1), voter(2)
    link_all(one, two)
    goes_on = threading.Event()

    def take(_: int, _message: bytes) -> bool:
        return goes_on.wait(30)

    two.told.take = take
    try:
        one.links.send(2, [b"held"])
        connection = one.links._links[2]._connection
        assert connection is not None
        message, sent = bytes(size), 0
        began = awake()
        while connection._end is None:
            one.links.send(2, [message] * at_once)
            sent += at_once
            assert connection._queued_bytes <= QUEUED_BYTES_MAX
            assert len(connection._queue) <= QUEUED_MESSAGES_MAX
            assert awake() - began < 4, "broken by its bound, not by the time that a frame may take"
        assert sent >= count_max
        assert connection._end.reason is Reason.NO_ROOM
        assert connection._queued_bytes == len(connection._queue) == 0, "and what waited is let go of"
        one.told.wait(lambda: one.told.count("disconnected", 2) == 1)
    finally:
        goes_on.set()
    one.told.wait(lambda: one.told.linked(2))
    two.told.take = two.told._keep
    one.links.send(2, [b"again"])
    two.told.wait(lambda: two.told.got(1)[-1:] == [b"again"])


def test_a_peer_that_takes_nothing_for_too_long_is_given_up_although_it_answers(voter: MakeVoter) -> None:
    """Its machine answers pings, its process does not read."""
    one, two = voter(1), voter(2)
    link_all(one, two)
    goes_on = threading.Event()

    def take(_: int, _message: bytes) -> bool:
        return goes_on.wait(30)

    two.told.take = take
    try:
        one.links.send(2, [bytes(1 << 20)] * 16)
        one.told.wait(lambda: one.told.count("disconnected", 2) == 1)
    finally:
        goes_on.set()
    one.told.wait(lambda: one.told.linked(2))
