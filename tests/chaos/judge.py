"""What came of a chaos run: one history of all its clients, judged; and how long writes stood still."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Protocol

from tests.sim.history.checker import check
from tests.sim.history.operations import INVOKE, OK, Operation, Poll, Send, from_lines, to_lines

FRESH: Final = "fresh"
"""The process that reads everything at the end, and knows nothing else."""
Place = tuple[str, int, str]
"""A partition, an offset, and the value there."""


class Struck(Protocol):
    """What is to be known of a strike: times of the clock of the history."""

    began_at: float
    healing_at: float | None
    counts_from_heal: bool


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Counts, and what is wrong in words: nothing, if all is well."""

    acknowledged: int
    read_fresh: int
    operations: int
    anomalies: list[str]


def merged(paths: Iterable[Path]) -> Iterator[Operation]:
    """One history of several, each in the order of its own process. The last line of a process that was
    killed may be torn, and is none.
    """
    return heapq.merge(
        *map(_operations, sorted(paths)), key=lambda operation: getattr(operation, "time", 0.0)
    )


def _operations(path: Path) -> list[Operation]:
    lines = path.read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    assert len(lines) - len(whole) <= 1, "only the last line can be torn"
    return from_lines(whole)


def judge(history: Sequence[Operation]) -> Verdict:
    """By the one checker; and by what the fresh one read: all that was acknowledged, where it was said to be;
    all that anybody else had read, acknowledged or not; and nothing that nobody sent.
    """
    sent: set[tuple[str, str]] = set()
    acknowledged: set[Place] = set()
    seen: dict[Place, str] = {}
    read: dict[tuple[str, int], str] = {}
    for operation in history:
        if isinstance(operation, Send) and operation.kind == INVOKE:
            sent.update((operation.partition, value) for value in operation.values)
        elif isinstance(operation, Send) and operation.kind == OK:
            assert operation.offset is not None, "an acknowledgement says where"
            for offset, value in enumerate(operation.values, start=operation.offset):
                acknowledged.add((operation.partition, offset, value))
        elif isinstance(operation, Poll) and operation.process == FRESH:
            read |= {(operation.partition, offset): value for offset, value in operation.records}
        elif isinstance(operation, Poll):
            for offset, value in operation.records:
                seen.setdefault((operation.partition, offset, value), operation.process)
    anomalies = [f"{found.name} {found.partition}: {found.detail}" for found in check(history)]
    anomalies += [
        f"unread-afresh {partition}: {value} at {offset}, which is {read.get((partition, offset))}"
        for partition, offset, value in sorted(acknowledged)
        if read.get((partition, offset)) != value
    ]
    anomalies += [
        f"vanished {partition}: {value} at {offset}, read by {seen[partition, offset, value]},"
        f" which is {read.get((partition, offset))}"
        for partition, offset, value in sorted(seen.keys() - acknowledged)
        if read.get((partition, offset)) != value
    ]
    anomalies += [
        f"phantom {partition}: {value} at {offset}, which nobody sent"
        for (partition, offset), value in sorted(read.items())
        if (partition, value) not in sent
    ]
    if not acknowledged:
        anomalies.append("nothing was acknowledged at all")
    return Verdict(
        acknowledged=len(acknowledged), read_fresh=len(read), operations=len(history), anomalies=anomalies
    )


def differences(on_disk: Mapping[int, Mapping[str, str]]) -> list[str]:
    """Where replicas do not have the same batches, by broker and partition: once nobody writes any more, and
    all are in sync. Whoever reads sees one of them only.
    """
    partitions = sorted({partition for logs in on_disk.values() for partition in logs})
    return [
        f"replicas-differ {partition}: {told}"
        for partition in partitions
        if len(set((told := {broker: logs.get(partition) for broker, logs in on_disk.items()}).values())) > 1
    ]


@dataclass(frozen=True, slots=True)
class Pause:
    """A time in which a partition acknowledged no writes: of the clock of the history."""

    partition: str
    began_at: float
    ended_at: float

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.ended_at - self.began_at


def pauses(history: Iterable[Operation], strikes: Sequence[Struck]) -> list[Pause | None]:
    """For each strike, the longest pause of writes of any partition that it has a part in; None: for good.

    That is the longest time between two acknowledgements of a partition that overlaps the strike: it needs no
    idea of when a fault took effect, which the engine does not tell. Where only the end of a strike could
    help, it is the time from the beginning of that until a record was acknowledged that was sent after it.
    A pause may belong to several strikes, none of which alone explains it.
    """
    sent: dict[tuple[str, str], float] = {}
    acks: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for operation in history:
        if isinstance(operation, Send):
            for value in operation.values:
                if operation.kind == INVOKE:
                    sent[operation.partition, value] = operation.time
                    acks[operation.partition]  # one without any is paused for good
                elif operation.kind == OK:
                    acks[operation.partition].append((sent[operation.partition, value], operation.time))
    found: list[Pause | None] = []
    for strike in strikes:
        measure = _since_healing if strike.counts_from_heal else _longest_gap
        measured = [measure(partition, pairs, strike) for partition, pairs in acks.items()]
        known = [pause for pause in measured if pause is not None]
        worst = max(known, key=lambda pause: pause.seconds, default=None)
        found.append(worst if len(known) == len(measured) else None)
    return found


def _since_healing(partition: str, pairs: Iterable[tuple[float, float]], strike: Struck) -> Pause | None:
    assert strike.healing_at is not None, "every strike is healed"
    began_at = strike.healing_at
    first = min((acked_at for sent_at, acked_at in pairs if sent_at >= began_at), default=None)
    return None if first is None else Pause(partition, began_at, first)


def _longest_gap(partition: str, pairs: Iterable[tuple[float, float]], strike: Struck) -> Pause | None:
    assert strike.healing_at is not None, "every strike is healed"
    times = sorted(acked_at for _, acked_at in pairs)
    gaps = [
        Pause(partition, max(before, strike.began_at), after)
        for before, after in pairwise(times)
        if after > strike.began_at and before < strike.healing_at
    ]
    return max(gaps, key=lambda pause: pause.seconds) if gaps and times[-1] > strike.healing_at else None


def summary(times: Iterable[float | None]) -> str:
    """Median, 95th percentile and maximum, in words."""
    known = sorted(time for time in times if time is not None)
    if not known:
        return "none"
    p95 = known[min(len(known) - 1, int(len(known) * 0.95))]
    return f"median {known[len(known) // 2]:.2f} s, p95 {p95:.2f} s, max {known[-1]:.2f} s of {len(known)}"


def write_history(history: Iterable[Operation], path: Path) -> None:
    """All of it in one file, as `tests.sim.history` reads it."""
    with path.open("w") as file:
        file.writelines(line + "\n" for line in to_lines(history))
