"""What this broker asks of the controller for its partitions: other ISRs, to give up leaderships and seats.

Gathered while a request is under way, so that load makes requests larger, not more. Each names the partition
epoch that it is decided on, and is refused in any other (rule 12): what is still wanted then is asked for
anew. A leadership or a seat is given up as it was when that was asked for: a later one is another, and kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

from millpond.wire.errors import (
    FencedEpoch,
    IneligibleReplica,
    InternalError,
    InvalidRequest,
    InvalidUpdateVersion,
    MillpondError,
)
from millpond_broker.core.commands import AlterPartitions, GiveUp, GiveUpPartitions, InSyncChange
from millpond_broker.core.image import MetadataImage, PartitionImage, RefusedItem, TopicImage
from millpond_broker.core.in_sync import AlterOutcome, Member, WantedIsr
from millpond_broker.observe.logs import event
from millpond_broker.runtime.metadata import Proposing
from millpond_broker.runtime.partition import Key, Partition, State

_log: Final = logging.getLogger(__name__)

ALTER_SECONDS_MAX: Final = 2.0
"""Of one request for ISRs: a leader that hears nothing asks again."""
GIVE_UP_SECONDS_MAX: Final = 5.0
"""Of one request to give up, which is repeated until the metadata shows that it was heard."""
AGAIN_SECONDS: Final = 0.3
"""Before what was not done is asked for again."""
CHANGES_MAX: Final = 2000
"""Partitions in one request: it stays well within what one entry of the metadata may have."""

_REFUSED: Final = (FencedEpoch, InvalidRequest, InvalidUpdateVersion)


class _Wish(NamedTuple):
    """What is to be given up: the leadership of that epoch, or, if it `leaves`, the seat that the replica had
    in that partition epoch as well.
    """

    leaves: bool
    leader_epoch: int
    partition_epoch: int

    def has_come_true(self, state: PartitionImage, me: Member, floor: int) -> bool:
        """Whether the metadata show that it was heard, or that there is nothing left to give up (rule 12).
        `floor`: the greatest that they have had for this replica.
        """
        if self.leaves:
            return max(floor, dict(state.floors).get(me.broker_id, 0)) > self.partition_epoch
        return (state.leader, state.leader_epoch) != (me.broker_id, self.leader_epoch)


class Requests:
    """See the module. `run` is its task."""

    def __init__(
        self,
        metadata: Proposing,
        me: Callable[[], Member | None],
        state_of: Callable[[Key], tuple[TopicImage, PartitionImage] | None],
    ) -> None:
        """`state_of`: a partition in the image that its replica follows, which `metadata.image` may be ahead
        of: what is asked for is decided on it.
        """
        self._metadata = metadata
        self._me = me
        self._state_of = state_of
        # At most the partitions of this broker, each once.
        self._wanted: dict[Partition, WantedIsr] = {}
        self._given_up: dict[Partition, _Wish] = {}
        self._wake = asyncio.Event()

    def alter(self, partition: Partition, wanted: WantedIsr) -> None:
        """That ISR is wanted now; takes the place of what was wanted before, and not asked for yet."""
        self._wanted[partition] = wanted
        self._wake.set()

    def give_up(self, partition: Partition, *, leaves: bool) -> None:
        """A leadership, or a seat as well, is to end: the one that it has now; asked until it has."""
        if (found := self._state_of(partition.key)) is not None:
            self._again(partition, _Wish(leaves, partition.last_epoch, found[1].partition_epoch))
            self._wake.set()

    def _again(self, partition: Partition, wish: _Wish) -> None:
        before = self._given_up.get(partition)
        if partition.state is not State.CLOSED and (before is None or wish.leaves or not before.leaves):
            self._given_up[partition] = wish

    def forget(self, partition: Partition) -> None:
        """It is not here any more."""
        self._wanted.pop(partition, None)
        self._given_up.pop(partition, None)

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_SECONDS if self._given_up else None):
                    await self._wake.wait()
            self._wake.clear()
            me = self._me()
            if me is None:
                continue  # not registered: nothing is led
            # Who gives up goes first: its wishes for the ISR have no object then.
            await self._give_up(me)
            await self._alter(me)

    async def _alter(self, me: Member) -> None:
        wanted = list(self._wanted.items())[:CHANGES_MAX]
        for partition, _ in wanted:
            del self._wanted[partition]
        if self._wanted:
            self._wake.set()
        changes = tuple(
            InSyncChange(
                topic_id=partition.topic_id,
                partition=partition.name.partition,
                leader_epoch=isr.leader_epoch,
                partition_epoch_seen=isr.partition_epoch,
                isr=isr.isr,
                unseated=isr.unseated,
            )
            for partition, isr in wanted
        )
        if not changes:
            return
        try:
            refused = await self._metadata.propose(AlterPartitions(*me, changes), ALTER_SECONDS_MAX)
        except MillpondError as error:
            outcome = AlterOutcome.REFUSED if isinstance(error, _REFUSED) else AlterOutcome.UNKNOWN
            event(_log, logging.INFO, "isr_not_altered", partitions=len(changes), error=str(error))
            for partition, isr in wanted:
                partition.altered(isr, outcome)
            return
        assert isinstance(refused, tuple), "what of it was refused"
        outcomes = dict(map(_outcome, refused))
        for position, (partition, isr) in enumerate(wanted):
            partition.altered(isr, outcomes.get(position, AlterOutcome.ACCEPTED))

    async def _give_up(self, me: Member) -> None:
        image = self._metadata.image
        items, asked = [], []
        for partition, wish in list(self._given_up.items())[:CHANGES_MAX]:
            del self._given_up[partition]  # who asks again meanwhile is heard again
            state = _state_of(image, partition)
            if state is not None and not wish.has_come_true(state, me, partition.floor):
                seen = state.partition_epoch
                items.append(GiveUp(partition.topic_id, partition.name.partition, seen, wish.leaves))
                asked.append((partition, wish))
        if not items:
            return
        try:
            refused = await self._metadata.propose(GiveUpPartitions(*me, tuple(items)), GIVE_UP_SECONDS_MAX)
        except MillpondError as error:
            event(_log, logging.WARNING, "not_given_up", partitions=len(items), error=str(error))
            failed = list(range(len(items)))
        else:
            assert isinstance(refused, tuple), "what of it was refused"
            failed = [item.position for item in refused]
        for position in failed:
            self._again(*asked[position])


def _state_of(image: MetadataImage, partition: Partition) -> PartitionImage | None:
    topic = image.topics.get(partition.topic_id)
    if topic is None or partition.name.partition >= len(topic.partitions):
        return None
    return topic.partitions[partition.name.partition]


def _outcome(item: RefusedItem) -> tuple[int, AlterOutcome]:
    match item.refused.error:
        case IneligibleReplica():
            return item.position, AlterOutcome.INELIGIBLE
        case InternalError():
            return item.position, AlterOutcome.UNKNOWN
        case _:
            return item.position, AlterOutcome.REFUSED
