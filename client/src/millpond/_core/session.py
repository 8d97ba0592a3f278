"""Two small states of fetching: where one partition stands (Cursor), and one stream to a leader (Session).

Only `fetcher` changes them. Times are seconds of whatever clock it is told.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from millpond.wire.errors import MillpondError
from millpond.wire.record import TopicPartition

PING_AFTER_S: Final = 3.0
"""A stream on which nothing came for so long is asked whether it is there."""
PONG_WITHIN_S: Final = 5.0
"""And given up when it does not say so within this: a stalled stream must not look like an idle topic."""


class Place(NamedTuple):
    """Who led a partition, in which epoch, when it was subscribed."""

    broker: int
    leader_epoch: int


@dataclass(slots=True, eq=False)
class Cursor:
    """Where a consumer stands in one partition. `next_offset <= fetch_offset`."""

    key: TopicPartition
    topic_id: bytes
    next_offset: int
    """The next to be handed out, where nothing of the partition is in the user's hands."""
    fetch_offset: int
    """The next to ask a broker for. What lies between the two is in the buffer."""
    floating: bool
    """It begins with whatever there is first: until a record was fetched, a later log start is no gap."""
    stop_at: int | None
    """Where it is finished; None: it never is."""
    holes: bool = True
    """Whether offsets may be missing above the log start, as compaction leaves them."""
    generation: int = 0
    """Grows with each seek: what was fetched before one is not handed out after it."""
    session: int | None = None
    """The session it is subscribed on, under `handle`."""
    handle: int = 0
    place: Place | None = None
    """Where it was subscribed last."""
    attached_at: float = 0.0
    retry_at: float = 0.0
    failures: int = 0
    """In a row, since it last received anything."""
    corrupt: int = 0
    """Batches in a row whose checksum was wrong."""
    trouble: MillpondError | None = None
    troubled_at: float = 0.0
    """What keeps it from receiving, and since when."""
    halted: bool = False
    """An error of it lies in the buffer: it is not subscribed again until that was raised."""
    log_start: int = 0
    high_watermark: int = -1
    """As last heard; -1: never."""

    @property
    def fetched_all(self) -> bool:
        """Whether it has fetched everything up to where it stops."""
        return self.stop_at is not None and self.fetch_offset >= self.stop_at


class FetchFrom(NamedTuple):
    """One subscription to begin."""

    handle: int
    topic_id: bytes
    partition: int
    offset: int


class FetchAsk(NamedTuple):
    """One message to a leader: more credit, subscriptions to begin and to end, a ping (0: none)."""

    credit_bytes: int
    start: tuple[FetchFrom, ...]
    stop: tuple[int, ...]
    ping: int


class FetchedPart(NamedTuple):
    """What a leader sent for one subscription."""

    handle: int
    batches: bytes
    high_watermark: int
    log_start: int
    error: MillpondError | None


@dataclass(slots=True, eq=False)
class Session:
    """One fetch stream. Ends with it: a stream that is opened anew is another session."""

    id: int
    broker: int
    heard_at: float
    cursors: dict[int, Cursor] = field(default_factory=dict)
    """By handle: the subscriptions that have not ended. A handle is never used again."""
    last_handle: int = 0
    starts: list[FetchFrom] = field(default_factory=list)
    stops: list[int] = field(default_factory=list)
    """Not sent yet."""
    granted_bytes: int = 0
    received_bytes: int = 0
    buffered_bytes: int = 0
    """Of what was received, what still lies in the buffer."""
    closing: bool = False
    """It has no subscriptions any more, and will get none."""
    last_ping: int = 0
    pinged_at: float | None = None
    """When the ping was sent that nothing came after yet."""

    @property
    def outstanding_bytes(self) -> int:
        """What may still be sent. Below 0 after a batch that was larger than the credit."""
        return self.granted_bytes - self.received_bytes

    @property
    def wake_at(self) -> float:
        """When to ask whether it is there, or to give it up."""
        if self.pinged_at is not None:
            return self.pinged_at + PONG_WITHIN_S
        return self.heard_at + PING_AFTER_S

    def stalled(self, now: float) -> bool:
        """Whether it did not answer in time."""
        return self.pinged_at is not None and now >= self.wake_at
