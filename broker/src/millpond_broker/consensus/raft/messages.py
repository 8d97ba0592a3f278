"""What voters say to one another. Each message has the term of its sender; `codec` has them as bytes.

There are no others: the library's requests to forward a command, to change members or to tell its status have
no form here, so that no peer can make one.
"""

from __future__ import annotations

from dataclasses import dataclass

from millpond_broker.consensus.journal import Entry
from millpond_broker.consensus.snapshots import Snapshot


@dataclass(frozen=True, slots=True)
class AppendEntries:
    """A leader's entries from `previous_index` + 1 on; without any, its heartbeat."""

    term: int
    commit_index: int
    previous_index: int
    previous_term: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Appended:
    """The answer. Success: this log is the leader's up to `next_index`, exclusive, and durable. Otherwise:
    send from there on.
    """

    term: int
    next_index: int
    success: bool


@dataclass(frozen=True, slots=True)
class RequestVote:
    """A candidate, and where its log ends."""

    term: int
    last_index: int
    last_term: int


@dataclass(frozen=True, slots=True)
class Vote:
    """A vote for the receiver in that term."""

    term: int


@dataclass(frozen=True, slots=True)
class InstallSnapshot:
    """What a leader's log does not begin far enough back for. `checksum`: crc32c of its data."""

    term: int
    snapshot: Snapshot
    checksum: int


@dataclass(frozen=True, slots=True)
class PreVote:
    """Whether the sender would get a vote in that term, which it has not entered."""

    term: int
    last_index: int
    last_term: int


@dataclass(frozen=True, slots=True)
class PreVoted:
    """The answer to the PreVote of `asked_term`, from a voter in `term`."""

    term: int
    granted: bool
    asked_term: int


@dataclass(frozen=True, slots=True)
class NewerTerm:
    """The receiver leads in a term that is over: this one is current."""

    term: int


@dataclass(frozen=True, slots=True)
class Address:
    """host:port where the other voters reach the sender."""

    term: int
    address: str


@dataclass(frozen=True, slots=True)
class TimeoutNow:
    """The receiver is to stand at once: the leader of that term gives up its place to it."""

    term: int


Message = (
    AppendEntries
    | Appended
    | RequestVote
    | Vote
    | InstallSnapshot
    | PreVote
    | PreVoted
    | NewerTerm
    | TimeoutNow
    | Address
)
