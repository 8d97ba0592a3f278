"""When a voter takes a snapshot, and forgets entries: not while another needs them, and never too late."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from millpond.wire.errors import StorageFull
from millpond_broker.consensus.codec import encode_snapshot
from millpond_broker.consensus.raft.library import Library
from millpond_broker.consensus.raft.log_view import LogView
from millpond_broker.consensus.snapshots import Snapshot
from millpond_broker.consensus.store import Store
from millpond_broker.core.image import MetadataImage
from millpond_broker.observe.logs import event

_log: Final = logging.getLogger(__name__)

RETRY_SECONDS: Final = 10.0
"""After a snapshot that could not be written."""
POSTPONED_BYTES_FACTOR: Final = 4
"""How many times too long the journal's file may get for the sake of a voter that lags."""


@dataclass(frozen=True, kw_only=True)
class CompactionOptions:
    """Bounds of a voter's log."""

    entries: int = 4096
    """After a snapshot, at which the next one is due: what a start has to replay, and, twice over, what is
    held in memory."""
    journal_bytes: int = 16 << 20
    """The same by the size of the journal's file, for entries that are large."""
    entries_max: int = 65_536
    """A snapshot is put off while another voter lags so far that it would then need one itself; not beyond
    this: a voter that is dead for good must not fill the disks of the others."""


class Compaction:
    """For one thread."""

    def __init__(self, store: Store, log: LogView, library: Library, options: CompactionOptions) -> None:
        self._store = store
        self._log = log
        self._library = library
        self._options = options
        self._is_wanted = False
        self._not_before = 0.0
        self._due_at_bytes = options.journal_bytes

    def soon(self) -> None:
        """The next time, whoever lags."""
        self._is_wanted = True

    def if_due(self, image: MetadataImage, others: Collection[int], now: float) -> None:
        """Keep a snapshot of the image, and forget what lies before the one before it. Blocks; raises
        JournalFailed. `others`: the other voters.
        """
        store, options = self._store, self._options
        taken = store.snapshot.last_index if store.snapshot else 0
        grown, size_bytes = image.version - taken, store.journal.size_bytes
        is_due = grown > options.entries or size_bytes > self._due_at_bytes
        if grown <= 0 or not (is_due or self._is_wanted) or now < self._not_before:
            return
        may_wait = grown <= options.entries_max and size_bytes <= POSTPONED_BYTES_FACTOR * self._due_at_bytes
        if may_wait and not self._is_wanted and self._would_leave_behind(others, taken):
            return
        self._is_wanted = False
        term = store.journal.term_at(image.version)
        assert term is not None, "the journal has what was applied last, or begins behind it"
        try:
            store.compact(Snapshot(image.version, term, encode_snapshot(image)))
        except (OSError, StorageFull) as error:
            event(_log, logging.WARNING, "metadata_not_compacted", error=str(error))
            self._not_before = now + RETRY_SECONDS
            return
        self._log.forget_voter_changes(store.journal.first_index - 1)
        # The journal keeps what lies after the snapshot before: by that much it is long at its shortest.
        self._due_at_bytes = store.journal.size_bytes + options.journal_bytes

    def _would_leave_behind(self, others: Collection[int], kept_from: int) -> bool:
        """Whether a voter lacks what this leader's log would lose. Followers keep for themselves alone."""
        library = self._library
        return library.is_leader and any(library.match_index(other) < kept_from for other in others)
