"""Who writes while brokers run: one thread, whole lines, so that none stands within another.

Brokers' logs are shown on standard error, each line with whose it is in front; what the command itself says
goes the same way. A reader that stands still (Ctrl-S, a pager) keeps this thread waiting and nobody else.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from millpond._local.tailing import Tail
from millpond.cli.log_lines import colour_of, readable

STDOUT: Final = 1
STDERR: Final = 2
LOOK_SECONDS: Final = 0.1
"""Between two looks at the logs: soon enough for an eye, and nothing for a processor."""
SAID_MAX: Final = 1000
"""Lines of the command's own that may wait for a reader who stands still; the oldest go first."""
CLOSE_SECONDS_MAX: Final = 2.0
"""For the last lines to be written to a reader who may stand still."""

PREFIX_COLOURS: Final = ("cyan", "magenta", "green", "blue", "bright_cyan", "bright_magenta", "bright_green")


class Screen:
    """Shows lines of its caller's, and log files by name, once there are some. Nothing of it raises for a
    reader who has left.
    """

    def __init__(self, *, colours: bool) -> None:
        self._tails: Mapping[str, Tail] = {}
        self._colours = colours
        self._said: deque[tuple[int, str]] = deque(maxlen=SAID_MAX)
        self._something = threading.Event()
        self._closing = False
        self._gone: set[int] = set()
        # A daemon: who stands still as it reads must not keep the process from its end.
        self._thread = threading.Thread(target=self._run, name="millpond-screen", daemon=True)
        self._thread.start()

    def follow(self, logs: Mapping[str, Path]) -> None:
        """Show what is logged to these files from now on. Once."""
        assert not self._tails, "the thread that reads them closes these only"
        self._tails = {name: Tail(path) for name, path in logs.items()}

    def say(self, line: str, descriptor: int = STDERR) -> None:
        """Write a line after what the brokers have logged by now. Never waits."""
        self._said.append((descriptor, line))
        self._something.set()

    def close(self) -> None:
        """Write what there is left, and end."""
        self._closing = True
        self._something.set()
        self._thread.join(CLOSE_SECONDS_MAX)

    def _run(self) -> None:
        while not self._closing:
            self._something.wait(LOOK_SECONDS)
            self._something.clear()
            self._look()
        while self._look():
            pass
        for tail in self._tails.values():
            tail.close()

    def _look(self) -> bool:
        """Write what is new; whether there was any of the logs."""
        said = [self._said.popleft() for _ in range(len(self._said))]
        tails = self._tails  # `follow` gives others, meanwhile
        width = max(map(len, tails), default=0)
        shown = []
        for (name, tail), colour in zip(tails.items(), itertools.cycle(PREFIX_COLOURS), strict=False):
            shown += self._new_of(tail, self._styled(f"{name:<{width}} |", colour))
        if shown:
            self._write(STDERR, "\n".join([*shown, ""]))
        for descriptor, line in said:
            self._write(descriptor, f"{line}\n")
        return bool(shown)

    def _new_of(self, tail: Tail, prefix: str) -> list[str]:
        left_out, lines = tail.lines()
        shown = [f"{prefix} … {left_out:,} bytes left out here: {tail.path}"] if left_out else []
        for line in lines:
            level, text = readable(line)
            shown.append(f"{prefix} {self._styled(text, colour_of(level))}")
        return shown

    def _styled(self, text: str, colour: str | None) -> str:
        return click.style(text, fg=colour) if self._colours and colour else text

    def _write(self, descriptor: int, text: str) -> None:
        # Not through sys.stdout: its lock, held by a thread that waits, would stop the interpreter's own end.
        data = text.encode("utf-8", "replace")
        while data and descriptor not in self._gone:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:  # somebody made the terminal non-blocking: a look later
                threading.Event().wait(LOOK_SECONDS)
            except OSError:  # the reader has left: the brokers go on
                self._gone.add(descriptor)


def shows_colours(descriptor: int) -> bool:
    """A terminal of somebody who has not asked for none (https://no-color.org)."""
    with contextlib.suppress(OSError):
        return os.isatty(descriptor) and not os.environ.get("NO_COLOR")
    return False
