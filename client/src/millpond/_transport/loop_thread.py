"""The event loop of synchronous clients: one daemon thread for all of a process, while there is one of them.

One for all, because grpc.aio has a single completion queue in a process: every further loop wakes the others
for events that are not theirs. Started with the first client; it ends, joined, with the last.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from millpond._transport.tasks import Tasks
from millpond.wire.errors import ClientClosed, ForkedClient

T = TypeVar("T")

LOOK_S: Final = 1.0
"""How often whoever waits looks whether the thread is still there."""
CANCEL_S: Final = 5.0
"""What a call that was interrupted has to end in its thread."""

_guard = threading.Lock()
_shared: LoopThread | None = None


class _Call:
    """One call from another thread; `done` is locked until it has ended."""

    def __init__(self) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self.task: asyncio.Task[None] | None = None
        self.cancelled = False
        self.done = threading.Lock()
        self.done.acquire()


class LoopThread:
    """A thread that runs an event loop. From `acquire`, to be given back with `release`."""

    def __init__(self) -> None:
        self.forked = False
        """This process is a child of the one whose thread it is."""
        self._users = 0
        # Not `is_alive`: interrupted in the middle, it takes a thread that runs for one that has ended.
        self._ended = False
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_report)
        self._tasks = Tasks("client")
        self._thread = threading.Thread(target=self._main, name="millpond-sync", daemon=True)
        self._thread.start()

    @staticmethod
    def acquire() -> LoopThread:
        """The thread of this process."""
        global _shared  # noqa: PLW0603 - one per process, which is the point
        with _guard:
            if _shared is None:
                _shared = LoopThread()
            _shared._users += 1
            return _shared

    def release(self) -> None:
        """One user less; the last one waits until the thread has ended."""
        global _shared  # noqa: PLW0603 - likewise
        if self.forked:
            return
        with _guard:
            self._users -= 1
            if self._users:
                return
            assert _shared is self, "there is one"
            _shared = None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CANCEL_S)

    def check(self) -> None:
        """Raise ForkedClient in a child of the process whose thread it is, ClientClosed after its end."""
        if self.forked:
            raise ForkedClient(what="client")
        if self._ended:
            raise ClientClosed(what="client")

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._ended = True
            self._loop.run_until_complete(self._tasks.stop())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    # --- calls ------------------------------------------------------------------------------------------

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the coroutine of `work` gives or raises, run in the thread.

        An interrupt (Ctrl-C) of whoever waits cancels it, and is raised once it has ended.
        """
        self.check()
        assert threading.current_thread() is not self._thread, "a call from the loop would wait for itself"
        call = _Call()
        try:
            self._loop.call_soon_threadsafe(self._begin, call, work)
            self.wait(call.done)
        except (ForkedClient, ClientClosed):
            raise
        except BaseException:  # an interrupt: the call is not to go on without its caller
            call.cancelled = True
            self._loop.call_soon_threadsafe(_cancel, call)
            call.done.acquire(timeout=CANCEL_S)
            raise
        if call.error is not None:
            raise call.error
        result: T = call.result
        return result

    def call(self, function: Callable[[], T]) -> T:
        """What a function gives that is to run in the thread."""

        async def once() -> T:
            return function()

        return self.run(once)

    def wait(self, done: threading.Lock, timeout: float | None = None) -> bool:
        """Wait for a lock that the thread releases; False when the time is up.

        Raises ForkedClient and ClientClosed where nobody will release it any more.
        """
        left = timeout
        while left is None or left > LOOK_S:
            if done.acquire(timeout=LOOK_S):
                return True
            self.check()
            left = None if left is None else left - LOOK_S
        return done.acquire(timeout=max(0.0, left))

    def _begin(self, call: _Call, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        if call.cancelled:
            call.done.release()
            return
        call.task = self._tasks.start(_run(call, work), "sync-call")

    @property
    def name(self) -> str:
        """Name of the thread."""
        return self._thread.name


async def _run(call: _Call, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    try:
        call.result = await work()
    except asyncio.CancelledError as error:
        call.error = error
        raise
    except BaseException as error:  # it is the caller's, and raised there
        call.error = error
    finally:
        call.done.release()


def _cancel(call: _Call) -> None:
    if call.task is not None:
        call.task.cancel()


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # Where the program has a loop of its own that uses grpc.aio, the two race for each other's events, and
    # whoever comes second finds none: nothing is wrong, and nobody can do anything about it.
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)


def _after_fork() -> None:
    global _shared, _guard
    if _shared is not None:
        _shared.forked = True
    _shared, _guard = None, threading.Lock()  # the child has none; somebody may have held the lock


os.register_at_fork(after_in_child=_after_fork)
