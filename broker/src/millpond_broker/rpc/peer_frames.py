"""Messages as pieces with a sequence number and a MAC each, and back. Sans-IO.

What was altered, repeated, left out or put in another order on the way is refused, and the link ends with it:
`Cutter` and `Joiner` count in step, from the first piece of a stream to its last.
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
PIECE_MAC_BYTES: Final = 16
LAST: Final = 1
"""The flag of the last piece of a message; there is no other yet."""


def parse_frame(data: bytes) -> pb.PeerFrame:
    """The frame that the bytes are. Raises LinkRefused."""
    try:
        return pb.PeerFrame.FromString(data)
    except DecodeError:
        raise LinkRefused(Reason.MALFORMED, "bytes that are no PeerFrame") from None


class Cutter:
    """Makes frames of the messages of one stream, in order."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._sequence = 0

    def cut(self, messages: Iterable[bytes]) -> Iterator[bytes]:
        """Encoded frames that hold these messages, each frame as full as it may be, none held back."""
        frame, room = pb.PeerFrame(), FRAME_PAYLOAD_BYTES_MAX
        for message in messages:
            assert len(message) <= MESSAGE_BYTES_MAX, "refused when it was sent"
            start = 0
            while True:
                if not room or len(frame.pieces.pieces) == FRAME_PIECES_MAX:
                    yield frame.SerializeToString()
                    frame, room = pb.PeerFrame(), FRAME_PAYLOAD_BYTES_MAX
                end = min(start + room, len(message))
                self._add(frame.pieces, message[start:end], LAST if end == len(message) else 0)
                room -= end - start
                start = end
                if end == len(message):
                    break
        if frame.pieces.pieces:
            yield frame.SerializeToString()

    def _add(self, pieces: pb.PeerPieces, payload: bytes, flags: int) -> None:
        mac = _mac(self._key, self._sequence, flags, payload)
        pieces.pieces.add(sequence=self._sequence, flags=flags, payload=payload, mac=mac)
        self._sequence += 1


class Joiner:
    """Makes messages of the frames of one stream."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._sequence = 0
        self._parts: list[bytes] = []
        self._bytes = 0
        """Of `_parts`; at most MESSAGE_BYTES_MAX."""

    def join(self, frame: pb.PeerFrame) -> Iterator[bytes]:
        """The messages that this frame completes, one by one. Raises LinkRefused, and then is of no more use:
        the messages before were sound.
        """
        if frame.WhichOneof("kind") != "pieces":
            raise LinkRefused(Reason.MALFORMED, "a frame that is of no use after the handshake")
        if len(frame.pieces.pieces) > FRAME_PIECES_MAX:
            raise LinkRefused(Reason.MALFORMED, f"{len(frame.pieces.pieces)} pieces in a frame")
        for piece in frame.pieces.pieces:
            payload = self._checked(piece)
            self._bytes += len(payload)
            if self._bytes > MESSAGE_BYTES_MAX:
                raise LinkRefused(Reason.TOO_LARGE, f"a message of more than {MESSAGE_BYTES_MAX} bytes")
            self._parts.append(payload)
            if piece.flags & LAST:
                message = b"".join(self._parts) if len(self._parts) > 1 else payload
                self._parts, self._bytes = [], 0
                yield message

    def _checked(self, piece: pb.PeerPiece) -> bytes:
        payload = piece.payload
        if not hmac.compare_digest(piece.mac, _mac(self._key, piece.sequence, piece.flags, payload)):
            raise LinkRefused(Reason.ALTERED, "a piece whose MAC is wrong")
        if piece.sequence != self._sequence:
            raise LinkRefused(Reason.ALTERED, f"piece {piece.sequence} where {self._sequence} was due")
        if piece.flags & ~LAST:
            raise LinkRefused(Reason.MALFORMED, f"unknown flags {piece.flags}")
        if not payload and not piece.flags & LAST:
            # Such pieces would never add up to a message, nor to one that is too large.
            raise LinkRefused(Reason.MALFORMED, "an empty piece that is not the last")
        self._sequence += 1
        return payload


def _mac(key: bytes, sequence: int, flags: int, payload: bytes) -> bytes:
    head = sequence.to_bytes(8, "big") + flags.to_bytes(4, "big")
    return hmac.digest(key, head + payload, "sha256")[:PIECE_MAC_BYTES]
