"""Is the cluster healthy, and if not, what is wrong and what can be done: judged from what it says of itself.

Values in, values out; `millpond cluster status` shows them, with `{b}` as `hints` has it. Internal topics
count. What is told may be old, and brokers silent, or not ready: then a partition is judged by the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from millpond.cli.output import counted

if TYPE_CHECKING:
    from millpond.admin import BrokerDescription, ClusterStatus, PartitionDescription, TopicDescription

NAMED_MAX: Final = 5
"""Of the partitions or brokers of a problem, those that are named: enough to go and look."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is not as it should be. `harmful`: the cluster is not healthy for it."""

    name: str
    count: int
    says: str
    do: str
    first: tuple[str, ...]
    harmful: bool = True

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"problem": self.name, "count": self.count, "first": list(self.first), "do": self.do}

    @property
    def line(self) -> str:
        """In words, with the first few by name."""
        more = f", and {self.count - len(self.first):,} more" if self.count > len(self.first) else ""
        return f"{self.says}: {', '.join(self.first)}{more}" if self.first else self.says


@dataclass(frozen=True)
class _Placed:
    """A partition and what it is judged by."""

    topic: TopicDescription
    partition: PartitionDescription
    """As it is seen from here: `seen_of`."""
    told_leader: int | None
    running: frozenset[int]

    @property
    def name(self) -> str:
        return f"{self.topic.name}/{self.partition.partition}"

    @property
    def is_led(self) -> bool:
        return self.partition.leader is not None

    @property
    def is_offline(self) -> bool:
        return not self.is_led and not self.running.intersection(self.partition.replicas)

    @property
    def leader_is_silent(self) -> bool:
        return not self.is_led and self.told_leader is not None and not self.is_offline

    @property
    def is_under_min_insync(self) -> bool:
        return self.is_led and len(self.partition.isr) < self.topic.min_insync

    @property
    def is_under_replicated(self) -> bool:
        return self.is_led and len(self.partition.isr) < len(self.partition.replicas)

    @property
    def is_led_by_another(self) -> bool:
        preferred = self.partition.replicas[0]
        return self.is_led and self.partition.leader != preferred and preferred in self.partition.isr


@dataclass(frozen=True)
class _Kind:
    name: str
    is_so: Callable[[_Placed], bool]
    says: str
    do: str
    harmful: bool = True


_OF_PARTITIONS: Final = (
    _Kind(
        "offline",
        lambda placed: placed.is_offline,
        "without a leader, and none of whose brokers is up",
        "start those brokers of their replicas that do not run (millpond topic describe TOPIC{b}); nothing"
        " else has their records",
    ),
    _Kind(
        "without_leader",
        lambda placed: not placed.is_led and not placed.is_offline and not placed.leader_is_silent,
        "without a leader",
        "start the brokers that were in sync last (ELR in millpond topic describe TOPIC{b}); if their disks"
        " are gone: millpond cluster elect-leaders --topic TOPIC --partition P --unclean{b}, which loses"
        " records",
    ),
    _Kind(
        "leader_silent",
        lambda placed: placed.leader_is_silent,
        "whose leader does not answer here, or is not ready",
        "wait some seconds: if it is down, another replica in sync leads then",
    ),
    _Kind(
        "under_min_insync",
        lambda placed: placed.is_under_min_insync,
        "below min-insync, and taking no records with acks=all",
        "start the brokers of their replicas, which then catch up; producers go on by themselves",
    ),
    _Kind(
        "under_replicated",
        lambda placed: placed.is_under_replicated and not placed.is_under_min_insync,
        "with fewer replicas in sync than they have",
        "nothing, if their brokers run: they catch up; start those that do not",
    ),
    _Kind(
        "not_preferred",
        lambda placed: placed.is_led_by_another,
        "led by another broker than the preferred one",
        "wait some seconds, or: millpond cluster elect-leaders{b}",
        harmful=False,
    ),
)
"""In the order in which one would mend them; a partition is in one of the first five at most."""


LATER: Final = "nothing of their own: they mend themselves once a majority of the voters is in touch again"
"""What to do about partitions while nothing can change."""


def seen_of(status: ClusterStatus) -> list[TopicDescription]:
    """Its topics as they are seen from here: a leader that does not answer, or is not ready, is none; and
    where what is told is old, such a broker is not in sync.
    """
    return [
        replace(topic, partitions=tuple(_seen(partition, status) for partition in topic.partitions))
        for topic in status.topics
    ]


def _seen(partition: PartitionDescription, status: ClusterStatus) -> PartitionDescription:
    away = status.silent.keys() | status.not_ready.keys()
    leader = None if partition.leader in away else partition.leader
    if status.current:
        return replace(partition, leader=leader)
    isr = tuple(member for member in partition.isr if member not in away)
    return replace(partition, leader=leader, isr=isr)


def problems_of(status: ClusterStatus) -> list[Problem]:
    """What is wrong, the worst first; nothing for a cluster that is as it should be."""
    running = frozenset(broker.id for broker in status.brokers if broker.state == "running")
    placed = [
        _Placed(seen, partition, told.leader, running)
        for topic, seen in zip(status.topics, seen_of(status), strict=True)
        for told, partition in zip(topic.partitions, seen.partitions, strict=True)
    ]
    of_partitions = [problem for kind in _OF_PARTITIONS if (problem := _of_kind(kind, placed)) is not None]
    if not status.current or _voters(status).are_few:
        harmful = [problem for problem in of_partitions if problem.harmful]
        of_partitions = [replace(problem, do=LATER) for problem in harmful]
    return [
        *(_without_controller(status.brokers) if status.current else [_out_of_touch(status)]),
        *_of_brokers(status),
        *of_partitions,
        *_of_those_who_left(status),
    ]


def _left(status: ClusterStatus) -> list[BrokerDescription]:
    """Brokers that are away, do not vote and hold nothing: nobody waits for them to come back."""
    if not status.current:
        return []
    holding = {
        member for topic in status.topics for partition in topic.partitions for member in partition.replicas
    }
    return [
        broker
        for broker in status.brokers
        if broker.id in status.silent
        and broker.state != "running"
        and not broker.voter
        and broker.id not in holding
    ]


def _of_those_who_left(status: ClusterStatus) -> Iterable[Problem]:
    if left := _left(status):
        yield Problem(
            name="left",
            count=len(left),
            says=f"{counted(len(left), 'broker')} away, without a vote and without any replica",
            do="nothing, if it left for good; or start it: it is given replicas as others are",
            first=tuple(_named(each, None) for each in left[:NAMED_MAX]),
            harmful=False,
        )


class _Voters(NamedTuple):
    known: int
    here: int
    """Those that answer here, ready or not: they run."""
    not_ready: int

    @property
    def needed(self) -> int:
        return self.known // 2 + 1

    @property
    def are_few(self) -> bool:
        """Too few to decide anything, if those that do not answer are down."""
        return self.known > 0 and self.here < self.needed


def _voters(status: ClusterStatus) -> _Voters:
    voters = [broker.id for broker in status.brokers if broker.voter]
    here = [voter for voter in voters if voter not in status.silent]
    return _Voters(len(voters), len(here), sum(voter in status.not_ready for voter in here))


def age_of(status: ClusterStatus) -> str:
    """Of one that is not current: whose word it is, and how old."""
    less = "knows less than others told here before"
    if status.told_by is None:
        return f"a broker of an old version, which does not say what it has heard of, {less}"
    age = f"broker {status.told_by} has heard of no controller for {status.unheard_seconds:,.0f} s"
    return f"{age}, and {less}" if status.behind else age


def _out_of_touch(status: ClusterStatus) -> Problem:
    voters = _voters(status)
    if voters.are_few:
        do = f"start brokers until {voters.needed} of the {voters.known} voters run ({voters.here} of them"
        do += " answering here); all else follows by itself, and nothing that was acknowledged is lost"
    else:
        do = f"{voters.here} of {voters.known} voters answer here: mend the network between them (their ports"
        do += " for other brokers), and look into their logs"
        if voters.not_ready:
            do = f"wait some seconds: {voters.not_ready} of them may just be starting; if it stays so: {do}"
    says = (
        f"no controller: broker {status.told_by} has heard of none for {status.unheard_seconds:,.0f} s, and"
    )
    says += " of nothing that happened since: leaders do not change, and topics cannot be created"
    if status.behind:
        says = f"{age_of(status)}: what happened since is not known here"
    return Problem(
        name="out_of_touch",
        count=1,
        says=says,
        do=do,
        first=(),
    )


def _without_controller(brokers: Sequence[BrokerDescription]) -> list[Problem]:
    if any(broker.controller for broker in brokers):
        return []
    says = "no broker is the controller: leaders do not change, and topics cannot be created"
    do = "ask again in some seconds; if it stays so, start brokers until more than half of the voters run"
    return [Problem(name="without_controller", count=1, says=says, do=do, first=())]


def _of_brokers(status: ClusterStatus) -> Iterable[Problem]:
    """Each broker that is not as it should be, once."""
    silent, not_ready = status.silent, status.not_ready
    left = {each.id for each in _left(status)}
    ready = [each for each in status.brokers if each.id not in not_ready and each.id not in left]

    def those(*, runs: bool, is_heard: bool) -> list[BrokerDescription]:
        return [
            each for each in ready if (each.state == "running", each.id not in silent) == (runs, is_heard)
        ]

    def problem(name: str, found: list[BrokerDescription], says: str, do: str) -> Iterable[Problem]:
        if found:
            why = {**silent, **not_ready}
            first = tuple(_named(each, why.get(each.id)) for each in found[:NAMED_MAX])
            says = f"{counted(len(found), 'broker')} {says}"
            yield Problem(name=name, count=len(found), says=says, do=do, first=first)

    yield from problem(
        "not_running",
        those(runs=False, is_heard=False),
        "not running" if status.current else "not reached",
        "start them: millpond broker --config FILE; their logs say why they ended",
    )
    wait = "ask again in some seconds: those that are down are told of then"
    if (voters := _voters(status)).are_few:
        wait = (
            f"start those that are down: while {voters.here} of {voters.known} voters run, nothing can change"
        )
    yield from problem(
        "silent",
        those(runs=True, is_heard=False),
        "that the cluster takes to be running, and that do not answer here",
        f"{wait}; those that run cannot be reached from here at the address that they advertise",
    )
    yield from problem(
        "not_ready",
        [each for each in status.brokers if each.id in not_ready],
        "answering here, and not ready",
        "wait some seconds: they run, and start or stop; if it stays so: can they reach the other brokers,"
        " and be reached by them, at the ports for brokers? Their logs say what they wait for",
    )
    yield from problem(
        "out_of_cluster",
        those(runs=False, is_heard=True),
        "answering here, but out of the cluster",
        "wait some seconds; if it stays so: can they reach the other brokers, and be reached by them, at the"
        " ports for brokers? Their logs say more",
    )


def _named(broker: BrokerDescription, why: str | None) -> str:
    reason = "" if why is None else f": {why}"
    return f"broker {broker.id} ({broker.state}, {broker.address}{reason})"


def _of_kind(kind: _Kind, placed: Sequence[_Placed]) -> Problem | None:
    found = [each.name for each in placed if kind.is_so(each)]
    if not found:
        return None
    return Problem(
        name=kind.name,
        count=len(found),
        says=f"{counted(len(found), 'partition')} {kind.says}",
        do=kind.do,
        first=tuple(found[:NAMED_MAX]),
        harmful=kind.harmful,
    )
