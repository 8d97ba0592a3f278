"""The 8 bytes in front of a stored batch: what they vouch for, and what they say of the durable
end.
"""

import struct

import pytest
from crc32c import crc32c

from millpond.wire.batch import encode_batch
from millpond.wire.errors import CorruptBatch
from millpond.wire.frame import (
    FRAME_BYTES,
    PREFIX_BYTES,
    SATURATED,
    Frame,
    check_frame,
    pack_frame,
)
from millpond.wire.header import CRC_START

HEADER = encode_batch([b"a", b"b"], 0).header._replace(base_offset=1_000, leader_epoch=5).pack()


def test_a_frame_is_a_checksum_and_the_distance_to_the_durable_end() -> None:
    frame = pack_frame(HEADER, 990, 1_000)
    assert frame.hex() == "22635eee0000000a"
    crc, behind = struct.unpack(">II", frame)
    assert behind == 10
    assert crc == crc32c(frame[4:] + HEADER[:CRC_START])
    assert (FRAME_BYTES, PREFIX_BYTES) == (8, 29)


def test_only_what_the_batch_leaves_bare_is_vouched_for() -> None:
    assert pack_frame(HEADER, 990, 1_000) == pack_frame(HEADER[:CRC_START], 990, 1_000)


def test_the_durable_end_comes_back_wherever_the_frame_stands() -> None:
    for durable_end in (0, 1, 990, 1_000):
        data = b"before" + pack_frame(HEADER, durable_end, 1_000) + HEADER
        for buffer in (data, memoryview(data)):
            frame = check_frame(buffer, 6)
            assert frame.behind == 1_000 - durable_end
            assert frame.durable_end(1_000) == durable_end


def test_a_distance_too_long_to_store_says_nothing() -> None:
    far = 1 << 40
    for distance, durable_end in ((SATURATED - 1, far - SATURATED + 1), (SATURATED, 0), (far, 0)):
        frame = check_frame(pack_frame(HEADER, far - distance, far) + HEADER, 0)
        assert frame.durable_end(far) == durable_end


def test_a_durable_end_is_never_negative() -> None:
    assert Frame(crc=0, behind=50).durable_end(20) == 0


def test_a_batch_is_never_framed_below_the_durable_end() -> None:
    with pytest.raises(AssertionError):
        pack_frame(HEADER, 1_001, 1_000)


def test_every_flipped_bit_of_frame_and_bare_header_is_seen() -> None:
    data = pack_frame(HEADER, 990, 1_000) + HEADER
    for bit in range(PREFIX_BYTES * 8):
        bad = bytearray(data)
        bad[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(CorruptBatch, match="frame checksum"):
            check_frame(bytes(bad), 0)


@pytest.mark.parametrize("size", [0, 8, PREFIX_BYTES - 1])
def test_fewer_bytes_than_frame_and_bare_header_are_corrupt(size: int) -> None:
    data = (pack_frame(HEADER, 990, 1_000) + HEADER)[:size]
    with pytest.raises(CorruptBatch, match=f"{size} bytes are no frame and header"):
        check_frame(data, 0)


def test_zeros_are_no_frame() -> None:
    """A file that grew and lost its sectors reads as zeros: those must not pass for a batch."""
    with pytest.raises(CorruptBatch):
        check_frame(bytes(100), 0)
