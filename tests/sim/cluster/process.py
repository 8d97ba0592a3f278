"""A broker as a process on a machine: production code on a simulated disk, clock, network and threads.

A process is killed where it stands: its tasks are cancelled, and whatever they still do reaches neither disk
nor network. What is on the disk after that is the disk's business (`SimFiles.kill`, `crash`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from millpond.v1 import produce_pb2
from millpond_broker.consensus.metadata_log import MetadataLog
from millpond_broker.core.admission import AdmissionLimits
from millpond_broker.core.leader import Acks
from millpond_broker.observe.metrics import BrokerMetrics
from millpond_broker.runtime.broker import ROLE, Broker, BrokerOptions
from millpond_broker.runtime.fetch import FetchLimits
from millpond_broker.runtime.member_log import MemberLog, MemberOptions, VoterLog
from millpond_broker.runtime.produce import ProduceLimits
from millpond_broker.storage.directory import DataDirectory
from tests.sim.cluster.calls import CALL, Seen, client_address_of, methods_of, serve_calls, unseen
from tests.sim.cluster.metadata_log import SimMetadataLog
from tests.sim.cluster.peers import SimPeerStreams, address_of
from tests.sim.cluster.ports import DiskSpeed, ProcessFiles, SimBlocking, SimClock
from tests.sim.cluster.serving import serve_clients
from tests.sim.disk import SimFiles
from tests.sim.loop import Owner

if TYPE_CHECKING:
    from tests.sim.cluster.world import World

ACKS: Final = {produce_pb2.ACKS_ALL: Acks.ALL, produce_pb2.ACKS_LEADER: Acks.LEADER}
DATA_DIR: Final = Path("/data")
REAP_SECONDS: Final = 1.0
"""After a death: what is left of its tasks is cancelled once more."""


def options_of(broker_id: int) -> BrokerOptions:
    """As small as they may be: bounds are to be met."""
    return BrokerOptions(
        broker_id=broker_id,
        data_dir=DATA_DIR,
        rack="",
        peer_address=address_of(broker_id),
        version="simulated",
        limits=AdmissionLimits(),
        produce=ProduceLimits(stream_bytes_max=16 << 10, total_bytes_max=256 << 10),
        fetch=FetchLimits(credit_bytes_max=64 << 10, chunk_bytes=4 << 10),
        streams_max=1000,
        partitions_max=200,
        upkeep_seconds=0.5,
        stop_seconds_max=3.0,
    )


class BrokerHost:
    """A machine with a disk, on which one broker starts and ends."""

    def __init__(self, world: World, broker_id: int) -> None:
        self.world = world
        self.broker_id = broker_id
        self.random = Random(f"{world.seed} host {broker_id}")
        self.disk = SimFiles(Random(f"{world.seed} disk {broker_id}"))
        self.speed = DiskSpeed()
        self.clock = SimClock(
            world.loop, rate=self.random.uniform(0.9999, 1.0001), skew_ms=self.random.randrange(-500, 500)
        )
        self.lives = 0
        self.owner: Owner | None = None
        """Of the process that runs; None while none does."""
        self.broker: Broker | None = None
        self.is_ready = False
        self._stopping: asyncio.Event | None = None
        directory = DataDirectory.open(self.disk, DATA_DIR, role=ROLE, new_id=self.random.randbytes(16).hex())
        self.directory_id = directory.directory_id
        directory.close()

    # --- its life ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a process, unless one runs."""
        if self.owner is not None:
            return
        self.lives += 1
        self.owner = Owner(f"broker {self.broker_id}, life {self.lives}")
        self.world.network.up(self.broker_id, self.owner)
        self.world.note(f"start {self.broker_id}")
        self.world.loop.call_soon(self._boot, self.owner, context=self.owner.context)

    def _boot(self, owner: Owner) -> None:
        if not owner.is_dead:
            self.world.loop.create_task(self._run(owner), name=owner.name)

    async def _run(self, owner: Owner) -> None:
        world, loop = self.world, self.world.loop
        random = Random(f"{world.seed} broker {self.broker_id} life {self.lives}")
        self._stopping = asyncio.Event()

        files = ProcessFiles(self.disk, owner)
        disk = SimBlocking(loop, owner, random, self.speed)
        streams = SimPeerStreams(world.network, owner, self.broker_id, world.doors)

        async def open_metadata(directory: DataDirectory) -> MetadataLog:
            await asyncio.sleep(random.uniform(0.0, 0.02))
            if self.broker_id in world.voters.ids:
                return SimMetadataLog(world.voters, owner, self.broker_id, random.randbytes(16))
            return await self._open_subscribed(directory, files, streams, disk)

        broker = self.broker = Broker(
            options_of(self.broker_id),
            files,
            syncs=SimBlocking(loop, owner, random, self.speed),
            disk=disk,
            clock=self.clock,
            metrics=BrokerMetrics(),
            new_id=lambda: random.randbytes(16),
            streams=streams,
            open_metadata=open_metadata,
        )

        def ready() -> None:
            self.is_ready = True
            world.note(f"ready {self.broker_id}")

        for kind, handler in serve_clients(broker, self._answered).items():
            world.network.serve(self.broker_id, kind, handler)
        world.network.serve(self.broker_id, CALL, serve_calls(methods_of(broker), self._watch))
        told = "stopped"
        try:
            await broker.run(client_address_of(self.broker_id), ready, self._stopping)
        except Exception as error:  # whatever ends a broker: it is the world's to judge
            told = f"ended by itself: {error!r}"
            if not owner.is_dead:
                world.broker_failed(self, error)
        if not owner.is_dead:
            self._gone(owner, told)
            self.disk.kill()

    async def _open_subscribed(
        self, directory: DataDirectory, files: ProcessFiles, streams: SimPeerStreams, disk: SimBlocking
    ) -> MemberLog:
        """The metadata as the product's own code follows them that does not vote (rule 44)."""

        async def open_voter(_addresses: Mapping[int, str]) -> VoterLog:
            raise AssertionError("it is not asked to vote")

        voters = self.world.voters
        configured = {broker_id: address_of(broker_id) for broker_id in voters.ids}
        log = await MemberLog.open(
            MemberOptions(broker_id=self.broker_id, configured=configured),
            files,
            directory,
            streams,
            disk=disk,
            open_voter=open_voter,
        )
        log.subscribe(voters.compare)
        return log

    def _answered(self, key: tuple[bytes, int], acks: Acks) -> None:
        """It tells a producer that a batch is where its acks want it."""
        if self.owner is not None:
            self.world.on_answered(self, key, acks)

    def _watch(self, path: str) -> Seen:
        """Who looks at what goes in and out of a call: at produce streams, where somebody judges answers."""
        if not self.world.judges_answers or not path.endswith("/Produce"):
            return unseen
        batches: dict[int, tuple[tuple[bytes, int], Acks]] = {}

        def seen(way: str, data: bytes) -> None:
            if way == "<":
                request = produce_pb2.ProduceRequest.FromString(data)
                acks = ACKS.get(request.acks, Acks.NONE)
                batches.update({item.id: ((item.topic_id, item.partition), acks) for item in request.batches})
                return
            for result in produce_pb2.ProduceResponse.FromString(data).results:
                if not result.HasField("error"):
                    self._answered(*batches.pop(result.id))

        return seen

    def stop(self) -> None:
        """Have it stop in order."""
        if self.owner is not None and self._stopping is not None:
            self.world.note(f"stop {self.broker_id}")
            self.world.loop.call_soon(self._stopping.set, context=self.owner.context)

    def kill(self, *, power: bool = False) -> None:
        """End the process where it stands; with the power, what was not synced may be lost, too."""
        if self.owner is None:
            return
        owner = self.owner
        self._gone(owner, "power lost" if power else "killed")
        if power:
            self.disk.crash()
        else:
            self.disk.kill()
        self._reap(owner)
        self.world.loop.call_later(REAP_SECONDS, self._reap, owner)

    def pause(self) -> None:
        """Let nothing happen in it."""
        if self.owner is not None:
            self.world.note(f"pause {self.broker_id}")
            self.owner.is_paused = True

    def resume(self) -> None:
        """Let it go on."""
        if self.owner is not None and self.owner.is_paused:
            self.world.note(f"resume {self.broker_id}")
            self.world.loop.resume(self.owner)

    def look(self) -> None:
        """After each round: a crash inside a call on its disk ends it there."""
        if self.disk._crashed and self.owner is not None:
            self.world.count("crash inside")
            self.kill(power=self.random.random() < 0.5)

    def _gone(self, owner: Owner, told: str) -> None:
        self.world.note(f"{told} {self.broker_id}")
        self.owner, self.is_ready, self.broker = None, False, None
        owner.is_dead = True
        self.world.network.down(self.broker_id)
        self.world.voters.left(self.broker_id)
        self.world.doors.pop(self.broker_id, None)
        self.world.broker_gone(self)

    def _reap(self, owner: Owner) -> None:
        if owner.is_paused:
            self.world.loop.resume(owner)
        for task in owner.tasks():
            task.cancel()
