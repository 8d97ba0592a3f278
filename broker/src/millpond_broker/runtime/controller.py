"""This broker's turns as the controller: it claims, hears who is alive, and proposes what the planner says.

The controller's epoch is the term that it claimed by a replicated command, and every command carries it, so
that one who has been deposed changes nothing (DESIGN §7). Each claim begins anew, with nothing known but the
image: who is alive is probed, and heard (rule 39).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from millpond.wire.errors import MillpondError
from millpond_broker.core.commands import FEATURE_LEVEL, ClaimController, Command
from millpond_broker.core.controller import PlanOptions, plan
from millpond_broker.core.image import MetadataImage
from millpond_broker.core.sessions import Heard, Heartbeat, Probe, SessionOptions, Sessions
from millpond_broker.observe.logs import event
from millpond_broker.runtime.asking import Target, Unanswered, ask_once
from millpond_broker.runtime.control_messages import Beat, Beaten, Here, Who
from millpond_broker.runtime.digests import Digests
from millpond_broker.runtime.metadata import PROPOSE_SECONDS_MAX, Deposed, Metadata
from millpond_broker.runtime.peers import PeerStreams
from millpond_broker.runtime.ports import Clock

_log: Final = logging.getLogger(__name__)

RETRY_SECONDS: Final = 0.5
"""After a command that failed: soon enough for whoever waits for a leader, seldom enough for the log."""
LOOK_SECONDS: Final = 1.0
"""How often the planner looks by itself: what it waits for takes seconds."""
PLAN_SHARE: Final = 4
"""Planning waits for three times as long as it took: a quarter of the loop's time at most."""
DRAIN_TURNS: Final = 3
"""Of the loop, for heartbeats that have arrived and were not told yet, before a session is ended: bytes to
message, message to stream, stream to controller."""


@dataclass(frozen=True, kw_only=True)
class Seat:
    """Whose turns these are, and what it goes by. `streams` None: there is nobody else."""

    metadata: Metadata
    broker_id: int
    incarnation: bytes
    clock: Clock
    streams: PeerStreams | None
    sessions: SessionOptions = field(default_factory=SessionOptions)
    plan: PlanOptions = field(default_factory=PlanOptions)


class Controller:
    """`run` is its task."""

    def __init__(self, seat: Seat, digests: Digests) -> None:
        self._seat = seat
        self._metadata = seat.metadata
        self._digests = digests
        self._reign: _Reign | None = None

    @property
    def is_controller(self) -> bool:
        """Whether it leads the voters and has claimed that."""
        return self._reign is not None and self._reign.is_claimed

    async def run(self) -> None:
        """Control until cancelled, whenever it is this broker's turn."""
        log = self._metadata.log
        while True:
            await self._metadata.wait(lambda _image: log.term > 0)
            term = log.term
            reign = _Reign(self._seat, term)
            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(reign.run(), name=f"controller of term {term}")
                self._reign = reign
                try:
                    await self._metadata.wait(lambda _image, term=term: log.term != term)  # type: ignore[misc]  # bound now
                finally:
                    self._reign = None
                    task.cancel()

    # --- what brokers say to it -------------------------------------------------------------------------

    def beat(self, beat: Beat) -> Beaten:
        """A broker's heartbeat."""
        log, image, reign = self._metadata.log, self._metadata.image, self._reign
        if reign is None or not reign.is_claimed:
            return Beaten(None, image.controller_epoch, image.version, log.leader)
        heard = reign.heard(beat.heartbeat)
        differs = False
        if beat.digest and beat.heartbeat.applied_index == image.version:
            own = self._digests.of(image)
            differs = bool(own) and own != beat.digest
        everywhere = reign.everywhere(beat.heartbeat.broker_id)
        return Beaten(heard, image.controller_epoch, image.version, log.leader, everywhere, differs)

    def connection_closed(self, broker_id: int) -> None:
        """A stream by which that broker sent heartbeats is over."""
        if self._reign is not None and self._reign.is_claimed:
            self._reign.connection_closed(broker_id)


class _Reign:
    """One claim, and all that ends with it."""

    def __init__(self, seat: Seat, epoch: int) -> None:
        self.is_claimed = False
        self._seat = seat
        self._metadata = seat.metadata
        self._epoch = epoch
        self._wake = asyncio.Event()
        self._sessions = Sessions(seat.sessions, self._metadata.image, self._now_ms())
        self._followed = self._metadata.image
        self._tasks = asyncio.TaskGroup()

    def _now_ms(self) -> int:
        return int(self._seat.clock.monotonic() * 1000)

    async def run(self) -> None:
        """Until cancelled."""
        unsubscribe = self._metadata.subscribe(self._follow)
        try:
            await self._claim()
            self._sessions = Sessions(self._seat.sessions, self._metadata.image, self._now_ms())
            self._followed = self._metadata.image
            self.is_claimed = True
            level = logging.DEBUG if self._seat.streams is None else logging.INFO
            event(_log, level, "controller", broker=self._seat.broker_id, epoch=self._epoch)
            async with self._tasks:
                for probe in self._sessions.claimed(self._now_ms()):
                    self._probe(probe)
                self._tasks.create_task(self._tick(), name="sessions")
                self._tasks.create_task(self._plan(), name="planner")
        except* Deposed:
            pass  # who follows the term sees it, too
        finally:
            self.is_claimed = False
            unsubscribe()

    async def _claim(self) -> None:
        command = ClaimController(broker_id=self._seat.broker_id, term=self._epoch)
        while not await self._try(command) and not self._is_in_force():  # noqa: ASYNC110 - nothing tells when
            await asyncio.sleep(RETRY_SECONDS)

    def _is_in_force(self) -> bool:
        """Whether the image has this claim: one whose outcome was not heard may have been applied."""
        image = self._metadata.image
        return (image.controller_id, image.controller_epoch) == (self._seat.broker_id, self._epoch)

    def _follow(self, _image: MetadataImage) -> None:
        self._wake.set()

    def _catch_up(self) -> None:
        """Let sessions know the latest image."""
        if self._metadata.image is not self._followed:
            self._followed = self._metadata.image
            self._sessions.follow(self._followed, self._now_ms())

    # --- who is alive -----------------------------------------------------------------------------------

    def heard(self, heartbeat: Heartbeat) -> Heard:
        """A heartbeat has come."""
        self._catch_up()
        before = self._sessions.open.get(heartbeat.broker_id)
        heard = self._sessions.heard(heartbeat, self._now_ms())
        is_news = before is None or not before.is_heard or before.feature_level != heartbeat.feature_level
        if is_news or heard is Heard.FENCED or self._followed.feature_level < FEATURE_LEVEL:
            self._wake.set()
        return heard

    def everywhere(self, asker: int) -> int:
        """The version that all have who are alive, but for the asker."""
        applied = [session.applied_index for key, session in self._sessions.open.items() if key != asker]
        return min(applied, default=self._metadata.image.version)

    def connection_closed(self, broker_id: int) -> None:
        """Find out why."""
        self._catch_up()
        probe = self._sessions.connection_closed(broker_id, self._now_ms())
        if probe is not None:
            self._probe(probe)

    def _probe(self, probe: Probe) -> None:
        self._tasks.create_task(self._find(probe), name=f"probe of broker {probe.broker_id}")

    async def _find(self, probe: Probe) -> None:
        incarnation = await self._incarnation_of(probe)
        self._sessions.probed(probe, incarnation, self._now_ms())
        if incarnation != probe.incarnation:
            event(_log, logging.INFO, "broker_gone", broker=probe.broker_id, epoch=probe.broker_epoch)
            self._wake.set()

    async def _incarnation_of(self, probe: Probe) -> bytes | None:
        """Who accepts a connection as that broker, and answers; None: nobody in time."""
        if probe.broker_id == self._seat.broker_id:
            return self._seat.incarnation
        address = self._metadata.address_of(probe.broker_id)
        if self._seat.streams is None or address is None:
            return None
        seconds = self._seat.sessions.probe_ms / 1000
        try:
            reply = await ask_once(self._seat.streams, Target(probe.broker_id, address), Who(), seconds)
        except Unanswered:
            return None
        return reply.incarnation if isinstance(reply, Here) else None

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._seat.sessions.tick_ms / 1000)
            for _ in range(DRAIN_TURNS):
                await asyncio.sleep(0)
            self._catch_up()
            for broker_id in self._sessions.tick(self._now_ms()):
                event(_log, logging.INFO, "broker_silent", broker=broker_id)
                self._wake.set()

    # --- what is to be done -----------------------------------------------------------------------------

    async def _plan(self) -> None:
        while True:
            started = self._seat.clock.monotonic()
            self._wake.clear()
            self._catch_up()
            commands = plan(self._followed, self._sessions.open, self._now_ms(), self._seat.plan)
            took = self._seat.clock.monotonic() - started
            try:
                results = [await self._try(command) for command in commands]
            except Deposed:
                return  # not raised: whoever follows the term ends the rest
            await asyncio.sleep(took * (PLAN_SHARE - 1) if all(results) else RETRY_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._wake.wait()

    async def _try(self, command: Command) -> bool:
        """A command that fails is planned anew from the image that there is then. Raises Deposed."""
        try:
            refused = await self._metadata.propose_as_controller(command, self._epoch, PROPOSE_SECONDS_MAX)
        except MillpondError as error:
            event(_log, logging.WARNING, "not_controlled", command=type(command).__name__, error=str(error))
            return False
        if isinstance(refused, tuple) and refused:
            first = refused[0].refused.error
            event(
                _log,
                logging.INFO,
                "not_all_controlled",
                command=type(command).__name__,
                refused=len(refused),
                first=str(first),
            )
            return False
        return True
