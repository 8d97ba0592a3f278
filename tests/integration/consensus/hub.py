"""Links between voters of one process: real threads, no network. What a hub cuts does not arrive."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from millpond_broker.consensus.peers import PeerEvents


class Hub:
    """Connects whoever comes with whom they wish. Messages are handed over by the thread that sends them."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.voters: dict[int, PeerEvents] = {}
        self.links: dict[int, HubLinks] = {}
        self.cut: set[tuple[int, int]] = set()

    def join(self, events: PeerEvents) -> HubLinks:
        """The links of one voter."""
        with self.lock:
            broker_id = events.identity().broker_id
            self.voters[broker_id] = events
            self.links[broker_id] = HubLinks(self, broker_id, events)
            for links in self.links.values():
                links.look()
            return self.links[broker_id]

    def isolate(self, broker_id: int) -> None:
        """Nothing reaches or leaves that voter; whoever had a link to it is told."""
        with self.lock:
            self.cut |= {pair for other in self.voters for pair in ((broker_id, other), (other, broker_id))}
            for links in self.links.values():
                links.look()

    def heal(self) -> None:
        """Everything arrives again."""
        with self.lock:
            self.cut.clear()
            for links in self.links.values():
                links.look()

    def leave(self, broker_id: int) -> None:
        """That voter is gone."""
        with self.lock:
            self.voters.pop(broker_id, None)
            self.links.pop(broker_id, None)
            for links in self.links.values():
                links.look()


class HubLinks:
    """`PeerLinks` of one voter of a hub."""

    def __init__(self, hub: Hub, broker_id: int, events: PeerEvents) -> None:
        self._hub = hub
        self._broker_id = broker_id
        self._events = events
        self._wanted: set[int] = set()
        self._connected: set[int] = set()

    def connect(self, broker_id: int, address: str) -> None:
        assert address, "a link goes somewhere"
        with self._hub.lock:
            self._wanted.add(broker_id)
            self.look()

    def disconnect(self, broker_id: int) -> None:
        with self._hub.lock:
            self._wanted.discard(broker_id)
            self._connected.discard(broker_id)

    def send(self, broker_id: int, messages: Sequence[bytes]) -> None:
        with self._hub.lock:
            if broker_id in self._connected:
                for message in messages:
                    assert self._hub.voters[broker_id].on_message(self._broker_id, message), "there is room"

    def close(self) -> None:
        self._hub.leave(self._broker_id)

    def look(self) -> None:
        """Connect and disconnect whoever should be by now."""
        for peer in sorted(self._wanted | self._connected):
            there = (
                peer in self._wanted
                and peer in self._hub.voters
                and (self._broker_id, peer) not in self._hub.cut
                and self._hub.voters[peer].admit(self._events.identity()) is None
                and self._events.admit(self._hub.voters[peer].identity()) is None
            )
            if there and peer not in self._connected:
                self._connected.add(peer)
                self._events.on_connected(peer)
            elif not there and peer in self._connected:
                self._connected.discard(peer)
                self._events.on_disconnected(peer)
