"""How far a process of the demo goes before it is let: it is still at work when the next broker is killed.

A broker that takes long to come back must not be raced by the work: the next kill would find it done.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Final

SHARE: Final = 0.9
"""Of the work, which is done before all kills have begun."""


class Gate:
    """Closed until standard input ends, which whoever started this process sees to, also by its own end."""

    def __init__(self, at: int, wait: Callable[[], object] | None = None) -> None:
        """`at`: so many records are done without being let. `wait`: blocks until more may be."""
        self._at = at
        self._wait = wait or sys.stdin.buffer.read
        self._is_open = False

    async def pass_with(self, done: int) -> None:
        """Go on, having done so many."""
        if done >= self._at and not self._is_open:
            await asyncio.to_thread(self._wait)
            self._is_open = True
