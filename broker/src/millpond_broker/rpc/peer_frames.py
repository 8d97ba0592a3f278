"""Messages as pieces with a sequence number and a MAC each, and back. Sans-IO.

What was altered, repeated, left out or put in another order on the way is refused, and the link ends with it:
`Cutter` and `Joiner` count in step, from the first piece of a stream to its last.

On links between voters a message is bytes. On streams it is a parcel: a message, and bytes that belong to it
and travel behind it in pieces of their own, so that nothing has to copy them into a message and out of one.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator
from typing import Final

from google.protobuf.message import DecodeError

from millpond.v1.internal import peer_pb2 as pb
from millpond_broker.rpc.peer_handshake import LinkRefused, Reason

MESSAGE_BYTES_MAX: Final = 64 << 20
"""The largest message: a snapshot of the metadata, with room. What is being put together is never more."""
FRAME_PAYLOAD_BYTES_MAX: Final = 1 << 20
"""Of all pieces in a frame: a large message does not hold up its stream's flow control, or much memory."""
FRAME_PIECES_MAX: Final = 1024
"""Pieces in a frame: empty messages, too, cost memory."""
_PIECE_OVERHEAD_BYTES: Final = 64
FRAME_BYTES_MAX: Final = FRAME_PAYLOAD_BYTES_MAX + FRAME_PIECES_MAX * _PIECE_OVERHEAD_BYTES + 4096
"""The largest gRPC message of a link: pieces and what is around them, or a handshake's."""
STREAM_PAYLOAD_BYTES_MAX: Final = FRAME_PAYLOAD_BYTES_MAX + (64 << 10)
"""As above, on streams: a push of a MiB, what it says of itself and other messages fit whole."""
STREAM_FRAME_BYTES_MAX: Final = FRAME_BYTES_MAX + STREAM_PAYLOAD_BYTES_MAX - FRAME_PAYLOAD_BYTES_MAX
PIECE_MAC_BYTES: Final = 16
LAST: Final = 1
"""The flag of the last piece of a message."""
BODY: Final = 2
"""The flag of a piece of a parcel's body. It comes behind the message, and only on streams."""
_ONE_SHOT_BYTES_MAX: Final = 2047
"""Up to here a MAC is made in one call. For more, hashlib lets other threads run, and nothing is copied."""

_WIRE_BYTES: Final = 2
"""Protobuf's wire type of messages and bytes: a tag, a length, and that many bytes."""
_PIECES_TAG: Final = bytes([pb.PeerFrame.PIECES_FIELD_NUMBER << 3 | _WIRE_BYTES])
_PIECE_TAG: Final = bytes([pb.PeerPieces.PIECES_FIELD_NUMBER << 3 | _WIRE_BYTES])
_PAYLOAD_TAG: Final = bytes([pb.PeerPiece.PAYLOAD_FIELD_NUMBER << 3 | _WIRE_BYTES])

Parcel = tuple[bytes, bytes]
"""A message, and the bytes that belong to it; a message that has some is never empty."""


def parse_frame(data: bytes) -> pb.PeerFrame:
    """The frame that the bytes are. Raises LinkRefused."""
    try:
        return pb.PeerFrame.FromString(data)
    except DecodeError:
        raise LinkRefused(Reason.MALFORMED, "bytes that are no PeerFrame") from None


class Cutter:
    """Makes frames of the messages of one stream, in order."""

    def __init__(self, key: bytes, payload_bytes_max: int = FRAME_PAYLOAD_BYTES_MAX) -> None:
        self._key = key
        self._payload_bytes_max = payload_bytes_max
        """Of a frame."""
        self._sequence = 0
        # The frame that has been begun: what its bytes are joined of, but for its tag and length.
        self._parts: list[bytes] = []
        self._bytes = 0
        self._pieces = 0
        self._room = payload_bytes_max
        """For payload, in that frame."""

    def cut(self, messages: Iterable[bytes]) -> Iterator[bytes]:
        """Encoded frames that hold these messages, each frame as full as it may be, none held back."""
        for message in messages:
            assert len(message) <= MESSAGE_BYTES_MAX, "refused when it was sent"
            yield from self._cut(message, 0, LAST)
        yield from self._rest()

    def cut_parcels(self, parcels: Iterable[Parcel]) -> Iterator[bytes]:
        """The same for parcels."""
        for message, body in parcels:
            assert len(message) + len(body) <= MESSAGE_BYTES_MAX, "refused when it was sent"
            assert message or not body, "an empty piece could not be the first of several"
            if self._room < len(message) + len(body) <= self._payload_bytes_max:
                yield from self._rest()  # in one piece: each cut copies
            yield from self._cut(message, 0, 0 if body else LAST)
            if body:
                yield from self._cut(body, BODY, LAST)
        yield from self._rest()

    def _cut(self, data: bytes, flags: int, last: int) -> Iterator[bytes]:
        start = 0
        while True:
            if not self._room or self._pieces == FRAME_PIECES_MAX:
                yield from self._rest()
            end = min(start + self._room, len(data))
            self._add(data[start:end], flags | last if end == len(data) else flags)
            start = end
            if end == len(data):
                return

    def _rest(self) -> Iterator[bytes]:
        """The frame that has been begun, if one has."""
        if self._pieces:
            frame = b"".join((_PIECES_TAG, _varint(self._bytes), *self._parts))
            self._parts, self._bytes, self._pieces = [], 0, 0
            self._room = self._payload_bytes_max
            yield frame

    def _add(self, payload: bytes, flags: int) -> None:
        """As protobuf would encode it, whose own encoder copies a payload three or four times (1 MiB: 2.7 ms)
        where this copies it once.
        """
        mac = _mac(self._key, self._sequence, flags, payload)
        fields = pb.PeerPiece(sequence=self._sequence, flags=flags, mac=mac).SerializeToString()
        before = _PAYLOAD_TAG + _varint(len(payload))
        size = len(fields) + len(before) + len(payload)
        head = b"".join((_PIECE_TAG, _varint(size), fields, before))
        self._parts += (head, payload)
        self._bytes += len(head) + len(payload)
        self._pieces += 1
        self._room -= len(payload)
        self._sequence += 1


class Joiner:
    """Makes messages of the frames of one stream."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._sequence = 0
        self._parts: list[bytes] = []
        self._body: list[bytes] = []
        self._bytes = 0
        """Of both; at most MESSAGE_BYTES_MAX."""

    def join(self, frame: pb.PeerFrame) -> Iterator[bytes]:
        """The messages that this frame completes, one by one. Raises LinkRefused, and then is of no more use:
        the messages before were sound.
        """
        return (message for message, _ in self._join(frame, LAST))

    def join_parcels(self, frame: pb.PeerFrame) -> Iterator[Parcel]:
        """The same for parcels."""
        return self._join(frame, LAST | BODY)

    def _join(self, frame: pb.PeerFrame, known_flags: int) -> Iterator[Parcel]:
        if frame.WhichOneof("kind") != "pieces":
            raise LinkRefused(Reason.MALFORMED, "a frame that is of no use after the handshake")
        if len(frame.pieces.pieces) > FRAME_PIECES_MAX:
            raise LinkRefused(Reason.MALFORMED, f"{len(frame.pieces.pieces)} pieces in a frame")
        for piece in frame.pieces.pieces:
            payload = self._checked(piece, known_flags)
            self._bytes += len(payload)
            if self._bytes > MESSAGE_BYTES_MAX:
                raise LinkRefused(Reason.TOO_LARGE, f"a message of more than {MESSAGE_BYTES_MAX} bytes")
            (self._body if piece.flags & BODY else self._parts).append(payload)
            if piece.flags & LAST:
                parcel = _joined(self._parts), _joined(self._body)
                self._parts, self._body, self._bytes = [], [], 0
                yield parcel

    def _checked(self, piece: pb.PeerPiece, known_flags: int) -> bytes:
        payload = piece.payload
        if not hmac.compare_digest(piece.mac, _mac(self._key, piece.sequence, piece.flags, payload)):
            raise LinkRefused(Reason.ALTERED, "a piece whose MAC is wrong")
        if piece.sequence != self._sequence:
            raise LinkRefused(Reason.ALTERED, f"piece {piece.sequence} where {self._sequence} was due")
        if piece.flags & ~known_flags:
            raise LinkRefused(Reason.MALFORMED, f"unknown flags {piece.flags}")
        if not payload and (piece.flags & ~LAST or not piece.flags & LAST):
            # Such pieces would never add up to a message, nor to one that is too large.
            raise LinkRefused(Reason.MALFORMED, "an empty piece that is not the last")
        if piece.flags & BODY and not self._parts:
            raise LinkRefused(Reason.MALFORMED, "a body without a message")
        if self._body and not piece.flags & BODY:
            raise LinkRefused(Reason.MALFORMED, "more of a message behind its body")
        self._sequence += 1
        return payload


def _joined(parts: list[bytes]) -> bytes:
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _mac(key: bytes, sequence: int, flags: int, payload: bytes) -> bytes:
    head = sequence.to_bytes(8, "big") + flags.to_bytes(4, "big")
    if len(payload) <= _ONE_SHOT_BYTES_MAX:
        return hmac.digest(key, head + payload, "sha256")[:PIECE_MAC_BYTES]
    whole = hmac.new(key, head, "sha256")
    whole.update(payload)
    return whole.digest()[:PIECE_MAC_BYTES]


def _varint(number: int) -> bytes:
    """As protobuf writes numbers: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
