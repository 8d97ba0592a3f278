"""Several brokers that are started side by side: each of a cluster waits for the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from millpond._local.process import BrokerProcess
from millpond._local.waiting import Steps
from millpond.wire.errors import InternalError

START_SECONDS_MAX: Final = 60.0
"""For a broker to be ready. It takes about one; a machine under load, or much to recover, takes longer."""
LOOK_SECONDS: Final = 0.02
"""At one broker of several that start, before the next: one that has ended is noticed soon."""
PORT_TRIES_MAX: Final = 5
"""First starts with other ports, when somebody was quicker to take one."""

PORT_TAKEN: Final = "cannot listen"
"""How a broker's last words tell a port that is taken from all else."""


def _never() -> bool:
    return False


def start_all(
    brokers: Sequence[BrokerProcess],
    seconds_max: float = START_SECONDS_MAX,
    is_stopping: Callable[[], bool] = _never,
) -> Steps[bool]:
    """Whether all are ready: not, if it is to stop meanwhile; those that were launched are left running then,
    for the caller to stop. Raises as BrokerProcess.start; then none of them runs.
    """
    until = time.monotonic() + seconds_max
    try:
        for broker in brokers:
            broker.launch()
        starting = list(brokers)
        while starting:
            for broker in list(starting):
                if is_stopping():
                    return False
                look = time.monotonic() + LOOK_SECONDS
                if (yield from broker.comes_up(min(look, until))):
                    starting.remove(broker)
                elif time.monotonic() >= until:
                    raise broker.gave_up(seconds_max)
    except BaseException:  # whatever stopped it, no half of them stays; re-raised
        for broker in brokers:
            broker.kill()
        raise
    return True


def start_on_free_ports(
    brokers: Sequence[BrokerProcess],
    configure: Callable[[], object],
    seconds_max: float = START_SECONDS_MAX,
    is_stopping: Callable[[], bool] = _never,
) -> Steps[bool]:
    """Start them all on ports that `configure` finds and writes down; again with others where somebody else
    was quicker. Returns and raises as `start_all`.
    """
    for tries_left in reversed(range(PORT_TRIES_MAX)):
        configure()
        logged = [len(broker.log()) for broker in brokers]
        try:
            return (yield from start_all(brokers, seconds_max, is_stopping))
        except InternalError:
            logs = (broker.log()[start:] for broker, start in zip(brokers, logged, strict=True))
            if not tries_left or not any(PORT_TAKEN in log for log in logs):
                raise
    raise AssertionError("the last try returns or raises")
