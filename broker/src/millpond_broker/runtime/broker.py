"""A broker: starts, serves streams and questions while it runs, and stops without losing an answer.

What `rpc` calls is here. A broker that is not running yet, or not any more, refuses everything with
BrokerNotReady, which clients retry; it is registered in the metadata under a new broker epoch at every start
(rule 12), and every log is closed under that epoch when it stops.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol, TypeVar

from millpond.wire.errors import BrokerNotReady, MillpondError
from millpond_broker.consensus.metadata_log import MetadataLog
from millpond_broker.consensus.solo import SoloMetadataLog
from millpond_broker.core.admission import AdmissionLimits
from millpond_broker.core.commands import FEATURE_LEVEL, AllocateProducerIds, RegisterBroker
from millpond_broker.core.image import EMPTY, MetadataImage
from millpond_broker.observe.logs import event
from millpond_broker.observe.metrics import BrokerMetrics, Gauge
from millpond_broker.runtime import gauges
from millpond_broker.runtime.controller import Controller, Seat
from millpond_broker.runtime.digests import Digests
from millpond_broker.runtime.feed import Feed
from millpond_broker.runtime.fetch import FetchLimits, FetchSession
from millpond_broker.runtime.heartbeats import Heartbeats, Lease
from millpond_broker.runtime.membership import Membership
from millpond_broker.runtime.metadata import Metadata
from millpond_broker.runtime.partition import Bounds
from millpond_broker.runtime.partitions import Partitions, PartitionsOptions
from millpond_broker.runtime.peering import AnswerFound, Peering, VoterSeat
from millpond_broker.runtime.peers import Peer, PeerStreams, Purpose
from millpond_broker.runtime.ports import Blocking, Clock
from millpond_broker.runtime.produce import Backlog, ProduceLimits, ProduceSession
from millpond_broker.runtime.subscriptions import Subscriptions
from millpond_broker.runtime.topics import Topics
from millpond_broker.runtime.voting import Voting
from millpond_broker.storage.directory import DataDirectory
from millpond_broker.storage.files import Files
from millpond_broker.storage.group_commit import GroupCommit

T = TypeVar("T")
_log: Final = logging.getLogger(__name__)

OpenMetadata = Callable[[DataDirectory], Awaitable[MetadataLog]]
"""Opens the log of metadata in a data directory. It is not told the incarnation of this start, which is the
name of another proposer: two that number their proposals under one name have them taken for each other's."""

ROLE: Final = "broker"
LOGS_AT_ONCE: Final = 8
"""Opened, cut or closed side by side: nearly all of that is waiting for syncs, which a file system joins.
More gain nothing (ARCHITECTURE.md)."""
PRODUCER_ID_BLOCK: Final = 1000
"""Producer ids taken from the metadata at a time; those left over at a stop are never used."""


@dataclass(frozen=True, kw_only=True)
class BrokerOptions:
    """Who this broker is, where its data are, and its bounds."""

    broker_id: int
    data_dir: Path
    rack: str
    peer_address: str
    version: str
    limits: AdmissionLimits
    produce: ProduceLimits
    fetch: FetchLimits
    streams_max: int
    """Streams of all kinds at once: each takes memory and a task or two."""
    partitions_max: int
    """Of all topics together: each takes open files, memory, and time at a start."""
    upkeep_seconds: float
    """How often retention looks, and failed logs get another chance."""
    stop_seconds_max: float
    """How long a stop waits for what is under way."""


class Phase(enum.Enum):
    """Where in its life a broker is."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


class Stream(Protocol):
    """What a stop ends."""

    def fail(self, error: MillpondError) -> None:
        """Say why, once what is under way is answered."""


class Broker:
    """See the module. Made on the loop that it runs on; `run` once."""

    def __init__(
        self,
        options: BrokerOptions,
        files: Files,
        *,
        syncs: Blocking,
        disk: Blocking,
        clock: Clock,
        metrics: BrokerMetrics,
        new_id: Callable[[], bytes],
        streams: PeerStreams | None = None,
        open_metadata: OpenMetadata | None = None,
        answer_found: AnswerFound | None = None,
        voter_seat: VoterSeat | None = None,
        logs: Blocking | None = None,
    ) -> None:
        """`logs`: takes LOGS_AT_ONCE calls side by side; None: `disk` does for logs what they do.

        `streams` None: a broker alone, which nobody reaches. `open_metadata` None: of the only voter.
        `answer_found`: what others are told who ask how the cluster was founded. `voter_seat`: where voters
        come and go.
        """
        self.options = options
        self.peer_address = options.peer_address
        self.phase = Phase.STARTING
        self.metrics = metrics
        self._files = files
        self._syncs = syncs
        self._disk = disk
        self._logs = logs
        self._clock = clock
        self._new_id = new_id
        self._peers = streams
        self._open_metadata = open_metadata or self._open_solo
        self._answer_found = answer_found
        self._voter_seat = voter_seat
        self._streams: dict[Stream, None] = {}  # told of the end in the order in which they came
        self._stream_ended = asyncio.Event()
        self._watching = 0
        self._backlog = Backlog(options.produce)
        # From here on None until `run` has them.
        self._metadata: Metadata | None = None
        self._partitions: Partitions | None = None
        self._feed: Feed | None = None
        self._topics: Topics | None = None
        self._controller: Controller | None = None
        self._heartbeats: Heartbeats | None = None
        self._voting: Voting | None = None
        self._producer_ids: list[int] = []
        self._taking_ids = asyncio.Lock()

    # --- life -----------------------------------------------------------------------------------------

    async def run(self, address: str, ready: Callable[[], None], stopping: asyncio.Event) -> None:
        """Start, call `ready`, serve clients at `address` until `stopping` is set, and stop.

        Raises what keeps it from starting: DirectoryInUse, NotADataDirectory, UnsupportedFormat,
        StorageFailed, StorageFull; BrokerNotReady or OperationTimeout when its metadata cannot change. Any
        other exception is a fault of this program: all is as after a crash.
        """
        options = self.options
        directory = await self._disk.run(
            lambda: DataDirectory.open(self._files, options.data_dir, role=ROLE, new_id=self._new_id().hex())
        )
        try:
            await self._run_in(directory, address, ready, stopping)
        finally:
            directory.close()

    async def _run_in(
        self, directory: DataDirectory, address: str, ready: Callable[[], None], stopping: asyncio.Event
    ) -> None:
        options, streams = self.options, self._peers
        incarnation = self._new_id()
        me = Peer(options.broker_id, directory.directory_id, incarnation, b"")
        peering = Peering(me, self._answer_found, self._voter_seat)
        self.peer_address = options.peer_address
        if streams is not None:
            streams.serve(Purpose.CONTROL, peering.serve)
            self.peer_address = await streams.start(peering.me, peering.admit)
        try:
            log = await _unless(stopping, self._open_metadata(directory))
            if log is None:
                return
            group_commit = GroupCommit(self._files, directory.path)
            metadata = Metadata(log, options.broker_id, incarnation, streams)
            try:
                parts = self._make(directory, group_commit, metadata, incarnation, peering)
                registration = RegisterBroker(
                    broker_id=options.broker_id,
                    incarnation=incarnation,
                    directory_id=directory.directory_id,
                    address=address,
                    peer_address=self.peer_address,
                    rack=options.rack,
                    version=options.version,
                    feature_level=FEATURE_LEVEL,
                )
                await self._live(parts, registration, ready, stopping)
            finally:
                self.phase = Phase.STOPPING
                peering.leave()
                await metadata.close()
                group_commit.close()
                await log.close()
        finally:
            self.phase = Phase.STOPPING
            if streams is not None:
                await streams.close()

    async def _live(
        self, parts: _Parts, registration: RegisterBroker, ready: Callable[[], None], stopping: asyncio.Event
    ) -> None:
        """From recovered logs to closed ones."""
        partitions, member = parts.partitions, parts.membership
        recovered = await partitions.recover()  # before anybody is told that this broker is there
        registration = replace(registration, previous_epoch=recovered.previous_epoch, cuts=recovered.cuts)
        async with asyncio.TaskGroup() as tasks:
            owned = [
                tasks.create_task(partitions.syncer.run(), name="syncs"),
                tasks.create_task(partitions.run(), name="partitions"),
                tasks.create_task(parts.controller.run(), name="controller"),
                tasks.create_task(member.heartbeats.run(), name="heartbeats"),
                tasks.create_task(self._upkeep(partitions), name="upkeep"),
                tasks.create_task(member.metadata.log.failed(), name="metadata"),
            ]
            await _unless(stopping, member.join(registration))
            if not stopping.is_set():
                self.phase = Phase.RUNNING
                member.heartbeats.touch.joined()
                ready()
                await stopping.wait()
                if not await member.leave(self.options.stop_seconds_max):
                    partitions.end_waits()
            await self._drain()
            parts.peering.leave()  # first: a heartbeat stream that closes is asked about at once
            for task in owned:
                task.cancel()
        registered = member.registered()
        parts.end_following()
        await partitions.close(recovered.previous_epoch if registered is None else registered.epoch)

    def _make(
        self,
        directory: DataDirectory,
        group_commit: GroupCommit,
        metadata: Metadata,
        incarnation: bytes,
        peering: Peering,
    ) -> _Parts:
        options, streams = self.options, self._peers
        is_alone = streams is None
        lease, digests = Lease(self._clock, is_alone=is_alone), Digests(self._clock)
        seat = Seat(
            metadata=metadata,
            broker_id=options.broker_id,
            incarnation=incarnation,
            clock=self._clock,
            streams=streams,
        )
        controller = Controller(seat, digests)
        heartbeats = Heartbeats(seat, controller.beat, lease=lease, digests=digests)
        partitions = Partitions(
            PartitionsOptions(
                broker_id=options.broker_id,
                incarnation=incarnation,
                limits=options.limits,
                logs_at_once=1 if self._logs is None else LOGS_AT_ONCE,
            ),
            self._files,
            directory,
            group_commit,
            syncs=self._syncs,
            disk=self._logs or self._disk,
            clock=self._clock,
            metrics=self.metrics,
            metadata=metadata,
            has_lease=lease.holds,
            streams=streams,
        )
        peering.follow(metadata, controller)
        if streams is not None:
            streams.serve(Purpose.REPLICATION, partitions.serve_follower)
            subscriptions = Subscriptions(metadata, options.broker_id, directory.directory_id)
            streams.serve(Purpose.SUBSCRIPTION, subscriptions.serve)
        feed = Feed(metadata.image)
        metadata.subscribe(feed.publish)
        end_following = metadata.subscribe(partitions.follow)
        self._metadata, self._partitions, self._feed = metadata, partitions, feed
        self._controller, self._heartbeats = controller, heartbeats
        self._topics = Topics(
            metadata,
            partitions,
            feed,
            new_id=self._new_id,
            record_bytes_max=options.limits.batch_bytes_max // 2,
            partitions_max=options.partitions_max,
        )
        self._voting = Voting(metadata, options.broker_id, streams, self._voter_seat)
        member = Membership(
            metadata,
            partitions,
            heartbeats,
            options.broker_id,
            incarnation,
            is_alone=is_alone,
            streams=streams,
        )
        return _Parts(partitions, controller, member, peering, end_following)

    async def _open_solo(self, directory: DataDirectory) -> MetadataLog:
        return await SoloMetadataLog.open(
            self._files,
            directory.path,
            broker_id=self.options.broker_id,
            directory_id=directory.directory_id,
            new_id=self._new_id,
            run_blocking=self._disk.run,
        )

    async def _upkeep(self, partitions: Partitions) -> None:
        while True:
            await asyncio.sleep(self.options.upkeep_seconds)
            await partitions.upkeep()

    async def _drain(self) -> None:
        """Take nothing new, answer what is under way, end the streams."""
        self.phase = Phase.STOPPING
        error = self._why_not()
        assert self._feed is not None, "it runs"
        self._feed.fail(error)
        for stream in list(self._streams):
            stream.fail(error)
        try:
            async with asyncio.timeout(self.options.stop_seconds_max):
                while self._streams:
                    self._stream_ended.clear()
                    await self._stream_ended.wait()
        except TimeoutError:
            event(_log, logging.WARNING, "streams_left", streams=len(self._streams))

    def _why_not(self) -> BrokerNotReady:
        return BrokerNotReady(reason=f"broker {self.options.broker_id} is {self.phase.value}")

    def check_running(self) -> None:
        """Raise BrokerNotReady unless it runs."""
        if self.phase is not Phase.RUNNING:
            raise self._why_not()

    # --- streams --------------------------------------------------------------------------------------

    @asynccontextmanager
    async def produce_stream(self) -> AsyncIterator[ProduceSession]:
        """A new produce stream's session. Raises BrokerNotReady."""
        self._check_streams()
        partitions = self._serving()
        session = ProduceSession(partitions, self._backlog, self._clock, self.metrics)
        self.metrics.produce_streams += 1
        self._streams[session] = None
        try:
            yield session
        finally:
            self.metrics.produce_streams -= 1
            self._end(session)

    @asynccontextmanager
    async def fetch_stream(self) -> AsyncIterator[FetchSession]:
        """A new fetch stream's session. Raises BrokerNotReady."""
        self._check_streams()
        partitions = self._serving()
        session = FetchSession(partitions, self.options.fetch, self.metrics)
        self.metrics.fetch_streams += 1
        self._streams[session] = None
        try:
            yield session
        finally:
            self.metrics.fetch_streams -= 1
            self._end(session)

    def _check_streams(self) -> None:
        self.check_running()
        if len(self._streams) + self._watching >= self.options.streams_max:
            raise BrokerNotReady(reason=f"all {self.options.streams_max} streams are taken")

    def _serving(self) -> Partitions:
        self.check_running()
        assert self._partitions is not None, "it runs"
        return self._partitions

    def _end(self, stream: Stream) -> None:
        self._streams.pop(stream, None)
        self._stream_ended.set()

    # --- questions ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def watch_stream(self) -> AsyncIterator[Feed]:
        """The metadata, to follow. Raises BrokerNotReady."""
        self._check_streams()
        assert self._feed is not None, "it runs"
        self._watching += 1
        try:
            yield self._feed
        finally:
            self._watching -= 1

    def is_in_touch(self) -> bool:
        """Whether the controller answered within a session: what is known here is hardly older."""
        return self._partitions is not None and self._partitions.has_lease()

    def unheard_seconds(self) -> float:
        """For how long the controller has not been heard of: what is known here may be so old."""
        return 0.0 if self._heartbeats is None else self._heartbeats.unheard_seconds()

    def readiness(self) -> tuple[bool, str]:
        """Whether clients should be sent here, and how it is, or why not, in words."""
        if self.phase is not Phase.RUNNING:
            return False, self.phase.value
        assert self._heartbeats is not None, "it runs"
        why_not = self._heartbeats.touch.why_not_ready()
        return why_not is None, why_not or self.phase.value

    def metadata(self) -> MetadataImage:
        """The metadata now. Raises BrokerNotReady."""
        self.check_running()
        assert self._feed is not None, "it runs"
        return self._feed.image

    def topics(self) -> Topics:
        """Topic administration. Raises BrokerNotReady."""
        self.check_running()
        assert self._topics is not None, "it runs"
        return self._topics

    def voting(self) -> Voting:
        """Administration of the voters. Raises BrokerNotReady."""
        self.check_running()
        assert self._voting is not None, "it runs"
        return self._voting

    def offsets(self, topic_id: bytes, number: int, timestamp: int | None) -> tuple[Bounds, int | None]:
        """Where a partition begins and ends, and the first offset at or after a time (ms UTC) below the high
        watermark, if one is asked for and there is one. Raises as `Partitions.find` and `Log.find_time`.
        """
        partition = self._serving().find(topic_id, number)
        return partition.offsets(timestamp)

    async def new_producer_id(self) -> int:
        """An id that no other producer of this cluster has had."""
        self.check_running()
        assert self._metadata is not None, "it runs"
        async with self._taking_ids:
            if not self._producer_ids:
                epoch = self._metadata.image.brokers[self.options.broker_id].epoch
                first = await self._metadata.propose(
                    AllocateProducerIds(
                        broker_id=self.options.broker_id, broker_epoch=epoch, count=PRODUCER_ID_BLOCK
                    )
                )
                assert isinstance(first, int), "the first of the block"
                self._producer_ids = list(range(first + PRODUCER_ID_BLOCK - 1, first - 1, -1))
            return self._producer_ids.pop()

    @property
    def unanswered_bytes(self) -> int:
        """Batches that were appended and wait for their acknowledgement."""
        return self._backlog.unanswered_bytes

    # --- what is measured at a scrape -----------------------------------------------------------------

    def gauges(self) -> Iterable[Gauge]:
        """What is looked up rather than counted."""
        image = EMPTY if self._feed is None else self._feed.image
        yield "is_controller", {}, int(self._controller is not None and self._controller.is_controller)
        yield "controller_unheard_seconds", {}, round(self.unheard_seconds(), 3)
        yield "unanswered_bytes", {}, self.unanswered_bytes
        yield "unanswered_bytes_max", {}, self.options.produce.total_bytes_max
        yield from gauges.of_cluster(image, self.options.broker_id)
        yield from gauges.of_partitions(self._partitions or (), image)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a broker is made of while it lives."""

    partitions: Partitions
    controller: Controller
    membership: Membership
    peering: Peering
    end_following: Callable[[], None]


async def _unless(stopping: asyncio.Event, waiting: Awaitable[T]) -> T | None:
    """What that gives; None if it is to stop before, which ends it."""

    async def wait() -> T:
        return await waiting

    # This call is the owner that tasks must have: both have ended when it returns.
    task, stop = asyncio.Task(wait()), asyncio.Task(stopping.wait())
    try:
        await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()
        was_stopped = not task.done() and task.cancel()
        await asyncio.wait((task, stop))
    return None if was_stopped and task.cancelled() else task.result()
