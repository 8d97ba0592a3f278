"""A disk in memory that keeps what was synced and, in a crash, as little of the rest as it likes.

`SimFiles` implements the storage's file port. What the port does not promise, this disk takes away:
unsynced bytes, sector by sector (`pages`), and unsynced names, one by one (`names`), each
independently. Every choice is drawn from the `Random` it was given, so that a run is its seed. Use
it from one thread.

Stopping:     `crash_after(n)`, then `crash()` (power loss) or `kill()` (of the process only).
Failing:      `fail_next_sync`, `fail_reads`, `fail_writes`, `heal`; `capacity_bytes` (a full disk).
Damaging:     `flip_bit`, `cut`, `evict`.
Exploring:    `clone()` gives a second disk in the same state, to crash differently.
"""

from __future__ import annotations

import copy
import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from millpond_broker.storage.files import BUFFERS_PER_WRITE_MAX, Buffer, File, FileSystem, Lock
from tests.sim.names import DirectoryNode, FileNode, Node, Place, Tree, walk
from tests.sim.pages import Pages


class SimulatedCrash(BaseException):
    """The machine stopped before this operation. Not an Exception: nothing on a dead machine
    handles it.
    """


@dataclass(frozen=True)
class _SyncFault:
    """`path` None stands for any file; `written` is the share of sectors that reach the disk all
    the same.
    """

    path: Path | None
    written: float


class SimFiles:
    """The file port on a simulated disk. The root directory `/` is there from the start.

    `capacity_bytes` bounds the sum of file lengths (None: no bound) and may be changed at any time.
    `operations` counts the calls that changed something, which are those `crash_after` counts.
    `whole_system_sync` says whether `file_system` gives a handle, as not every system does.
    """

    def __init__(
        self,
        random: Random,
        *,
        capacity_bytes: int | None = None,
        whole_system_sync: bool = True,
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self.operations = 0
        self._random = random
        self._whole_system_sync = whole_system_sync
        self._tree = Tree()
        self._boot = 0
        self._operations_left: int | None = None
        self._crashed = False
        self._failed_syncs = 0
        self._sync_faults: list[_SyncFault] = []
        self._unreadable: set[Path] = set()
        self._unwritable: set[Path] = set()

    # --- the port -------------------------------------------------------------------------------

    def open(self, path: Path, *, create: bool = False) -> File:
        self._enter(changes=create)
        node = self._lookup(path)
        if create:
            if node is not None:
                raise _error(errno.EEXIST, path)
            node = self._create(path)
        elif node is None:
            raise _error(errno.ENOENT, path)
        if isinstance(node, DirectoryNode):
            raise _error(errno.EISDIR, path)
        return _SimFile(self, path, node)

    def list(self, directory: Path) -> dict[str, int]:
        self._enter(changes=False)
        return {
            name: len(node.pages.cached) if isinstance(node, FileNode) else 0
            for name, node in self._directory(directory).cached.items()
        }

    def exists(self, path: Path) -> bool:
        self._enter(changes=False)
        try:
            return self._lookup(path) is not None
        except NotADirectoryError:
            return False

    def make_directory(self, path: Path) -> None:
        self._enter(changes=True)
        if self._lookup(path) is not None:
            raise _error(errno.EEXIST, path)
        self._need_room(path)
        self._tree.change(DirectoryNode(), None, self._place(path))

    def rename(self, source: Path, target: Path) -> None:
        self._enter(changes=True)
        node, place = self._require(source), self._place(target)
        replaced = self._lookup(target)
        if replaced is node:
            return
        if isinstance(node, DirectoryNode):
            if any(inner is place[0] for inner in walk(node)):
                raise _error(errno.EINVAL, target)
            if isinstance(replaced, FileNode):
                raise _error(errno.ENOTDIR, target)
            if replaced is not None and replaced.cached:
                raise _error(errno.ENOTEMPTY, target)
        elif isinstance(replaced, DirectoryNode):
            raise _error(errno.EISDIR, target)
        self._tree.change(node, self._place(source), place)

    def unlink(self, path: Path) -> None:
        self._enter(changes=True)
        node = self._require(path)
        if isinstance(node, DirectoryNode):
            raise _error(errno.EISDIR, path)
        self._tree.change(node, self._place(path), None)

    def remove_directory(self, path: Path) -> None:
        self._enter(changes=True)
        directory = self._directory(path)
        if directory.cached:
            raise _error(errno.ENOTEMPTY, path)
        self._tree.change(directory, self._place(path), None)

    def sync_directory(self, path: Path) -> None:
        self._enter(changes=True)
        directory = self._directory(path)
        if self._take_sync_fault(path, named=True) is not None:
            raise _error(errno.EIO, path)
        self._tree.settle(directory)

    def file_system(self, path: Path) -> FileSystem | None:
        self._enter(changes=False)
        self._directory(path)
        return _SimFileSystem(self, path) if self._whole_system_sync else None

    def lock(self, path: Path) -> Lock:
        self._enter(changes=False)
        node = self._lookup(path)
        if node is None:
            self._enter(changes=True)
            node = self._create(path)
        if isinstance(node, DirectoryNode):
            raise _error(errno.EISDIR, path)
        if node.locked:
            raise BlockingIOError(errno.EAGAIN, "locked", str(path))
        return _SimLock(self, node)

    # --- stopping -------------------------------------------------------------------------------

    def crash_after(self, operations: int) -> None:
        """Perform so many more changing operations; the next one, and all use after it, raises
        SimulatedCrash until `crash` or `kill` was called.
        """
        self._operations_left = operations

    def crash(self) -> None:
        """Lose power: what was not synced is kept or lost, part by part. This then is the disk of
        the machine that starts again: handles are dead, locks free, what is read is what is
        durable.
        """
        self._tree.crash(self._random)
        for pages in self._all_pages():
            pages.crash(self._random)
        self._start_again()

    def kill(self) -> None:
        """End the process only: handles are dead, locks free, and the page cache keeps what it
        has.
        """
        self._start_again()

    def clone(self, random: Random) -> SimFiles:
        """Another disk in this state, faults included, without open handles and locks."""
        other = copy.copy(self)
        other._tree = copy.deepcopy(self._tree)
        other._sync_faults = self._sync_faults.copy()
        other._unreadable, other._unwritable = set(self._unreadable), set(self._unwritable)
        other._random = random
        other._start_again()
        return other

    # --- failing and damaging -------------------------------------------------------------------

    def fail_next_sync(self, path: Path | None = None, *, written: float = 0.0) -> None:
        """Let the next sync that covers the file `path` (None: the next of any file) raise EIO.

        What it covered is clean from then on: readable until a crash, and no later sync writes it.
        Each sector is on disk all the same with probability `written`. As on Linux, other handles
        that were open report the failure once, at their next sync. For a directory, its names stay
        unconfirmed.
        """
        self._sync_faults.append(_SyncFault(path, written))

    def fail_reads(self, path: Path) -> None:
        """Reading `path` raises EIO until `heal`."""
        self._unreadable.add(path)

    def fail_writes(self, path: Path) -> None:
        """Writing to `path` raises EIO, and writes nothing, until `heal`."""
        self._unwritable.add(path)

    def heal(self) -> None:
        """End every fault that has not struck, and every lasting one but the capacity."""
        self._sync_faults.clear()
        self._unreadable.clear()
        self._unwritable.clear()

    def flip_bit(self, path: Path, bit_index: int) -> None:
        """Turn one bit of a file over, on disk and in the cache."""
        self._pages(path).flip_bit(bit_index)

    def cut(self, path: Path, size: int) -> None:
        """Let somebody else truncate a file to at most `size` bytes, durably."""
        self._pages(path).cut(size)

    def evict(self) -> None:
        """Drop clean pages from the cache: what a failed sync lost reads as it was before."""
        for pages in self._all_pages():
            pages.evict()

    # --- what the handles call ------------------------------------------------------------------

    def _enter(self, *, changes: bool) -> None:
        if self._crashed:
            raise SimulatedCrash
        if not changes:
            return
        if self._operations_left is not None:
            if not self._operations_left:
                self._crashed = True
                raise SimulatedCrash
            self._operations_left -= 1
        self.operations += 1

    def _enter_boot(self, boot: int, path: Path, *, changes: bool) -> None:
        if boot != self._boot:
            raise _error(errno.EBADF, path)
        self._enter(changes=changes)

    def _write(self, path: Path, pages: Pages, position: int, data: bytes) -> int:
        if path in self._unwritable:
            raise _error(errno.EIO, path)
        if not data:
            return 0
        growth = position + len(data) - len(pages.cached)
        missing = 0 if self.capacity_bytes is None else growth - self._room()
        fitting = len(data) - missing if growth > 0 < missing else len(data)
        if fitting <= 0:
            raise _error(errno.ENOSPC, path)
        pages.write(position, data[:fitting])
        return fitting

    def _truncate(self, path: Path, pages: Pages, size: int) -> None:
        if path in self._unwritable:
            raise _error(errno.EIO, path)
        if self.capacity_bytes is not None and size > len(pages.cached) + self._room():
            raise _error(errno.ENOSPC, path)
        pages.resize(size)

    def _read(self, path: Path, pages: Pages, position: int, size: int) -> bytes:
        if path in self._unreadable:
            raise _error(errno.EIO, path)
        return bytes(pages.cached[position : position + size])

    def _sync(self, path: Path, pages: Pages) -> None:
        """Confirm one file; a failure is for its handles to notice, by `failed_syncs`."""
        fault = self._take_sync_fault(path)
        if fault is None:
            pages.settle()
        else:
            self._lose([pages], fault)

    def _sync_all(self) -> None:
        """Confirm everything, unless a fault strikes: then what it misses stays unconfirmed."""
        for fault in self._sync_faults:
            node = None if fault.path is None else self._lookup(fault.path)
            if fault.path is None or isinstance(node, FileNode):
                hit = [node.pages] if isinstance(node, FileNode) else self._all_pages()
                self._sync_faults.remove(fault)
                self._lose(hit, fault)
                return
        self._tree.settle_all()
        for pages in self._all_pages():
            pages.settle()

    def _lose(self, hit: Iterable[Pages], fault: _SyncFault) -> None:
        self._failed_syncs += 1
        for pages in hit:
            pages.lose_writes(lambda: self._random.random() < fault.written)

    # --- inside ---------------------------------------------------------------------------------

    def _start_again(self) -> None:
        self._boot += 1
        self._crashed = False
        self._operations_left = None
        for node in walk(self._tree.root):
            if isinstance(node, FileNode):
                node.locked = False

    def _take_sync_fault(self, path: Path, *, named: bool = False) -> _SyncFault | None:
        """The next fault that `path` meets; `named`: only one that names it, as for a directory."""
        for fault in self._sync_faults:
            if fault.path == path or (fault.path is None and not named):
                self._sync_faults.remove(fault)
                return fault
        return None

    def _all_pages(self) -> Iterator[Pages]:
        return (node.pages for node in walk(self._tree.root) if isinstance(node, FileNode))

    def _room(self) -> int:
        assert self.capacity_bytes is not None, "a disk without bound has any room"
        return self.capacity_bytes - sum(len(pages.cached) for pages in self._all_pages())

    def _need_room(self, path: Path) -> None:
        if self.capacity_bytes is not None and self._room() <= 0:
            raise _error(errno.ENOSPC, path)

    def _create(self, path: Path) -> FileNode:
        place = self._place(path)
        self._need_room(path)
        node = FileNode()
        self._tree.change(node, None, place)
        return node

    def _lookup(self, path: Path) -> Node | None:
        """The node of that name in the cached view. Raises NotADirectoryError for a name under a
        file.
        """
        node: Node = self._tree.root
        for name in _names(path):
            if isinstance(node, FileNode):
                raise _error(errno.ENOTDIR, path)
            if name not in node.cached:
                return None
            node = node.cached[name]
        return node

    def _require(self, path: Path) -> Node:
        node = self._lookup(path)
        if node is None:
            raise _error(errno.ENOENT, path)
        return node

    def _directory(self, path: Path) -> DirectoryNode:
        node = self._require(path)
        if isinstance(node, FileNode):
            raise _error(errno.ENOTDIR, path)
        return node

    def _place(self, path: Path) -> Place:
        return self._directory(path.parent), path.name

    def _pages(self, path: Path) -> Pages:
        node = self._require(path)
        assert isinstance(node, FileNode), "only a file has content to damage"
        return node.pages


class _SimFile:
    """One handle. It is dead after the boot it was opened in."""

    def __init__(self, disk: SimFiles, path: Path, node: FileNode) -> None:
        self._disk = disk
        self._path = path
        self._pages = node.pages
        self._boot = disk._boot
        self._closed = False
        self._failures_seen = node.pages.failed_syncs

    def write_at(self, position: int, buffers: Sequence[Buffer]) -> int:
        self._enter(changes=True)
        assert position >= 0, "a position counts from the start"
        if len(buffers) > BUFFERS_PER_WRITE_MAX:
            raise _error(errno.EINVAL, self._path)
        return self._disk._write(self._path, self._pages, position, b"".join(buffers))

    def read_at(self, position: int, size: int) -> bytes:
        self._enter(changes=False)
        if position < 0:
            raise _error(errno.EINVAL, self._path)
        return self._disk._read(self._path, self._pages, position, size)

    def size(self) -> int:
        self._enter(changes=False)
        return len(self._pages.cached)

    def truncate(self, size: int) -> None:
        self._enter(changes=True)
        if size < 0:
            raise _error(errno.EINVAL, self._path)
        self._disk._truncate(self._path, self._pages, size)

    def sync(self) -> None:
        self._enter(changes=True)
        self._disk._sync(self._path, self._pages)
        if self._failures_seen != self._pages.failed_syncs:
            self._failures_seen = self._pages.failed_syncs
            raise _error(errno.EIO, self._path)

    def close(self) -> None:
        self._closed = True

    def _enter(self, *, changes: bool) -> None:
        if self._closed:
            raise _error(errno.EBADF, self._path)
        self._disk._enter_boot(self._boot, self._path, changes=changes)


class _SimFileSystem:
    """The whole disk, and how many failed syncs this handle has told of."""

    def __init__(self, disk: SimFiles, path: Path) -> None:
        self._disk = disk
        self._path = path
        self._boot = disk._boot
        self._closed = False
        self._failures_seen = disk._failed_syncs

    def sync(self) -> None:
        if self._closed:
            raise _error(errno.EBADF, self._path)
        self._disk._enter_boot(self._boot, self._path, changes=True)
        self._disk._sync_all()
        if self._failures_seen != self._disk._failed_syncs:
            self._failures_seen = self._disk._failed_syncs
            raise _error(errno.EIO, self._path)

    def close(self) -> None:
        self._closed = True


class _SimLock:
    """Held until released, or until the boot it was taken in ends."""

    def __init__(self, disk: SimFiles, node: FileNode) -> None:
        self._disk = disk
        self._boot = disk._boot
        self._node = node
        self._released = False
        node.locked = True

    def release(self) -> None:
        if not self._released and self._boot == self._disk._boot:
            self._node.locked = False
        self._released = True


def _names(path: Path) -> tuple[str, ...]:
    return path.parts[1:] if path.is_absolute() else path.parts


def _error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))
