"""Work that waits for processes, written once for callers with an event loop and callers without.

Such work is a generator: it yields what it waits for, and is sent whether that came in time. It performs its
own system calls, none of which blocks for long.
"""

from __future__ import annotations

import asyncio
import math
import select
import time
from collections.abc import Generator
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Wait(NamedTuple):
    """Until there is something to read from `descriptor` (its end counts), or until `until`."""

    descriptor: int | None
    until: float
    """By time.monotonic()."""


Steps = Generator[Wait, bool, T]
"""Sent True when there is something to read, False when the time is up."""


def run_blocking(steps: Steps[T]) -> T:
    """Do the work in this thread, to its end."""
    try:
        wait = next(steps)
        while True:
            try:
                arrived = _readable(wait)
            except BaseException as error:  # an interrupt, say: the work cleans up after itself
                steps.throw(error)
                raise
            wait = steps.send(arrived)
    except StopIteration as end:
        result: T = end.value
        return result


def _readable(wait: Wait) -> bool:
    left = max(0.0, wait.until - time.monotonic())
    if wait.descriptor is None:
        time.sleep(left)
        return False
    poll = select.poll()
    poll.register(wait.descriptor, select.POLLIN)
    return bool(poll.poll(math.ceil(left * 1000)))


async def run_async(steps: Steps[T]) -> T:
    """Do the work while the event loop goes on."""
    try:
        wait = next(steps)
        while True:
            try:
                arrived = await _readable_async(wait)
            except BaseException as error:  # a cancellation, say: the work cleans up after itself
                steps.throw(error)
                raise
            wait = steps.send(arrived)
    except StopIteration as end:
        result: T = end.value
        return result


async def _readable_async(wait: Wait) -> bool:
    left = max(0.0, wait.until - time.monotonic())
    if wait.descriptor is None:
        await asyncio.sleep(left)
        return False
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    loop.add_reader(wait.descriptor, arrived.set)
    try:
        async with asyncio.timeout(left):
            await arrived.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(wait.descriptor)
    return True
