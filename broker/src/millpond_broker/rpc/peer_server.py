"""The one server on the broker-to-broker port: links between voters and brokers' streams, behind one gate.

Synchronous gRPC, and no asyncio: the event loop may be busy for a tenth of a second, and a voter that is not
heard for a few of those is deposed. Each stream has one of the server's threads for as long as it lasts.
Until there is somebody for a method, its streams are refused before anything is read of them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import grpc

from millpond.v1.internal import peer_pb2 as pb
from millpond.wire.errors import InvalidConfig
from millpond_broker.core.broker_commands import VOTERS_MAX
from millpond_broker.rpc.peer_frames import STREAM_FRAME_BYTES_MAX, parse_frame
from millpond_broker.rpc.peer_gate import HANDSHAKES_MAX, Gate
from millpond_broker.rpc.peer_handshake import LinkRefused, Proven, Reason, Server
from millpond_broker.rpc.peer_log import PeerLog

LINKS_MAX: Final = 2 * VOTERS_MAX
"""Links served at once: one for each other voter, and as many again that were replaced and have not ended
yet."""
SERVED_STREAMS_MAX: Final = 96
"""Of brokers, served at once: three or four from each of some dozens of brokers."""
STREAMS_MAX: Final = LINKS_MAX + SERVED_STREAMS_MAX + 2 * HANDSHAKES_MAX
"""Of gRPC's, at once, each with a thread: links, streams, handshakes, and handshakes given up that have not
ended yet. One more is refused before anything of it is read."""
CONNECTIONS_MAX: Final = 256
"""To the port, whoever they are: a port scan must not take the descriptors that the logs need."""
IDLE_MS_MAX: Final = 3_000
"""Of a connection without a stream. Peers have one from the first; others could stay by answering pings."""
SERVICE: Final = pb.DESCRIPTOR.services_by_name["PeerService"]

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", STREAM_FRAME_BYTES_MAX),
    ("grpc.max_send_message_length", STREAM_FRAME_BYTES_MAX),
    ("grpc.http2.bdp_probe", 0),  # as in server.py
    ("grpc.http2.lookahead_bytes", STREAM_FRAME_BYTES_MAX),
    ("grpc.so_reuseport", 0),
    ("grpc.max_allowed_incoming_connections", CONNECTIONS_MAX),
    ("grpc.max_concurrent_streams", 16),  # of one connection: a peer has one stream on each
    ("grpc.server_handshake_timeout_ms", 2_000),  # half-open connections, garbage
    ("grpc.max_connection_idle_ms", IDLE_MS_MAX),
    # A peer whose host died is not served for longer than it takes to notice, either. Longer than a session:
    # a connection that ended for a broker's silence would have it fenced while its lease still holds.
    ("grpc.keepalive_time_ms", 1_000),
    ("grpc.keepalive_timeout_ms", 2_500),
    ("grpc.http2.ping_timeout_ms", 2_500),  # by itself the time-out of keepalive is not kept (1.85)
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),  # two that a slow network brings together are no offence
)
_STATUS: Final = {
    Reason.SECRET: grpc.StatusCode.UNAUTHENTICATED,
    Reason.NOT_ADMITTED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.WRONG_PEER: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.VERSION: grpc.StatusCode.UNIMPLEMENTED,
    Reason.ROLE: grpc.StatusCode.UNIMPLEMENTED,
    Reason.TOO_MANY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.NO_ROOM: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.ALTERED: grpc.StatusCode.DATA_LOSS,
    Reason.CLOSED: grpc.StatusCode.UNAVAILABLE,
}
"""Whatever is not here is INVALID_ARGUMENT. The opener logs the details; nothing depends on the status."""

Behaviour = Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]
"""What serves a stream: frames that come in, frames that go out."""


@dataclass(frozen=True, kw_only=True)
class PeerPortOptions:
    """Where peers are served, and how their names are resolved."""

    listen: str
    """host:port; port 0 takes a free one."""
    advertise: str = ""
    """host:port where others reach it; empty: where it listens."""
    resolver: str = "dns:///"
    """Before host:port it makes a gRPC target. This one does whatever this machine does for a name; with none
    a host named like a scheme, `unix`, would be no host. "dns://192.0.2.1:53/" asks that name server."""


class PeerServer:
    """Listens from `start` to `stop`."""

    def __init__(self, options: PeerPortOptions) -> None:
        self.options: Final = options
        self.log: Final = PeerLog()
        self.gate: Final = Gate()
        self._behaviours: dict[str, Behaviour] = {}
        """By method."""
        self._threads = ThreadPoolExecutor(STREAMS_MAX, thread_name_prefix="millpond-peer-serve")
        self._server = grpc.server(
            self._threads, options=_OPTIONS, maximum_concurrent_rpcs=STREAMS_MAX, compression=None
        )
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            method.name: grpc.stream_stream_rpc_method_handler(self._served(method.name))
            for method in SERVICE.methods
        }
        generic = grpc.method_handlers_generic_handler(SERVICE.full_name, handlers)
        self._server.add_generic_rpc_handlers((generic,))

    def serve(self, method: str, behaviour: Behaviour | None) -> None:
        """From now on that is who serves new streams of the method; None: they are refused."""
        assert method in SERVICE.methods_by_name
        if behaviour is None:
            self._behaviours.pop(method, None)
        else:
            self._behaviours[method] = behaviour

    def start(self) -> int:
        """Listen; the port. Raises InvalidConfig if it is taken."""
        try:
            port = self._server.add_insecure_port(self.options.listen)
        except RuntimeError as error:
            raise InvalidConfig(key="cluster.peer_listen", reason=f"cannot listen there: {error}") from None
        self.gate.start()
        self._server.start()
        return port

    def stop(self, seconds: float) -> None:
        """Listen no more, and end every stream."""
        stopped = self._server.stop(None)
        self.gate.close(seconds)
        stopped.wait(seconds)
        self._threads.shutdown(wait=False)

    def _served(self, method: str) -> Behaviour:
        def serve(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            behaviour = self._behaviours.get(method)
            if behaviour is None:
                context.abort(grpc.StatusCode.UNAVAILABLE, "nobody serves that here now")
            return behaviour(requests, context)

        return serve


def serve_handshake(
    server: Server, gate: Gate, requests: Iterator[bytes], context: grpc.ServicerContext
) -> Generator[bytes, None, Proven]:
    """The server's part up to the proof of the other end. Raises LinkRefused, grpc.RpcError."""
    visit = gate.enter(context.cancel)
    try:
        yield server.challenge(_next(requests)).SerializeToString()
        return server.check(_next(requests))
    except grpc.RpcError:
        if visit.given_up is not None:
            raise LinkRefused(visit.given_up, "its handshake was given up") from None
        raise
    finally:
        gate.leave(visit)


def abort(context: grpc.ServicerContext, refused: LinkRefused) -> None:
    """End a stream with the status of why. Does not return."""
    context.abort(_STATUS.get(refused.reason, grpc.StatusCode.INVALID_ARGUMENT), refused.detail)


def _next(requests: Iterator[bytes]) -> pb.PeerFrame:
    data = next(requests, None)
    if data is None:
        raise LinkRefused(Reason.MALFORMED, "it ended within the handshake")
    return parse_frame(data)
