"""Snapshots of the image on disk: checksummed, named by the index they reach, the last two kept.

    <home>/snapshot-<last index>

The older one is for the day when the newer turns out damaged; the journal keeps what lies between them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Container
from pathlib import Path
from typing import Final, NamedTuple

from crc32c import crc32c

from millpond_broker.consensus.replacing import put_in_place, write_beside
from millpond_broker.storage.files import Files

_HEADER: Final = struct.Struct(">8sIIQQQ")
_MAGIC: Final = b"MPSNAP\0\1"
_NAME: Final = re.compile(r"snapshot-([0-9]{20})")


class Snapshot(NamedTuple):
    """The image after entry `last_index`, which was of `last_term`, as `codec.encode_snapshot` wrote it."""

    last_index: int
    last_term: int
    data: bytes


def write_snapshot(files: Files, home: Path, snapshot: Snapshot) -> None:
    """Durable when it returns. Raises OSError; there is no new snapshot then, or a sound one."""
    body = _HEADER.pack(_MAGIC, 0, 0, snapshot.last_index, snapshot.last_term, len(snapshot.data))[12:]
    body += snapshot.data
    path = _path(home, snapshot.last_index)
    write_beside(files, path, _MAGIC + crc32c(body).to_bytes(4, "big") + body)
    put_in_place(files, path)


def read_snapshot(files: Files, home: Path, last_index: int) -> Snapshot | None:
    """The snapshot that reaches that index; None if it is damaged. Raises OSError."""
    file = files.open(_path(home, last_index))
    try:
        data = file.read_at(0, file.size())
    finally:
        file.close()
    if len(data) < _HEADER.size:
        return None
    magic, checksum, _, index, term, size = _HEADER.unpack_from(data)
    sound = magic == _MAGIC and checksum == crc32c(data[12:]) and size == len(data) - _HEADER.size
    return Snapshot(index, term, data[_HEADER.size :]) if sound and index == last_index else None


def snapshot_indexes(files: Files, home: Path) -> list[int]:
    """The indexes that snapshots reach by their names, the latest first."""
    names = (_NAME.fullmatch(name) for name in files.list(home))
    return sorted((int(name[1]) for name in names if name), reverse=True)


def remove_other_snapshots(files: Files, home: Path, kept: Container[int]) -> None:
    """Keep the snapshots that reach those indexes, and nothing of an attempt. Raises OSError."""
    stale = [_path(home, index) for index in snapshot_indexes(files, home) if index not in kept]
    stale += [home / name for name in files.list(home) if re.fullmatch(_NAME.pattern + r"\.new", name)]
    for path in stale:
        files.unlink(path)
    if stale:
        files.sync_directory(home)


def _path(home: Path, last_index: int) -> Path:
    return home / f"snapshot-{last_index:020d}"
