"""Brokers' streams before anything is sent on them: who is proven, with which keys, and parcels as pieces."""

from __future__ import annotations

import hmac
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millpond.v1.internal import peer_pb2 as pb
from millpond_broker.consensus.peers import PeerIdentity
from millpond_broker.rpc.peer_frames import (
    BODY,
    FRAME_PAYLOAD_BYTES_MAX,
    FRAME_PIECES_MAX,
    LAST,
    STREAM_FRAME_BYTES_MAX,
    STREAM_PAYLOAD_BYTES_MAX,
    Cutter,
    Joiner,
    Parcel,
    parse_frame,
)
from millpond_broker.rpc.peer_frames import _mac as piece_mac
from millpond_broker.rpc.peer_handshake import NONCE_BYTES, LinkRefused, Opener, Proven, Reason, Server

SECRET = b"a secret of the whole cluster"
ONE = PeerIdentity(1, "directory-one", b"c" * 16)
TWO = PeerIdentity(2, "directory-two", b"")
KEY = b"k" * 32
STARTS = b"1" * 16, b"2" * 16

Alter = Callable[[pb.PeerFrame], None]


def handshake(
    *,
    roles: tuple[pb.PeerRole, pb.PeerRole] = (pb.PEER_ROLE_CONTROL, pb.PEER_ROLE_CONTROL),
    alter: dict[int, Alter] | None = None,
    nonce: bytes = b"n" * NONCE_BYTES,
) -> tuple[Proven, Proven]:
    """What the opener and the server have proven to them; `alter` changes frames on their way."""

    def passed(number: int, frame: pb.PeerFrame) -> pb.PeerFrame:
        copy = pb.PeerFrame.FromString(frame.SerializeToString())
        if alter is not None and number in alter:
            alter[number](copy)
        return copy

    starts = tuple(
        b"" if role == pb.PEER_ROLE_METADATA else start for role, start in zip(roles, STARTS, strict=True)
    )
    one = Opener(SECRET, ONE, wanted=2, role=roles[0], nonce=nonce, incarnation=starts[0])
    two = Server(SECRET, TWO, role=roles[1], nonce=b"2" * NONCE_BYTES, incarnation=starts[1])
    challenge = two.challenge(passed(0, one.hello()))
    proof = one.prove(passed(1, challenge))
    at_server = two.check(passed(2, proof))
    return one.finish(passed(3, two.accept())), at_server


def refused(call: Callable[[], object]) -> Reason:
    with pytest.raises(LinkRefused) as caught:
        call()
    return caught.value.reason


@pytest.mark.parametrize("role", [pb.PEER_ROLE_CONTROL, pb.PEER_ROLE_REPLICATION])
def test_both_ends_of_a_stream_learn_which_start_of_which_broker_the_other_is(role: pb.PeerRole) -> None:
    at_opener, at_server = handshake(roles=(role, role))
    assert (at_opener.peer, at_opener.incarnation) == (TWO, STARTS[1])
    assert (at_server.peer, at_server.incarnation) == (ONE, STARTS[0])
    assert (at_opener.key, at_opener.answers_key) == (at_server.key, at_server.answers_key)


def test_each_direction_of_each_stream_of_each_role_has_a_key_of_its_own() -> None:
    proven = [
        handshake(roles=(role, role), nonce=nonce * NONCE_BYTES)[0]
        for role in (pb.PEER_ROLE_METADATA, pb.PEER_ROLE_CONTROL, pb.PEER_ROLE_REPLICATION)
        for nonce in (b"a", b"b")
    ]
    assert len({key for each in proven for key in (each.key, each.answers_key)}) == 12


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("start", [b"", b"x" * 16, b"x" * 15, b"x" * 17])
def test_another_start_than_was_proven_is_refused(number: int, start: bytes) -> None:
    def alter(frame: pb.PeerFrame) -> None:
        (frame.challenge.server if number else frame.hello.opener).incarnation = start

    assert refused(lambda: handshake(alter={number: alter})) in (Reason.SECRET, Reason.MALFORMED)


def test_a_voters_link_names_no_start() -> None:
    def alter(frame: pb.PeerFrame) -> None:
        frame.hello.opener.incarnation = b"x" * 16

    roles = (pb.PEER_ROLE_METADATA, pb.PEER_ROLE_METADATA)
    handshake(roles=roles)
    assert refused(lambda: handshake(roles=roles, alter={0: alter})) is Reason.MALFORMED


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (pb.PEER_ROLE_CONTROL, pb.PEER_ROLE_REPLICATION),
        (pb.PEER_ROLE_REPLICATION, pb.PEER_ROLE_CONTROL),
        (pb.PEER_ROLE_METADATA, pb.PEER_ROLE_CONTROL),
        (pb.PEER_ROLE_CONTROL, pb.PEER_ROLE_METADATA),
    ],
)
def test_a_proof_for_one_use_is_none_for_another(said: pb.PeerRole, meant: pb.PeerRole) -> None:
    assert refused(lambda: handshake(roles=(said, meant))) is Reason.ROLE

    def alter(frame: pb.PeerFrame) -> None:
        frame.hello.role = meant

    outcome = refused(lambda: handshake(roles=(said, meant), alter={0: alter}))
    assert outcome in (Reason.SECRET, Reason.MALFORMED)


def refusing(alter: Alter = lambda _: None, secret: bytes = SECRET) -> Callable[[], object]:
    """An opener's last step, where the server refuses it."""
    start = b"s" * 16
    role = pb.PEER_ROLE_CONTROL
    one = Opener(SECRET, ONE, wanted=2, role=role, nonce=b"1" * NONCE_BYTES, incarnation=start)
    two = Server(SECRET, TWO, role=role, nonce=b"2" * NONCE_BYTES, incarnation=start)
    two.check(one.prove(two.challenge(one.hello())))
    stranger = Server(secret, TWO, role=role, nonce=b"2" * NONCE_BYTES, incarnation=start)
    stranger.challenge(one.hello())
    answer = stranger.refuse("it has another disk")
    alter(answer)
    return lambda: one.finish(answer)


def test_a_refusal_is_believed_of_who_has_the_secret_only() -> None:
    """Whoever believes it asks no more."""

    def other_reason(frame: pb.PeerFrame) -> None:
        frame.refusal.reason += "!"

    def accepts(frame: pb.PeerFrame) -> None:
        frame.accepted.mac = frame.refusal.mac

    assert refused(refusing()) is Reason.NOT_ADMITTED
    assert refused(refusing(secret=b"another secret than ours")) is Reason.SECRET
    assert refused(refusing(other_reason)) is Reason.SECRET
    assert refused(refusing(accepts)) is Reason.SECRET


# --- parcels -------------------------------------------------------------------------------------------


def joined(frames: list[bytes]) -> list[Parcel]:
    joiner = Joiner(KEY)
    return [parcel for frame in frames for parcel in joiner.join_parcels(parse_frame(frame))]


def cut(parcels: list[Parcel]) -> list[bytes]:
    return list(Cutter(KEY, STREAM_PAYLOAD_BYTES_MAX).cut_parcels(parcels))


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=100), st.binary(max_size=300)), max_size=50))
def test_parcels_come_out_as_they_went_in(parcels: list[Parcel]) -> None:
    assert joined(cut(parcels)) == parcels


@pytest.mark.parametrize(
    "sizes",
    [
        [(1, 0)],
        [(60, 1 << 20)] * 5,
        [(60, 1000), (60, 1 << 20), (60, 1000)],
        [(60, STREAM_PAYLOAD_BYTES_MAX - 60)],
        [(60, STREAM_PAYLOAD_BYTES_MAX - 59), (1, 0)],
        [(60, 5 << 20), (1, 1), (60, 33 << 20)],
        [(3 << 20, 3 << 20)],
        [(1, 1)] * FRAME_PIECES_MAX,
        [(1, 0)] * (3 * FRAME_PIECES_MAX),
    ],
    ids=lambda sizes: f"{len(sizes)} of {max(sizes)}",
)
def test_frames_of_parcels_keep_their_bounds_at_every_size(sizes: list[tuple[int, int]]) -> None:
    parcels = [(bytes([number % 251]) * head, bytes([7]) * body) for number, (head, body) in enumerate(sizes)]
    frames = cut(parcels)
    for frame in frames:
        pieces = parse_frame(frame).pieces.pieces
        assert len(frame) <= STREAM_FRAME_BYTES_MAX
        assert 1 <= len(pieces) <= FRAME_PIECES_MAX
        assert sum(len(piece.payload) for piece in pieces) <= STREAM_PAYLOAD_BYTES_MAX
    assert joined(frames) == parcels


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, STREAM_PAYLOAD_BYTES_MAX])
def test_a_frame_is_what_protobuf_would_have_made(size: int) -> None:
    """It is joined by hand: nothing that an encoder would write otherwise may be in it."""
    cutter = Cutter(KEY, STREAM_PAYLOAD_BYTES_MAX)
    for _ in range(200):
        list(cutter.cut([b""]))
    (frame,) = cutter.cut([bytes(size)])
    parsed = parse_frame(frame)
    (piece,) = parsed.pieces.pieces
    wanted = pb.PeerPiece(
        sequence=200, flags=LAST, payload=bytes(size), mac=piece_mac(KEY, 200, LAST, bytes(size))
    )
    assert piece == wanted
    whole = parsed.ByteSize()
    parsed.DiscardUnknownFields()
    assert parsed.ByteSize() == whole
    assert whole <= len(frame) <= whole + 2, "but for a length of an empty payload"


def test_a_push_of_a_mebibyte_travels_whole_whatever_is_before_it() -> None:
    """Each cut of its bytes would copy them, at both ends."""
    small, large = (b"m" * 60, b"b" * 70_000), (b"m" * 60, b"b" * FRAME_PAYLOAD_BYTES_MAX)
    bodies = [
        len(piece.payload)
        for frame in cut([small, large, small, large])
        for piece in parse_frame(frame).pieces.pieces
        if piece.flags & BODY
    ]
    assert bodies == [70_000, FRAME_PAYLOAD_BYTES_MAX] * 2


def pieces(*made: tuple[bytes, int]) -> pb.PeerFrame:
    """What a peer with the key has really made so."""
    return pb.PeerFrame(
        pieces=pb.PeerPieces(
            pieces=[
                pb.PeerPiece(
                    sequence=number, flags=flags, payload=payload, mac=piece_mac(KEY, number, flags, payload)
                )
                for number, (payload, flags) in enumerate(made)
            ]
        )
    )


@pytest.mark.parametrize(
    "made",
    [
        [(b"m", 0), (b"b", BODY), (b"m", 0)],
        [(b"m", 0), (b"b", BODY), (b"m", LAST)],
        [(b"m", 0), (b"", BODY)],
        [(b"m", 0), (b"", BODY | LAST)],
        [(b"b", BODY | LAST)],
        [(b"b", BODY)],
        [(b"m", LAST | 4)],
    ],
)
def test_a_proven_peer_too_is_held_to_the_form_of_parcels(made: list[tuple[bytes, int]]) -> None:
    assert refused(lambda: list(Joiner(KEY).join_parcels(pieces(*made)))) is Reason.MALFORMED


def test_a_body_has_no_place_on_a_link_between_voters() -> None:
    frame = pieces((b"m", 0), (b"b", BODY | LAST))
    assert list(Joiner(KEY).join_parcels(frame)) == [(b"m", b"b")]
    assert refused(lambda: list(Joiner(KEY).join(frame))) is Reason.MALFORMED


def test_the_mac_of_a_large_piece_is_made_as_that_of_a_small_one() -> None:
    """Two ways to the same: the other end may be of a version that has one."""
    for size in (0, 2047, 2048, 100_000):
        payload = bytes(size)
        head = (5).to_bytes(8, "big") + (1).to_bytes(4, "big")
        assert piece_mac(KEY, 5, 1, payload) == hmac.digest(KEY, head + payload, "sha256")[:16]
