"""A stream that this broker opens: one thread, which proves who is there and then reads what comes."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc

from millpond.v1.internal import peer_pb2 as pb
from millpond_broker.consensus.peers import PeerIdentity
from millpond_broker.observe.logs import event
from millpond_broker.rpc.peer_frames import STREAM_FRAME_BYTES_MAX, parse_frame
from millpond_broker.rpc.peer_handshake import NONCE_BYTES, LinkRefused, Opener, Proven, Reason
from millpond_broker.rpc.peer_server import SERVICE
from millpond_broker.rpc.peer_stream import GrpcPeerStream, Line, told_by
from millpond_broker.runtime.peers import Peer

_log: Final = logging.getLogger(__name__)

THREAD_SECONDS_MAX: Final = 1.0
"""For gRPC's threads to end after their call was cancelled."""
_OPTIONS: Final = (
    ("grpc.max_send_message_length", STREAM_FRAME_BYTES_MAX),
    ("grpc.max_receive_message_length", STREAM_FRAME_BYTES_MAX),
    ("grpc.http2.bdp_probe", 0),  # as in server.py: windows that do not grow
    ("grpc.http2.lookahead_bytes", STREAM_FRAME_BYTES_MAX),
    # A host that dies without a word is noticed after the sum of the two, which is longer than a session.
    ("grpc.keepalive_time_ms", 1_000),
    ("grpc.keepalive_timeout_ms", 2_500),
    ("grpc.http2.ping_timeout_ms", 2_500),  # by itself the time-out of keepalive is not kept (1.85)
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.min_reconnect_backoff_ms", 1_500),  # what one attempt to connect may take
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),  # no second question to the name server
    # Each stream has a connection of its own: none waits behind another's bytes.
    ("grpc.use_local_subchannel_pool", 1),
)

Make = Callable[[Peer, Proven, Callable[[], object]], GrpcPeerStream]
"""A stream of who has been proven, and of what ends its call. Raises LinkRefused."""


class Dial:
    """One attempt, and the stream that it may become."""

    def __init__(
        self,
        wanted: int,
        target: str,
        *,
        line: Line,
        secret: bytes,
        me: Peer,
        make: Make,
        done: Callable[[GrpcPeerStream | LinkRefused], None],
        ended: Callable[[Dial], None],
    ) -> None:
        """On the thread `done` is told what became of the attempt, and `ended` that nothing is left of it."""
        self._wanted = wanted
        self._target = target
        self._line = line
        self._secret = secret
        self._me = me
        self._make = make
        self._done = done
        self._ended = ended
        self._lock = threading.Lock()
        """Guards what follows."""
        self._call: Any = None
        self._given_up: LinkRefused | None = None
        self._stream: GrpcPeerStream | None = None
        self._opening: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        """Frames of the handshake; None: there is a stream, or there will be none."""
        self._sender: threading.Thread | None = None
        """gRPC's, for this call."""
        self._thread = threading.Thread(target=self._run, name=f"millpond-dial-{wanted}", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def give_up(self, reason: LinkRefused) -> None:
        """From any thread: no stream from now on, and the thread ends soon."""
        with self._lock:
            self._given_up = self._given_up or reason
            call, stream = self._call, self._stream
        if stream is not None:
            stream.end(reason)
        if call is not None:
            call.cancel()

    def join(self, seconds: float) -> None:
        """Wait for the thread to end."""
        self._thread.join(seconds)

    def _run(self) -> None:
        channel = grpc.insecure_channel(self._target, options=_OPTIONS)
        call: Any = None
        try:
            method: Any = channel.stream_stream(f"/{SERVICE.full_name}/{self._line.method}", None, None)
            call = method(self._frames())
            with self._lock:
                self._call = call
                given_up = self._given_up
            if given_up is not None:
                raise given_up
            stream = self._make_stream(call)
            with self._lock:
                self._stream = stream
            self._opening.put(None)
            self._done(stream)
            stream.read(call)
        except LinkRefused as refused:
            self._done(refused)
        except grpc.RpcError as error:
            self._done(self._given_up or LinkRefused(Reason.UNREACHABLE, told_by(error)))
        except Exception as error:  # a thread's root: a mistake of ours ends this attempt and no other
            event(_log, logging.ERROR, "peer_stream_failed", peer=self._wanted, trace=error)
            self._done(LinkRefused(Reason.FAILED, f"{type(error).__name__} in an attempt"))
        finally:
            self._opening.put(None)
            if call is not None:
                call.cancel()
            channel.close()
            if self._sender is not None:
                self._sender.join(THREAD_SECONDS_MAX)
            self._ended(self)

    def _make_stream(self, call: Any) -> GrpcPeerStream:
        me = self._me
        opener = Opener(
            self._secret,
            PeerIdentity(me.broker_id, me.directory_id, me.cluster_id),
            wanted=self._wanted,
            role=self._line.role,
            nonce=os.urandom(NONCE_BYTES),
            incarnation=me.incarnation,
        )
        self._opening.put(opener.hello().SerializeToString())
        self._opening.put(opener.prove(_next(call)).SerializeToString())
        proven = opener.finish(_next(call))
        return self._make(peer_of(proven), proven, call.cancel)

    def _frames(self) -> Iterator[bytes]:
        """What gRPC sends, on a thread of its own."""
        self._sender = threading.current_thread()
        while (frame := self._opening.get()) is not None:
            yield frame
        if self._stream is not None:
            yield from self._stream.frames()


def _next(call: Any) -> pb.PeerFrame:
    data = next(call, None)
    if data is None:
        raise LinkRefused(Reason.REFUSED, "it ended the stream within the handshake")
    return parse_frame(data)


def peer_of(proven: Proven) -> Peer:
    """Who was proven to be there."""
    who = proven.peer
    return Peer(who.broker_id, who.directory_id, proven.incarnation, who.cluster_id)
