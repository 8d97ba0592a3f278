"""A data directory: whose it is, what layout it has, and that nobody else has it open.

<directory>/identity        document: layout version, directory id, role
<directory>/lock            locked while open
<directory>/cluster         document: whose cluster it is of, once that is known (`belonging`)
<directory>/partitions/     one directory for each partition log
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from millpond.wire.errors import DirectoryInUse, NotADataDirectory, UnsupportedFormat
from millpond.wire.record import TopicPartition
from millpond_broker.storage.document import DocumentDamaged, read_document, write_document
from millpond_broker.storage.files import Files, Lock

LAYOUT: Final = 1
"""Version of the directory layout. A greater one in a directory is refused, never guessed at."""
_IDENTITY: Final = "identity"
_LOCK: Final = "lock"
_PARTITIONS: Final = "partitions"
_LOG_DIRECTORY: Final = re.compile(r"(.+)-([0-9]+)-([0-9a-f]{32})")
_OURS: Final = frozenset({_IDENTITY, _IDENTITY + ".new", _LOCK, _PARTITIONS})


class DataDirectory:
    """An open, locked data directory. `directory_id` is made once and names this disk for good."""

    def __init__(self, path: Path, directory_id: str, lock: Lock) -> None:
        self.path = path
        self.directory_id = directory_id
        self.partitions = path / _PARTITIONS
        self._lock = lock

    @classmethod
    def open(cls, files: Files, path: Path, *, role: str, new_id: str) -> DataDirectory:
        """Lock `path` and check what it is; an empty or missing one becomes ours, under `new_id`.

        `role` says what kind of owner it has ("embedded", "broker"); another role's directory is refused.
        Raises DirectoryInUse, NotADataDirectory (other files, another role, a damaged identity) or
        UnsupportedFormat (a layout from the future); nothing in the directory is changed then.
        """
        _check_before_touching(files, path)
        if not files.exists(path):
            files.make_directory(path)
            files.sync_directory(path.parent)
        try:
            lock = files.lock(path / _LOCK)
        except BlockingIOError:
            raise DirectoryInUse(path=str(path), holder="another process or object") from None
        try:
            identity = _identity(files, path)
            if identity is None:
                identity = {"layout": LAYOUT, "directory_id": new_id, "role": role}
                write_document(files, path / _IDENTITY, _IDENTITY, identity)
            if identity["role"] != role:
                raise NotADataDirectory(
                    path=str(path), reason=f"it belongs to role {identity['role']!r}, not {role!r}"
                )
            if not files.exists(path / _PARTITIONS):
                files.make_directory(path / _PARTITIONS)
                files.sync_directory(path)
        except BaseException:  # whatever it was, the lock must not outlive a failed open; re-raised
            lock.release()
            raise
        return cls(path, identity["directory_id"], lock)

    def log_directory(self, partition: TopicPartition, topic_id: str) -> Path:
        """Where a partition's log is. By its id a topic that was deleted and made again is another."""
        return self.partitions / f"{partition.topic}-{partition.partition}-{topic_id}"

    def close(self) -> None:
        """Unlock. Call it last: another process may open the directory at once."""
        self._lock.release()


def topic_id_of(log_directory: str) -> str | None:
    """The topic id in a log directory's name; None for a name that no log directory has."""
    match = _LOG_DIRECTORY.fullmatch(log_directory)
    return None if match is None else match[3]


def partition_of(log_directory: str) -> tuple[TopicPartition, str] | None:
    """The partition and the topic id in a log directory's name; None for a name that none has."""
    match = _LOG_DIRECTORY.fullmatch(log_directory)
    return None if match is None else (TopicPartition(match[1], int(match[2])), match[3])


def remove_log(files: Files, log_directory: Path) -> None:
    """Delete a closed log. Gone for good when it returns; after a crash before that, call it again."""
    for name in files.list(log_directory):
        files.unlink(log_directory / name)
    files.remove_directory(log_directory)
    files.sync_directory(log_directory.parent)


def _check_before_touching(files: Files, path: Path) -> None:
    """Refuse a foreign directory before a lock file appears in it."""
    if not files.exists(path):
        if not files.exists(path.parent):
            raise NotADataDirectory(path=str(path), reason=f"its parent {path.parent} does not exist")
        return
    try:
        names = set(files.list(path))
    except NotADirectoryError:
        raise NotADataDirectory(path=str(path), reason="it is a file") from None
    if _IDENTITY not in names and (foreign := names - _OURS):
        raise NotADataDirectory(path=str(path), reason=f"it holds other files, {min(foreign)!r} for one")
    _identity(files, path)


def _identity(files: Files, path: Path) -> dict[str, Any] | None:
    try:
        identity = read_document(files, path / _IDENTITY, _IDENTITY)
    except DocumentDamaged as error:
        raise NotADataDirectory(path=str(path), reason=str(error)) from None
    if identity is not None and identity["layout"] > LAYOUT:
        newer = f"{path} has layout {identity['layout']}, this version knows up to {LAYOUT}"
        raise UnsupportedFormat(what=f"{newer}; use a newer millpond")
    return identity
