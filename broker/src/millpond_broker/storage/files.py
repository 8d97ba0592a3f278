"""The file layer: the only module that calls the operating system's file functions.

`Files` is the port; `OsFiles` is the real one, the simulator has another that loses what was not synced.
Each method says what is durable when it returns, because that is the contract the log is built on: a
write is in the page cache only, a created, renamed or unlinked name likewise, until `File.sync` or
`Files.sync_directory` says otherwise. Errors are the system's own OSError; the layers above give them
meaning (rule 40).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

Buffer = bytes | memoryview

BUFFERS_PER_WRITE_MAX: Final = 1024
"""IOV_MAX of Linux: one vectored write takes no more."""


DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Error numbers of a disk, or a quota, without room: the ones that pass."""


class File(Protocol):
    """One open regular file."""

    def write_at(self, position: int, buffers: Sequence[Buffer]) -> int:
        """Write the buffers one after another at `position`; how many bytes were written, which may be
        fewer. Nothing is durable yet. At most BUFFERS_PER_WRITE_MAX buffers.
        """

    def read_at(self, position: int, size: int) -> bytes:
        """Up to `size` bytes from `position`; fewer only at the end of the file."""

    def size(self) -> int:
        """Length in bytes now."""

    def truncate(self, size: int) -> None:
        """Cut to `size` bytes. Durable only after `sync`."""

    def sync(self) -> None:
        """Content and length written so far are durable when this returns. After an error nothing is
        known of the bytes written since the last success, and asking again proves nothing.
        """

    def close(self) -> None:
        """Give the descriptor back. Makes nothing durable. A second call does nothing."""


class FileSystem(Protocol):
    """A whole file system, for making many files durable at once."""

    def sync(self) -> None:
        """Everything written to it before this call is durable when this returns. It raises OSError also
        for a write that failed in the background since the handle was opened or last synced.
        """

    def close(self) -> None:
        """Give the descriptor back."""


class Lock(Protocol):
    """An exclusive lock that ends with the process at the latest."""

    def release(self) -> None:
        """Let another open of the directory succeed."""


class Files(Protocol):
    """Names and whole-file operations, on `Path`s."""

    def open(self, path: Path, *, create: bool = False) -> File:
        """Open for reading and writing. `create` makes a new file and raises FileExistsError when there
        is one; without it a missing file raises FileNotFoundError. A new name is durable after
        `sync_directory` of its parent.
        """

    def list(self, directory: Path) -> dict[str, int]:
        """Names in a directory with their sizes in bytes (0 for what is no regular file)."""

    def exists(self, path: Path) -> bool:
        """Whether the name is there."""

    def make_directory(self, path: Path) -> None:
        """Make one directory. Durable after `sync_directory` of its parent."""

    def rename(self, source: Path, target: Path) -> None:
        """Replace `target` by `source`, atomically. Durable after `sync_directory` of the parent."""

    def unlink(self, path: Path) -> None:
        """Remove a file's name. Durable after `sync_directory` of its parent."""

    def remove_directory(self, path: Path) -> None:
        """Remove an empty directory. Durable after `sync_directory` of its parent."""

    def sync_directory(self, path: Path) -> None:
        """The names in `path`, as they are now, are durable when this returns."""

    def file_system(self, path: Path) -> FileSystem | None:
        """A handle on the file system of `path`, which reports write errors from now on. None where the
        system cannot sync a whole file system or would not report an error of it.
        """

    def lock(self, path: Path) -> Lock:
        """Lock the file `path`, which is made if missing. Raises BlockingIOError when it is locked."""


class OsFile:
    """A file of the operating system, by descriptor and explicit positions."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write_at(self, position: int, buffers: Sequence[Buffer]) -> int:
        assert position >= 0, "to Linux, -1 means the descriptor's own position"
        return os.pwritev(self._descriptor, buffers, position)

    def read_at(self, position: int, size: int) -> bytes:
        data = os.pread(self._descriptor, size, position)
        if len(data) == size or not data:
            return data
        # A signal or a very long read may end early; only the end of the file returns nothing.
        parts = [data]
        while data and (missing := size - sum(map(len, parts))) > 0:
            data = os.pread(self._descriptor, missing, position + size - missing)
            parts.append(data)
        return b"".join(parts)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def sync(self) -> None:
        # Length changes are metadata that is needed to read the data back: fdatasync flushes them too.
        if self._descriptor < 0:  # a ValueError to os.fdatasync, and to no other call here
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class FailsForGood:
    """A file on which, once a sync failed, every later one fails too (rule 40).

    The system tells a descriptor of lost pages once, and a second sync succeeds. An owner that syncs while
    another thread's sync of the same file is failing must not be the second: syncs take turns, and the
    failure is on record before the next one begins.
    """

    def __init__(self, file: File) -> None:
        self._file = file
        self._turn = threading.Lock()
        self._failure: OSError | None = None

    def write_at(self, position: int, buffers: Sequence[Buffer]) -> int:
        return self._file.write_at(position, buffers)

    def read_at(self, position: int, size: int) -> bytes:
        return self._file.read_at(position, size)

    def size(self) -> int:
        return self._file.size()

    def truncate(self, size: int) -> None:
        self._file.truncate(size)

    def sync(self) -> None:
        with self._turn:
            if self._failure is not None:
                raise OSError(*self._failure.args)
            try:
                self._file.sync()
            except OSError as error:
                self._failure = error
                raise

    def close(self) -> None:
        self._file.close()


class OsFileSystem:
    """syncfs(2), which the standard library has no call for.

    The descriptor is kept open between calls: the kernel reports a background write error to those who
    had the file system open when it happened.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path
        self._libc = ctypes.CDLL(None, use_errno=True)

    def sync(self) -> None:
        if self._libc.syncfs(self._descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(self._path))

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


_SYNCED_WHOLE: Final = frozenset({"ext3", "ext4", "xfs", "f2fs", "tmpfs"})
"""File systems whose whole sync tells of every failed write. An overlay's, for one, may not."""


def _file_system_type(path: Path) -> str | None:
    """What kind of file system `path` is on, None where the mount table does not say."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        table = Path("/proc/self/mountinfo").read_text()
    except OSError:
        return None
    for line in table.splitlines():
        mount, _, source = line.partition(" - ")
        if mount.split()[2] == number:
            return source.split()[0]
    return None


def _syncfs_reports_errors() -> bool:
    """Linux before 5.8 returned success from syncfs whatever happened to the data."""
    name = os.uname()
    match = re.match(r"(\d+)\.(\d+)", name.release)
    return name.sysname == "Linux" and match is not None and (int(match[1]), int(match[2])) >= (5, 8)


class OsLock:
    """An flock, which the kernel drops when the process ends, however it ends.

    It belongs to the open file, which a fork would share: a child gives up its copy, or it would go on
    holding the lock after its parent died.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        _locks.add(self)

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


_locks: Final = weakref.WeakSet[OsLock]()


def _drop_locks_in_child() -> None:
    for lock in list(_locks):
        lock.release()


os.register_at_fork(after_in_child=_drop_locks_in_child)


class OsFiles:
    """The file system of this machine."""

    def open(self, path: Path, *, create: bool = False) -> File:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
        return OsFile(os.open(path, flags, 0o644))

    def list(self, directory: Path) -> dict[str, int]:
        with os.scandir(directory) as entries:
            return {entry.name: entry.stat().st_size if entry.is_file() else 0 for entry in entries}

    def exists(self, path: Path) -> bool:
        return path.exists()

    def make_directory(self, path: Path) -> None:
        path.mkdir()

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def remove_directory(self, path: Path) -> None:
        path.rmdir()

    def sync_directory(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def file_system(self, path: Path) -> FileSystem | None:
        if not _syncfs_reports_errors() or _file_system_type(path) not in _SYNCED_WHOLE:
            return None
        return OsFileSystem(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), path)

    def lock(self, path: Path) -> Lock:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
                raise BlockingIOError(error.errno, "locked", str(path)) from None
            raise
        return OsLock(descriptor)
