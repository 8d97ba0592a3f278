"""What the demo's processes write down for the verifier: rows of JSON, appended with one write each.

A row is in the page cache once `write` returned, so it survives a SIGKILL of the writer; a row cut short by
one is ignored, as its writer never went on to act on it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Journal:
    """An append-only file of rows."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, rows: list[list[Any]]) -> None:
        """Append rows, all in one write."""
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        written = os.write(self._descriptor, data)
        if written != len(data):
            raise OSError(f"wrote {written} of {len(data)} bytes")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)


class Tally:
    """A running sum over the rows of a journal that another process writes; each row is read once."""

    def __init__(self, path: Path, weight: Callable[[list[Any]], int]) -> None:
        self._path = path
        self._weight = weight
        self._position = 0
        self._sum = 0

    def count(self) -> int:
        """The sum over the rows that are there by now."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._position)
                whole = file.read()
            whole = whole[: whole.rfind(b"\n") + 1]
            self._position += len(whole)
            self._sum += sum(self._weight(json.loads(line)) for line in whole.splitlines())
        return self._sum


def rows(path: Path) -> Iterator[list[Any]]:
    """The whole rows of a journal; none if it does not exist."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)
