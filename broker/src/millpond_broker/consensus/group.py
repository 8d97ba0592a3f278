"""The metadata log of a cluster with several voters: a voter on its thread, for the event loop.

Every voter proposes only while it leads; whoever does not sends what it wants to the one that does, by a call
of its own. What was applied is handed to the loop in the order of the log, and outcomes behind it.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Final, TypeVar

from millpond.wire.errors import (
    BrokerNotReady,
    NotADataDirectory,
    OperationTimeout,
    StorageFailed,
    StorageFull,
)
from millpond_broker.consensus.codec import CommandTooLarge, encode, encode_snapshot
from millpond_broker.consensus.journal import JournalFailed
from millpond_broker.consensus.metadata_log import (
    PROPOSALS_IN_FLIGHT_MAX,
    CommittedEntry,
    MetadataLogFailed,
    NotApplied,
    Ok,
    ProposeOutcome,
    Unknown,
    Watchers,
)
from millpond_broker.consensus.peers import PeerEvents, PeerLinks
from millpond_broker.consensus.raft.library import clock
from millpond_broker.consensus.raft.thread import Progress, VoterThread
from millpond_broker.consensus.raft.voter import Voter, VoterFailed, VoterOptions
from millpond_broker.consensus.records import JournalDamaged
from millpond_broker.consensus.snapshots import Snapshot
from millpond_broker.consensus.solo import RunBlocking
from millpond_broker.consensus.store import Store, format_directory, is_formatted
from millpond_broker.core.commands import Barrier, Command, Envelope, InitCluster
from millpond_broker.core.commands import Voter as VoterRecord
from millpond_broker.core.image import MetadataImage
from millpond_broker.storage.files import DISK_FULL, Files

T = TypeVar("T")

BARRIER_SECONDS_MAX: Final = 10.0
"""Of one barrier, whoever waits for it for how long."""


@dataclass(frozen=True, kw_only=True)
class GroupOptions:
    """Bounds of the log."""

    voter: VoterOptions = field(default_factory=VoterOptions)
    in_flight_max: int = PROPOSALS_IN_FLIGHT_MAX
    committed_kept: int = 4096
    """Entries kept in memory for those who follow the log; older ones come as a snapshot."""
    hand_over_seconds: float = 1.0
    """How long a stop waits for another voter to lead."""


def format_founder(
    files: Files, directory: Path, *, cluster_id: bytes, voters: tuple[VoterRecord, ...]
) -> None:
    """Make the metadata of one of the voters that a new cluster begins with, in a data directory without any:
    the same call, with the same voters, on each of them. Durable when it returns. Raises NotADataDirectory
    for one that has metadata, OSError.
    """
    if is_formatted(files, directory):
        raise NotADataDirectory(path=str(directory), reason="it has metadata already")
    first = encode(Envelope(cluster_id, 1, 0, InitCluster(cluster_id, voters)))
    format_directory(files, directory, first, term=1, vote=str(voters[0].broker_id))


class GroupMetadataLog:
    """`MetadataLog` for one of several voters. Made by `open`."""

    def __init__(
        self,
        thread: VoterThread,
        links: PeerLinks,
        proposer: bytes,
        *,
        run_blocking: RunBlocking,
        options: GroupOptions,
    ) -> None:
        self._thread = thread
        self._links = links
        self._proposer = proposer
        self._run_blocking = run_blocking
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._image, self._image_term = thread.start_image
        self._term = 0
        self._leader: int | None = None
        self._next_sequence = 1
        self._room = asyncio.Semaphore(options.in_flight_max)
        self._waiting: set[asyncio.Future[ProposeOutcome]] = set()  # at most in_flight_max
        self._watchers = Watchers()
        self._committed: deque[CommittedEntry] = deque(maxlen=options.committed_kept)
        self._committed_from = self._image.version + 1
        self._barrier_waiters: list[asyncio.Future[int]] = []
        self._barriers: asyncio.Task[None] | None = None
        self._closing = False
        self._failure: Exception | None = None
        self._has_failed = asyncio.Event()

    @classmethod
    async def open(
        cls,
        files: Files,
        directory: Path,
        *,
        broker_id: int,
        directory_id: str,
        new_id: Callable[[], bytes],
        run_blocking: RunBlocking,
        make_links: Callable[[PeerEvents], PeerLinks],
        configured: Mapping[int, str],
        address: str = "",
        options: GroupOptions | None = None,
    ) -> GroupMetadataLog:
        """The log in a voter's data directory, `<directory>/metadata`, which was formatted. It follows the
        other voters at once, and may come to lead.

        `make_links` gets whom to tell; what it makes is closed with this. `configured`: host:port of each
        voter, by broker id, for as long as the log does not tell. `address`: this voter's own, which one that
        was the only voter does not have in the log. Raises NotADataDirectory, StorageFailed,
        StorageFull, UnsupportedFormat, and what `make_links` raises.
        """
        options = options or GroupOptions()

        def make_voter(on_applied: Callable[..., None]) -> Voter:
            store = Store.open(files, directory)
            try:
                return Voter(
                    store,
                    broker_id=broker_id,
                    directory_id=directory_id,
                    now=clock,
                    random=random.Random(),  # noqa: S311 - of timers
                    options=options.voter,
                    configured=configured,
                    address=address,
                    on_applied=on_applied,
                )
            except BaseException:  # whatever it was, the descriptor is given back; re-raised
                store.journal.abandon()
                raise

        made: list[tuple[VoterThread, PeerLinks]] = []  # beside the answer: who is cancelled closes it too

        def make() -> tuple[VoterThread, PeerLinks]:
            thread = VoterThread(make_voter)
            try:
                made.append((thread, make_links(thread)))
            except BaseException:  # whatever it was, the files are given back; re-raised
                thread.stop(0)
                raise
            return made[0]

        try:
            thread, links = await run_blocking(lambda: _named(directory, make))
        except BaseException:  # cancelled, or failed after the links were made; re-raised
            for thread, links in made:
                links.close()
                thread.stop(0)
            raise
        self = cls(thread, links, new_id(), run_blocking=run_blocking, options=options)
        thread.start(links, on_progress=self._hand_on, on_failed=self._hand_on_failure)
        return self

    # --- the port ---------------------------------------------------------------------------------------

    @property
    def image(self) -> MetadataImage:
        return self._image

    @property
    def term(self) -> int:
        return self._term

    @property
    def leader(self) -> int | None:
        """Which voter leads, as far as this one knows: whom to send to what is to be proposed."""
        return self._leader

    async def propose(
        self,
        command: Command,
        timeout: float,
        *,
        sequence: int | None = None,
        controller_epoch: int | None = None,
    ) -> ProposeOutcome:
        if sequence is None:
            sequence = self._next_sequence
            self._next_sequence += 1
        number = sequence

        def envelope() -> Envelope:
            epoch = self._image.controller_epoch if controller_epoch is None else controller_epoch
            return Envelope(self._proposer, number, epoch, command)

        return await self._propose(envelope, sequence, timeout)

    async def propose_for(self, envelope: Envelope, timeout: float) -> ProposeOutcome:
        return await self._propose(lambda: envelope, envelope.sequence, timeout)

    async def _propose(
        self, envelope: Callable[[], Envelope], sequence: int, timeout: float
    ) -> ProposeOutcome:
        """`envelope` is asked once it is this proposal's turn."""
        outcome: asyncio.Future[ProposeOutcome] | None = None
        try:
            async with asyncio.timeout(timeout):
                await self._room.acquire()
                try:
                    data = encode(envelope())
                except BaseException:  # whatever it was, its room is free again; re-raised
                    self._room.release()
                    raise
                outcome = self._enqueue(data)
                told = await asyncio.shield(outcome)
                return Unknown(told.reason, sequence) if isinstance(told, Unknown) else told
        except CommandTooLarge as error:
            return NotApplied(str(error))
        except TimeoutError:
            if outcome is None:
                return NotApplied(f"its turn did not come within {timeout} s")
            return Unknown(f"no outcome within {timeout} s", sequence)

    async def barrier(self, timeout: float) -> int:
        """Also raises BrokerNotReady where this voter does not lead. Whoever asks while a barrier is on its
        way shares the next one.
        """
        if self._failure is not None:
            raise MetadataLogFailed(str(self._failure))
        waiter: asyncio.Future[int] = self._loop.create_future()
        self._barrier_waiters.append(waiter)
        if self._barriers is None or self._barriers.done():
            # This object is the owner that a task must have: `close` awaits it.
            self._barriers = asyncio.Task(self._run_barriers(), name="metadata barriers")
        try:
            async with asyncio.timeout(timeout):
                return await waiter
        except TimeoutError:
            raise OperationTimeout(what="barrier", timeout=timeout) from None

    def subscribe(self, callback: Callable[[MetadataImage], None]) -> Callable[[], None]:
        return self._watchers.add(callback)

    def committed(self, from_index: int) -> Iterator[CommittedEntry]:
        if from_index < self._committed_from:
            raise LookupError(f"entries begin at {self._committed_from}, not {from_index}")
        newest_first = takewhile(lambda entry: entry.index >= from_index, reversed(self._committed))
        return reversed(list(newest_first))

    def snapshot(self) -> Snapshot:
        return Snapshot(self._image.version, self._image_term, encode_snapshot(self._image))

    def look_elsewhere(self) -> None:
        """A voter has its own log, and nothing else."""

    def hand_over(self) -> None:
        """Let another voter lead, if this one does: soon, or not at all."""
        self._thread.hand_over()

    async def failed(self) -> None:
        await self._has_failed.wait()
        raise MetadataLogFailed(str(self._failure)) from self._failure

    async def close(self) -> None:
        """Also lets another voter lead, if this one does, and closes the links."""
        if self._closing:
            return
        self._closing = True

        def stop() -> None:
            self._thread.stop(self._options.hand_over_seconds)
            self._links.close()

        await self._run_blocking(stop)
        await asyncio.sleep(0)  # what the thread handed on last is told by then
        self._give_up_waiting("the metadata log is closed")
        if self._barriers is not None:
            await asyncio.wait([self._barriers])

    # --- on the loop --------------------------------------------------------------------------------------

    def _enqueue(self, data: bytes) -> asyncio.Future[ProposeOutcome]:
        outcome: asyncio.Future[ProposeOutcome] = self._loop.create_future()
        outcome.add_done_callback(lambda _: self._room.release())
        if self._closing:
            outcome.set_result(NotApplied("the metadata log is closed"))
        elif self._failure is not None:
            outcome.set_result(NotApplied(f"the metadata log has failed: {self._failure}"))
        else:
            self._waiting.add(outcome)
            outcome.add_done_callback(self._waiting.discard)
            self._thread.propose(data, lambda told: None if outcome.done() else outcome.set_result(told))
        return outcome

    async def _run_barriers(self) -> None:
        while self._barrier_waiters:
            waiters, self._barrier_waiters = self._barrier_waiters, []
            outcome = await self.propose(Barrier(), BARRIER_SECONDS_MAX)
            for waiter in waiters:
                if waiter.done():
                    continue
                if isinstance(outcome, Ok):
                    waiter.set_result(outcome.index)
                else:
                    waiter.set_exception(BrokerNotReady(reason=f"no barrier: {outcome.reason}"))

    def _take(self, progress: Progress) -> None:
        """What a turn of the thread brought: first all that can be seen, then who waited for it."""
        self._image, self._image_term = progress.image, progress.image_term
        self._term, self._leader = progress.term, progress.leader
        if progress.installed_index >= self._committed_from:
            self._committed.clear()
            self._committed_from = progress.installed_index + 1
        for entry in progress.entries:
            if entry.index >= self._committed_from:
                if len(self._committed) == self._options.committed_kept:
                    self._committed_from = self._committed[0].index + 1
                self._committed.append(entry)
        self._watchers.tell(self._image)
        for done, outcome in progress.outcomes:
            done(outcome)

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._term = 0
        self._give_up_waiting(f"the metadata log failed: {error}")
        self._has_failed.set()

    def _give_up_waiting(self, reason: str) -> None:
        for outcome in list(self._waiting):
            if not outcome.done():
                outcome.set_result(Unknown(reason))

    # --- on the voter's thread ----------------------------------------------------------------------------

    def _hand_on(self, progress: Progress) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(self._take, progress)

    def _hand_on_failure(self, error: Exception) -> None:
        with suppress(RuntimeError):  # likewise
            self._loop.call_soon_threadsafe(self._fail, error)


def _named(directory: Path, start: Callable[[], T]) -> T:
    """What a start does, with its errors by the names of ours."""
    try:
        return start()
    except (JournalDamaged, JournalFailed, VoterFailed) as error:
        raise StorageFailed(path=str(directory), reason=str(error)) from None
    except OSError as error:
        if error.errno in DISK_FULL:
            raise StorageFull(path=str(directory)) from None
        raise StorageFailed(path=str(directory), reason=str(error)) from None
