"""One broker process of a local cluster: started, watched, signalled and ended.

The process holds two pipes to this one. Its stdout carries one line when it is ready, and ends when it ends;
that is what is waited for, never a length of time. Its stdin says nothing, and ends when this process ends,
however that happens: the broker then stops (`--exit-with-parent`). Its stderr is a file, the log.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from millpond._local.waiting import Steps, Wait
from millpond.wire.errors import InternalError, InvalidRequest, OperationTimeout

LOG_BYTES_MAX: Final = 1 << 20
"""Of a log that is given back: its end."""
TAIL_LINES: Final = 20
"""Of a log in an error: what a person reads first."""
OUTPUT_BYTES_MAX: Final = 64 << 10
"""Of stdout, where one short line is due."""
END_SECONDS_MAX: Final = 10.0
"""From the end of its stdout to the end of a process."""
KILLED_SECONDS_MAX: Final = 10.0
"""From SIGKILL to the end of a process: it takes part of a busy processor's time, too."""
ENDS_LOOK_SECONDS: Final = 3600.0
"""A wait for the end of a process that may run for days is done in pieces: each has its own end."""

COMMAND: Final = (sys.executable, "-P", "-m", "millpond_broker")
"""-P: a file of the user's that happens to be called like one of our modules is not ours."""


class BrokerProcess:
    """A broker that may run, be paused, or not run; each start is a new process on the same files."""

    def __init__(self, number: int, config: Path, log: Path, command: tuple[str, ...] = COMMAND) -> None:
        self.number = number
        self.ready: dict[str, Any] = {}
        """What the process said when it was ready: its addresses."""
        self._command = (*command, "--config", str(config), "--exit-with-parent")
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._output = b""
        self._is_asked = False
        """To stop: a second SIGTERM would end it at once."""
        self.is_paused = False
        """By `pause`."""

    @property
    def pid(self) -> int | None:
        """Of the process that runs; None when none does."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    # --- starting and ending --------------------------------------------------------------------------

    def start(self, seconds_max: float) -> Steps[None]:
        """Start it, and return when it is ready. Raises InternalError if it ends instead, OperationTimeout if
        it is not ready by then, both with the end of its log; it does not run then.
        """
        try:
            self.launch()
            if not (yield from self.comes_up(time.monotonic() + seconds_max)):
                raise self.gave_up(seconds_max)
        except BaseException:  # an interrupt right after the launch: nothing stays of what has begun
            self.kill()
            raise

    def launch(self) -> None:
        """Start the process, and no more."""
        assert self.pid is None, "one process at a time"
        self._release()
        self._output, self._is_asked, self.is_paused = b"", False, False
        with _uninterrupted(), self._log.open("ab") as log:
            _mark(log)
            self._process = subprocess.Popen(  # noqa: S603 - our own module, by our own interpreter
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(),
                # Ctrl-C in a terminal is for the tests; they end their brokers in their own order. It also
                # makes the system end a paused broker whose parent is killed: its group is an orphan then.
                process_group=0,
            )

    def comes_up(self, until: float) -> Steps[bool]:
        """Whether the process that was launched is ready by then. Raises InternalError if it ends instead,
        with the end of its log; it does not run then.
        """
        try:
            line = yield from self._line(until)
            if line is None:
                return False
            self.ready = self._understood(line)
        except BaseException:  # whatever it is, no half-started process stays
            self.kill()
            raise
        return True

    def gave_up(self, seconds_max: float) -> OperationTimeout:
        """The error of a start that took too long; the process is killed."""
        self.kill()
        return OperationTimeout(what=f"the start of {self}{self._tail()}", timeout=seconds_max)

    def _line(self, until: float) -> Steps[bytes | None]:
        """The first line of stdout, or what there is of it at its end; None when the time is up."""
        while b"\n" not in self._output and len(self._output) < OUTPUT_BYTES_MAX:
            if not (yield Wait(self._descriptor, until)):
                return None
            if not (data := os.read(self._descriptor, OUTPUT_BYTES_MAX)):
                break
            self._output += data
        return self._output.partition(b"\n")[0]

    def _understood(self, line: bytes) -> dict[str, Any]:
        try:
            ready = json.loads(line)
        except ValueError:
            ready = None
        if not isinstance(ready, dict) or ready.get("event") != "ready":
            status = self._wait()
            what = f"said {line[:200]!r}" if line else f"ended with status {status}"
            raise InternalError(reason=f"{self} {what} instead of being ready{self._tail()}")
        return ready

    def stop(self, seconds_max: float) -> Steps[int | None]:
        """Ask it to stop (SIGTERM), and return its exit status when it has. None if there is no process; of
        one that had ended by itself, its status.

        Raises OperationTimeout after having killed it.
        """
        if self.pid is None:
            return self._forget()
        self.ask_to_stop()
        until = time.monotonic() + seconds_max
        try:
            while (yield Wait(self._descriptor, until)):
                if not os.read(self._descriptor, OUTPUT_BYTES_MAX):
                    return self._forget()
        except BaseException:  # an interrupt: it is not left behind for it
            self.kill()
            raise
        self.kill()
        raise OperationTimeout(what=f"the stop of {self}{self._tail()}", timeout=seconds_max)

    def ends(self) -> Steps[int | None]:
        """Wait for its end, whatever brings it; the exit status, negative for a signal's number. Raises
        nothing, and an interrupt leaves the process as it is. None if there is no process.
        """
        if self._process is None:
            return None
        while not (yield Wait(self._descriptor, time.monotonic() + ENDS_LOOK_SECONDS)) or os.read(
            self._descriptor, OUTPUT_BYTES_MAX
        ):
            pass
        return self._forget()

    def ask_to_stop(self) -> None:
        """SIGTERM, paused or not; nothing if it does not run, or was asked before."""
        if self.pid is not None and not self._is_asked:
            self._is_asked = True
            self.resume()
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once (SIGKILL), paused or not; it is gone on return. Nothing if it did not run."""
        if self.pid is not None:
            self._signal(signal.SIGKILL)
        self._forget()

    # --- while it runs --------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stop it in its tracks (SIGSTOP); it has stopped when this returns. Raises InvalidRequest if it does
        not run.
        """
        self._signal(signal.SIGSTOP)
        self.is_paused = True
        assert self._process is not None, "it was there to be signalled"
        # Also returns for one that ends just now, and leaves its status to be had.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let it go on (SIGCONT). Raises InvalidRequest if it does not run."""
        self._signal(signal.SIGCONT)
        self.is_paused = False

    def log(self, bytes_max: int = LOG_BYTES_MAX) -> str:
        """The end of what it and the processes before it logged."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - bytes_max))
                return file.read(bytes_max).decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def __str__(self) -> str:
        return f"broker {self.number}"

    def _tail(self) -> str:
        lines = self.log(16 << 10).splitlines()[-TAIL_LINES:]
        return "\n".join(("; its log ends:", *lines)) if lines else "; it logged nothing"

    # --- the process itself ---------------------------------------------------------------------------

    @property
    def _descriptor(self) -> int:
        assert self._process is not None, "there is a process to read from"
        assert self._process.stdout is not None, "its stdout is a pipe"
        return self._process.stdout.fileno()

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is None:
            raise InvalidRequest(reason=f"{self} does not run")
        assert self._process is not None, "it has a pid"
        self._process.send_signal(number)

    def _wait(self) -> int | None:
        """The exit status of a process that is about to end; None, and it is killed, if it does not."""
        assert self._process is not None, "there is a process to wait for"
        try:
            return self._process.wait(END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(KILLED_SECONDS_MAX)
            return None

    def _forget(self) -> int | None:
        """Reap it and close its pipes: it ended as it was asked to."""
        try:
            return None if self._process is None else self._wait()
        finally:
            self._release()

    def _release(self) -> None:
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None, "both are pipes"
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process = None


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Have a Ctrl-C raise behind the block: in the middle of it there is a process that nobody knows yet."""
    if threading.current_thread() is not threading.main_thread():
        yield  # nothing interrupts other threads
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: caught.append(number))
    try:
        yield
    finally:
        if before is not None:  # not Python's own
            signal.signal(signal.SIGINT, before)
        if caught:
            signal.raise_signal(signal.SIGINT)


def _mark(log: BinaryIO) -> None:
    """Lock a log for as long as the process lives that is given it as its stderr: a lock belongs to what was
    opened, not to who opened it, and the last to have that open drops it by ending, however that happens.
    """
    with contextlib.suppress(OSError):  # somebody else's lock, or a file system that has none: it is a mark
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)


def still_runs(log: Path) -> bool:
    """Whether a process lives that was started with that log, by whomever."""
    try:
        return is_locked(log)
    except OSError:  # it cannot be read, or there are no locks: nobody is known
        return False


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock of that file; no if there is no such file. Raises OSError."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _environment() -> dict[str, str]:
    """This process's, without what would change a broker's settings behind the test's back."""
    return {
        name: value
        for name, value in os.environ.items()
        if not (name.startswith("MILLPOND_") and "__" in name)
    }
