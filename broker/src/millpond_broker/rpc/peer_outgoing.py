"""The sending end of the link to one peer, kept through whatever breaks it, by one thread.

That thread alone tells the voter, so that it is told "connected" and "disconnected" in turns and in order.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from millpond_broker.consensus.peers import PeerEvents
from millpond_broker.observe.logs import event
from millpond_broker.rpc.peer_connection import Connection
from millpond_broker.rpc.peer_handshake import LinkRefused, Reason
from millpond_broker.rpc.peer_log import PeerLog

_log: Final = logging.getLogger(__name__)

PAUSE_SECONDS_MIN: Final = 0.1
"""Before an attempt, after a link that worked."""
PAUSE_SECONDS_MAX: Final = 0.8
"""Before an attempt, after many in vain: a peer that is back is found within a second."""
WORKED_SECONDS: Final = 1.0
"""A link that lasted so long worked: what breaks sooner may break again."""
PREDECESSOR_SECONDS_MAX: Final = 3.0
"""For the thread of a link that was given up to end."""

_USUAL: Final = (Reason.UNREACHABLE, Reason.MOVED, Reason.CLOSED)
"""Ends of links that nobody needs to look into: peers are stopped and started."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all links of a voter have in common."""

    events: PeerEvents
    secret: bytes
    log: PeerLog
    resolver: str
    """What stands before host:port in a gRPC target."""


class OutgoingLink:
    """From `connect` to `disconnect`. `after` is the one that the same peer had before, given up."""

    def __init__(self, peer: int, address: str, shared: Shared, after: OutgoingLink | None) -> None:
        self._peer = peer
        self._shared = shared
        self._after = after
        self._changed = threading.Condition()
        """Guards what follows. Never held while the voter is told anything."""
        self._address = address
        self._given_up = False
        self._connection: Connection | None = None
        self._not_before = 0.0
        """When the next attempt may be made."""
        self._earliest = 0.0
        """When it may be made if the peer has shown that it is there."""
        self._told_at: float | None = None
        """When the voter was told of the link there is now. Of this link's thread only."""
        self._thread = threading.Thread(target=self._run, name=f"millpond-peer-{peer}", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def move(self, address: str) -> None:
        """The peer is to be reached at this address from now on."""
        with self._changed:
            if address == self._address:
                return
            self._address = address
            self._not_before = 0.0
            connection = self._connection
            self._changed.notify_all()
        if connection is not None:
            connection.end(LinkRefused(Reason.MOVED, "the peer has another address"))

    def hurry(self) -> None:
        """The peer is there: do not wait any longer than after a link that worked, nor for an attempt that
        began when it was away. A name server may take seconds to say that a name means nothing any more.
        """
        with self._changed:
            self._not_before = min(self._not_before, self._earliest)
            connection = self._connection
            self._changed.notify_all()
        if connection is not None:
            connection.hurry()

    def put(self, messages: Sequence[bytes]) -> None:
        """Queue them on the link, if there is one."""
        if (connection := self._connection) is not None:
            connection.put(messages)

    def give_up(self) -> None:
        """Nothing is told from now on, and the thread ends soon."""
        with self._changed:
            self._given_up = True
            connection = self._connection
            self._changed.notify_all()
        if connection is not None:
            connection.end(LinkRefused(Reason.CLOSED, "the link was given up"))

    def join(self, seconds: float) -> bool:
        """Wait for the thread to end; whether it has."""
        if self._thread is threading.current_thread():
            return False
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        if self._after is not None:
            self._after.join(PREDECESSOR_SECONDS_MAX)
            self._after = None
        pause = PAUSE_SECONDS_MIN
        while (connection := self._next_connection()) is not None:
            self._told_at = None
            try:
                end = connection.run(self._tell_connected, self._tell_disconnected)
            except Exception as error:  # a thread's root: a mistake of ours costs a link, and is tried again
                event(_log, logging.ERROR, "peer_link_failed", peer=self._peer, trace=error)
                end = LinkRefused(Reason.FAILED, f"{type(error).__name__} in a link")
            with self._changed:
                self._connection = None
            worked = self._told_at is not None and time.monotonic() - self._told_at >= WORKED_SECONDS
            pause = PAUSE_SECONDS_MIN if worked else min(2 * pause, PAUSE_SECONDS_MAX)
            self._after_attempt(end, pause, connected=self._told_at is not None)

    def _next_connection(self) -> Connection | None:
        with self._changed:
            while not self._given_up:
                if (wait := self._not_before - time.monotonic()) <= 0:
                    target = self._shared.resolver + self._address
                    events, secret = self._shared.events, self._shared.secret
                    self._connection = Connection(self._peer, target, events, secret)
                    return self._connection
                self._changed.wait(wait)
            return None

    def _after_attempt(self, end: LinkRefused, pause: float, *, connected: bool) -> None:
        now = time.monotonic()
        with self._changed:
            if self._given_up:
                return
            moved = end.reason is Reason.MOVED
            self._not_before = now if moved else now + pause
            self._earliest = now if moved else now + PAUSE_SECONDS_MIN
            address = self._address
        name = "peer_lost" if connected else "peer_not_reached"
        level = logging.INFO if end.reason in _USUAL else logging.WARNING
        self._shared.log.tell(level, name, self._peer, end.reason, address=address, detail=end.detail)

    def _tell_connected(self) -> None:
        with self._changed:
            if self._given_up:
                return
        self._told_at = time.monotonic()
        self._shared.log.tell(logging.INFO, "peer_reached", self._peer, address=self._address)
        self._shared.events.on_connected(self._peer)

    def _tell_disconnected(self) -> None:
        with self._changed:
            if self._given_up or self._told_at is None:
                return
        self._shared.events.on_disconnected(self._peer)
