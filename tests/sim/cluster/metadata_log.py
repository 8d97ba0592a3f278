"""`MetadataLog` of one broker's process, over the model of the voters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from millpond.wire.errors import BrokerNotReady, OperationTimeout
from millpond_broker.consensus import codec
from millpond_broker.consensus.metadata_log import (
    CommittedEntry,
    NotApplied,
    Ok,
    ProposeOutcome,
    Unknown,
)
from millpond_broker.consensus.snapshots import Snapshot
from millpond_broker.core.commands import Barrier, Command, Envelope
from millpond_broker.core.image import MetadataImage, apply
from tests.sim.cluster.metadata import Pending, Voters, committed_entry
from tests.sim.loop import Owner


class SimMetadataLog:
    """See the module. Made in the process, by what the broker calls to open its metadata."""

    def __init__(self, voters: Voters, owner: Owner, broker_id: int, proposer: bytes) -> None:
        self.owner = owner
        self._voters = voters
        self._broker_id = broker_id
        self._proposer = proposer
        self._image = voters.kept_by(broker_id)
        self._term = 0
        self._leader: int | None = None
        self._next_sequence = 1
        self._callbacks: dict[object, Callable[[MetadataImage], None]] = {}
        self._is_closed = False
        voters.joined(broker_id, self)

    # --- what the voters call ---------------------------------------------------------------------------

    @property
    def applied(self) -> int:
        return self._image.version

    def catch_up(self) -> None:
        """Apply what is committed, all of it or some."""
        if self._is_closed:
            return
        entries = self._voters.entries_after(self._image.version)
        if not entries:
            return
        image = self._image
        for entry in entries:
            image, _ = apply(image, entry.index, codec.decode(entry.data))
        self._voters.compare(image)
        self._image = image
        self._tell()

    def believe(self, term: int, leader: int | None) -> None:
        """It leads, or not, as far as it knows."""
        if self._is_closed or (term, leader) == (self._term, self._leader):
            return
        if term == 0 and self._voters.leader == self._broker_id:
            return  # it came late: it leads, or leads again
        self._term, self._leader = term, leader
        self._tell()

    def _tell(self) -> None:
        for callback in list(self._callbacks.values()):
            callback(self._image)

    # --- the port ---------------------------------------------------------------------------------------

    @property
    def image(self) -> MetadataImage:
        return self._image

    @property
    def term(self) -> int:
        return self._term

    @property
    def leader(self) -> int | None:
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
        epoch = self._image.controller_epoch if controller_epoch is None else controller_epoch
        return await self.propose_for(Envelope(self._proposer, sequence, epoch, command), timeout)

    async def propose_for(self, envelope: Envelope, timeout: float) -> ProposeOutcome:
        if self._is_closed or self.owner.is_dead:
            return NotApplied("the metadata log is closed")
        if not self._term:
            return NotApplied("this voter does not lead")
        try:
            data = codec.encode(envelope)
        except codec.CommandTooLarge as error:
            return NotApplied(str(error))
        outcome: asyncio.Future[ProposeOutcome] = asyncio.get_running_loop().create_future()

        def told(what: ProposeOutcome) -> None:
            if not outcome.done():
                outcome.set_result(what)

        pending = Pending(self._broker_id, self._term, data, told)
        self._voters.propose(pending)
        try:
            async with asyncio.timeout(timeout):
                what = await outcome
        except TimeoutError:
            return Unknown(f"no outcome within {timeout} s", envelope.sequence)
        finally:
            pending.asked = False
        return Unknown(what.reason, envelope.sequence) if isinstance(what, Unknown) else what

    async def barrier(self, timeout: float) -> int:
        outcome = await self.propose(Barrier(), timeout)
        if isinstance(outcome, Ok):
            return outcome.index
        if isinstance(outcome, NotApplied):
            raise BrokerNotReady(reason=f"no barrier: {outcome.reason}")
        raise OperationTimeout(what="barrier", timeout=timeout)

    def subscribe(self, callback: Callable[[MetadataImage], None]) -> Callable[[], None]:
        token = object()
        self._callbacks[token] = callback

        def unsubscribe() -> None:
            self._callbacks.pop(token, None)

        return unsubscribe

    def committed(self, from_index: int) -> Iterator[CommittedEntry]:
        entries = self._voters.entries_after(from_index - 1)
        return (committed_entry(entry) for entry in entries if entry.index <= self._image.version)

    def snapshot(self) -> Snapshot:
        term = max(entry.term for entry in self._voters.log if entry.index <= self._image.version)
        return Snapshot(self._image.version, term, codec.encode_snapshot(self._image))

    def look_elsewhere(self) -> None:
        """All there is, is here."""

    async def failed(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        self._is_closed = True
        self._term = 0
        if not self.owner.is_dead:
            self._voters.left(self._broker_id)
