"""The three containers of a chaos run: made as `make up` makes them, and struck through the Docker SDK."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import docker
from docker.errors import APIError, NotFound
from docker.models.containers import Container
from docker.models.networks import Network

ROOT: Final = Path(__file__).parents[2]
BROKERS: Final = (1, 2, 3)
STOP_SECONDS: Final = 40
LOG_LINES_MAX: Final = 200_000
EXPLAINED: Final = frozenset({"disk_hangs", "metadata_voter_hangs"})
"""Errors in a broker's log that standing still explains: whoever is paused notices that time has passed."""
_LOSE: Final = """
import os, pathlib, sys
partition, size_bytes = sys.argv[1:]
(directory,) = pathlib.Path("/var/lib/millpond/partitions").glob(partition + "-*")
segment = max(directory.glob("*.log"))
os.truncate(segment, max(0, segment.stat().st_size - int(size_bytes)))
"""
"""Run in a container beside a broker that is not running, with its data."""
_DIGEST: Final = """
import hashlib, json, pathlib, struct
found = {}
for directory in pathlib.Path("/var/lib/millpond/partitions").iterdir():
    digest, end = hashlib.sha256(), 0
    for segment in sorted(directory.glob("*.log")):
        data, at = segment.read_bytes(), 0
        while len(data) - at >= 20:
            (length,) = struct.unpack_from(">i", data, at + 16)
            digest.update(data[at + 8 : at + 20 + length])
            at, end = at + 20 + length, end + 1
    found[directory.name.rpartition("-")[0]] = f"{end} batches, {digest.hexdigest()[:16]}"
print(json.dumps(found))
"""
"""Run beside a broker that runs: what its logs hold, but for the 8 bytes before each batch, which are its
own."""


class Containers:
    """One cluster of three. Its methods block."""

    def __init__(self, project: str, port: int) -> None:
        """`project` of compose: what it has is removed. Raises DockerException where no engine answers."""
        self._project = project
        self._port = port
        self._docker = docker.from_env(timeout=STOP_SECONDS + 20)
        self._docker.ping()
        self._ids: dict[int, str] = {}

    @property
    def bootstrap(self) -> str:
        """For a client on the host."""
        return ",".join(f"127.0.0.1:{self._port + 10 * (broker - 1)}" for broker in BROKERS)

    def up(self) -> None:
        """From nothing: what an earlier run left is removed."""
        self.down()
        self._make("up")
        for broker in BROKERS:
            labels = [
                f"com.docker.compose.project={self._project}",
                f"com.docker.compose.service=broker-{broker}",
            ]
            (found,) = self._docker.containers.list(filters={"label": labels})
            assert found.id is not None, "a container has one"
            self._ids[broker] = found.id

    def down(self) -> None:
        """Everything away, data too."""
        self._ids = {}
        self._make("down", "--volumes")

    def _make(self, *arguments: str) -> None:
        script = ROOT / "deploy" / "docker" / "cluster.py"
        command = [sys.executable, str(script), *arguments, "--project", self._project]
        command += ["--port", str(self._port), "--compose", os.environ.get("COMPOSE", "")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")

    def _of(self, broker: int) -> Container:
        return self._docker.containers.get(self._ids[broker])

    def _network(self, name: str) -> Network:
        (found,) = self._docker.networks.list(names=[f"{self._project}_{name}"])
        return found

    # --- what is done to them -------------------------------------------------------------------------

    def kill(self, broker: int) -> None:
        """SIGKILL."""
        self._of(broker).kill("SIGKILL")

    def stop(self, broker: int) -> None:
        """SIGTERM, and time for a clean stop."""
        self._of(broker).stop(timeout=STOP_SECONDS)

    def start(self, broker: int) -> None:
        """One that was killed or stopped."""
        self._of(broker).start()

    def pause(self, broker: int) -> None:
        """All its threads stand still; its connections stay."""
        self._of(broker).pause()

    def unpause(self, broker: int) -> None:
        """They go on."""
        self._of(broker).unpause()

    def cut(self, broker: int, network: str) -> None:
        """Out of that network. What it sends there from now on goes nowhere."""
        self._network(network).disconnect(self._ids[broker])

    def join(self, broker: int, network: str) -> None:
        """In again, maybe under another address."""
        names = [f"broker-{broker}", *([f"peer-{broker}"] if network == "peers" else [])]
        self._network(network).connect(self._ids[broker], aliases=names)

    def heal(self) -> None:
        """Whatever was done to any of them, and however far it got."""
        for broker in BROKERS:
            for network in ("clients", "peers"):
                if f"{self._project}_{network}" not in self._of(broker).attrs["NetworkSettings"]["Networks"]:
                    with contextlib.suppress(APIError):
                        self.join(broker, network)
            status = self._of(broker).status
            if status == "paused":
                self.unpause(broker)
            elif status != "running":
                self.start(broker)

    def lose_tail(self, partition: str, size_bytes: int) -> None:
        """What no cluster survives: all are killed, and none of their disks has the end of that partition any
        more, though each had synced it. They start again and believe what is left.
        """
        for broker in BROKERS:
            self.kill(broker)
        for broker in BROKERS:
            self._docker.containers.run(
                self._of(broker).attrs["Config"]["Image"],
                ["-c", _LOSE, partition, str(size_bytes)],
                entrypoint="python3",
                user="0:0",
                network_mode="none",
                volumes_from=[self._ids[broker]],
                remove=True,
            )
        for broker in BROKERS:
            self.start(broker)

    # --- what is seen of them -------------------------------------------------------------------------

    def statuses(self) -> dict[int, str]:
        """What the engine calls it: running, paused, exited, and so on."""
        return {broker: str(self._of(broker).status) for broker in BROKERS}

    def faults(self) -> list[str]:
        """What no strike explains: a process that ended by itself, or that logged a fault of its own."""
        found = []
        for broker in BROKERS:
            container = self._of(broker)
            if restarts := container.attrs["RestartCount"]:
                found.append(f"broker {broker} ended by itself, {restarts} times")
            lines = container.logs(tail=LOG_LINES_MAX).decode(errors="replace").splitlines()
            found += [f"broker {broker}: {line[:500]}" for line in lines if _is_fault(line)]
        return found

    def logs_on_disk(self) -> dict[int, dict[str, str]]:
        """For each broker, for each partition, a digest of the batches that its own log has."""
        found = {}
        for broker in BROKERS:
            status, output = self._of(broker).exec_run(["python3", "-c", _DIGEST])
            assert isinstance(output, bytes), "asked for whole, not as a stream"
            if status:
                raise RuntimeError(f"the logs of broker {broker}: {output.decode(errors='replace')[-2000:]}")
            found[broker] = json.loads(output)
        return found

    def save_logs(self, directory: Path) -> None:
        """For whoever looks for a cause."""
        for broker in BROKERS:
            with contextlib.suppress(NotFound, APIError, KeyError):
                (directory / f"broker-{broker}.log").write_bytes(self._of(broker).logs(timestamps=True))


def _is_fault(line: str) -> bool:
    try:
        told = json.loads(line)
    except ValueError:
        return line.startswith(("Traceback", "Fatal"))
    return (
        isinstance(told, dict)
        and told.get("level") in ("critical", "error")
        and told.get("event") not in EXPLAINED
    )
