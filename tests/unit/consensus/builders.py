"""What the tests of the journal build with: a data directory on a simulated disk, and short entries."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Final

from millpond_broker.consensus.journal import JOURNAL, Base, Entry, EntryKind, Journal
from millpond_broker.storage.files import Files
from tests.sim.disk import SimFiles

DIRECTORY: Final = Path("/data")
HOME: Final = DIRECTORY / "metadata"
FILE: Final = HOME / JOURNAL


def disk(seed: int = 0) -> SimFiles:
    """A disk with an empty data directory."""
    files = SimFiles(Random(seed))
    files.make_directory(DIRECTORY)
    files.sync_directory(Path("/"))
    return files


def entry(index: int, term: int = 1, size: int = 10) -> Entry:
    """One that tells its index and term."""
    return Entry(index, term, EntryKind.COMMAND, b"%d/%d " % (index, term) + b"x" * size)


def entries(start: int, end: int, term: int = 1, size: int = 10) -> list[Entry]:
    """Those from `start` up to `end`, exclusive."""
    return [entry(index, term, size) for index in range(start, end)]


def made(files: SimFiles, base: Base | None = None) -> Journal:
    """A new journal."""
    files.make_directory(HOME)
    files.sync_directory(DIRECTORY)
    Journal.create(files, HOME, base or Base())
    return Journal.open(files, HOME)


def reopened(files: Files) -> Journal:
    """The journal as the next process finds it."""
    return Journal.open(files, HOME)
