"""Calls of the main thread, run where no signal handler can interrupt them; and waiting that one may.

Python runs signal handlers in the main thread, between any two steps of it: a Ctrl-C there could leave a
log that has counted a record and not moved its offset on, or a lock that nobody holds and nobody can take.
So what changes a queue runs in another thread when the main thread calls, and the main thread waits at one
lock, in C. Interrupted there, it leaves; the call ends by itself, and the record may be written.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, ParamSpec, TypeVar

from millpond.wire.errors import ForkedClient

P = ParamSpec("P")
T = TypeVar("T")

_LOOK_SECONDS: Final = 1.0
"""How often the main thread looks whether there is still a thread to wait for: only a race with `stop`."""


class _Job:
    """One call; `done` is locked until it has ended."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()


class Shield:
    """Runs calls, in a thread that `stop` ends, or being forgotten."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._pid = os.getpid()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=_work, args=(self._jobs,), name="millpond-calls", daemon=True)
        self._is_stopped = False
        # Whoever forgets to close: the thread must not outlive what it works for.
        weakref.finalize(self, self._jobs.put, None)
        self._thread.start()  # now, and not by the first call: starting one is no single step either

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function` returns or raises. Raises ForkedClient in a child of the process that made this."""
        if os.getpid() != self._pid:
            raise ForkedClient(what=self._what)
        if self._is_stopped or threading.current_thread() is not threading.main_thread():
            return function(*args, **kwargs)
        job = _Job(lambda: function(*args, **kwargs))
        self._jobs.put(job)
        while not job.done.acquire(timeout=_LOOK_SECONDS):
            if not self._thread.is_alive():
                if job.done.acquire(blocking=False):
                    break  # it was done, just before the thread ended: not to be done twice
                return function(*args, **kwargs)
        if job.error is not None:
            raise job.error
        result: T = job.result
        return result

    def stop(self) -> None:
        """Run what was handed over by now, and end the thread. Calls after that run in their own."""
        self._is_stopped = True
        self._jobs.put(None)

    def join(self, timeout: float) -> None:
        """Wait for the thread to end, unless this is it."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)


def _work(jobs: SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        try:
            job.result = job.function()
        except BaseException as error:  # it is the caller's, and raised there
            job.error = error
        job.done.release()
        del job  # or the last call would keep its queue alive


class Arrivals:
    """Counts arrivals, and lets threads wait for the next. A waiter holds nothing that an interrupt could
    keep locked.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._waiters: list[threading.Lock] = []
        self.count = 0

    def notify(self) -> None:
        """Something arrived: wake everybody."""
        self.count = next(self._numbers)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.release()

    def wait(self, seen: int, timeout: float | None) -> bool:
        """Wait until `count` is no longer `seen`; False when the time is up. `timeout` in seconds."""
        waiter = threading.Lock()
        waiter.acquire()
        self._waiters.append(waiter)
        if self.count != seen:
            return True
        left = -1 if timeout is None else min(max(0.0, timeout), threading.TIMEOUT_MAX)
        return waiter.acquire(timeout=left)
