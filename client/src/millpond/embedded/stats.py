"""What a queue says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from millpond.embedded.partition import Partition


@dataclass(frozen=True)
class PartitionStats:
    """One partition. End offsets are exclusive, sizes are bytes on disk."""

    partition: int
    log_start: int
    readable_end: int
    """Consumers see offsets below this: what will survive, under the queue's flush setting."""
    log_end: int
    size_bytes: int
    segments: int
    share: float
    """Part of the queue's records that lies here, 0 to 1; 1/partitions each when keys spread evenly."""
    state: Literal["ok", "corrupt", "failed"]


@dataclass(frozen=True)
class GroupStats:
    """One consumer group that has committed something, by partition."""

    committed: dict[int, int]
    """The next offset, where it committed one."""
    lag_records: dict[int, int]
    """For every partition, how many records the group has still to get."""


@dataclass(frozen=True)
class QueueStats:
    """A queue, looked at partition by partition while writers go on."""

    partitions: list[PartitionStats]
    groups: dict[str, GroupStats]

    @property
    def records(self) -> int:
        """Records that can be read or soon will be, over all partitions."""
        return sum(entry.log_end - entry.log_start for entry in self.partitions)

    @property
    def skew(self) -> float:
        """Records of the fullest partition over the mean; 1.0 is even, and what an empty queue has."""
        if not self.records:
            return 1.0
        return max(entry.share for entry in self.partitions) * len(self.partitions)


def partition_stats(number: int, partition: Partition) -> PartitionStats:
    """One partition, its share left at 0: see `with_shares`."""
    with partition.lock:
        log = partition.log
        return PartitionStats(
            partition=number,
            log_start=log.log_start,
            readable_end=partition.readable_end,
            log_end=log.log_end,
            size_bytes=log.size_bytes,
            segments=len(log.segments()),
            share=0.0,
            state="corrupt" if log.corruption else "failed" if log.failure else "ok",
        )


def with_shares(partitions: Sequence[PartitionStats]) -> list[PartitionStats]:
    """Shares of what these figures add up to, whatever was written since they were taken."""
    total = sum(entry.log_end - entry.log_start for entry in partitions)
    return [
        replace(entry, share=(entry.log_end - entry.log_start) / total if total else 0.0)
        for entry in partitions
    ]


def lag_records(committed: Mapping[int, int], partitions: Sequence[PartitionStats]) -> dict[int, int]:
    """What a group that committed these next offsets has still to get, by partition."""
    return {
        entry.partition: max(0, entry.log_end - max(entry.log_start, committed.get(entry.partition, 0)))
        for entry in partitions
    }
