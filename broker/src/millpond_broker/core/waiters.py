"""Answers that wait for an offset to be reached, each given back once: the leader's two queues of them."""

from __future__ import annotations

import heapq
from typing import Generic, NamedTuple, TypeVar

W = TypeVar("W")


class Waiter(NamedTuple, Generic[W]):
    """Ordered by offset, then by arrival: tokens are never compared."""

    next_offset: int
    arrival: int
    token: W


class Waiters(Generic[W]):
    """By the exclusive end offset that they wait for. Bounded by whoever adds them: what is unanswered is."""

    def __init__(self) -> None:
        self._heap: list[Waiter[W]] = []
        self._arrivals = 0

    def add(self, next_offset: int, token: W) -> None:
        """One more."""
        self._arrivals += 1
        heapq.heappush(self._heap, Waiter(next_offset, self._arrivals, token))

    def reached(self, end: int) -> list[W]:
        """Those that waited for `end` or less, in order."""
        tokens = []
        while self._heap and self._heap[0].next_offset <= end:
            tokens.append(heapq.heappop(self._heap).token)
        return tokens

    def clear(self) -> list[W]:
        """All of them, in order."""
        left, self._heap = sorted(self._heap), []
        return [waiter.token for waiter in left]
