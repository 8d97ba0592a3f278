"""Who is in sync with the leader of a partition: what the metadata committed, and what it was asked for.

The half of the leader that deals with the controller (rules 6 and 10 to 13). It knows no offsets.

    committed.isr <= maximal: whoever may be in the controller's ISR holds the high watermark back
    one change is asked for at a time; it ends when the metadata shows a later partition epoch
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from millpond_broker.core.commands import InSyncMember
from millpond_broker.core.state import BrokerState, MetadataImage, PartitionImage, TopicImage

ASK_AGAIN_MS: Final = 1000
"""A change without a result is asked for again: often enough for a controller that was replaced, and rare
enough for one that is overloaded."""


class Standing(NamedTuple):
    """What the metadata says of a broker."""

    broker_epoch: int
    may_join: bool
    """Neither fenced nor stopping."""


@dataclass(frozen=True, slots=True)
class Committed:
    """One version of the metadata, as far as it is about this partition.

    leader in isr; isr ⊆ replicas; replicas without a standing never registered.
    """

    partition_epoch: int
    replicas: frozenset[int]
    isr: frozenset[int]
    min_insync: int
    """Effective minISR: min(the topic's, its replicas), of the same version as the rest."""
    brokers: Mapping[int, Standing]

    @classmethod
    def of(cls, topic: TopicImage, state: PartitionImage, image: MetadataImage) -> Committed:
        """One partition's, of one image."""
        brokers = {
            member: Standing(broker.epoch, may_join=broker.state is BrokerState.RUNNING)
            for member in state.replicas
            if (broker := image.brokers.get(member)) is not None
        }
        return cls(
            partition_epoch=state.partition_epoch,
            replicas=frozenset(state.replicas),
            isr=frozenset(state.isr),
            min_insync=topic.min_insync_of(len(state.replicas)),
            brokers=brokers,
        )


class Member(NamedTuple):
    """A broker in one of its starts."""

    broker_id: int
    broker_epoch: int


@dataclass(frozen=True, slots=True)
class WantedIsr:
    """An ISR to ask the controller for: an AlterPartition."""

    leader_epoch: int
    partition_epoch: int
    """The one that this was decided on: the controller refuses it in any other."""
    isr: tuple[InSyncMember, ...]
    unseated: tuple[int, ...] = ()
    """Who leaves without all that it had acknowledged: not eligible as a leader either (rule 37)."""


class AlterOutcome(enum.Enum):
    """What became of a request to the controller (rule 11)."""

    ACCEPTED = "accepted"
    """The metadata will show it: nothing counts before that."""
    INELIGIBLE = "ineligible"
    """Somebody may not join."""
    REFUSED = "refused"
    """For what the metadata will show: it has changed since, or there is another leader."""
    UNKNOWN = "unknown"
    """No answer, or not from the controller."""


@dataclass(slots=True)
class _Pending:
    wanted: WantedIsr
    joining: frozenset[int]
    ask_at_ms: int
    asked: int = 1
    """How often: each may still be under way."""
    is_settled: bool = False
    """The metadata will show what became of it: asking again would change nothing."""


class InSync:
    """The ISR of one leadership. See the module."""

    def __init__(self, me: Member, leader_epoch: int, committed: Committed) -> None:
        assert me.broker_id in committed.isr, "a leader is in sync with itself"
        self.me: Final = me
        self.leader_epoch: Final = leader_epoch
        self.committed = committed
        self._pending: _Pending | None = None
        # Everybody who is in the controller's ISR, or may be by the time this is read: the committed ISR and
        # who was asked to join. Falls only when the metadata shows that it may (rules 6 and 10).
        self.maximal = committed.isr
        # Until then nobody is asked to join: the controller knows something of a broker that we do not yet.
        self._joining_from_ms: int | None = None

    @property
    def is_asking(self) -> bool:
        """Whether a change is under way; another has to wait."""
        return self._pending is not None

    @property
    def has_enough(self) -> bool:
        """Whether the committed ISR has the effective minISR (rules 6 and 8)."""
        return len(self.committed.isr) >= self.committed.min_insync

    def is_eligible(self, broker_id: int, broker_epoch: int) -> bool:
        """Whether a replica may join, as far as the metadata is concerned (rule 10)."""
        standing = self.committed.brokers.get(broker_id)
        return (
            broker_id in self.committed.replicas
            and standing is not None
            and standing.may_join
            and standing.broker_epoch == broker_epoch
        )

    def commit(self, committed: Committed) -> None:
        """The metadata shows this now."""
        before = self.committed
        assert committed.partition_epoch >= before.partition_epoch, "metadata does not go back"
        assert self.me.broker_id in committed.isr, "a leader is in sync with itself"
        self.committed = committed
        self._joining_from_ms = None
        if committed.partition_epoch > before.partition_epoch:
            # Whatever was asked for was decided on an older partition epoch: it happened, or never will.
            self._end()
        else:
            assert committed.isr == before.isr, "an ISR changes with its partition epoch"

    def want(
        self,
        joining: Collection[InSyncMember],
        leaving: Collection[int],
        unseated: Collection[int],
        now_ms: int,
    ) -> WantedIsr | None:
        """The change to ask for, if one is due and none is under way."""
        if self._pending is not None:
            return None
        if self._joining_from_ms is not None and now_ms < self._joining_from_ms:
            joining = ()
        isr = self.committed.isr
        assert self.me.broker_id not in leaving, "a leader resigns otherwise"
        if not joining and not leaving:
            return None
        members = [*joining, *(self._member(member) for member in isr - set(leaving))]
        wanted = WantedIsr(
            leader_epoch=self.leader_epoch,
            partition_epoch=self.committed.partition_epoch,
            isr=tuple(sorted(members, key=lambda member: member.broker_id)),
            unseated=tuple(sorted(unseated)),
        )
        ids = frozenset(member.broker_id for member in joining)
        self._pending = _Pending(wanted, ids - isr, now_ms + ASK_AGAIN_MS)
        self.maximal = isr | self._pending.joining
        return wanted

    def answered(self, wanted: WantedIsr, outcome: AlterOutcome, now_ms: int) -> WantedIsr | None:
        """What the controller said to it; what to ask instead, if anything (rule 11).

        A request may have left more than once (`tick`), and each of them could still be applied.
        """
        pending = self._pending
        if pending is None or wanted != pending.wanted:
            return None  # the metadata was faster
        if outcome is AlterOutcome.ACCEPTED:
            pending.is_settled = True
        elif outcome is AlterOutcome.INELIGIBLE and pending.joining:
            self._joining_from_ms = now_ms + ASK_AGAIN_MS
            if pending.asked == 1:
                self._end()
            else:
                # One of the others could still let it in. A change that changes nothing puts an end to them,
                # by the partition epoch that it makes; until that is seen, it counts.
                return self._ask(replace(wanted, isr=self._committed_members(), unseated=()), now_ms)
        return None

    def tick(self, now_ms: int) -> WantedIsr | None:
        """What to ask for again: what has had no result for a while. The partition epoch in it makes sure
        that it is not done twice.
        """
        pending = self._pending
        if pending is None or pending.is_settled or now_ms < pending.ask_at_ms:
            return None
        return self._ask(pending.wanted, now_ms)

    def _ask(self, wanted: WantedIsr, now_ms: int) -> WantedIsr:
        assert self._pending is not None, "something is asked for"
        self._pending.wanted = wanted
        self._pending.asked += 1
        self._pending.ask_at_ms = now_ms + ASK_AGAIN_MS
        return wanted

    def _end(self) -> None:
        self._pending = None
        self.maximal = self.committed.isr

    def _committed_members(self) -> tuple[InSyncMember, ...]:
        return tuple(map(self._member, sorted(self.committed.isr)))

    def _member(self, member: int) -> InSyncMember:
        """Of the start that the metadata knows: who is in the ISR has not been fenced since (rule 12)."""
        if member == self.me.broker_id:
            return InSyncMember(*self.me)
        return InSyncMember(member, self.committed.brokers[member].broker_epoch)
