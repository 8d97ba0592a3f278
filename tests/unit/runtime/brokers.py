"""Three brokers' partitions in one loop: their real logs on simulated disks, streams in memory, and metadata
that apply a proposal the moment it is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from millpond.wire.batch import decode_batch
from millpond.wire.errors import MillpondError
from millpond_broker.core.admission import AdmissionLimits
from millpond_broker.core.commands import (
    ClaimController,
    Command,
    CreateTopic,
    Envelope,
    FenceBroker,
    InitCluster,
    RegisterBroker,
    UnfenceBroker,
)
from millpond_broker.core.image import EMPTY, Applied, MetadataImage, PartitionImage, apply
from millpond_broker.core.leader import Acks
from millpond_broker.observe.metrics import BrokerMetrics
from millpond_broker.runtime.partition import Partition
from millpond_broker.runtime.partitions import Partitions, PartitionsOptions
from millpond_broker.runtime.peers import Peer, PeerStream, PeerUnreachable, Purpose, StreamClosed
from millpond_broker.runtime.ports import SystemClock
from millpond_broker.storage.directory import DataDirectory, remove_log
from millpond_broker.storage.group_commit import GroupCommit
from millpond_broker.storage.log import Log
from tests.integration.broker.raw import batch
from tests.sim.disk import SimFiles

T = TypeVar("T")

CLUSTER = b"c" * 16
TOPIC = b"t" * 16


class Inline:
    """Disk calls on the loop."""

    async def run(self, call: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        return call()


class End:
    """One end of a stream in memory."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.other: End | None = None
        self._came: list[Any] = []
        self._changed = asyncio.Event()
        self._closed = False
        self.is_held = False

    def send(self, message: Any) -> None:
        if self.other is None or self.is_held or self.other.is_held:
            return
        if not self._closed and not self.other._closed:
            self.other._came.append(message)
            self.other._changed.set()

    async def receive(self) -> list[Any]:
        while not self._came:
            if self._closed:
                raise StreamClosed("closed")
            self._changed.clear()
            await self._changed.wait()
        came, self._came = self._came, []
        return came

    def close(self) -> None:
        for end in (self, self.other):
            if end is not None:
                end._closed = True
                end._changed.set()


class Node:
    """One broker: what it holds, and its streams."""

    def __init__(self, cluster: Brokers, broker_id: int) -> None:
        self.cluster = cluster
        self.broker_id = broker_id
        self.files = SimFiles(Random(broker_id))
        self.start = 0
        self.image: MetadataImage = EMPTY
        self.has_lease = True
        self.ends: list[End] = []
        self.task: asyncio.Task[None] | None = None
        self.partitions: Partitions

    # PeerStreams, as far as they are used

    async def open(self, broker_id: int, address: str, purpose: Purpose, seconds: float) -> PeerStream:
        other = self.cluster.nodes[broker_id]
        if other.task is None or {self.broker_id, broker_id} & self.cluster.cut:
            raise PeerUnreachable("nobody there")
        mine, theirs = End(other.peer()), End(self.peer())
        mine.other, theirs.other = theirs, mine
        self.ends.append(mine)
        other.ends.append(theirs)
        other.cluster.tasks.create_task(self._served(other, theirs))
        return mine

    async def _served(self, other: Node, end: End) -> None:
        await other.partitions.serve_follower(end)
        end.close()
        if end in other.ends:
            other.ends.remove(end)

    def peer(self) -> Peer:
        return Peer(self.broker_id, f"disk-{self.broker_id}", self.incarnation, CLUSTER)

    @property
    def incarnation(self) -> bytes:
        return bytes([self.broker_id, self.start] * 8)

    # Proposing

    async def propose(self, command: Command, timeout: float = 1.0) -> object:
        await asyncio.sleep(0)
        return self.cluster.propose(command)

    def follow(self, image: MetadataImage) -> None:
        self.image = image
        if self.task is not None:
            self.partitions.follow(image)

    # life

    async def _recover(self) -> None:
        """A start, as far as it is this broker's alone."""
        self.start += 1
        directory = DataDirectory.open(
            self.files, Path("/data"), role="broker", new_id=f"disk-{self.broker_id}"
        )
        self.directory = directory
        self.group_commit = GroupCommit(self.files, directory.path)
        self.partitions = Partitions(
            PartitionsOptions(
                broker_id=self.broker_id, incarnation=self.incarnation, limits=AdmissionLimits()
            ),
            self.files,
            directory,
            self.group_commit,
            syncs=Inline(),
            disk=Inline(),
            clock=SystemClock(),
            metrics=BrokerMetrics(),
            metadata=self,
            has_lease=lambda: self.has_lease,
            streams=self,  # type: ignore[arg-type]  # as far as it is used
        )
        self.recovered = await self.partitions.recover()

    async def only_recover(self, *, stops_cleanly: bool) -> int:
        """A start that ends before it could register; where the log ended."""
        await self._recover()
        log_end = self.log().log_end
        if stops_cleanly:
            await self.partitions.close(self.recovered.previous_epoch)
        self.group_commit.close()
        self.directory.close()
        if not stops_cleanly:
            self.files.crash()
        return log_end

    async def up(self) -> None:
        """Start, register, and run."""
        await self._recover()
        recovered = self.recovered
        self.task = self.cluster.tasks.create_task(self._run())
        epoch = self.cluster.propose(
            RegisterBroker(
                self.broker_id,
                self.incarnation,
                f"disk-{self.broker_id}",
                "h:1",
                "h:2",
                "",
                "test",
                2,
                recovered.previous_epoch,
                recovered.cuts,
            )
        )
        assert isinstance(epoch, int)
        self.epoch = epoch
        self.cluster.propose(UnfenceBroker(self.broker_id, epoch))

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.partitions.syncer.run())
                tasks.create_task(self.partitions.run())
        except asyncio.CancelledError:
            pass

    async def crash(self) -> None:
        """Power loss."""
        await self._end()
        self.files.crash()
        self.cluster.propose(FenceBroker(self.broker_id, self.epoch))

    async def _end(self) -> None:
        assert self.task is not None, "it runs"
        task, self.task = self.task, None
        self.close_streams()
        task.cancel()
        await asyncio.wait([task])
        self.group_commit.close()
        self.directory.close()

    def partition(self) -> Partition:
        return self.partitions.find(TOPIC, 0)

    def log(self) -> Log:
        """Of its partition."""
        log = self.partition().log
        assert log is not None, "it is being worked on"
        return log

    def hold_streams(self) -> None:
        """Nothing that is sent to it or by it arrives, and nothing says so."""
        for end in self.ends:
            end.is_held = True

    def close_streams(self) -> None:
        """They break."""
        for end in self.ends:
            end.close()
        self.ends.clear()

    def lose_disk(self) -> None:
        """Every log is gone."""
        for name in list(self.files.list(Path("/data/partitions"))):
            remove_log(self.files, Path("/data/partitions") / name)

    def tear(self, size_bytes: int) -> None:
        """The end of its log is gone, as after an append that was cut short."""
        file = self.files.open(self.segment())
        file.truncate(file.size() - size_bytes)
        file.sync()

    def used_bytes(self) -> int:
        """On its disk."""
        self.files.capacity_bytes = 1 << 40
        return (1 << 40) - self.files._room()

    def segment(self) -> Path:
        """The only one of the partition's log."""
        return Path(f"/data/partitions/t-0-{TOPIC.hex()}/{0:020d}.log")


class Brokers:
    """The cluster. See the module."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.tasks = tasks
        self.image: MetadataImage = EMPTY
        self.sequence = 0
        self.cut: set[int] = set()
        self.nodes = {broker_id: Node(self, broker_id) for broker_id in (1, 2, 3)}
        self.propose(InitCluster(CLUSTER, (), 2))
        self.propose(ClaimController(1, 1))

    def propose(self, command: Command) -> object:
        self.sequence += 1
        envelope = Envelope(b"p" * 16, self.sequence, self.image.controller_epoch, command)
        self.image, result = apply(self.image, self.image.version + 1, envelope)
        for node in self.nodes.values():
            node.follow(self.image)
        if not isinstance(result, Applied):
            raise result.error
        return result.value

    async def create(self, *, flush: str = "commit", min_insync: int = 2) -> None:
        """A topic of one partition on all three, which takes records."""
        config = () if flush == "commit" else (("flush", flush),)
        self.propose(CreateTopic(TOPIC, "t", 3, min_insync, config, ((1, 2, 3),)))
        await self.led()

    async def led(self) -> None:
        """Wait until the partition's leader leads."""

        def is_led() -> bool:
            if (leader := self.state().leader) is None:
                return False
            held = [partition.leader for partition in self.nodes[leader].partitions]
            return bool(held) and held[0] is not None

        await self.until(is_led)

    async def settled(self) -> int:
        """Wait until all three are in sync, with one log end and one high watermark; which that is."""

        def ends() -> set[tuple[int, int, int]]:
            held = [partition for node in self.nodes.values() for partition in node.partitions]
            logs = [partition.log for partition in held if partition.log is not None]
            if len(logs) < 3:
                return set()  # a new topic's ISR is whole before its logs are made
            return {
                (log.log_end, log.durable_end, partition.high_watermark)
                for log, partition in zip(logs, held, strict=True)
            }

        await self.until(lambda: len(self.state().isr) == 3 and len(ends()) == 1)
        return ends().pop()[0]

    def values(self, node: Node) -> list[bytes]:
        """What a replica's log has, whatever its part."""
        log = node.partition().log
        assert log is not None
        return [
            record.value or b""
            for stored in log.read(log.log_start, 1 << 20, log.log_end)
            for record in decode_batch(stored.batch).records("t", 0)
        ]

    def state(self) -> PartitionImage:
        return self.image.topics[TOPIC].partitions[0]

    def leader(self) -> Node:
        leader = self.state().leader
        assert leader is not None
        return self.nodes[leader]

    async def send(self, value: bytes, acks: Acks = Acks.ALL) -> int:
        """Offset once acknowledged. Raises what it was refused with."""
        return await self.send_all([value], acks)

    async def send_all(self, values: list[bytes], acks: Acks = Acks.ALL) -> int:
        """The same, in one batch; the first one's offset."""

        class Answer:
            def __init__(self) -> None:
                self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def settle(self, error: MillpondError | None) -> None:
                if error is None:
                    self.done.set_result(None)
                else:
                    self.done.set_exception(error)

        answer = Answer()
        appended = self.leader().partition().produce(batch(values), acks, answer)
        if not appended.settled:
            async with asyncio.timeout(10):
                await answer.done
        return appended.base_offset

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.005)


@asynccontextmanager
async def brokers() -> AsyncIterator[Brokers]:
    """Three that run."""
    async with asyncio.TaskGroup() as tasks:
        cluster = Brokers(tasks)
        for node in cluster.nodes.values():
            await node.up()
        try:
            yield cluster
        finally:
            for node in cluster.nodes.values():
                if node.task is not None:
                    node.task.cancel()
                for end in node.ends:
                    end.close()
