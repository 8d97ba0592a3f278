"""The path of one batch, step by step, in microseconds: `python -m tests.bench path`.

The steps are the product's own functions, in the order of ARCHITECTURE.md's "The path of one batch", on a
leader's and a follower's log in this process. What lies between them, gRPC and the event loop, is not in
here: section `streams` has it, and `replicated` the whole.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from millpond.v1 import produce_pb2
from millpond.wire.batch import decode_batch, encode_batch, parse_batch
from millpond.wire.record import TopicPartition
from millpond_broker.core.replication import Acknowledgement, Push
from millpond_broker.rpc.replication_codec import decode, encode
from millpond_broker.runtime.replication_messages import Acknowledged, Pushed
from millpond_broker.storage.files import OsFiles
from millpond_broker.storage.group_commit import GroupCommit
from millpond_broker.storage.log import Log, LogOptions
from millpond_broker.storage.replica import parse_push
from tests.bench.serving import Row, row, values

BATCHES = 400
RECORDS = 1000
TOPIC_ID = bytes(16)
PARTITION = TopicPartition("t", 0)
FILES = OsFiles()


class Replicas:
    """Two replicas of a partition, and how long each step took, by its name."""

    def __init__(self, place: Path) -> None:
        options = LogOptions(segment_bytes=1 << 30)
        self.leader = Log.open(FILES, place / "leader", PARTITION, options)
        self.follower = Log.open(FILES, place / "follower", PARTITION, options)
        self.syncs = GroupCommit(FILES, place)
        self.steps: dict[str, list[float]] = {}

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        """Do it, and note its microseconds."""
        began = time.perf_counter()
        result = work()
        self.steps.setdefault(name, []).append((time.perf_counter() - began) * 1e6)
        return result

    def sync(self, log: Log) -> None:
        """Make it durable, as the syncer does."""
        pending = log.begin_sync()
        assert pending is not None
        for result in self.syncs.sync([pending]):
            result.settle()

    def one(self, columns: list[bytes]) -> None:
        """One batch, from the producer's columns to a reader's records."""
        made = self.step("producer: encode", lambda: encode_batch(columns, 1))
        request = produce_pb2.ProduceRequest(
            batches=[produce_pb2.ProduceBatch(id=1, topic_id=TOPIC_ID, partition=0, batch=made.data)]
        )
        sent = self.step("producer: message to bytes", request.SerializeToString)
        heard = self.step("leader: bytes to message", lambda: produce_pb2.ProduceRequest.FromString(sent))
        data = heard.batches[0].batch
        batch = self.step("leader: header and checksum", lambda: parse_batch(data))
        appended = self.step("leader: append", lambda: self.leader.append([batch], 0))
        framed = self.step(
            "leader: read for a push",
            lambda: self.leader.read_framed(appended.base_offset, 1 << 20, self.leader.log_end),
        )
        push = Pushed(TOPIC_ID, 0, Push(0, 1, appended.base_offset, appended.base_offset, 0), framed.data)
        head, body = self.step("leader: push to bytes", lambda: encode(push))
        pushed = self.step("follower: bytes to push", lambda: decode(head, body))
        batches = self.step("follower: frames and checksums", lambda: parse_push(pushed.data))
        self.step("follower: append", lambda: self.follower.append_replica(batches))
        self.step("leader: sync", lambda: self.sync(self.leader))
        self.step("follower: sync", lambda: self.sync(self.follower))
        end = self.follower.log_end
        said = Acknowledged(TOPIC_ID, 0, Acknowledgement(0, 1, end, end))
        self.step("acknowledgement there and back", lambda: decode(*encode(said)))
        result = produce_pb2.ProduceResponse(
            results=[produce_pb2.ProduceResult(id=1, base_offset=appended.base_offset)]
        )
        self.step(
            "answer there and back",
            lambda: produce_pb2.ProduceResponse.FromString(result.SerializeToString()),
        )
        read = self.step("reader: read stored", lambda: self.leader.read(appended.base_offset, 1 << 20, end))
        parsed = self.step("reader: header and checksum", lambda: parse_batch(bytes(read[0].batch.data)))
        assert len(self.step("reader: decode into columns", lambda: decode_batch(parsed)).values) == RECORDS


def path() -> Iterator[Row]:
    """One batch of 1,000 records of 100 B, step by step; the syncs of leader and follower overlap in life."""
    columns = values(RECORDS)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as directory:
        found = Replicas(Path(directory))
        for _ in range(BATCHES):
            found.one(columns)
        found.syncs.close()
        found.leader.abandon()
        found.follower.abandon()
    for name, took in found.steps.items():
        yield row(name, "us", took)
    medians = {name: statistics.median(took) for name, took in found.steps.items()}
    yield row("all of it but the syncs", "us", [sum(medians[name] for name in medians if "sync" not in name)])
