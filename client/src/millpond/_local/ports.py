"""Free TCP ports that a broker can keep over its restarts."""

from __future__ import annotations

import errno
import os
import random
import socket
from pathlib import Path
from typing import Final

from millpond.wire.errors import ClusterUnavailable

LOOPBACK: Final = "127.0.0.1"

_LOWEST: Final = 15_000
"""Below it are the ports that people give to services by hand."""
_EPHEMERAL_LOWEST_OTHERWISE: Final = 32_768  # Linux's default
_TRIES_MAX: Final = 1_000
WORKERS_MAX: Final = 32
"""Who has more of them shares all ports among them: a share of less than a hundred is none."""


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, all different.

    Nothing holds them until a broker does, so somebody else may be quicker: whoever starts a broker there
    must be ready to try again with others. They lie below the range from which the system takes the ports of
    outgoing connections: in that range a connection may hold a broker's port just while it restarts, even one
    of a client that tries to reach that very broker, which then is connected to itself.
    """
    ports = _ports()
    held: list[socket.socket] = []
    # The seed is the system's: two test runs started together would otherwise try the same ports.
    chance = random.SystemRandom()
    try:
        for _ in range(_TRIES_MAX):
            if len(held) == count:
                return [taken.getsockname()[1] for taken in held]
            candidate = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                candidate.bind((LOOPBACK, chance.choice(ports)))
            except OSError:
                candidate.close()
            else:
                held.append(candidate)
    finally:
        for taken in held:
            taken.close()
    raise ClusterUnavailable(tried={LOOPBACK: f"no {count} free ports from {ports.start} to {ports.stop}"})


def is_taken(address: str) -> bool:
    """Whether somebody listens at host:port already. Raises OSError for a port that nobody may have."""
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as candidate:
        # As servers do it: what is left of the connections of a server before is not in its way.
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((host, int(port)))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return True
    return False


def _ports() -> range:
    """Where they are looked for. Each worker of pytest-xdist has a share of its own, and so has what it
    starts: a broker that is down for a while finds its ports free.
    """
    everywhere = range(_LOWEST, max(_ephemeral_lowest(), _LOWEST + 5_000))
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    count = os.environ.get("PYTEST_XDIST_WORKER_COUNT", "")
    if not (worker.isdecimal() and count.isdecimal() and int(worker) < int(count) <= WORKERS_MAX):
        return everywhere
    share = len(everywhere) // int(count)
    return everywhere[int(worker) * share :][:share]


def _ephemeral_lowest() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return _EPHEMERAL_LOWEST_OTHERWISE
