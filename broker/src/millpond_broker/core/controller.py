"""What the controller does next: a pure function of the image, of who is alive, and of the time.

`plan` answers "what should change now"; `requests` has what administrators ask for. What is planned passes
`image.apply` if the image is still the same by then, and is refused there otherwise.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from millpond_broker.core.broker_commands import why_not_raise
from millpond_broker.core.commands import (
    FEATURE_LEVEL,
    REPLICATION_LEVEL,
    BrokerStart,
    ChangePartitions,
    Command,
    Election,
    ElectionKind,
    ElectLeaders,
    FenceBroker,
    FinishReassignments,
    PartitionChange,
    PartitionSeen,
    RaiseFeatureLevel,
    StopBroker,
    UnfenceBroker,
)
from millpond_broker.core.image import BrokerImage, BrokerState, MetadataImage, PartitionImage, TopicImage
from millpond_broker.core.partition_changes import next_leader, why_not_finished
from millpond_broker.core.replication_commands import recoverable, running
from millpond_broker.core.sessions import Session
from millpond_broker.core.topic_commands import EPOCH_MAX

CHANGES_MAX: Final = 5000
"""Partition changes in one command: it stays well within what one entry of the log may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What a controller waits for, and how much it does at once. Times in ms."""

    cut_grace_ms: int = 30_000
    """How long those that cut bytes wait for members of ISR and ELR that have not come back: one of them may
    have cut nothing (rule 15)."""
    rebalance_after_ms: int = 10_000
    """How long a preferred leader must have been there before it gets its partitions back."""
    rebalance_max: int = 500
    """Leaderships that move at once for nothing but balance: each interrupts its producers for a moment."""


def plan(
    image: MetadataImage,
    live: Mapping[int, Session],
    now_ms: int,
    options: PlanOptions | None = None,
) -> list[Command]:
    """Commands to propose now, in order. `live`: open sessions by broker id (`Sessions.open`); `now_ms`: of
    their clock. What is planned applies whole to this image, and nothing is planned that changes nothing.

    Who comes and goes comes first and alone: everything else depends on the image that makes.
    """
    options = options or PlanOptions()
    if image.cluster_id is None:
        return []
    if image.feature_level < REPLICATION_LEVEL:
        alive = frozenset(member for member in live if _runs(image, member))
        changes = list(_first_elections(image, alive))
        return [*_raised(image, live), *map(ChangePartitions, _chunks(changes))]
    if comings_and_goings := [*_fences(image, live), *_unfences(image, live), *_stops(image)]:
        return comings_and_goings
    elections, finishes = _next_steps(_Outlook(image, live, running(image), now_ms, options))
    return [
        *_raised(image, live),
        *map(ElectLeaders, _chunks(elections)),
        *map(FinishReassignments, _chunks(finishes)),
    ]


Item = TypeVar("Item")


def _chunks(items: Sequence[Item]) -> Iterator[tuple[Item, ...]]:
    return (tuple(items[at : at + CHANGES_MAX]) for at in range(0, len(items), CHANGES_MAX))


# --- brokers (rules 12 and 39) ---------------------------------------------------------------------------


def _raised(image: MetadataImage, live: Mapping[int, Session]) -> list[Command]:
    """The next feature level, once everybody has said to know it."""
    level = image.feature_level + 1
    supporters = tuple(
        BrokerStart(broker_id, session.broker_epoch)
        for broker_id, session in sorted(live.items())
        if session.feature_level >= level
    )
    command = RaiseFeatureLevel(level, supporters)
    return [] if level > FEATURE_LEVEL or why_not_raise(image, command) else [command]


def _fences(image: MetadataImage, live: Mapping[int, Session]) -> list[Command]:
    """Who is not alive; of those that just registered as well, whose reports count only while they are."""
    return [
        FenceBroker(broker.broker_id, broker.epoch)
        for broker in image.brokers.values()
        if not broker.is_lost and _session(broker, live) is None
    ]


def _unfences(image: MetadataImage, live: Mapping[int, Session]) -> list[Command]:
    """Who is alive, and has the metadata up to where it was fenced: it knows what it no longer leads."""
    return [
        UnfenceBroker(broker.broker_id, broker.epoch)
        for broker in image.brokers.values()
        if broker.state is BrokerState.FENCED
        and (session := _session(broker, live)) is not None
        and session.is_heard
        and session.applied_index >= broker.since
    ]


def _session(broker: BrokerImage, live: Mapping[int, Session]) -> Session | None:
    """The open session of this very start."""
    session = live.get(broker.broker_id)
    return session if session is not None and session.broker_epoch == broker.epoch else None


def _stops(image: MetadataImage) -> list[Command]:
    """Who is stopping, and was the last in sync somewhere, where others are by now."""
    stopping = {key for key, broker in image.brokers.items() if broker.state is BrokerState.STOPPING}
    if not stopping:
        return []
    alive, can_go = running(image), set()
    for topic in image.topics.values():
        for partition in topic.partitions:
            if any(member in alive for member in partition.isr):
                can_go.update(stopping.intersection(partition.isr))
    return [StopBroker(key, image.brokers[key].epoch) for key in sorted(can_go)]


# --- partitions (rules 14 and 15) ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Outlook:
    """What is looked at. `alive`: brokers that may lead."""

    image: MetadataImage
    live: Mapping[int, Session]
    alive: frozenset[int]
    now_ms: int
    options: PlanOptions


def _next_steps(look: _Outlook) -> tuple[list[Election], list[PartitionSeen]]:
    """Elections, and reassignments to finish: at most one thing of a partition."""
    settled_at_ms = look.now_ms - look.options.rebalance_after_ms
    settled = {key for key in look.alive if key in look.live and look.live[key].opened_at_ms <= settled_at_ms}
    moves_left = look.options.rebalance_max
    elections: list[Election] = []
    finishes: list[PartitionSeen] = []
    for topic_id, topic in look.image.topics.items():
        for number, partition in enumerate(topic.partitions):
            seen = partition.partition_epoch
            if max(partition.leader_epoch, seen) >= EPOCH_MAX:
                continue
            if partition.leader is None:
                if (choice := _choice(look, topic, partition)) is not None:
                    leader, kind = choice
                    elections.append(Election(topic_id, number, leader, seen, kind))
            elif partition.adding or partition.removing:
                if why_not_finished(partition, topic.min_insync_of(len(partition.target))) is None:
                    finishes.append(PartitionSeen(topic_id, number, seen))
            elif moves_left and _is_better(partition, settled):
                moves_left -= 1
                preferred = partition.replicas[0]
                elections.append(Election(topic_id, number, preferred, seen, ElectionKind.PREFERRED))
    return elections, finishes


def _is_better(partition: PartitionImage, settled: Container[int]) -> bool:
    """Whether its preferred leader could lead, and does not."""
    preferred = partition.replicas[0]
    return partition.leader != preferred and preferred in partition.isr and preferred in settled


def _choice(look: _Outlook, topic: TopicImage, partition: PartitionImage) -> tuple[int, ElectionKind] | None:
    """Who is to lead a partition that nobody leads, and as what (rules 14 and 15). None: nobody yet."""
    if (leader := next_leader(partition, look.alive)) is not None:
        return leader, ElectionKind.CLEAN
    if not partition.cuts or _is_grace_over(look, partition):
        for member in recoverable(topic, partition):
            if member in look.alive:
                return member, ElectionKind.RECOVERING
    if allows_unclean(topic) and (leader := unclean_leader(topic, partition, look.alive)) is not None:
        return leader, ElectionKind.UNCLEAN
    return None


def _is_grace_over(look: _Outlook, partition: PartitionImage) -> bool:
    """Whether everybody has reported what was cut, or those that have did so long enough ago, as this
    controller saw it.
    """
    if len(partition.cuts) == len(partition.elr):
        return True
    live = look.live
    opened = [live[cut.broker_id].opened_at_ms for cut in partition.cuts if cut.broker_id in live]
    return bool(opened) and look.now_ms - max(opened) >= look.options.cut_grace_ms


def allows_unclean(topic: TopicImage) -> bool:
    """Whether the topic would rather go on than keep what was acknowledged."""
    return ("unclean_election", "true") in topic.config_set


def unclean_leader(topic: TopicImage, partition: PartitionImage, alive: frozenset[int]) -> int | None:
    """Who loses least, as far as anybody knows: who has most of what was left, who led last, who is there."""
    ranked = sorted(partition.cuts, key=lambda cut: cut.rank, reverse=True)
    preferred = [*recoverable(topic, partition), *(cut.broker_id for cut in ranked), partition.last_leader]
    return next((member for member in (*preferred, *partition.replicas) if member in alive), None)


# --- partitions of a cluster of level 1 ------------------------------------------------------------------


def _first_elections(image: MetadataImage, alive: frozenset[int]) -> Iterator[PartitionChange]:
    for topic in image.topics.values():
        for number, partition in enumerate(topic.partitions):
            if (
                partition.leader is None
                and max(partition.leader_epoch, partition.partition_epoch) < EPOCH_MAX
            ):
                change = elect(topic, number, partition, alive)
                if change is not None:
                    yield change


def elect(
    topic: TopicImage, number: int, partition: PartitionImage, alive: frozenset[int]
) -> PartitionChange | None:
    """The next leader by rule 14's order, as far as it is safe: of the ISR, by assignment; without an ISR,
    of the ELR, which it then is the ISR instead of. None: nobody who is alive has all that was acknowledged.
    """
    candidates = partition.isr or partition.elr
    leader = next((member for member in partition.replicas if member in candidates and member in alive), None)
    if leader is None:
        return None
    isr, elr = partition.isr or (leader,), partition.elr
    if not partition.isr:
        # Rule 13, by the effective minISR.
        is_enough = min(topic.min_insync, len(partition.replicas)) <= 1
        elr = () if is_enough else tuple(member for member in elr if member != leader)
    return PartitionChange(
        topic_id=topic.topic_id,
        partition=number,
        leader=leader,
        leader_epoch=partition.leader_epoch + 1,
        isr=isr,
        elr=elr,
        partition_epoch_seen=partition.partition_epoch,
    )


def _runs(image: MetadataImage, broker_id: int) -> bool:
    broker = image.brokers.get(broker_id)
    return broker is not None and broker.state is BrokerState.RUNNING
