"""Small settings and checkpoint files: replaced atomically, checksummed, readable with `cat`.

A document is one line, `<kind> <crc32c> <json>`, written twice, each copy padded to whole sectors: one
flipped bit can spoil one of the two only. A new version is written beside the old one, synced, and renamed
over it. On a disk without room for that, a version of the same length is written over the old one, copy
by copy with a sync between: trimming a log must be possible exactly then.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from crc32c import crc32c

from millpond_broker.storage.files import DISK_FULL, File, Files

_SECTOR_BYTES: Final = 512
"""What a disk writes whole or not at all: the two copies never share one."""


class DocumentDamaged(Exception):
    """Neither copy of a document is sound. The caller knows what can stand in for it."""


def write_document(files: Files, path: Path, kind: str, content: Mapping[str, Any]) -> None:
    """Replace the document at `path`. Durable when it returns; on an error the old one may still be read."""
    body = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    line = b"%s %08x %s" % (kind.encode(), crc32c(body), body)
    copy = line.ljust(-(-(len(line) + 1) // _SECTOR_BYTES) * _SECTOR_BYTES - 1) + b"\n"
    beside = path.with_name(path.name + ".new")
    try:
        _replace(files, path, beside, copy)
    except OSError as error:
        if error.errno not in DISK_FULL or not files.exists(path):
            raise
        if files.exists(beside):
            files.unlink(beside)
        _overwrite(files, path, copy, error)


def _replace(files: Files, path: Path, beside: Path, copy: bytes) -> None:
    if files.exists(beside):
        files.unlink(beside)
    file = files.open(beside, create=True)
    try:
        _write(file, 0, (copy, copy))
        file.sync()
    finally:
        file.close()
    files.rename(beside, path)
    files.sync_directory(path.parent)


def _overwrite(files: Files, path: Path, copy: bytes, full: OSError) -> None:
    file = files.open(path)
    try:
        if file.size() != 2 * len(copy):
            raise full
        for position in (0, len(copy)):
            _write(file, position, (copy,))
            file.sync()
    finally:
        file.close()


def _write(file: File, position: int, copies: tuple[bytes, ...]) -> None:
    if file.write_at(position, copies) != sum(map(len, copies)):
        raise OSError(errno.ENOSPC, "short write of a document")


def read_document(files: Files, path: Path, kind: str) -> dict[str, Any] | None:
    """The content of the document at `path`, None if there is none. Raises DocumentDamaged."""
    if not files.exists(path):
        return None
    file = files.open(path)
    try:
        data = file.read_at(0, file.size())
    finally:
        file.close()
    # By length, not by their newlines: a flip may hit one of those. If they differ, an overwrite was cut
    # short, and the first is the newer.
    half = len(data) // 2
    for copy in (data[:half], data[half:]):
        name, _, rest = copy.rstrip().partition(b" ")
        checksum, _, body = rest.partition(b" ")
        if name == kind.encode() and checksum == b"%08x" % crc32c(body):
            content = json.loads(body)
            assert isinstance(content, dict), "only dicts are written"
            return content
    raise DocumentDamaged(f"{path}: neither copy of this {kind} is sound")
