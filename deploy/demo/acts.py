"""What the demo does to its cluster: processes that work, and brokers that are killed meanwhile."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import corpus
import gate
import millpond
import probe
from journal import Tally
from millpond.testing import LocalCluster
from probe import Probe
from view import View

BACK_SECONDS_MAX: Final = 120.0
"""For a broker that was killed to be started again, and in sync. It takes about one; a machine that does much
else may take a hundred times as long, and that is no failure of the demo."""
PHASE_SECONDS_MAX: Final = 3 * BACK_SECONDS_MAX
"""A process that takes longer is stuck: two brokers may be waited for while it is at work."""
LOOK_SECONDS: Final = 0.05

Strike = tuple[float, Callable[[int], Awaitable[None]]]
"""After which share of the work, and what is done then, given how much that is."""


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
            async with asyncio.timeout(BACK_SECONDS_MAX):
                at = [await self._stopwatch.next_write(partition, killed_at) for partition in beats]
            took = f"{max(at) - killed_at:.2f} s after the kill"
            self._view.say(f"  next acknowledged write to what it led: {took}")
        async with asyncio.timeout(BACK_SECONDS_MAX):
            await self._cluster.aio.restart(victim - 1)
            await self._settled()
        now = time.monotonic() - killed_at
        self._view.say(f"  broker {victim} was started again and all replicas are in sync: {now:.1f} s after")

    async def _led_by(self, broker: int, topic: str = corpus.TOPIC) -> list[int]:
        found = {each.name: each for each in await self._client.admin.list_topics()}[topic]
        return [each.partition for each in found.partitions if each.leader == broker]

    async def _settled(self) -> None:
        """Every replica is in sync, and preferred leaders lead."""
        while True:
            topics = await self._client.admin.list_topics()
            partitions = [partition for topic in topics for partition in topic.partitions]
            if all(len(partition.isr) == len(partition.replicas) for partition in partitions):
                break
            await asyncio.sleep(LOOK_SECONDS)
        await self._client.admin.elect_leaders()

    async def act(
        self, name: str, command: Sequence[str], tally: Tally, total: int, strikes: Sequence[Strike]
    ) -> None:
        """As `work`, told to whoever looks on."""
        self._view.progress = lambda: f"{name}: {tally.count():,} of {total:,} records"
        began = time.monotonic()
        await work(name, command, tally, total, strikes)
        seconds = time.monotonic() - began
        self._view.progress = str
        self._view.say(f"{name}d: {total:,} records in {seconds:.1f} s, {total / seconds:,.0f} records/s")


async def work(
    name: str, command: Sequence[str], tally: Tally, total: int, strikes: Sequence[Strike]
) -> None:
    """Run a process to its end, through strikes after shares of its work. It has a `Gate`, which is opened as
    the last of them begins. Raises RuntimeError if it fails, or ends before them.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, str(int(gate.SHARE * total)), stdin=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None, "a pipe was asked for"
    try:
        async with asyncio.timeout(PHASE_SECONDS_MAX):
            for number, (share, strike) in enumerate(strikes, start=1):
                assert share < gate.SHARE, "it gets so far by itself"
                # Of what another process writes to a file there is no event to wait for.
                while process.returncode is None and tally.count() < share * total:  # noqa: ASYNC110 - see above
                    await asyncio.sleep(LOOK_SECONDS)
                if process.returncode is not None:
                    raise RuntimeError(f"{name} ended with {process.returncode} before the next kill")
                if number == len(strikes):
                    process.stdin.close()
                await strike(tally.count())
            process.stdin.close()
            if await process.wait():
                raise RuntimeError(f"{name} ended with {process.returncode}")
    finally:
        process.stdin.close()
        if process.returncode is None:
            process.kill()
            await process.wait()


def _numbers(partitions: list[int]) -> str:
    if not partitions:
        return "no partition"
    return f"partition{'' if len(partitions) == 1 else 's'} {', '.join(map(str, partitions))}"
