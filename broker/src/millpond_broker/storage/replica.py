"""What a leader pushes, taken apart and verified before anything of it is believed (rule 15).

A push is the leader's bytes: whole batches, each behind the leader's frame. Here both checksums of each are
held against it, and its bounds are told, by which `core.follower` decides whether it belongs at the end of
the log; `Log.append_replica` then writes the batches as they are, behind frames of its own. Their bytes stay
one object all the way.
"""

from __future__ import annotations

from typing import NamedTuple

from crc32c import crc32c

from millpond.wire.errors import CorruptBatch
from millpond.wire.frame import FRAME_BYTES, check_frame, pack_frame
from millpond.wire.header import CRC_START, HEADER_BYTES, BatchHeader, check_header, parse_header
from millpond_broker.core.replication import Batches
from millpond_broker.storage.files import Buffer


class PushedBatches(NamedTuple):
    """The batches of one push, at least one, each sound; offsets only grow, and epochs do not go back.

    `views` are the batches without the leader's frames, `size_bytes` their length with ours.
    """

    bounds: Batches
    headers: tuple[BatchHeader, ...]
    views: tuple[memoryview, ...]
    size_bytes: int
    has_gaps: bool
    """Whether offsets are missing between them, because compaction took them out."""

    def framed(self, durable_end: int) -> list[Buffer]:
        """What is written: each batch behind the frame of a replica whose log is durable up to there."""
        buffers: list[Buffer] = []
        for header, view in zip(self.headers, self.views, strict=True):
            buffers += (pack_frame(bytes(view[:CRC_START]), durable_end, header.base_offset), view)
        return buffers


def parse_push(data: bytes | memoryview) -> PushedBatches:
    """The batches that `data` is, verified one by one (rule 15). Nothing is copied.

    Raises CorruptBatch unless it is whole batches, in order, whose checksums hold; UnsupportedFormat for one
    that is sound, but of a later version.
    """
    whole = memoryview(data)
    headers: list[BatchHeader] = []
    views: list[memoryview] = []
    position = next_offset = epoch = 0
    has_gaps = False
    while position < len(whole):
        header, view = _batch_at(whole, position)
        if header.base_offset < next_offset or header.leader_epoch < epoch:
            where = f"{header.base_offset} of epoch {header.leader_epoch}"
            raise CorruptBatch(reason=f"offset {where} after {next_offset} of epoch {epoch} in a push")
        has_gaps |= bool(headers) and header.base_offset > next_offset
        headers.append(header)
        views.append(view)
        next_offset, epoch = header.next_offset, header.leader_epoch
        position += FRAME_BYTES + header.size_bytes
    if not headers:
        raise CorruptBatch(reason="a push of no batch")
    bounds = Batches(headers[0].base_offset, next_offset, headers[0].leader_epoch, epoch)
    return PushedBatches(bounds, tuple(headers), tuple(views), position, has_gaps)


def _batch_at(whole: memoryview, position: int) -> tuple[BatchHeader, memoryview]:
    """The batch whose frame stands at `position`. The frame vouches for the header's first bytes, its length
    among them, the batch's own checksum for the rest.
    """
    check_frame(whole, position)
    header = parse_header(whole, position + FRAME_BYTES)
    view = whole[position + FRAME_BYTES : position + FRAME_BYTES + header.size_bytes]
    if not HEADER_BYTES <= header.size_bytes == len(view):
        raise CorruptBatch(reason=f"a batch of {header.size_bytes} bytes in {len(view)} of a push")
    if crc32c(view[CRC_START:]) != header.crc:
        raise CorruptBatch(reason="checksum of a batch in a push")
    check_header(header)
    return header, view
