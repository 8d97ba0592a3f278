"""This broker's turn as the controller: what the planner says is proposed, and who resigns is replaced.

The controller's epoch is the term that it claimed by a replicated command, and every command carries it, so
that one who has been deposed changes nothing (DESIGN §7).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

from millpond.wire.errors import BrokerNotReady, MillpondError, OperationTimeout
from millpond_broker.consensus.metadata_log import MetadataLog, NotApplied, Unknown
from millpond_broker.core.commands import ChangePartitions, Command, PartitionChange
from millpond_broker.core.controller import plan
from millpond_broker.core.image import MetadataImage
from millpond_broker.core.results import Refused
from millpond_broker.core.sessions import Session
from millpond_broker.observe.logs import event
from millpond_broker.runtime.partition import Partition
from millpond_broker.runtime.ports import Clock

_log: Final = logging.getLogger(__name__)

PROPOSE_SECONDS_MAX: Final = 10.0
"""How long a change of metadata may take before its outcome is unknown."""
RETRY_SECONDS: Final = 1.0
"""After a command that failed: soon enough for whoever waits for a leader, seldom enough for the log."""


async def propose(log: MetadataLog, command: Command) -> object:
    """The value that applying the command gave. Raises what it was refused with, BrokerNotReady when nothing
    can be applied now, OperationTimeout when it may or may not have been applied.
    """
    outcome = await log.propose(command, PROPOSE_SECONDS_MAX)
    match outcome:
        case NotApplied(reason):
            raise BrokerNotReady(reason=f"metadata cannot change: {reason}")
        case Unknown(_):
            raise OperationTimeout(what=type(command).__name__, timeout=PROPOSE_SECONDS_MAX)
    if isinstance(outcome.result, Refused):
        raise outcome.result.error
    return outcome.result.value


class Controller:
    """Plans and proposes. `run` is its task."""

    def __init__(self, log: MetadataLog, broker_id: int, clock: Clock) -> None:
        self._metadata = log
        self._broker_id = broker_id
        self._clock = clock
        self._wake = asyncio.Event()
        # Partitions whose leadership must end before it goes on: at most those of this broker.
        self._resigning: dict[Partition, None] = {}

    def follow(self, _image: MetadataImage) -> None:
        """There is a newer image, and perhaps something to do."""
        self._wake.set()

    def resign(self, partition: Partition) -> None:
        """This broker's own leadership of the partition is over: another epoch has to begin."""
        self._resigning[partition] = None
        self._wake.set()

    async def run(self) -> None:
        """Control until cancelled."""
        is_done = True
        while True:
            # What failed (a journal without room) changes no image, which would wake this.
            with suppress(TimeoutError):
                async with asyncio.timeout(None if is_done else RETRY_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            resigning, self._resigning = self._resigning, {}
            commands: list[Command] = list(self._resignations(resigning))
            commands += plan(self._metadata.image, self._live(), self._clock.now_ms())
            is_done = all([await self._try(command) for command in commands])

    def _live(self) -> dict[int, Session]:
        """A broker alone is alive."""
        broker = self._metadata.image.brokers.get(self._broker_id)
        return {} if broker is None else {self._broker_id: Session(broker.epoch, opened_at_ms=0)}

    def _resignations(self, resigning: dict[Partition, None]) -> list[Command]:
        changes = []
        for partition in resigning:
            topic = self._metadata.image.topics.get(partition.topic_id)
            if topic is None:
                continue
            state = topic.partitions[partition.name.partition]
            if state.leader != self._broker_id:
                continue
            changes.append(
                PartitionChange(
                    topic_id=partition.topic_id,
                    partition=partition.name.partition,
                    leader=None,
                    leader_epoch=state.leader_epoch,
                    isr=state.isr,
                    elr=state.elr,
                    partition_epoch_seen=state.partition_epoch,
                )
            )
        return [ChangePartitions(changes=tuple(changes))] if changes else []

    async def _try(self, command: Command) -> bool:
        """A command that fails is planned anew from the image that there is then."""
        try:
            await propose(self._metadata, command)
        except MillpondError as error:
            event(_log, logging.WARNING, "not_controlled", command=type(command).__name__, error=str(error))
            return False
        return True
