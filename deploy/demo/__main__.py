"""The product's main job on real input: `make demo`.

Three brokers, in processes of their own. Every line of the Python standard library's source is streamed to
them, and read back. Meanwhile brokers are killed with SIGKILL: a leader, then the controller, then a leader
again while a consumer reads; each comes back and catches up. Then a fresh process holds what is in the topic
against the files and against what was acknowledged. Exits 0 if nothing is missing.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import corpus
import millpond
import probe
from journal import Tally
from millpond.testing import LocalCluster
from probe import Probe
from view import View, watched

HERE = Path(__file__).parent
PHASE_SECONDS_MAX = 100.0
"""A process that takes longer is stuck: the whole demo is promised in two minutes."""
SETTLED_SECONDS_MAX = 60.0
"""For a broker that came back to be in sync again."""
LOOK_SECONDS = 0.05
TABLE_SECONDS = 0.25
BROKERS = 3
PARTITIONS = 6


class Demo:
    """The cluster, its client, and what is done to them."""

    def __init__(self, cluster: LocalCluster, client: millpond.Client, stopwatch: Probe, view: View) -> None:
        self._cluster = cluster
        self._client = client
        self._stopwatch = stopwatch
        self._view = view

    async def kill_leader(self, done: int) -> None:
        """SIGKILL to a leader that is not the controller; back again and in sync when this returns."""
        others = [broker.id for broker in await self._client.admin.brokers() if not broker.controller]
        await self._strike(others[0], "a leader", done)

    async def kill_controller(self, done: int) -> None:
        """The same with the controller, which leads partitions as well."""
        brokers = await self._client.admin.brokers()
        await self._strike(next(broker.id for broker in brokers if broker.controller), "the controller", done)

    async def _strike(self, victim: int, what: str, done: int) -> None:
        led = await self._led_by(victim)
        beats = await self._led_by(victim, probe.TOPIC)
        killed_at = time.monotonic()
        self._cluster.kill(victim - 1)
        self._view.say(f"SIGKILL to broker {victim}, {what}, after {done:,} records; it led {_numbers(led)}")
        if beats:
            async with asyncio.timeout(SETTLED_SECONDS_MAX):
                at = [await self._stopwatch.next_write(partition, killed_at) for partition in beats]
            took = f"{max(at) - killed_at:.2f} s after the kill"
            self._view.say(f"  next acknowledged write to what it led: {took}")
        await self._cluster.aio.restart(victim - 1)
        await self._settled()
        now = time.monotonic() - killed_at
        self._view.say(f"  broker {victim} was started again and all replicas are in sync: {now:.1f} s after")

    async def _led_by(self, broker: int, topic: str = corpus.TOPIC) -> list[int]:
        found = {each.name: each for each in await self._client.admin.list_topics()}[topic]
        return [each.partition for each in found.partitions if each.leader == broker]

    async def _settled(self) -> None:
        """Every replica is in sync, and preferred leaders lead."""
        async with asyncio.timeout(SETTLED_SECONDS_MAX):
            while True:
                topics = await self._client.admin.list_topics()
                partitions = [partition for topic in topics for partition in topic.partitions]
                if all(len(partition.isr) == BROKERS for partition in partitions):
                    break
                await asyncio.sleep(LOOK_SECONDS)
            await self._client.admin.elect_leaders()

    async def act(
        self, name: str, command: Sequence[str], tally: Tally, total: int, strikes: Sequence[Strike]
    ) -> None:
        """Run a process to its end, through strikes after shares of its work. Raises RuntimeError if it
        fails, or is done before them.
        """
        self._view.progress = lambda: f"{name}: {tally.count():,} of {total:,} records"
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(sys.executable, *command)
        try:
            async with asyncio.timeout(PHASE_SECONDS_MAX):
                for share, strike in strikes:
                    # Of what another process writes to a file there is no event to wait for.
                    while process.returncode is None and tally.count() < share * total:  # noqa: ASYNC110 - see above
                        await asyncio.sleep(LOOK_SECONDS)
                    if process.returncode is not None:
                        raise RuntimeError(f"{name} ended with {process.returncode} before the next kill")
                    await strike(tally.count())
                if await process.wait():
                    raise RuntimeError(f"{name} ended with {process.returncode}")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        seconds = time.monotonic() - began
        self._view.progress = str
        self._view.say(f"{name}d: {total:,} records in {seconds:.1f} s, {total / seconds:,.0f} records/s")


Strike = tuple[float, Callable[[int], Awaitable[None]]]
"""After which share of the work, and what is done then, given how much that is."""


async def main() -> int:
    """Run the acts; 0 if the proof holds."""
    with tempfile.TemporaryDirectory(prefix="millpond-demo-") as directory, View() as view:
        acknowledged, delivered, beats = (
            Path(directory, name) for name in ("acknowledged", "delivered", "beats")
        )
        total = corpus.count()
        size_mb = sum(len(line) for name in corpus.names() for line in corpus.lines_of(name)) / 1e6
        files = len(corpus.names())
        view.say(f"input: {total:,} lines, {size_mb:.1f} MB, of {files:,} Python source files")
        async with LocalCluster(BROKERS) as cluster, cluster.client() as client:
            view.say(f"{BROKERS} brokers are a cluster: {cluster.bootstrap}")
            for topic, partitions in ((corpus.TOPIC, PARTITIONS), (probe.TOPIC, BROKERS)):
                await client.admin.create_topic(topic, partitions=partitions)
            stopwatch = Probe(client, beats, BROKERS)
            async with _background(stopwatch.run(), watched(client, corpus.TOPIC, view, TABLE_SECONDS)):
                demo = Demo(cluster, client, stopwatch, view)
                view.say(
                    f"producing: {PARTITIONS} partitions, each on {BROKERS} brokers, and acks of all in sync"
                )
                await demo.act(
                    "produce",
                    [str(HERE / "produce.py"), cluster.bootstrap, str(acknowledged)],
                    Tally(acknowledged, lambda row: int(row[2])),
                    total,
                    [(0.2, demo.kill_leader), (0.6, demo.kill_controller)],
                )
                view.say("consuming from the beginning")
                await demo.act(
                    "consume",
                    [str(HERE / "consume.py"), cluster.bootstrap, str(delivered)],
                    Tally(delivered, lambda row: int(row[2]) - int(row[1])),
                    total,
                    [(0.3, demo.kill_leader)],
                )
            view.say("a fresh process reads everything and compares")
            proven = await verified(view, cluster.bootstrap, acknowledged, delivered, beats)
        verdict = "PROVEN" if proven else "NOT PROVEN"
        view.say(f"{verdict} by a fresh process, {time.monotonic() - view.began:.1f} s in all")
    return 0 if proven else 1


@asynccontextmanager
async def _background(*works: Awaitable[None]) -> AsyncIterator[None]:
    """What goes on beside the block, and ends with it."""

    async def run(work: Awaitable[None]) -> None:
        await work

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(run(work)) for work in works]
        yield
        for task in running:
            task.cancel()


async def verified(view: View, bootstrap: str, *journals: Path) -> bool:
    """What the verifier found, in words; whether all of it holds."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HERE / "verify.py"),
        bootstrap,
        *map(str, journals),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PHASE_SECONDS_MAX):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if not said:
        view.say("the verifier died")
        return False
    for line in in_words(json.loads(said)):
        view.say(line)
    return process.returncode == 0


def in_words(found: dict[str, Any]) -> list[str]:
    """What the verifier found."""
    return [
        f"acknowledged lines found at their offsets: {found['acknowledged']:,} of {found['lines']:,}",
        f"missing {found['missing']}, wrong {found['wrong']}, out of order {found['unordered']}",
        f"files whole: {found['files_whole']:,} of {found['files']:,}",
        f"there without an acknowledgement, or twice: {found['records'] - found['acknowledged']:,}",
        f"never delivered: {found['undelivered']}, delivered twice: {found['delivered_twice']:,}",
        f"acknowledged heartbeats: {found['heartbeats']:,}, missing {found['heartbeats_missing']}",
    ]


def _numbers(partitions: list[int]) -> str:
    if not partitions:
        return "no partition"
    return f"partition{'' if len(partitions) == 1 else 's'} {', '.join(map(str, partitions))}"


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
