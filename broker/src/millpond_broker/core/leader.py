"""The leader of one partition in one epoch: where the high watermark moves, and who may be answered then.

A machine of offsets: it is told how far its own log reaches and what of it is durable, and says where the
high watermark stands and which waiters are settled. It never sees a record. End offsets are exclusive.

    high_watermark <= durable_end with flush=commit, <= log_end with flush=interval
    the high watermark never moves back within an epoch (rule 6)
    a waiter is settled once: by reaching its end, or by the end of the epoch (rule 8)
"""

from __future__ import annotations

import enum
import heapq
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

from millpond.wire.errors import NotEnoughReplicas

W = TypeVar("W")


class Acks(enum.Enum):
    """What a producer waits for (rule 8)."""

    NONE = "none"
    LEADER = "leader"
    """Written by the leader: synced there with flush=commit."""
    ALL = "all"
    """Below the high watermark."""


@dataclass(frozen=True, kw_only=True)
class Reign:
    """What one leadership is bound to, from one version of the metadata (rule 12)."""

    topic: str
    partition: int
    leader_epoch: int
    in_sync: int
    """Members of the ISR, the leader among them."""
    min_insync: int
    """Effective minISR: min(the topic's, its replicas)."""
    waits_for_sync: bool
    """flush=commit: what this replica counts as its own is what was synced."""


class Waiter(NamedTuple, Generic[W]):
    """An answer that waits for an end offset. Ordered by it, then by arrival: tokens are never compared."""

    next_offset: int
    arrival: int
    token: W


class Advanced(NamedTuple, Generic[W]):
    """What one step of the log changed. `settled` in offset order."""

    high_watermark_moved: bool
    settled: list[W]


class Leader(Generic[W]):
    """The leader's offsets and waiters. `advance` is the only thing that moves the high watermark."""

    def __init__(self, reign: Reign, log_end: int, durable_end: int, log_start: int) -> None:
        self.reign = reign
        # The log end when this epoch began: the high watermark says nothing before it is there (rule 1).
        self.epoch_start: Final = log_end
        # Consumers read below it. Moved on by `advance` alone; never back within the epoch.
        self.high_watermark = log_start
        # How far the leader's own copy counts: durable_end or log_end, by the topic's flush. Never back.
        self._own_end = log_start
        self._by_own_end: list[Waiter[W]] = []
        self._by_high_watermark: list[Waiter[W]] = []
        self._arrivals = 0
        self.advance(log_end, durable_end)

    @property
    def answers_offsets(self) -> bool:
        """Whether the high watermark has reached this epoch's start, so that it can be told (rule 7)."""
        return self.high_watermark >= self.epoch_start

    def check_in_sync(self) -> None:
        """Before an append that is to be acknowledged by all (rule 8). Raises NotEnoughReplicas."""
        reign = self.reign
        if reign.in_sync < reign.min_insync:
            raise NotEnoughReplicas(
                topic=reign.topic,
                partition=reign.partition,
                in_sync=reign.in_sync,
                needed=reign.min_insync,
            )

    def wait(self, next_offset: int, acks: Acks, token: W) -> bool:
        """Whether the answer may go out now; if not, a later `advance` or `retire` returns the token."""
        assert acks is not Acks.NONE, "nobody waits for nothing"
        reached, waiters = (
            (self.high_watermark, self._by_high_watermark)
            if acks is Acks.ALL
            else (self._own_end, self._by_own_end)
        )
        if next_offset <= reached:
            return True
        self._arrivals += 1
        heapq.heappush(waiters, Waiter(next_offset, self._arrivals, token))
        return False

    def advance(self, log_end: int, durable_end: int) -> Advanced[W]:
        """The log was appended to or synced: move what follows from it."""
        assert durable_end <= log_end, "what is durable was appended"
        own_end = durable_end if self.reign.waits_for_sync else log_end
        self._own_end = max(self._own_end, own_end)
        before = self.high_watermark
        if self.reign.in_sync >= self.reign.min_insync:
            # The minimum over the ISR, which is this replica alone until there is replication (rule 6).
            self.high_watermark = max(before, self._own_end)
        settled = _reached(self._by_own_end, self._own_end)
        settled += _reached(self._by_high_watermark, self.high_watermark)
        return Advanced(self.high_watermark > before, settled)

    def retire(self) -> list[W]:
        """The epoch is over for this replica: whoever still waits will never know from here (rule 8)."""
        left = [waiter.token for waiter in sorted(self._by_own_end + self._by_high_watermark)]
        self._by_own_end.clear()
        self._by_high_watermark.clear()
        return left


def _reached(waiters: list[Waiter[W]], end: int) -> list[W]:
    tokens = []
    while waiters and waiters[0].next_offset <= end:
        tokens.append(heapq.heappop(waiters).token)
    return tokens
