"""A local cluster whose brokers' disks a test can fill, have fail, and damage."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from millpond.testing import LocalCluster
from millpond.testing.process import BrokerProcess

COMMAND = (sys.executable, "-m", "tests.integration.cluster.faulty_broker")

Fault = tuple[str, str, int]
"""Operation, part of the path, errno."""
LOGS = "/partitions/"
"""Part of the paths of all logs; the metadata are elsewhere."""


class FaultyCluster(LocalCluster):
    """Brokers whose file layer fails where a test says so."""

    def _process(self, number: int) -> BrokerProcess:
        assert self._directory is not None
        home = self._directory / f"broker-{number + 1}"
        return BrokerProcess(number, home / "broker.toml", home / "log", COMMAND)

    def order(self, broker: int, *faults: Fault) -> None:
        """From now on that broker's files fail so, and no other way. In one step: it may be reading."""
        path = self.data_dir / f"broker-{broker}" / "faults"
        beside = path.with_name("faults.new")
        beside.write_text(json.dumps(faults))
        beside.replace(path)

    @contextmanager
    def failing(
        self, broker: int, operation: str, part: str = LOGS, number: int = errno.EIO
    ) -> Iterator[None]:
        """For as long as the block lasts."""
        self.order(broker, (operation, part, errno.EIO))
        try:
            yield
        finally:
            self.order(broker)

    def segments(self, broker: int, topic_id: Any, partition: int) -> list[Path]:
        """Of one replica, in order."""
        logs = self.data_dir / f"broker-{broker}" / "data" / "partitions"
        (found,) = (path for path in logs.iterdir() if path.name.endswith(f"-{partition}-{topic_id.hex}"))
        return sorted(found.glob("*.log"))

    def events(self, broker: int) -> list[dict[str, Any]]:
        """What it logged."""
        lines = self.logs(broker - 1).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def flip_a_bit(path: Path) -> int:
    """In the middle of a file; where."""
    position = path.stat().st_size // 2
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 0x10]))
    return position


def is_flipped(path: Path, position: int, before: bytes) -> bool:
    """Whether the damage is still there."""
    try:
        return path.read_bytes() != before and path.read_bytes()[position] != before[position]
    except FileNotFoundError:
        return False


@contextmanager
def small_disk(path: Path, size_bytes: int) -> Iterator[None]:
    """A mounted file system of that size. Raises OSError where none can be had."""
    path.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        raise OSError(errno.EPERM, "mounting a small tmpfs takes root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        raise OSError(errno.EPERM, mounted.stderr.strip())
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def fill(directory: Path) -> Path:
    """Take all the room there is; the file that took it."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):  # without room
                while file.write(bytes(size)):
                    pass
    assert shutil.disk_usage(directory).free == 0
    return ballast
