"""Sections of the benchmark on the metadata log between three voters, each a process of its own.

Three processes and this one share the machine's cores, so that what they reach together is what a laptop
gives. Every command is synced by two voters before its outcome.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.integration.voters.voters import VoterProcess, Voters

ROUNDS = 5
COMMANDS = 2_000
IN_FLIGHT = 256
LEADER_KILLS = 100
SATURATED_SECONDS = 300.0
MILLION = 1_000_000
SETTLE_SECONDS = 20.0
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

Row = dict[str, Any]


@asynccontextmanager
async def voters(**config: Any) -> AsyncIterator[Voters]:
    """Three voters that run, on the file system of the current directory."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as directory:
        group = Voters(Path(directory), 3, **config)
        await group.start()
        try:
            yield group
        finally:
            await group.stop()


def row(name: str, unit: str, found: list[float], **more: float) -> Row:
    """A line of the table."""
    return Row(name=name, unit=unit, median=statistics.median(found), min=min(found), max=max(found), **more)


def at(found: list[float], share: float) -> float:
    """The value below which that share of a sorted list lies."""
    return found[min(len(found) - 1, int(len(found) * share))]


def cpu_seconds(process: VoterProcess) -> float:
    """It has used so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def resident_mb(process: VoterProcess) -> float:
    """It holds in memory."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


async def _commands() -> list[Row]:
    async with voters() as group:
        leader = await group.controller()
        await leader.ask("measure", count=COMMANDS, in_flight=32)
        one, many = [], []
        for _ in range(ROUNDS):
            one.append(await leader.ask("measure", count=COMMANDS // 4, in_flight=1))
            many.append(await leader.ask("measure", count=2 * COMMANDS, in_flight=IN_FLIGHT))
        assert not any(found["errors"] for found in one + many), "all were applied"
        p99 = statistics.median(1e3 * at(found["took"], 0.99) for found in one)
        rows = [
            row("one after another", "ms", [1e3 * at(found["took"], 0.5) for found in one], p99_ms=p99),
            row(f"{IN_FLIGHT} in flight", "commands/s", [2 * COMMANDS / found["seconds"] for found in many]),
        ]
        processes = list(group.processes.values())
        before = [cpu_seconds(process) for process in processes]
        await asyncio.sleep(SETTLE_SECONDS)
        used = [cpu_seconds(process) - was for process, was in zip(processes, before, strict=True)]
        rows.append(row("idle, each voter", "% CPU", [100 * seconds / SETTLE_SECONDS for seconds in used]))
        rows.append(row("idle, each voter", "MB", [resident_mb(process) for process in processes]))
        return rows


async def _elections() -> list[Row]:
    elected, served = [], []
    async with voters() as group:
        leader = await group.controller()
        for _ in range(LEADER_KILLS):
            others = [process for process in group.processes.values() if process is not leader]
            waiting = [asyncio.Task(process.ask("wait_to_lead")) for process in others]
            await asyncio.sleep(0.3)  # the next kill does not come at the moment of a heartbeat
            began = time.monotonic()
            await leader.kill()
            done, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            elected.append(time.monotonic() - began)
            successor = others[waiting.index(done.pop())]
            answer = await successor.ask("claim", timeout=10)
            served.append(time.monotonic() - began)
            for task in left:
                task.cancel()
            await asyncio.wait(left) if left else None
            assert answer["outcome"] == "ok", answer
            await leader.start()
            leader = await group.controller()
            await group.same()
    return [
        row(f"{LEADER_KILLS} kills: until another leads", "s", elected, p99_s=at(sorted(elected), 0.99)),
        row("until its first commands are applied", "s", served, p99_s=at(sorted(served), 0.99)),
    ]


async def _saturation() -> list[Row]:
    async with voters() as group:
        leader = await group.controller()
        term = (await leader.ask("status"))["term"]
        busy = [
            asyncio.Task(process.ask("saturate", seconds=SATURATED_SECONDS))
            for process in group.processes.values()
        ]
        took, terms = [], {term}
        until = time.monotonic() + SATURATED_SECONDS
        while time.monotonic() < until:
            found = await leader.ask("measure", count=20, in_flight=1)
            took += found["took"]
            status = await leader.ask("status")
            terms.add(status["term"])
            if not status["term"]:
                leader = await group.controller()
        for task in busy:
            await task
        leader = await group.controller()
        last = (await leader.ask("status"))["term"]
        return [
            row("terms gone through in five minutes of busy loops", "terms", [float(last - term)]),
            row("a command meanwhile", "ms", [1e3 * seconds for seconds in sorted(took)]),
        ]


async def _million() -> list[Row]:
    async with voters() as group:
        leader = await group.controller()
        before = [resident_mb(process) for process in group.processes.values()]
        found = await leader.ask("measure", count=MILLION, in_flight=IN_FLIGHT)
        assert not found["errors"], found["errors"]
        await group.same()
        sizes = [
            sum(file.stat().st_size for file in (group.root / f"voter-{key}" / "metadata").iterdir()) / 1e6
            for key in group.processes
        ]
        return [
            row("a million commands", "commands/s", [MILLION / found["seconds"]]),
            row("memory of each voter before", "MB", before),
            row("memory of each voter after", "MB", [resident_mb(p) for p in group.processes.values()]),
            row("journal and snapshots of each voter", "MB", sizes),
        ]


def section(doc: str, work: Callable[[], Coroutine[Any, Any, list[Row]]]) -> Callable[[], Iterator[Row]]:
    """A section of the table."""

    def rows() -> Iterator[Row]:
        yield from asyncio.run(work())

    rows.__doc__ = doc
    return rows


SECTIONS = {
    "metadata": section("Commands through three voters, and what they cost while idle.", _commands),
}
LONG_SECTIONS = {
    "elections": section("The leader is killed, again and again.", _elections),
    "saturation": section("Voters whose event loops have no rest.", _saturation),
    "million": section("What a million commands leave behind.", _million),
}
