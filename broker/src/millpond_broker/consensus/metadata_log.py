"""The port to the cluster's metadata: a log of committed commands, and the image that they make.

Whoever implements it (`solo` for one voter) promises: an image that was seen is never taken back; `Ok` only
once the command is durable on a majority of the voters and applied here; callbacks see every image in order,
on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from millpond_broker.core.commands import Command, Envelope
from millpond_broker.core.image import CommandResult, MetadataImage

PROPOSALS_IN_FLIGHT_MAX: Final = 256
"""Proposals that wait for their outcome, in one process. Each holds its bytes in memory; metadata changes
are few, and a burst of topic creations fits."""


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


class MetadataLog(Protocol):
    """See the module. All methods are for the event loop's thread."""

    @property
    def image(self) -> MetadataImage:
        """The latest one."""

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

    async def barrier(self, timeout: float) -> int:
        """The version of an image here that has everything committed before the call. Raises
        OperationTimeout.
        """

    def subscribe(self, callback: Callable[[MetadataImage], None]) -> Callable[[], None]:
        """Call `callback` with every new image, in order, on the event loop; it must not raise. What is
        returned ends that.
        """

    def committed(self, from_index: int) -> Iterator[CommittedEntry]:
        """Committed commands from an index on. Raises LookupError where that is older than the log keeps: a
        snapshot is the start then.
        """

    def snapshot(self) -> tuple[int, bytes]:
        """The index that it has everything through, and the image as bytes (`codec.decode_snapshot`)."""

    async def failed(self) -> None:
        """Wait until the log has failed. Raises MetadataLogFailed; never returns."""

    async def close(self) -> None:
        """Wait for what is under way, and give the files back. Later proposals are NotApplied."""
