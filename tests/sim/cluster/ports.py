"""What a simulated process has instead of a system: files, threads that block, clocks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final, TypeVar

from millpond_broker.storage.files import File, FileSystem, Lock
from tests.sim.disk import SimFiles, SimulatedCrash
from tests.sim.loop import Owner, SimLoop

T = TypeVar("T")

EPOCH_MS: Final = 1_790_000_000_000
"""When worlds begin, by the clocks that people read."""


class ProcessFiles:
    """A machine's disk as one of its processes sees it: with the process dead, there is none."""

    def __init__(self, disk: SimFiles, owner: Owner) -> None:
        self._disk = disk
        self._owner = owner

    def _alive(self) -> SimFiles:
        if self._owner.is_dead:
            raise SimulatedCrash
        return self._disk

    def open(self, path: Path, *, create: bool = False) -> File:
        return self._alive().open(path, create=create)

    def list(self, directory: Path) -> dict[str, int]:
        return self._alive().list(directory)

    def exists(self, path: Path) -> bool:
        return self._alive().exists(path)

    def make_directory(self, path: Path) -> None:
        self._alive().make_directory(path)

    def rename(self, source: Path, target: Path) -> None:
        self._alive().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._alive().unlink(path)

    def remove_directory(self, path: Path) -> None:
        self._alive().remove_directory(path)

    def sync_directory(self, path: Path) -> None:
        self._alive().sync_directory(path)

    def file_system(self, path: Path) -> FileSystem | None:
        return self._alive().file_system(path)

    def lock(self, path: Path) -> Lock:
        return self._alive().lock(path)


@dataclass
class DiskSpeed:
    """How long a call takes, in seconds: between the two, and `stall` more."""

    least: float = 0.0002
    most: float = 0.003
    stall: float = 0.0


class SimBlocking:
    """`Blocking`, as by a thread of its own: one call after another, each at some instant of its time."""

    def __init__(self, loop: SimLoop, owner: Owner, random: Random, speed: DiskSpeed) -> None:
        self._loop = loop
        self._owner = owner
        self._random = random
        self._speed = speed
        self._free_at = 0.0

    async def run(self, call: Callable[[], T]) -> T:
        if self._owner.is_dead:
            raise SimulatedCrash
        future: asyncio.Future[T] = self._loop.create_future()
        began = max(self._loop.time(), self._free_at)
        takes = self._random.uniform(self._speed.least, self._speed.most) + self._speed.stall
        self._free_at = began + takes
        acts_at = began + takes * self._random.random()
        self._loop.call_at(acts_at, self._act, call, future, self._free_at, context=self._owner.context)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            if not future.cancelled():
                future.exception()  # looked at, so that nobody calls it forgotten
            raise

    def _act(self, call: Callable[[], T], future: asyncio.Future[T], ends_at: float) -> None:
        try:
            if self._owner.is_dead:
                raise SimulatedCrash
            result = call()
        except BaseException as error:  # whatever it was is for the caller to have
            self._loop.call_at(ends_at, self._fail, future, error, context=self._owner.context)
        else:
            self._loop.call_at(ends_at, self._succeed, future, result, context=self._owner.context)

    def _succeed(self, future: asyncio.Future[T], result: T) -> None:
        if not future.done():
            future.set_result(result)

    def _fail(self, future: asyncio.Future[T], error: BaseException) -> None:
        if not future.done():
            future.set_exception(error)

    def close(self) -> None:
        """As of a thread."""


class SimClock:
    """A machine's clocks. The one that goes forward may run a little fast or slow; the other may jump."""

    def __init__(self, loop: SimLoop, *, rate: float = 1.0, skew_ms: int = 0) -> None:
        self._loop = loop
        self.rate = rate
        self.skew_ms = skew_ms

    def now_ms(self) -> int:
        return EPOCH_MS + int(self._loop.time() * 1000) + self.skew_ms

    def monotonic(self) -> float:
        return self._loop.time() * self.rate

    def boottime(self) -> float:
        return self.monotonic()
