"""The product's main job on real input: `make demo`.

One broker, in a process of its own. Every line of the Python standard library's source is streamed to it, and
read back; the broker is killed with SIGKILL half-way through each and started again. Then a fresh process
holds what is in the topic against the files and against what was acknowledged. Exits 0 if nothing is missing.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import corpus
import millpond
from journal import rows
from millpond.testing import LocalCluster

HERE = Path(__file__).parent
PHASE_SECONDS_MAX = 100.0
"""A process that takes longer is stuck: the whole demo is promised in two minutes."""
LOOK_SECONDS = 0.05
PARTITIONS = 4

console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    """Run the acts; 0 if the proof holds."""
    started = time.monotonic()
    total = corpus.count()
    size_mb = sum(len(line) for name in corpus.names() for line in corpus.lines_of(name)) / 1e6
    console.print(f"input: {total:,} lines, {size_mb:.1f} MB, of {len(corpus.names()):,} Python source files")
    with tempfile.TemporaryDirectory(prefix="millpond-demo-") as directory, LocalCluster() as cluster:
        console.print(f"broker: ready at {cluster.bootstrap}")
        asyncio.run(create_topic(cluster.bootstrap))
        acknowledged, delivered = Path(directory, "acknowledged"), Path(directory, "delivered")
        with _progress() as progress:
            producing = Act(progress, "produce", total, ["produce.py", cluster.bootstrap, str(acknowledged)])
            producing.run(cluster, lambda: sum(row[2] for row in rows(acknowledged)))
            consuming = Act(progress, "consume", total, ["consume.py", cluster.bootstrap, str(delivered)])
            consuming.run(cluster, lambda: sum(row[2] - row[1] for row in rows(delivered)))
        for act in (producing, consuming):
            console.print(act.summary(size_mb))
        verdict = subprocess.run(
            [sys.executable, str(HERE / "verify.py"), cluster.bootstrap, str(acknowledged), str(delivered)],
            stdout=subprocess.PIPE,
            timeout=PHASE_SECONDS_MAX,
            check=False,
        )
    if not verdict.stdout:
        console.print("the verifier died")
        return 1
    report(json.loads(verdict.stdout))
    proven = verdict.returncode == 0
    verdict_word = "PROVEN" if proven else "NOT PROVEN"
    console.print(f"{verdict_word} by a fresh process, {time.monotonic() - started:.1f} s in all")
    return 0 if proven else 1


async def create_topic(bootstrap: str) -> None:
    """Where the lines go."""
    async with millpond.connect(bootstrap) as client:
        await client.admin.create_topic(corpus.TOPIC, partitions=PARTITIONS)


def report(found: dict[str, Any]) -> None:
    """What the verifier found, in words."""
    console.print(
        f"acknowledged lines found at their offsets: {found['acknowledged']:,} of {found['lines']:,}; "
        f"missing {found['missing']}, wrong {found['wrong']}, out of order {found['unordered']}; "
        f"files whole: {found['files_whole']:,} of {found['files']:,}"
    )
    console.print(
        f"in the topic without an acknowledgement, or twice: {found['records'] - found['acknowledged']:,}; "
        f"never delivered: {found['undelivered']}; delivered twice: {found['delivered_twice']:,}"
    )


def _progress() -> Progress:
    """A bar on a terminal; in a log, nothing but the lines that the acts print."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


class Act:
    """A process that does its work through a kill of the broker half-way."""

    def __init__(self, progress: Progress, name: str, total: int, command: list[str]) -> None:
        self._name = name
        self._total = total
        self._command = [sys.executable, str(HERE / command[0]), *command[1:]]
        self._progress = progress
        self._task = progress.add_task(name, total=total)
        self._seconds = 0.0

    def run(self, cluster: LocalCluster, done: Callable[[], int]) -> None:
        """Run the act; `done` counts records that are done. Raises RuntimeError if the process fails."""
        console.print(f"{self._name}: started; the broker is to be killed half-way")
        started = time.monotonic()
        killed = False
        process = subprocess.Popen(self._command)
        try:
            while process.poll() is None:
                count = done()
                self._progress.update(self._task, completed=count)
                if not killed and count >= self._total // 2:
                    cluster.kill(0)
                    console.print(
                        f"{self._name}: SIGKILL to the broker after {count:,} records; starting it again"
                    )
                    cluster.restart(0)
                    killed = True
                elif time.monotonic() - started > PHASE_SECONDS_MAX:
                    raise RuntimeError(f"{self._name} took more than {PHASE_SECONDS_MAX} s")
                else:
                    time.sleep(LOOK_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        self._seconds = time.monotonic() - started
        if process.returncode != 0:
            raise RuntimeError(f"{self._name} ended with {process.returncode}")
        if not killed:
            raise RuntimeError(f"{self._name} was done before the broker could be killed")
        self._progress.update(self._task, completed=done())

    def summary(self, size_mb: float) -> str:
        """Rates over the whole act: starts, kill and recovery included."""
        return (
            f"{self._name}: {self._total:,} records in {self._seconds:.1f} s, "
            f"{self._total / self._seconds:,.0f} records/s, {size_mb / self._seconds:.1f} MB/s"
        )


if __name__ == "__main__":
    sys.exit(main())
