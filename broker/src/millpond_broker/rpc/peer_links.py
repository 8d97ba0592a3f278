"""The links of one voter over gRPC: the broker-to-broker port, and a link to each peer.

Where things are: `peer_handshake` and `peer_frames` say what travels, and decide; `peer_outgoing` keeps the
link to a peer, by one `peer_connection` after another; `peer_incoming` serves those that peers have made,
behind the `peer_gate`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import grpc

from millpond.v1.internal import peer_pb2 as pb
from millpond.wire.errors import InvalidConfig, InvalidRequest
from millpond_broker.consensus.peers import PeerEvents
from millpond_broker.rpc.peer_frames import FRAME_BYTES_MAX, MESSAGE_BYTES_MAX
from millpond_broker.rpc.peer_gate import HANDSHAKES_MAX
from millpond_broker.rpc.peer_incoming import LINKS_MAX, IncomingLinks
from millpond_broker.rpc.peer_log import PeerLog
from millpond_broker.rpc.peer_outgoing import OutgoingLink, Shared
from millpond_broker.rpc.peer_secret import SECRET_BYTES_MIN

STREAMS_MAX: Final = LINKS_MAX + 2 * HANDSHAKES_MAX
"""Streams at once, each with a thread: links, handshakes, and handshakes given up that have not ended yet.
One more is refused before anything of it is read."""
CONNECTIONS_MAX: Final = 256
"""To the port, whoever they are: a port scan must not take the descriptors that the logs need."""
IDLE_MS_MAX: Final = 3_000
"""Of a connection without a stream. Links have one from the first; others could stay by answering pings."""
CLOSE_SECONDS_MAX: Final = 3.0
"""For everything that `close` waits for, together."""
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", FRAME_BYTES_MAX),
    ("grpc.max_send_message_length", FRAME_BYTES_MAX),
    ("grpc.http2.bdp_probe", 0),  # as in server.py
    ("grpc.http2.lookahead_bytes", FRAME_BYTES_MAX),
    ("grpc.so_reuseport", 0),
    ("grpc.max_allowed_incoming_connections", CONNECTIONS_MAX),
    ("grpc.max_concurrent_streams", 16),  # of one connection: a link is one stream
    ("grpc.server_handshake_timeout_ms", 2_000),  # half-open connections, garbage
    ("grpc.max_connection_idle_ms", IDLE_MS_MAX),
    # A peer whose host died is not served for longer than it takes to notice, either.
    ("grpc.keepalive_time_ms", 1_000),
    ("grpc.keepalive_timeout_ms", 1_500),
    ("grpc.http2.ping_timeout_ms", 1_500),  # by itself the time-out of keepalive is not kept (1.85)
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),  # two that a slow network brings together are no offence
)


@dataclass(frozen=True, kw_only=True)
class PeerLinkOptions:
    """Where peers are served, and how their names are resolved."""

    listen: str
    """host:port; port 0 takes a free one."""
    resolver: str = "dns:///"
    """Before host:port it makes a gRPC target. This one does whatever this machine does for a name; with none
    a host named like a scheme, `unix`, would be no host. "dns://192.0.2.1:53/" asks that name server."""


class GrpcPeerLinks:
    """Implements PeerLinks."""

    def __init__(self, events: PeerEvents, secret: bytes, options: PeerLinkOptions) -> None:
        assert len(secret) >= SECRET_BYTES_MIN, "read_secret refuses it"
        self._options = options
        self._log = PeerLog()
        self._shared = Shared(events, secret, self._log, options.resolver)
        self._lock = threading.Lock()
        """Guards what follows. Never held while the voter is told anything."""
        self._links: dict[int, OutgoingLink] = {}
        self._given_up: dict[int, OutgoingLink] = {}
        """The last one of each peer that has none now; it may not have ended yet."""
        self._closed = False
        self._incoming = IncomingLinks(events, secret, self._log, self._hurry)
        self._threads = ThreadPoolExecutor(STREAMS_MAX, thread_name_prefix="millpond-peer-serve")
        self._server = grpc.server(
            self._threads, options=_OPTIONS, maximum_concurrent_rpcs=STREAMS_MAX, compression=None
        )
        service = pb.DESCRIPTOR.services_by_name["PeerService"]
        handlers = {"Metadata": self._incoming.handler()}
        assert {method.name for method in service.methods} == set(handlers), "the service is complete"
        generic = grpc.method_handlers_generic_handler(service.full_name, handlers)
        self._server.add_generic_rpc_handlers((generic,))

    def start(self) -> int:
        """Listen; the port. Raises InvalidConfig if it is taken."""
        try:
            port = self._server.add_insecure_port(self._options.listen)
        except RuntimeError as error:
            raise InvalidConfig(key="cluster.peer_listen", reason=f"cannot listen there: {error}") from None
        self._incoming.start()
        self._server.start()
        return port

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
            self._closed = True
            links = [*self._links.values(), *self._given_up.values()]
            self._links.clear()
            self._given_up.clear()
        for link in links:
            link.give_up()
        stopped = self._server.stop(None)
        self._incoming.close(max(0.0, deadline - time.monotonic()))
        for link in links:
            link.join(max(0.0, deadline - time.monotonic()))
        stopped.wait(max(0.0, deadline - time.monotonic()))
        self._threads.shutdown(wait=False)

    def _hurry(self, broker_id: int) -> None:
        if (link := self._links.get(broker_id)) is not None:
            link.hurry()
