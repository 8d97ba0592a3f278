"""Standard input and output as bytes, without ever holding up the event loop.

A pipe that nobody reads, or nobody writes, must not keep the client from answering its brokers, nor Ctrl-C
from ending the command. So a pipe, socket or terminal is asked first whether it is ready; files always are.
Descriptors stay as they are: making one non-blocking would make it so for every program that shares it.
"""

from __future__ import annotations

import asyncio
import os
import select
import stat
import sys
from typing import Final

READ_BYTES: Final = 4 << 20
"""Read at once at most: many batches, enough to keep a producer busy, few enough to hold several times."""
PIPE_WRITE_BYTES: Final = 4096
"""What a pipe that says it is ready takes without blocking, and others do as well."""
CLOSED_CHECK_SECONDS: Final = 0.25
"""How often a command that has nothing to write looks whether anybody would still read it."""

_GONE: Final = select.POLLERR | select.POLLHUP | select.POLLNVAL


class _Ready:
    """Whether a descriptor can be read or written now, and waiting until it can."""

    def __init__(self, fd: int, event: int) -> None:
        self.always = stat.S_ISREG(os.fstat(fd).st_mode)
        self._fd = fd
        self._event = event
        self._poll = select.poll()
        self._poll.register(fd, event)

    def now(self) -> bool:
        """True also when reading or writing would fail: whoever tries is told why."""
        return self.always or bool(self._poll.poll(0))

    async def wait(self) -> None:
        if self.now():
            return
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        reading = self._event == select.POLLIN
        (loop.add_reader if reading else loop.add_writer)(self._fd, ready.set)
        try:
            await ready.wait()
        finally:
            (loop.remove_reader if reading else loop.remove_writer)(self._fd)


class Source:
    """Bytes of an open descriptor, in bounded pieces."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._ready = _Ready(fd, select.POLLIN)

    async def read(self) -> bytes:
        """What is there, at most READ_BYTES; waits for the first of it. Empty at the end."""
        pieces: list[bytes] = []
        size = 0
        while not pieces or (size < READ_BYTES and self._ready.now()):
            await self._ready.wait()
            try:
                piece = os.read(self._fd, READ_BYTES - size)
            except BlockingIOError:  # whoever shares it made it non-blocking, and read it first
                continue
            pieces.append(piece)
            size += len(piece)
            if not piece:
                break
        return b"".join(pieces)


class Lines:
    """Pieces in, whole lines out, without their newlines; a last one without newline counts."""

    def __init__(self, line_bytes_max: int) -> None:
        self._line_bytes_max = line_bytes_max
        self._rest: list[bytes] = []
        self._rest_bytes = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that end in this piece. Raises ValueError for one that grows too long to hold."""
        first, *others = piece.split(b"\n")
        self._rest.append(first)
        self._rest_bytes += len(first)
        if self._rest_bytes > self._line_bytes_max:
            raise ValueError(f"is longer than {self._line_bytes_max:,} bytes")
        if not others:
            return []
        lines = [b"".join(self._rest), *others]
        self._rest = [lines.pop()]
        self._rest_bytes = len(self._rest[0])
        return lines

    def end(self) -> list[bytes]:
        """What stands behind the last newline, if anything does."""
        last = b"".join(self._rest)
        self._rest, self._rest_bytes = [], 0
        return [last] if last else []


class Sink:
    """Standard output for bytes."""

    def __init__(self) -> None:
        self._fd = -1
        self._ready: _Ready | None = None
        if sys.stdout is None:
            raise OSError("there is no standard output to write to")
        sys.stdout.flush()  # what was printed comes first
        try:
            self._fd = sys.stdout.fileno()
        except (OSError, ValueError):  # in a test, or in another program, standard output is an object
            return
        self._ready = _Ready(self._fd, select.POLLOUT)

    @property
    def interactive(self) -> bool:
        """Whether a person looks at it."""
        return sys.stdout.isatty()

    async def write(self, data: bytes) -> None:
        """All of it. Raises BrokenPipeError once nobody reads any more."""
        if self._ready is None:
            sys.stdout.buffer.write(data)
            return
        left = memoryview(data)
        piece = len(left) if self._ready.always else PIPE_WRITE_BYTES
        while left:
            await self._ready.wait()
            try:
                left = left[os.write(self._fd, left[:piece]) :]
            except BlockingIOError:  # whoever shares it made it non-blocking, and filled it first
                await asyncio.sleep(0)

    async def closed(self) -> None:
        """Return never; raise BrokenPipeError when nobody reads any more, though nothing was written."""
        poll = select.poll()
        if self._ready is not None:
            poll.register(self._fd, 0)
        while True:
            if any(event & _GONE for _, event in poll.poll(0)):
                raise BrokenPipeError
            await asyncio.sleep(CLOSED_CHECK_SECONDS)
