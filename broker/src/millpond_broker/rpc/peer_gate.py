"""The gate of the broker-to-broker port: few handshakes at once, and none for long.

Until a handshake is over nobody knows who is there. Were the gate's places first come, first served, a few
strangers who open a stream and say nothing could keep every peer out. So the newest gets in, and the oldest
has to go: a peer needs its place for milliseconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from millpond_broker.rpc.peer_handshake import Reason

HANDSHAKES_MAX: Final = 16
"""Under way at once: a cluster's voters and brokers all knock at one that starts."""
HANDSHAKE_SECONDS_MAX: Final = 2.0
"""Of one handshake: three round trips, of which a slow one takes a third of a second."""


class Visit:
    """One handshake under way."""

    def __init__(self, deadline: float, cancel: Callable[[], object]) -> None:
        self.deadline = deadline
        self.cancel = cancel
        """Ends the stream, from whatever thread."""
        self.given_up: Reason | None = None


class Gate:
    """Ends handshakes that take too long, by a thread of its own that sleeps while there is none."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._visits: list[Visit] = []
        """By deadline, the next first."""
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="millpond-peer-gate", daemon=True)

    def start(self) -> None:
        """From now on deadlines are kept."""
        self._thread.start()

    def enter(self, cancel: Callable[[], object]) -> Visit:
        """Begin a handshake. The oldest is given up for it, if there are too many."""
        visit = Visit(time.monotonic() + HANDSHAKE_SECONDS_MAX, cancel)
        oldest = None
        with self._changed:
            if len(self._visits) >= HANDSHAKES_MAX:
                oldest = self._visits.pop(0)
                oldest.given_up = Reason.TOO_MANY
            self._visits.append(visit)
            assert len(self._visits) <= HANDSHAKES_MAX
            self._changed.notify()
        if oldest is not None:
            oldest.cancel()
        return visit

    def leave(self, visit: Visit) -> None:
        """The handshake is over, one way or another."""
        with self._changed:
            if visit in self._visits:
                self._visits.remove(visit)

    def close(self, seconds: float) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                wait = self._visits[0].deadline - time.monotonic() if self._visits else None
                if wait is None or wait > 0:
                    self._changed.wait(wait)
                    continue
                late = self._visits.pop(0)
                late.given_up = Reason.TOO_SLOW
            late.cancel()
