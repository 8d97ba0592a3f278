"""Brokers' streams in memory: what is sent is there at once, in order, unless the way is cut."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from millpond_broker.runtime.peers import (
    Peer,
    PeerRefused,
    PeerStream,
    PeerUnreachable,
    Purpose,
    StreamClosed,
)

Handler = Callable[[PeerStream], Awaitable[None]]


class MemoryStream:
    """Implements PeerStream: one end."""

    def __init__(self, network: Network, peer: Peer) -> None:
        self._network = network
        self.peer = peer
        self.other: MemoryStream
        self._came: list[Any] = []
        self._changed = asyncio.Event()
        self._closed = False

    def send(self, message: Any) -> None:
        sender = self.other.peer.broker_id
        if self._network.listens:
            self._network.said.append((sender, message))
        if not self._closed and not self.other._closed and sender not in self._network.silent:
            self.other._came.append(message)
            self.other._changed.set()

    async def receive(self) -> list[Any]:
        while not self._came:
            if self._closed:
                raise StreamClosed("closed")
            self._changed.clear()
            await self._changed.wait()
        came, self._came = self._came, []
        return came

    def close(self) -> None:
        for end in (self, self.other):
            end._closed = True
            end._changed.set()


class Network:
    """Who listens, by address, and between whom nothing goes."""

    def __init__(self) -> None:
        self.listening: dict[str, MemoryStreams] = {}
        self.cut: set[int] = set()
        """Brokers that reach nobody, and whom nobody reaches."""
        self.silent: set[int] = set()
        """Brokers from which nothing comes on streams that are open, and nothing says so."""
        self.said: list[tuple[int, Any]] = []
        """What was sent, and by whom, while `listens`."""
        self.listens = False


class MemoryStreams:
    """Implements PeerStreams: of one start of one broker."""

    def __init__(self, network: Network, address: str) -> None:
        self.network = network
        self.address = address
        self._handlers: dict[Purpose, Handler] = {}
        self._ends: set[MemoryStream] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.me: Callable[[], Peer]
        self.admit: Callable[[Peer], str | None]

    def serve(self, purpose: Purpose, handler: Handler) -> None:
        self._handlers[purpose] = handler

    async def start(self, me: Callable[[], Peer], admit: Callable[[Peer], str | None]) -> str:
        self.me, self.admit = me, admit
        self.network.listening[self.address] = self
        return self.address

    async def open(self, broker_id: int, address: str, purpose: Purpose, seconds: float) -> PeerStream:
        await asyncio.sleep(0)
        other = self.network.listening.get(address)
        if other is None or {self.me().broker_id, broker_id} & self.network.cut:
            raise PeerUnreachable(f"nobody within {seconds} s")
        if other.me().broker_id != broker_id:
            raise PeerUnreachable("somebody else")
        for refusal in (other.admit(self.me()), self.admit(other.me())):
            if refusal is not None:
                raise PeerRefused(refusal)
        handler = other._handlers.get(purpose)
        if handler is None:
            raise PeerUnreachable("nobody serves that")
        mine, theirs = MemoryStream(self.network, other.me()), MemoryStream(self.network, self.me())
        mine.other, theirs.other = theirs, mine
        self._ends.add(mine)
        other._take(theirs, handler)
        return mine

    async def close(self) -> None:
        if self.network.listening.get(self.address) is self:
            del self.network.listening[self.address]
        for end in self._ends:
            end.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _take(self, end: MemoryStream, handler: Handler) -> None:
        async def handle() -> None:
            try:
                with suppress(StreamClosed):
                    await handler(end)
            finally:
                end.close()

        self._ends.add(end)
        task = asyncio.Task(handle(), name=f"stream of broker {end.peer.broker_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
