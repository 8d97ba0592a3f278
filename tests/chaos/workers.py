"""The client processes of a chaos run, seen from the run: started, listened to, killed and ended."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Final

from tests.chaos.judge import write_history
from tests.sim.history.operations import Crash

TOPIC: Final = "chaos"
PARTITIONS: Final = 6
MIN_INSYNC: Final = 2
WORKERS: Final = {"w1": "write", "w2": "write", "r1": "follow", "r2": "reread"}
SETTLED_SECONDS_MAX: Final = 120.0
"""For writers to learn what became of all they sent, and for the fresh reader."""


class Workers:
    """The client processes, and what they last told."""

    def __init__(self, bootstrap: str, directory: Path, options: argparse.Namespace) -> None:
        self._bootstrap = bootstrap
        self._directory = directory
        self._options = options
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._roles: dict[str, str] = {}
        self._counts: dict[str, dict[str, int]] = {}
        self._listening: list[asyncio.Task[None]] = []

    def total(self, what: str) -> int:
        """Of all of them."""
        return sum(counts.get(what, 0) for counts in self._counts.values())

    async def start(self, name: str, role: str) -> None:
        """One more."""
        command = ["-m", "tests.chaos.worker", role, "--name", name, "--topic", TOPIC]
        command += ["--partitions", str(PARTITIONS), "--bootstrap", self._bootstrap]
        command += ["--seed", str(self._options.seed), "--acks", self._options.acks]
        command += ["--history", str(self._directory / f"{name}.jsonl")]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
        )
        self._processes[name], self._roles[name] = process, role
        self._listening.append(asyncio.create_task(self._listen(name, process), name=name))

    async def _listen(self, name: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None, "it is a pipe"
        async for line in process.stdout:
            told = json.loads(line)
            self._counts[name] = {what: count for what, count in told.items() if what != "name"}

    def ended(self) -> list[str]:
        """Those that are not there any more, though nobody ended them."""
        return [name for name, process in self._processes.items() if process.returncode is not None]

    async def crash_writer(self, number: int) -> str:
        """SIGKILL to the oldest writer, with records under way; another takes its place."""
        name = next(name for name, role in self._roles.items() if role == "write" and name in self._processes)
        process = self._processes.pop(name)
        process.kill()
        await process.wait()
        crashed = Crash(time=time.monotonic(), process=name)
        write_history([crashed], self._directory / f"{name}-crashed.jsonl")
        await self.start(f"w{number}", "write")
        return name

    async def stop(self) -> list[str]:
        """SIGTERM to all, and wait; what went wrong with them."""
        names = list(self._processes)
        for name in names:
            if self._processes[name].returncode is None:
                self._processes[name].terminate()
        return await self.wait(*names)

    async def wait(self, *names: str) -> list[str]:
        """Until these have ended; what went wrong with them."""
        wrong = []
        for name in names:
            process = self._processes.pop(name)
            try:
                async with asyncio.timeout(SETTLED_SECONDS_MAX):
                    status = await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
                wrong.append(f"client {name} did not end in {SETTLED_SECONDS_MAX:.0f} s")
            else:
                if status:
                    wrong.append(f"client {name} ended with status {status}")
        return wrong

    async def close(self) -> None:
        """Whoever is left is killed."""
        for process in self._processes.values():
            if process.returncode is None:
                process.kill()
            await process.wait()
        await asyncio.gather(*self._listening, return_exceptions=True)
