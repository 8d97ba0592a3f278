"""The receiving ends of links: which voters are let in, and their messages handed on in order."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Final

import grpc

from millpond.v1.internal import peer_pb2 as pb
from millpond_broker.consensus.peers import PeerEvents
from millpond_broker.observe.logs import event
from millpond_broker.rpc.peer_frames import Joiner, parse_frame
from millpond_broker.rpc.peer_handshake import NONCE_BYTES, LinkRefused, Proven, Reason, Server
from millpond_broker.rpc.peer_server import LINKS_MAX, PeerServer, abort, serve_handshake

_log: Final = logging.getLogger(__name__)


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
        self, events: PeerEvents, secret: bytes, port: PeerServer, served: Callable[[int], None]
    ) -> None:
        self._events = events
        self._secret = secret
        self._log = port.log
        self._gate = port.gate
        self._served = served
        self._lock = threading.Lock()
        self._links: list[_Incoming] = []
        """Replaced ones too, until their streams have ended; at most LINKS_MAX."""
        self._closed = False

    def close(self) -> None:
        """No message is handed on from now on."""
        with self._lock:
            self._closed = True
            links = list(self._links)
            for link in links:
                link.over = True
        for link in links:
            link.cancel()

    def serve(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """For the server: one stream."""
        link: _Incoming | None = None
        peer = 0
        try:
            nonce = os.urandom(NONCE_BYTES)
            identity = self._events.identity()
            server = Server(self._secret, identity, role=pb.PEER_ROLE_METADATA, nonce=nonce)
            proven = yield from serve_handshake(server, self._gate, requests, context)
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
            abort(context, refused)
        except grpc.RpcError:
            pass  # the stream is gone; whoever opened it is told of that
        except Exception as error:  # a stream's root: a mistake of ours ends this link and no other
            event(_log, logging.ERROR, "peer_link_failed", peer=peer, trace=error)
            context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__} in a link")
        finally:
            if link is not None:
                self._forget(link)

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
