"""What was proposed to a voter, from the question to the one outcome that each gets.

A proposal waits until the library takes commands in, gets an entry if this voter leads, and is Ok once that
entry was applied here. The library's own word for it is not passed on: it says that a command was discarded
where nobody knows, and nothing at all where a snapshot stands for the entry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from millpond.wire.errors import StorageFull
from millpond_broker.consensus.codec import decode
from millpond_broker.consensus.journal import EntryKind
from millpond_broker.consensus.metadata_log import NotApplied, Ok, ProposeOutcome, Unknown
from millpond_broker.consensus.raft.guards import Guards
from millpond_broker.consensus.raft.library import Library
from millpond_broker.consensus.raft.log_view import LogView
from millpond_broker.core.broker_commands import why_not_change_voters
from millpond_broker.core.commands import AddVoter, Envelope, RemoveVoter
from millpond_broker.core.image import CommandResult, MetadataImage, Refused, apply, earlier_result


@dataclass(slots=True, eq=False)
class _Proposal:
    """One that was asked for. `done` is called once."""

    data: bytes
    envelope: Envelope
    done: Callable[[ProposeOutcome], None]
    index: int = 0
    """Of its entry; 0 before it has one."""
    outcome: ProposeOutcome | None = None


class Proposals:
    """For one thread. Whoever proposes bounds how many there are."""

    def __init__(self, library: Library, log: LogView, broker_id: int, *, guards: Guards) -> None:
        self._library = library
        self._log = log
        self._broker_id = broker_id
        self._guards = guards
        self._queue: deque[_Proposal] = deque()
        self._appended: dict[int, _Proposal] = {}  # by index: those in the log that nobody was told of
        self._results: dict[int, CommandResult] = {}  # by index, of those, until the library has settled them
        self._settled: list[_Proposal] = []

    def add(self, data: bytes, done: Callable[[ProposeOutcome], None]) -> None:
        """An encoded Envelope. `done` is called by `tell`."""
        self._queue.append(_Proposal(data, decode(data), done))

    def submit(self, image: MetadataImage, *, leads: bool) -> None:
        """Append what waits, or say why not. `leads`: all from before it came to lead is applied. Raises
        StorageFull, after all were told.
        """
        appended = False
        full: StorageFull | None = None
        while self._queue:
            proposal = self._queue.popleft()
            reason, kind = self._why_not(proposal.envelope, image, leads=leads)
            if reason is None:
                try:
                    self._append(proposal, kind)
                    appended = True
                except StorageFull as error:
                    full, reason = error, str(error)
            if reason is not None:
                self._settle(proposal, NotApplied(reason))
        if appended:
            self._library.send_entries()
        if full is not None:
            raise full

    def executed(self, index: int, result: CommandResult) -> None:
        """Entry `index` was applied here, and gave that."""
        if index in self._appended:
            self._results[index] = result

    def covered(self, through_index: int) -> None:
        """A snapshot stands for the entries up to there: what became of them cannot be told."""
        for index in [index for index in self._appended if index <= through_index]:
            self._settle_unknown(self._appended.pop(index), "a snapshot stands for its entry")

    def lost_leadership(self) -> None:
        """Whoever leads next may commit what was appended, or not."""
        appended, self._appended = self._appended, {}
        for proposal in appended.values():
            self._settle_unknown(proposal, "this voter leads no more")
        while self._queue:
            self._settle(self._queue.popleft(), NotApplied("this voter does not lead"))

    def tell(self) -> None:
        """Call whoever has an outcome."""
        settled, self._settled = self._settled, []
        for proposal in settled:
            assert proposal.outcome is not None, "it was settled"
            proposal.done(proposal.outcome)

    def _why_not(
        self, envelope: Envelope, image: MetadataImage, *, leads: bool
    ) -> tuple[str | None, EntryKind]:
        """Why a proposal cannot be appended, or None, and what kind of entry it makes."""
        library, command = self._library, envelope.command
        if not library.is_leader:
            return "this voter does not lead", EntryKind.COMMAND
        if not isinstance(command, AddVoter | RemoveVoter):
            return None, EntryKind.COMMAND
        if not leads:
            return "this voter has only just begun to lead", EntryKind.VOTERS
        last_change = max(self._log.voter_changes, default=0)
        if not self._guards.may_change_voters(last_change, library.applied_index):
            return "another change of voters is under way", EntryKind.VOTERS
        if earlier_result(image, envelope) is not None:
            return None, EntryKind.COMMAND  # a retry of what was done: it is told what that gave
        if isinstance(command, RemoveVoter) and command.broker_id == self._broker_id:
            return "it leads, and cannot remove itself: let another voter lead first", EntryKind.VOTERS
        if (reason := why_not_change_voters(image, command)) is not None:
            return reason, EntryKind.VOTERS
        # It counts from the entry on, so applying it must not find anything wrong with it.
        _, result = apply(image, image.version + 1, envelope)
        return str(result.error) if isinstance(result, Refused) else None, EntryKind.VOTERS

    def _append(self, proposal: _Proposal, kind: EntryKind) -> None:
        def settle(applied: bool) -> None:
            if self._appended.get(proposal.index) is not proposal:
                return  # it was told something else already
            del self._appended[proposal.index]
            if applied:
                self._settle(proposal, Ok(proposal.index, self._results.pop(proposal.index)))
            else:
                self._results.pop(proposal.index, None)
                self._settle(proposal, NotApplied("another leader's entry took its place"))

        proposal.index = self._library.append(kind, proposal.data, settle)
        self._appended[proposal.index] = proposal

    def _settle_unknown(self, proposal: _Proposal, reason: str) -> None:
        self._results.pop(proposal.index, None)
        self._settle(proposal, Unknown(reason, proposal.envelope.sequence))

    def _settle(self, proposal: _Proposal, outcome: ProposeOutcome) -> None:
        assert proposal.outcome is None, "one outcome"
        proposal.outcome = outcome
        self._settled.append(proposal)
