"""What a consumer has in hand: one unpacked batch, record by record, and so its position.

A batch is taken out of the fetcher and unpacked when its turn comes. The position of a partition is the
first record that was not handed out, whichever way they are: one by one, polled, or a batch at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from millpond._core.fetch_buffer import FetchedBatch, FetchedError, FetchedGap
from millpond._core.fetcher import Fetcher
from millpond._core.handout import Reading, RecordBatch, Refused, open_batch
from millpond._core.session import Cursor
from millpond.wire.errors import MillpondError
from millpond.wire.record import Record

K = TypeVar("K")
V = TypeVar("V")


class Hand(Generic[K, V]):
    """`records[at:]` is what is handed out next. Taking a record is `at += 1`, done by whoever takes it."""

    def __init__(self, fetcher: Fetcher, reading: Reading, on_gap: Callable[[FetchedGap], None]) -> None:
        self.records: list[Record[K, V]] = []
        self.at = 0
        self._fetcher = fetcher
        self._reading = reading
        self._on_gap = on_gap
        self._batch: RecordBatch[K, V] | None = None
        """What `records` are of, or what was handed out whole."""
        self._cursor: Cursor | None = None
        """Of the batch that was unpacked last."""
        self._parts: deque[RecordBatch[K, V] | Refused] = deque()
        """What is still to come of it."""
        self._failed: Cursor | None = None
        """Whose error was raised last; None for one that is of no one partition."""
        self._deferred_of: Cursor | None = None
        self._deferred: MillpondError | None = None

    @property
    def finished(self) -> bool:
        """Whether all that was wanted was handed out."""
        in_hand = self.at < len(self.records) or bool(self._parts) or self._deferred is not None
        return not in_hand and self._fetcher.finished

    def load(self, now: float) -> bool:
        """Make `records` those of the next batch; whether one lay ready. Raises as `take` does."""
        batch = self.take(now)
        if batch is None:
            return False
        self.records = batch.records()
        return True

    def take(self, now: float) -> RecordBatch[K, V] | None:
        """The next batch, or what is left of the one in hand; None when nothing lies ready.

        Raises, in its turn, what the user is to hear of; the position is past it then.
        """
        if self._deferred is not None:
            error, self._deferred, self._deferred_of = self._deferred, None, None
            raise error
        if self._batch is not None and self.at < len(self.records):
            self._batch = self._batch.slice(self.at, len(self.records))
            self.records, self.at = [], 0
            return self._batch
        self._leave()
        while not self._parts:
            if not self._unpack_next(now):
                return None
        part = self._parts.popleft()
        assert self._cursor is not None, "a part is of some partition"
        if isinstance(part, Refused):
            self._cursor.next_offset = part.next_offset
            self._failed = self._cursor
            raise part.error
        self._batch = part
        return part

    def defer(self, error: MillpondError) -> None:
        """Raise it at the next call: it came up behind records that are given back first."""
        self._deferred, self._deferred_of = error, self._failed

    def position(self, cursor: Cursor) -> int:
        """The offset that is handed out next."""
        if cursor is self._cursor:
            if self.at < len(self.records):
                return self.records[self.at].offset
            if self._batch is not None:
                return self._batch.next_offset
        return cursor.next_offset

    def moved(self, cursor: Cursor) -> None:
        """It was moved elsewhere: what is in hand of it is not handed out any more."""
        if cursor is self._deferred_of:
            self._deferred = self._deferred_of = None
        if cursor is self._cursor:
            self._parts.clear()
            self.records, self.at = [], 0
            self._batch = self._cursor = None

    def _leave(self) -> None:
        """All of the batch in hand was handed out."""
        if self._batch is not None and self._cursor is not None:
            self._cursor.next_offset = self._batch.next_offset
        self._batch = None
        self.records, self.at = [], 0

    def _unpack_next(self, now: float) -> bool:
        item: Any = self._fetcher.pop(now)
        if item is None:
            return False
        if isinstance(item, FetchedError):
            self._failed = item.cursor
            raise item.error
        if isinstance(item, FetchedGap):
            item.cursor.next_offset = item.resumed_at
            self._on_gap(item)
            return True
        assert isinstance(item, FetchedBatch), "there is no other kind"
        self._cursor = item.cursor
        self._parts.extend(open_batch(item, self._reading))
        if not self._parts:
            item.cursor.next_offset = item.next_offset
        return True
