"""The directory of a local cluster that somebody runs: found again, or temporary; used by one at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from millpond.wire.errors import DirectoryInUse

LOCK: Final = "up.lock"
TEMPORARY: Final = "millpond-up-"
YOUNG_SECONDS: Final = 60.0
"""A directory that was made just now may not have its lock yet."""
LEFT_MAX: Final = 100
"""Directories of killed predecessors that are looked at: what is more has another cause."""


@contextmanager
def kept(directory: Path) -> Iterator[Path]:
    """`directory`, made if need be and locked. Raises DirectoryInUse while somebody else has it."""
    if not directory.exists():
        directory.mkdir(parents=True)
        # What is made in a checkout is not to be committed with it.
        (directory / ".gitignore").write_text("*\n", encoding="ascii")
    with _locked(directory):
        yield directory


@contextmanager
def temporary() -> Iterator[Path]:
    """A new directory that goes with the block. What killed predecessors had to leave goes, too."""
    _sweep(Path(tempfile.gettempdir()))
    directory = Path(tempfile.mkdtemp(prefix=TEMPORARY))
    try:
        with _locked(directory):
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _locked(directory: Path, *names: str) -> Iterator[None]:
    """Hold the lock of the cluster, and of the files named, which the system drops with this process."""
    with contextlib.ExitStack() as held:
        for name in (LOCK, *names):
            descriptor = os.open(directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            held.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DirectoryInUse(path=str(directory), holder="another `millpond up`") from None
        yield


def _sweep(where: Path) -> None:
    """Remove temporary directories of this user whose cluster, and each broker of it, has ended."""
    for found in sorted(where.glob(f"{TEMPORARY}*"))[:LEFT_MAX]:
        with contextlib.suppress(OSError, DirectoryInUse):
            about = (found / LOCK).stat()
            if about.st_uid != os.getuid() or time.time() - about.st_mtime < YOUNG_SECONDS:
                continue
            locks = [str(lock.relative_to(found)) for lock in found.glob("broker-*/data/lock")]
            with _locked(found, *locks):
                shutil.rmtree(found, ignore_errors=True)
