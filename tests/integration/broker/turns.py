"""How long the loop was away from those who wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

TURN_SECONDS_MAX: Final = 0.5
"""That the loop may be away for, on a busy machine, too: what is tested took more."""


@dataclass
class Turn:
    """The longest one so far."""

    seconds: float = 0.0


@asynccontextmanager
async def longest_turn() -> AsyncIterator[Turn]:
    """Measures turns of the loop while the block runs, and beyond its last one."""
    turn = Turn()

    async def watch() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0)
            turn.seconds = max(turn.seconds, time.perf_counter() - began)

    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch())
        await asyncio.sleep(0)
        yield turn
        await asyncio.sleep(0)
        watching.cancel()
