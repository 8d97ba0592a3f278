"""Ctrl-C and its kin, for a command that has something to put away: counted from the first on, none is lost.

An event loop's own handlers are there only once it runs; what came before would end the process as it stands,
and with it nothing that it had made.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, Self

NUMBERS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The last: the terminal is closed. That is told only if nothing was before: it comes twice, from the shell
and from the system, and who closes a terminal while all is put away does not ask to have it left.
"""


class Interrupts:
    """Within the block the first of these signals ends nothing by itself; before there is an event loop the
    second one raises KeyboardInterrupt. For the main thread.
    """

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._untold = 0
        self._is_asked = False
        self._call: Callable[[], object] | None = None

    def __enter__(self) -> Self:
        for number in NUMBERS:
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup: it is to outlive the terminal
            self._before[number] = signal.signal(number, self._caught)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def tell(self, call: Callable[[], object]) -> None:
        """Have `call` called by the running event loop, once for each signal: those before now as well."""
        loop = asyncio.get_running_loop()
        self._call = lambda: loop.call_soon_threadsafe(call)
        untold, self._untold = self._untold, 0
        for _ in range(untold):
            loop.call_soon(call)

    def _caught(self, number: int, _frame: FrameType | None) -> None:
        # Between any two instructions of the main thread: it only leaves word, and raises nothing.
        if number == signal.SIGHUP and self._is_asked:
            return
        self._is_asked = True
        if self._call is None:
            self._untold += 1
            if self._untold > 1:  # whoever is asked twice is to stop where it stands; nothing runs yet
                raise KeyboardInterrupt
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: all there was to stop has been stopped
            self._call()
