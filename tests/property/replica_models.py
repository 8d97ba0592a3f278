"""Models for the world of `replicas`: disks that forget, streams that break, and a controller."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final, NamedTuple, TypeVar

from millpond_broker.core.epochs import LeaderEpochs
from millpond_broker.core.follower import Follower, Turn
from millpond_broker.core.in_sync import AlterOutcome, Member, Standing, WantedIsr
from millpond_broker.core.leader import Leader
from millpond_broker.core.replication import Acknowledgement, Answer, Position, Push, Statement

T = TypeVar("T")


class Batch(NamedTuple):
    """One that is in a log. `value` is unique in a run."""

    base_offset: int
    next_offset: int
    epoch: int
    value: int


class Disk:
    """A log: what of it is durable survives everything, the rest with luck."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.log_start = 0
        self.log_end = 0
        self.durable_end = 0
        self.epochs = LeaderEpochs()
        self.saved_high_watermark = 0

    @property
    def position(self) -> Position:
        last_epoch = self.batches[-1].epoch if self.batches else None
        return Position(self.log_start, self.log_end, self.durable_end, last_epoch)

    @property
    def readable(self) -> list[Batch]:
        """What lies below the log start may still be there, and be anything."""
        return [batch for batch in self.batches if batch.next_offset > self.log_start]

    def append(self, batch: Batch) -> None:
        if self.epochs.latest is None or batch.epoch > self.epochs.latest:
            self.epochs.begin(batch.epoch, self.log_end)
        self.batches.append(batch)
        self.log_end = batch.next_offset

    def read(self, offset: int, count: int) -> list[Batch]:
        return [batch for batch in self.batches if batch.base_offset >= offset][:count]

    def cut(self, offset: int) -> None:
        """Whole batches only, as `Log.truncate`."""
        while self.batches and self.batches[-1].next_offset > offset:
            self.log_end = self.batches.pop().base_offset
        if not self.batches:
            self.log_end = self.log_start
        self.durable_end = min(self.durable_end, self.log_end)
        self.epochs.cut_from(self.log_end)

    def empty(self, offset: int) -> None:
        self.batches.clear()
        self.log_start = self.log_end = self.durable_end = offset
        self.epochs = LeaderEpochs()

    def trim(self, offset: int, *, drops_all: bool) -> None:
        self.log_start = max(self.log_start, offset)
        while self.batches[0 if drops_all else 1 :] and self.batches[0].next_offset <= self.log_start:
            del self.batches[0]
        self.epochs.cut_before(self.log_start)


@dataclass(frozen=True)
class Image:
    """The metadata: rules 11 to 14 as the controller of the world has them."""

    leader: int | None
    leader_epoch: int
    partition_epoch: int
    isr: frozenset[int]
    elr: frozenset[int]
    brokers: dict[int, Standing]
    floors: dict[int, int] = field(default_factory=dict)


class Controller:
    """The metadata, one image after another, by rules 11 to 14. It is never wrong, and often hasty."""

    def __init__(self, random: Random, brokers: int, min_insync: int, tell: Callable[[str], None]) -> None:
        ids = range(1, brokers + 1)
        standings = {broker_id: Standing(broker_id, may_join=True) for broker_id in ids}
        self.images = [Image(1, 0, 0, frozenset(ids), frozenset(), standings)]
        self._random = random
        self._min_insync = min_insync
        self._tell = tell

    @property
    def image(self) -> Image:
        return self.images[-1]

    def may_leave(self, broker_id: int) -> bool:
        """Whether others have what was acknowledged."""
        return bool((self.image.isr | self.image.elr) - {broker_id})

    def register(self, member: Member, *, has_lost: bool) -> None:
        """A new start; rule 12 wants the old one fenced first, and rule 15 its seat if it lost anything."""
        self.fence(member.broker_id)
        if has_lost:
            gone = frozenset({member.broker_id})
            self._change(self.image.isr - gone, gone)
        self._stand(member.broker_id, Standing(member.broker_epoch, may_join=False))

    def fence(self, broker_id: int) -> None:
        standing = self.image.brokers[broker_id]
        if standing.may_join:
            self._tell(f"{broker_id} is fenced")
            self._stand(broker_id, standing._replace(may_join=False))
            self._change(self.image.isr - {broker_id})

    def unfence(self, member: Member) -> None:
        standing = self.image.brokers[member.broker_id]
        if standing == (member.broker_epoch, False):
            self._tell(f"{member.broker_id} is unfenced")
            self._stand(member.broker_id, standing._replace(may_join=True))
            if self.image.leader is None:
                self._change(self.image.isr)

    def elect(self) -> None:
        """Another of the ISR, without need: a preferred leader, or after one that resigned."""
        image = self.image
        if others := sorted(member for member in image.isr if member != image.leader):
            self._put(image.isr, image.elr, self._random.choice(others))

    def give_up(self, broker_id: int) -> None:
        """A replica has bad bytes, and leaves ISR and ELR, unless it is the last (rule 15). Nothing that it
        has stated of the damaged log lets it join again.
        """
        if self.may_leave(broker_id):
            gone = frozenset({broker_id})
            self._change(self.image.isr - gone, gone, floor=gone)

    def alter(self, sender: Member, wanted: WantedIsr) -> AlterOutcome:
        """Rule 11."""
        image = self.image
        if (sender.broker_id, wanted.leader_epoch) != (image.leader, image.leader_epoch):
            return AlterOutcome.REFUSED
        if sender.broker_epoch != image.brokers[sender.broker_id].broker_epoch:
            return AlterOutcome.REFUSED
        if wanted.partition_epoch != image.partition_epoch:
            return AlterOutcome.REFUSED
        isr = frozenset(member.broker_id for member in wanted.isr)
        for member in wanted.isr:
            standing = image.brokers[member.broker_id]
            if member.broker_id in image.isr:
                continue
            if standing != (member.broker_epoch, True):
                return AlterOutcome.INELIGIBLE
            if member.stated_in < image.floors.get(member.broker_id, 0):
                return AlterOutcome.INELIGIBLE
        self._change(isr, frozenset(wanted.unseated))
        return AlterOutcome.ACCEPTED

    def _stand(self, broker_id: int, standing: Standing) -> None:
        self.images.append(replace(self.image, brokers={**self.image.brokers, broker_id: standing}))

    def _change(
        self,
        isr: frozenset[int],
        unseated: frozenset[int] = frozenset(),
        *,
        floor: frozenset[int] = frozenset(),
    ) -> None:
        """Rules 13 and 14. `floor`: who has to state a position anew before it may join."""
        image = self.image
        elr: frozenset[int] = frozenset()
        if len(isr) < self._min_insync:
            elr = (image.isr | image.elr) - isr - unseated
        if not isr | elr:
            return  # rule 15: who is the last keeps its seat
        leader = image.leader if image.leader in isr else None
        if leader is None:
            able = sorted(member for member in isr if image.brokers[member].may_join)
            if not isr:
                able = sorted(member for member in elr if image.brokers[member].may_join)
            if able:
                leader = self._random.choice(able)
                isr, elr = isr | {leader}, elr - {leader}
        self._put(isr, elr, leader, floor)

    def _put(
        self,
        isr: frozenset[int],
        elr: frozenset[int],
        leader: int | None,
        floor: frozenset[int] = frozenset(),
    ) -> None:
        image = self.image
        elected = leader is not None and leader != image.leader
        floors = {member: at for member, at in image.floors.items() if member not in isr}
        self.images.append(
            Image(
                leader=leader,
                leader_epoch=image.leader_epoch + elected,
                partition_epoch=image.partition_epoch + 1,
                isr=isr,
                elr=elr,
                brokers=image.brokers,
                floors=floors | dict.fromkeys(floor, image.partition_epoch + 1),
            )
        )
        self._tell(f"leader {leader} in {self.image.leader_epoch}, ISR {set(isr)}, ELR {set(elr)}")


@dataclass(eq=False)
class Stream:
    """One connection of a follower's start to a leader's start. Each direction in order."""

    follower: Member
    leader: Member
    up: deque[Statement | Acknowledgement | None] = field(default_factory=deque)
    """None: the end, as the leader hears of it."""
    down: deque[Answer | tuple[Push, list[Batch]]] = field(default_factory=deque)
    session: int = 0
    """The last that was stated on it."""


def disturb(random: Random, queue: deque[T]) -> None:
    """What cannot happen in a stream: a message is lost, doubled, or overtaken."""
    chance = random.random()
    if queue and chance < 0.05:
        queue.popleft()
    elif queue and chance < 0.1:
        queue.append(queue[0])
    elif chance < 0.2:
        queue.rotate(1)


@dataclass(eq=False)
class Call:
    """A request to the controller, or its answer on the way back."""

    sender: Member
    wanted: WantedIsr
    outcome: AlterOutcome | None = None


@dataclass(eq=False)
class Broker:
    """One process, or what is left of it while it is down."""

    broker_id: int
    disk: Disk
    epoch: int = 0
    is_up: bool = True
    seen: int = 0
    leader: Leader[Batch] | None = None
    follower: Follower | None = None
    followed: int = 0
    stream: Stream | None = None
    cut: Turn | None = None
    last_epoch: int = -1
    reports: bool = False

    @property
    def member(self) -> Member:
        return Member(self.broker_id, self.epoch)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What kind of world."""

    brokers: int = 3
    min_insync: int = 2
    waits_for_sync: bool = True
    trouble: float = 0.05
    """The share of steps that are a fault of some kind."""
    is_harsh: bool = False
    """Messages within a stream are lost, doubled and reordered, too."""


WORK: Final = (
    *["produce"] * 5,
    *["sync"] * 8,
    *["deliver"] * 20,
    *["push"] * 10,
    *["connect"] * 4,
    *["cut"] * 2,
    *["call"] * 4,
    *["see"] * 6,
    *["unfence"] * 2,
    *["start"] * 1,
    *["pass_time"] * 2,
)
"""What goes on all the time, each as often as it is here."""
TROUBLE: Final = (
    *["hang"] * 1,
    *["crash"] * 3,
    *["fence"] * 2,
    *["disconnect"] * 3,
    *["elect"] * 2,
    *["trim"] * 2,
    *["corrupt"] * 1,
    *["leave"] * 2,
    *["fail_sync"] * 1,
)
