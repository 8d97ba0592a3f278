"""The journal of a metadata voter: entries, term and vote on disk, checksummed and group-synced.

It is what a Raft log needs and no more, whoever runs it: one voter alone, or a library between several. What
is durable when a method returns, it says; nothing may leave this process that relies on more (rule 37:
"Raft messages need the fsync"). Entries are also held in memory, which compaction bounds.

    <home>/journal         see `records`; a compaction writes `journal.new` and renames it
"""

from __future__ import annotations

import enum
import errno
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from millpond.wire.errors import StorageFull, UnsupportedFormat
from millpond_broker.consensus.records import Draft, JournalDamaged, Kind, Record, Scan, pack, scan
from millpond_broker.consensus.replacing import put_in_place, write_beside
from millpond_broker.storage.files import DISK_FULL, File, Files

FORMAT: Final = 1
"""Of the file. A greater one is refused."""
JOURNAL: Final = "journal"
_BASE: Final = struct.Struct(">HQQQ")
"""Format, previous term, commit index, and room for one more; term and vote follow."""
_TERM: Final = struct.Struct(">Q")


class JournalFailed(Exception):
    """The disk failed under the journal: what of it is durable is not known any more, and asking again would
    prove nothing. The process has to end (rule 40).
    """


class EntryKind(enum.IntEnum):
    """What an entry's data are."""

    NO_OP = 0
    """Nothing: a log begins with one at index 1, and a new leader may add one."""
    COMMAND = 1
    """An envelope, as `codec` encodes it."""
    VOTERS = 2
    """An envelope that changes who votes. It counts from the entry on, committed or not (Raft §6)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log. Indexes have no gaps, terms never go back."""

    index: int
    term: int
    kind: EntryKind
    data: bytes


@dataclass(frozen=True, slots=True)
class Base:
    """How a journal file begins: everything before `first_index` is elsewhere, in a snapshot."""

    first_index: int = 1
    previous_term: int = 0
    """Term of the entry before the first."""
    term: int = 0
    vote: str | None = None
    commit_index: int = 0


class Journal:
    """An open journal. For one thread at a time.

    first_index - 1 ≤ last_index; commit_index ≤ last_index, and it may be behind what is committed.
    After JournalFailed every method but `close` raises it again.
    """

    def __init__(self, files: Files, path: Path, file: File, end: int) -> None:
        self.cut_bytes = 0
        """What a start found torn, and cut."""
        self._files = files
        self._path = path
        self._file = file
        self._end = end
        # Everything before it is on the disk. Moved on by a sync that succeeded, and by nothing else.
        self._durable_end = end
        self._base = Base()
        self._entries: list[Entry] = []
        self._term = 0
        self._vote: str | None = None
        self._commit_index = 0
        self._commit_written = 0
        self._failure: Exception | None = None

    # --- making and opening -----------------------------------------------------------------------------

    @classmethod
    def create(cls, files: Files, home: Path, base: Base, entries: Sequence[Entry] = ()) -> None:
        """Make the journal of `home`, or replace it, atomically; durable when it returns."""
        write_beside(files, home / JOURNAL, _whole_file(base, entries))
        put_in_place(files, home / JOURNAL)

    @classmethod
    def open(cls, files: Files, home: Path) -> Journal:
        """The journal of `home`, all of it durable: what nobody was told of was cut or made durable too.

        Raises JournalDamaged, having changed nothing; OSError.
        """
        path = home / JOURNAL
        file = files.open(path)
        try:
            data = file.read_at(0, file.size())
            found = scan(data)
            journal = cls(files, path, file, found.end)
            journal._replay(found)
            _make_durable(file, data[: found.end])
            # Its name too: a rename that was not synced yet could take back the file that is now appended to.
            files.sync_directory(home)
            journal.cut_bytes = len(data) - found.end
        except (ValueError, struct.error) as error:
            file.close()
            raise JournalDamaged(f"{path} has a record that this version cannot read: {error}") from None
        except BaseException:  # whatever it was, the descriptor is given back; re-raised
            file.close()
            raise
        return journal

    def _replay(self, found: Scan) -> None:
        if not found.records or found.records[0].kind is not Kind.BASE:
            raise JournalDamaged(f"{self._path} does not begin as a journal does")
        for record in found.records:
            self._replay_record(record)

    def _replay_record(self, record: Record) -> None:
        match record.kind:
            case Kind.BASE:
                self._begin(_read_base(record))
            case Kind.ENTRY:
                (term,) = _TERM.unpack_from(record.payload)
                self._note(Entry(record.index, term, EntryKind(record.flags), record.payload[_TERM.size :]))
            case Kind.TRUNCATE:
                del self._entries[max(0, record.index - self.first_index) :]
            case Kind.TERM:
                self._term, self._vote = _read_term(record.payload)
            case Kind.COMMIT:
                self._commit_index = self._commit_written = record.index
            case Kind.CLOSED:
                pass

    def _begin(self, base: Base) -> None:
        self._base = base
        self._entries = []
        self._term, self._vote = base.term, base.vote
        self._commit_index = self._commit_written = base.commit_index

    def _note(self, entry: Entry) -> None:
        assert entry.index == self.last_index + 1, "no gaps"
        assert entry.term >= self.last_term, "terms never go back"
        self._entries.append(entry)

    # --- what is in it ----------------------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        """Of the oldest entry held, or that the next one would have."""
        return self._base.first_index

    @property
    def last_index(self) -> int:
        """Of the latest entry; one less than `first_index` if there is none."""
        return self._base.first_index - 1 + len(self._entries)

    @property
    def last_term(self) -> int:
        """Of the latest entry, or of the one before the first."""
        return self._entries[-1].term if self._entries else self._base.previous_term

    @property
    def term(self) -> int:
        """The current term; durable."""
        return self._term

    @property
    def vote(self) -> str | None:
        """Who got this voter's vote in the current term; durable."""
        return self._vote

    @property
    def commit_index(self) -> int:
        """As far as somebody said that entries are committed."""
        return self._commit_index

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self, from_index: int, count_max: int | None = None) -> list[Entry]:
        """Those from `from_index` on that are held, at most so many."""
        start = max(0, from_index - self.first_index)
        return self._entries[start : None if count_max is None else start + count_max]

    def term_at(self, index: int) -> int | None:
        """Term of the entry of that index; None for one that is not held, nor just before the first."""
        if index == self.first_index - 1:
            return self._base.previous_term
        if not self.first_index <= index <= self.last_index:
            return None
        return self._entries[index - self.first_index].term

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return self._end

    # --- changing it ------------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        """Whether something waits for `sync`."""
        return self._durable_end < self._end

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries. Not durable yet. Raises StorageFull: then none of them is there, nor ever will be."""
        records = [_entry_record(entry) for entry in entries]
        if self._commit_written < self._commit_index:
            records.insert(0, Draft(Kind.COMMIT, self._commit_index))
        self._write(records)
        self._commit_written = self._commit_index
        for entry in entries:
            self._note(entry)

    def delete_from(self, index: int) -> None:
        """Take back the entries from `index` on. Not durable yet. Raises StorageFull."""
        assert index > self._commit_index, "what is committed stays"
        if index <= self.last_index:
            self._write([Draft(Kind.TRUNCATE, index)])
            del self._entries[max(0, index - self.first_index) :]

    def set_term(self, term: int, vote: str | None) -> None:
        """A new term, or this voter's vote in it. Durable when it returns: a vote is given once (Raft §5.2).
        Raises StorageFull.
        """
        assert term >= self._term, "terms never go back"
        assert term > self._term or self._vote in (None, vote), "one vote a term"
        if (term, vote) == (self._term, self._vote):
            return
        self._write([Draft(Kind.TERM, 0, _term_payload(term, vote))])
        self.sync()
        self._term, self._vote = term, vote

    def note_commit(self, index: int) -> None:
        """Entries through `index` are committed. Written with the next append; it may be forgotten."""
        assert index <= self.last_index, "committed entries are held"
        self._commit_index = max(self._commit_index, index)

    def sync(self) -> None:
        """Everything appended, taken back or set before is durable when this returns."""
        self._check()
        if not self.dirty:
            return
        end = self._end
        try:
            self._file.sync()
        except OSError as error:
            raise self._fail(error) from None
        self._durable_end = end

    def delete_to(self, index: int) -> None:
        """Forget the entries before `index`, which a durable snapshot has. Durable when it returns.

        Raises StorageFull: then the journal is as it was.
        """
        self._check()
        previous_term = self.term_at(index - 1)
        assert previous_term is not None, "the entry before the first is held"
        self._rewrite(index, previous_term, self.entries(index))

    def reset(self, first_index: int, previous_term: int) -> None:
        """Forget every entry: a durable snapshot stands for them. Term and vote stay. Durable when it
        returns. Raises StorageFull: then the journal is as it was.
        """
        self._check()
        self._rewrite(first_index, previous_term, [])

    def close(self) -> None:
        """Make everything durable, say so, and give the file back. A second call does nothing."""
        if self._failure is None:
            self._failure = ValueError("the journal is closed")
            with suppress(OSError):  # what was promised is durable already; a start finds out by itself
                self._file.sync()
                record = pack(Draft(Kind.CLOSED), self._end, self._end)
                if self._file.write_at(self._end, [record]) == len(record):
                    self._file.sync()
        self._file.close()

    def abandon(self) -> None:
        """Give the file back and make nothing durable."""
        self._failure = self._failure or ValueError("the journal is closed")
        self._file.close()

    # --- inside -----------------------------------------------------------------------------------------

    def _rewrite(self, first_index: int, previous_term: int, kept: Sequence[Entry]) -> None:
        base = Base(first_index, previous_term, self._term, self._vote, self._commit_index)
        try:
            write_beside(self._files, self._path, _whole_file(base, kept))
        except OSError as error:
            if error.errno in DISK_FULL:
                raise StorageFull(path=str(self._path)) from None
            raise self._fail(error) from None
        try:
            put_in_place(self._files, self._path)
            file = self._files.open(self._path)
        except OSError as error:
            # Under its name may be the old file or the new one: an append to either could get lost.
            raise self._fail(error) from None
        self._file.close()
        self._file = file
        self._end = self._durable_end = file.size()
        self._begin(base)
        self._entries = list(kept)

    def _write(self, drafts: Sequence[Draft]) -> None:
        """Append records in one write, or nothing of them."""
        self._check()
        data = _packed(drafts, self._end, self._durable_end)
        try:
            written = self._file.write_at(self._end, [data])
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise self._fail(error) from None
            written = 0
        if written != len(data):
            self._cut_back()
            raise StorageFull(path=str(self._path))
        self._end += len(data)

    def _cut_back(self) -> None:
        """What was refused must not come back after a power loss: the cut is synced before the answer."""
        try:
            self._file.truncate(self._end)
            self._file.sync()
        except OSError as error:
            raise self._fail(error) from None
        self._durable_end = self._end

    def _fail(self, error: OSError) -> JournalFailed:
        self._failure = error
        return JournalFailed(f"{self._path}: {error}")

    def _check(self) -> None:
        if self._failure is not None:
            raise JournalFailed(f"{self._path}: {self._failure}")


# --- bytes -----------------------------------------------------------------------------------------------


def _packed(drafts: Sequence[Draft], position: int, durable_end: int) -> bytes:
    parts = []
    for draft in drafts:
        parts.append(pack(draft, position, durable_end))
        position += len(parts[-1])
    return b"".join(parts)


def _whole_file(base: Base, entries: Sequence[Entry]) -> bytes:
    """A file that gets its name once it is durable as a whole, and says so of itself."""
    payload = _BASE.pack(FORMAT, base.previous_term, base.commit_index, 0) + _term_payload(
        base.term, base.vote
    )
    drafts = [Draft(Kind.BASE, base.first_index, payload), *map(_entry_record, entries)]
    return _packed(drafts, 0, len(_packed(drafts, 0, 0)))


def _read_base(record: Record) -> Base:
    version, previous_term, commit_index, _ = _BASE.unpack_from(record.payload)
    if version > FORMAT:
        raise UnsupportedFormat(what=f"metadata journal of format {version}; this version has {FORMAT}")
    term, vote = _read_term(record.payload[_BASE.size :])
    return Base(record.index, previous_term, term, vote, commit_index)


def _entry_record(entry: Entry) -> Draft:
    return Draft(Kind.ENTRY, entry.index, _TERM.pack(entry.term) + entry.data, entry.kind)


def _term_payload(term: int, vote: str | None) -> bytes:
    """The vote follows with a mark of its own: an empty one is not none."""
    return _TERM.pack(term) + (b"" if vote is None else b"=" + vote.encode())


def _read_term(payload: bytes) -> tuple[int, str | None]:
    (term,) = _TERM.unpack_from(payload)
    vote = payload[_TERM.size :]
    return term, vote[1:].decode() if vote else None


def _make_durable(file: File, data: bytes) -> None:
    """Rule 40: what a start finds may be in the page cache alone, marked as written by a sync that failed.
    Writing it again makes it dirty again; only then does a sync say something.
    """
    file.truncate(len(data))
    if file.write_at(0, [data]) != len(data):
        raise OSError(errno.ENOSPC, "short write over a journal")
    file.sync()
