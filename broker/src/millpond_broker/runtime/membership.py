"""How a broker comes into its cluster and leaves it: registered, unfenced, stopped in order (rule 12)."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import Final

from millpond.wire.errors import BrokerNotReady, MillpondError, OperationTimeout, UnsupportedFormat
from millpond_broker.core.commands import REPLICATION_LEVEL, Barrier, RegisterBroker, StopBroker
from millpond_broker.core.image import BrokerImage, BrokerState, MetadataImage
from millpond_broker.core.replication_commands import running
from millpond_broker.observe.logs import event
from millpond_broker.runtime.asking import Target, Unanswered, ask_once
from millpond_broker.runtime.control_messages import Here, Who
from millpond_broker.runtime.heartbeats import Heartbeats
from millpond_broker.runtime.metadata import Metadata
from millpond_broker.runtime.partitions import Partitions
from millpond_broker.runtime.peers import PeerStreams

_log: Final = logging.getLogger(__name__)

JOIN_ALONE_SECONDS_MAX: Final = 60.0
"""From recovered logs to leading them, where nobody else is needed."""
JOIN_SECONDS_MAX: Final = 600.0
"""Likewise, where others are: machines that start together may be minutes apart."""
LED_SECONDS_MAX: Final = 10.0
"""For partitions that nobody else has to be led: those that cannot be must not hold up the others."""
REGISTER_SECONDS_MAX: Final = 5.0
"""Of one attempt: why it takes longer is told in between."""
RETRY_SECONDS: Final = 0.1
STOP_PROPOSAL_SECONDS_MAX: Final = 5.0
"""For the word that this broker stops: without a controller it does so all the same."""
CATCH_UP_SECONDS_MAX: Final = 10.0
"""For replicas elsewhere that catch up to be in sync where this broker is needed, before it stops: brokers
may be restarted one after another, and the last one be there again and not in sync yet."""
CATCH_UP_SHARE: Final = 3
"""Of all the time that a stop has, a third at most."""
LEFT_SECONDS_MAX: Final = 0.5
"""For another broker to say that it is there, while this one waits for others to take over."""
LEFT_PAUSE_SECONDS: Final = 0.2
LEFT_LOOKS: Final = 2
"""In a row that find nobody: one may meet a broker that is busy. To be wrong costs a fail-over, no record."""


@dataclass(frozen=True, slots=True)
class Membership:
    """Of one start. `is_alone`: there are no other brokers. `streams`: to ask them whether they are there."""

    metadata: Metadata
    partitions: Partitions
    heartbeats: Heartbeats
    broker_id: int
    incarnation: bytes
    is_alone: bool
    streams: PeerStreams | None = None

    def registered(self) -> BrokerImage | None:
        """This start in the image."""
        return self._in(self.metadata.image)

    def _in(self, image: MetadataImage) -> BrokerImage | None:
        broker = image.brokers.get(self.broker_id)
        return broker if broker is not None and broker.incarnation == self.incarnation else None

    # --- coming -------------------------------------------------------------------------------------------

    async def join(self, registration: RegisterBroker) -> None:
        """Register, and wait until this broker may lead and follows the metadata that say so. Raises
        OperationTimeout, and what the registration was refused with for good.
        """
        seconds = JOIN_ALONE_SECONDS_MAX if self.is_alone else JOIN_SECONDS_MAX
        try:
            async with asyncio.timeout(seconds):
                await self._register(registration)
                await self.partitions.remove_orphans()
                image = await self.metadata.wait(self._is_in)
                await self.partitions.reached(image.version)
        except TimeoutError:
            raise OperationTimeout(what="joining the cluster", timeout=seconds) from None
        try:
            async with asyncio.timeout(LED_SECONDS_MAX):
                image = await self.metadata.wait(self._leads_its_own)
                await self.partitions.reached(image.version)
        except TimeoutError:
            event(_log, logging.WARNING, "not_all_led", broker=self.broker_id)

    async def _register(self, registration: RegisterBroker) -> None:
        told = ""
        while True:
            await self._let_the_last_start_go()
            is_plain = self.metadata.image.feature_level < REPLICATION_LEVEL
            plain = replace(registration, feature_level=0, previous_epoch=0, cuts=())
            try:
                await self.metadata.propose(plain if is_plain else registration, REGISTER_SECONDS_MAX)
            except (BrokerNotReady, OperationTimeout) as error:
                if str(error) != told:
                    told = str(error)
                    event(_log, logging.INFO, "not_registered_yet", broker=self.broker_id, reason=told)
                await asyncio.sleep(RETRY_SECONDS)
            except UnsupportedFormat:
                # Decided on an image from the beginning of the log: a voter that was alone replays it all.
                if not is_plain or self.metadata.image.feature_level < REPLICATION_LEVEL:
                    raise
            else:
                return

    async def _let_the_last_start_go(self) -> None:
        """It has to be fenced before this one can register: which is done once it is found to be gone."""

        def is_gone(image: MetadataImage) -> bool:
            last = image.brokers.get(self.broker_id)
            if last is None or last.incarnation == self.incarnation:
                return True
            return last.state is BrokerState.FENCED or image.feature_level < REPLICATION_LEVEL

        try:
            async with asyncio.timeout(REGISTER_SECONDS_MAX):
                await self.metadata.wait(is_gone)
        except TimeoutError:
            return  # the refusal says why

    def _is_in(self, image: MetadataImage) -> bool:
        broker = self._in(image)
        if broker is None or broker.state is BrokerState.FENCED:
            return False
        return not self.is_alone or image.feature_level >= REPLICATION_LEVEL

    def _leads_its_own(self, image: MetadataImage) -> bool:
        """Whether somebody leads whatever only this broker can."""
        return not any(
            partition.leader is None and partition.replicas == (self.broker_id,) and not partition.is_offline
            for topic in image.topics.values()
            for partition in topic.partitions
        )

    # --- leaving ------------------------------------------------------------------------------------------

    async def leave(self, seconds: float) -> bool:
        """Have others lead what they can, and wait until they all know: for at most so long, and while there
        are any. Whether there are: who is the last leads on what it leads, and nobody acknowledges any more.
        """
        broker = self.registered()
        if self.is_alone or broker is None or self.metadata.image.feature_level < REPLICATION_LEVEL:
            return True
        # This call is the owner that tasks must have: both have ended when it returns.
        leaving = asyncio.Task(self._leave(broker, seconds), name="leaving")
        last = asyncio.Task(self._is_last(), name="last to leave")
        try:
            await asyncio.wait((leaving, last), return_when=asyncio.FIRST_COMPLETED)
            is_last = last.done() and not leaving.done()
            for ended in (task for task in (leaving, last) if task.done()):
                ended.result()  # a mistake of ours is no word that nobody is left
        finally:
            leaving.cancel()
            last.cancel()
            await asyncio.wait((leaving, last))
        if is_last:
            event(_log, logging.INFO, "last_to_leave", broker=self.broker_id)
        return not is_last

    async def _leave(self, broker: BrokerImage, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._let_others_catch_up(min(seconds / CATCH_UP_SHARE, CATCH_UP_SECONDS_MAX))
                command = StopBroker(self.broker_id, broker.epoch)
                await self.metadata.propose(command, min(seconds, STOP_PROPOSAL_SECONDS_MAX))
                image = await self.metadata.wait(self._leads_nothing_of_others)
                await self.heartbeats.known_everywhere(image.version)
        except (TimeoutError, MillpondError) as error:
            event(_log, logging.WARNING, "not_left_in_order", broker=self.broker_id, error=str(error))

    async def _let_others_catch_up(self, seconds: float) -> None:
        """Where too few would be in sync without this broker, and somebody will be soon: go on until then.
        Who is away is not waited for, nor is who stops as well.
        """
        await self.metadata.propose(Barrier(), STOP_PROPOSAL_SECONDS_MAX)  # who came a moment ago counts
        if not self._is_needed(self.metadata.image):
            return
        event(_log, logging.INFO, "waits_for_replicas", broker=self.broker_id)
        try:
            async with asyncio.timeout(seconds):
                await self.metadata.wait(lambda image: not self._is_needed(image))
        except TimeoutError:
            event(_log, logging.WARNING, "replicas_still_behind", broker=self.broker_id)

    def _is_needed(self, image: MetadataImage) -> bool:
        others = self._others_running(image)
        return any(
            self.broker_id in partition.isr
            and len(partition.isr) <= topic.min_insync_of(len(partition.replicas))
            and not others.isdisjoint(set(partition.replicas).difference(partition.isr))
            for topic in image.topics.values()
            for partition in topic.partitions
        )

    async def _is_last(self) -> None:
        """Return once nobody is left who could take anything over: no other broker runs, as the metadata say
        or as far as they answer; or too few voters do for the metadata ever to say so.
        """
        looks = 0
        while looks < LEFT_LOOKS and self._others_running(self.metadata.image):
            looks = 0 if await self._somebody_is_left() else looks + 1
            await asyncio.sleep(LEFT_PAUSE_SECONDS)

    def _others_running(self, image: MetadataImage) -> frozenset[int]:
        return running(image) - {self.broker_id}

    async def _somebody_is_left(self) -> bool:
        if self.streams is None:
            return True
        image = self.metadata.image
        voters = image.voters.keys()
        asked = sorted((self._others_running(image) | voters) - {self.broker_id})
        answers = await asyncio.gather(*(self._is_there(self.streams, other) for other in asked))
        there = {other for other, is_there in zip(asked, answers, strict=True) if is_there}
        can_decide = 2 * len(voters & (there | {self.broker_id})) > len(voters)
        return can_decide and not there.isdisjoint(self._others_running(self.metadata.image))

    async def _is_there(self, streams: PeerStreams, broker_id: int) -> bool:
        address = self.metadata.address_of(broker_id)
        if address is None:
            return False
        try:
            reply = await ask_once(streams, Target(broker_id, address), Who(), LEFT_SECONDS_MAX)
        except Unanswered:
            return False
        return isinstance(reply, Here)

    def _leads_nothing_of_others(self, image: MetadataImage) -> bool:
        broker = self._in(image)
        if broker is None or broker.state is BrokerState.FENCED:
            return True
        others = self._others_running(image)
        return not any(
            partition.leader == self.broker_id and not others.isdisjoint(partition.isr)
            for topic in image.topics.values()
            for partition in topic.partitions
        )
