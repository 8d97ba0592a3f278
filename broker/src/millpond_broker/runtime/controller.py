"""This broker's turn as the controller: what the planner says is proposed.

The controller's epoch is the term that it claimed by a replicated command, and every command carries it, so
that one who has been deposed changes nothing (DESIGN §7).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

from millpond.wire.errors import MillpondError
from millpond_broker.core.commands import Command
from millpond_broker.core.controller import plan
from millpond_broker.core.image import MetadataImage
from millpond_broker.core.sessions import Session
from millpond_broker.observe.logs import event
from millpond_broker.runtime.metadata import Proposing
from millpond_broker.runtime.ports import Clock

_log: Final = logging.getLogger(__name__)

RETRY_SECONDS: Final = 1.0
"""After a command that failed: soon enough for whoever waits for a leader, seldom enough for the log."""


class Controller:
    """Plans and proposes. `run` is its task."""

    def __init__(self, metadata: Proposing, broker_id: int, clock: Clock) -> None:
        self._metadata = metadata
        self._broker_id = broker_id
        self._clock = clock
        self._wake = asyncio.Event()

    def follow(self, _image: MetadataImage) -> None:
        """There is a newer image, and perhaps something to do."""
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
            commands = plan(self._metadata.image, self._live(), self._clock.now_ms())
            is_done = all([await self._try(command) for command in commands])

    def _live(self) -> dict[int, Session]:
        """A broker alone is alive."""
        broker = self._metadata.image.brokers.get(self._broker_id)
        return {} if broker is None else {self._broker_id: Session(broker.epoch, opened_at_ms=0)}

    async def _try(self, command: Command) -> bool:
        """A command that fails is planned anew from the image that there is then."""
        try:
            await self._metadata.propose(command)
        except MillpondError as error:
            event(_log, logging.WARNING, "not_controlled", command=type(command).__name__, error=str(error))
            return False
        return True
