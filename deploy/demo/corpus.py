"""The demo's input: every line of the Python standard library's source, file by file in a fixed order."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

TOPIC = "source-lines"
ROOT = Path(sysconfig.get_paths()["stdlib"])


class Line(NamedTuple):
    """One line of one file. `name` is relative to the library's root, `number` counts from 0."""

    name: str
    number: int
    text: bytes


@lru_cache(maxsize=1)
def names() -> list[str]:
    """The source files, sorted; installed packages are not the standard library's."""
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
    return sorted(path.as_posix() for path in found if "site-packages" not in path.parts)


@lru_cache(maxsize=64)
def lines_of(name: str) -> list[bytes]:
    """The lines of a file, line ends included: joined they are the file, byte for byte."""
    return (ROOT / name).read_bytes().splitlines(keepends=True)


def lines(after: tuple[str, int] | None = None) -> Iterator[Line]:
    """Every line, or those that follow line `after` = (name, number)."""
    for name in names():
        if after is not None and name < after[0]:
            continue
        start = after[1] + 1 if after is not None and name == after[0] else 0
        for number, text in enumerate(lines_of(name)[start:], start=start):
            yield Line(name, number, text)


def count() -> int:
    """How many lines there are."""
    return sum(len(lines_of(name)) for name in names())
