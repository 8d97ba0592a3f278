"""A broker of scripted behaviour behind a real gRPC server: for what a sound broker never does.

Serves the topic "t" from logs in memory. It can stall, break its streams, vanish and come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from millpond._core.session import FetchAsk, FetchFrom
from millpond._local.ports import free_ports
from millpond.v1 import admin_pb2, errors_pb2, fetch_pb2, metadata_pb2, offsets_pb2
from millpond.wire.errors import MillpondError, TopicExists
from tests.unit.client_core.leader import TOPIC_ID, Leader, Log


def detail_of(error: MillpondError) -> errors_pb2.ErrorDetail:
    facts = {name: str(value) for name, value in error.facts().items() if value is not None}
    return errors_pb2.ErrorDetail(code=error.number, message=str(error), facts=facts)  # type: ignore[arg-type]  # open


async def _refuse(context: Any, error: MillpondError) -> None:
    metadata = (("millpond-error-bin", detail_of(error).SerializeToString()),)
    await context.abort(grpc.StatusCode[error.status], "refused", metadata)


class ScriptedBroker:
    """Broker 1, leader of every partition that has a log."""

    def __init__(self, *, partitions: int = 1, host: str = "127.0.0.1") -> None:
        self.host = host
        self.logs = {partition: Log() for partition in range(partitions)}
        self.version = 1
        self.topics = True
        """Whether topic "t" exists."""
        self.stalled = False
        """Takes everything and answers nothing."""
        self.slow_s = 0.0
        """What it takes to describe a topic that may be there."""
        self.others: list[metadata_pb2.Broker] = []
        """Of its cluster, as it says."""
        self.cluster_id = b"c" * 16
        self.told_by = 0
        """Who it says to be; 0: it is too old to say."""
        self.unheard_ms = 0
        """For how long it has heard of no controller; out of touch after 3,000."""
        self.leaders: dict[int, int] = {}
        """Who leads which partition, as it says; 1, where nothing is said."""
        self.refuses_offsets: MillpondError | None = None
        """What it answers to who asks for the ends of logs."""
        self.stalls_offsets = False
        """Never answers that."""
        self.refuses: MillpondError | None = None
        """What it answers to who asks it to describe anything, or begins to watch."""
        self.described: list[str] = []
        """What it was asked to describe."""
        self.idle_ms = 0
        """How often it says to give a sign of life on a watch; 0: never."""
        (self.port,) = free_ports(1)
        self.streams = 0
        """Fetch streams now open."""
        self.streams_ever = 0
        self.client_ids: set[str] = set()
        self._changed = asyncio.Event()
        self._broken = asyncio.Event()
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handlers: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {
            "MetadataService": {
                "Describe": grpc.unary_unary_rpc_method_handler(
                    self._describe,
                    metadata_pb2.DescribeRequest.FromString,
                    metadata_pb2.ClusterMetadata.SerializeToString,
                ),
                "Watch": grpc.unary_stream_rpc_method_handler(
                    self._watch,
                    metadata_pb2.WatchRequest.FromString,
                    metadata_pb2.MetadataUpdate.SerializeToString,
                ),
            },
            "AdminService": {
                "CreateTopic": grpc.unary_unary_rpc_method_handler(
                    self._create_topic,
                    admin_pb2.CreateTopicRequest.FromString,
                    admin_pb2.TopicResponse.SerializeToString,
                )
            },
            "FetchService": {
                "Fetch": grpc.stream_stream_rpc_method_handler(
                    self._fetch,
                    fetch_pb2.FetchRequest.FromString,
                    fetch_pb2.FetchResponse.SerializeToString,
                )
            },
            "OffsetService": {
                "ListOffsets": grpc.unary_unary_rpc_method_handler(
                    self._list_offsets,
                    offsets_pb2.ListOffsetsRequest.FromString,
                    offsets_pb2.ListOffsetsResponse.SerializeToString,
                )
            },
        }
        self._server.add_generic_rpc_handlers(
            tuple(
                grpc.method_handlers_generic_handler(f"millpond.v1.{service}", methods)
                for service, methods in handlers.items()
            )
        )
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    def changed(self) -> None:
        """Tell the streams that there is something new."""
        self._changed.set()
        self._changed = asyncio.Event()

    def append(self, partition: int, *values: bytes) -> None:
        self.logs[partition].append(*values)
        self.changed()

    def add_partition(self) -> None:
        self.logs[len(self.logs)] = Log()
        self.version += 1
        self.changed()

    def delete_topic(self) -> None:
        self.topics = False
        self.version += 1
        self.changed()

    def break_streams(self) -> None:
        """End every fetch stream with an error."""
        self._broken.set()
        self._broken = asyncio.Event()

    def _metadata(self) -> metadata_pb2.ClusterMetadata:
        partitions = [
            metadata_pb2.Partition(
                partition=partition, leader=self.leaders.get(partition, 1), replicas=[1], isr=[1]
            )
            for partition in self.logs
        ]
        topic = metadata_pb2.Topic(
            name="t", topic_id=TOPIC_ID, partitions=partitions, replicas=1, min_insync=1
        )
        broker = metadata_pb2.Broker(id=1, address=self.address, state=metadata_pb2.BROKER_STATE_RUNNING)
        return metadata_pb2.ClusterMetadata(
            cluster_id=self.cluster_id,
            version=self.version,
            controller_id=1,
            brokers=[broker, *self.others],
            topics=[topic] if self.topics else [],
            batch_bytes_max=4 << 20,
            told_by=self.told_by,
            unheard_ms=self.unheard_ms,
            out_of_touch=self.unheard_ms > 3_000,
        )

    async def _describe(
        self, request: metadata_pb2.DescribeRequest, context: Any
    ) -> metadata_pb2.ClusterMetadata:
        if self.stalled:
            await asyncio.sleep(3600)
        self.described += request.topics
        if self.refuses is not None:
            await _refuse(context, self.refuses)
        if "." not in request.topics:
            await asyncio.sleep(self.slow_s)
        answer = self._metadata()
        if request.topics and "t" not in request.topics:
            del answer.topics[:]
        return answer

    async def _create_topic(
        self, request: admin_pb2.CreateTopicRequest, context: Any
    ) -> admin_pb2.TopicResponse:
        """Does it, and the answer is lost; a repetition finds the topic there."""
        if self.topics:
            exists = detail_of(TopicExists(topic=request.name)).SerializeToString()
            metadata = (("millpond-error-bin", exists),)
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "exists", metadata)
        self.topics = True
        self.version += 1
        self.changed()
        return await context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset by peer")  # type: ignore[no-any-return]  # it raises

    async def _watch(self, _: Any, context: Any) -> AsyncIterator[metadata_pb2.MetadataUpdate]:
        if self.refuses is not None:
            await _refuse(context, self.refuses)
        self.client_ids |= {
            str(value) for key, value in context.invocation_metadata() if key == "millpond-client-id"
        }
        version = -1
        while True:
            changed = self._changed
            if not self.stalled and version != self.version:
                removed = [] if self.topics else [TOPIC_ID]
                version = self.version  # before it is sent: it may change meanwhile
                yield metadata_pb2.MetadataUpdate(
                    changed=self._metadata(), removed_topic_ids=removed, idle_ms=self.idle_ms
                )
            try:
                async with asyncio.timeout(self.idle_ms / 1000 or None):
                    await changed.wait()
            except TimeoutError:
                if not self.stalled:
                    yield metadata_pb2.MetadataUpdate()

    async def _list_offsets(
        self, request: offsets_pb2.ListOffsetsRequest, context: Any
    ) -> offsets_pb2.ListOffsetsResponse:
        if self.stalls_offsets:
            await asyncio.sleep(3600)
        if self.refuses_offsets is not None:
            await _refuse(context, self.refuses_offsets)
        logs = [self.logs[query.partition] for query in request.queries]
        return offsets_pb2.ListOffsetsResponse(
            offsets=[
                offsets_pb2.PartitionOffsets(
                    log_start=log.log_start, high_watermark=log.log_end, log_end=log.log_end
                )
                for log in logs
            ]
        )

    async def _fetch(self, requests: AsyncIterator[fetch_pb2.FetchRequest], context: Any) -> None:
        leader = Leader(self.logs)
        self.streams += 1
        self.streams_ever += 1
        broken = self._broken
        try:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(self._take(requests, leader))
                writing = group.create_task(self._push(context, leader))
                breaking = group.create_task(broken.wait())
                await asyncio.wait((reading, breaking), return_when=asyncio.FIRST_COMPLETED)
                writing.cancel()
                if not breaking.done():
                    breaking.cancel()
                elif not reading.done():
                    reading.cancel()
        finally:
            self.streams -= 1
        if broken.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "broken on purpose")

    async def _take(self, requests: AsyncIterator[fetch_pb2.FetchRequest], leader: Leader) -> None:
        async for request in requests:
            starts = tuple(
                FetchFrom(start.handle, start.topic_id, start.partition, start.offset)
                for start in request.start
            )
            leader.take(FetchAsk(request.credit_bytes, starts, tuple(request.stop), request.ping))
            self.changed()

    async def _push(self, context: Any, leader: Leader) -> None:
        while True:
            changed = self._changed
            pong, leader.pong = leader.pong, 0
            fetched = [] if self.stalled else leader.respond()
            if (fetched or pong) and not self.stalled:
                await context.write(
                    fetch_pb2.FetchResponse(
                        fetched=[
                            fetch_pb2.Fetched(
                                handle=part.handle,
                                batches=part.batches,
                                high_watermark=part.high_watermark,
                                log_start=part.log_start,
                                error=None if part.error is None else detail_of(part.error),
                            )
                            for part in fetched
                        ],
                        pong=pong,
                    )
                )
            await changed.wait()
