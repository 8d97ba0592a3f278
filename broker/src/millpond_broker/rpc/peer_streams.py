"""Brokers' streams over gRPC: those that this broker opens, and those that are opened to it.

`peer_stream` is one end of one of them, `peer_dialing` how this broker opens one; here is who serves those
that come in, and what there is of all of them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import grpc

from millpond_broker.consensus.peers import PeerIdentity
from millpond_broker.observe.logs import event
from millpond_broker.rpc.peer_dialing import Dial, peer_of
from millpond_broker.rpc.peer_handshake import NONCE_BYTES, LinkRefused, Proven, Reason, Server
from millpond_broker.rpc.peer_server import SERVED_STREAMS_MAX, PeerServer, abort, serve_handshake
from millpond_broker.rpc.peer_stream import LINES, GrpcPeerStream, Keys
from millpond_broker.runtime.peers import (
    Peer,
    PeerRefused,
    PeerStream,
    PeerUnreachable,
    Purpose,
    StreamClosed,
)

_log: Final = logging.getLogger(__name__)

SERVED_PER_PEER_MAX: Final = 10
"""Streams of one peer that are served at once: for heartbeats, questions, replication, metadata and probes,
and as many again whose ends have not been noticed yet. The newest gets in, and the oldest has to go."""
OPENED_STREAMS_MAX: Final = 256
"""Attempts and streams of our own, at once: three threads and a connection each."""
CLOSE_SECONDS_MAX: Final = 3.0
"""For everything that `close` waits for, together."""

T = TypeVar("T")
Handler = Callable[[PeerStream], Awaitable[None]]


class GrpcPeerStreams:
    """Implements PeerStreams."""

    def __init__(self, secret: bytes, port: PeerServer) -> None:
        self._secret = secret
        self._port = port
        self._handlers: dict[Purpose, Handler] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        """One for each stream that is served."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._me: Callable[[], Peer] | None = None
        self._admit: Callable[[Peer], str | None] | None = None
        self._is_started = False
        self._lock = threading.Lock()
        """Guards what follows."""
        self._closed = False
        self._served: list[GrpcPeerStream] = []
        """Oldest first; at most SERVED_STREAMS_MAX."""
        self._readers: set[threading.Thread] = set()
        """Of streams that are, or were, served."""
        self._dials: set[Dial] = set()
        """At most OPENED_STREAMS_MAX."""

    # --- for the loop ------------------------------------------------------------------------------------

    def serve(self, purpose: Purpose, handler: Handler) -> None:
        """As the port says."""
        self._handlers[purpose] = handler

    async def start(self, me: Callable[[], Peer], admit: Callable[[Peer], str | None]) -> str:
        """As the port says."""
        assert not self._is_started, "once"
        self._loop = asyncio.get_running_loop()
        self._me, self._admit = me, admit
        for purpose, line in LINES.items():
            self._port.serve(line.method, self._behaviour(purpose))
        port = await _aside(self._port.start)
        self._is_started = True
        options = self._port.options
        return options.advertise or f"{options.listen.rpartition(':')[0]}:{port}"

    async def open(self, broker_id: int, address: str, purpose: Purpose, seconds: float) -> PeerStream:
        """As the port says."""
        loop, me = asyncio.get_running_loop(), self._me
        assert me is not None, "start comes first"
        settled: asyncio.Future[GrpcPeerStream | LinkRefused] = loop.create_future()

        def settle(result: GrpcPeerStream | LinkRefused) -> None:
            if not settled.done():
                settled.set_result(result)
            elif isinstance(result, GrpcPeerStream):
                result.close()  # too late for whoever asked

        def done(result: GrpcPeerStream | LinkRefused) -> None:
            try:
                loop.call_soon_threadsafe(settle, result)
            except RuntimeError:  # the loop is closed
                dial.give_up(LinkRefused(Reason.CLOSED, "the event loop is closed"))

        def make(peer: Peer, proven: Proven, cancel: Callable[[], object]) -> GrpcPeerStream:
            if (refusal := self._refusal(peer)) is not None:
                raise LinkRefused(Reason.NOT_ADMITTED, refusal)
            keys = Keys(sent=proven.key, received=proven.answers_key)
            return GrpcPeerStream(peer, LINES[purpose], keys, loop=loop, cancel=cancel)

        dial = Dial(
            broker_id,
            self._port.options.resolver + address,
            line=LINES[purpose],
            secret=self._secret,
            me=me(),
            make=make,
            done=done,
            ended=self._forget,
        )
        with self._lock:
            if self._closed:
                raise PeerUnreachable("this broker is stopping")
            if len(self._dials) >= OPENED_STREAMS_MAX:
                raise PeerUnreachable(f"{OPENED_STREAMS_MAX} streams have been opened already")
            self._dials.add(dial)
        dial.start()
        result = None
        try:
            async with asyncio.timeout(seconds):
                result = await settled
        except TimeoutError:
            raise PeerUnreachable(f"no stream within {seconds} s") from None
        finally:
            if result is None:
                dial.give_up(LinkRefused(Reason.CLOSED, "nobody waits for it any more"))
        if isinstance(result, LinkRefused):
            if result.reason is Reason.NOT_ADMITTED:
                raise PeerRefused(result.detail)
            raise PeerUnreachable(f"{result.reason}: {result.detail}")
        return result

    async def close(self) -> None:
        """As the port says."""
        deadline = time.monotonic() + CLOSE_SECONDS_MAX
        for line in LINES.values():
            self._port.serve(line.method, None)
        with self._lock:
            self._closed = True
            streams, dials, readers = list(self._served), list(self._dials), list(self._readers)
        stopping = LinkRefused(Reason.CLOSED, "this broker is stopping")
        for stream in streams:
            stream.end(stopping)
        for dial in dials:
            dial.give_up(stopping)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(0.0, deadline - time.monotonic()))

        def end() -> None:
            self._port.stop(max(0.0, deadline - time.monotonic()))
            for reader in readers:
                reader.join(max(0.0, deadline - time.monotonic()))
            for dial in dials:
                dial.join(max(0.0, deadline - time.monotonic()))

        await _aside(end)

    def _accept(self, stream: GrpcPeerStream, handler: Handler) -> None:
        if self._closed:
            return
        task = asyncio.Task(self._handle(stream, handler), name=f"stream of broker {stream.peer.broker_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, stream: GrpcPeerStream, handler: Handler) -> None:
        try:
            await handler(stream)
        except StreamClosed:
            pass  # as good as any other end
        except Exception as error:  # a task's root: a handler's mistake ends its stream and no other
            event(_log, logging.ERROR, "peer_stream_failed", peer=stream.peer.broker_id, trace=error)
        finally:
            stream.close()

    # --- on the server's threads -------------------------------------------------------------------------

    def _behaviour(
        self, purpose: Purpose
    ) -> Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]:
        def serve(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            return self._serve(purpose, requests, context)

        return serve

    def _serve(
        self, purpose: Purpose, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        assert self._me is not None
        peer, stream = 0, None
        try:
            me = self._me()
            server = Server(
                self._secret,
                PeerIdentity(me.broker_id, me.directory_id, me.cluster_id),
                role=LINES[purpose].role,
                nonce=os.urandom(NONCE_BYTES),
                incarnation=me.incarnation,
            )
            proven = yield from serve_handshake(server, self._port.gate, requests, context)
            peer = proven.peer.broker_id
            if (refusal := self._refusal(peer_of(proven))) is not None:
                yield server.refuse(refusal).SerializeToString()
                raise LinkRefused(Reason.NOT_ADMITTED, refusal)
            handler = self._handlers.get(purpose)
            if handler is None:
                raise LinkRefused(Reason.CLOSED, "nobody serves that here yet")
            stream = self._let_in(purpose, proven, context)
            yield server.accept().SerializeToString()
            self._begin(stream, handler, requests)
            yield from stream.frames()
            if stream.end_reason is not None:
                raise stream.end_reason
        except LinkRefused as refused:
            self._tell(peer, stream, refused, context)
            abort(context, refused)
        except grpc.RpcError:
            pass  # the stream is gone; whoever opened it is told of that
        except Exception as error:  # a stream's root: a mistake of ours ends this stream and no other
            event(_log, logging.ERROR, "peer_stream_failed", peer=peer, trace=error)
            context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__} in a stream")
        finally:
            if stream is not None:
                stream.end(LinkRefused(Reason.UNREACHABLE, "its other end has gone"))

    def _refusal(self, peer: Peer) -> str | None:
        assert self._admit is not None, "start comes first"
        return self._admit(peer)

    def _let_in(self, purpose: Purpose, proven: Proven, context: grpc.ServicerContext) -> GrpcPeerStream:
        assert self._loop is not None
        keys = Keys(sent=proven.answers_key, received=proven.key)
        new = GrpcPeerStream(
            peer_of(proven),
            LINES[purpose],
            keys,
            loop=self._loop,
            cancel=context.cancel,
            over=self._left,
        )
        oldest = None
        with self._lock:
            if self._closed:
                raise LinkRefused(Reason.CLOSED, "this broker is stopping")
            same = [stream for stream in self._served if stream.peer.broker_id == proven.peer.broker_id]
            if len(same) >= SERVED_PER_PEER_MAX:
                oldest = same[0]
                self._served.remove(oldest)
            if len(self._served) >= SERVED_STREAMS_MAX:
                raise LinkRefused(Reason.TOO_MANY, f"{SERVED_STREAMS_MAX} streams are served already")
            self._served.append(new)
        if oldest is not None:
            oldest.end(LinkRefused(Reason.REPLACED, f"{SERVED_PER_PEER_MAX} newer ones came from there"))
        gone = LinkRefused(Reason.UNREACHABLE, "its other end has gone")
        if not context.add_callback(lambda: new.end(gone)):
            new.end(gone)
        return new

    def _begin(self, stream: GrpcPeerStream, handler: Handler, requests: Iterator[bytes]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._accept, stream, handler)
        except RuntimeError:
            raise LinkRefused(Reason.CLOSED, "this broker has stopped") from None

        def read() -> None:
            try:
                stream.read(requests)
            finally:
                with self._lock:
                    self._readers.discard(threading.current_thread())

        name = f"millpond-stream-of-{stream.peer.broker_id}"
        reader = threading.Thread(target=read, name=name, daemon=True)
        with self._lock:
            self._readers.add(reader)
            reader.start()  # before anybody joins it

    def _left(self, stream: GrpcPeerStream) -> None:
        with self._lock:
            if stream in self._served:
                self._served.remove(stream)

    def _forget(self, dial: Dial) -> None:
        with self._lock:
            self._dials.discard(dial)

    def _tell(
        self, peer: int, stream: GrpcPeerStream | None, refused: LinkRefused, context: grpc.ServicerContext
    ) -> None:
        usual = refused.reason in (Reason.CLOSED, Reason.UNREACHABLE)
        self._port.log.tell(
            logging.INFO if usual else logging.WARNING,
            "peer_stream_refused" if stream is None else "peer_stream_ended",
            peer,
            refused.reason,
            at=context.peer(),
            detail=refused.detail,
        )


async def _aside(call: Callable[[], T]) -> T:
    """What waits, on a thread that ends with it."""
    with ThreadPoolExecutor(1, thread_name_prefix="millpond-peer-port") as thread:
        return await asyncio.get_running_loop().run_in_executor(thread, call)
