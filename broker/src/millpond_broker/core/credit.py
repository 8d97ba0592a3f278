"""The credit of one replication stream: whose turn it is to be pushed, and how much (rule 38).

Credit is bytes that the follower has not taken yet. It comes back for every push, dropped ones too. Answers
and pushes without batches need none, and are not kept here: they never wait behind data.

    outstanding <= window + one batch: while any credit is left one more batch passes, whatever its size
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)


class Turn(NamedTuple, Generic[K]):
    """Whose turn it is, and how many bytes to read. A single batch may have more."""

    key: K
    bytes_max: int


@dataclass(slots=True)
class _Lane:
    """One partition of the stream. `is_ready`: it may have something."""

    outstanding_bytes: int = 0
    is_ready: bool = False


@dataclass(slots=True)
class Credit(Generic[K]):
    """One stream's window, by partition. In turns, so that one that has much to push delays no other."""

    window_bytes: Final[int]
    """Of the stream: bounds what a follower that is slow has to hold."""
    lane_bytes_max: Final[int]
    """Of one partition: leaves room for the others while its bytes are under way."""
    outstanding_bytes: int = 0
    # Those that have something, or bytes under way: at most the partitions of the stream.
    _lanes: dict[K, _Lane] = field(default_factory=dict)
    # Those that are ready, each once, in the order of their turns.
    _turns: deque[K] = field(default_factory=deque)

    def __post_init__(self) -> None:
        assert 0 < self.lane_bytes_max <= self.window_bytes, "a partition has a part of the window"

    def ready(self, key: K) -> None:
        """There may be something to push."""
        lane = self._lanes.setdefault(key, _Lane())
        if not lane.is_ready:
            lane.is_ready = True
            self._turns.append(key)

    def take(self) -> Turn[K] | None:
        """The next that may push; it is not ready any more, until it says so. None: nobody, or no credit."""
        left_bytes = self.window_bytes - self.outstanding_bytes
        if left_bytes <= 0:
            return None
        for _ in range(len(self._turns)):
            key = self._turns.popleft()
            lane = self._lanes[key]
            lane_left_bytes = self.lane_bytes_max - lane.outstanding_bytes
            if lane_left_bytes > 0:
                lane.is_ready = False
                self._forget(key, lane)
                return Turn(key, min(left_bytes, lane_left_bytes))
            self._turns.append(key)
        return None

    def pushed(self, key: K, size_bytes: int) -> None:
        """Batches of a partition are on their way."""
        if size_bytes:
            self._lanes.setdefault(key, _Lane()).outstanding_bytes += size_bytes
            self.outstanding_bytes += size_bytes

    def returned(self, key: K, size_bytes: int) -> bool:
        """The follower has room for that much again. False: it was sent less, which no follower says."""
        lane = self._lanes.get(key)
        if lane is None or not 0 <= size_bytes <= lane.outstanding_bytes:
            return False
        lane.outstanding_bytes -= size_bytes
        self.outstanding_bytes -= size_bytes
        self._forget(key, lane)
        return True

    def _forget(self, key: K, lane: _Lane) -> None:
        if not lane.is_ready and not lane.outstanding_bytes:
            del self._lanes[key]
