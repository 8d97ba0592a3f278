"""The receiving ends of links: who is let in, and their messages handed on in order.

Each stream has one of the server's threads for as long as it lasts. Synchronous gRPC, and no asyncio: the
event loop may be busy for a tenth of a second, and a voter that is not heard for a few of those is deposed.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, Final

import grpc

from millpond.v1.internal import peer_pb2 as pb
from millpond_broker.consensus.peers import PeerEvents
from millpond_broker.core.broker_commands import VOTERS_MAX
from millpond_broker.observe.logs import event
from millpond_broker.rpc.peer_frames import Joiner, parse_frame
from millpond_broker.rpc.peer_gate import Gate
from millpond_broker.rpc.peer_handshake import NONCE_BYTES, LinkRefused, Proven, Reason, Server
from millpond_broker.rpc.peer_log import PeerLog

_log: Final = logging.getLogger(__name__)

LINKS_MAX: Final = 2 * VOTERS_MAX
"""Served at once: one for each other voter, and as many again that were replaced and have not ended yet."""

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
}
"""Whatever is not here is INVALID_ARGUMENT. The opener logs the details; nothing depends on the status."""


class _Incoming:
    """One link that is served."""

    def __init__(self, proven: Proven, cancel: Callable[[], object], turn: threading.Lock) -> None:
        self.peer: Final = proven.peer.broker_id
        self.joiner: Final = Joiner(proven.key)
        self.cancel: Final = cancel
        self.turn: Final = turn
        """Held around `on_message`; all links of a peer share it, so that no message of one that was replaced
        comes after one of the newer link. No method of the port takes it."""
        self.over = False
        """Replaced by a newer link, or everything is given up: no message counts any more."""


class IncomingLinks:
    """The handler of PeerService.Metadata. `served` is told of each peer that has come in."""

    def __init__(
        self, events: PeerEvents, secret: bytes, log: PeerLog, served: Callable[[int], None]
    ) -> None:
        self._events = events
        self._secret = secret
        self._log = log
        self._served = served
        self._gate = Gate()
        self._lock = threading.Lock()
        self._links: list[_Incoming] = []
        """Replaced ones too, until their streams have ended; at most LINKS_MAX."""
        self._closed = False

    def start(self) -> None:
        """From now on streams may come."""
        self._gate.start()

    def handler(self) -> grpc.RpcMethodHandler[Any, Any]:
        """For gRPC; bytes in, bytes out."""
        return grpc.stream_stream_rpc_method_handler(self._metadata)

    def close(self, seconds: float) -> None:
        """No message is handed on from now on. The streams are the server's to end."""
        with self._lock:
            self._closed = True
            for link in self._links:
                link.over = True
        self._gate.close(seconds)

    def _metadata(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        link: _Incoming | None = None
        peer = 0
        try:
            server, proven = yield from self._handshake(requests, context)
            peer = proven.peer.broker_id
            if (refusal := self._events.admit(proven.peer)) is not None:
                raise LinkRefused(Reason.NOT_ADMITTED, refusal)
            link = self._let_in(proven, context.cancel)
            yield server.accept().SerializeToString()
            self._log.tell(logging.INFO, "peer_came_in", peer, at=context.peer())
            self._served(peer)
            self._receive(link, requests)
        except LinkRefused as refused:
            self._log.tell(
                logging.WARNING,
                "peer_refused" if link is None else "peer_broken_off",
                peer,
                refused.reason,
                at=context.peer(),
                detail=refused.detail,
            )
            context.abort(_STATUS.get(refused.reason, grpc.StatusCode.INVALID_ARGUMENT), refused.detail)
        except grpc.RpcError:
            pass  # the stream is gone; whoever opened it is told of that
        except Exception as error:  # a stream's root: a mistake of ours ends this link and no other
            event(_log, logging.ERROR, "peer_link_failed", peer=peer, trace=error)
            context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__} in a link")
        finally:
            if link is not None:
                self._forget(link)

    def _handshake(
        self, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Generator[bytes, None, tuple[Server, Proven]]:
        visit = self._gate.enter(context.cancel)
        nonce = os.urandom(NONCE_BYTES)
        server = Server(self._secret, self._events.identity(), role=pb.PEER_ROLE_METADATA, nonce=nonce)
        try:
            yield server.challenge(_next(requests)).SerializeToString()
            proven = server.check(_next(requests))
        except grpc.RpcError:
            if visit.given_up is not None:
                raise LinkRefused(visit.given_up, "its handshake was given up") from None
            raise
        finally:
            self._gate.leave(visit)
        return server, proven

    def _let_in(self, proven: Proven, cancel: Callable[[], object]) -> _Incoming:
        with self._lock:
            if self._closed:
                raise LinkRefused(Reason.CLOSED, "this voter is stopping")
            if len(self._links) >= LINKS_MAX:
                raise LinkRefused(Reason.TOO_MANY, f"{LINKS_MAX} links are served already")
            old = [link for link in self._links if link.peer == proven.peer.broker_id]
            for link in old:
                link.over = True
            new = _Incoming(proven, cancel, old[0].turn if old else threading.Lock())
            self._links.append(new)
        for link in old:
            link.cancel()
        return new

    def _forget(self, link: _Incoming) -> None:
        with self._lock:
            self._links.remove(link)

    def _receive(self, link: _Incoming, requests: Iterator[bytes]) -> None:
        for data in requests:
            for message in link.joiner.join(parse_frame(data)):
                with link.turn:
                    if link.over:
                        raise LinkRefused(Reason.REPLACED, "a newer link has taken its place")
                    room = self._events.on_message(link.peer, message)
                if not room:
                    raise LinkRefused(Reason.NO_ROOM, "there is no room for its messages")


def _next(requests: Iterator[bytes]) -> pb.PeerFrame:
    data = next(requests, None)
    if data is None:
        raise LinkRefused(Reason.MALFORMED, "it ended within the handshake")
    return parse_frame(data)
