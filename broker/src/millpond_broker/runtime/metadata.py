"""The cluster's metadata for the rest of this broker: the image, and changes that wait for their result.

A change goes to the controller, wherever it is: to this broker's own log while that leads the voters, else as
a question to the one that does (DESIGN §7). It is proposed in this start's own name and under one sequence,
through lost streams, unknown outcomes and changes of controller, so that it counts once; under a new one only
where it was refused for an epoch of a controller that had been deposed meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from millpond.wire.errors import BrokerNotReady, FencedEpoch, OperationTimeout
from millpond_broker.consensus.codec import CommandTooLarge
from millpond_broker.consensus.metadata_log import (
    PROPOSALS_IN_FLIGHT_MAX,
    MetadataLog,
    NotApplied,
    Ok,
    ProposeOutcome,
    Unknown,
)
from millpond_broker.core.commands import Command, Envelope
from millpond_broker.core.image import MetadataImage
from millpond_broker.core.results import Refused
from millpond_broker.observe.logs import event
from millpond_broker.runtime.asking import Line, Target, Unanswered
from millpond_broker.runtime.control_messages import Propose, Proposed
from millpond_broker.runtime.peers import PeerStreams

_log: Final = logging.getLogger(__name__)

PROPOSE_SECONDS_MAX: Final = 10.0
"""How long a change of metadata may take before its outcome is unknown."""
RETRY_SECONDS: Final = 0.1
"""After an attempt that came to nothing; a new controller is tried at once."""
ATTEMPT_SECONDS_MAX: Final = 3.0
"""For one question to a controller that may have gone without a word."""


class Proposing(Protocol):
    """What others need of it."""

    @property
    def image(self) -> MetadataImage:
        """The latest one here."""

    async def propose(self, command: Command, timeout: float = PROPOSE_SECONDS_MAX) -> object:
        """The value that applying the command gave; the image here has it by then. Raises what it was refused
        with, BrokerNotReady when nothing can be applied now, OperationTimeout when it may or may not have
        been applied.
        """


class Deposed(Exception):
    """This broker is not the controller of that epoch any more."""


class Metadata:
    """Implements Proposing: over this broker's metadata log, and by questions to who leads the voters."""

    def __init__(
        self, log: MetadataLog, broker_id: int, incarnation: bytes, streams: PeerStreams | None
    ) -> None:
        """`incarnation`: of this start; its name as a proposer. `streams` None: there are no others."""
        self.log: Final = log
        self._broker_id = broker_id
        self._proposer = incarnation
        self._line = None if streams is None else Line(streams, self.controller_elsewhere)
        # A result is remembered for as many sequences: no proposal in flight is further behind the latest.
        self._in_flight: dict[int, None] = {}
        self._next_sequence = 1
        # Each event is used once: whoever waits holds the one that the next change sets.
        self._changed = asyncio.Event()
        self._end = log.subscribe(self._follow)

    @property
    def image(self) -> MetadataImage:
        """The latest one here."""
        return self.log.image

    def subscribe(self, callback: Callable[[MetadataImage], None]) -> Callable[[], None]:
        """As `MetadataLog.subscribe`."""
        return self.log.subscribe(callback)

    async def close(self) -> None:
        """Ask nobody any more. The log is still the caller's."""
        self._end()
        if self._line is not None:
            await self._line.close()

    def controller_elsewhere(self) -> Target | None:
        """Where the broker that leads the voters is reached; None if that is this one, or nobody knows."""
        leader = self.log.leader
        address = None if leader is None or leader == self._broker_id else self.address_of(leader)
        return None if leader is None or address is None else Target(leader, address)

    def address_of(self, broker_id: int) -> str | None:
        """Where other brokers reach it, as it last registered, or was formatted as a voter."""
        broker, voter = self.image.brokers.get(broker_id), self.image.voters.get(broker_id)
        return (broker.peer_address if broker else "") or (voter.address if voter else "") or None

    async def wait(self, until: Callable[[MetadataImage], bool]) -> MetadataImage:
        """The first image here of which that holds. The caller has the deadline."""
        while not until(self.image):
            await self._changed.wait()
        return self.image

    async def _reached(self, version: int) -> None:
        await self.wait(lambda image: image.version >= version)

    def _follow(self, _image: MetadataImage) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        if self._line is not None:
            self._line.follow()

    # --- proposing --------------------------------------------------------------------------------------

    async def propose(self, command: Command, timeout: float = PROPOSE_SECONDS_MAX) -> object:
        """As `Proposing` says."""
        attempts = _Attempts(type(command).__name__, timeout)
        try:
            async with asyncio.timeout(timeout):
                while True:
                    envelope = await self._named(command, None)
                    try:
                        outcome = await self._until_settled(envelope, attempts)
                        attempts.is_under_way = True  # done, and not seen here yet
                        await self._reached(outcome.index)
                    finally:
                        self._settled(envelope.sequence)
                    if not self._was_stale(outcome, envelope):
                        return _value(outcome)
                    attempts.is_under_way = attempts.is_unknown = False  # refused, for good
        except TimeoutError:
            raise attempts.error() from None

    async def propose_as_controller(self, command: Command, epoch: int, timeout: float) -> object:
        """The same, of the controller of that epoch: proposed here or not at all. Raises Deposed too."""
        attempts = _Attempts(type(command).__name__, timeout)
        try:
            async with asyncio.timeout(timeout):
                envelope = await self._named(command, epoch)
                try:
                    while self.log.term == epoch:
                        attempts.is_under_way = True
                        outcome = await self.log.propose_for(envelope, timeout)
                        if isinstance(outcome, Ok):
                            return _value(outcome)
                        attempts.note(outcome)
                        if isinstance(outcome, NotApplied) and self.log.term == epoch:
                            raise attempts.error()
                finally:
                    self._settled(envelope.sequence)
        except TimeoutError:
            raise attempts.error() from None
        raise Deposed(f"broker {self._broker_id} led in term {epoch}, and is in {self.log.term or 'none'}")

    async def _named(self, command: Command, epoch: int | None) -> Envelope:
        while (
            self._in_flight and self._next_sequence - next(iter(self._in_flight)) >= PROPOSALS_IN_FLIGHT_MAX
        ):
            await self._changed.wait()
        sequence = self._next_sequence
        self._next_sequence += 1
        self._in_flight[sequence] = None
        epoch = self.image.controller_epoch if epoch is None else epoch
        return Envelope(self._proposer, sequence, epoch, command)

    def _settled(self, sequence: int) -> None:
        del self._in_flight[sequence]
        self._changed.set()
        self._changed = asyncio.Event()

    def _was_stale(self, outcome: Ok, envelope: Envelope) -> bool:
        """Whether it was refused for nothing but the epoch of a controller that had been deposed."""
        error = outcome.result.error if isinstance(outcome.result, Refused) else None
        return (
            isinstance(error, FencedEpoch)
            and error.epoch == envelope.controller_epoch
            and envelope.controller_epoch < self.image.controller_epoch
        )

    async def _until_settled(self, envelope: Envelope, attempts: _Attempts) -> Ok:
        """Raises BrokerNotReady, OperationTimeout where whoever leads says that it cannot."""
        while True:
            changed = self._changed
            attempts.is_under_way = True
            if self.log.term:
                term = self.log.term
                outcome = await self.log.propose_for(envelope, attempts.timeout)
                is_final = self.log.term == term
            else:
                outcome, is_final = await self._ask(envelope, attempts)
            if isinstance(outcome, Ok):
                return outcome
            attempts.note(outcome)
            if is_final and isinstance(outcome, NotApplied):
                raise attempts.error()
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await changed.wait()

    async def _ask(self, envelope: Envelope, attempts: _Attempts) -> tuple[ProposeOutcome, bool]:
        """What whoever leads the voters says, and whether it did lead then."""
        asked = self.controller_elsewhere()
        if self._line is None or asked is None:
            return NotApplied("nobody is known to lead the voters"), False
        seconds = min(attempts.timeout, ATTEMPT_SECONDS_MAX)
        try:
            reply = await self._line.ask(Propose(envelope, int(seconds * 1000)), seconds)
        except Unanswered as error:
            if error.was_asked:
                self._line.hang_up()  # it may hang; others that wait on it try again, too
                return Unknown(str(error), envelope.sequence), False
            return NotApplied(str(error)), False
        except CommandTooLarge as error:
            return NotApplied(str(error)), True
        if not isinstance(reply, Proposed):
            event(_log, logging.WARNING, "not_proposed", broker=asked.broker_id, reply=str(reply))
            return Unknown(str(reply), envelope.sequence), False
        return reply.outcome, reply.leader == asked.broker_id


class _Attempts:
    """What became of a proposal so far, and what is raised if nothing more does."""

    def __init__(self, what: str, timeout: float) -> None:
        self.timeout: Final = timeout
        self.is_unknown = False
        self.is_under_way = False
        self._what = what
        self._reason = f"no outcome within {timeout} s"

    def note(self, outcome: NotApplied | Unknown) -> None:
        self._reason = outcome.reason
        self.is_under_way = False
        self.is_unknown |= isinstance(outcome, Unknown)

    def error(self) -> BrokerNotReady | OperationTimeout:
        if self.is_unknown or self.is_under_way:
            return OperationTimeout(what=self._what, timeout=self.timeout)
        return BrokerNotReady(reason=f"metadata cannot change: {self._reason}")


def _value(outcome: Ok) -> object:
    if isinstance(outcome.result, Refused):
        raise outcome.result.error
    return outcome.result.value
