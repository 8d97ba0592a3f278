"""An asyncio loop with virtual time, so that a run is its seed.

Nothing here waits: callbacks that are ready run in the order in which they became so, and when none is, time
jumps to the next timer. There are no selectors, threads or signals. Tasks and futures are hashed by when they
were made, so that a set of them iterates alike in every run, and not by address.

Whatever runs belongs to an `Owner`, by its context: a simulated process. A paused one's callbacks are kept
until it goes on, while time passes for the others; a dead one's tasks are cancelled, and what they still do
is for its world to make harmless.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from typing import Any, Final, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

STEPS_AT_ONCE_MAX: Final = 500_000
"""Callbacks at one instant: more is a livelock."""
TASKS_PRUNED_FROM: Final = 256
"""Tasks of an owner from which on those that are done are forgotten."""

OWNER: ContextVar[Owner | None] = ContextVar("owner", default=None)
"""Whose callback or task runs."""


class Idle(Exception):
    """Nothing is ready and nothing will be: every task waits for another one."""


class Livelock(Exception):
    """Time does not get on."""


class Failed(Exception):
    """A callback raised, or a task whose exception nobody took."""


class Owner:
    """A simulated process, as the loop knows it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_paused = False
        self.is_dead = False
        self.context: Context = contextvars.copy_context()
        """What its callbacks run in."""
        self.context.run(OWNER.set, self)
        self.held: deque[asyncio.Handle] = deque()
        """Callbacks that came due while it was paused."""
        self._tasks: dict[SimTask, None] = {}
        self._prune_at = TASKS_PRUNED_FROM

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def add(self, task: SimTask) -> None:
        """A task of its was made."""
        self._tasks[task] = None
        if len(self._tasks) > self._prune_at:
            self._tasks = dict.fromkeys(self.tasks())
            self._prune_at = max(TASKS_PRUNED_FROM, 2 * len(self._tasks))

    def tasks(self) -> list[SimTask]:
        """Its tasks that are not done, in the order in which they were made."""
        return [task for task in self._tasks if not task.done()]


class SimTask(asyncio.Task[Any]):
    """A task with a hash that is the same in every run."""

    def __init__(
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        name: str | None = None,
        context: Context | None = None,
    ) -> None:
        loop = loop or asyncio.get_running_loop()
        assert isinstance(loop, SimLoop), "it lives on a simulated loop"
        self.number = loop.next_number()
        self.owner: Owner | None = OWNER.get() if context is None else context.get(OWNER)
        super().__init__(coro, loop=loop, name=name or f"task-{self.number}", context=context)
        if self.owner is not None:
            self.owner.add(self)

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


class SimFuture(asyncio.Future[Any]):
    """Likewise a future."""

    def __init__(self, *, loop: SimLoop) -> None:
        self.number = loop.next_number()
        self.owner: Owner | None = OWNER.get()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


class SimLoop(asyncio.BaseEventLoop):
    """See the module. `run` from outside; time begins at `now` seconds."""

    def __init__(self, now: float = 1000.0) -> None:
        super().__init__()
        self.steps = 0
        """Callbacks that ran."""
        self.ran: dict[Owner | None, None] = {}
        """Whose callbacks ran in the round before."""
        self.on_round: Callable[[], None] = lambda: None
        """Called after all that was ready at once has run."""
        self.on_failure: Callable[[Owner | None, str], None] | None = None
        """Told of what went wrong in an owner's callback or task; None: `run` raises it."""
        self._now = now
        self._soon: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = itertools.count(1)
        self._failures: list[str] = []
        self._first_error: BaseException | None = None
        self._running_owner: Owner | None = None
        self._steps_at_once = 0

    def next_number(self) -> int:
        """One that nothing else on this loop has."""
        return next(self._numbers)

    # --- what asyncio asks of a loop --------------------------------------------------------------------

    def time(self) -> float:
        return self._now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._soon.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, self.next_number(), timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is passed over when its time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return SimFuture(loop=self)

    def create_task(
        self,
        coro: Any,
        *,
        name: object = None,
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        return SimTask(coro, loop=self, name=None if name is None else str(name), context=context)

    def run_in_executor(self, executor: object, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        raise AssertionError(f"{func} would run in a thread: give its owner a port to do so")

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        about = context.get("task") or context.get("future")
        owner = about.owner if isinstance(about, SimTask | SimFuture) else self._running_owner
        if owner is not None and owner.is_dead:
            return
        error = context.get("exception")
        told = f"{context.get('message')}: {error!r} ({about or context.get('handle')!r})"
        if self.on_failure is not None and owner is not None:
            self.on_failure(owner, told)
        else:
            self._failures.append(told)
            self._first_error = self._first_error or error

    # --- running ----------------------------------------------------------------------------------------

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Run what is due up to that time, or until `done`, which is asked after each round; whether it was.

        Raises Idle, Livelock, Failed, and what `on_round` raises.
        """
        asyncio._set_running_loop(self)
        try:
            while not done():
                if not self._soon and not self._advance(until):
                    return False
                self._run_round()
                if self._failures:
                    raise Failed("; ".join(self._failures)) from self._first_error
                self.on_round()
            return True
        finally:
            asyncio._set_running_loop(None)

    def run_for(self, coro: Coroutine[Any, Any, T], seconds: float) -> T:
        """What it returns or raises; TimeoutError if it takes longer."""
        asyncio._set_running_loop(self)
        try:
            task = self.create_task(coro)
        finally:
            asyncio._set_running_loop(None)
        if not self.run(self._now + seconds, task.done):
            task.cancel()
            self.run(self._now + seconds, task.done)
            raise TimeoutError(f"{task.get_name()} takes longer than {seconds} s")
        result: T = task.result()
        return result

    def resume(self, owner: Owner) -> None:
        """Let a paused owner go on: what came due meanwhile is ready now."""
        owner.is_paused = False
        self._soon.extend(owner.held)
        owner.held.clear()

    def waiting(self) -> list[str]:
        """The names of all tasks that are not done."""
        return sorted(task.get_name() for task in asyncio.all_tasks(self))

    def _advance(self, until: float) -> bool:
        """Jump to the next timer; whether there is one by then."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not timers:
            waiting = self.waiting()
            if not waiting:
                gc.collect()  # a forgotten task that failed says so when it goes: later, on Python 3.12
            if self._failures:
                raise Failed("; ".join(self._failures)) from self._first_error
            raise Idle(f"nothing is due at {self._now:.3f}; waiting: {', '.join(waiting) or 'nobody'}")
        if timers[0][0] > until:
            self._now = max(self._now, until)
            return False
        if timers[0][0] > self._now:
            self._now = timers[0][0]
            self._steps_at_once = 0
        while timers and timers[0][0] <= self._now:
            handle = heapq.heappop(timers)[2]
            if not handle.cancelled():
                self._soon.append(handle)
        return True

    def _run_round(self) -> None:
        soon = self._soon
        self._steps_at_once += len(soon)
        if self._steps_at_once > STEPS_AT_ONCE_MAX:
            raise Livelock(f"{self._steps_at_once} callbacks at {self._now:.3f}")
        ran = self.ran
        ran.clear()
        for _ in range(len(soon)):
            handle = soon.popleft()
            if handle._cancelled:
                continue
            owner: Owner | None = handle._context.get(OWNER)  # type: ignore[attr-defined]  # not in its stub
            if owner is not None and owner.is_paused:
                owner.held.append(handle)
                continue
            self._running_owner = owner
            ran[owner] = None
            self.steps += 1
            handle._run()
        self._running_owner = None

    def end(self, rounds_max: int = 200) -> list[str]:
        """Cancel every task and let it end; those that do not, which is a fault of theirs."""
        asyncio._set_running_loop(self)
        self._steps_at_once = 0
        try:
            for _ in range(rounds_max):
                tasks = sorted(asyncio.all_tasks(self), key=hash)
                if not tasks:
                    break
                for task in tasks:
                    task.cancel()
                self._run_round()
            return self.waiting()
        finally:
            asyncio._set_running_loop(None)


@contextmanager
def simulated(loop: SimLoop) -> Iterator[SimLoop]:
    """Have whoever makes a task by its class make one of the loop's; the loop is closed behind it."""
    task = asyncio.Task
    asyncio.Task = SimTask  # type: ignore[misc,assignment]  # for as long as the simulation runs
    try:
        yield loop
    finally:
        asyncio.Task = task  # type: ignore[misc]  # put back
        loop.close()
