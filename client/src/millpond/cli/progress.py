"""A bar on standard error for whoever waits at a terminal; nothing at all for anybody else."""

from __future__ import annotations

import os
import stat
from types import TracebackType
from typing import Protocol, Self, TextIO


class Progress(Protocol):
    """What a command shows while it runs; used as a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, read_bytes: int, records: int) -> None:
        """So many bytes more were read; so many records in all are done."""


class Nothing:
    """For a pipe, a file, a log."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, read_bytes: int, records: int) -> None:
        pass


class Bar:
    """Bytes of the whole where that is known, and records."""

    def __init__(self, stream: TextIO, total_bytes: int | None) -> None:
        # rich takes a fifth of a second, which only a person who watches is to pay.
        from rich.console import Console  # noqa: PLC0415 - see above
        from rich.progress import (  # noqa: PLC0415 - see above
            BarColumn,
            DownloadColumn,
            TextColumn,
            TimeElapsedColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as RichProgress  # noqa: PLC0415 - see above

        self._bar = RichProgress(
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TextColumn("{task.fields[records]:,} records"),
            TimeElapsedColumn(),
            console=Console(file=stream),
            transient=True,
        )
        self._task = self._bar.add_task("", total=total_bytes, records=0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, read_bytes: int, records: int) -> None:
        self._bar.update(self._task, advance=read_bytes, records=records)


def progress_of(fd: int, stream: TextIO | None) -> Progress:
    """A bar for what is read from `fd`, if somebody watches and is not typing it."""
    if stream is None or not stream.isatty() or os.isatty(fd):
        return Nothing()
    status = os.fstat(fd)
    return Bar(stream, status.st_size if stat.S_ISREG(status.st_mode) else None)
