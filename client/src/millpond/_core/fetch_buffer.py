"""What was fetched and not handed out yet, in the order in which it came."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from millpond._core.session import Cursor
from millpond.wire.batch import Batch
from millpond.wire.errors import MillpondError


class FetchedBatch(NamedTuple):
    """A batch whose checksum holds. Its records from `start` on, and below `stop`, are wanted."""

    cursor: Cursor
    generation: int
    session: int
    batch: Batch
    start: int
    stop: int | None
    unreadable: MillpondError | None = None
    """Why it cannot be unpacked, where that is known already."""

    @property
    def next_offset(self) -> int:
        """Where the partition goes on after it."""
        end = self.batch.header.next_offset
        return end if self.stop is None else min(end, self.stop)


class FetchedGap(NamedTuple):
    """Retention was faster: the records before `resumed_at` are gone, and `skipped` offsets with them."""

    cursor: Cursor
    generation: int
    skipped: int
    resumed_at: int


class FetchedError(NamedTuple):
    """What a user must hear of, after what was fetched before it. No cursor: it is of no one partition."""

    cursor: Cursor | None
    generation: int
    error: MillpondError


Fetched = FetchedBatch | FetchedGap | FetchedError


class FetchBuffer:
    """First in, first out. Bounded by the credit that is granted, which `fetcher` counts in bytes."""

    def __init__(self) -> None:
        self._items: deque[Fetched] = deque()
        self.bytes = 0
        """Of batches, as they travelled."""

    def __len__(self) -> int:
        return len(self._items)

    def push(self, item: Fetched) -> None:
        """Add one behind all others."""
        self._items.append(item)
        if isinstance(item, FetchedBatch):
            self.bytes += len(item.batch.data)

    def pop(self) -> Fetched | None:
        """Take the oldest, whether or not its partition has been moved since."""
        if not self._items:
            return None
        item = self._items.popleft()
        if isinstance(item, FetchedBatch):
            self.bytes -= len(item.batch.data)
            assert self.bytes >= 0, "what goes out came in"
        return item
