"""A broker process, real but for its file layer, which fails where a test says so.

`python -m tests.integration.cluster.faulty_broker --config FILE …`: as the broker's own command. What is to
fail stands in the file `faults` beside the configuration, a JSON list of [operation, part of a path, errno];
it may change while the broker runs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from millpond_broker import app, others
from millpond_broker.storage.files import Buffer, File, FileSystem, OsFile, OsFiles, OsFileSystem

OPERATIONS = ("write", "sync", "create")


class Faults:
    """What the test has ordered."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self, operation: str, where: Path) -> None:
        """Raise what is ordered for that, if anything."""
        try:
            ordered = json.loads(self._path.read_text())
        except FileNotFoundError:
            return
        for what, part, number in ordered:
            if what == operation and part in f"{where}/":
                raise OSError(number, os.strerror(number), str(where))


class FaultyFile(OsFile):
    """A file of which writes and syncs may fail."""

    def __init__(self, descriptor: int, path: Path, faults: Faults) -> None:
        super().__init__(descriptor)
        self._path = path
        self._faults = faults

    def write_at(self, position: int, buffers: Sequence[Buffer]) -> int:
        self._faults.check("write", self._path)
        return super().write_at(position, buffers)

    def sync(self) -> None:
        self._faults.check("sync", self._path)
        super().sync()


class FaultyFileSystem:
    """A whole file system whose sync may fail. It stands for the logs: the voter syncs its journal itself."""

    def __init__(self, inner: OsFileSystem, path: Path, faults: Faults) -> None:
        self._inner = inner
        self._path = path
        self._faults = faults

    def sync(self) -> None:
        self._faults.check("sync", self._path / "partitions")
        self._inner.sync()

    def close(self) -> None:
        self._inner.close()


class FaultyFiles(OsFiles):
    """The file system of this machine, with faults."""

    faults: Faults

    def open(self, path: Path, *, create: bool = False) -> File:
        if create:
            self.faults.check("create", path)
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
        return FaultyFile(os.open(path, flags, 0o644), path, self.faults)

    def file_system(self, path: Path) -> FileSystem | None:
        inner = super().file_system(path)
        return FaultyFileSystem(inner, path, self.faults) if isinstance(inner, OsFileSystem) else None


def main() -> int:
    """As the broker's."""
    config = Path(sys.argv[sys.argv.index("--config") + 1])
    FaultyFiles.faults = Faults(config.with_name("faults"))
    for module in (app, others):
        assert module.OsFiles is OsFiles
        setattr(module, "OsFiles", FaultyFiles)  # noqa: B010 - the type checker knows it as a class
    return app.main()


if __name__ == "__main__":
    sys.exit(main())
