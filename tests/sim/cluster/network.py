"""The network between simulated processes: connections that delay, hold back, break and refuse.

Between two hosts there are two links, one a direction. On a connection messages arrive once, whole and in
order, or it breaks: then some of what was under way has arrived, and the rest is lost. A link that is cut
holds everything back; ends that hear nothing for a while give the connection up, each in its own time. A
process that died is known at once to whoever can be reached from its host; a paused one is silent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from millpond_broker.runtime.peers import PeerUnreachable, StreamClosed
from tests.sim.loop import Owner, SimLoop

LOOK_SECONDS: Final = 0.1
"""How often silent connections are looked for."""
PATIENCE_SECONDS: Final = (3.4, 4.2)
"""Of an end that hears nothing from the other: its keepalive's, which is longer than a session (rule 39)."""
QUEUED_BYTES_MAX: Final = 24 << 20
"""Under way in one direction of a connection: more, and it breaks."""
MESSAGE_BYTES: Final = 64
"""What a message takes beyond its data."""

Handler = Callable[["End"], Awaitable[None]]


@dataclass(slots=True)
class Link:
    """One direction between two hosts."""

    delay: float
    jitter: float
    is_cut: bool = False
    stalled_kind: str = ""
    """Connections of this kind get nothing through, and are kept alive all the same."""

    def holds(self, kind: str) -> bool:
        """Whether nothing arrives of that kind now."""
        return self.is_cut or kind == self.stalled_kind


@dataclass(slots=True)
class Host:
    """Where a process runs, or not."""

    host_id: int
    owner: Owner | None = None
    handlers: dict[str, Handler] = field(default_factory=dict)


class End:
    """One end of a connection. `receive` is for one caller at a time."""

    def __init__(self, network: Network, owner: Owner, host_id: int, peer_id: int, kind: str) -> None:
        self.owner = owner
        self.host_id = host_id
        self.peer_id = peer_id
        self.kind = kind
        self.peer: Any = None
        """Who is at the other end, as that one says."""
        self.other: End
        self.is_over = False
        self.gives_up_at: float | None = None
        self.under_way: deque[tuple[float, Any, int]] = deque()
        """Sent by the other end, and not here yet: (arrives at, message, bytes)."""
        self._network = network
        self._queued_bytes = 0
        self._inbox: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._is_due = False

    # --- what its process calls -------------------------------------------------------------------------

    def send(self, message: Any) -> None:
        """Put it on its way."""
        if self.is_over or self.owner.is_dead:
            return
        self._network.on_sent(self, message)
        self.other._take(self._network.passed(self.kind, message))

    async def receive(self) -> list[Any]:
        """What has come, at least one; StreamClosed after the last."""
        while not self._inbox:
            if self.is_over:
                raise StreamClosed
            assert self._waiter is None, "one caller at a time"
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        messages, self._inbox = list(self._inbox), deque()
        return messages

    def close(self) -> None:
        """Over here at once, and there a moment later; some of what was sent arrives."""
        if self.is_over or self.owner.is_dead:
            return
        self._network.hang_up(self)

    # --- what the network does --------------------------------------------------------------------------

    def _take(self, message: Any) -> None:
        if self.is_over:
            return
        link = self._network.link(self.peer_id, self.host_id)
        size = len(getattr(message, "data", b"")) + MESSAGE_BYTES
        self._queued_bytes += size
        if self._queued_bytes > QUEUED_BYTES_MAX:
            self._network.break_off(self)
            return
        arrives = self._network.loop.time() + link.delay + self._network.random.random() * link.jitter
        if self.under_way:
            arrives = max(arrives, self.under_way[-1][0])
        self.under_way.append((arrives, message, size))
        self.plan()

    def plan(self) -> None:
        """See to it that what is under way arrives, unless it is held back."""
        link = self._network.link(self.peer_id, self.host_id)
        if not self.under_way or self._is_due or link.holds(self.kind):
            return
        self._is_due = True
        loop = self._network.loop
        when = max(loop.time(), self.under_way[0][0])
        loop.call_at(when, self._arrive, context=self.owner.context)

    def _arrive(self) -> None:
        self._is_due = False
        if (
            self.is_over
            or self.owner.is_dead
            or self._network.link(self.peer_id, self.host_id).holds(self.kind)
        ):
            return
        now = self._network.loop.time()
        while self.under_way and self.under_way[0][0] <= now:
            self._deliver()
        self.plan()

    def _deliver(self) -> None:
        _, message, size = self.under_way.popleft()
        self._queued_bytes -= size
        self._network.note(f"{self.peer_id}>{self.host_id}", message)
        self._inbox.append(message)
        self._wake()

    def end(self, arrived: int = 0) -> None:
        """Over; so many of the messages under way have arrived before."""
        if self.is_over:
            return
        for _ in range(min(arrived, len(self.under_way))):
            self._deliver()
        self.under_way.clear()
        self.is_over = True
        self._network.forget(self)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Network:
    """All hosts, links and connections. `passed`: what arrives of a message, for codecs to be in between."""

    def __init__(self, loop: SimLoop, random: Random, note: Callable[[str, Any], None]) -> None:
        self.loop = loop
        self.random = random
        self.note = note
        self.passed: Callable[[str, Any], Any] = lambda _kind, message: message
        self.on_sent: Callable[[End, Any], None] = lambda _end, _message: None
        self.hosts_of: dict[Owner, int] = {}
        """Where processes run, or ran."""
        self._hosts: dict[int, Host] = {}
        self._links: dict[tuple[int, int], Link] = {}
        self._ends: dict[End, None] = {}
        loop.call_later(LOOK_SECONDS, self._look)

    # --- hosts ------------------------------------------------------------------------------------------

    def add(self, host_id: int) -> None:
        """A host with links to all that are there."""
        for other in self._hosts:
            for pair in ((host_id, other), (other, host_id)):
                self._links[pair] = Link(self.random.uniform(0.0002, 0.002), self.random.uniform(0, 0.001))
        self._hosts[host_id] = Host(host_id)

    def link(self, source: int, target: int) -> Link:
        """One direction."""
        return self._links[source, target]

    def links(self) -> list[Link]:
        """All of them."""
        return list(self._links.values())

    def others_than(self, host_ids: Sequence[int]) -> list[int]:
        """All other hosts."""
        return [host_id for host_id in self._hosts if host_id not in host_ids]

    def up(self, host_id: int, owner: Owner) -> None:
        """A process runs there. It serves nothing yet."""
        host = self._hosts[host_id]
        host.owner = owner
        host.handlers = {}
        self.hosts_of[owner] = host_id

    def serve(self, host_id: int, kind: str, handler: Handler) -> None:
        """What its process does with each connection of a kind. The connection is closed behind it."""
        self._hosts[host_id].handlers[kind] = handler

    def down(self, host_id: int) -> None:
        """The process is gone: what it sent arrives, up to some message, and then others know."""
        host = self._hosts[host_id]
        owner, host.owner, host.handlers = host.owner, None, {}
        for end in list(self._ends):
            if end.host_id == host_id and end.owner is owner:
                end.end()
                self._tell_later(end.other)

    # --- connections ------------------------------------------------------------------------------------

    async def open(
        self,
        owner: Owner,
        source: int,
        target: int,
        kind: str,
        seconds: float,
        *,
        meet: Callable[[End, End], None] = lambda _near, _far: None,
    ) -> End:
        """A connection of that process. Raises PeerUnreachable: at once if nobody listens there, after
        `seconds` if there is no answer; and what `meet` raises, which is shown both ends first.
        """
        try:
            async with asyncio.timeout(seconds):
                await asyncio.sleep(self._trip(source, target))
                while not self.reaches(source, target) or self._is_silent(target):
                    await asyncio.sleep(0.02)
                host = self._hosts[target]
                await asyncio.sleep(self._trip(target, source))
        except TimeoutError:
            raise PeerUnreachable(f"{target} does not answer") from None
        handler = host.handlers.get(kind)
        if host.owner is None or handler is None:
            raise PeerUnreachable(f"{target} refuses {kind}")
        if owner.is_dead:
            raise PeerUnreachable(f"{source} is dead")
        near = End(self, owner, source, target, kind)
        far = End(self, host.owner, target, source, kind)
        near.other, far.other = far, near
        meet(near, far)
        self._ends[near] = self._ends[far] = None
        self.loop.call_soon(self._serve, far, handler, context=host.owner.context)
        return near

    def _serve(self, end: End, handler: Handler) -> None:
        if end.owner.is_dead:
            return

        async def serve() -> None:
            try:
                await handler(end)
            except StreamClosed:
                pass  # as good as any other end, as the product's port has it
            finally:
                end.close()

        self.loop.create_task(serve(), name=f"{end.kind} {end.peer_id}>{end.host_id}")

    def _trip(self, source: int, target: int) -> float:
        link = self.link(source, target)
        return link.delay + self.random.random() * link.jitter

    def _is_silent(self, host_id: int) -> bool:
        owner = self._hosts[host_id].owner
        return owner is not None and owner.is_paused

    def reaches(self, source: int, target: int) -> bool:
        """Whether a question and its answer pass between them."""
        return not (self.link(source, target).is_cut or self.link(target, source).is_cut)

    def hang_up(self, end: End) -> None:
        """One end closes the connection."""
        end.end()
        self._tell_later(end.other)

    def break_off(self, end: End) -> None:
        """Both ends lose it, with some of what was under way."""
        for one in (end, end.other):
            one.end(self._some(one))

    def break_between(self, one: int, other: int) -> None:
        """All connections between two hosts."""
        for end in list(self._ends):
            if (end.host_id, end.peer_id) == (one, other):
                self.break_off(end)

    def close(self, host_id: int, kinds: Sequence[str]) -> None:
        """A process stops listening for some kinds of connections, and hangs up on all there are."""
        host = self._hosts[host_id]
        for kind in kinds:
            host.handlers.pop(kind, None)
        for end in list(self._ends):
            if end.host_id == host_id and end.kind in kinds:
                self.hang_up(end)

    def forget(self, end: End) -> None:
        """It is over."""
        self._ends.pop(end, None)

    def _some(self, end: End) -> int:
        return self.random.randrange(len(end.under_way) + 1)

    def _tell_later(self, end: End) -> None:
        """The other end is closed: this one learns it, if the link lets it through."""
        if end.is_over:
            return
        if self.link(end.peer_id, end.host_id).is_cut:
            return  # it goes silent, and is given up

        def tell() -> None:
            end.end(self._some(end))

        self.loop.call_later(self._trip(end.peer_id, end.host_id), tell, context=end.owner.context)

    # --- links ------------------------------------------------------------------------------------------

    def cut(self, source: int, target: int) -> None:
        """Let nothing arrive in this direction until `mend`."""
        self._links[source, target].is_cut = True
        self.note(f"cut {source}>{target}", None)

    def mend(self, source: int, target: int) -> None:
        """What was held back arrives, on connections that have not been given up."""
        self._links[source, target].is_cut = False
        self.note(f"mend {source}>{target}", None)
        self._go_on(source, target)

    def stall(self, source: int, target: int, kind: str) -> None:
        """Hold back what is sent on connections of that kind, and nothing else; "" ends that."""
        self._links[source, target].stalled_kind = kind
        self.note(f"stall {source}>{target} {kind}", None)
        self._go_on(source, target)

    def _go_on(self, source: int, target: int) -> None:
        for end in list(self._ends):
            if (end.peer_id, end.host_id) == (source, target):
                end.plan()

    def mend_all(self) -> None:
        """Every link."""
        for pair, link in self._links.items():
            if link.is_cut or link.stalled_kind:
                link.stalled_kind = ""
                self.mend(*pair)

    def _look(self) -> None:
        """Ends that hear nothing give up, once their patience is over."""
        now = self.loop.time()
        for end in list(self._ends):
            other = end.other
            hears = self.reaches(end.host_id, end.peer_id) and not other.is_over and not other.owner.is_paused
            if hears:
                end.gives_up_at = None
            elif end.gives_up_at is None:
                end.gives_up_at = now + self.random.uniform(*PATIENCE_SECONDS)
            elif now >= end.gives_up_at and not end.owner.is_paused:
                self.note(f"given up {end.peer_id}>{end.host_id} {end.kind}", None)
                end.end(0 if self.link(end.peer_id, end.host_id).is_cut else self._some(end))
        self.loop.call_later(LOOK_SECONDS, self._look)
