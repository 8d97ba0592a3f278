"""What is appended to a broker's log file, line by line, and the bound on that file.

A broker writes to a file, never to a pipe of ours: nobody who does not read can make it wait.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

READ_BYTES_MAX: Final = 64 << 10
"""At one look: brokers take turns, and none fills the screen alone."""
BEHIND_BYTES_MAX: Final = 1 << 20
"""Of lines that nobody has read yet (a terminal may be stopped). What is older is left out, and stays in the
file."""
LINE_BYTES_MAX: Final = READ_BYTES_MAX
"""Longer ones are cut there: a broker's own are shorter."""
FILE_BYTES_MAX: Final = 64 << 20
"""After which a file that was read to its end begins anew; the one of the run before is kept beside it."""


class Tail:
    """The end of one log file. `path` is there from now on, and empty."""

    def __init__(self, path: Path) -> None:
        """What an earlier run wrote goes to `<path>.1`."""
        self.path = path
        if path.exists():
            path.replace(path.with_name(f"{path.name}.1"))
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._position = 0
        self._rest = b""

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)

    def lines(self) -> tuple[int, list[bytes]]:
        """How many bytes were left out, and the lines that came since, without their ends; often none."""
        size = os.fstat(self._descriptor).st_size
        left_out = 0
        if size - self._position > BEHIND_BYTES_MAX:
            left_out = size - self._position - READ_BYTES_MAX
            self._position += left_out
        data = os.pread(self._descriptor, READ_BYTES_MAX, self._position)
        self._position += len(data)
        is_at_end = not data
        if left_out:  # in the middle of a line, most likely
            cut, _, data = data.partition(b"\n")
            left_out, self._rest = left_out + len(self._rest) + len(cut) + 1, b""
        *whole, rest = (self._rest + data).split(b"\n")
        if len(rest) >= LINE_BYTES_MAX:
            whole, rest = [*whole, rest[:LINE_BYTES_MAX]], b""
        self._rest = rest
        if is_at_end and size >= FILE_BYTES_MAX:
            # A broker appends: it goes on at the new end. Only what comes just now is lost to the eye.
            os.ftruncate(self._descriptor, 0)
            self._position = 0
        return left_out, whole
