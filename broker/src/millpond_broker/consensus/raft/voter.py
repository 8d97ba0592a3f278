"""One voter of the metadata: what it hears and what is due go in, messages and outcomes come out.

It has no thread, clock, socket or randomness of its own. Everything is called on one thread, in turns: first
what was heard and asked (`receive`, `propose`, `peer_connected`, …), then `tick`, then `take_outgoing`. In a
tick the library decides, what is committed is applied, and one sync makes durable all that the outgoing
messages rely on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from crc32c import crc32c

from millpond.wire.errors import NotADataDirectory, StorageFull
from millpond_broker.consensus.codec import decode, decode_snapshot
from millpond_broker.consensus.journal import EntryKind
from millpond_broker.consensus.metadata_log import CommittedEntry, ProposeOutcome
from millpond_broker.consensus.peers import PeerIdentity
from millpond_broker.consensus.raft import codec
from millpond_broker.consensus.raft.compaction import Compaction, CompactionOptions
from millpond_broker.consensus.raft.guards import Guards
from millpond_broker.consensus.raft.library import Library, Timing
from millpond_broker.consensus.raft.log_view import LogView
from millpond_broker.consensus.raft.messages import (
    Address,
    Appended,
    AppendEntries,
    InstallSnapshot,
    Message,
    NewerTerm,
    PreVote,
    PreVoted,
    RequestVote,
    TimeoutNow,
    Vote,
)
from millpond_broker.consensus.raft.outbox import Outbox
from millpond_broker.consensus.raft.pre_vote import Elections
from millpond_broker.consensus.raft.proposals import Proposals
from millpond_broker.consensus.snapshots import Snapshot
from millpond_broker.consensus.store import FIRST_COMMAND_INDEX, Store
from millpond_broker.core.commands import AddVoter, InitCluster
from millpond_broker.core.commands import Voter as VoterRecord
from millpond_broker.core.image import EMPTY, CommandResult, MetadataImage, apply
from millpond_broker.observe.logs import event
from millpond_broker.storage.files import DISK_FULL

_log: Final = logging.getLogger(__name__)

IDLE_SECONDS_MIN: Final = 0.001
"""Between two ticks when something is due: the library's comparisons are strict."""
IDLE_SECONDS_MAX: Final = 0.1
"""Between two ticks in any case."""
TELL_AGAIN_SECONDS: Final = 60.0
"""Between two lines on a disk that is full: the log may be on it."""
PUT_OFF_TIMEOUTS: Final = 10
"""Of elections, for which a voter whose disk was full stands for none: others may have room."""
HEARD_ADDRESSES_MAX: Final = 64
"""Of peers that are no voters yet, as far as this one knows."""
SNAPSHOT_BYTES_MAX: Final = 60 << 20
"""More than this no link takes in one message."""
NEVER_SENT: Final = float("-inf")
SNAPSHOT_SECONDS: Final = 5.0
"""How long a peer may take over a snapshot before it is sent again."""


class VoterFailed(Exception):
    """What this voter has on disk or in memory is not known to be right any more: the process has to end
    (rule 40). What was promised before holds.
    """


@dataclass(frozen=True, kw_only=True)
class VoterOptions:
    """Timing and bounds."""

    timing: Timing = field(default_factory=Timing)
    compaction: CompactionOptions = field(default_factory=CompactionOptions)


class Voter:
    """See the module. Made on an open store, which it closes."""

    def __init__(
        self,
        store: Store,
        *,
        broker_id: int,
        directory_id: str,
        now: Callable[[], float],
        random: Random,
        options: VoterOptions | None = None,
        guards: Guards | None = None,
        configured: Mapping[int, str] | None = None,
        address: str = "",
        on_applied: Callable[[CommittedEntry, CommandResult], None] | None = None,
    ) -> None:
        """`now`: seconds of the library's clock. `configured`: addresses of voters for as long as the log
        does not tell them; `address`: this one's, likewise.
        Raises NotADataDirectory for the metadata of another broker or disk, VoterFailed.
        """
        self._store = store
        self._broker_id = broker_id
        self._directory_id = directory_id
        self._now = now
        self._options = options or VoterOptions()
        self._guards = guards or Guards()
        self._configured = dict(configured or {})
        self._address = address
        self._on_applied = on_applied
        self._image = _image_at_start(store)
        self._check_disk()
        self._failure: Exception | None = None
        self.installed_index = self._image.version
        """Of the last snapshot that took the place of the image: entries up to it were not applied one by
        one."""
        self._outbox = Outbox()
        self._outgoing: list[tuple[int, bytes]] = []
        self._tell_full_again_at = 0.0
        self._connected: set[int] = set()
        self._told_address = ""  # of this voter, to those
        self._heard_addresses: dict[int, str] = {}  # of peers that told theirs; at most HEARD_ADDRESSES_MAX
        self._snapshots_out: dict[int, tuple[int, float]] = {}  # by peer: last index, and when it was sent
        self._votes_counted: tuple[int, set[int]] = (0, set())  # the term, and who voted in it
        self._log = LogView(
            store.journal,
            sync_before_commit=self._guards.sync_before_commit,
            on_voters_changed=self._voters_changed,
        )
        self._library = Library(
            broker_id, self._log, self._image.version, timing=self._options.timing, outer=self
        )
        self._elections = Elections(
            self._library,
            broker_id,
            guards=self._guards,
            timing=self._options.timing,
            random=random,
            now=now(),
        )
        self._proposals = Proposals(self._library, self._log, broker_id, guards=self._guards)
        self._compaction = Compaction(store, self._log, self._library, self._options.compaction)
        self._voters: dict[int, VoterRecord] = {}
        self._voters_changed()

    # --- what it knows: any thread may ask ----------------------------------------------------------------

    @property
    def image(self) -> MetadataImage:
        """After all that was applied here."""
        return self._image

    @property
    def is_leader(self) -> bool:
        """Whether it believes to lead."""
        return self._library.is_leader

    @property
    def term(self) -> int:
        """The term in which it leads, and has applied everything from before; 0 while it does not."""
        library = self._library
        since = library.leads_since_index
        leads = library.is_leader and since is not None and library.applied_index >= since
        return library.term if leads else 0

    @property
    def leader(self) -> int | None:
        """Whom it takes for the leader. Nobody once it has not heard it for as long as two elections: who is
        cut off may not stand (pre-vote), and the library goes on naming the leader from before.
        """
        leader = self._library.leader
        if leader in (None, self._broker_id) or self._elections.has_heard_leader(self._now()):
            return leader
        return None

    @property
    def voters(self) -> Mapping[int, VoterRecord]:
        """Who votes, as of the end of its log."""
        return self._voters

    @property
    def peer_addresses(self) -> dict[int, str]:
        """Whom to keep links to: the other voters, those configured, and peers that told their address: this
        one's log may not have them yet.
        """
        # One that was the only voter has no address in the log: nobody came to it.
        told = {voter.broker_id: voter.address for voter in self._voters.values() if voter.address}
        addresses = {**self._configured, **self._heard_addresses, **told}
        addresses.pop(self._broker_id, None)
        return addresses

    @property
    def image_term(self) -> int:
        """Of the entry that the image's version names."""
        return self._store.journal.term_at(self._image.version) or 0

    @property
    def idle_seconds(self) -> float:
        """How long until a tick is due, if nothing comes before."""
        due_at = self._library.heartbeat_at() if self._library.is_leader else self._elections.due_at
        return min(IDLE_SECONDS_MAX, max(IDLE_SECONDS_MIN, due_at - self._now()))

    def identity(self) -> PeerIdentity:
        """Who this is, for other voters."""
        return PeerIdentity(self._broker_id, self._directory_id, self._image.cluster_id or b"")

    def admit(self, peer: PeerIdentity) -> str | None:
        """Why that peer is not heard; None if it is. A disk that was wiped has another id than the voter
        whose place it would take, and does not get it: it has forgotten how that one voted.
        """
        cluster_id, pinned = self._image.cluster_id, self._voters.get(peer.broker_id)
        if peer.broker_id == self._broker_id:
            return f"it says that it is broker {peer.broker_id}, which this one is"
        if cluster_id and peer.cluster_id and cluster_id != peer.cluster_id:
            return f"it belongs to cluster {peer.cluster_id.hex()}, not {cluster_id.hex()}"
        if pinned is not None and pinned.directory_id != peer.directory_id:
            return (
                f"voter {peer.broker_id} has data directory {pinned.directory_id}, not {peer.directory_id}: a"
                " voter with a new disk needs a new id"
            )
        return None

    # --- what it is told ----------------------------------------------------------------------------------

    def peer_connected(self, peer: int) -> None:
        """Messages to that peer can go out."""
        self._connected.add(peer)
        self._library.set_connected(peer, connected=True)
        if self._told_address:
            self.send(peer, Address(self._library.term, self._told_address))

    def peer_disconnected(self, peer: int) -> None:
        """They cannot; what was on the way is lost."""
        self._connected.discard(peer)
        self._library.set_connected(peer, connected=False)
        self._outbox.forget(peer)
        self._snapshots_out.pop(peer, None)

    def propose(self, data: bytes, done: Callable[[ProposeOutcome], None]) -> None:
        """An encoded Envelope. `done` is called once, in a later tick, or when this closes: Ok once applied
        here, Unknown when it leads no more, NotApplied if it never got into the log, or lost its place in it.
        """
        self._proposals.add(data, done)

    def receive(self, peer: int, data: bytes) -> None:
        """A message from a peer that was admitted. Raises BadMessage, with nothing changed; VoterFailed."""
        message = codec.decode(data)
        with self._failing():
            try:
                self._hear(peer, message)
            except StorageFull as error:
                self._disk_is_full(error)

    def compact_soon(self) -> None:
        """Take a snapshot in the next tick, whoever lags."""
        self._compaction.soon()

    def transfer_leadership(self) -> bool:
        """Ask another voter to lead; whether one was asked. Only before a stop: it may take a moment."""
        with self._failing():
            return self._library.is_leader and self._library.give_up_leadership()

    def tick(self) -> None:
        """Everything that is due. Raises VoterFailed."""
        with self._failing():
            try:
                question = self._elections.gate(self._now(), self._voters)
                if question is not None:
                    for voter in sorted(self._others()):
                        self.send(voter, question)
                self._library.tick()
                assert self._library.applied_index >= self._store.journal.first_index - 1, "no gap to apply"
                self._compaction.if_due(self._image, self._others(), self._now())
            except StorageFull as error:
                self._disk_is_full(error)
            if not self._library.is_leader:
                self._proposals.lost_leadership()
                self._snapshots_out.clear()  # a later leadership of this voter owes nobody an answer to them
            for peer, index in self._outbox.take_held_back().items():
                self._library.send_again_from(peer, index)
            self._flush()
        self._proposals.tell()

    def take_outgoing(self) -> list[tuple[int, bytes]]:
        """Messages by peer, in order, that may leave now: what they rely on is durable."""
        taken, self._outgoing = self._outgoing, []
        return taken

    def close(self) -> None:
        """Give the files back. Who waits for an outcome is told."""
        self._failure = self._failure or VoterFailed("the voter is closed")
        self._proposals.lost_leadership()
        self._proposals.tell()
        self._store.journal.close()

    def abandon(self) -> None:
        """The same, without making anything durable: after VoterFailed."""
        self._failure = self._failure or VoterFailed("the voter is closed")
        self._proposals.lost_leadership()
        self._proposals.tell()
        self._store.journal.abandon()

    # --- hearing ------------------------------------------------------------------------------------------

    def _hear(self, peer: int, message: Message) -> None:
        library = self._library
        match message:
            case AppendEntries():
                self._hear_append(peer, message)
            case Appended():
                self._hear_appended(peer, message)
            case InstallSnapshot():
                self._hear_snapshot(peer, message)
            case RequestVote() | TimeoutNow():
                library.deliver(peer, message)
            case Vote():
                self._hear_vote(peer, message)
            case PreVote():
                self.send(peer, self._elections.answer(message, self._now()))
            case PreVoted() if peer in self._voters:
                self._elections.answered(peer, message, self._voters)
            case Address():
                self._hear_address(peer, message)
            case NewerTerm() if peer in self._voters and message.term > library.term:
                library.adopt_term(message.term)
            case _:
                pass  # of one who does not vote, or of the past

    def _is_of_leader(self, peer: int, term: int) -> bool:
        """Whether a leader's message is of a term that is not over; one who leads in such a term is told."""
        if self._guards.tells_newer_term(term, self._library.term):
            self.send(peer, NewerTerm(self._library.term))
        if term < self._library.term:
            return False
        self._elections.heard_leader(self._now())
        return True

    def _hear_append(self, peer: int, message: AppendEntries) -> None:
        if not self._is_of_leader(peer, message.term):
            return
        journal = self._store.journal
        message, agrees_up_to = self._guards.unrepeated(
            journal.term_at, journal.first_index - 1, journal.last_index, message
        )
        if agrees_up_to is None:
            self._library.deliver(peer, message)
            return
        self._library.heartbeat_only(peer, message.term, self._guards.known_commit(message, agrees_up_to))
        self.send(peer, Appended(message.term, agrees_up_to + 1, success=True))

    def _hear_appended(self, peer: int, message: Appended) -> None:
        if peer not in self._voters or not self._library.is_leader:
            return
        if not self._guards.is_answer_of_term(message, self._library.term):
            return
        if message.next_index - 1 > self._store.journal.last_index:
            return  # nobody has more of this leader's log than it has
        if message.success:
            self._outbox.answered(peer, message.next_index)
        else:
            self._outbox.forget(peer)
        sent = self._snapshots_out.get(peer)
        if sent is not None and message.next_index > sent[0]:
            del self._snapshots_out[peer]
        self._library.deliver(peer, message)

    def _hear_address(self, peer: int, message: Address) -> None:
        """A voter that was away while others were replaced does not know the one that leads now, and could
        never answer it.
        """
        if peer in self._heard_addresses or len(self._heard_addresses) < HEARD_ADDRESSES_MAX:
            self._heard_addresses[peer] = message.address

    def _hear_vote(self, peer: int, message: Vote) -> None:
        term, counted = self._votes_counted
        if term != message.term:
            counted = set()
        if peer in self._voters and self._guards.is_vote_counted(message, self._library.term, peer, counted):
            self._votes_counted = (message.term, {*counted, peer})
            self._library.deliver(peer, message)

    def _hear_snapshot(self, peer: int, message: InstallSnapshot) -> None:
        if not self._is_of_leader(peer, message.term):
            return
        library, snapshot = self._library, message.snapshot
        library.heartbeat_only(peer, message.term, 0)
        term_here = self._store.journal.term_at(snapshot.last_index)
        if self._guards.is_snapshot_needed(message, term_here, library.applied_index):
            image = self._guards.image_of(message)
            if image is None:
                event(_log, logging.ERROR, "snapshot_refused", peer=peer, last_index=snapshot.last_index)
                self.send(peer, Appended(library.term, library.commit_index + 1, success=False))
                return
            self._install(snapshot, image)
        self.send(peer, Appended(library.term, snapshot.last_index + 1, success=True))

    def _install(self, snapshot: Snapshot, image: MetadataImage) -> None:
        """Let the snapshot take the place of log and image. Raises StorageFull: then it does not."""
        try:
            self._store.install(snapshot)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise StorageFull(path=str(self._store.home)) from None
            raise VoterFailed(f"a snapshot could not be kept: {error}") from error
        self._image = image
        self.installed_index = snapshot.last_index
        self._log.restart()
        self._library.installed(snapshot.last_index)
        self._proposals.covered(snapshot.last_index)
        self._voters_changed()
        event(_log, logging.INFO, "snapshot_installed", last_index=snapshot.last_index)

    # --- what the library calls (`Outer`) -------------------------------------------------------------------

    def send(self, peer: int, message: Message) -> None:
        """A message to go out at the end of the tick."""
        if isinstance(message, AppendEntries) and message.entries and self._has_snapshot_to_work_on(peer):
            # It cannot have what comes before: it is told that there is a leader, and no more.
            message = replace(message, entries=())
        if isinstance(message, Appended):
            message = replace(message, term=self._library.term)
            if not message.success:
                wanted = self._guards.resend_from(message.next_index, self._library.commit_index)
                message = replace(message, next_index=wanted)
        if not self._outbox.add(peer, message):
            # Or the library would make messages of all the rest, for nothing; the tick ends with telling it.
            self._library.send_again_from(peer, self._store.journal.last_index + 1)

    def _has_snapshot_to_work_on(self, peer: int) -> bool:
        return self._now() - self._snapshots_out.get(peer, (0, NEVER_SENT))[1] <= SNAPSHOT_SECONDS

    def send_snapshot(self, peer: int) -> None:
        """The snapshot, unless the peer has one to work on."""
        snapshot, now = self._store.snapshot, self._now()
        assert snapshot is not None, "a log that does not begin at the beginning has a snapshot before it"
        index, _ = self._snapshots_out.get(peer, (0, NEVER_SENT))
        if index == snapshot.last_index and self._has_snapshot_to_work_on(peer):
            return
        self._snapshots_out[peer] = (snapshot.last_index, now)
        if len(snapshot.data) > SNAPSHOT_BYTES_MAX:
            event(_log, logging.ERROR, "snapshot_too_large", peer=peer, size_bytes=len(snapshot.data))
        else:
            self._outbox.add(peer, InstallSnapshot(self._library.term, snapshot, crc32c(snapshot.data)))

    def execute(self, index: int, kind: EntryKind, data: bytes) -> None:
        """Apply a committed entry."""
        if kind is EntryKind.NO_OP:
            return
        envelope = decode(data)
        before = self._image
        self._image, result = apply(before, index, envelope)
        self._proposals.executed(index, result)
        if kind is EntryKind.VOTERS or self._image.voters is not before.voters:
            self._voters_changed()
        if self._on_applied is not None:
            term = self._store.journal.term_at(index)
            assert term is not None, "what is applied is in the journal"
            self._on_applied(CommittedEntry(index, term, envelope), result)

    def submit(self) -> None:
        """Append what was proposed, or say why not."""
        self._proposals.submit(self._image, leads=self.term != 0)

    def state_changed(self) -> None:
        """What it means is looked at when the tick ends: the library is in the middle of it."""
        stands_for_something = self._guards.is_member(self._broker_id, self._voters)
        assert not self._library.is_leader or stands_for_something, "who leads is a voter"

    # --- voters ---------------------------------------------------------------------------------------------

    def _voters_changed(self) -> None:
        """Those of the image, and the changes in the log behind it: they count from their entry on."""
        voters = dict(self._image.voters)
        known = self._guards.knows_voters(self._image.cluster_id)
        for change in self._log.changes_after(self._image.version) if known else ():
            if isinstance(change, AddVoter):
                voters[change.voter.broker_id] = change.voter
            else:
                voters.pop(change.broker_id, None)
        own = voters.get(self._broker_id)
        if own is not None and own.directory_id != self._directory_id:
            del voters[self._broker_id]  # another disk's vote: this one's counts for nothing
        self._voters = dict(sorted(voters.items()))
        self._library.set_others(self._others(), self._now())

        own_place = self._voters.get(self._broker_id)
        address = "" if own_place is None else own_place.address or self._address
        if address and address != self._told_address:
            self._told_address = address
            for peer in sorted(self._connected):
                self.send(peer, Address(self._library.term, address))

    def _others(self) -> set[int]:
        return set(self._voters) - {self._broker_id}

    def _check_disk(self) -> None:
        pinned = self._image.voters.get(self._broker_id)
        if pinned is not None and pinned.directory_id != self._directory_id:
            raise NotADataDirectory(
                path=str(self._store.home),
                reason=f"its metadata belong to voter {self._broker_id} of directory {pinned.directory_id},"
                f" not {self._directory_id}",
            )

    # --- the disk -------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if not self._outbox:
            return
        self._guards.sync_before_sending(self._store.journal)
        for peer, message in self._outbox.take():
            self._outgoing.append((peer, codec.encode(message)))

    def _disk_is_full(self, error: StorageFull) -> None:
        """What was asked did not happen, as if its message had been lost. Others may have room: one that
        leads and cannot write gives its place to one of them, or up.
        """
        now = self._now()
        if now >= self._tell_full_again_at:
            self._tell_full_again_at = now + TELL_AGAIN_SECONDS
            event(_log, logging.WARNING, "metadata_disk_full", error=str(error))
        self._elections.put_off(now + PUT_OFF_TIMEOUTS * self._options.timing.election_max)
        library = self._library
        began = library.log_end().last_term == library.term
        is_alone = began and not self._others()
        if library.is_leader and not is_alone and not (began and library.give_up_leadership()):
            library.step_down()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Whatever goes wrong in here, this voter is over: it cannot be known what it has promised."""
        if self._failure is not None:
            raise VoterFailed(str(self._failure))
        try:
            yield
        except Exception as error:  # a failed sync, or a bug: neither may go on; re-raised by another name
            self._failure = error
            event(_log, logging.CRITICAL, "metadata_voter_failed", error=error)
            raise VoterFailed(f"{type(error).__name__}: {error}") from error


def _image_at_start(store: Store) -> MetadataImage:
    """Of the snapshot, or of what a log begins with: who its first voters are. All of them were formatted
    with it, so that it is committed wherever it is found.
    """
    if store.snapshot is not None:
        try:
            image = decode_snapshot(store.snapshot.data)
        except ValueError as error:
            raise VoterFailed(f"{store.home}: {error}") from None
        assert image.version == store.snapshot.last_index, "a snapshot is named by what it has"
        return image
    for entry in store.journal.entries(FIRST_COMMAND_INDEX, 1):
        envelope = decode(entry.data)
        assert isinstance(envelope.command, InitCluster), "a log begins with who votes"
        return apply(EMPTY, entry.index, envelope)[0]
    return EMPTY
