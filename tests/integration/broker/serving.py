"""A broker in this process: the real runtime and server, with a disk that a test may hold or break."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from millpond_broker.core.admission import AdmissionLimits
from millpond_broker.observe.metrics import BrokerMetrics
from millpond_broker.rpc.server import RpcOptions, RpcServer
from millpond_broker.runtime.broker import Broker, BrokerOptions
from millpond_broker.runtime.fetch import FetchLimits
from millpond_broker.runtime.ports import DiskThread, SystemClock
from millpond_broker.runtime.produce import ProduceLimits
from millpond_broker.storage.files import Files, OsFiles

T = TypeVar("T")

OPTIONS = BrokerOptions(
    broker_id=1,
    data_dir=Path("/nowhere"),
    rack="",
    peer_address="127.0.0.1:0",
    version="test",
    limits=AdmissionLimits(),
    produce=ProduceLimits(stream_bytes_max=16 << 20, total_bytes_max=64 << 20),
    fetch=FetchLimits(credit_bytes_max=16 << 20, chunk_bytes=1 << 20),
    streams_max=10_000,
    partitions_max=200,
    upkeep_seconds=0.05,
    stop_seconds_max=10.0,
)


class Disk:
    """Disk calls on the loop, each one only while the disk is not held."""

    def __init__(self) -> None:
        self._free = asyncio.Event()
        self._free.set()
        self.waiting = 0

    def hold(self) -> None:
        """Nothing comes back from now on."""
        self._free.clear()

    def release(self) -> None:
        self._free.set()

    async def run(self, call: Callable[[], T]) -> T:
        self.waiting += 1
        try:
            await self._free.wait()
        finally:
            self.waiting -= 1
        return call()

    def close(self) -> None:
        """No more calls come."""


class DiskOnThread(Disk):
    """Disk calls in a thread, which the disk holds: a caller that is cancelled leaves after its call."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = DiskThread("held")
        self._gate = threading.Event()
        self._gate.set()

    def hold(self) -> None:
        self._gate.clear()

    def release(self) -> None:
        self._gate.set()

    async def run(self, call: Callable[[], T]) -> T:
        def held() -> T:
            self._gate.wait()
            return call()

        self.waiting += 1
        try:
            return await self._thread.run(held)
        finally:
            self.waiting -= 1

    def close(self) -> None:
        self._thread.close()


@dataclass
class Served:
    """What a test may touch."""

    broker: Broker
    address: str
    syncs: Disk
    disk: Disk
    stopping: asyncio.Event
    ended: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@asynccontextmanager
async def serving(
    data_dir: Path,
    *,
    files: Files | None = None,
    options: BrokerOptions = OPTIONS,
    syncs: Disk | None = None,
) -> AsyncIterator[Served]:
    """A broker that runs inside the block, and is stopped cleanly behind it."""
    syncs, disk = syncs or Disk(), Disk()
    broker = Broker(
        replace(options, data_dir=data_dir),
        files or OsFiles(),
        syncs=syncs,
        disk=disk,
        clock=SystemClock(),
        metrics=BrokerMetrics(),
        new_id=lambda: uuid.uuid4().bytes,
    )
    server = RpcServer(broker, RpcOptions(listen="127.0.0.1:0"))
    port = await server.start()
    address = f"127.0.0.1:{port}"
    stopping, ready = asyncio.Event(), asyncio.Event()
    served = Served(broker, address, syncs, disk, stopping)
    try:
        async with asyncio.TaskGroup() as tasks:

            async def run() -> None:
                await broker.run(address, ready.set, stopping)
                served.ended.set_result(None)

            running = tasks.create_task(run())
            waiting = tasks.create_task(ready.wait())
            await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            try:
                if not running.done():
                    yield served
            finally:
                syncs.release()
                disk.release()
                stopping.set()
    finally:
        await server.stop(0)
        syncs.close()
