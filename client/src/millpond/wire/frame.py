"""The 8 bytes that a replica writes in front of each stored batch.

A checksum over what the batch's own leaves bare (header bytes 0 to 20: a flipped epoch would misdirect
truncation, a flipped magic the decoder), then how far behind the batch this replica's durable end was when
it wrote it. The second tells torn from corrupt: a bad batch below a durable end that a later sound frame
saw was once durable, so what is there now is damage and not an unfinished write.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from crc32c import crc32c

from millpond.wire.errors import CorruptBatch
from millpond.wire.header import CRC_START

_LAYOUT: Final = struct.Struct(">II")
FRAME_BYTES: Final = _LAYOUT.size
PREFIX_BYTES: Final = FRAME_BYTES + CRC_START
"""What the frame's checksum vouches for, itself included: enough to know a batch's place and length."""
SATURATED: Final = 0xFFFF_FFFF
"""A distance too long to store: it says nothing."""


class Frame(NamedTuple):
    """`behind`: base_offset - durable_end of the replica that wrote it, at that moment; may be SATURATED."""

    crc: int
    behind: int

    def durable_end(self, base_offset: int) -> int:
        """The durable end that was known when the batch at `base_offset` was written; 0 if not stored."""
        return 0 if self.behind == SATURATED else max(0, base_offset - self.behind)


def pack_frame(header_bytes: bytes, durable_end: int, base_offset: int) -> bytes:
    """The frame of the batch whose first 21 header bytes are `header_bytes`, as they will be stored."""
    assert durable_end <= base_offset, "a batch is appended at or past what is durable"
    behind = struct.pack(">I", min(base_offset - durable_end, SATURATED))
    return struct.pack(">I", crc32c(header_bytes[:CRC_START], crc32c(behind))) + behind


def check_frame(data: bytes | memoryview, at: int) -> Frame:
    """The frame at `at`. Raises CorruptBatch unless its checksum holds over the 25 bytes that follow it."""
    if len(data) - at < PREFIX_BYTES:
        raise CorruptBatch(reason=f"{len(data) - at} bytes are no frame and header")
    frame = Frame._make(_LAYOUT.unpack_from(data, at))
    if crc32c(data[at + 4 : at + PREFIX_BYTES]) != frame.crc:
        raise CorruptBatch(reason="frame checksum")
    return frame
