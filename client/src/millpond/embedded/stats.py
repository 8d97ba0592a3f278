"""What a queue says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
