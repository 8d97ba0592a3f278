"""`make up` and `make down`: three brokers in containers, from nothing to a bootstrap string, and away again.

The standard library only: it runs before anything is installed. docker-compose.yml says what the cluster is;
here is what compose does not do in both of its generations: make the secret, build once for three, wait until
it is healthy.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMAGE = "millpond:local"
BROKERS = (1, 2, 3)
PORT_STEP = 10
HTTP_OFFSET = 2
SECRETS = ROOT / "deploy" / "docker" / "secrets"
HEALTHY_SECONDS_MAX = 120.0
"""From the start of the containers: founding takes a second or two, recovery after a crash some more."""
LOOK_SECONDS = 0.25
LOG_LINES = "30"


class Failed(Exception):
    """What the person at the terminal is told, in a line."""


class Cluster:
    """One project of compose. `port` is of broker 1; the others add ten each, HTTP two."""

    def __init__(self, project: str, compose: str, port: int, *, names: bool) -> None:
        self._project = project
        self._compose = (*(compose.split() or _find_compose()), "--project-name", project)
        self._ports = {broker: port + PORT_STEP * (broker - 1) for broker in BROKERS}
        self._hosts = {broker: f"broker-{broker}" if names else "127.0.0.1" for broker in BROKERS}

    @property
    def bootstrap(self) -> str:
        """host:port of every broker, as the brokers themselves tell it."""
        return ",".join(f"{self._hosts[broker]}:{self._ports[broker]}" for broker in BROKERS)

    def up(self) -> None:
        """Returns when all three are healthy. Raises Failed."""
        self._run("build", "broker-1")
        self._make_secret()
        began = time.monotonic()
        self._run("up", "-d", "--no-build")
        containers = {broker: self._container(broker) for broker in BROKERS}
        while waiting := [broker for broker in BROKERS if _health(containers[broker]) != "healthy"]:
            if time.monotonic() - began > HEALTHY_SECONDS_MAX:
                self._run("logs", "--tail", LOG_LINES, *(f"broker-{broker}" for broker in waiting))
                raise Failed(
                    f"not healthy after {HEALTHY_SECONDS_MAX:.0f} s: {waiting}; their logs are above"
                )
            time.sleep(LOOK_SECONDS)
        http = ", ".join(f"{port + HTTP_OFFSET}" for port in self._ports.values())
        print(f"three brokers are healthy, {time.monotonic() - began:.1f} s after their start")
        print(f"HTTP (/metrics, /readyz) on 127.0.0.1: {http}")
        print(f"MILLPOND_BOOTSTRAP={self.bootstrap}")

    def down(self, *, volumes: bool) -> None:
        """Stops the brokers cleanly, and removes all but their data; with `volumes` those, too."""
        self._run("down", *(["--volumes"] if volumes else []))

    def _make_secret(self) -> None:
        SECRETS.mkdir(mode=0o700, exist_ok=True)
        made_by = ("--user", "0:0", "--network", "none", "--rm", "--entrypoint", "python3")
        mounted = ("--volume", f"{SECRETS}:/secrets")
        _call(["docker", "run", *made_by, *mounted, IMAGE, "/opt/millpond/secret.py", "/secrets/cluster"])

    def _container(self, broker: int) -> str:
        return _ask([*self._compose, "ps", "--quiet", f"broker-{broker}"], self._environment()).strip()

    def _run(self, *arguments: str) -> None:
        _call([*self._compose, *arguments], self._environment())

    def _environment(self) -> dict[str, str]:
        """What docker-compose.yml takes from it."""
        found = dict(os.environ)
        found["MILLPOND_SECRET"] = str(SECRETS / "cluster")
        for broker in BROKERS:
            found[f"MILLPOND_HOST_{broker}"] = self._hosts[broker]
            found[f"MILLPOND_PORT_{broker}"] = str(self._ports[broker])
            found[f"MILLPOND_HTTP_PORT_{broker}"] = str(self._ports[broker] + HTTP_OFFSET)
        return found


def _find_compose() -> tuple[str, ...]:
    """v2 if docker has it, else v1. Raises Failed where there is neither, or no engine."""
    if shutil.which("docker") is None:
        raise Failed("docker was not found: install Docker Engine and compose (docs/operations.md)")
    engine = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    if engine.returncode:
        raise Failed(f"no Docker engine answers: {(engine.stderr or engine.stdout).strip().splitlines()[-1]}")
    if not subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        return ("docker", "compose")
    if shutil.which("docker-compose") is None:
        raise Failed("neither `docker compose` nor docker-compose was found: install one of them")
    return ("docker-compose",)


def _health(container: str) -> str:
    """healthy, unhealthy, starting; or what the container does instead."""
    told = _ask(["docker", "inspect", "--format", "{{json .State}}", container])
    state = json.loads(told)
    return str(state["Health"]["Status"] if state["Running"] else state["Status"])


def _call(command: Sequence[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    if done.returncode:
        raise Failed(f"`{' '.join(command)}` ended with status {done.returncode}")


def _ask(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"`{' '.join(command)}`: {done.stderr.strip()}")
    return done.stdout


def main() -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("do", choices=("up", "down"))
    parser.add_argument("--project", default="millpond", help="compose's name for all of it")
    parser.add_argument("--compose", default="", help="the command; found if not given")
    parser.add_argument("--port", type=int, default=7070, help="of broker 1; the others add 10")
    parser.add_argument("--names", action="store_true", help="brokers are broker-1, … to their clients")
    parser.add_argument("--volumes", action="store_true", help="down: the data, too")
    arguments = parser.parse_args()
    try:
        cluster = Cluster(arguments.project, arguments.compose, arguments.port, names=arguments.names)
        if arguments.do == "up":
            cluster.up()
        else:
            cluster.down(volumes=arguments.volumes)
    except Failed as failed:
        print(f"make {arguments.do}: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
