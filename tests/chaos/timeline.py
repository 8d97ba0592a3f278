"""How the partitions of a run's topic stood, at every instant of it: who led, and who was in sync.

Every broker's watch is listened to, because any of them may be struck: what one of them tells first is when
it became so. A pause of writes is explained by it, or is not (`judge.pauses`).
"""

from __future__ import annotations

import asyncio
import json
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import grpc.aio

from millpond._core.cluster import PartitionView
from millpond._transport.link import Link
from millpond._transport.translate import update_of
from millpond.v1 import metadata_pb2

METADATA: Final = metadata_pb2.DESCRIPTOR.services_by_name["MetadataService"]
SILENCE_SECONDS_MAX: Final = 3.0
"""A broker tells its watchers every second that it is there; one that does not is connected to anew."""
AGAIN_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Stood:
    """What a partition's metadata said from that time on. `leader` None: nobody led it."""

    time: float
    partition: str
    partition_epoch: int
    leader: int | None
    isr: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """Of a stretch of time, the seconds in which writes could not be acknowledged as the metadata stood."""

    unheard: float = 0.0
    """No broker told anything: none runs, or none is ready yet."""
    leaderless: float = 0.0
    too_few: float = 0.0
    """Led, with fewer in sync than the topic wants."""


class Timeline:
    """See the module. `partition` as in histories: topic-number."""

    def __init__(self, topic: str, min_insync: int) -> None:
        self._topic = topic
        self.min_insync = min_insync
        self._stood: defaultdict[str, list[Stood]] = defaultdict(list)
        self._heard: list[tuple[float, int]] = [(0.0, 0)]
        """From when on how many brokers told us what they know."""

    def note(self, number: int, told: PartitionView, now: float) -> None:
        """Somebody's metadata have that. Nobody's go back, but some have them later than others."""
        partition = f"{self._topic}-{number}"
        before = self._stood[partition]
        if not before or told.partition_epoch > before[-1].partition_epoch:
            before.append(Stood(now, partition, told.partition_epoch, told.leader, told.isr))

    def heard(self, more: int, now: float) -> None:
        """So many brokers more, or fewer, tell what they know."""
        self._heard.append((now, self._heard[-1][1] + more))

    def between(self, partition: str, began_at: float, ended_at: float) -> Standing:
        """Of that partition, in that time. Before anything was told of it, it is taken to have been well."""
        known = self._stood[partition]
        first = max(0, bisect_right(known, began_at, key=attrgetter("time")) - 1)
        ends = [*(stood.time for stood in known[first + 1 :]), ended_at]
        leaderless = too_few = 0.0
        for stood, until in zip(known[first:], ends, strict=False):
            seconds = self._heard_between(max(stood.time, began_at), min(until, ended_at))
            if stood.leader is None:
                leaderless += seconds
            elif len(stood.isr) < self.min_insync:
                too_few += seconds
        unheard = ended_at - began_at - self._heard_between(began_at, ended_at)
        return Standing(unheard, leaderless, too_few)

    def _heard_between(self, began_at: float, ended_at: float) -> float:
        """Seconds of that time in which some broker told what it knows."""
        ends = [*(time for time, _ in self._heard[1:]), float("inf")]
        return sum(
            max(0.0, min(until, ended_at) - max(since, began_at))
            for (since, brokers), until in zip(self._heard, ends, strict=True)
            if brokers
        )

    def _all(self) -> Iterator[Stood]:
        yield from sorted((each for known in self._stood.values() for each in known), key=attrgetter("time"))

    def write(self, path: Path) -> None:
        """All of it, one JSON object a line."""
        with path.open("w") as file:
            file.writelines(json.dumps(asdict(stood)) + "\n" for stood in self._all())

    async def run(self, addresses: Iterable[str]) -> None:
        """Listen to all of them, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for address in addresses:
                tasks.create_task(self._listen(address), name=f"metadata of {address}")

    async def _listen(self, address: str) -> None:
        while True:
            link = Link(address, "chaos-timeline", lambda: None)
            call = link.watch(METADATA, "Watch", metadata_pb2.WatchRequest())
            try:
                self._take(await _next(call))
                self.heard(1, time.monotonic())
                try:
                    while True:
                        self._take(await _next(call))
                finally:
                    self.heard(-1, time.monotonic())
            except (TimeoutError, grpc.aio.AioRpcError):
                pass  # it is struck, or stops: what it would have told, others tell
            finally:
                call.cancel()
                await link.close()
            await asyncio.sleep(AGAIN_SECONDS)

    def _take(self, update: metadata_pb2.MetadataUpdate) -> None:
        for topic in update_of(update, whole=True).topics if update.HasField("changed") else ():
            if topic.name == self._topic:
                for number, told in enumerate(topic.partitions):
                    self.note(number, told, time.monotonic())


async def _next(call: Any) -> metadata_pb2.MetadataUpdate:
    """Raises TimeoutError, also at the end of the stream."""
    async with asyncio.timeout(SILENCE_SECONDS_MAX):
        update = await call.read()
    if not isinstance(update, metadata_pb2.MetadataUpdate):
        raise TimeoutError("the stream is over")
    return update
