"""The links of one voter over gRPC: one to each peer, and those that peers have made.

Where things are: `peer_handshake` and `peer_frames` say what travels, and decide; `peer_outgoing` keeps the
link to a peer, by one `peer_connection` after another; `peer_incoming` serves those that peers have made, on
the `peer_server`, behind the `peer_gate`. Streams of brokers share the server: `peer_port`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Final

from millpond.wire.errors import InvalidRequest
from millpond_broker.consensus.peers import PeerEvents
from millpond_broker.rpc.peer_frames import MESSAGE_BYTES_MAX
from millpond_broker.rpc.peer_incoming import IncomingLinks
from millpond_broker.rpc.peer_outgoing import OutgoingLink, Shared
from millpond_broker.rpc.peer_secret import SECRET_BYTES_MIN
from millpond_broker.rpc.peer_server import PeerPortOptions, PeerServer

METADATA: Final = "Metadata"
"""The method of links."""
CLOSE_SECONDS_MAX: Final = 3.0
"""For everything that `close` waits for, together."""


class GrpcPeerLinks:
    """Implements PeerLinks."""

    def __init__(
        self, events: PeerEvents, secret: bytes, options: PeerPortOptions, port: PeerServer | None = None
    ) -> None:
        """`port`: a server that somebody else starts and stops; None: one for these links alone."""
        assert len(secret) >= SECRET_BYTES_MIN, "read_secret refuses it"
        self._is_alone = port is None
        self._port = port or PeerServer(options)
        self._shared = Shared(events, secret, self._port.log, options.resolver)
        self._lock = threading.Lock()
        """Guards what follows. Never held while the voter is told anything."""
        self._links: dict[int, OutgoingLink] = {}
        self._given_up: dict[int, OutgoingLink] = {}
        """The last one of each peer that has none now; it may not have ended yet."""
        self._closed = False
        self._incoming = IncomingLinks(events, secret, self._port, self._hurry)
        self._port.serve(METADATA, self._incoming.serve)

    def start(self) -> int:
        """Listen, on a port for links alone. Raises InvalidConfig if it is taken."""
        assert self._is_alone, "who made the server starts it"
        return self._port.start()

    def connect(self, broker_id: int, address: str) -> None:
        """As the port says."""
        with self._lock:
            if self._closed:
                return
            if (link := self._links.get(broker_id)) is None:
                link = OutgoingLink(broker_id, address, self._shared, self._given_up.pop(broker_id, None))
                self._links[broker_id] = link
                link.start()
                return
        link.move(address)

    def disconnect(self, broker_id: int) -> None:
        """As the port says. What was being told when this was called may still be on its way."""
        with self._lock:
            if (link := self._links.pop(broker_id, None)) is not None:
                self._given_up[broker_id] = link
        if link is not None:
            link.give_up()

    def send(self, broker_id: int, messages: Sequence[bytes]) -> None:
        """As the port says. Raises InvalidRequest for a message that is too large, and then sends none."""
        for message in messages:
            if len(message) > MESSAGE_BYTES_MAX:
                reason = f"a message of {len(message)} bytes to a peer; {MESSAGE_BYTES_MAX} at most"
                raise InvalidRequest(reason=reason)
        if (link := self._links.get(broker_id)) is not None:
            link.put(messages)

    def close(self) -> None:
        """Give everything up; nothing is told after this, and nothing left behind."""
        deadline = time.monotonic() + CLOSE_SECONDS_MAX
        with self._lock:
            was_closed, self._closed = self._closed, True
            links = [*self._links.values(), *self._given_up.values()]
            self._links.clear()
            self._given_up.clear()
        for link in links:
            link.give_up()
        if not was_closed:  # somebody else may serve links by now
            self._port.serve(METADATA, None)
        self._incoming.close()
        if self._is_alone:
            self._port.stop(max(0.0, deadline - time.monotonic()))
        for link in links:
            link.join(max(0.0, deadline - time.monotonic()))

    def _hurry(self, broker_id: int) -> None:
        if (link := self._links.get(broker_id)) is not None:
            link.hurry()
