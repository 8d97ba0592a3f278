"""Brokers of these tests: a real port each, and nothing behind it but what a test says."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from millpond_broker.core.replication import Acknowledgement, Push
from millpond_broker.rpc.peer_port import PeerPort
from millpond_broker.rpc.peer_server import PeerPortOptions
from millpond_broker.runtime.control_messages import Asked, Here, Replied, Who
from millpond_broker.runtime.peers import Peer, PeerStream, Purpose
from millpond_broker.runtime.replication_messages import Acknowledged, Pushed
from tests.awake import awake
from tests.integration.peers.voters import SECRET, WAIT_SECONDS, sockets

TOPIC = b"t" * 16


class Broker:
    """A port, and the streams that have come in to it. Without a handler of the test's own they are kept."""

    def __init__(self, broker_id: int, *, secret: bytes = SECRET, listen: str = "127.0.0.1:0") -> None:
        self.id = broker_id
        self.me = Peer(broker_id, f"directory-{broker_id}", os.urandom(16), b"c" * 16)
        self.port = PeerPort(secret, PeerPortOptions(listen=listen))
        self.streams = self.port.streams
        self.refused: dict[int, str] = {}
        """Why a peer is not let in."""
        self.asked: list[Peer] = []
        self.came: asyncio.Queue[PeerStream] = asyncio.Queue()
        self.address = ""
        self._released = asyncio.Event()

    async def start(self, *purposes: Purpose) -> None:
        for purpose in purposes or Purpose:
            self.streams.serve(purpose, self._keep)
        self.address = await self.streams.start(lambda: self.me, self._admit)

    async def open(
        self, other: Broker, purpose: Purpose = Purpose.CONTROL, seconds: float = 10
    ) -> PeerStream:
        return await self.streams.open(other.id, other.address, purpose, seconds)

    async def pair(self, other: Broker, purpose: Purpose = Purpose.CONTROL) -> tuple[PeerStream, PeerStream]:
        """Both ends of a new stream to the other."""
        near = await self.open(other, purpose)
        async with asyncio.timeout(WAIT_SECONDS):
            return near, await other.came.get()

    async def close(self) -> None:
        began = awake()
        self._released.set()
        await self.streams.close()
        assert awake() - began < 4

    def _admit(self, peer: Peer) -> str | None:
        self.asked.append(peer)
        return self.refused.get(peer.broker_id)

    async def _keep(self, stream: PeerStream) -> None:
        self.came.put_nowait(stream)
        await self._released.wait()


def question(number: int) -> Asked:
    return Asked(number, Who())


def answer(number: int) -> Replied:
    return Replied(number, Here(b"i" * 16))


def push(number: int, data: bytes) -> Pushed:
    return Pushed(TOPIC, number, Push(1, 1, number, 0, 0), data)


def acknowledged(number: int) -> Acknowledged:
    return Acknowledged(TOPIC, number, Acknowledgement(1, 1, number, number))


async def receive(stream: PeerStream, count: int) -> list[object]:
    """So many messages."""
    messages: list[object] = []
    async with asyncio.timeout(WAIT_SECONDS):
        while len(messages) < count:
            messages += await stream.receive()
    assert len(messages) == count
    return messages


async def until(condition: Callable[[], bool], seconds: float = WAIT_SECONDS) -> float:
    """Wait for what tells nobody that it has changed; how long that took, by the clock of `awake`."""
    began = awake()
    while not condition():
        assert awake() - began < seconds, f"not within {seconds} s"
        await asyncio.sleep(0.005)
    return awake() - began


def threads() -> set[threading.Thread]:
    """Those that somebody has to end; the loop has some of its own for whatever waits."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith("asyncio")}


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """No thread, task or socket more than before. gRPC closes its sockets soon, on its own threads."""
    threads_before, open_before, tasks_before = threads(), sockets(), asyncio.all_tasks()
    yield
    await until(lambda: threads() <= threads_before, 5)
    await until(lambda: sockets() <= open_before, 5)
    await until(lambda: asyncio.all_tasks() <= tasks_before | {asyncio.current_task()}, 5)
