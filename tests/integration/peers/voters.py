"""Voters of these tests: real links, and a recorder in the place of Raft."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from millpond_broker.consensus.peers import PeerIdentity
from millpond_broker.rpc.peer_links import GrpcPeerLinks
from millpond_broker.rpc.peer_server import PeerPortOptions
from tests.awake import awake

SECRET = b"a secret of the whole cluster"
WAIT_SECONDS = 30.0
"""For what takes milliseconds on an idle machine."""

Event = tuple[str, int]


class Recorder:
    """PeerEvents that keeps what it is told, and checks what must hold of any order of it."""

    def __init__(self, broker_id: int) -> None:
        self.own = PeerIdentity(broker_id, f"directory-{broker_id}", b"c" * 16)
        self.changed = threading.Condition()
        self.events: list[Event] = []
        self.messages: dict[int, list[bytes]] = {}
        self.refused: dict[int, str] = {}
        """Why a peer is not admitted."""
        self.admitted: list[PeerIdentity] = []
        """Whom it was asked about."""
        self.take: Callable[[int, bytes], bool] = self._keep
        self.mistakes: list[str] = []

    def identity(self) -> PeerIdentity:
        return self.own

    def admit(self, peer: PeerIdentity) -> str | None:
        with self.changed:
            self.admitted.append(peer)
        return self.refused.get(peer.broker_id)

    def on_connected(self, broker_id: int) -> None:
        self._tell("connected", broker_id)

    def on_disconnected(self, broker_id: int) -> None:
        self._tell("disconnected", broker_id)

    def on_message(self, broker_id: int, message: bytes) -> bool:
        return self.take(broker_id, message)

    def _keep(self, broker_id: int, message: bytes) -> bool:
        with self.changed:
            self.messages.setdefault(broker_id, []).append(message)
            self.changed.notify_all()
        return True

    def _tell(self, what: str, broker_id: int) -> None:
        with self.changed:
            last = next((told for told, peer in reversed(self.events) if peer == broker_id), "disconnected")
            if last == what:
                self.mistakes.append(f"{what} twice of {broker_id}")
            self.events.append((what, broker_id))
            self.changed.notify_all()

    def got(self, broker_id: int) -> list[bytes]:
        with self.changed:
            return list(self.messages.get(broker_id, []))

    def count(self, what: str, broker_id: int) -> int:
        with self.changed:
            return self.events.count((what, broker_id))

    def linked(self, broker_id: int) -> bool:
        """Whether the last it was told of that peer is that it is connected."""
        with self.changed:
            return self.events.count(("connected", broker_id)) > self.events.count(
                ("disconnected", broker_id)
            )

    def wait(self, condition: Callable[[], bool], seconds: float = WAIT_SECONDS) -> float:
        """Until it holds after something was told; how long that took, by the clock of `awake`."""
        began = awake()
        with self.changed:
            assert self.changed.wait_for(condition, seconds), f"not within {seconds} s: {self.events[-20:]}"
        return awake() - began


class Voter:
    """A recorder and its links."""

    def __init__(
        self,
        broker_id: int,
        *,
        secret: bytes = SECRET,
        listen: str = "127.0.0.1:0",
        resolver: str = "dns:///",
    ) -> None:
        self.id = broker_id
        self.told = Recorder(broker_id)
        self.links = GrpcPeerLinks(self.told, secret, PeerPortOptions(listen=listen, resolver=resolver))
        self.port = self.links.start()
        self.address = f"127.0.0.1:{self.port}"

    def connect(self, *others: Voter) -> None:
        for other in others:
            self.links.connect(other.id, other.address)

    def wait_linked(self, *others: Voter) -> None:
        for other in others:
            self.told.wait(lambda peer=other.id: self.told.linked(peer))  # type: ignore[misc]  # a lambda with a default

    def close(self) -> None:
        began = awake()
        self.links.close()
        assert awake() - began < 4
        assert self.told.mistakes == []


def link_all(*voters: Voter) -> None:
    """Each to each other."""
    for voter in voters:
        voter.connect(*(other for other in voters if other is not voter))
    for voter in voters:
        voter.wait_linked(*(other for other in voters if other is not voter))


def until(condition: Callable[[], bool], seconds: float = WAIT_SECONDS) -> float:
    """Wait for what tells nobody that it has changed; how long that took, by the clock of `awake`."""
    began = awake()
    while not condition():
        assert awake() - began < seconds, f"not within {seconds} s"
        time.sleep(0.005)
    return awake() - began


def sockets() -> set[str]:
    """The open sockets of this process."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:  # the descriptor of this very listing, or one just closed
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


@contextmanager
def nothing_left() -> Iterator[None]:
    """No thread and no socket more than before. gRPC closes its sockets soon, on its own threads."""
    threads, open_before = set(threading.enumerate()), sockets()
    yield
    until(lambda: set(threading.enumerate()) <= threads, 5)
    until(lambda: sockets() <= open_before, 5)
