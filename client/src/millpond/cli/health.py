"""Is the cluster healthy, and if not, what is wrong and what can be done: judged from what it says of itself.

Values in, values out; `millpond cluster status` shows them. Internal topics count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from millpond.cli.output import counted

if TYPE_CHECKING:
    from millpond.admin import BrokerDescription, PartitionDescription, TopicDescription

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
        "without a leader, and none of whose brokers runs",
        "start the brokers of their replicas (millpond topic describe TOPIC); nothing else has their records",
    ),
    _Kind(
        "without_leader",
        lambda placed: not placed.is_led and not placed.is_offline,
        "without a leader",
        "start the brokers that were in sync last (ELR in millpond topic describe TOPIC); if their disks are"
        " gone: millpond cluster elect-leaders --topic TOPIC --partition P --unclean, which loses records",
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
        "wait some seconds, or: millpond cluster elect-leaders",
        harmful=False,
    ),
)
"""In the order in which one would mend them; a partition is in one of the first four at most."""


def problems_of(brokers: Sequence[BrokerDescription], topics: Iterable[TopicDescription]) -> list[Problem]:
    """What is wrong, the worst first; nothing for a cluster that is as it should be."""
    running = frozenset(broker.id for broker in brokers if broker.state == "running")
    placed = [_Placed(topic, partition, running) for topic in topics for partition in topic.partitions]
    return [
        *_without_controller(brokers),
        *_not_running(brokers),
        *(problem for kind in _OF_PARTITIONS if (problem := _of_kind(kind, placed)) is not None),
    ]


def _without_controller(brokers: Sequence[BrokerDescription]) -> list[Problem]:
    if any(broker.controller for broker in brokers):
        return []
    says = "no broker is the controller: leaders do not change, and topics cannot be created"
    do = "ask again in some seconds; if it stays so, start brokers until more than half of the voters run"
    return [Problem(name="without_controller", count=1, says=says, do=do, first=())]


def _not_running(brokers: Sequence[BrokerDescription]) -> list[Problem]:
    away = [broker for broker in brokers if broker.state != "running"]
    if not away:
        return []
    return [
        Problem(
            name="not_running",
            count=len(away),
            says=f"{counted(len(away), 'broker')} not running",
            do="start them: millpond broker --config FILE; their logs say why they ended",
            first=tuple(f"broker {each.id} ({each.state}, {each.address})" for each in away[:NAMED_MAX]),
        )
    ]


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
