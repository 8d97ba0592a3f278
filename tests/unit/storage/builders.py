"""What the storage tests build with: small batches, tiny logs on a simulated disk, and a reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from millpond.wire.batch import ANONYMOUS, Batch, Producer, decode_batch, encode_batch
from millpond.wire.errors import CorruptBatch
from millpond.wire.frame import FRAME_BYTES, pack_frame
from millpond.wire.header import CRC_START, HEADER_BYTES
from millpond.wire.record import TopicPartition
from millpond_broker.storage.files import Files
from millpond_broker.storage.log import Log, LogOptions, PendingSync
from tests.sim.disk import SimFiles

DIRECTORY: Final = Path("/log")
PARTITION: Final = TopicPartition("orders", 0)
EPOCH: Final = 3
EVERYTHING: Final = 1 << 40
"""As `bytes_max` or `below`: no limit."""
STORED_BYTES: Final = FRAME_BYTES + HEADER_BYTES + 4 + 4
"""What a batch of one empty record takes in a segment: frame, header, body size, value length."""


class Seen(NamedTuple):
    """One record as it was read."""

    offset: int
    timestamp: int
    value: bytes | None


def disk(seed: int = 0, *, capacity_bytes: int | None = None) -> SimFiles:
    """An empty simulated disk."""
    return SimFiles(Random(seed), capacity_bytes=capacity_bytes)


def batch(*values: bytes, timestamp: int | Sequence[int] = 1000, producer: Producer = ANONYMOUS) -> Batch:
    """One batch of these values."""
    return encode_batch(values, timestamp, producer=producer)


def tiny(
    *,
    segment_bytes: int = 1 << 20,
    segment_ms: int | None = None,
    retention_ms: int | None = None,
    retention_bytes: int | None = None,
    index_interval_bytes: int = 1,
    sealed_segments_open_max: int = 8,
) -> LogOptions:
    """Options of a log that has an index entry for every batch, and rolls only if told to."""
    return LogOptions(
        segment_bytes=segment_bytes,
        segment_ms=segment_ms,
        retention_ms=retention_ms,
        retention_bytes=retention_bytes,
        index_interval_bytes=index_interval_bytes,
        sealed_segments_open_max=sealed_segments_open_max,
    )


def open_log(files: Files, options: LogOptions | None = None) -> Log:
    """The log in `DIRECTORY`, which is made if missing."""
    return Log.open(files, DIRECTORY, PARTITION, options or tiny())


@contextmanager
def opened(files: Files, options: LogOptions | None = None) -> Iterator[Log]:
    """The log, abandoned at the end as a crash would."""
    log = open_log(files, options)
    try:
        yield log
    finally:
        log.abandon()


def per_segment(batches: int, value_bytes: int) -> LogOptions:
    """Options of a log that rolls after so many batches of one record of that size."""
    return tiny(segment_bytes=batches * (STORED_BYTES + value_bytes))


def value(offset: int) -> bytes:
    """Eight bytes that tell their offset."""
    return b"v%07d" % offset


VALUE_BYTES: Final = len(value(0))


def fill(log: Log, count: int, *, timestamp: int | None = None, epoch: int = EPOCH) -> list[Seen]:
    """Append so many batches of one record, of `value` and, by default, of time 1000 + offset."""
    added = []
    for offset in range(log.log_end, log.log_end + count):
        at = 1000 + offset if timestamp is None else timestamp
        appended = log.append([batch(value(offset), timestamp=at)], epoch)
        assert appended == (offset, offset + 1)
        added.append(Seen(offset, at, value(offset)))
    return added


def expected(start: int, end: int) -> list[Seen]:
    """What `fill` puts at these offsets."""
    return [Seen(offset, 1000 + offset, value(offset)) for offset in range(start, end)]


def begun(log: Log) -> PendingSync:
    """A sync that the log wants."""
    pending = log.begin_sync()
    assert pending is not None, "there is something to sync"
    return pending


def sync(log: Log) -> None:
    """Make everything appended durable, as a group commit would."""
    pending = begun(log)
    pending.file.sync()
    log.confirm(pending)


def fail_sync(files: SimFiles, log: Log) -> None:
    """Let the sync of the last segment fail, and tell the log."""
    files.fail_next_sync(last_segment(log))
    pending = begun(log)
    try:
        pending.file.sync()
    except OSError as error:
        log.sync_failed(pending, error)
    else:
        raise AssertionError("the sync was to fail")


def last_segment(log: Log) -> Path:
    """Path of the segment that takes appends."""
    return segment_path(log.segments()[-1].base_offset)


def segment_path(base_offset: int, suffix: str = ".log") -> Path:
    """Path of a segment's file."""
    return DIRECTORY / f"{base_offset:020d}{suffix}"


def read(log: Log, offset: int, bytes_max: int = EVERYTHING, below: int = EVERYTHING) -> list[Seen]:
    """One answer of `Log.read`, unpacked; it may begin before `offset`."""
    seen: list[Seen] = []
    for stored in log.read(offset, bytes_max, below):
        decoded = decode_batch(stored.batch)
        seen += map(Seen._make, zip(decoded.offsets, decoded.timestamps, decoded.values, strict=True))
    return seen


def contents(log: Log) -> list[Seen]:
    """Every record from log start to log end, read in small steps. Raises as `Log.read`."""
    seen: list[Seen] = []
    offset = log.log_start
    while offset < log.log_end:
        step = [record for record in read(log, offset, 1) if record.offset >= offset]
        assert step, f"nothing at {offset}, below the log end {log.log_end}"
        seen += step
        offset = step[-1].offset + 1
    return seen


def sound_contents(log: Log) -> tuple[list[Seen], CorruptBatch | None]:
    """Every record that can be read, and the CorruptBatch that ended it, if one did."""
    seen: list[Seen] = []
    offset = log.log_start
    while True:
        try:
            step = [record for record in read(log, offset, 1) if record.offset >= offset]
        except CorruptBatch as error:
            return seen, error
        if not step:
            return seen, None
        seen += step
        offset = step[-1].offset + 1


def placed(one: Batch, offset: int, durable_end: int = 0, epoch: int = EPOCH) -> bytes:
    """The bytes of a batch as a segment stores it: framed, at its offset."""
    header = one.header._replace(base_offset=offset, leader_epoch=epoch).pack()
    return pack_frame(header, durable_end, offset) + header[:CRC_START] + one.data[CRC_START:]


def put(files: Files, path: Path, data: bytes, position: int = 0) -> None:
    """Write and sync bytes to a file, made if missing, from outside."""
    missing = not files.exists(path)
    file = files.open(path, create=missing)
    file.write_at(position, [data])
    file.sync()
    file.close()
    if missing:
        files.sync_directory(path.parent)


def get(files: Files, path: Path) -> bytes:
    """All bytes of a file."""
    file = files.open(path)
    data = file.read_at(0, file.size())
    file.close()
    return data


def everything(files: Files, directory: Path = DIRECTORY) -> dict[str, bytes]:
    """Every file of a directory, for saying that nothing was touched."""
    return {name: get(files, directory / name) for name in sorted(files.list(directory))}
