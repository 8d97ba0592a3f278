"""Replacing a file by a new one, whole or not at all, in the two steps that fail differently."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

from millpond_broker.storage.files import Files


def write_beside(files: Files, path: Path, data: bytes) -> None:
    """Write what is to be at `path` to a file next to it; its bytes are durable when this returns. Raises
    OSError, also for a short write; what is at `path` is as it was.
    """
    beside = _beside(path)
    if files.exists(beside):
        files.unlink(beside)
    file = files.open(beside, create=True)
    try:
        if file.write_at(0, [data]) != len(data):
            raise OSError(errno.ENOSPC, "short write", str(beside))
        file.sync()
    except OSError:
        with suppress(OSError):  # room for others; the next attempt removes it all the same
            files.unlink(beside)
        raise
    finally:
        file.close()


def put_in_place(files: Files, path: Path) -> None:
    """Give it its name, durably. Raises OSError: then the old file or the new one is at `path`."""
    files.rename(_beside(path), path)
    files.sync_directory(path.parent)


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".new")
