"""The cluster's metadata for the rest of this broker: the image, and changes that wait for their result."""

from __future__ import annotations

from typing import Final, Protocol

from millpond.wire.errors import BrokerNotReady, OperationTimeout
from millpond_broker.consensus.metadata_log import MetadataLog, NotApplied, Unknown
from millpond_broker.core.commands import Command
from millpond_broker.core.image import MetadataImage
from millpond_broker.core.results import Refused

PROPOSE_SECONDS_MAX: Final = 10.0
"""How long a change of metadata may take before its outcome is unknown."""


class Proposing(Protocol):
    """What others need of it."""

    @property
    def image(self) -> MetadataImage:
        """The latest one here."""

    async def propose(self, command: Command, timeout: float = PROPOSE_SECONDS_MAX) -> object:
        """The value that applying the command gave. Raises what it was refused with, BrokerNotReady when
        nothing can be applied now, OperationTimeout when it may or may not have been applied.
        """


class Metadata:
    """Implements Proposing over this broker's own metadata log."""

    def __init__(self, log: MetadataLog) -> None:
        self._log = log

    @property
    def image(self) -> MetadataImage:
        """The latest one here."""
        return self._log.image

    async def propose(self, command: Command, timeout: float = PROPOSE_SECONDS_MAX) -> object:
        """As `Proposing` says."""
        outcome = await self._log.propose(command, timeout)
        match outcome:
            case NotApplied(reason):
                raise BrokerNotReady(reason=f"metadata cannot change: {reason}")
            case Unknown(_):
                raise OperationTimeout(what=type(command).__name__, timeout=timeout)
        if isinstance(outcome.result, Refused):
            raise outcome.result.error
        return outcome.result.value
