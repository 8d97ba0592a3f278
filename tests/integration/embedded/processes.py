"""Starting a worker, reading what it reports with a deadline, and ending it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

SECONDS_MAX: Final = 30.0
"""Deadline of whatever a worker is waited for: on a busy machine a start of Python takes long."""
_ROOT: Final = Path(__file__).parents[3]


class Worker:
    """A running worker. Leaving its `with` kills it, if it still runs, and waits for it."""

    def __init__(self, role: str, directory: Path, *arguments: object) -> None:
        command = [sys.executable, "-m", "tests.integration.embedded.worker", role, str(directory)]
        self._process = subprocess.Popen(
            command + [str(argument) for argument in arguments],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._buffer = b""

    def line(self) -> str | None:
        """The next whole line, None at the end of the output."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + SECONDS_MAX
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._process.stdout], [], [], deadline - time.monotonic())
            assert ready, "the worker says nothing"
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def lines(self) -> list[str]:
        """Every whole line up to the end of the output."""
        found = []
        while (line := self.line()) is not None:
            found.append(line)
        return found

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone."""
        self._process.kill()
        self._process.wait(SECONDS_MAX)

    def interrupt(self) -> None:
        """What Ctrl-C sends."""
        self._process.send_signal(signal.SIGINT)

    def end(self) -> tuple[int, str]:
        """Exit status and error output of a worker that ends by itself once its input has."""
        _, errors = self._process.communicate(timeout=SECONDS_MAX)
        return self._process.returncode, errors.decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()


def report(role: str, directory: Path, *arguments: object) -> list[str]:
    """What a worker that ends by itself reported."""
    with Worker(role, directory, *arguments) as worker:
        lines = worker.lines()
        status, errors = worker.end()
    assert status == 0, errors
    return lines
