"""The leader epochs of one partition: where each began, and where a reader of an older one must cut.

Kafka's leader-epoch cache (KIP-101, KIP-279), rules 1 and 3. `storage` keeps it beside the log.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable


class LeaderEpochs:
    """(epoch, start offset) pairs; both strictly increase, the first start is at or below the log start."""

    def __init__(self, entries: Iterable[tuple[int, int]] = ()) -> None:
        self._epochs: list[int] = []
        self._starts: list[int] = []
        for epoch, start in entries:
            self.begin(epoch, start)

    def entries(self) -> list[tuple[int, int]]:
        """The pairs, oldest first."""
        return list(zip(self._epochs, self._starts, strict=True))

    @property
    def latest(self) -> int | None:
        """The greatest epoch that has an entry."""
        return self._epochs[-1] if self._epochs else None

    @property
    def start(self) -> int | None:
        """Where the oldest epoch that has an entry began."""
        return self._starts[0] if self._starts else None

    def begin(self, epoch: int, start: int) -> None:
        """`epoch` begins at offset `start`. An epoch that wrote nothing leaves no entry behind (its start
        is taken over).
        """
        assert not self._epochs or epoch > self._epochs[-1], "epochs only grow"
        assert not self._starts or start >= self._starts[-1], "an epoch begins where the log ends"
        while self._starts and self._starts[-1] == start:
            del self._epochs[-1], self._starts[-1]
        self._epochs.append(epoch)
        self._starts.append(start)

    def end_offset_for(self, epoch: int, log_end: int) -> tuple[int, int] | None:
        """(largest epoch <= `epoch`, its exclusive end): rule 3. None where none is that old."""
        at = bisect_right(self._epochs, epoch)
        if not at:
            return None
        return self._epochs[at - 1], self._starts[at] if at < len(self._starts) else log_end

    def cut_from(self, log_end: int) -> None:
        """The log now ends at `log_end`: forget epochs that began at or past it."""
        while self._starts and self._starts[-1] >= log_end:
            del self._epochs[-1], self._starts[-1]

    def cut_before(self, log_start: int) -> bool:
        """The log now starts at `log_start`: forget epochs that ended there, keep the one in force.
        Whether there was anything to forget.
        """
        in_force = bisect_right(self._starts, log_start) - 1
        if in_force <= 0:
            return False
        del self._epochs[:in_force], self._starts[:in_force]
        return True
