"""What links tell the log: each kind of event once a minute, however often it happens."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from millpond_broker.observe.logs import event

_log: Final = logging.getLogger(__name__)

SECONDS_BETWEEN: Final = 60.0
KINDS_MAX: Final = 256
"""Kinds that are remembered: a few reasons for each of a few peers. A kind is never made of what somebody
says who has proven nothing; beyond this many the oldest is forgotten."""


class PeerLog:
    """Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, str, int], tuple[float, int]] = {}
        """When each was last told, and how many times it has happened since."""

    def tell(self, level: int, name: str, /, peer: int, reason: str = "", **fields: object) -> None:
        """Log it, unless it was told of that peer (0: nobody proven) for that reason within a minute."""
        now = time.monotonic()
        with self._lock:
            told_at, left_out = self._kinds.get((name, reason, peer), (float("-inf"), 0))
            if now - told_at < SECONDS_BETWEEN:
                self._kinds[name, reason, peer] = told_at, left_out + 1
                return
            self._kinds.pop((name, reason, peer), None)
            while len(self._kinds) >= KINDS_MAX:
                del self._kinds[next(iter(self._kinds))]
            self._kinds[name, reason, peer] = now, 0
        if peer:
            fields["peer"] = peer
        if reason:
            fields["reason"] = reason
        if left_out:
            fields["left_out"] = left_out
        event(_log, level, name, **fields)
