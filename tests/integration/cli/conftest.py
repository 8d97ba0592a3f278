"""A broker for the session, and the command as people run it: a process with its standard streams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from subprocess import PIPE
from typing import Any

import pytest

from millpond.testing import LocalCluster

COMMAND = (sys.executable, "-m", "millpond")
DEADLINE_S = 60


@dataclass(frozen=True)
class Cli:
    """Runs the command against one cluster, named in the environment."""

    bootstrap: str
    command: tuple[str, ...] = COMMAND

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "MILLPOND_BOOTSTRAP": self.bootstrap, "COLUMNS": "100"}

    def run(self, *words: str, stdin: bytes = b"", status: int = 0) -> subprocess.CompletedProcess[bytes]:
        """To its end, which is to be that status; and what it printed."""
        done = subprocess.run(
            [*COMMAND, *words],
            input=stdin,
            env=self.environment,
            capture_output=True,
            check=False,
            timeout=DEADLINE_S,
        )
        assert done.returncode == status, (done.returncode, done.stdout[-2000:], done.stderr[-2000:])
        assert b"Traceback" not in done.stderr
        return done

    def text(self, *words: str) -> str:
        """What it printed; nothing was said on stderr."""
        done = self.run(*words)
        assert done.stderr == b""
        return done.stdout.decode()

    def json(self, *words: str) -> list[dict[str, Any]]:
        """The objects it printed with -o json, one a line."""
        return [json.loads(line) for line in self.text(*words, "-o", "json").splitlines()]

    def refusal(self, *words: str, stdin: bytes = b"", status: int = 1) -> str:
        """The one line with which it failed."""
        done = self.run(*words, stdin=stdin, status=status)
        assert done.stdout == b""
        assert done.stderr.count(b"\n") == 1, done.stderr
        return done.stderr.decode().rstrip()

    def start(self, *words: str, stdin: int = PIPE, stdout: int = PIPE) -> subprocess.Popen[bytes]:
        """A process with pipes, to be used as a context manager."""
        return subprocess.Popen(
            [*COMMAND, *words], env=self.environment, stdin=stdin, stdout=stdout, stderr=PIPE
        )

    def topic(self, *words: str) -> str:
        """A new topic of one partition, unless `words` say otherwise."""
        name = f"t-{uuid.uuid4().hex[:12]}"
        self.run("topic", "create", name, *(words or ("--partitions", "1")))
        return name


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster() as running:
        yield running


@pytest.fixture(scope="session")
def cli(cluster: LocalCluster) -> Cli:
    return Cli(cluster.bootstrap)
