"""`PeerStreams` on the simulated network: who is admitted, and streams of messages as values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from millpond_broker.rpc import control_codec, replication_codec, subscription_codec
from millpond_broker.runtime.peers import Peer, PeerStream, PeerUnreachable, Purpose
from tests.sim.cluster.network import End, Network
from tests.sim.loop import Owner

PEER_PORT: Final = 7071


def address_of(broker_id: int) -> str:
    """Where other brokers reach it."""
    return f"broker-{broker_id}.sim:{PEER_PORT}"


def through_codecs(kind: str, message: Any) -> Any:
    """What arrives of a message that travels as bytes, as it does between real brokers."""
    if kind == Purpose.REPLICATION.value:
        return replication_codec.decode(*replication_codec.encode(message))
    if kind == Purpose.CONTROL.value:
        return control_codec.decode(*control_codec.encode(message))
    if kind == Purpose.SUBSCRIPTION.value:
        return subscription_codec.decode(*subscription_codec.encode(message))
    return message


class SimPeerStreams:
    """One process's. `doors`: those of all that listen, by host."""

    def __init__(
        self, network: Network, owner: Owner, host_id: int, doors: dict[int, SimPeerStreams]
    ) -> None:
        self._network = network
        self._owner = owner
        self._host_id = host_id
        self._doors = doors
        self._handlers: dict[Purpose, Callable[[PeerStream], Awaitable[None]]] = {}
        self._me: Callable[[], Peer] | None = None
        self._admit: Callable[[Peer], str | None] = lambda _peer: "it has not started"

    def serve(self, purpose: Purpose, handler: Callable[[PeerStream], Awaitable[None]]) -> None:
        self._handlers[purpose] = handler
        if self._me is not None:
            self._listen(purpose)

    async def start(self, me: Callable[[], Peer], admit: Callable[[Peer], str | None]) -> str:
        self._me, self._admit = me, admit
        self._doors[self._host_id] = self
        for purpose in self._handlers:
            self._listen(purpose)
        return address_of(self._host_id)

    def _listen(self, purpose: Purpose) -> None:
        if not self._owner.is_dead:
            self._network.serve(self._host_id, purpose.value, self._handlers[purpose])

    async def open(self, broker_id: int, address: str, purpose: Purpose, seconds: float) -> PeerStream:
        if address != address_of(broker_id) or broker_id == self._host_id:
            raise PeerUnreachable(f"{address} is not of broker {broker_id}")
        return await self._network.open(
            self._owner, self._host_id, broker_id, purpose.value, seconds, meet=self._meet
        )

    def _meet(self, near: End, far: End) -> None:
        """Each hears who the other is, and lets it in or not."""
        door = self._doors[far.host_id]
        assert self._me is not None, "who opens streams has started"
        assert door._me is not None, "who serves them, too"
        near.peer, far.peer = door._me(), self._me()
        for refused in (self._admit(near.peer), door._admit(far.peer)):
            if refused is not None:
                raise PeerUnreachable(f"not let in: {refused}")
        if near.peer.broker_id != far.host_id:
            raise PeerUnreachable(f"broker {near.peer.broker_id} answers")

    async def close(self) -> None:
        if not self._owner.is_dead:
            self._network.close(self._host_id, [purpose.value for purpose in Purpose])
