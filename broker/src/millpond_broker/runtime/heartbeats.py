"""What a broker says to the controller to stay alive in it, and the lease that the answers give: rule 39.

Heartbeats have a control stream of their own, so that they wait behind nothing; the controller beats to
itself. They carry a digest of the image: whoever has another one than the controller, of the same version,
must not go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from millpond.wire.errors import BrokerNotReady, OperationTimeout
from millpond_broker.consensus.metadata_log import MetadataLogFailed
from millpond_broker.core.commands import FEATURE_LEVEL
from millpond_broker.core.image import BrokerImage, BrokerState, MetadataImage
from millpond_broker.core.sessions import Heard, Heartbeat
from millpond_broker.observe.logs import event
from millpond_broker.runtime.asking import Line, Unanswered
from millpond_broker.runtime.control_messages import Beat, Beaten
from millpond_broker.runtime.controller import Seat
from millpond_broker.runtime.digests import Digests
from millpond_broker.runtime.ports import Clock
from millpond_broker.runtime.touch import Touch

_log: Final = logging.getLogger(__name__)

SESSION_SECONDS: Final = 3.0
"""How long a lease is, from when the heartbeat was sent: as long as a session (`SessionOptions`)."""
LATE_SECONDS_MAX: Final = SESSION_SECONDS / 2
"""Behind the controller, or without a word of it, until this broker looks for its metadata elsewhere: what is
left of a session is enough to find them (rule 44)."""
BEAT_SECONDS: Final = 0.5
"""Between two heartbeats: some may be lost in a session."""
RETRY_SECONDS: Final = 0.1
"""After one that nobody answered, or not the controller."""
UNDER_WAY_MAX: Final = 8
"""Heartbeats without an answer yet. A slow answer is waited for, on the same stream, while others follow: to
close a stream is to be probed, and whoever is slow would fail that."""


GAP_SECONDS_MAX: Final = 0.8
"""Between two turns of the task that beats every half second. Whoever was held up for longer may have a
successor: a controller that falls silent is replaced within a second, and the next one finds out at once who
does not answer."""
UNHEARD_SECONDS_MAX: Final = 1.25
"""For who leads the voters to notice that no majority answers any more: in that time another may be elected,
so what it says to itself as the controller is no fresher."""
PROOF_SECONDS_MAX: Final = 1.0
"""For a controller to find out, after a gap, whether it still is one."""


class Behind:
    """Rule 44: for how long this broker's metadata have been older than what the controller said to have."""

    def __init__(self) -> None:
        self._awaited: tuple[int, float] | None = None  # a version that was not here yet, and since when

    def heard(self, version: int, own: int, now: float) -> None:
        """The controller has that version."""
        self._forget_if_there(own)
        if self._awaited is None and version > own:
            self._awaited = version, now

    def since(self, own: int, now: float) -> float:
        """Seconds for which it has been behind; 0: it is not."""
        self._forget_if_there(own)
        return 0.0 if self._awaited is None else now - self._awaited[1]

    def _forget_if_there(self, own: int) -> None:
        if self._awaited is not None and own >= self._awaited[0]:
            self._awaited = None


class TakenOver(MetadataLogFailed):
    """Another start of this broker is registered: this one is over, and must end."""


class Lease:
    """Until when this broker may answer for what it leads without asking anybody. It ends over a gap in which
    this process had no turn: what was heard before says nothing about now.
    """

    def __init__(self, clock: Clock, *, is_alone: bool) -> None:
        """`is_alone`: there are no others who could lead anything."""
        self._clock = clock
        self._is_alone = is_alone
        self._until = float("-inf")
        self._ended_at = float("-inf")
        self._awake_at = clock.boottime()

    def holds(self) -> bool:
        """Whether it may, now."""
        if self._is_alone:
            return True
        now = self._clock.boottime()
        return now < self._until and now - self._awake_at < GAP_SECONDS_MAX

    def extend(self, sent_at: float, *, by_itself: bool = False) -> None:
        """A heartbeat that was sent then kept the session open. `sent_at`: of `Clock.boottime`. `by_itself`:
        this broker is the controller, as far as it knows.
        """
        if sent_at >= self._ended_at:
            self._until = max(self._until, _known_at(sent_at, by_itself=by_itself) + SESSION_SECONDS)

    def end(self) -> None:
        """It is over: the controller said so, or nobody knows. Heartbeats from before give it no more."""
        self._until, self._ended_at = float("-inf"), self._clock.boottime()

    def awake(self) -> bool:
        """This process has a turn; whether it had the one before in time. If not, the lease is over."""
        now = self._clock.boottime()
        was_in_time = now - self._awake_at < GAP_SECONDS_MAX
        self._awake_at = now
        if not was_in_time:
            self.end()
        return was_in_time


def _known_at(sent_at: float, *, by_itself: bool) -> float:
    """Up to when the answer to a heartbeat that was sent then says who controls."""
    return sent_at - UNHEARD_SECONDS_MAX if by_itself else sent_at


class Heartbeats:
    """This broker's. `run` is their task."""

    def __init__(
        self, seat: Seat, beat_here: Callable[[Beat], Beaten], *, lease: Lease, digests: Digests
    ) -> None:
        """`beat_here`: asks the controller while that is this broker."""
        # Metadata up to there have all others that are alive, as the controller said last.
        self._everywhere = 0
        # Used once: whoever waits for an answer holds the one that the next answer sets.
        self._answered = asyncio.Event()
        self._metadata = seat.metadata
        self._broker_id = seat.broker_id
        self._incarnation = seat.incarnation
        self._lease = lease
        self._digests = digests
        self._clock = seat.clock
        self.touch: Final = Touch(seat.clock, is_alone=seat.streams is None)
        self._beat_here = beat_here
        self._line = Line(seat.streams, seat.metadata.controller_elsewhere) if seat.streams else None
        self._under_way = 0
        self._behind = Behind()
        self._answered_at = self._clock.monotonic()
        self._looks_again_at = float("-inf")
        self._is_proven = True
        """What this broker says to itself as the controller counts: it has been one without a gap."""
        self._epoch = 0
        self._told: object = None
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Beat until cancelled. Raises TakenOver; MetadataLogFailed if this broker's image is another one
        than the controller's.
        """
        unsubscribe = self._metadata.subscribe(self._follow)
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._run(tasks)
        except ExceptionGroup as group:  # heartbeats fail for one reason
            raise group.exceptions[0] from None
        finally:
            unsubscribe()
            if self._line is not None:
                await self._line.close()

    async def _run(self, tasks: asyncio.TaskGroup) -> None:
        due = self._clock.monotonic()
        self._lease.awake()  # whatever was before is no gap
        while True:
            lag = max(0.0, self._clock.monotonic() - due)
            if not self._lease.awake():
                self._is_proven = False
            if self._under_way < UNDER_WAY_MAX:
                tasks.create_task(self._beat(lag), name="heartbeat")
            due = self._clock.monotonic() + BEAT_SECONDS
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT_SECONDS):
                    await self._wake.wait()
                    due = self._clock.monotonic()
            self._wake.clear()

    def unheard_seconds(self) -> float:
        """How old what is known here may be: since the controller was heard of, or said to know more."""
        behind = self._behind.since(self._metadata.image.version, self._clock.monotonic())
        return max(self.touch.unheard_seconds(), behind)

    async def known_everywhere(self, version: int) -> None:
        """Wait until all others that are alive have metadata of that version. The caller has the deadline."""
        while self._everywhere < version:
            await self._answered.wait()

    def _follow(self, image: MetadataImage) -> None:
        """What the controller waits for, or a new one, is told at once."""
        log, broker = self._metadata.log, image.brokers.get(self._broker_id)
        known = None if broker is None else (broker.epoch, broker.state, broker.since)
        situation = (log.leader, log.term, image.controller_epoch, known, image.feature_level)
        if situation != self._told:
            self._told = situation
            self._wake.set()
        if self._line is not None:
            self._line.follow()

    def _registered(self) -> BrokerImage | None:
        """This start in the image. Raises TakenOver."""
        broker = self._metadata.image.brokers.get(self._broker_id)
        if broker is None:
            return None
        if broker.incarnation == self._incarnation:
            self._epoch = broker.epoch
            return broker
        if self._epoch:
            raise TakenOver(f"another start of broker {self._broker_id} has taken its place")
        return None

    async def _beat(self, lag_seconds: float) -> None:
        """Say it, and take the answer; soon again if there is none."""
        broker = self._registered()
        if broker is None:
            return
        image = self._metadata.image
        if not self._is_up_to_date(image.version):
            return
        heartbeat = Heartbeat(
            broker_id=self._broker_id,
            broker_epoch=broker.epoch,
            applied_index=image.version,
            feature_level=FEATURE_LEVEL,
            loop_lag_ms=int(lag_seconds * 1000),
        )
        beat = Beat(heartbeat, self._digests.of(image))
        sent_at = self._clock.boottime()
        by_itself = bool(self._metadata.log.term)
        self._under_way += 1
        try:
            answer = await self._ask(beat)
        finally:
            self._under_way -= 1
        if answer is not None and answer.heard is not None:
            by_itself |= bool(self._metadata.log.term)
            self._take(answer, image)
            in_session = answer.heard is Heard.EXTENDED
            self.touch.heard(_known_at(sent_at, by_itself=by_itself), in_session=in_session)
            if answer.heard is Heard.EXTENDED:
                self._lease.extend(sent_at, by_itself=by_itself)
            is_settled = broker.state is not BrokerState.FENCED or answer.heard is Heard.FENCED
        else:
            is_settled = False
        if not is_settled:
            await asyncio.sleep(RETRY_SECONDS)
            self._wake.set()

    def _is_up_to_date(self, version: int) -> bool:
        """Rule 44: behind for a while, it looks elsewhere; longer than a session, it leads nothing: without
        a lease, and silent, so that it is fenced and others lead, until it has caught up. Out of touch, it
        looks elsewhere as well: whom it takes for the controller may not be that any more.
        """
        now = self._clock.monotonic()
        behind_seconds = self._behind.since(version, now)
        doubted_seconds = max(behind_seconds, now - self._answered_at)
        if doubted_seconds > LATE_SECONDS_MAX and now >= self._looks_again_at:
            self._looks_again_at = now + SESSION_SECONDS
            why = "behind" if behind_seconds > LATE_SECONDS_MAX else "unanswered"
            event(_log, logging.INFO, "metadata_doubted", why=why, seconds=round(doubted_seconds, 1))
            self._metadata.log.look_elsewhere()
        if behind_seconds <= SESSION_SECONDS:
            return True
        self._lease.end()
        return False

    def _take(self, answer: Beaten, image: MetadataImage) -> None:
        """What the controller said."""
        self._answered_at = self._clock.monotonic()
        self._behind.heard(answer.version, self._metadata.image.version, self._answered_at)
        self._everywhere = answer.everywhere
        self._answered.set()
        self._answered = asyncio.Event()
        if answer.differs:
            raise MetadataLogFailed(
                f"the metadata of version {image.version} are not what the controller, broker"
                f" {answer.leader}, has: one of the two went wrong"
            )
        if answer.heard in (Heard.FENCED, Heard.STRANGER):
            self._lease.end()

    async def _ask(self, beat: Beat) -> Beaten | None:
        if self._metadata.log.term:
            return self._beat_here(beat) if await self._is_controller() else None
        if self._line is None:
            return None
        try:
            answer = await self._line.ask(beat, SESSION_SECONDS)
        except Unanswered as error:
            event(_log, logging.DEBUG, "heartbeat_unanswered", reason=str(error))
            if error.was_asked:
                self._line.hang_up()  # it hangs, or is over
            return None
        return answer if isinstance(answer, Beaten) else None

    async def _is_controller(self) -> bool:
        """Whether this broker, which leads the voters as far as it knows, still does."""
        if not self._is_proven and self._line is not None:
            try:
                await self._metadata.log.barrier(PROOF_SECONDS_MAX)
            except (BrokerNotReady, OperationTimeout):
                return False
        self._is_proven = True
        return bool(self._metadata.log.term)
