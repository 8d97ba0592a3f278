"""The journal of a voter, as the library sees its log.

The library takes a log for a list of (command, index, term) that is never empty. What comes before the first
entry held here, of which only index and term are known, is the first element of that list; so the list begins
where a snapshot ends, or with nothing at index 0. A command is the library's byte for its kind, and its data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from millpond_broker.consensus.codec import decode
from millpond_broker.consensus.journal import Entry, EntryKind, Journal
from millpond_broker.core.commands import AddVoter, RemoveVoter

Row = tuple[bytes, int, int]
"""(command, index, term), as the library has it."""
_BYTES: Final = {EntryKind.COMMAND: b"\x00", EntryKind.NO_OP: b"\x01", EntryKind.VOTERS: b"\x02"}
_KINDS: Final = {code[0]: kind for kind, code in _BYTES.items()}

VoterChange = AddVoter | RemoveVoter


def command_of(kind: EntryKind, data: bytes) -> bytes:
    """Kind and data in one."""
    return _BYTES[kind] + data


def kind_of(command: bytes) -> EntryKind:
    """What follows in a command of the library's."""
    return _KINDS[command[0]]


def entry_of(row: Row) -> Entry:
    """The entry of a row of the library's."""
    command, index, term = row
    return Entry(index, term, kind_of(command), command[1:])


class LogView:
    """What the library calls its journal; the names with capitals are the library's.

    `on_voters_changed` is called whenever the changes of voters in the log are others than before.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        sync_before_commit: Callable[[Journal, int], None],
        on_voters_changed: Callable[[], None],
    ) -> None:
        self.journal = journal
        self._sync_before_commit = sync_before_commit
        self._on_voters_changed = on_voters_changed
        self.voter_changes: dict[int, VoterChange] = {}
        """By index, in order: those that the journal holds."""
        for entry in journal.entries(journal.first_index):
            self._note_voters(entry)

    # --- what the library asks ----------------------------------------------------------------------------

    def __len__(self) -> int:
        return 1 + self.journal.last_index - (self.journal.first_index - 1)

    def __getitem__(self, position: int) -> Row:
        """Index and term of one row: of a single row the library reads nothing else."""
        journal = self.journal
        index = journal.last_index if position == -1 else journal.first_index - 1 + position
        term = journal.term_at(index)
        if term is None:
            raise IndexError(index)
        return b"", index, term

    def rows(self, from_index: int | None, count: int | None, bytes_max: int | None) -> list[Row]:
        """Rows from an index on: at most `count`, and few enough to stay within `bytes_max`, or one. From
        before the first row on, none.
        """
        journal = self.journal
        if from_index is None or not journal.first_index - 1 <= from_index <= journal.last_index:
            return []
        rows: list[Row] = []
        if from_index == journal.first_index - 1:
            rows.append(self[0])
            from_index += 1
        # Without bounds the library wants to know of the first and whether there are more.
        wanted = (2 if bytes_max is None else journal.last_index) if count is None else count
        total = 0
        for entry in journal.entries(from_index, max(0, wanted - len(rows))):
            rows.append((command_of(entry.kind, entry.data), entry.index, entry.term))
            total += len(entry.data)
            if bytes_max is not None and total >= bytes_max:
                break
        return rows[:wanted]

    def add(self, command: bytes, index: int, term: int) -> None:
        """Raises StorageFull: then it is not there."""
        entry = entry_of((command, index, term))
        self.journal.append([entry])
        if self._note_voters(entry):
            self._on_voters_changed()

    def deleteEntriesFrom(self, position: int) -> None:  # noqa: N802 - the library's name
        """Raises StorageFull: then all of them are there."""
        index = self.journal.first_index - 1 + position
        self.journal.delete_from(index)
        gone = [at for at in self.voter_changes if at >= index]
        for at in gone:
            del self.voter_changes[at]
        if gone:
            self._on_voters_changed()

    def setRaftCommitIndex(self, index: int) -> None:  # noqa: N802 - the library's name
        """The library counts its own log as one that has the entry: it has to be on the disk by now."""
        if index > self.journal.commit_index:
            self._sync_before_commit(self.journal, index)
            self.journal.note_commit(index)

    def setCurrentTerm(self, term: int, voted_for: int | None) -> None:  # noqa: N802 - the library's name
        """Durable when it returns. Raises StorageFull."""
        self.journal.set_term(term, None if voted_for is None else str(voted_for))

    def onOneSecondTimer(self) -> None:  # noqa: N802 - the library's name
        """Nothing is put off to it."""

    # --- what the voter asks ------------------------------------------------------------------------------

    def forget_voter_changes(self, through_index: int) -> None:
        """A snapshot stands for them."""
        for at in [at for at in self.voter_changes if at <= through_index]:
            del self.voter_changes[at]

    def restart(self) -> None:
        """The journal was replaced by a snapshot."""
        self.voter_changes.clear()

    def changes_after(self, index: int) -> Sequence[VoterChange]:
        """Changes of voters in entries after that one."""
        return [change for at, change in self.voter_changes.items() if at > index]

    def _note_voters(self, entry: Entry) -> bool:
        if entry.kind is not EntryKind.VOTERS:
            return False
        command = decode(entry.data).command
        if isinstance(command, AddVoter | RemoveVoter):
            self.voter_changes[entry.index] = command
        return True
