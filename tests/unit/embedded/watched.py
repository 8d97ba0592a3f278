"""A file layer that counts what passes, and that a test can interrupt at any operation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from millpond_broker.storage.files import Buffer, File, Files, FileSystem, Lock, OsFiles

WAIT_SECONDS_MAX: Final = 10.0
"""Deadline of whatever a test waits for: far more than it takes, far less than a hung build."""


class WatchedFiles:
    """`inner`, with `hook(operation, path)` called before operations on files' content and names.

    What the hook raises is what the operation raises. `syncs` counts syncs of log segments only,
    one by one or of the whole file system: what producers wait for. Without `syncs_really` a sync
    is counted and not done, for tests that open often and lose no power.
    """

    def __init__(self, *, syncs_really: bool = True) -> None:
        self.inner: Files = OsFiles()
        self.syncs_really = syncs_really
        self.hook: Callable[[str, Path], None] = lambda operation, path: None
        self.syncs = 0
        self._lock = threading.Lock()

    def before(self, operation: str, path: Path) -> None:
        if operation == "sync_file_system" or (operation == "sync" and path.suffix == ".log"):
            with self._lock:
                self.syncs += 1
        self.hook(operation, path)

    def open(self, path: Path, *, create: bool = False) -> File:
        self.before("create" if create else "open", path)
        return _WatchedFile(self, self.inner.open(path, create=create), path)

    def list(self, directory: Path) -> dict[str, int]:
        return self.inner.list(directory)

    def exists(self, path: Path) -> bool:
        return self.inner.exists(path)

    def make_directory(self, path: Path) -> None:
        self.before("make_directory", path)
        self.inner.make_directory(path)

    def rename(self, source: Path, target: Path) -> None:
        self.before("rename", target)
        self.inner.rename(source, target)

    def unlink(self, path: Path) -> None:
        self.before("unlink", path)
        self.inner.unlink(path)

    def remove_directory(self, path: Path) -> None:
        self.before("remove_directory", path)
        self.inner.remove_directory(path)

    def sync_directory(self, path: Path) -> None:
        self.before("sync_directory", path)
        if self.syncs_really:
            self.inner.sync_directory(path)

    def file_system(self, path: Path) -> FileSystem | None:
        self.before("file_system", path)
        inner = self.inner.file_system(path)
        return None if inner is None else _WatchedFileSystem(self, inner, path)

    def lock(self, path: Path) -> Lock:
        return self.inner.lock(path)


class _WatchedFile:
    def __init__(self, files: WatchedFiles, inner: File, path: Path) -> None:
        self._files = files
        self._inner = inner
        self._path = path

    def write_at(self, position: int, buffers: Sequence[Buffer]) -> int:
        self._files.before("write", self._path)
        return self._inner.write_at(position, buffers)

    def read_at(self, position: int, size: int) -> bytes:
        self._files.before("read", self._path)
        return self._inner.read_at(position, size)

    def size(self) -> int:
        return self._inner.size()

    def truncate(self, size: int) -> None:
        self._files.before("truncate", self._path)
        self._inner.truncate(size)

    def sync(self) -> None:
        self._files.before("sync", self._path)
        if self._files.syncs_really:
            self._inner.sync()

    def close(self) -> None:
        self._inner.close()


class _WatchedFileSystem:
    def __init__(self, files: WatchedFiles, inner: FileSystem, path: Path) -> None:
        self._files = files
        self._inner = inner
        self._path = path

    def sync(self) -> None:
        self._files.before("sync_file_system", self._path)
        if self._files.syncs_really:
            self._inner.sync()

    def close(self) -> None:
        self._inner.close()


class FailAt:
    """A hook that raises OSError(`number`) at the `n`-th operation. `fired`: it came to that."""

    def __init__(self, n: int, number: int) -> None:
        self._left = n
        self._number = number
        self.fired = False

    def __call__(self, operation: str, path: Path) -> None:
        self._left -= 1
        if not self._left:
            self.fired = True
            raise OSError(self._number, f"planted in {operation}", str(path))
