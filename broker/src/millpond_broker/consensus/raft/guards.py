"""What stands between the library's mistakes and the log, one method each.

Each says what it does, and what happened without it: all of this was seen in PySyncObj 0.3.17, or follows
from its source. `tests/sim/raft` takes each away in turn, and has to notice. The rest of what is replaced has
no form that could be taken away: see `library` and `messages`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from crc32c import crc32c

from millpond_broker.consensus.codec import decode_snapshot
from millpond_broker.consensus.journal import Journal
from millpond_broker.consensus.raft.messages import (
    Appended,
    AppendEntries,
    InstallSnapshot,
    PreVote,
    RequestVote,
    Vote,
)
from millpond_broker.core.image import MetadataImage


class Guards:
    """All of them, in force. Stateless: what they decide on is given."""

    # --- nothing leaves before it is durable (rule 37) --------------------------------------------------

    def sync_before_sending(self, journal: Journal) -> None:
        """The library never syncs. A vote, an acknowledgement or an entry that its sender forgets in a power
        loss has been counted by others: acknowledged commands are lost.
        """
        journal.sync()

    def sync_before_commit(self, journal: Journal, index: int) -> None:
        """A leader counts its own log as one that has the entry. Alone, or before what it sent was synced,
        it would acknowledge what only its page cache has.
        """
        del index
        journal.sync()

    # --- appending (Raft §5.3) --------------------------------------------------------------------------

    def unrepeated(
        self, term_at: Callable[[int], int | None], begins_after: int, ends_at: int, message: AppendEntries
    ) -> tuple[AppendEntries, int | None]:
        """The message without what this log has already, and, if nothing new is left, the index up to which
        log and message agree.

        The library takes back everything after `previous_index` before it appends, and a leader repeats
        itself under load: entries that were acknowledged and committed were gone for a moment, and a crash of
        another voter in it lost 118 of 210. An entry may go only if the leader has another in its place.
        """
        previous, previous_term, entries = message.previous_index, message.previous_term, message.entries
        if previous < begins_after:
            # Where this log begins, a snapshot ends: all before that is committed, and so the leader's too.
            entries = entries[begins_after - previous :]
            previous, previous_term = begins_after, term_at(begins_after) or 0
        if term_at(previous) != previous_term:
            return message, None  # the library asks for what comes before
        repeated = 0
        for entry in entries:
            if term_at(entry.index) != entry.term:
                break
            repeated += 1
        if repeated:
            previous, previous_term = entries[repeated - 1].index, entries[repeated - 1].term
            entries = entries[repeated:]
        if entries:
            return replace(
                message, previous_index=previous, previous_term=previous_term, entries=entries
            ), None
        # Nothing new. What is left behind `previous` may be older than the leader's; only what is of its own
        # term came from it, with all before.
        return message, ends_at if term_at(ends_at) == message.term else previous

    def known_commit(self, message: AppendEntries, agrees_up_to: int) -> int:
        """How far the entries here are committed, by a message that appends nothing. The library takes the
        leader's word for its own log, whatever that has there: a deposed leader applied five commands of its
        own, and told their callers so, that the cluster never had.
        """
        return min(message.commit_index, agrees_up_to)

    def resend_from(self, wanted_index: int, commit_index: int) -> int:
        """Where a leader is to go on, when it has been refused. The library steps back one entry a round, and
        with more than a batch to send two of its answers fight each other for ever. What is committed here
        the leader has: just behind it is always right.
        """
        return min(wanted_index, commit_index + 1)

    def is_answer_of_term(self, message: Appended, term: int) -> bool:
        """The library's answers have no term: one to an earlier leadership of the same voter counted as if
        its entries were the new ones.
        """
        return message.term == term

    # --- snapshots (Raft §7) ----------------------------------------------------------------------------

    def image_of(self, message: InstallSnapshot) -> MetadataImage | None:
        """The image in the snapshot; None if it is damaged. The library swallows whatever goes wrong in
        loading one, and acknowledges it with its own tail: seven entries of a deposed leader were applied.
        """
        if crc32c(message.snapshot.data) != message.checksum:
            return None
        try:
            image = decode_snapshot(message.snapshot.data)
        except ValueError:
            return None
        return image if image.version == message.snapshot.last_index else None

    def is_snapshot_needed(self, message: InstallSnapshot, term_here: int | None, applied_index: int) -> bool:
        """The library installs every one, also an older one than it has applied, and forgets the entries
        behind it, which it may have acknowledged (InstallSnapshot rule 6).
        """
        snapshot = message.snapshot
        return snapshot.last_index > applied_index and term_here != snapshot.last_term

    # --- elections (Raft §5.4, §9.6) --------------------------------------------------------------------

    def is_vote_counted(self, message: Vote, term: int, voter: int, counted: Collection[int]) -> bool:
        """The library counts messages. One vote that came twice elected a leader by two of five."""
        return message.term == term and voter not in counted

    def may_stand(self, granted: Collection[int], voters: Collection[int]) -> bool:
        """Whether a voter may call an election: a majority would vote for it. The library has any that hears
        nobody for a while go to a new term; one that can send and not hear deposes every leader.
        """
        return 2 * len(set(granted) & set(voters)) > len(voters)

    def grants_pre_vote(self, message: PreVote, log_end: RequestVote, *, hears_leader: bool) -> bool:
        """Whether this voter would vote for the sender. `log_end` is its own, with its own term; it hears a
        leader if it heard of one within the shortest time after which it would miss it.
        """
        ends = (message.last_term, message.last_index) >= (log_end.last_term, log_end.last_index)
        return ends and message.term > log_end.term and not hears_leader

    def is_member(self, broker_id: int, voters: Collection[int]) -> bool:
        """One that the log does not name, or names no more, stands for nothing: a new voter that knows of
        nobody would elect itself.
        """
        return broker_id in voters

    def knows_voters(self, cluster_id: bytes | None) -> bool:
        """A new voter that has not applied who the first voters are knows nobody, itself included, whatever
        is in its log behind them: by its own addition alone it would be the only voter, and elect itself.
        Three processes, one of them new, came to two logs by that.
        """
        return cluster_id is not None

    def tells_newer_term(self, term: int, current_term: int) -> bool:
        """A voter that is in a newer term than the leader ignores it, without a word, and since it must not
        stand against a leader that others hear, it would be out for ever.
        """
        return term < current_term

    # --- voters (Raft §4.1) -----------------------------------------------------------------------------

    def may_change_voters(self, last_change_index: int, applied_index: int) -> bool:
        """One change at a time: two that are under way together may have majorities that do not meet. The
        library means to check this, and never notes that a change is under way.
        """
        return last_change_index <= applied_index
