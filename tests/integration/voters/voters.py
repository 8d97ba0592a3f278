"""Voters in processes of their own, on loopback: started, driven, and ended the hard way."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from millpond._local.ports import free_ports
from millpond_broker.consensus.group import format_founder
from millpond_broker.consensus.store import format_joiner
from millpond_broker.core.commands import Voter
from millpond_broker.storage.files import OsFiles

SECRET: Final = "a secret that only these tests know"
CLUSTER: Final = b"cluster of tests"
SECONDS_MAX: Final = 30.0
ANSWER_SECONDS_MAX: Final = 900.0
"""Of any request: some measure for minutes."""
PROCESS: Final = Path(__file__).with_name("process.py")


class VoterProcess:
    """One voter. `log` has what it wrote on standard error, of all its lives."""

    def __init__(self, config: dict[str, Any], log: Path) -> None:
        self.config = config
        self.log = log
        self._process: asyncio.subprocess.Process | None = None
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ids = itertools.count(1)
        self._reading: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    @property
    def broker_id(self) -> int:
        """Its id."""
        return int(self.config["broker_id"])

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None, "it runs"
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether there is a process that has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it, and wait until it takes requests."""
        self._ready = asyncio.Event()
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(PROCESS),
                json.dumps(self.config),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=256 << 20,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
            )
        self._reading = asyncio.Task(self._read(), name=f"voter {self.broker_id}")
        async with asyncio.timeout(SECONDS_MAX):
            await self._ready.wait()

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """What it answers. Raises ConnectionError if it ends before."""
        assert self._process is not None, "it was started"
        assert self._process.stdin is not None, "by a pipe"
        number = next(self._ids)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            if not self.runs:
                raise ConnectionError("it does not run")
            line = json.dumps({"id": number, "do": do, "with": arguments})
            self._process.stdin.write(line.encode() + b"\n")
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                return await answer
        finally:
            self._answers.pop(number, None)

    def signal(self, number: int) -> None:
        """Send its process a signal."""
        os.kill(self.pid, number)

    async def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.signal(signal.SIGKILL)
        await self._ended()

    async def stop(self) -> None:
        """Let it end by itself."""
        if self._process is None:
            return
        if self.runs:
            assert self._process.stdin is not None, "by a pipe"
            self._process.stdin.close()
            try:
                async with asyncio.timeout(SECONDS_MAX):
                    await self._process.wait()
            except TimeoutError:
                self.signal(signal.SIGKILL)
        await self._ended()

    async def _ended(self) -> None:
        assert self._process is not None, "it was started"
        await self._process.wait()
        if self._reading is not None:
            await self._reading
        if self._process.stdin is not None:
            self._process.stdin.close()

    async def _read(self) -> None:
        assert self._process is not None, "it was started"
        assert self._process.stdout is not None, "by a pipe"
        while line := await self._process.stdout.readline():
            answer = json.loads(line)
            if "ready" in answer:
                self._ready.set()
            elif (waiting := self._answers.get(answer.get("id", 0))) and not waiting.done():
                waiting.set_result(answer)
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_exception(ConnectionError(f"voter {self.broker_id} ended"))


class Voters:
    """A group of them, below a directory."""

    def __init__(self, root: Path, count: int, **config: Any) -> None:
        self.root = root
        self.addresses: dict[int, str] = {}
        self.processes: dict[int, VoterProcess] = {}
        self.more = config
        for broker_id, port in enumerate(free_ports(count), start=1):
            self.addresses[broker_id] = f"127.0.0.1:{port}"
        founders = tuple(self.record(broker_id) for broker_id in self.addresses)
        for founder in founders:
            format_founder(OsFiles(), self._directory(founder.broker_id), cluster_id=CLUSTER, voters=founders)
            self._make(founder.broker_id)

    def record(self, broker_id: int) -> Voter:
        """As the image has it."""
        return Voter(broker_id, f"disk-{broker_id}", self.addresses[broker_id])

    def joiner(self, broker_id: int) -> VoterProcess:
        """One more, on a blank disk, that is not a voter yet."""
        self.addresses[broker_id] = f"127.0.0.1:{free_ports(1)[0]}"
        format_joiner(OsFiles(), self._directory(broker_id))
        return self._make(broker_id)

    def _directory(self, broker_id: int) -> Path:
        path = self.root / f"voter-{broker_id}"
        path.mkdir(exist_ok=True)
        return path

    def _make(self, broker_id: int) -> VoterProcess:
        config = {
            "broker_id": broker_id,
            "directory": str(self._directory(broker_id)),
            "directory_id": f"disk-{broker_id}",
            "listen": self.addresses[broker_id],
            "secret": SECRET,
            "peers": {str(key): value for key, value in self.addresses.items()},
            **self.more,
        }
        self.processes[broker_id] = VoterProcess(config, self.root / f"voter-{broker_id}.log")
        return self.processes[broker_id]

    async def start(self) -> None:
        """All of them."""
        await asyncio.gather(*(process.start() for process in self.processes.values()))

    async def stop(self) -> None:
        """All that run."""
        for process in self.processes.values():
            if process.runs:
                process.signal(signal.SIGCONT)
        await asyncio.gather(*(process.stop() for process in self.processes.values()))

    async def status(self) -> dict[int, dict[str, Any]]:
        """Of all that run and answer within half a second."""

        async def ask(process: VoterProcess) -> dict[str, Any] | None:
            try:
                async with asyncio.timeout(0.5):
                    return await process.ask("status")
            except (TimeoutError, ConnectionError):
                return None

        running = [process for process in self.processes.values() if process.runs]
        found = zip(running, await asyncio.gather(*map(ask, running)), strict=True)
        return {process.broker_id: status for process, status in found if status is not None}

    async def leader(self, *, besides: int | None = None) -> VoterProcess:
        """The one that leads, once there is one."""
        give_up_at = time.monotonic() + SECONDS_MAX
        while time.monotonic() < give_up_at:
            leading = {
                status["term"]: broker_id
                for broker_id, status in (await self.status()).items()
                if status["term"] and broker_id != besides
            }
            if leading:
                return self.processes[leading[max(leading)]]
            await asyncio.sleep(0.02)
        raise AssertionError("nobody leads")

    async def controller(self, *, besides: int | None = None) -> VoterProcess:
        """The leader, after its claim."""
        while True:
            leader = await self.leader(besides=besides)
            try:
                answer = await leader.ask("claim", timeout=5)
            except ConnectionError:
                continue
            if answer["outcome"] == "ok":
                return leader

    async def same(self) -> dict[str, Any]:
        """Wait until all that run have the same image; its status."""

        def is_same(found: dict[int, dict[str, Any]]) -> bool:
            return len({status["version"] for status in found.values()}) == 1

        found = await self.until(is_same)
        assert len({status["digest"] for status in found.values()}) == 1, found
        return next(iter(found.values()))

    async def until(
        self, condition: Callable[[dict[int, dict[str, Any]]], bool]
    ) -> dict[int, dict[str, Any]]:
        """Wait until it holds of the status of all that run."""
        give_up_at = time.monotonic() + SECONDS_MAX
        found: dict[int, dict[str, Any]] = {}
        while time.monotonic() < give_up_at:
            found = await self.status()
            running = [process for process in self.processes.values() if process.runs]
            if len(found) == len(running) and condition(found):
                return found
            await asyncio.sleep(0.05)
        raise AssertionError(f"it did not come about: {found}")


class Load:
    """Topics created one after another by several hands, at whoever leads; which of them were acknowledged.

    A hand that does not know what became of a topic goes on with another.
    """

    def __init__(self, voters: Voters, hands: int = 4) -> None:
        self.voters = voters
        self.acknowledged: set[str] = set()
        self.unknown = 0
        self._stopping = False
        self._leader: VoterProcess | None = None
        self._names = itertools.count(1)
        self._tasks = [asyncio.Task(self._create(), name="load") for _ in range(hands)]

    async def stop(self) -> None:
        """Let each hand finish what it has in hand."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def more(self, count: int) -> None:
        """Wait until so many more were acknowledged."""
        wanted = len(self.acknowledged) + count
        give_up_at = time.monotonic() + SECONDS_MAX
        while len(self.acknowledged) < wanted:
            assert time.monotonic() < give_up_at, "nothing is acknowledged"
            await asyncio.sleep(0.02)

    async def _create(self) -> None:
        while not self._stopping:
            name = f"topic-{next(self._names)}"
            if (leader := self._leader) is None:
                self._leader = await self._find()
                await asyncio.sleep(0.02)
                continue
            try:
                async with asyncio.timeout(1):  # one that was stopped does not answer at all
                    answer = await leader.ask("create", name=name, timeout=0.8)
            except (ConnectionError, TimeoutError):
                answer = {"outcome": "unknown"}
            if answer["outcome"] == "ok" and answer["result"] == "Applied":
                self.acknowledged.add(name)
                continue
            self.unknown += answer["outcome"] == "unknown"
            if self._leader is leader:
                self._leader = None

    async def _find(self) -> VoterProcess | None:
        leading = {status["term"]: key for key, status in (await self.voters.status()).items()}
        return self.voters.processes[leading[max(leading)]] if max(leading, default=0) else None
