"""Three real containers under real faults: `make chaos MINUTES=n SEED=n NEMESIS=kill,pause`.

The image and the compose file of `make up`, in a project of their own. Writers and readers are processes on
this host with the SDK; the nemesis strikes through the Docker SDK; one line a second says how it stands. In
the end all is healed, a process that knows nothing reads everything, the logs of all replicas are compared,
and the checker judges the history of all of them. The result goes to docs/proofs.txt, the exit status says it
too, and what failed leaves its history and logs in build/.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from docker.errors import DockerException

import millpond
from tests.chaos.containers import Containers
from tests.chaos.judge import FRESH, differences, judge, merged, pauses, write_history
from tests.chaos.nemesis import NAMES, WHOLE_SECONDS_MAX, Nemesis
from tests.chaos.observer import Observer
from tests.chaos.report import Report
from tests.chaos.timeline import Timeline
from tests.chaos.workers import MIN_INSYNC, PARTITIONS, TOPIC, WORKERS, Workers

PROOFS: Final = Path("docs/proofs.txt")
RESULTS: Final = Path("build")
WARM_SECONDS: Final = 3.0
"""Of undisturbed work first: everybody has found its leaders."""
LOST_BYTES: Final = 2000
"""Some dozens of records, so that most of what is lost was acknowledged."""
SAME_LOOKS: Final = 10
"""A second apart, for the last batches to reach all replicas."""
SHOWN_MAX: Final = 3
"""Of each kind of what is wrong: one fault makes hundreds of the same."""


class Run:
    """One run, from nothing to its verdict."""

    def __init__(self, options: argparse.Namespace, containers: Containers, directory: Path) -> None:
        self._options = options
        self._containers = containers
        self._directory = directory
        self._workers = Workers(containers.bootstrap, directory, options)
        self._observer = Observer(containers, TOPIC)
        self.timeline = Timeline(TOPIC, MIN_INSYNC)
        self._began_at = time.monotonic()
        self._writers = sum(role == "write" for role in WORKERS.values())
        self.nemesis = Nemesis(
            containers,
            self._observer,
            NAMES if options.nemesis == "all" else options.nemesis.split(","),
            options.seed,
            crash_client=self._crash_client,
            tell=self._say,
        )
        self.failures: list[str] = []

    def _say(self, text: str) -> None:
        print(f"{datetime.now(UTC):%H:%M:%S} {time.monotonic() - self._began_at:4.0f} s  {text}", flush=True)

    async def work(self) -> None:
        """Clients at work and the nemesis among them, until everything was read afresh."""
        async with millpond.connect(self._containers.bootstrap, timeout=60.0) as client:
            await client.admin.create_topic(TOPIC, partitions=PARTITIONS, replicas=3, min_insync=MIN_INSYNC)
        async with self._observing():
            try:
                for name, role in WORKERS.items():
                    await self._workers.start(name, role)
                await asyncio.sleep(WARM_SECONDS)
                await self.nemesis.run(time.monotonic() + self._options.minutes * 60)
                self.failures += self.nemesis.failures
                await self._finish()
            finally:
                await self._workers.close()

    async def _crash_client(self) -> None:
        self._writers += 1
        name = await self._workers.crash_writer(self._writers)
        self._say(f"SIGKILL to client {name}; w{self._writers} begins")

    async def _finish(self) -> None:
        self._say("healing all of it; then writers settle, and a fresh process reads everything")
        await asyncio.to_thread(self._containers.heal)
        try:
            async with asyncio.timeout(WHOLE_SECONDS_MAX):
                await self._observer.becomes_whole()
        except TimeoutError:
            self.failures.append(
                f"not whole {WHOLE_SECONDS_MAX:.0f} s after the end: {self._observer.line()}"
            )
        self.failures += [f"client {name} ended by itself" for name in self._workers.ended()]
        self.failures += await self._workers.stop()
        if self._options.plant_loss:
            self._say(f"planting a loss: all disks lose the last {LOST_BYTES} bytes of partition 0")
            await asyncio.to_thread(self._containers.lose_tail, f"{TOPIC}-0", LOST_BYTES)
        await self._workers.start(FRESH, FRESH)
        self.failures += await self._workers.wait(FRESH)
        self.failures += await self._replicas_differ()
        self.failures += await asyncio.to_thread(self._containers.faults)

    async def _replicas_differ(self) -> list[str]:
        """Nobody writes any more: soon all have the same, down to what was never acknowledged."""
        found: list[str] = []
        for _ in range(SAME_LOOKS):
            found = differences(await asyncio.to_thread(self._containers.logs_on_disk))
            if not found:
                break
            await asyncio.sleep(1.0)
        return found

    @asynccontextmanager
    async def _observing(self) -> AsyncIterator[None]:
        addresses = self._containers.bootstrap.split(",")
        watching = (self._observer.run(), self.timeline.run(addresses), self._show())
        tasks = [asyncio.create_task(watch) for watch in watching]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, Exception):
                    self.failures.append(f"the observer failed: {outcome!r}")

    async def _show(self) -> None:
        """The live view."""
        before = 0
        while True:
            workers = self._workers
            acknowledged = workers.total("acknowledged")
            last = ""
            if self.nemesis.strikes:
                strike = self.nemesis.strikes[-1]
                now = time.monotonic()
                last = f" | STRUCK {now - strike.began_at:.0f} s: {strike}"
                if strike.healed_at is not None:
                    last = f" | healed {now - strike.healed_at:.0f} s ago: {strike}"
            self._say(
                f"{self._observer.line()} | acked {acknowledged:,} (+{acknowledged - before})"
                f" failed {workers.total('failed')} unknown {workers.total('unknown')}"
                f" read {workers.total('read'):,}{last}"
            )
            before = acknowledged
            await asyncio.sleep(1.0)


def tell(wrong: Sequence[str]) -> None:
    """How many of each kind, and the first of them."""
    for kind, count in Counter(line.split()[0] for line in wrong).items():
        shown = [line for line in wrong if line.split()[0] == kind][:SHOWN_MAX]
        print(f"WRONG: {kind}, {count} times:", *shown, sep="\n    ")


def prove(options: argparse.Namespace, told: str, failed: int) -> None:
    """A line in docs/proofs.txt."""
    git = ["git", "describe", "--always"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    git = ["git", "status", "--porcelain", "--", ".", f":(exclude){PROOFS}"]  # which this itself changes
    if subprocess.run(git, capture_output=True, text=True, check=True).stdout:
        commit += "-dirty"
    what = f"chaos MINUTES={options.minutes:g} SEED={options.seed} NEMESIS={options.nemesis}"
    line = f"{datetime.now(UTC):%F} {commit} {what} {f'FAILED ({failed})' if failed else 'clean'}: {told}"
    print(line)
    if not options.unproven and options.acks == "all" and not options.plant_loss:
        with PROOFS.open("a") as proofs:
            proofs.write(line + "\n")


def main() -> int:
    """0: all clean, 1: not, 2: no engine."""
    options = _options()
    try:
        containers = Containers(options.project, options.port)
    except DockerException as error:
        print(f"make chaos: no Docker engine answers: {error}", file=sys.stderr)
        return 2
    directory = RESULTS / f"chaos-{options.seed}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    directory.mkdir(parents=True)
    print(f"seed {options.seed}; building the image and starting three brokers", flush=True)
    containers.up()
    try:
        run = Run(options, containers, directory)
        try:
            asyncio.run(run.work())
        finally:
            run.timeline.write(directory / "metadata.log")
        history = list(merged(directory.glob("*.jsonl")))
        verdict = judge(history)
        found = pauses(history, run.nemesis.strikes)
        told = Report(run.nemesis.strikes, found, run.timeline, verdict).show()
        wrong = run.failures + verdict.anomalies
        wrong += [
            f"no record in some partition after {strike}"
            for strike, pause in zip(run.nemesis.strikes, found, strict=True)
            if pause is None
        ]
        tell(wrong)
        prove(options, told, len(wrong))
        if wrong:
            write_history(history, directory / "history.jsonl")
            print(f"history and logs: {directory}; again, with its times more or less: SEED={options.seed}")
        elif options.save:
            print(f"history and logs: {directory}")
        else:
            for path in directory.iterdir():
                path.unlink()
            directory.rmdir()
        return int(bool(wrong))
    finally:
        if directory.exists():
            containers.save_logs(directory)
        if not options.keep:
            containers.down()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="of faults; the end takes a little more")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of the nemesis")
    parser.add_argument("--nemesis", default="all", help=f"all, or some, with commas: {', '.join(NAMES)}")
    parser.add_argument("--project", default="millpond-chaos", help="of compose; its containers are removed")
    parser.add_argument("--port", type=int, default=17070, help="of broker 1, as for make up")
    parser.add_argument("--unproven", action="store_true", help="leave docs/proofs.txt as it is")
    # Two ways to see that a run can fail. What acks=leader acknowledges, one disk has, and the first leader
    # that is cut off loses: noted as acks=all, it has to be found. The other needs no luck.
    parser.add_argument(
        "--acks", choices=("all", "leader"), default="all", help="leader: a run that must fail"
    )
    parser.add_argument(
        "--plant-loss",
        action="store_true",
        help="all disks forget what they had synced: a run that must fail",
    )
    parser.add_argument("--save", action="store_true", help="keep history and logs of a clean run, too")
    parser.add_argument("--keep", action="store_true", help="leave the containers as they are in the end")
    options = parser.parse_args()
    unknown = set(options.nemesis.split(",")) - {"all", *NAMES}
    if unknown:
        parser.error(f"--nemesis: {', '.join(sorted(unknown))} is none of {', '.join(NAMES)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
