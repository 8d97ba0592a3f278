"""Many partitions and a lost broker: `python -m tests.bench.many --partitions 1000`.

Three real brokers on loopback, topics with three replicas of each partition. One broker is killed
(SIGKILL): how long until every partition has a leader again, as a client sees it, and until each of them has
acknowledged a record with acks=all that was sent after the kill; then it starts again: until it is ready, and
until every ISR is full. Before that: what the partitions cost each broker that does nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import millpond
from millpond.admin import TopicDescription
from millpond.client import Client
from millpond.errors import MillpondError
from millpond.testing import LocalCluster

BROKERS: Final = 3
TOPIC_PARTITIONS_MAX: Final = 1000
"""Of one topic; more are several topics."""
STEP_SECONDS_MAX: Final = 300.0
LOOK_SECONDS: Final = 0.05
TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


@dataclass
class Times:
    """Seconds of each step, in order, by what was waited for."""

    took: dict[str, float] = field(default_factory=dict)
    told: bool = True

    def note(self, what: str, seconds: float) -> float:
        """Keep it, and say it at once."""
        self.took[what] = seconds
        self.say(f"{what}: {seconds:.2f} s")
        return seconds

    def say(self, line: str) -> None:
        if self.told:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


class Many:
    """A cluster's topics of many partitions, and what is known to be acknowledged there."""

    def __init__(self, cluster: LocalCluster, client: Client, partitions: int) -> None:
        self._cluster = cluster
        self._client = client
        sizes = [
            min(TOPIC_PARTITIONS_MAX, partitions - start)
            for start in range(0, partitions, TOPIC_PARTITIONS_MAX)
        ]
        self.topics = {f"many-{number}": size for number, size in enumerate(sizes)}
        self.acknowledged: dict[tuple[str, int, int], bytes] = {}
        """Values by topic, partition and offset."""
        self._rounds = 0

    async def create(self) -> None:
        """All topics."""
        for name, size in self.topics.items():
            await self._client.admin.create_topic(name, partitions=size, timeout=STEP_SECONDS_MAX)

    async def write_everywhere(self) -> None:
        """Until each partition has acknowledged one record more, with acks=all."""
        self._rounds += 1
        async with self._client.producer(delivery_timeout=STEP_SECONDS_MAX) as producer:
            sent = []
            for name, size in self.topics.items():
                for partition in range(size):
                    value = b"%d of round %d" % (partition, self._rounds)
                    sent.append((value, await producer.enqueue(name, value, partition=partition)))
            for value, delivery in sent:
                ack = await delivery
                self.acknowledged[ack.topic, ack.partition, ack.offset] = value

    async def led(self, without: int) -> None:
        """Until every partition has a leader, and that broker is none of them."""
        await self._until(lambda topic: all(part.leader not in (None, without) for part in topic.partitions))

    async def whole(self) -> None:
        """Until every ISR is full."""
        await self._until(lambda topic: all(len(part.isr) == BROKERS for part in topic.partitions))

    async def _until(self, holds: object) -> None:
        assert callable(holds)
        async with asyncio.timeout(STEP_SECONDS_MAX):
            for name in self.topics:
                while not holds(await self._described(name)):
                    await asyncio.sleep(LOOK_SECONDS)

    async def _described(self, name: str) -> TopicDescription:
        while True:
            try:
                return await self._client.admin.describe_topic(name)
            except MillpondError:
                await asyncio.sleep(LOOK_SECONDS)

    async def controller(self) -> int:
        """Its broker id."""
        async with asyncio.timeout(STEP_SECONDS_MAX):
            while True:
                for broker in await self._client.admin.brokers():
                    if broker.controller and broker.state == "running":
                        return broker.id
                await asyncio.sleep(LOOK_SECONDS)

    async def missing(self) -> int:
        """How many acknowledged records a fresh client does not find where they were acknowledged."""
        wanted = dict(self.acknowledged)
        async with millpond.connect(self._cluster.bootstrap, timeout=STEP_SECONDS_MAX) as client:
            for name in self.topics:
                async with client.consumer(name, stop="end") as consumer:
                    async for record in consumer:
                        where = (name, record.partition, record.offset)
                        if where in wanted and wanted[where] == record.value:
                            del wanted[where]
        return len(wanted)


def _process(cluster: LocalCluster, broker: int) -> Path:
    pid = cluster._broker(broker - 1).pid
    assert pid is not None
    return Path("/proc") / str(pid)


def memory_mib(cluster: LocalCluster, broker: int) -> float:
    """Resident now."""
    for line in (_process(cluster, broker) / "status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("a process has a size")


def _cpu_seconds(cluster: LocalCluster, broker: int) -> float:
    fields = (_process(cluster, broker) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


async def idle_percent(cluster: LocalCluster, seconds: float) -> list[float]:
    """Of a core, of each broker, while nobody asks anything of it."""
    brokers = range(1, BROKERS + 1)
    before = [_cpu_seconds(cluster, broker) for broker in brokers]
    await asyncio.sleep(seconds)
    after = [_cpu_seconds(cluster, broker) for broker in brokers]
    return [100 * (now - then) / seconds for then, now in zip(before, after, strict=True)]


async def lose_one(
    cluster: LocalCluster, client: Client, many: Many, times: Times, *, controls: bool
) -> None:
    """Kill a broker and start it again, and note how long things take."""
    controller = await many.controller()
    victim = controller if controls else 1 + controller % BROKERS
    what = "the controller" if controls else "a broker"
    began = time.perf_counter()
    cluster.kill(victim - 1)
    times.say(f"killed {what}, {victim}")

    async def measure(name: str, work: object) -> None:
        assert asyncio.iscoroutine(work)
        await work
        times.note(f"{what} lost, {name}", time.perf_counter() - began)

    await asyncio.gather(
        measure("all partitions have leaders", many.led(victim)),
        measure("acks=all on every partition", many.write_everywhere()),
    )
    began = time.perf_counter()
    await cluster.aio.restart(victim - 1)
    times.note(f"{what} back, ready", time.perf_counter() - began)
    await many.whole()
    times.note(f"{what} back, every ISR full", time.perf_counter() - began)
    began = time.perf_counter()
    await client.admin.elect_leaders(timeout=STEP_SECONDS_MAX)
    await many.write_everywhere()
    times.note("leaders elected, acks=all on every partition", time.perf_counter() - began)


async def measure(partitions: int, idle_seconds: float, losses: Iterable[bool]) -> bool:
    """The table; whether nothing was lost."""
    times = Times()
    async with LocalCluster(brokers=BROKERS) as cluster, cluster.client(timeout=60.0) as client:
        empty = await idle_percent(cluster, idle_seconds)
        many = Many(cluster, client, partitions)
        began = time.perf_counter()
        await many.create()
        times.note(f"{partitions} partitions created", time.perf_counter() - began)
        await many.whole()
        await many.write_everywhere()
        times.note("and acks=all on every partition", time.perf_counter() - began)
        began = time.perf_counter()
        await many.write_everywhere()
        times.note("acks=all on every partition, again", time.perf_counter() - began)
        sizes = [memory_mib(cluster, broker) for broker in range(1, BROKERS + 1)]
        times.say(f"MiB of each broker: {' '.join(f'{size:.0f}' for size in sizes)}")
        idle = await idle_percent(cluster, idle_seconds)
        for name, found in (("without partitions", empty), (f"with {partitions}", idle)):
            times.say(f"idle {name}, % of a core: {' '.join(f'{percent:.1f}' for percent in found)}")
        for controls in losses:
            await lose_one(cluster, client, many, times, controls=controls)
        missing = await many.missing()
        times.say(f"acknowledged {len(many.acknowledged)}, not found by a fresh client: {missing}")
    return not missing


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--partitions", type=int, default=1000, help="each with three replicas")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds of doing nothing, to measure")
    arguments = parser.parse_args()
    return 0 if asyncio.run(measure(arguments.partitions, arguments.idle, (False, True))) else 1


if __name__ == "__main__":
    sys.exit(main())
