"""A file layer that writes down what is asked of it, and fails or stops where a test wants.

It stands between the storage code and another file layer. `changes` are the operations that change
a disk or make it durable, in order, as "operation name"; reads are counted by name, `written` holds
the (start, end) of each write. `plan` is asked before each change and may return the exception to
raise instead of it.
"""

from __future__ import annotations

import errno
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from millpond_broker.storage.files import Buffer, File, Files, FileSystem, Lock

Plan = Callable[[str], BaseException | None]


class Stopped(BaseException):
    """The process ends here: no code of its own may catch this."""


def full() -> OSError:
    """No space left."""
    return OSError(errno.ENOSPC, "no space left")


def broken() -> OSError:
    """The disk failed."""
    return OSError(errno.EIO, "input/output error")


class Countdown:
    """A plan: the change of index `at` raises what `error` makes, `once` or from there on."""

    def __init__(self, at: int, error: Callable[[], BaseException] = Stopped, *, once: bool = False) -> None:
        self._left = at
        self._error = error
        self._once = once
        self.fired = False

    def __call__(self, change: str) -> BaseException | None:
        self._left -= 1
        if self._left >= 0 or (self._once and self.fired):
            return None
        self.fired = True
        return self._error()


class TapFile:
    """One open file of a `TapFiles`."""

    def __init__(self, tap: TapFiles, name: str, inner: File) -> None:
        self._tap = tap
        self.name = name
        self.inner = inner
        self.is_closed = False

    def write_at(self, position: int, buffers: Sequence[Buffer]) -> int:
        self._tap.change("write", self.name)
        written = self.inner.write_at(position, buffers)
        self._tap.written[self.name].append((position, position + written))
        return written

    def read_at(self, position: int, size: int) -> bytes:
        self._tap.reads[self.name] += 1
        return self.inner.read_at(position, size)

    def size(self) -> int:
        return self.inner.size()

    def truncate(self, size: int) -> None:
        self._tap.change("truncate", self.name)
        self.inner.truncate(size)

    def sync(self) -> None:
        self._tap.change("sync", self.name)
        self.inner.sync()

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._tap.open_files[self.name] -= 1
        self.inner.close()


class TapFiles:
    """The file layer with a tap on it. Locks and file-system handles pass through."""

    def __init__(self, inner: Files) -> None:
        self.inner = inner
        self.changes: list[str] = []
        self.reads: Counter[str] = Counter()
        self.written: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        self.open_files: Counter[str] = Counter()
        self.plan: Plan | None = None

    def change(self, operation: str, name: str) -> None:
        """Note a change, unless the plan has another idea."""
        change = f"{operation} {name}"
        if self.plan is not None and (error := self.plan(change)) is not None:
            raise error
        self.changes.append(change)

    def clear(self) -> None:
        """Forget what was written down, and any plan."""
        self.changes.clear()
        self.reads.clear()
        self.plan = None

    def open(self, path: Path, *, create: bool = False) -> File:
        if create:
            self.change("create", path.name)
        file = TapFile(self, path.name, self.inner.open(path, create=create))
        self.open_files[path.name] += 1
        return file

    def list(self, directory: Path) -> dict[str, int]:
        return self.inner.list(directory)

    def exists(self, path: Path) -> bool:
        return self.inner.exists(path)

    def make_directory(self, path: Path) -> None:
        self.change("make_directory", path.name)
        self.inner.make_directory(path)

    def rename(self, source: Path, target: Path) -> None:
        self.change("rename", target.name)
        self.inner.rename(source, target)

    def unlink(self, path: Path) -> None:
        self.change("unlink", path.name)
        self.inner.unlink(path)

    def remove_directory(self, path: Path) -> None:
        self.change("remove_directory", path.name)
        self.inner.remove_directory(path)

    def sync_directory(self, path: Path) -> None:
        self.change("sync_directory", path.name)
        self.inner.sync_directory(path)

    def file_system(self, path: Path) -> FileSystem | None:
        return self.inner.file_system(path)

    def lock(self, path: Path) -> Lock:
        return self.inner.lock(path)
