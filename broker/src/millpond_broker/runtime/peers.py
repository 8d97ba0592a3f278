"""The port to other brokers: streams of messages, by which they replicate and ask one another.

`rpc` implements `PeerStreams` over the broker-to-broker port; the simulator has one in memory. What is said
on a stream is in `replication_messages` and `control_messages`, as values: how they travel is the port's own
business. On a stream messages arrive once, whole and in order, or it breaks; what was under way then is lost.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol


class Purpose(enum.Enum):
    """What a stream is for. Each has a connection of its own: none waits behind another's bytes."""

    CONTROL = "control"
    """Questions and answers: heartbeats, proposals, a cluster's foundation."""
    REPLICATION = "replication"
    """Opened by a follower to a leader, for all partitions between the two."""
    SUBSCRIPTION = "subscription"
    """Opened to a voter by a broker that does not vote: the metadata, as they are committed."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who a broker is, in one of its starts; that it holds the cluster's secret has been proven."""

    broker_id: int
    directory_id: str
    """Names its disk. Under one broker id, no other will do."""
    incarnation: bytes
    """16 bytes, drawn at each start."""
    cluster_id: bytes
    """Empty while a new broker has not been told yet."""


class StreamClosed(Exception):
    """The stream is over: closed here or there, or broken."""


class PeerUnreachable(Exception):
    """No stream to that broker: nobody there, nobody in time, somebody else, or not let in."""


class PeerRefused(PeerUnreachable):
    """That broker is there, and one of the two does not admit the other: why. Asking again is in vain."""


class PeerStream(Protocol):
    """One end of a stream. All methods are for the event loop's thread."""

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""

    def send(self, message: Any) -> None:
        """Put a message on its way, behind those before it. Dropped once the stream is over; a stream whose
        other end does not take what is sent is broken off, at a named bound.
        """

    async def receive(self) -> list[Any]:
        """What has come, in order: at least one. Raises StreamClosed, and then for ever; what came before has
        been handed out by then. One caller at a time.
        """

    def close(self) -> None:
        """Over, at once; what was sent may be lost. Closing twice is closing once."""


class PeerStreams(Protocol):
    """The broker-to-broker port of one broker."""

    def serve(self, purpose: Purpose, handler: Callable[[PeerStream], Awaitable[None]]) -> None:
        """Call `handler` with each stream that another broker opens; the stream is closed when it returns.
        Until there is one for a purpose, its streams are refused.
        """

    async def start(self, me: Callable[[], Peer], admit: Callable[[Peer], str | None]) -> str:
        """Listen; host:port where this broker is reached. `me`: who this broker is, now; `admit`: why a peer
        is not let in, in either direction, None if it is. Both may be called from any thread. Raises
        InvalidConfig if the port is taken.
        """

    async def open(self, broker_id: int, address: str, purpose: Purpose, seconds: float) -> PeerStream:
        """A new stream to that broker at host:port, on a connection of its own. Raises PeerUnreachable,
        within `seconds`; PeerRefused where `admit` refused, here or there.
        """

    async def close(self) -> None:
        """End every stream and stop listening, within a bounded time."""
