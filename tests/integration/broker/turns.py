"""How long the loop was away from those who wait for it, in CPU time of its thread: held against what other
work costs here and now, for how fast a busy machine is cannot be known before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

TIMES: Final = 5
"""Of which the least counts: what the machine did meanwhile comes on top, never off."""


async def longest_turn(work: Callable[[], Awaitable[None]]) -> float:
    """CPU seconds of the longest turn of the loop while `work` is done, and beyond its last one."""
    return min([await _longest_turn(work) for _ in range(TIMES)])


def cost(work: Callable[[], object]) -> float:
    """CPU seconds of that on this thread."""
    return min(_cost(work) for _ in range(TIMES))


async def _longest_turn(work: Callable[[], Awaitable[None]]) -> float:
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)

    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch())
        await asyncio.sleep(0)
        await work()
        await asyncio.sleep(0)
        watching.cancel()
    return longest


def _cost(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began
