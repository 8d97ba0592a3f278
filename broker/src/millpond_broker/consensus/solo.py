"""The metadata log of a cluster with one voter: what its journal has is committed.

The journal is the one that a group of voters keeps, entry for entry, so that this directory can become the
first of theirs. Proposals wait in line; one task takes all that are there, appends them, syncs once, applies
them in order, swaps the image and answers. Nothing is answered, nor seen in an image, before the sync.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from millpond.wire.errors import NotADataDirectory, StorageFailed, StorageFull, UnsupportedFormat
from millpond_broker.consensus.codec import (
    CommandTooLarge,
    decode,
    decode_snapshot,
    encode,
    encode_snapshot,
)
from millpond_broker.consensus.journal import Entry, EntryKind, JournalFailed
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
from millpond_broker.consensus.records import JournalDamaged
from millpond_broker.consensus.snapshots import Snapshot
from millpond_broker.consensus.store import Store, format_directory, is_formatted
from millpond_broker.core.commands import AddVoter, Command, Envelope, InitCluster, RemoveVoter, Voter
from millpond_broker.core.image import EMPTY, CommandResult, MetadataImage, apply
from millpond_broker.observe.logs import event
from millpond_broker.storage.files import DISK_FULL, Files

T = TypeVar("T")
_log: Final = logging.getLogger(__name__)

PARTITIONS: Final = "partitions"
"""Where a data directory has its logs: one that has some has had metadata too."""


COMPACT_RETRIES: Final = 16
"""How often a snapshot that failed is tried again before the journal is twice as long as it should be."""


class RunBlocking(Protocol):
    """Runs what blocks, off the loop, one call after another."""

    def __call__(self, call: Callable[[], T], /) -> Awaitable[T]:
        """What `call()` returns or raises."""


@dataclass(frozen=True, kw_only=True)
class SoloOptions:
    """Bounds of the log."""

    in_flight_max: int = PROPOSALS_IN_FLIGHT_MAX
    compact_entries: int = 4096
    """Entries after a snapshot at which the next one is taken: what a start has to replay, and, twice over,
    what is held in memory."""
    compact_bytes: int = 16 << 20
    """The same by the size of the journal's file, for entries that are large."""


@dataclass(slots=True, eq=False)
class _Proposal:
    """One that waits. `outcome` is set once."""

    envelope: Envelope
    data: bytes
    outcome: asyncio.Future[ProposeOutcome]

    def settle(self, outcome: ProposeOutcome) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class SoloMetadataLog:
    """`MetadataLog` for one voter. Made by `open`."""

    def __init__(
        self,
        store: Store,
        image: MetadataImage,
        proposer: bytes,
        *,
        broker_id: int,
        run_blocking: RunBlocking,
        options: SoloOptions,
    ) -> None:
        self._store = store
        self._broker_id = broker_id
        self._image = image
        self._proposer = proposer
        self._run_blocking = run_blocking
        self._options = options
        self._next_sequence = 1
        self._room = asyncio.Semaphore(options.in_flight_max)
        self._queue: deque[_Proposal] = deque()
        self._writing: list[_Proposal] = []
        self._wake = asyncio.Event()
        self._watchers = Watchers()
        self._closing = False
        self._failure: Exception | None = None
        self._has_failed = asyncio.Event()
        # Where the journal is long enough for a snapshot: by its last index, or by the size of its file.
        self._compact_index_at = (
            store.snapshot.last_index if store.snapshot else 0
        ) + options.compact_entries
        self._compact_bytes_at = options.compact_bytes
        # This object is the owner that a task must have: `close` awaits it.
        self._task: asyncio.Task[None] = asyncio.Task(self._run(), name="metadata log")

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
        options: SoloOptions | None = None,
    ) -> SoloMetadataLog:
        """The log in a broker's data directory, `<directory>/metadata`, in a new term.

        A data directory that never had metadata is formatted: it becomes a cluster of its own, with this
        broker and its disk as the voter. Raises NotADataDirectory (of another broker; or its logs are there
        and its metadata are not), StorageFailed (the disk failed, or what was durable is damaged),
        StorageFull, UnsupportedFormat.
        """
        opened: list[Store] = []  # kept beside the answer: one that is cancelled is closed all the same
        voter, cluster_id = Voter(broker_id, directory_id), new_id()
        try:
            image = await run_blocking(lambda: _start(files, directory, voter, cluster_id, opened))
        except BaseException:  # whatever it was, the descriptor is given back; re-raised
            for store in opened:
                store.journal.abandon()
            raise
        return cls(
            opened[0],
            image,
            new_id(),
            broker_id=broker_id,
            run_blocking=run_blocking,
            options=options or SoloOptions(),
        )

    # --- the port ---------------------------------------------------------------------------------------

    @property
    def image(self) -> MetadataImage:
        return self._image

    @property
    def term(self) -> int:
        return self._store.journal.term

    @property
    def leader(self) -> int | None:
        return self._broker_id

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
        proposal: _Proposal | None = None
        try:
            async with asyncio.timeout(timeout):
                await self._room.acquire()
                try:
                    proposal = self._enqueue(envelope())
                except BaseException:  # whatever it was, its room is free again; re-raised
                    self._room.release()
                    raise
                return await asyncio.shield(proposal.outcome)
        except TimeoutError:
            return self._give_up(proposal, sequence, timeout)
        except CommandTooLarge as error:
            return NotApplied(str(error))
        except asyncio.CancelledError:
            self._give_up(proposal, sequence, timeout)
            raise

    async def barrier(self, timeout: float) -> int:
        # Alone, a voter has applied whatever anybody was told of.
        if self._failure is not None:
            raise MetadataLogFailed(str(self._failure))
        return self._image.version

    def subscribe(self, callback: Callable[[MetadataImage], None]) -> Callable[[], None]:
        return self._watchers.add(callback)

    def committed(self, from_index: int) -> Iterator[CommittedEntry]:
        journal = self._store.journal
        if from_index < journal.first_index:
            raise LookupError(f"entries begin at {journal.first_index}, not {from_index}")
        through = self._image.version  # the disk's thread may be appending more
        return (
            CommittedEntry(entry.index, entry.term, decode(entry.data))
            for entry in journal.entries(from_index)
            if entry.kind is not EntryKind.NO_OP and entry.index <= through
        )

    def snapshot(self) -> Snapshot:
        return _snapshot(self._store, self._image)

    def look_elsewhere(self) -> None:
        """There is nowhere else."""

    async def failed(self) -> None:
        await self._has_failed.wait()
        raise MetadataLogFailed(str(self._failure)) from self._failure

    async def close(self) -> None:
        self._closing = True
        self._wake.set()
        await asyncio.wait([self._task])
        self._refuse_queue("the metadata log is closed")
        journal = self._store.journal
        await self._run_blocking(journal.close if self._failure is None else journal.abandon)

    # --- proposals --------------------------------------------------------------------------------------

    def _enqueue(self, envelope: Envelope) -> _Proposal:
        proposal = _Proposal(envelope, encode(envelope), asyncio.get_running_loop().create_future())
        proposal.outcome.add_done_callback(lambda _: self._room.release())
        if self._closing:
            proposal.settle(NotApplied("the metadata log is closed"))
        elif self._failure is not None:
            proposal.settle(NotApplied(f"the metadata log has failed: {self._failure}"))
        elif isinstance(envelope.command, AddVoter | RemoveVoter):
            proposal.settle(NotApplied("this broker runs as the only voter: voters change in a group"))
        else:
            self._queue.append(proposal)
            self._wake.set()
        return proposal

    def _give_up(self, proposal: _Proposal | None, sequence: int, timeout: float) -> ProposeOutcome:
        """Nobody waits for it any more: what is still in line is taken out of it."""
        if proposal is None or proposal in self._queue:
            if proposal is not None:
                self._queue.remove(proposal)
                proposal.settle(NotApplied("withdrawn"))
            return NotApplied(f"its turn did not come within {timeout} s")
        if proposal.outcome.done():
            return proposal.outcome.result()
        return Unknown(f"no outcome within {timeout} s", sequence)

    def _refuse_queue(self, reason: str) -> None:
        while self._queue:
            self._queue.popleft().settle(NotApplied(reason))

    # --- the task ---------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._queue:
                    await self._commit()
                    await self._compact_if_due()
                if self._closing:
                    return
        except BaseException as error:  # the task's root: whatever it was, the process has to end
            self._fail(error)
            if isinstance(error, asyncio.CancelledError):
                raise

    async def _commit(self) -> None:
        """Everything in line, in one write and one sync."""
        self._writing = list(self._queue)
        self._queue.clear()
        first = self._store.journal.last_index + 1
        entries = [
            Entry(index, self.term, EntryKind.COMMAND, proposal.data)
            for index, proposal in enumerate(self._writing, start=first)
        ]
        try:
            await self._run_blocking(lambda: _append(self._store, entries))
        except StorageFull as error:
            for proposal in self._writing:
                proposal.settle(NotApplied(str(error)))
            self._writing = []
            return
        results = self._apply(entries)
        self._watchers.tell(self._image)
        for proposal, entry, result in zip(self._writing, entries, results, strict=True):
            proposal.settle(Ok(entry.index, result))
        self._writing = []

    def _apply(self, entries: list[Entry]) -> list[CommandResult]:
        image, results = self._image, []
        for entry in entries:  # from their bytes, as every later start will
            image, result = apply(image, entry.index, decode(entry.data))
            results.append(result)
        self._image = image
        return results

    async def _compact_if_due(self) -> None:
        store, options, image = self._store, self._options, self._image
        if (
            store.journal.last_index <= self._compact_index_at
            and store.journal.size_bytes <= self._compact_bytes_at
        ):
            return
        try:
            await self._run_blocking(lambda: store.compact(_snapshot(store, image)))
            self._compact_index_at = image.version + options.compact_entries
        except (OSError, StorageFull) as error:
            event(_log, logging.WARNING, "metadata_not_compacted", error=str(error))
            self._compact_index_at = image.version + options.compact_entries // COMPACT_RETRIES
        # The journal keeps what lies after the snapshot before: by that much it is long at its shortest.
        self._compact_bytes_at = store.journal.size_bytes + options.compact_bytes

    def _fail(self, error: BaseException) -> None:
        """Rule 40: what was being written may be there or not, and nothing is written after it."""
        self._failure = error if isinstance(error, Exception) else MetadataLogFailed(repr(error))
        event(_log, logging.CRITICAL, "metadata_log_failed", error=str(error))
        for proposal in self._writing:
            proposal.settle(Unknown(f"the metadata log failed: {error}", proposal.envelope.sequence))
        self._writing = []
        self._refuse_queue(f"the metadata log has failed: {error}")
        self._has_failed.set()


# --- off the loop ----------------------------------------------------------------------------------------


def _start(
    files: Files, directory: Path, voter: Voter, cluster_id: bytes, opened: list[Store]
) -> MetadataImage:
    try:
        if not is_formatted(files, directory):
            _format(files, directory, voter, cluster_id)
        store = Store.open(files, directory)
        opened.append(store)
        image = _replayed(store)
        if [(known.broker_id, known.directory_id) for known in image.voters.values()] != [
            (voter.broker_id, voter.directory_id)
        ]:
            stated = ", ".join(
                f"broker {v.broker_id} of directory {v.directory_id}" for v in image.voters.values()
            )
            raise NotADataDirectory(
                path=str(directory),
                reason=f"its metadata belong to {stated}, not to broker {voter.broker_id} of directory"
                f" {voter.directory_id}",
            )
        term = max(store.journal.term, image.controller_epoch) + 1
        store.journal.set_term(term, str(voter.broker_id))
    except (JournalDamaged, JournalFailed) as error:
        raise StorageFailed(path=str(directory), reason=str(error)) from None
    except OSError as error:
        if error.errno in DISK_FULL:
            raise StorageFull(path=str(directory)) from None
        raise StorageFailed(path=str(directory), reason=str(error)) from None
    _tell(store)
    return image


def _format(files: Files, directory: Path, voter: Voter, cluster_id: bytes) -> None:
    """The explicit first step of a cluster. Not for a data directory that has lost its metadata: its logs
    would be nobody's, and would be removed.
    """
    partitions = directory / PARTITIONS
    if files.exists(partitions) and files.list(partitions):
        raise NotADataDirectory(path=str(directory), reason="it has partitions, and its metadata are gone")
    command = InitCluster(cluster_id, (voter,))
    first = encode(Envelope(cluster_id, 1, 0, command))
    format_directory(files, directory, first, term=1, vote=str(voter.broker_id))


def _replayed(store: Store) -> MetadataImage:
    """The image that snapshot and journal make: alone, a voter has committed all of it."""
    image = EMPTY
    if store.snapshot is not None:
        try:
            image = decode_snapshot(store.snapshot.data)
        except ValueError as error:
            raise UnsupportedFormat(what=f"{store.home}: {error}") from None
        assert image.version == store.snapshot.last_index, "a snapshot is named by what it has"
    for entry in store.journal.entries(image.version + 1):
        if entry.kind is not EntryKind.NO_OP:
            image, _ = apply(image, entry.index, decode(entry.data))
    return image


def _append(store: Store, entries: list[Entry]) -> None:
    store.journal.append(entries)
    store.journal.sync()
    store.journal.note_commit(entries[-1].index)


def _snapshot(store: Store, image: MetadataImage) -> Snapshot:
    term = store.journal.term_at(image.version)
    assert term is not None, "the journal has what was applied last, or begins behind it"
    return Snapshot(image.version, term, encode_snapshot(image))


def _tell(store: Store) -> None:
    if store.journal.cut_bytes:
        event(_log, logging.WARNING, "metadata_journal_cut", cut_bytes=store.journal.cut_bytes)
    if store.damaged_snapshots:
        event(_log, logging.ERROR, "metadata_snapshots_damaged", last_indexes=list(store.damaged_snapshots))
