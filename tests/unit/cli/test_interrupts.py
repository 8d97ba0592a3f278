"""Signals that are kept for whoever puts things away."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator

import pytest

from millpond.cli.interrupts import NUMBERS, Interrupts


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = [signal.getsignal(number) for number in NUMBERS]
    yield
    assert [signal.getsignal(number) for number in NUMBERS] == before


@pytest.mark.parametrize("number", NUMBERS)
def test_one_that_comes_before_there_is_a_loop_is_told_to_it(number: signal.Signals) -> None:
    told: list[str] = []

    async def listen(interrupts: Interrupts) -> None:
        interrupts.tell(lambda: told.append("told"))
        await asyncio.sleep(0)
        assert told == ["told"]
        signal.raise_signal(signal.SIGINT)
        while len(told) < 2:
            await asyncio.sleep(0)

    with Interrupts() as interrupts:
        signal.raise_signal(number)
        runner = asyncio.new_event_loop()
        try:
            runner.run_until_complete(listen(interrupts))
        finally:
            runner.close()
        signal.raise_signal(number)  # the loop is closed: nobody is there to be told
    assert told == ["told"] * 2


def test_a_loop_that_waits_for_nothing_else_is_woken() -> None:
    async def listen(interrupts: Interrupts) -> None:
        told = asyncio.Event()
        interrupts.tell(told.set)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        async with asyncio.timeout(30):
            await told.wait()

    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        with Interrupts() as interrupts:
            loop = asyncio.new_event_loop()
            try:
                loop.run_until_complete(listen(interrupts))
            finally:
                loop.close()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_the_second_one_before_there_is_a_loop_does_not_wait_for_one() -> None:
    with Interrupts():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("first", NUMBERS)
def test_a_terminal_that_is_closed_only_ever_asks(first: signal.Signals) -> None:
    """It sends its signal twice, and may do so after Ctrl-C."""
    told: list[str] = []

    async def listen(interrupts: Interrupts) -> None:
        interrupts.tell(lambda: told.append("told"))
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
        while len(told) < 2:
            await asyncio.sleep(0)

    with Interrupts() as interrupts, contextlib.closing(asyncio.new_event_loop()) as loop:
        signal.raise_signal(first)
        signal.raise_signal(signal.SIGHUP)
        loop.run_until_complete(listen(interrupts))
    assert told == ["told"] * 2, "of the first, and of the one that was meant as the second"


def test_who_is_to_outlive_the_terminal_does() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with Interrupts():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
