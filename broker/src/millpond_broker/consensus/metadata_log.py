"""The port to the cluster's metadata: a log of committed commands, and the image that they make.

Whoever implements it (`solo` for one voter, `group` for several) promises: an image that was seen is never
taken back; `Ok` only once the command is durable on a majority of the voters and applied here, in the image
that callbacks have seen by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from millpond_broker.consensus.snapshots import Snapshot
from millpond_broker.core.commands import Command, Envelope
from millpond_broker.core.image import CommandResult, MetadataImage

PROPOSALS_IN_FLIGHT_MAX: Final = 256
"""Proposals that wait for their outcome, in one process; the next one waits for room. Each holds its bytes in
memory, and as many results are remembered of a proposer, so that any of them can be retried."""


@dataclass(frozen=True, slots=True)
class Ok:
    """Committed at `index` and applied here. The result may be a refusal."""

    index: int
    result: CommandResult


@dataclass(frozen=True, slots=True)
class NotApplied:
    """Never committed, and never will be: propose again at will."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may have been, or still be, applied. Propose again with `sequence`: it counts once."""

    reason: str
    sequence: int = 0


ProposeOutcome = Ok | NotApplied | Unknown


@dataclass(frozen=True, slots=True)
class CommittedEntry:
    """A command in the order of the log, applied or refused."""

    index: int
    term: int
    envelope: Envelope


class MetadataLogFailed(Exception):
    """The log of metadata cannot go on in this process, which has to end (rule 40)."""


class Watchers:
    """Who is called with each new image: what `MetadataLog.subscribe` promises, kept once."""

    def __init__(self) -> None:
        # One for each part of this broker that follows the metadata.
        self._callbacks: dict[object, Callable[[MetadataImage], None]] = {}

    def add(self, callback: Callable[[MetadataImage], None]) -> Callable[[], None]:
        """What is returned ends it; any number of times."""
        token = object()
        self._callbacks[token] = callback

        def end() -> None:
            self._callbacks.pop(token, None)

        return end

    def tell(self, image: MetadataImage) -> None:
        """Whoever comes or goes meanwhile counts from the next one on."""
        for callback in list(self._callbacks.values()):
            callback(image)


class MetadataLog(Protocol):
    """See the module. All methods are for the event loop's thread."""

    @property
    def image(self) -> MetadataImage:
        """The latest one."""

    @property
    def term(self) -> int:
        """The term in which this broker leads the voters, for its ClaimController; 0 while it does not."""

    @property
    def leader(self) -> int | None:
        """Which broker leads the voters, as far as is known here: where to send what is to be proposed."""

    async def propose(
        self,
        command: Command,
        timeout: float,
        *,
        sequence: int | None = None,
        controller_epoch: int | None = None,
    ) -> ProposeOutcome:
        """Replicate a command; what became of it within `timeout` seconds. `sequence`: of an Unknown, to try
        that proposal again. `controller_epoch`: what the command was decided in; None: the one in force here.
        """

    async def propose_for(self, envelope: Envelope, timeout: float) -> ProposeOutcome:
        """Replicate a command in the name of whoever proposes it: proposer, sequence and controller epoch
        stand in the envelope. NotApplied where this broker does not lead. The same envelope again counts
        once.
        """

    async def barrier(self, timeout: float) -> int:
        """The version of an image here that has everything committed before the call. Raises
        OperationTimeout, MetadataLogFailed; BrokerNotReady where this broker does not lead.
        """

    def subscribe(self, callback: Callable[[MetadataImage], None]) -> Callable[[], None]:
        """Call `callback` with each new image, in order, on the event loop, and when this broker begins or
        ends to lead; it must not raise. One image may have several commands more than the one before it. What
        is returned ends that.
        """

    def committed(self, from_index: int) -> Iterator[CommittedEntry]:
        """Committed commands from an index on, as of now. Raises LookupError where that is older than what
        the log keeps: a snapshot is the start then.
        """

    def snapshot(self) -> Snapshot:
        """The image now, as bytes for `codec.decode_snapshot`."""

    def look_elsewhere(self) -> None:
        """What is here is older than what the controller has, or it is not heard of (rule 44): look for it
        with somebody else, if there is anybody.
        """

    async def failed(self) -> None:
        """Wait until the log has failed. Raises MetadataLogFailed; never returns."""

    async def close(self) -> None:
        """Wait for what is under way, and give the files back. Later proposals are NotApplied."""
