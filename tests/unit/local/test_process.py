"""A broker's process: ready, failing, slow, paused, killed; and never left behind. By a stand-in."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from millpond._local import process
from millpond._local.process import BrokerProcess, still_runs
from millpond._local.waiting import run_async, run_blocking
from millpond.wire.errors import InternalError, InvalidRequest, OperationTimeout
from tests.unit.embedded.leaks import nothing_left_behind

STANDIN = Path(__file__).with_name("standin.py")
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
async def leaves_nothing() -> AsyncIterator[None]:
    """Async, so that the session's event loop, whose descriptors stay, is there before."""
    with nothing_left_behind():
        yield


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def broker(mode: str, log: Path) -> BrokerProcess:
    return BrokerProcess(0, Path("unused.toml"), log, command=(sys.executable, str(STANDIN), mode))


def state(pid: int) -> str:
    """The letter by which the system calls a process's state; "" when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_it_is_ready_when_it_says_so_and_ends_when_asked(log: Path) -> None:
    one = broker("well", log)
    run_blocking(one.start(30))
    assert one.ready["client"] == "127.0.0.1:1"
    assert one.pid is not None
    assert run_blocking(one.stop(30)) == 0
    assert one.pid is None
    assert run_blocking(one.stop(30)) is None, "it did not run"


async def test_the_event_loop_goes_on_while_it_starts_and_stops(log: Path) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    one = broker("well", log)
    async with asyncio.TaskGroup() as tasks:
        counting = tasks.create_task(count())
        await run_async(one.start(30))
        started, turns = turns, 0
        assert await run_async(one.stop(30)) == 0
        counting.cancel()
    assert started > 10
    assert turns > 0


def test_it_can_be_started_again_and_the_log_goes_on(log: Path) -> None:
    one = broker("well", log)
    for _ in range(2):
        log.write_text(one.log() + "line\n")
        run_blocking(one.start(30))
        one.kill()
    assert one.log() == "line\nline\n"


def test_a_log_is_given_back_to_a_limit_and_whatever_is_in_it(log: Path) -> None:
    one = broker("well", log)
    assert one.log() == ""
    log.write_bytes(b"x" * 100 + b"\xff\n")
    assert one.log(3) == "x\ufffd\n"
    log.write_bytes(b"x" * (process.LOG_BYTES_MAX + 1))
    assert len(one.log()) == process.LOG_BYTES_MAX


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("fails_at_once", "ended with status 2.*limits.batch_bytes_max: no such thing$"),
        ("says_half_a_line", r"""said b'{"event": '.*logged nothing$"""),
    ],
)
async def test_a_start_that_fails_tells_the_end_of_the_log(mode: str, told: str, log: Path) -> None:
    one = broker(mode, log)
    with pytest.raises(InternalError) as raised:
        run_blocking(one.start(30))
    assert re.search(told, str(raised.value), re.DOTALL)
    assert len(str(raised.value)) < 20_000
    with pytest.raises(InternalError):
        await run_async(one.start(30))
    assert one.pid is None


@pytest.mark.parametrize("mode", ["says_something_else", "talks_without_end"])
def test_what_says_something_else_is_no_broker_and_is_ended(
    mode: str, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "END_SECONDS_MAX", 0.2)
    one = broker(mode, log)
    with pytest.raises(InternalError, match="instead of being ready"):
        run_blocking(one.start(30))
    assert one.pid is None


async def test_a_start_that_takes_too_long_is_ended_and_told_with_the_log(log: Path) -> None:
    one = broker("never_ready", log)
    one.launch()
    while "thinking" not in one.log():  # however long Python takes to begin
        await asyncio.sleep(0.01)
    one.kill()
    with pytest.raises(OperationTimeout, match=r"start of broker 0(?s:.*)thinking"):
        run_blocking(one.start(0.2))
    with pytest.raises(OperationTimeout, match=r"within 0\.2 s"):
        await run_async(one.start(0.2))
    assert one.pid is None


def test_a_stop_that_fails_or_does_not_end_is_told(log: Path) -> None:
    one = broker("fails_as_it_stops", log)
    run_blocking(one.start(30))
    assert run_blocking(one.stop(30)) == 3
    one = broker("does_not_stop", log)
    run_blocking(one.start(30))
    with pytest.raises(OperationTimeout, match="the stop of broker 0"):
        run_blocking(one.stop(0.3))
    assert one.pid is None


def test_one_that_ended_by_itself_leaves_its_status(log: Path) -> None:
    one = broker("fails_as_it_stops", log)
    run_blocking(one.start(30))
    assert one.pid is not None
    os.kill(one.pid, signal.SIGTERM)
    while one.pid is not None:
        time.sleep(0.001)
    assert run_blocking(one.stop(30)) == 3


def test_a_closed_output_is_not_the_end_of_a_process_and_it_is_ended(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "END_SECONDS_MAX", 0.2)
    one = broker("closes_its_output_and_stays", log)
    with pytest.raises(InternalError, match="ended with status None"):
        run_blocking(one.start(30))
    assert one.pid is None


def test_a_paused_process_stands_still_and_can_go_on_be_stopped_or_be_killed(log: Path) -> None:
    one = broker("well", log)
    run_blocking(one.start(30))
    assert one.pid is not None
    one.pause()
    assert state(one.pid) == "T"
    one.resume()
    one.pause()
    assert run_blocking(one.stop(30)) == 0
    run_blocking(one.start(30))
    one.pause()
    one.kill()
    assert one.pid is None


def test_signals_to_nobody_are_refused(log: Path) -> None:
    one = broker("well", log)
    for act in (one.pause, one.resume):
        with pytest.raises(InvalidRequest, match="broker 0 does not run"):
            act()
    one.kill()


async def test_a_cancelled_start_or_stop_leaves_no_process(log: Path) -> None:
    one = broker("never_ready", log)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await run_async(one.start(30))
    assert one.pid is None
    one = broker("does_not_stop", log)
    await run_async(one.start(30))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await run_async(one.stop(30))
    assert one.pid is None


def test_an_interrupted_start_leaves_no_process(log: Path) -> None:
    one = broker("never_ready", log)
    timer = threading.Timer(0.3, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run_blocking(one.start(30))
    timer.join()
    assert one.pid is None


def test_an_interrupt_while_a_process_is_made_is_kept_until_it_can_be_ended(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    class Interrupted(subprocess.Popen[bytes]):
        """By the time it is there, and nobody has it."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self.pid)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    one = broker("never_ready", log)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_blocking(one.start(30))
    assert one.pid is None
    assert state(made[0]) == "", "it has ended, and its status was taken"
    assert signal.getsignal(signal.SIGINT) is before


def test_what_was_killed_has_its_time_to_end(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However little is left to one that ends by itself: on a busy machine it is not gone at once."""
    monkeypatch.setattr(process, "END_SECONDS_MAX", 0.0)
    one = broker("closes_its_output_and_stays", log)
    with pytest.raises(InternalError, match="ended with status None"):
        run_blocking(one.start(30))
    assert one.pid is None


def test_it_is_known_to_run_by_its_log_until_it_has_ended(log: Path) -> None:
    one = broker("well", log)
    assert not still_runs(log)
    run_blocking(one.start(30))
    assert still_runs(log)
    one.kill()
    assert not still_runs(log)


def test_ctrl_c_in_a_terminal_is_not_sent_to_it(log: Path) -> None:
    one = broker("well", log)
    run_blocking(one.start(30))
    assert one.pid is not None
    assert os.getpgid(one.pid) != os.getpgid(0)
    one.kill()


PARENT = """
import sys, time
from pathlib import Path
from millpond._local.process import BrokerProcess
from millpond._local.waiting import run_blocking
command = (sys.executable, sys.argv[1], "does_not_stop")
one = BrokerProcess(0, Path("unused.toml"), Path(sys.argv[2]), command=command)
run_blocking(one.start(30))
if sys.argv[3] == "paused":
    one.pause()
print(one.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["running", "paused"])
def test_it_does_not_outlive_a_parent_that_was_killed(how: str, log: Path) -> None:
    """By the end of its stdin; and a paused one, which reads nothing, by the system."""
    script = [sys.executable, "-c", PARENT, str(STANDIN), str(log), how]
    # A session of its own, so that it is not this test's group that the orphan belongs to.
    with subprocess.Popen(script, stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert state(pid) in ("T" if how == "paused" else "SR")
        parent.kill()
    until = time.monotonic() + 30
    while state(pid) not in ("", "Z"):
        assert time.monotonic() < until, "it is still there"
        time.sleep(0.01)


async def test_its_end_is_waited_for_whatever_brings_it(log: Path) -> None:
    one = broker("well", log)
    assert await run_async(one.ends()) is None, "there is none"
    for number, status in ((signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)):
        await run_async(one.start(30))
        assert one.pid is not None
        os.kill(one.pid, number)
        async with asyncio.timeout(30):
            assert await run_async(one.ends()) == status
        assert one.pid is None


async def test_who_no_longer_waits_for_its_end_leaves_it_running(log: Path) -> None:
    one = broker("well", log)
    await run_async(one.start(30))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await run_async(one.ends())
    assert one.pid is not None
    one.kill()
