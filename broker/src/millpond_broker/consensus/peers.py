"""The port to the other voters: what carries messages between them, and what it tells.

`rpc` implements `PeerLinks` over the broker-to-broker port, and whoever runs a voter implements `PeerEvents`.
Between two voters there are two links, one a direction, each made by the sender. On a link messages arrive
once, in order and whole, or it breaks: what was under way then is lost, and is never sent again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """Who a peer says it is; that it holds the cluster's secret has been proven."""

    broker_id: int
    directory_id: str
    """Names its disk. Under one broker id, no other will do."""
    cluster_id: bytes
    """Empty while a new voter has not been told yet."""


class PeerEvents(Protocol):
    """What links tell a voter. Any thread may call these; none of them blocks."""

    def identity(self) -> PeerIdentity:
        """Who this voter is, now."""

    def admit(self, peer: PeerIdentity) -> str | None:
        """Why that peer is not let in, in either direction; None if it is."""

    def on_connected(self, broker_id: int) -> None:
        """Messages can be sent to that peer from now on."""

    def on_disconnected(self, broker_id: int) -> None:
        """Messages cannot be sent to that peer any more, and those under way may be lost."""

    def on_message(self, broker_id: int, message: bytes) -> bool:
        """A message has come from that peer. False: there is no room for it. The link has to be broken then;
        no single message may be left out.
        """


class PeerLinks(Protocol):
    """The links of one voter. Each method may be called from any thread, and none blocks but `close`."""

    def connect(self, broker_id: int, address: str) -> None:
        """Keep a link to that peer, at host:port, from now on, through whatever breaks it. With another
        address than before, a link to the new one.
        """

    def disconnect(self, broker_id: int) -> None:
        """Give the link to that peer up. Nothing is told of it afterwards."""

    def send(self, broker_id: int, messages: Sequence[bytes]) -> None:
        """Send them in this order, after what was sent before. Without a link they are dropped. A link that
        cannot take them is broken.
        """

    def close(self) -> None:
        """Give everything up, within a bounded time."""
