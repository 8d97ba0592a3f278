"""A clock that stands still while this machine does: for tests of what has to come soon.

A virtual machine on a busy host is stopped for half a second now and then, all its processes at once, and
goes on as if nothing had been. No test of "at once" can allow for that and still tell at once from soon; so
it counts only the time that this process was there for.
"""

from __future__ import annotations

import threading
import time
from typing import Final

TICK_S: Final = 0.02
TICK_S_MAX: Final = 0.06
"""A tick that took longer counts as this much, or as what this process had of the processor meanwhile: who
keeps the interpreter to itself is not excused."""


class _Clock:
    def __init__(self) -> None:
        self._seconds = 0.0
        self._ticked_at, self._cpu_s = time.monotonic(), time.process_time()
        threading.Thread(target=self._tick, name="awake", daemon=True).start()

    def _tick(self) -> None:
        while True:
            time.sleep(TICK_S)
            now, cpu_s = time.monotonic(), time.process_time()
            self._seconds += min(now - self._ticked_at, max(TICK_S_MAX, cpu_s - self._cpu_s))
            self._ticked_at, self._cpu_s = now, cpu_s

    def now(self) -> float:
        return self._seconds


_clock = _Clock()


def awake() -> float:
    """Seconds that this process was awake for, from some beginning: by ticks, and for what is not to take
    longer. What is to take at least so long is measured by `time.monotonic`.
    """
    return _clock.now()


class Stalls:
    """How long the machine has stood still since: what it may lose its sessions over is not judged then."""

    def __init__(self) -> None:
        self._began, self._awake = time.monotonic(), awake()

    @property
    def seconds(self) -> float:
        """So far, to a few ticks."""
        return (time.monotonic() - self._began) - (awake() - self._awake)
