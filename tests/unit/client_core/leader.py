"""A leader as the fetch protocol describes it: a log in memory, subscriptions, and credit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from millpond._core.cluster import BrokerView, ClusterUpdate, ClusterView, PartitionView, TopicView
from millpond._core.session import FetchAsk, FetchedPart
from millpond.wire.batch import Batch, encode_batch, seal
from millpond.wire.compression import Codec
from millpond.wire.errors import MillpondError, NotLeader, OffsetOutOfRange
from millpond.wire.header import HEADER_BYTES

TOPIC_ID = b"t" * 16


def placed(values: Sequence[bytes | None], base_offset: int, codec: Codec = Codec.NONE) -> Batch:
    """A batch as a leader stores it."""
    batch = encode_batch(values, 1000 + base_offset, codec=codec)
    header = batch.header._replace(base_offset=base_offset, leader_epoch=0)
    return seal(header, bytes(batch.data)[HEADER_BYTES:])


@dataclass
class Log:
    """One partition: its batches, and where it begins."""

    batches: list[Batch] = field(default_factory=list)
    log_start: int = 0
    log_end: int = 0

    def append(self, *values: bytes) -> None:
        self.batches.append(placed(values, self.log_end))
        self.log_end += len(values)

    def trim(self, before: int) -> None:
        self.log_start = max(self.log_start, before)
        self.batches = [batch for batch in self.batches if batch.header.next_offset > self.log_start]


class Leader:
    """One fetch stream's far end. `respond` sends as much as credit allows."""

    def __init__(self, logs: dict[int, Log], credit_max: int = 1 << 60) -> None:
        self.logs = logs
        self.credit_max = credit_max
        """What is granted beyond it is forgotten."""
        self.credit = 0
        self.fresh = False
        """Nothing was sent against the last grant yet: one batch of any size may be."""
        self.places: dict[int, tuple[int, int]] = {}
        self.used: set[int] = set()
        self.refused: list[FetchedPart] = []
        self.pong = 0

    def take(self, ask: FetchAsk) -> None:
        if ask.credit_bytes:
            self.credit = min(self.credit + ask.credit_bytes, self.credit_max)
            self.fresh = True
        for handle in ask.stop:
            self.places.pop(handle, None)
        for start in ask.start:
            assert start.handle not in self.used, "handles are never used again"
            assert start.topic_id == TOPIC_ID
            self.used.add(start.handle)
            error = self._refusal(start.partition, start.offset)
            if error is None:
                self.places[start.handle] = start.partition, start.offset
            else:
                self.refused.append(FetchedPart(start.handle, b"", 0, 0, error))
        self.pong = ask.ping or self.pong

    def _refusal(self, partition: int, offset: int) -> MillpondError | None:
        log = self.logs.get(partition)
        if log is None:
            return NotLeader(topic="t", partition=partition)
        if log.log_start <= offset <= log.log_end:
            return None
        return OffsetOutOfRange(
            topic="t", partition=partition, offset=offset, log_start=log.log_start, log_end=log.log_end
        )

    def respond(self, batches_max: int = 1000) -> list[FetchedPart]:
        parts, self.refused = self.refused, []
        for handle, (partition, begin) in list(self.places.items()):
            offset = begin
            log = self.logs[partition]
            data = b""
            for batch in log.batches:
                if batch.header.next_offset <= offset or batches_max == 0:
                    continue
                if len(batch.data) > self.credit and not self.fresh:
                    break
                batches_max -= 1
                self.credit -= len(batch.data)
                self.fresh = False
                data += bytes(batch.data)
                offset = batch.header.next_offset
            self.places[handle] = partition, offset
            if data:
                parts.append(FetchedPart(handle, data, log.log_end, log.log_start, None))
        return parts


def cluster(*leaders: int | None, version: int = 1, epoch: int = 0) -> ClusterView:
    """A view of topic "t", a leader for each partition."""
    partitions = tuple(PartitionView(n, leader, epoch, 0, (1,), (1,), ()) for n, leader in enumerate(leaders))
    topic = TopicView("t", TOPIC_ID, partitions, 1, 1, {})
    numbers = sorted({leader for leader in leaders if leader is not None})
    brokers = tuple(BrokerView(n, f"b{n}:1", "", "running", 1, "1") for n in numbers)
    return ClusterView().updated(ClusterUpdate(True, b"c" * 16, version, 1, brokers, (topic,), (), 1 << 22))
