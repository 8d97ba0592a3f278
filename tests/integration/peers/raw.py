"""A peer of bare frames: what links would never send can be sent with it."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import grpc

from millpond.v1.internal import peer_pb2 as pb
from millpond_broker.consensus.peers import PeerIdentity
from millpond_broker.rpc.peer_connection import METHOD
from millpond_broker.rpc.peer_frames import Cutter, parse_frame
from millpond_broker.rpc.peer_handshake import NONCE_BYTES, Opener, Proven
from tests.integration.peers.voters import SECRET, WAIT_SECONDS

OPTIONS = (
    ("grpc.max_send_message_length", 80 << 20),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


class RawPeer:
    """One stream to a voter."""

    def __init__(self, address: str, broker_id: int = 1, method: str = METHOD) -> None:
        self._own = PeerIdentity(broker_id, f"directory-{broker_id}", b"c" * 16)
        self._channel = grpc.insecure_channel(address, options=OPTIONS)
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        stream: Any = self._channel.stream_stream(method, None, None)
        self.call = stream(self._requests(), timeout=WAIT_SECONDS * 4)
        self.cutter = Cutter(b"")
        self.proven: Proven | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._outbox.put(None)
        self.call.cancel()
        self._channel.close()

    def _requests(self) -> Iterator[bytes]:
        while (data := self._outbox.get()) is not None:
            yield data

    def send(self, frame: pb.PeerFrame | bytes) -> None:
        self._outbox.put(frame if isinstance(frame, bytes) else frame.SerializeToString())

    def half_close(self) -> None:
        self._outbox.put(None)

    def read(self) -> pb.PeerFrame:
        return parse_frame(next(self.call))

    def handshake(
        self,
        wanted: int,
        secret: bytes = SECRET,
        nonce: bytes = b"n" * NONCE_BYTES,
        role: pb.PeerRole = pb.PEER_ROLE_METADATA,
    ) -> None:
        start = b"" if role == pb.PEER_ROLE_METADATA else b"i" * 16
        opener = Opener(secret, self._own, wanted=wanted, role=role, nonce=nonce, incarnation=start)
        self.send(opener.hello())
        self.send(opener.prove(self.read()))
        self.proven = opener.finish(self.read())
        self.cutter = Cutter(self.proven.key)

    def messages(self, *messages: bytes) -> None:
        for frame in self.cutter.cut(messages):
            self.send(frame)

    def ended(self) -> tuple[grpc.StatusCode, str]:
        """How the other end ended it."""
        try:
            while True:
                next(self.call)
        except StopIteration:
            pass
        except grpc.RpcError:
            pass
        return self.call.code(), self.call.details()
