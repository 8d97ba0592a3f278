"""The directory of a local cluster that somebody runs: found again, or temporary; used by one at a time.

A temporary one says so itself, by a mark with its own path. What its user named, copied or moved may have any
name, and stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from millpond._local.examining import LOCK, LOG, MARK, foreign_entry, homes
from millpond._local.process import is_locked, still_runs
from millpond._local.whole import sync_directory
from millpond.wire.errors import DirectoryInUse

TEMPORARY: Final = "millpond-up-"
LEFT_MAX: Final = 100
"""Directories of killed predecessors that one start removes: what is more has another cause."""
BEGUN_SECONDS: Final = 60.0
"""Whoever makes a temporary directory has marked it long before: this one was killed in between."""


@contextmanager
def kept(directory: Path, check: Callable[[], object]) -> Iterator[Path]:
    """`directory`, made if need be and locked. What is wrong with it, or with what would be done in it,
    `check` raises before anything is written. Raises DirectoryInUse while somebody else has it.
    """
    check()
    with contextlib.suppress(FileExistsError):  # made by now, maybe by another: the lock says whose it is
        directory.mkdir(parents=True)
        # What is made in a checkout is not to be committed with it.
        (directory / ".gitignore").write_text("*\n", encoding="ascii")
        sync_directory(directory.parent)
    with _locked(directory):
        if _goes_by_some_name(directory):  # a temporary one that was left, and is wanted now
            (directory / MARK).unlink()
            sync_directory(directory)
        yield directory


@contextmanager
def temporary() -> Iterator[Path]:
    """A new directory that goes with the block. What killed predecessors had to leave goes, too."""
    _sweep(Path(tempfile.gettempdir()).absolute())
    directory = Path(tempfile.mkdtemp(prefix=TEMPORARY)).absolute()
    try:
        with _locked(directory):
            # Not before it is locked: whoever finds a mark without a lock finds a directory that was left.
            (directory / MARK).write_bytes(os.fsencode(directory))
            yield directory
    finally:
        _remove(directory)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the lock of the cluster, which the system drops with this process."""
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DirectoryInUse(path=str(directory), holder="another `millpond up`") from None
        if not os.fstat(descriptor).st_nlink:  # removed since it was opened, and the directory with it
            raise DirectoryInUse(path=str(directory), holder="another `millpond up`, which removes it")
        yield
    finally:
        os.close(descriptor)


# --- who uses it -----------------------------------------------------------------------------------------


def running(directory: Path) -> list[int]:
    """The brokers whose processes live, of those that some `millpond up` has started there."""
    return [number for number, home in homes(directory).items() if still_runs(home / LOG)]


def in_use(directory: Path) -> Path | None:
    """The first data directory that a broker has open, whoever started it; None: none is."""
    data = (home / "data" for home in homes(directory).values())
    return next((path for path in data if is_locked(path / "lock")), None)


# --- what killed predecessors left -----------------------------------------------------------------------


def _sweep(where: Path) -> None:
    """Remove temporary directories of this user whose cluster, and each broker of it, has ended."""
    left = (found for found in sorted(where.glob(f"{TEMPORARY}*")) if _seems_left(found))
    for found in itertools.islice(left, LEFT_MAX):
        with contextlib.suppress(OSError, DirectoryInUse), _locked(found):
            # Marked still: until it was locked somebody may have begun to keep it.
            if (_is_marked(found) or _is_bare(found)) and not running(found) and in_use(found) is None:
                _remove(found)


def _seems_left(path: Path) -> bool:
    """Whether it is what `temporary` makes, and not something that happens to have such a name."""
    try:
        about = path.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
            return False
        if _is_marked(path):
            return foreign_entry(path) is None
        # Its maker, or who removed it, was killed at that.
        is_old = time.time() - about.st_mtime > BEGUN_SECONDS
        return is_old and stat.S_IMODE(about.st_mode) == 0o700 and _is_bare(path)
    except OSError:  # it goes just now
        return False


def _is_marked(path: Path) -> bool:
    mark = path / MARK
    return mark.is_file() and mark.read_bytes() == os.fsencode(path)


def _goes_by_some_name(path: Path) -> bool:
    """Whether it is marked, whatever it is called here: from where somebody stands, or by a link to it."""
    with contextlib.suppress(OSError, ValueError):  # there is none, or a file that is only called so
        return Path(os.fsdecode((path / MARK).read_bytes())).samefile(path)
    return False


def _is_bare(path: Path) -> bool:
    """There is nothing in it that anybody could miss."""
    return {entry.name for entry in path.iterdir()} <= {LOCK, MARK}


def _remove(directory: Path) -> None:
    """All of it, what tells whose it was at the end: a removal that is killed is gone on with by the next."""
    with contextlib.suppress(OSError):
        for entry in directory.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name not in (LOCK, MARK):
                entry.unlink()
    shutil.rmtree(directory, ignore_errors=True)
