"""One attempt to reach a peer, and the link that it may become: one channel, one call, one queue.

The frames are made on the thread that gRPC has for reading a call's requests: it takes all that is queued at
once, so that a burst costs one send, and waits for gRPC to have room, so that a peer that does not read fills
the queue here, which is bounded, and nothing else.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import grpc

from millpond.v1.internal import peer_pb2 as pb
from millpond_broker.consensus.peers import PeerEvents
from millpond_broker.observe.logs import event
from millpond_broker.rpc.peer_frames import (
    FRAME_BYTES_MAX,
    FRAME_PAYLOAD_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    Cutter,
    parse_frame,
)
from millpond_broker.rpc.peer_handshake import NONCE_BYTES, LinkRefused, Opener, Reason

_log: Final = logging.getLogger(__name__)

QUEUED_BYTES_MAX: Final = MESSAGE_BYTES_MAX + (32 << 20)
"""Waiting to be sent to a peer: the largest message, and whatever comes while it is on its way."""
QUEUED_MESSAGES_MAX: Final = 65_536
"""Small messages cost more memory than their bytes."""
ATTEMPT_SECONDS_MAX: Final = 5.0
"""From a name to a proven peer: time for a resolver whose first server is down, and for the handshake."""
HURRIED_SECONDS: Final = 0.5
"""An attempt that takes longer, though the peer is known to be there, waits for what an earlier address or an
unanswered question to the name server will not give: the next one finds the peer at once."""
STALL_SECONDS_MAX: Final = 5.0
"""For one frame to leave. A peer whose machine answers but which does not read is no peer."""
DETAILS_CHARACTERS_MAX: Final = 200
"""Of what a peer says why it ended a link: it need not be a peer of ours."""
THREAD_SECONDS_MAX: Final = 1.0
"""For gRPC's threads to end after their call was cancelled."""
METHOD: Final = f"/{pb.DESCRIPTOR.services_by_name['PeerService'].full_name}/Metadata"

_OPTIONS: Final = (
    ("grpc.max_send_message_length", FRAME_BYTES_MAX),
    ("grpc.max_receive_message_length", FRAME_BYTES_MAX),
    ("grpc.http2.bdp_probe", 0),  # as in server.py: windows that do not grow
    # A host that dies without a word is noticed after the sum of the two.
    ("grpc.keepalive_time_ms", 1_000),
    ("grpc.keepalive_timeout_ms", 1_500),
    ("grpc.http2.ping_timeout_ms", 1_500),  # by itself the time-out of keepalive is not kept (1.85)
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.min_reconnect_backoff_ms", 1_500),  # what one attempt to connect may take
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),  # no second question to the name server
    # Each attempt makes a connection of its own, to what the name means now.
    ("grpc.use_local_subchannel_pool", 1),
)


class Connection:
    """Made for one attempt; of no use once it is over."""

    def __init__(self, peer: int, target: str, events: PeerEvents, secret: bytes) -> None:
        self._peer = peer
        self._target = target
        self._events = events
        self._secret = secret
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        """Guards what follows, and wakes the link's thread. Never held while anything is called that is not
        ours."""
        self._work = threading.Condition(lock)
        """The same, and wakes the thread that sends; one condition for both would wake two for a message."""
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._proven = False
        self._end: LinkRefused | None = None
        """Why it is over, once it is: the first reason counts."""
        self._handed_at: float | None = None
        """Since when gRPC has had a frame that has not left yet."""
        self._call: Any = None
        self._done = threading.Event()
        """The call has ended for gRPC, too."""
        self._threads: set[threading.Thread] = set()
        """gRPC's, for this call; joined at the end."""
        self._began_at = time.monotonic()
        self._is_hurried = False
        self._is_answered = False

    # --- for the thread that owns the link ---------------------------------------------------------------

    def run(self, connected: Callable[[], None], disconnected: Callable[[], None]) -> LinkRefused:
        """Try; call `connected` once the peer is proven, and `disconnected` once that is over; return why it
        is over. Leaves nothing behind.
        """
        channel = grpc.insecure_channel(self._target, options=_OPTIONS)
        try:
            stream: Any = channel.stream_stream(METHOD, None, None)
            call = stream(self._frames())
            call.add_done_callback(self._on_done)
            with self._changed:
                self._call = call
                self._work.notify_all()
            if self._wait_proven():
                try:
                    connected()
                    self._wait_over()
                finally:
                    self.end(LinkRefused(Reason.FAILED, "the voter could not be told of it"))
                    call.cancel()  # nothing of it leaves any more
                    disconnected()
        finally:
            self.end(LinkRefused(Reason.CLOSED, "it was closed"))
            if self._call is not None:
                self._call.cancel()
                self._done.wait(THREAD_SECONDS_MAX)
            channel.close()
            for thread in self._threads - {threading.current_thread()}:
                thread.join(THREAD_SECONDS_MAX)
        assert self._end is not None, "it has just ended, at the latest"
        return self._end

    def _wait_proven(self) -> bool:
        with self._changed:
            while not self._proven and self._end is None:
                # Who has answered is found: two that come to each other at once would cut each other off.
                is_hurried = self._is_hurried and not self._is_answered
                seconds = HURRIED_SECONDS if is_hurried else ATTEMPT_SECONDS_MAX
                if (wait := self._began_at + seconds - time.monotonic()) <= 0:
                    reason, why = (
                        (Reason.MOVED, f"no answer within {seconds} s, though the peer is there")
                        if is_hurried
                        else (Reason.TOO_SLOW, f"no link within {seconds} s")
                    )
                    self._over(LinkRefused(reason, why))
                self._changed.wait(wait)
            return self._end is None

    def _wait_over(self) -> None:
        with self._changed:
            while self._end is None:
                if self._handed_at is not None and time.monotonic() - self._handed_at > STALL_SECONDS_MAX:
                    self._over(LinkRefused(Reason.STALLED, f"it took nothing for {STALL_SECONDS_MAX} s"))
                self._changed.wait(STALL_SECONDS_MAX / 4)

    # --- for any thread ----------------------------------------------------------------------------------

    def end(self, reason: LinkRefused) -> None:
        """It is over, if it was not yet."""
        with self._changed:
            self._over(reason)

    def hurry(self) -> None:
        """The peer has shown that it is there: an attempt that takes long is given up for another."""
        with self._changed:
            self._is_hurried = True
            self._changed.notify_all()

    def _over(self, reason: LinkRefused) -> None:
        if self._end is None:
            self._end = reason
            self._queue.clear()
            self._queued_bytes = 0
            self._changed.notify_all()
            self._work.notify_all()

    def put(self, messages: Sequence[bytes]) -> None:
        """Queue them, if the peer is proven and it is not over; over if there is no room."""
        size = sum(map(len, messages))
        with self._changed:
            if not self._proven or self._end is not None:
                return
            if (
                self._queued_bytes + size > QUEUED_BYTES_MAX
                or len(self._queue) + len(messages) > QUEUED_MESSAGES_MAX
            ):
                self._over(LinkRefused(Reason.NO_ROOM, f"{self._queued_bytes} bytes wait to be sent to it"))
                return
            self._queue.extend(messages)
            self._queued_bytes += size
            self._work.notify()

    # --- on gRPC's threads -------------------------------------------------------------------------------

    def _on_done(self, call: Any) -> None:
        self._threads.add(threading.current_thread())
        code, details = call.code(), call.details() or ""
        if code is grpc.StatusCode.UNAVAILABLE:
            reason = Reason.UNREACHABLE
        elif code is grpc.StatusCode.CANCELLED and self._proven:
            reason = Reason.CLOSED  # it stops, or a newer link has taken this one's place: nothing is wrong
        else:
            reason = Reason.REFUSED
        self.end(LinkRefused(reason, f"{code.name}: {details[:DETAILS_CHARACTERS_MAX]}"))
        self._done.set()

    def _frames(self) -> Iterator[bytes]:
        """What gRPC sends: it asks for the next frame when it has room for it."""
        self._threads.add(threading.current_thread())
        try:
            yield from self._handshake_and_messages()
        except LinkRefused as refused:
            self.end(refused)
        except grpc.RpcError:
            pass  # the call has ended: `_on_done` says why
        except Exception as error:  # a thread's root: a mistake of ours ends this link and no other
            event(_log, logging.ERROR, "peer_link_failed", peer=self._peer, trace=error)
            self.end(LinkRefused(Reason.FAILED, f"{type(error).__name__} in a link"))

    def _handshake_and_messages(self) -> Iterator[bytes]:
        with self._work:
            if not self._work.wait_for(lambda: self._call is not None, ATTEMPT_SECONDS_MAX):
                return
        nonce = os.urandom(NONCE_BYTES)
        opener = Opener(
            self._secret,
            self._events.identity(),
            wanted=self._peer,
            role=pb.PEER_ROLE_METADATA,
            nonce=nonce,
        )
        yield opener.hello().SerializeToString()
        challenge = self._answer()
        self._is_answered = True
        yield opener.prove(challenge).SerializeToString()
        proven = opener.finish(self._answer())
        if (refusal := self._events.admit(proven.peer)) is not None:
            raise LinkRefused(Reason.NOT_ADMITTED, refusal)
        cutter = Cutter(proven.key)
        with self._changed:
            self._proven = True
            self._changed.notify_all()
        while messages := self._take():
            for frame in cutter.cut(messages):
                self._handed_at = time.monotonic()
                yield frame
                if self._end is not None:
                    return
            self._handed_at = None

    def _answer(self) -> pb.PeerFrame:
        data = next(self._call, None)
        if data is None:
            raise LinkRefused(Reason.REFUSED, "it ended the stream within the handshake")
        return parse_frame(data)

    def _take(self) -> list[bytes]:
        """All that is queued, up to a frame's worth or one message; nothing when it is over."""
        taken, size = [], 0
        with self._work:
            while not self._queue and self._end is None:
                self._work.wait()  # until `run` ends it, at the latest
            while self._queue and size < FRAME_PAYLOAD_BYTES_MAX:
                message = self._queue.popleft()
                size += len(message)
                taken.append(message)
            self._queued_bytes -= size
        return taken
