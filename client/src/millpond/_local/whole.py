"""Small files that are there whole or not at all, whenever this process, or the machine, ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

BESIDE: Final = ".new"
"""What the next version's name ends with, until it takes the place of the last one."""


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Put a file in the place of the one before. Durable when it returns; until then the one before is there,
    and stays if it is the same: a disk without room is no reason not to start. Raises OSError.
    """
    if _is_there(path, text):
        sync_directory(path.parent)  # who put it there may have been killed before its name was durable
        return
    beside = path.with_name(path.name + BESIDE)
    beside.unlink(missing_ok=True)  # of a writer that was killed; its mode may be another
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    beside.replace(path)
    sync_directory(path.parent)


def _is_there(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode()
    except FileNotFoundError:
        return False


def sync_directory(path: Path) -> None:
    """Names that were made or changed in it are durable when it returns. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
