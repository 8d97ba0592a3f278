"""What the runtime needs of the outside world, so that a simulator can stand in for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final, Protocol, TypeVar

T = TypeVar("T")

_COUNTS_SUSPEND: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux's; elsewhere the clock that only goes forward has to do."""


class Clock(Protocol):
    """Three clocks: one that people read, one that only goes forward, one that does so in a suspend too."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, UTC."""

    def monotonic(self) -> float:
        """Seconds from anywhere."""

    def boottime(self) -> float:
        """Likewise; what the machine slept counts (rule 39)."""


class SystemClock:
    """The machine's own."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.perf_counter()

    def boottime(self) -> float:
        return time.clock_gettime(_COUNTS_SUSPEND)


class Blocking(Protocol):
    """Runs what blocks, off the loop, one call after another."""

    async def run(self, call: Callable[[], T]) -> T:
        """What `call()` returns or raises. A caller that is cancelled leaves after the call ended: whoever
        owns what the call works on may then touch it again.
        """


class DiskThread:
    """`Blocking` by a thread of its own; or by several, for callers that want their calls side by side."""

    def __init__(self, name: str, threads: int = 1) -> None:
        self._executor: Executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)

    async def run(self, call: Callable[[], T]) -> T:
        future = asyncio.get_running_loop().run_in_executor(self._executor, call)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            if not future.cancelled():
                future.exception()  # looked at, so that nobody calls it forgotten
            raise

    def close(self) -> None:
        """Wait for what is under way, and end the threads."""
        self._executor.shutdown()
