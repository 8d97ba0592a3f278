"""One end of a broker's stream, between the event loop and the two threads that gRPC takes for it.

Each of the three owns what it writes, so that none waits for a lock that another holds while the interpreter
runs a fourth: the loop sends and takes, one thread makes frames of what is sent, one makes messages of the
frames that come. What comes is bounded by not being read: HTTP/2 then holds the other end's sender. What is
to be sent is bounded by breaking the stream off.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import grpc

from millpond.v1.internal import peer_pb2 as pb
from millpond_broker.observe.logs import event
from millpond_broker.rpc import control_codec, replication_codec, subscription_codec
from millpond_broker.rpc.peer_frames import (
    FRAME_PAYLOAD_BYTES_MAX,
    STREAM_PAYLOAD_BYTES_MAX,
    Cutter,
    Joiner,
    Parcel,
    parse_frame,
)
from millpond_broker.rpc.peer_handshake import LinkRefused, Reason
from millpond_broker.runtime.peers import Peer, Purpose, StreamClosed

_log: Final = logging.getLogger(__name__)

QUEUED_BYTES_MAX: Final = 56 << 20
"""Waiting to be sent: what a replication stream may have under way (a window of 8 MiB and one batch of up to
32 MiB), and as much again as that window of answers and acknowledgements. Beyond it the other end does not
take what it asked for."""
RECEIVED_BYTES_MAX: Final = 16 << 20
"""Come and not yet taken, but for one message: a replication stream's window fits, so that its sender never
waits for more than that."""
MESSAGE_OVERHEAD_BYTES: Final = 256
"""Counted for each message beside its bytes: small ones cost more memory than those."""


@dataclass(frozen=True, slots=True)
class Line:
    """How the streams of one purpose travel."""

    method: str
    role: pb.PeerRole
    encode: Callable[[Any], Parcel]
    decode: Callable[[bytes, bytes], Any]


LINES: Final = {
    Purpose.CONTROL: Line("Control", pb.PEER_ROLE_CONTROL, control_codec.encode, control_codec.decode),
    Purpose.REPLICATION: Line(
        "Replication", pb.PEER_ROLE_REPLICATION, replication_codec.encode, replication_codec.decode
    ),
    Purpose.SUBSCRIPTION: Line(
        "Subscription", pb.PEER_ROLE_SUBSCRIPTION, subscription_codec.encode, subscription_codec.decode
    ),
}


@dataclass(frozen=True, slots=True)
class Keys:
    """Of the two directions, as this end sees them."""

    sent: bytes
    received: bytes


class GrpcPeerStream:
    """Implements PeerStream. Made once the other end is proven. `cancel` ends its call, from any thread;
    `over` is told that it is over, on any thread: None for the end that opened it.
    """

    def __init__(
        self,
        peer: Peer,
        line: Line,
        keys: Keys,
        *,
        loop: asyncio.AbstractEventLoop,
        cancel: Callable[[], object],
        over: Callable[[GrpcPeerStream], None] | None = None,
    ) -> None:
        self._peer = peer
        self._line = line
        self._loop = loop
        self._cancel = cancel
        self._over = over
        self._cutter = Cutter(keys.sent, STREAM_PAYLOAD_BYTES_MAX)
        self._joiner = Joiner(keys.received)
        self._ending = threading.Lock()
        """Guards that `_end` is set once."""
        self._end: LinkRefused | None = None
        """Why it is over, once it is."""
        # What is to be sent; None wakes the thread that sends. The loop counts in, that thread out.
        self._outbox: queue.SimpleQueue[Parcel | None] = queue.SimpleQueue()
        self._put_bytes = 0
        self._sent_bytes = 0
        # What has come, each message with its size. The thread that reads counts in, the loop out.
        self._inbox: deque[tuple[Any, int]] = deque()
        self._come_bytes = 0
        self._taken_bytes = 0
        self._is_handed = False
        """gRPC has a frame that has not left yet."""
        self._room = threading.Event()
        """Set when the thread that reads may go on."""
        self._is_held = False
        """It waits for that, or is about to."""
        self._is_awaited = False
        """The loop waits for messages, or is about to, and has not been woken for that."""
        self._waiter: asyncio.Future[None] | None = None
        self._is_closed = False
        """The loop has been told that it is over, or has said so."""

    # --- for the loop ------------------------------------------------------------------------------------

    @property
    def peer(self) -> Peer:
        """As the port says."""
        return self._peer

    def send(self, message: Any) -> None:
        """As the port says. Raises ValueError for a message that cannot be encoded: a mistake of ours."""
        if self._end is not None:
            return
        parcel = self._line.encode(message)
        size = _size(parcel)
        queued = self._put_bytes - self._sent_bytes
        if queued + size > QUEUED_BYTES_MAX:
            self.end(LinkRefused(Reason.NO_ROOM, f"{queued} bytes wait to be sent to it"))
            return
        self._put_bytes += size
        self._outbox.put(parcel)

    async def receive(self) -> list[Any]:
        """As the port says."""
        assert self._waiter is None, "one caller at a time"
        if self._inbox:
            await asyncio.sleep(0)  # who takes what comes without end lets others have their turns
        while not self._is_closed:
            if messages := self._taken():
                return messages
            if self._end is not None and not self._inbox:
                self._is_closed = True
                break
            await self._wait()
        raise StreamClosed(self.reason)

    def close(self) -> None:
        """As the port says."""
        self._is_closed = True
        self.end(LinkRefused(Reason.CLOSED, "it was closed here"))

    @property
    def reason(self) -> str:
        """Why it is over, for logs; empty while it is not."""
        return "" if self._end is None else f"{self._end.reason}: {self._end.detail}"

    async def _wait(self) -> None:
        """Until there may be something, or it is over."""
        self._waiter = self._loop.create_future()
        self._is_awaited = True
        try:
            if not self._inbox and self._end is None:  # else whoever did that may have seen nobody wait
                await self._waiter
        finally:
            self._is_awaited = False
            self._waiter = None

    def _taken(self) -> list[Any]:
        """Everything that has come by now."""
        messages = []
        for _ in range(len(self._inbox)):
            message, size = self._inbox.popleft()
            messages.append(message)
            self._taken_bytes += size
        if self._is_held:
            self._room.set()
        return messages

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- for any thread ----------------------------------------------------------------------------------

    @property
    def end_reason(self) -> LinkRefused | None:
        """Why it is over, once it is."""
        return self._end

    def end(self, reason: LinkRefused) -> None:
        """It is over, if it was not yet: the first reason counts."""
        with self._ending:
            if self._end is not None:
                return
            self._end = reason
        self._outbox.put(None)
        self._room.set()
        self._wake_loop()
        if self._over is not None:
            self._over(self)
        if self._over is None or self._is_handed:
            self._cancel()  # otherwise the server ends the call, with a status that says why

    def _wake_loop(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop is closed, and nobody waits any more
            self.end(LinkRefused(Reason.CLOSED, "the event loop is closed"))

    # --- for the thread that sends -----------------------------------------------------------------------

    def frames(self) -> Iterator[bytes]:
        """What gRPC sends, until it is over: it asks for the next frame when it has room for it."""
        while parcels := self._next_parcels():
            for frame in self._cutter.cut_parcels(parcels):
                self._is_handed = True
                yield frame
                self._is_handed = False
                if self._end is not None:
                    return

    def _next_parcels(self) -> list[Parcel]:
        """All that is queued, up to a frame's worth or one message; nothing when it is over."""
        parcels: list[Parcel] = []
        size = 0
        parcel = self._outbox.get()
        while parcel is not None and self._end is None:
            parcels.append(parcel)
            size += _size(parcel)
            if size >= FRAME_PAYLOAD_BYTES_MAX or self._outbox.empty():
                self._sent_bytes += size
                return parcels
            parcel = self._outbox.get()
        return []

    # --- for the thread that reads -----------------------------------------------------------------------

    def read(self, frames: Iterator[bytes]) -> None:
        """Take what comes until it is over."""
        try:
            for data in frames:
                for head, body in self._joiner.join_parcels(parse_frame(data)):
                    self._put(self._line.decode(head, body), _size((head, body)))
                if self._end is not None:
                    return
            self.end(LinkRefused(Reason.CLOSED, "its other end has closed it"))
        except LinkRefused as refused:
            self.end(refused)
        except grpc.RpcError as error:
            self.end(LinkRefused(Reason.UNREACHABLE, told_by(error)))
        except Exception as error:  # a thread's root: a mistake of ours ends this stream and no other
            event(_log, logging.ERROR, "peer_stream_failed", peer=self._peer.broker_id, trace=error)
            self.end(LinkRefused(Reason.FAILED, f"{type(error).__name__} in a stream"))

    def _put(self, message: Any, size: int) -> None:
        if self._end is not None:
            return
        self._come_bytes += size
        self._inbox.append((message, size))
        if self._is_awaited:
            self._is_awaited = False
            self._wake_loop()
        while self._come_bytes - self._taken_bytes >= RECEIVED_BYTES_MAX and self._end is None:
            self._room.clear()
            self._is_held = True
            if self._come_bytes - self._taken_bytes >= RECEIVED_BYTES_MAX and self._end is None:
                self._room.wait()  # until it is taken, or over
            self._is_held = False


DETAILS_CHARACTERS_MAX: Final = 200
"""Of what a peer says why it ended a stream: it need not be a peer of ours."""


def told_by(error: grpc.RpcError) -> str:
    """What gRPC knows of the end of a call."""
    if not isinstance(error, grpc.Call):  # a server's own
        return "its other end has gone"
    details = error.details() or ""
    return f"{error.code().name}: {details[:DETAILS_CHARACTERS_MAX]}"


def _size(parcel: Parcel) -> int:
    return len(parcel[0]) + len(parcel[1]) + MESSAGE_OVERHEAD_BYTES
