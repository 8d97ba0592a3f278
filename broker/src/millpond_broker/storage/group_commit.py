"""Group commit: one call makes the dirty segments of many logs durable.

Strategy, by measurement (ARCHITECTURE.md, "Group commit"): a few files are synced one by one; from
`FILES_SYNCED_ONE_BY_ONE_MAX` on, one sync of the file system does the work of all of them. Where that
cannot report errors, a sync for each remains.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from millpond_broker.storage.files import Files
from millpond_broker.storage.log import PendingSync

FILES_SYNCED_ONE_BY_ONE_MAX: Final = 2
"""Above it one syncfs is cheaper than a sync for each file: every one of those waits for the journal."""


class Synced(NamedTuple):
    """The result for one log. `error` None: confirmed."""

    pending: PendingSync
    error: OSError | None

    def settle(self) -> None:
        """Tell the log. On its owner's time."""
        if self.error is None:
            self.pending.log.confirm(self.pending)
        else:
            self.pending.log.sync_failed(self.pending, self.error)


class GroupCommit:
    """The syncs of one data directory. `sync` blocks and may run in any thread, one call at a time."""

    def __init__(
        self, files: Files, directory: Path, one_by_one_max: int = FILES_SYNCED_ONE_BY_ONE_MAX
    ) -> None:
        self._file_system = files.file_system(directory)
        self._one_by_one_max = one_by_one_max

    def sync(self, pending: Sequence[PendingSync]) -> list[Synced]:
        """Make every part durable; a result for each, for the owner to settle. Never raises OSError."""
        if self._file_system is not None and len(pending) > self._one_by_one_max:
            try:
                self._file_system.sync()
            except OSError as error:
                # It does not say whose bytes were lost: nobody's count as durable.
                return [Synced(part, error) for part in pending]
            return [Synced(part, None) for part in pending]
        return [Synced(part, _sync_one(part)) for part in pending]

    def close(self) -> None:
        """Give the descriptor back."""
        if self._file_system is not None:
            self._file_system.close()


def _sync_one(part: PendingSync) -> OSError | None:
    try:
        part.file.sync()
    except OSError as error:
        return error
    return None
