"""The owner of what runs in the background: it keeps tasks alive, and ends them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from millpond.wire.errors import ClientClosed

T = TypeVar("T")

_log: Final = logging.getLogger("millpond")


class Tasks:
    """Tasks with one parent. `stop` cancels and awaits them all; after it none is started."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._running: set[asyncio.Task[Any]] = set()
        self._stopped = False

    def start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run `work` until it ends or `stop` is called. Raises ClientClosed after that.

        A task is expected to end without an error: one that fails all the same is logged here, because
        nobody may be awaiting it.
        """
        if self._stopped:
            work.close()
            raise ClientClosed(what=self._what)
        task = asyncio.Task(work, name=f"millpond-{name}")  # this object is the owner that a task must have
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s failed: %r", task.get_name(), error, exc_info=error)

    async def stop(self) -> None:
        """Cancel every task and wait until each has ended. The caller may be one of them."""
        self._stopped = True
        while others := self._running - {asyncio.current_task()}:
            await end(*others)


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel these tasks and wait until each has ended, whatever with."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
