"""The thread that a voter lives on: whatever the event loop is busy with, heartbeats and votes do not wait.

Others hand in what they have and go on; the thread takes all of it in one turn, ticks, and tells: first the
network, since others wait for it, then whoever follows the log.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from millpond_broker.consensus.metadata_log import CommittedEntry, ProposeOutcome
from millpond_broker.consensus.peers import PeerIdentity, PeerLinks
from millpond_broker.consensus.raft.codec import BadMessage
from millpond_broker.consensus.raft.voter import Voter, VoterFailed
from millpond_broker.core.image import CommandResult, MetadataImage
from millpond_broker.observe.logs import event

_log: Final = logging.getLogger(__name__)

INBOX_BYTES_MAX: Final = 64 << 20
"""Of messages from one peer that wait for their turn: as much as its link may hold, twice. A peer that sends
more floods."""
INBOX_MESSAGES_MAX: Final = 10_000
"""Likewise, for small ones."""
STOP_SECONDS_MAX: Final = 30.0
"""For the turn under way when it is stopped."""
HAND_OVER_RETRY_SECONDS: Final = 0.02
"""Until the voter that is to lead next has caught up."""
MESSAGES_PER_TURN: Final = 256
"""Heard before timers are looked at again."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a turn brought, for those who follow the log: in it, what came before is there already."""

    image: MetadataImage
    image_term: int
    """Of the entry that the image's version names."""
    entries: tuple[CommittedEntry, ...]
    """Applied in this turn, in order."""
    installed_index: int
    """Up to here, entries came in a snapshot and were not told one by one."""
    term: int
    """In which this voter leads; 0: it does not."""
    leader: int | None
    outcomes: tuple[tuple[Callable[[ProposeOutcome], None], ProposeOutcome], ...]
    """What to tell whom, after all that."""


@dataclass(slots=True)
class _Waiting:
    """From one peer, how much is in the inbox."""

    messages: int = 0
    size_bytes: int = 0


@dataclass(slots=True)
class _Inbox:
    """What was handed in. Guarded by the lock of `ready`."""

    ready: threading.Condition = field(default_factory=threading.Condition)
    calls: deque[Callable[[], object]] = field(default_factory=deque)
    by_peer: dict[int, _Waiting] = field(default_factory=dict)
    stopping: bool = False


class VoterThread:
    """Runs a voter until it is stopped or fails. It is what links tell (`PeerEvents`)."""

    def __init__(
        self, make_voter: Callable[[Callable[[CommittedEntry, CommandResult], None]], Voter]
    ) -> None:
        """`make_voter` gets what to call for each entry applied. Raises what it raises."""
        self._inbox = _Inbox()
        self._entries: list[CommittedEntry] = []
        self._voter = make_voter(lambda entry, _result: self._entries.append(entry))
        self._links: PeerLinks | None = None
        self._linked: dict[int, str] = {}
        self._on_progress: Callable[[Progress], None] = lambda _: None
        self._on_failed: Callable[[Exception], None] = lambda _: None
        self._outcomes: list[tuple[Callable[[ProposeOutcome], None], ProposeOutcome]] = []
        self._told: tuple[MetadataImage, int, int | None] = (self._voter.image, 0, None)
        self._thread = threading.Thread(target=self._run, name="metadata voter", daemon=True)

    @property
    def start_image(self) -> tuple[MetadataImage, int]:
        """What there is before it starts, and the term of the entry that its version names."""
        return self._voter.image, self._voter.image_term

    def start(
        self,
        links: PeerLinks,
        *,
        on_progress: Callable[[Progress], None],
        on_failed: Callable[[Exception], None],
    ) -> None:
        """Begin, with links that tell this. `on_progress` is called on the thread, in order, and must only
        hand on; `on_failed` once, at the end of a voter that failed.
        """
        self._links = links
        self._on_progress = on_progress
        self._on_failed = on_failed
        self._thread.start()

    def stop(self, hand_over_seconds: float) -> None:
        """Let another voter lead, if this one does, for at most so long; then end, with all in order. Blocks.
        The links are still the caller's.
        """
        if self._thread.ident is None:
            self._voter.close()
            return
        give_up_at = time.monotonic() + hand_over_seconds
        others = self._voter.voters.keys() - {self._voter.identity().broker_id}
        while others and self._voter.is_leader and self._thread.is_alive() and time.monotonic() < give_up_at:
            self.call(self._voter.transfer_leadership)
            time.sleep(HAND_OVER_RETRY_SECONDS)
        with self._inbox.ready:
            self._inbox.stopping = True
            self._inbox.ready.notify()
        self._thread.join(STOP_SECONDS_MAX)
        if self._thread.is_alive():  # a disk that does not answer; the thread is a daemon, and ends with us
            event(_log, logging.ERROR, "metadata_voter_hangs")

    # --- for any thread -----------------------------------------------------------------------------------

    def propose(self, data: bytes, done: Callable[[ProposeOutcome], None]) -> None:
        """See `Voter.propose`; `done` is told with `Progress`. Whoever calls bounds how many there are."""
        self.call(lambda: self._voter.propose(data, lambda outcome: self._outcomes.append((done, outcome))))

    def hand_over(self) -> None:
        """Let another voter lead, if this one does; asked once, and it may come to nothing."""
        self.call(self._voter.transfer_leadership)

    def call(self, call: Callable[[], object]) -> None:
        """Run it on the thread, in the order of the calls; never, once this has ended."""
        with self._inbox.ready:
            self._inbox.calls.append(call)
            self._inbox.ready.notify()

    # --- what links tell (`PeerEvents`) -------------------------------------------------------------------

    def identity(self) -> PeerIdentity:
        return self._voter.identity()

    def admit(self, peer: PeerIdentity) -> str | None:
        return self._voter.admit(peer)

    def on_connected(self, broker_id: int) -> None:
        self.call(lambda: self._voter.peer_connected(broker_id))

    def on_disconnected(self, broker_id: int) -> None:
        self.call(lambda: self._voter.peer_disconnected(broker_id))

    def on_message(self, broker_id: int, message: bytes) -> bool:
        inbox = self._inbox
        with inbox.ready:
            waiting = inbox.by_peer.setdefault(broker_id, _Waiting())
            if waiting.messages >= INBOX_MESSAGES_MAX or waiting.size_bytes > INBOX_BYTES_MAX:
                return False
            waiting.messages += 1
            waiting.size_bytes += len(message)
            inbox.calls.append(lambda: self._hear(broker_id, message))
            inbox.ready.notify()
        return True

    # --- the thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._take_turn():
                pass
            self._voter.close()
            self._tell()
        except Exception as error:  # the thread's root: the process has to end, and is told so
            self._voter.abandon()
            self._tell()
            if not isinstance(error, VoterFailed):
                event(_log, logging.CRITICAL, "metadata_voter_failed", error=error)
            self._on_failed(error)

    def _take_turn(self) -> bool:
        """Everything that was handed in, and one tick. False: it was the last."""
        inbox = self._inbox
        idle_seconds = self._voter.idle_seconds
        with inbox.ready:
            if not inbox.calls and not inbox.stopping:
                inbox.ready.wait(idle_seconds)
            calls = [inbox.calls.popleft() for _ in range(min(len(inbox.calls), MESSAGES_PER_TURN))]
            stopping = inbox.stopping
        for call in calls:
            call()
        self._voter.tick()
        self._send()
        self._tell()
        return not stopping

    def _hear(self, peer: int, message: bytes) -> None:
        with self._inbox.ready:
            waiting = self._inbox.by_peer[peer]
            waiting.messages -= 1
            waiting.size_bytes -= len(message)
        try:
            self._voter.receive(peer, message)
        except BadMessage as error:  # of another version, or wrong: as if it had been lost
            event(_log, logging.WARNING, "bad_message_of_voter", peer=peer, error=str(error))

    def _send(self) -> None:
        links = self._links
        assert links is not None, "started with links"
        wanted = self._voter.peer_addresses
        if wanted != self._linked:
            for peer in self._linked.keys() - wanted.keys():
                links.disconnect(peer)
                self._voter.peer_disconnected(peer)
            for peer, address in wanted.items():
                if self._linked.get(peer) != address:
                    links.connect(peer, address)
            self._linked = wanted
        by_peer: dict[int, list[bytes]] = {}
        for peer, message in self._voter.take_outgoing():
            by_peer.setdefault(peer, []).append(message)
        for peer, messages in by_peer.items():
            links.send(peer, messages)

    def _tell(self) -> None:
        voter = self._voter
        image, term, leader = state = (voter.image, voter.term, voter.leader)
        is_old = image is self._told[0] and (term, leader) == self._told[1:]
        if is_old and not self._outcomes and not self._entries:
            return
        entries = tuple(self._entries)
        self._entries.clear()
        outcomes, self._outcomes = tuple(self._outcomes), []
        self._told = state
        self._on_progress(
            Progress(image, voter.image_term, entries, voter.installed_index, term, leader, outcomes)
        )
