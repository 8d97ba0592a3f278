"""Judges a history: every way in which a log may have broken its word, by name.

The names are those of Jepsen's Kafka workload where it has one. What every partition really has is pieced
together from what was read and what was acknowledged; the check takes one pass for that, and one over it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from tests.sim.history.operations import (
    FAIL,
    INVOKE,
    OK,
    Assign,
    Delete,
    Gap,
    Operation,
    Poll,
    Refused,
    Send,
    Settings,
    Trim,
)


class Anomaly(NamedTuple):
    """Something that must not be."""

    name: str
    partition: str
    detail: str


@dataclass
class _Partition:
    """What is known of one."""

    name: str
    is_kept: bool = True
    is_deleted: bool = False
    trimmed_to: int = 0
    """Records before it may be gone."""
    gaps: list[Gap] = field(default_factory=list)
    at: dict[int, str] = field(default_factory=dict)
    """Values by offset, as first read or acknowledged."""
    offsets: dict[str, int] = field(default_factory=dict)
    """Offsets by value, likewise."""
    read: dict[str, int] = field(default_factory=dict)
    """Values that somebody read, with the greatest offset."""
    sends: list[Send] = field(default_factory=list)
    """What became of them, in that order."""
    invoked: dict[str, int] = field(default_factory=dict)
    """Values in the order in which they were sent."""
    polls: list[Poll | Assign | Gap] = field(default_factory=list)

    @property
    def read_up_to(self) -> int:
        return max(self.read.values(), default=-1)


def check(history: Iterable[Operation]) -> list[Anomaly]:
    """Everything that is wrong with it."""
    partitions: dict[str, _Partition] = {}
    found: list[Anomaly] = []
    for operation in history:
        if not hasattr(operation, "partition"):
            continue
        name = operation.partition
        partition = partitions.setdefault(name, _Partition(name))
        match operation:
            case Settings(is_kept=is_kept):
                partition.is_kept = is_kept
            case Send():
                found += _sent(partition, operation)
            case Poll():
                found += _polled(partition, operation)
            case Assign():
                partition.polls.append(operation)
            case Gap():
                partition.polls.append(operation)
                partition.gaps.append(operation)
            case Trim(offset=offset):
                partition.trimmed_to = max(partition.trimmed_to, offset)
            case Delete():
                partition.is_deleted = True
            case Refused(offset=offset, error=error):
                found.append(Anomaly("out-of-range", name, f"{offset}: {error}"))
    for partition in partitions.values():
        found += _lost(partition)
        found += _aborted(partition)
        found += _unordered_sends(partition)
        for process in dict.fromkeys(operation.process for operation in partition.polls):
            polls = [operation for operation in partition.polls if operation.process == process]
            found += _poll_order(partition, polls)
        found += _high_watermarks(partition)
        found += _gaps(partition)
    return found


# --- what each value and each offset is ------------------------------------------------------------------


def _sent(partition: _Partition, send: Send) -> Iterator[Anomaly]:
    if send.kind == INVOKE:
        for value in send.values:
            partition.invoked.setdefault(value, len(partition.invoked))
        return
    partition.sends.append(send)
    if send.kind == OK and send.acks == "all" and partition.is_kept and send.offset is not None:
        for offset, value in enumerate(send.values, start=send.offset):
            yield from _placed(partition, offset, value, "acknowledged")


def _polled(partition: _Partition, poll: Poll) -> Iterator[Anomaly]:
    partition.polls.append(poll)
    for offset, value in poll.records:
        partition.read[value] = max(offset, partition.read.get(value, -1))
        yield from _placed(partition, offset, value, f"read by {poll.process}")
        if offset >= poll.high_watermark:
            told = f"{poll.process} read {offset}, with the high watermark at {poll.high_watermark}"
            yield Anomaly("nonmonotonic-hw", partition.name, told)


def _placed(partition: _Partition, offset: int, value: str, how: str) -> Iterator[Anomaly]:
    known = partition.at.setdefault(offset, value)
    if known != value:
        told = f"{offset} is {known}, and {value} as {how}"
        yield Anomaly("inconsistent-offsets", partition.name, told)
    elsewhere = partition.offsets.setdefault(value, offset)
    if elsewhere != offset:
        told = f"{value} is at {elsewhere}, and at {offset} as {how}"
        yield Anomaly("duplicate", partition.name, told)


# --- what was acknowledged, and what failed --------------------------------------------------------------


def _lost(partition: _Partition) -> Iterator[Anomaly]:
    if not partition.is_kept or partition.is_deleted:
        return
    for send in partition.sends:
        if send.kind != OK or send.acks != "all":
            continue
        for value in send.values:
            offset = partition.offsets.get(value, -1)
            if value not in partition.read and not 0 <= offset < partition.trimmed_to:
                name = "lost-write" if offset <= partition.read_up_to else "unseen"
                yield Anomaly(name, partition.name, f"{value}, acknowledged at {offset} to {send.process}")


def _aborted(partition: _Partition) -> Iterator[Anomaly]:
    for send in partition.sends:
        if send.kind == FAIL:
            for value in send.values:
                if value in partition.read:
                    yield Anomaly("G1a", partition.name, f"{value} was not written: {send.error}")


def _unordered_sends(partition: _Partition) -> Iterator[Anomaly]:
    """Acknowledged sends of one process, in the order in which it sent them, go forward in the log."""
    if not partition.is_kept:
        return
    latest: dict[str, tuple[int, str]] = {}
    acknowledged = [send for send in partition.sends if send.kind == OK and send.acks == "all"]
    for send in sorted(acknowledged, key=lambda send: partition.invoked.get(send.values[0], -1)):
        if send.offset is None:
            continue
        offset, value = latest.get(send.process, (-1, ""))
        if send.offset <= offset:
            told = f"{send.process} sent {value} at {offset}, then {send.values[0]} at {send.offset}"
            yield Anomaly("nonmonotonic-send", partition.name, told)
        latest[send.process] = (send.offset, send.values[0])


# --- the order of what one process read -------------------------------------------------------------------


def _poll_order(partition: _Partition, polls: list[Poll | Assign | Gap]) -> Iterator[Anomaly]:
    expected: int | None = None
    for poll in polls:
        if isinstance(poll, Assign):
            expected = poll.offset
            continue
        if isinstance(poll, Gap):
            expected = poll.resumed_at
            continue
        offsets = [offset for offset, _ in poll.records]
        if not offsets:
            continue
        for before, after in pairwise(offsets):
            yield from _step(partition, poll, before + 1, after, "int-")
        if expected is not None:
            yield from _step(partition, poll, expected, offsets[0], "")
        expected = offsets[-1] + 1


def _step(partition: _Partition, poll: Poll, expected: int, offset: int, within: str) -> Iterator[Anomaly]:
    if offset < expected:
        told = f"{poll.process} read {offset} where {expected} is next"
        yield Anomaly(f"{within}nonmonotonic-poll", partition.name, told)
    from_offset = max(expected, partition.trimmed_to)
    skipped = [known for known in range(from_offset, offset) if known in partition.at]
    if skipped:
        told = f"{poll.process} read {offset} where {expected} is next, over {skipped[0]}"
        yield Anomaly(f"{within}poll-skip", partition.name, told)


def _gaps(partition: _Partition) -> Iterator[Anomaly]:
    """Nothing is gone but what was trimmed."""
    for gap in partition.gaps:
        if gap.resumed_at > partition.trimmed_to:
            told = f"{gap.process} lost {gap.offset} to {gap.resumed_at}, trimmed to {partition.trimmed_to}"
            yield Anomaly("gap", partition.name, told)


def _high_watermarks(partition: _Partition) -> Iterator[Anomaly]:
    """Within one subscription, which is at one broker in one leader epoch."""
    latest: dict[str, int] = {}
    for poll in partition.polls:
        if isinstance(poll, Poll) and poll.session:
            known = latest.get(poll.session, -1)
            if poll.high_watermark < known:
                told = f"{poll.session}: {poll.high_watermark} after {known}"
                yield Anomaly("nonmonotonic-hw", partition.name, told)
            latest[poll.session] = max(known, poll.high_watermark)
