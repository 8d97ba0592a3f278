"""The directory of a local cluster that somebody runs: found again, or temporary; used by one at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from millpond._local.examining import LOCK, LOG, foreign_entry, homes
from millpond._local.process import still_runs
from millpond._local.whole import BESIDE, sync_directory
from millpond.wire.errors import DirectoryInUse

TEMPORARY: Final = "millpond-up-"
LEFT_MAX: Final = 100
"""Directories of killed predecessors that are looked at: what is more has another cause."""


@contextmanager
def kept(directory: Path, check: Callable[[], object]) -> Iterator[Path]:
    """`directory`, made if need be and locked. What is wrong with it, or with what would be done in it,
    `check` raises before anything is written. Raises DirectoryInUse while somebody else has it.
    """
    check()
    if not directory.exists():
        directory.mkdir(parents=True)
        # What is made in a checkout is not to be committed with it.
        (directory / ".gitignore").write_text("*\n", encoding="ascii")
        sync_directory(directory.parent)
    with _locked(directory):
        yield directory


@contextmanager
def temporary() -> Iterator[Path]:
    """A new directory that goes with the block. What killed predecessors had to leave goes, too."""
    _sweep(Path(tempfile.gettempdir()))
    directory = Path(tempfile.mkdtemp(prefix=TEMPORARY))
    try:
        # Its lock is held before it has its name: whoever finds it free finds a directory that was left.
        descriptor = os.open(
            directory / (LOCK + BESIDE), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (directory / (LOCK + BESIDE)).rename(directory / LOCK)
            yield directory
        finally:
            os.close(descriptor)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the lock of the cluster, which the system drops with this process."""
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DirectoryInUse(path=str(directory), holder="another `millpond up`") from None
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
    return next((path for path in data if _is_locked(path / "lock")), None)


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


# --- what killed predecessors left -----------------------------------------------------------------------


def _sweep(where: Path) -> None:
    """Remove temporary directories of this user whose cluster, and each broker of it, has ended."""
    for found in sorted(where.glob(f"{TEMPORARY}*"))[:LEFT_MAX]:
        with contextlib.suppress(OSError, DirectoryInUse):
            if not _was_ours(found):
                continue
            with _locked(found):
                if not running(found) and in_use(found) is None:
                    shutil.rmtree(found, ignore_errors=True)


def _was_ours(path: Path) -> bool:
    """Whether it is what `temporary` makes, and not something that happens to have such a name."""
    about = path.lstat()
    return (
        stat.S_ISDIR(about.st_mode)
        and about.st_uid == os.getuid()
        and (path / LOCK).is_file()
        and foreign_entry(path) is None
    )
