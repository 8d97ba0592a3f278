"""The product's main job on real input: `make demo`.

Every line of the Python standard library's source goes through an embedded queue. A producer process is
killed with SIGKILL half-way and started again, so is a consumer group; then a fresh process holds what is
in the queue against the files and against what was acknowledged. Exits 0 if nothing is missing.
"""

from __future__ import annotations

import json
import signal
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
from journal import rows

HERE = Path(__file__).parent
PHASE_SECONDS_MAX = 100.0
"""A process that takes longer is stuck: the whole demo is promised in two minutes."""
LOOK_SECONDS = 0.05

console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    """Run the three acts; 0 if the proof holds."""
    started = time.monotonic()
    total = corpus.count()
    size_mb = sum(len(line) for name in corpus.names() for line in corpus.lines_of(name)) / 1e6
    console.print(f"input: {total:,} lines, {size_mb:.1f} MB, of {len(corpus.names()):,} Python source files")
    with tempfile.TemporaryDirectory(prefix="millpond-demo-") as directory:
        place = Path(directory)
        queue, acknowledged, delivered = place / "queue", place / "acknowledged", place / "delivered"
        with _progress() as progress:
            producing = Act(progress, "produce", total, ["produce.py", str(queue), str(acknowledged)])
            producing.run(lambda: sum(row[2] for row in rows(acknowledged)))
            consuming = Act(progress, "consume", total, ["consume.py", str(queue), str(delivered)])
            consuming.run(lambda: sum(row[2] - row[1] for row in rows(delivered)))
        for act in (producing, consuming):
            console.print(act.summary(size_mb))
        verdict = subprocess.run(
            [sys.executable, str(HERE / "verify.py"), str(queue), str(acknowledged), str(delivered)],
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


def report(found: dict[str, Any]) -> None:
    """What the verifier found, in words."""
    console.print(
        f"acknowledged lines found at their offsets: {found['acknowledged']:,} of {found['lines']:,}; "
        f"missing {found['missing']}, wrong {found['wrong']}, out of order {found['unordered']}; "
        f"files whole: {found['files_whole']:,} of {found['files']:,}"
    )
    console.print(
        f"written without an acknowledgement: {found['records'] - found['acknowledged']:,}; "
        f"never delivered: {found['undelivered']}; delivered twice: {found['delivered_twice']:,}"
    )


def _progress() -> Progress:
    """A bar on a terminal; in a log, nothing but the lines that the acts print."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


class Act:
    """A process that is killed half-way, started again, and then runs to its end."""

    def __init__(self, progress: Progress, name: str, total: int, command: list[str]) -> None:
        self._name = name
        self._total = total
        self._command = [sys.executable, str(HERE / command[0]), *command[1:]]
        self._progress = progress
        self._task = progress.add_task(name, total=total)
        self._seconds = 0.0
        self._killed_at = 0

    def run(self, done: Callable[[], int]) -> None:
        """Run the act; `done` counts records that are done. Raises RuntimeError if the process fails."""
        console.print(f"{self._name}: started, to be killed half-way")
        self._killed_at = self._run_until(self._total // 2, done)
        console.print(f"{self._name}: SIGKILL after {self._killed_at:,} records; starting again")
        self._run_until(None, done)

    def _run_until(self, enough: int | None, done: Callable[[], int]) -> int:
        """Run the process to its end, or kill it once `enough` is done; what is done then."""
        started = time.monotonic()
        process = subprocess.Popen(self._command)
        try:
            while process.poll() is None:
                self._progress.update(self._task, completed=done())
                if enough is not None and done() >= enough:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                elif time.monotonic() - started > PHASE_SECONDS_MAX:
                    raise RuntimeError(f"{self._name} took more than {PHASE_SECONDS_MAX} s")
                else:
                    time.sleep(LOOK_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        self._seconds += time.monotonic() - started
        if process.returncode != (0 if enough is None else -signal.SIGKILL):
            raise RuntimeError(f"{self._name} ended with {process.returncode}")
        count = done()
        self._progress.update(self._task, completed=count)
        return count

    def summary(self, size_mb: float) -> str:
        """Rates over both lives of the process, its starts included."""
        return (
            f"{self._name}: {self._total:,} records in {self._seconds:.1f} s, "
            f"{self._total / self._seconds:,.0f} records/s, {size_mb / self._seconds:.1f} MB/s"
        )


if __name__ == "__main__":
    sys.exit(main())
