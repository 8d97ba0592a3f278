"""A voter's directory: the journal and the snapshots before it, checked against one another at the start.

<data directory>/metadata/    made whole by the format step, or not there

A start that finds less than was durable once refuses: a voter that forgot what it acknowledged, or how it
voted, would let the others lose it too (Raft's promise rests on it).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from millpond_broker.consensus.journal import Base, Entry, EntryKind, Journal
from millpond_broker.consensus.records import JournalDamaged
from millpond_broker.consensus.snapshots import (
    Snapshot,
    read_snapshot,
    remove_other_snapshots,
    snapshot_indexes,
    write_snapshot,
)
from millpond_broker.storage.files import Files

METADATA: Final = "metadata"
FIRST_COMMAND_INDEX: Final = 2
"""Of the command that says who votes first: it is in every log that does not begin behind it."""
_FIRST_ENTRY: Final = Entry(1, 0, EntryKind.NO_OP, b"")
"""What every voter's log begins with, so that logs that were made apart agree on it. PySyncObj's does."""


def is_formatted(files: Files, directory: Path) -> bool:
    """Whether the data directory has metadata."""
    return files.exists(directory / METADATA)


def format_directory(files: Files, directory: Path, first_command: bytes, *, term: int, vote: str) -> None:
    """Make the metadata of a new cluster in a data directory, all of it or nothing; durable when it returns.
    Every voter that a cluster begins with is formatted alike, with all of them in the first command: then
    each has it, and it is committed. Raises OSError.
    """
    first = Entry(FIRST_COMMAND_INDEX, term, EntryKind.COMMAND, first_command)
    _format(
        files, directory, Base(term=term, vote=vote, commit_index=FIRST_COMMAND_INDEX), [_FIRST_ENTRY, first]
    )


def format_joiner(files: Files, directory: Path) -> None:
    """Make the metadata of a voter that another cluster is to add: nothing yet. Durable when it returns.
    Raises OSError.
    """
    _format(files, directory, Base(commit_index=1), [_FIRST_ENTRY])


def _format(files: Files, directory: Path, base: Base, entries: Sequence[Entry]) -> None:
    assert not is_formatted(files, directory), "nobody's metadata are written over"
    making = directory / (METADATA + ".new")
    if files.exists(making):
        for name in files.list(making):
            files.unlink(making / name)
    else:
        files.make_directory(making)
    Journal.create(files, making, base, entries)
    files.rename(making, directory / METADATA)
    files.sync_directory(directory)


@dataclass
class Store:
    """An open voter's directory. For one thread at a time."""

    files: Files
    home: Path
    journal: Journal
    snapshot: Snapshot | None
    """The one to start from: entries after it are in the journal."""
    damaged_snapshots: tuple[int, ...] = ()
    """Snapshots that could not be read, and were not needed."""

    @classmethod
    def open(cls, files: Files, directory: Path) -> Store:
        """Raises JournalDamaged, having changed no entry; OSError."""
        home = directory / METADATA
        files.sync_directory(directory)  # the process may have been killed between format's rename and sync
        journal = Journal.open(files, home)
        try:
            return _aligned(files, home, journal)
        except BaseException:  # whatever it was, the descriptor is given back; re-raised
            journal.abandon()
            raise

    def compact(self, snapshot: Snapshot) -> None:
        """Keep a snapshot, and the journal from the snapshot before it. Raises OSError (all is as it was, or
        there is one snapshot more), StorageFull likewise, JournalFailed.
        """
        previous = self.snapshot
        if previous is not None and previous.last_index == snapshot.last_index:
            return
        write_snapshot(self.files, self.home, snapshot)
        self.snapshot = snapshot
        if previous is not None:
            # Two entries that the older snapshot has stay as well: by them a log is matched with it.
            self.journal.delete_to(max(self.journal.first_index, previous.last_index - 1))
        kept = {snapshot.last_index, *((previous.last_index,) if previous else ())}
        remove_other_snapshots(self.files, self.home, kept)

    def install(self, snapshot: Snapshot) -> None:
        """Let another voter's snapshot take the place of everything here; term and vote stay. Durable when it
        returns. Raises OSError, StorageFull: then all is as it was, or a start finds the snapshot;
        JournalFailed.
        """
        write_snapshot(self.files, self.home, snapshot)
        # From here on a start takes it, and does the rest itself.
        self.journal.reset(snapshot.last_index + 1, snapshot.last_term)
        self.snapshot = snapshot
        with suppress(OSError):  # it is installed; the next compaction tidies up
            remove_other_snapshots(self.files, self.home, {snapshot.last_index})


def _aligned(files: Files, home: Path, journal: Journal) -> Store:
    """The latest sound snapshot from which the journal goes on without a gap, or the journal from its very
    first entry. A crash between a snapshot's rename and what follows it is no gap.
    """
    damaged = []
    for index in snapshot_indexes(files, home):
        snapshot = read_snapshot(files, home, index)
        if snapshot is None:
            damaged.append(index)
            if index > journal.last_index:
                break  # what it had, nobody else here has
            continue
        agrees = journal.term_at(index) == snapshot.last_term
        if index + 1 < journal.first_index or (index + 1 == journal.first_index and not agrees):
            break
        if not agrees:
            # The journal ends before it, or differs there: the snapshot came from the leader, and rules.
            # Term and vote stay.
            journal.reset(index + 1, snapshot.last_term)
        return Store(files, home, journal, snapshot, tuple(damaged))
    else:
        if journal.first_index == 1:
            return Store(files, home, journal, None, tuple(damaged))
    raise JournalDamaged(
        f"{home}: the journal begins at entry {journal.first_index} and ends at {journal.last_index}, and no"
        f" sound snapshot reaches up to it (damaged: {damaged or 'none'})"
    )
