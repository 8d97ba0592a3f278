"""The simulated loop: asyncio as it is, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.sim.loop import Failed, Idle, Livelock, Owner, SimLoop, simulated


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    with simulated(SimLoop()) as loop:
        yield loop
        assert loop.end() == []


def test_sleeping_takes_virtual_time_only(loop: SimLoop) -> None:
    began = loop.time()
    loop.run_for(asyncio.sleep(3600), 4000)
    assert loop.time() == began + 3600


def test_timeouts_groups_events_and_conditions_work_as_they_do(loop: SimLoop) -> None:
    told: list[str] = []

    async def waits(condition: asyncio.Condition, event: asyncio.Event) -> None:
        async with condition:
            await condition.wait()
        told.append("notified")
        await event.wait()
        told.append("set")

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(1000))
            tasks.create_task(fails())

    async def main() -> None:
        condition, event = asyncio.Condition(), asyncio.Event()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await event.wait()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(waits(condition, event))
            asyncio.get_running_loop().call_later(2, event.set)
            await asyncio.sleep(1)
            async with condition:
                condition.notify_all()
        with pytest.raises(ExceptionGroup):
            await group()

    async def fails() -> None:
        await asyncio.sleep(1)
        raise ValueError("one fails, all end")

    began = loop.time()
    loop.run_for(main(), 100)
    assert told == ["notified", "set"]
    assert loop.time() == began + 5 + 2 + 1


def test_timers_of_one_instant_run_in_the_order_in_which_they_were_set(loop: SimLoop) -> None:
    told: list[int] = []
    for number in range(50):
        loop.call_at(2000.0, told.append, number)
    loop.run(2001.0, lambda: bool(told))
    assert told == list(range(50))


def test_a_cancelled_timer_does_not_run(loop: SimLoop) -> None:
    told: list[int] = []
    loop.call_later(1, told.append, 1).cancel()
    loop.call_later(2, told.append, 2)
    loop.run(loop.time() + 3, lambda: bool(told))
    assert told == [2]


def test_an_idle_loop_names_who_waits(loop: SimLoop) -> None:
    async def stuck() -> None:
        await asyncio.Event().wait()

    loop.create_task(stuck(), name="the one that is stuck")
    with pytest.raises(Idle, match="the one that is stuck"):
        loop.run(2000)


def test_callbacks_that_make_one_another_ready_for_ever_are_noticed(loop: SimLoop) -> None:
    async def spins() -> None:
        while True:
            await asyncio.sleep(0)

    loop.create_task(spins())
    with pytest.raises(Livelock):
        loop.run(2000)


def test_what_a_callback_raises_ends_the_run(loop: SimLoop) -> None:
    def fails() -> None:
        raise ValueError("a callback")

    loop.call_later(1, fails)
    with pytest.raises(Failed, match="a callback"):
        loop.run(2000)


def test_an_exception_that_nobody_takes_ends_the_run(loop: SimLoop) -> None:
    async def fails() -> None:
        raise ValueError("forgotten")

    def forget() -> None:
        loop.create_task(fails())

    loop.call_soon(forget)
    loop.call_later(1, lambda: None)
    with pytest.raises(Failed, match="forgotten"):
        loop.run(loop.time() + 2)


def test_time_passes_for_others_while_an_owner_is_paused(loop: SimLoop) -> None:
    paused, other = Owner("paused"), Owner("other")
    told: list[tuple[str, float]] = []

    async def ticks(name: str) -> None:
        while True:
            await asyncio.sleep(1)
            told.append((name, loop.time()))

    loop.call_soon(lambda: loop.create_task(ticks("paused")), context=paused.context)
    loop.call_soon(lambda: loop.create_task(ticks("other")), context=other.context)
    loop.run(1001.5)
    paused.is_paused = True
    loop.run(1004.5)
    assert [name for name, _ in told] == ["paused", "other", "other", "other", "other"]
    loop.resume(paused)
    loop.run(1004.6)
    assert told[-1] == ("paused", 1004.5)
    assert paused.tasks()[0].owner is paused


def test_sets_of_tasks_and_futures_iterate_in_the_order_of_their_making(loop: SimLoop) -> None:
    async def main() -> None:
        futures = {loop.create_future() for _ in range(20)}
        assert [hash(future) for future in futures] == sorted(hash(future) for future in futures)
        # By its class, too: owners of one task make it so.
        task: asyncio.Task[None] = asyncio.Task(asyncio.sleep(0), name="made by its class")
        assert hash(task) > 0
        await task

    loop.run_for(main(), 1)


def test_a_call_in_a_thread_is_a_fault(loop: SimLoop) -> None:
    async def main() -> None:
        await asyncio.to_thread(print)

    with pytest.raises(AssertionError, match="thread"):
        loop.run_for(main(), 1)
