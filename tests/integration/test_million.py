"""A million records, written and all read back, over a restart: the sizes that unit tests do not reach."""

from __future__ import annotations

from pathlib import Path

from millpond.wire.batch import decode_batch, encode_batch
from millpond.wire.compression import Codec
from millpond.wire.record import TopicPartition
from millpond_broker.storage.files import OsFiles
from millpond_broker.storage.group_commit import GroupCommit
from millpond_broker.storage.log import Log, LogOptions

RECORDS = 1_000_000
BATCH_RECORDS = 5_000
SYNC_EVERY_BATCHES = 10
FIRST_MS = 1_700_000_000_000


def value_of(offset: int) -> bytes:
    return b"record %d of a million" % offset


def test_a_million_records_are_all_read_back_in_order_also_after_a_restart(tmp_path: Path) -> None:
    options = LogOptions(segment_bytes=4 << 20)
    partition = TopicPartition("t", 0)
    log = Log.open(OsFiles(), tmp_path / "log", partition, options)
    group = GroupCommit(OsFiles(), tmp_path)
    for number, first in enumerate(range(0, RECORDS, BATCH_RECORDS)):
        offsets = range(first, first + BATCH_RECORDS)
        codec = (Codec.NONE, Codec.LZ4, Codec.ZSTD, Codec.GZIP)[number % 4]
        batch = encode_batch(
            list(map(value_of, offsets)), [FIRST_MS + offset for offset in offsets], codec=codec
        )
        assert log.append([batch], leader_epoch=0).base_offset == first
        if number % SYNC_EVERY_BATCHES == SYNC_EVERY_BATCHES - 1:
            pending = log.begin_sync()
            assert pending is not None
            for result in group.sync([pending]):
                result.settle()
    assert log.durable_end == RECORDS
    assert len(log.segments()) > 1
    log.abandon()

    log = Log.open(OsFiles(), tmp_path / "log", partition, options)
    assert log.recovery.cut_bytes == 0
    next_offset = 0
    while stored := log.read(next_offset, 1 << 20, log.log_end):
        for item in stored:
            decoded = decode_batch(item.batch)
            expected = range(next_offset, next_offset + len(decoded.values))
            assert list(decoded.offsets) == list(expected)
            assert decoded.values == list(map(value_of, expected))
            next_offset = expected.stop
    assert next_offset == RECORDS
    assert log.find_time(FIRST_MS + 765_432) == (765_432, FIRST_MS + 765_432)
    log.close(broker_epoch=0)
    group.close()
