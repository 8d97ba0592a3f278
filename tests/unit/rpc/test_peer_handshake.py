"""The handshake of two brokers, and the pieces after it: what was altered on the way is always refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.message import Message
from hypothesis import assume, given
from hypothesis import strategies as st

from millpond.v1.internal import peer_pb2 as pb
from millpond_broker.consensus.peers import PeerIdentity
from millpond_broker.rpc.peer_frames import (
    FRAME_BYTES_MAX,
    FRAME_PAYLOAD_BYTES_MAX,
    FRAME_PIECES_MAX,
    LAST,
    MESSAGE_BYTES_MAX,
    Cutter,
    Joiner,
    parse_frame,
)
from millpond_broker.rpc.peer_frames import _mac as piece_mac
from millpond_broker.rpc.peer_handshake import NONCE_BYTES, LinkRefused, Opener, Proven, Reason, Server

SECRET = b"a secret of the whole cluster"
ONE = PeerIdentity(1, "directory-one", b"c" * 16)
TWO = PeerIdentity(2, "directory-two", b"")
KEY = b"k" * 32

Alter = Callable[[pb.PeerFrame], pb.PeerFrame]
Wire = tuple[Alter, Alter, Alter, Alter]
"""What happens to each of the four frames on their way."""


def same(frame: pb.PeerFrame) -> pb.PeerFrame:
    return frame


def handshake(
    wire: Wire = (same, same, same, same),
    *,
    opener_secret: bytes = SECRET,
    server_secret: bytes = SECRET,
    opener: PeerIdentity = ONE,
    server: PeerIdentity = TWO,
    wanted: int = 2,
    nonces: tuple[bytes, bytes] = (b"1" * NONCE_BYTES, b"2" * NONCE_BYTES),
) -> tuple[Proven, Proven]:
    """What the opener and the server have proven to them."""
    role = pb.PEER_ROLE_METADATA
    one = Opener(opener_secret, opener, wanted=wanted, role=role, nonce=nonces[0])
    two = Server(server_secret, server, role=role, nonce=nonces[1])
    challenge = two.challenge(wire[0](one.hello()))
    proof = one.prove(wire[1](challenge))
    at_server = two.check(wire[2](proof))
    at_opener = one.finish(wire[3](two.accept()))
    return at_opener, at_server


def refused(call: Callable[[], object]) -> Reason:
    with pytest.raises(LinkRefused) as caught:
        call()
    return caught.value.reason


def test_both_ends_learn_who_the_other_is_and_have_the_same_key() -> None:
    at_opener, at_server = handshake()
    assert (at_opener.peer, at_server.peer) == (TWO, ONE)
    assert at_opener.key == at_server.key
    assert SECRET not in at_opener.key


def test_every_stream_has_a_key_of_its_own() -> None:
    nonces = [b"1" * NONCE_BYTES, b"2" * NONCE_BYTES, b"3" * NONCE_BYTES]
    keys = {handshake(nonces=(one, two))[0].key for one in nonces for two in nonces}
    assert len(keys) == 9


@given(st.binary(min_size=16, max_size=64), st.binary(min_size=16, max_size=64))
def test_another_secret_is_refused_by_the_server_before_it_has_proven_anything(
    one: bytes, two: bytes
) -> None:
    assume(one != two and one.rstrip(b"\0") != two.rstrip(b"\0"))
    assert refused(lambda: handshake(opener_secret=one, server_secret=two)) is Reason.SECRET


def test_a_server_that_only_pretends_to_check_is_refused_by_the_opener() -> None:
    one = Opener(SECRET, ONE, wanted=2, role=pb.PEER_ROLE_METADATA, nonce=b"1" * NONCE_BYTES)
    two = Server(b"another secret than ours", TWO, role=pb.PEER_ROLE_METADATA, nonce=b"2" * NONCE_BYTES)
    one.prove(two.challenge(one.hello()))
    assert refused(lambda: one.finish(two.accept())) is Reason.SECRET


def test_a_proof_sent_back_to_its_maker_is_none() -> None:
    one = Opener(SECRET, ONE, wanted=2, role=pb.PEER_ROLE_METADATA, nonce=b"1" * NONCE_BYTES)
    two = Server(SECRET, TWO, role=pb.PEER_ROLE_METADATA, nonce=b"2" * NONCE_BYTES)
    proof = one.prove(two.challenge(one.hello()))
    mirrored = pb.PeerFrame(accepted=pb.PeerAccepted(mac=proof.proof.mac))
    assert refused(lambda: one.finish(mirrored)) is Reason.SECRET


def test_a_proof_of_an_earlier_handshake_is_none() -> None:
    kept: list[pb.PeerFrame] = []
    handshake((same, same, lambda frame: kept.append(frame) or frame, same))  # type: ignore[func-returns-value]  # append gives None, so the frame
    replay = (same, same, lambda _: kept[0], same)
    nonces = (b"1" * NONCE_BYTES, b"3" * NONCE_BYTES)
    assert refused(lambda: handshake(replay, nonces=nonces)) is Reason.SECRET


# --- every field ---------------------------------------------------------------------------------------


def fields_of(message: Message, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None:
            found += fields_of(getattr(message, field.name), (*path, field.name))
        else:
            found.append((*path, field.name))
    return found


HANDSHAKE_FIELDS = [
    (number, (kind, *path))
    for number, (kind, message) in enumerate(
        {
            "hello": pb.PeerHello(),
            "challenge": pb.PeerChallenge(),
            "proof": pb.PeerProof(),
            "accepted": pb.PeerAccepted(),
        }.items()
    )
    for path in fields_of(message)
]


def test_the_fields_that_are_altered_below_are_all_there_are() -> None:
    assert len(HANDSHAKE_FIELDS) == 8 + 5 + 1 + 1


@pytest.mark.parametrize(("number", "path"), HANDSHAKE_FIELDS, ids=str)
@given(data=st.data())
def test_a_handshake_with_any_field_altered_is_refused(
    number: int, path: tuple[str, ...], data: st.DataObject
) -> None:
    def alter(frame: pb.PeerFrame) -> pb.PeerFrame:
        changed = pb.PeerFrame.FromString(frame.SerializeToString())
        owner: Message = changed
        for name in path[:-1]:
            owner = getattr(owner, name)
        old = getattr(owner, path[-1])
        new: object
        if isinstance(old, bytes):
            bits = bytearray(old)
            kinds = ["more", "other"] + (["less", "flip"] if old else [])
            match data.draw(st.sampled_from(kinds)):
                case "flip":
                    bits[data.draw(st.integers(0, len(old) - 1))] ^= data.draw(st.integers(1, 255))
                case "less":
                    del bits[data.draw(st.integers(0, len(old) - 1)) :]
                case "more":
                    bits += data.draw(st.binary(min_size=1, max_size=40))
                case _:
                    bits[:] = data.draw(st.binary(max_size=40))
            new = bytes(bits)
        elif isinstance(old, str):
            new = data.draw(st.text(max_size=20) | st.just(old + "x") | st.just("x" * 600))
        else:
            new = data.draw(st.integers(0, 4) | st.integers(0, (1 << 31) - 1))
        assume(new != old)
        setattr(owner, path[-1], new)
        return changed

    steps = [same, same, same, same]
    steps[number] = alter
    refused(lambda: handshake((steps[0], steps[1], steps[2], steps[3])))


@given(number=st.integers(0, 3), junk=st.binary(max_size=200))
def test_bytes_that_are_another_frame_or_none_are_refused(number: int, junk: bytes) -> None:
    def alter(frame: pb.PeerFrame) -> pb.PeerFrame:
        other = parse_frame(junk)
        assume(other != frame)
        return other

    steps = [same, same, same, same]
    steps[number] = alter
    assert refused(lambda: handshake((steps[0], steps[1], steps[2], steps[3]))) in (
        Reason.MALFORMED,
        Reason.VERSION,
        Reason.SECRET,
    )


def test_frames_in_another_order_are_refused() -> None:
    two = Server(SECRET, TWO, role=pb.PEER_ROLE_METADATA, nonce=b"2" * NONCE_BYTES)
    for frame in (
        pb.PeerFrame(proof=pb.PeerProof(mac=b"m" * 32)),
        pb.PeerFrame(pieces=pb.PeerPieces()),
        pb.PeerFrame(),
    ):
        assert refused(lambda frame=frame: two.challenge(frame)) is Reason.MALFORMED  # type: ignore[misc]  # a lambda with a default


def test_the_opener_gets_no_other_broker_than_the_one_it_means() -> None:
    assert refused(lambda: handshake(wanted=3)) is Reason.WRONG_PEER
    claims = Server(SECRET, PeerIdentity(3, "d", b""), role=pb.PEER_ROLE_METADATA, nonce=b"2" * NONCE_BYTES)
    one = Opener(SECRET, ONE, wanted=3, role=pb.PEER_ROLE_METADATA, nonce=b"1" * NONCE_BYTES)
    two = Opener(SECRET, ONE, wanted=2, role=pb.PEER_ROLE_METADATA, nonce=b"1" * NONCE_BYTES)
    assert refused(lambda: two.prove(claims.challenge(one.hello()))) is Reason.WRONG_PEER


def test_a_broker_that_reaches_itself_is_refused() -> None:
    assert refused(lambda: handshake(opener=TWO)) is Reason.WRONG_PEER


# --- pieces --------------------------------------------------------------------------------------------


def joined(frames: list[bytes]) -> list[bytes]:
    joiner = Joiner(KEY)
    return [message for frame in frames for message in joiner.join(parse_frame(frame))]


@given(st.lists(st.binary(max_size=300), max_size=50))
def test_messages_come_out_as_they_went_in(messages: list[bytes]) -> None:
    assert joined(list(Cutter(KEY).cut(messages))) == messages


@pytest.mark.parametrize(
    "sizes",
    [
        [0],
        [0, 0, 1, 0],
        [FRAME_PAYLOAD_BYTES_MAX],
        [FRAME_PAYLOAD_BYTES_MAX - 1, 1, 0, 1],
        [FRAME_PAYLOAD_BYTES_MAX + 1, 5],
        [1, FRAME_PAYLOAD_BYTES_MAX, 1],
        [3, 5 * FRAME_PAYLOAD_BYTES_MAX, 0, 7],
        [0] * (FRAME_PIECES_MAX + 1),
        [1] * (3 * FRAME_PIECES_MAX),
    ],
    ids=lambda sizes: f"{len(sizes)} of {max(sizes)}",
)
def test_frames_keep_their_bounds_at_every_size(sizes: list[int]) -> None:
    messages = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    frames = list(Cutter(KEY).cut(messages))
    for frame in frames:
        pieces = parse_frame(frame).pieces.pieces
        assert len(frame) <= FRAME_BYTES_MAX
        assert 1 <= len(pieces) <= FRAME_PIECES_MAX
        assert sum(len(piece.payload) for piece in pieces) <= FRAME_PAYLOAD_BYTES_MAX
    assert joined(frames) == messages


def test_small_messages_share_a_frame() -> None:
    assert len(list(Cutter(KEY).cut([b"x" * 200] * 500))) == 1


@given(data=st.data(), messages=st.lists(st.binary(min_size=1, max_size=20), min_size=2, max_size=6))
def test_pieces_that_were_altered_repeated_swapped_or_left_out_are_refused(
    data: st.DataObject, messages: list[bytes]
) -> None:
    frame = parse_frame(next(Cutter(KEY).cut(messages)))
    pieces = list(frame.pieces.pieces)
    at = data.draw(st.integers(0, len(pieces) - 2))
    what = data.draw(st.sampled_from(["payload", "mac", "sequence", "flags", "again", "swap", "leave out"]))
    match what:
        case "payload":
            pieces[at].payload = data.draw(st.binary(max_size=20).filter(lambda b: b != pieces[at].payload))
        case "mac":
            pieces[at].mac = data.draw(st.binary(max_size=32).filter(lambda b: b != pieces[at].mac))
        case "sequence":
            pieces[at].sequence = data.draw(
                st.integers(0, (1 << 64) - 1).filter(lambda n: n != pieces[at].sequence)
            )
        case "flags":
            pieces[at].flags ^= data.draw(st.integers(1, (1 << 32) - 1))
        case "again":
            pieces.insert(at, pieces[at])
        case "swap":
            pieces[at], pieces[at + 1] = pieces[at + 1], pieces[at]
        case _:
            del pieces[at]
    joiner, got = Joiner(KEY), list[bytes]()

    def join() -> None:
        for message in joiner.join(pb.PeerFrame(pieces=pb.PeerPieces(pieces=pieces))):
            got.append(message)

    assert refused(join) is Reason.ALTERED
    assert got == messages[: at + (what == "again")], "all before it, and nothing after"


def test_pieces_of_another_stream_are_refused() -> None:
    frame = parse_frame(next(Cutter(b"o" * 32).cut([b"message"])))
    assert refused(lambda: list(Joiner(KEY).join(frame))) is Reason.ALTERED


def piece(sequence: int, payload: bytes, flags: int) -> pb.PeerFrame:
    """One that its peer has really made so."""
    mac = piece_mac(KEY, sequence, flags, payload)
    made = pb.PeerPiece(sequence=sequence, flags=flags, payload=payload, mac=mac)
    return pb.PeerFrame(pieces=pb.PeerPieces(pieces=[made]))


def test_a_message_is_bounded_while_it_is_put_together() -> None:
    joiner, part = Joiner(KEY), bytes(FRAME_PAYLOAD_BYTES_MAX)
    count = MESSAGE_BYTES_MAX // FRAME_PAYLOAD_BYTES_MAX
    for number in range(count):
        assert list(joiner.join(piece(number, part, 0))) == []
    assert refused(lambda: list(joiner.join(piece(count, b"1", 0)))) is Reason.TOO_LARGE


def test_a_proven_peer_too_is_held_to_the_form() -> None:
    assert refused(lambda: list(Joiner(KEY).join(piece(0, b"", 0)))) is Reason.MALFORMED
    assert refused(lambda: list(Joiner(KEY).join(piece(0, b"x", LAST | 2)))) is Reason.MALFORMED
    assert refused(lambda: list(Joiner(KEY).join(pb.PeerFrame(hello=pb.PeerHello())))) is Reason.MALFORMED
    many = pb.PeerFrame(pieces=pb.PeerPieces(pieces=[pb.PeerPiece()] * (FRAME_PIECES_MAX + 1)))
    assert refused(lambda: list(Joiner(KEY).join(many))) is Reason.MALFORMED
