"""Time, machines and the links between them, all drawn from one seed.

A world knows nothing of Raft: it runs processes that tick, hear and say bytes (`Process`), each on a `Host`.
Whatever is due happens in order of (time, when it was asked for), so that a seed is a run. Nothing here
iterates a set.

Between two hosts there are two links, one a direction. On a link messages arrive once, in order and whole, or
it breaks: then what is under way is lost. A cut holds messages back; a link that is cut for long breaks.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Protocol
from zlib import crc32

import pysyncobj.syncobj

TICK_SECONDS: Final = 0.02
"""A process ticks at least so often, as its thread would have it."""
LINK_SECONDS: Final = 0.05
"""How often links are looked after: made, found broken."""
STEPS_MAX: Final = 3_000_000
"""In one run: more is a livelock."""
TRACE_EVENTS: Final = 60
"""The latest ones, told when a run fails."""


class Process(Protocol):
    """What runs on a host."""

    @property
    def leads_term(self) -> int:
        """The term in which it believes to lead; 0 if it does not."""

    @property
    def peers(self) -> Sequence[int]:
        """Whom it keeps a link to."""

    def admits(self, peer: int) -> bool:
        """Whether it lets that peer in."""

    def tick(self) -> None: ...

    def receive(self, peer: int, message: bytes) -> None: ...

    def take_outgoing(self) -> Sequence[tuple[int, bytes]]: ...

    def peer_connected(self, peer: int) -> None: ...

    def peer_disconnected(self, peer: int) -> None: ...


class Ended(Exception):
    """The process is over. `how`: as for `Host.end`."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class CannotStart(Exception):
    """The host refuses to start, for good."""


class Host:
    """A machine: it has a disk, and a process while it is up."""

    def __init__(self, host_id: int) -> None:
        self.host_id = host_id
        self.process: Process | None = None
        self.life = 0
        """How many processes it has had."""
        self.paused = False
        self.is_gone = False
        """Its disk is lost: it never starts again."""

    def boot(self) -> Process:
        """Start a process from what is on the disk. Raises CannotStart, Ended."""
        raise NotImplementedError

    def end(self, how: str) -> None:
        """What becomes of the disk when the process ends: "stop" (in order), "kill" (of the process only),
        "power" (what was not synced may be lost), "failed" (it ended by itself).
        """
        raise NotImplementedError


@dataclass(slots=True)
class Link:
    """One direction. Messages are in `queue` until they arrive."""

    source: int
    target: int
    queue: deque[tuple[float, bytes]] = field(default_factory=deque)
    is_up: bool = False
    """The sender takes it for up."""
    cut: bool = False
    silent: bool = False
    """Nobody notices the cut, however long."""
    down_since: float | None = None
    target_life: int = 0
    delay: float = 0.001
    jitter: float = 0.001
    retry_at: float = 0.0
    due: bool = False
    """Whether an arrival is planned."""


class World:
    """See the module. `advance_per_reading`: by how much reading the clock moves it, for a library that waits
    for it in a loop.
    """

    def __init__(self, seed: int, *, advance_per_reading: float = 0.0) -> None:
        self.random = Random(f"world {seed}")
        self.now = 1.0
        self.hosts: dict[int, Host] = {}
        self.links: dict[tuple[int, int], Link] = {}
        self.counts: dict[str, int] = {}
        self.trace: deque[tuple[float, str, bytes]] = deque(maxlen=TRACE_EVENTS)
        self.fingerprint = 0
        """Of everything that happened so far: equal for equal runs."""
        self.arrivals: Callable[[bytes], Sequence[bytes]] = lambda message: (message,)
        """What arrives of a message: nothing else but what a guard is there for."""
        self.on_sent: Callable[[int, int, bytes], None] = lambda _source, _target, _message: None
        self.on_turn: Callable[[Host], None] = lambda _host: None
        """After each turn of a process."""
        self.on_refused: Callable[[Host], None] = lambda _host: None
        """A host does not start any more."""
        self.on_ended: Callable[[Host, str], None] = lambda _host, _how: None
        self._advance = advance_per_reading
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._steps = 0
        self.at(self.now, self._look_after_links)

    # --- time -------------------------------------------------------------------------------------------

    def clock(self) -> float:
        """What the processes read."""
        self.now += self._advance
        return self.now

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Have something happen then."""
        heapq.heappush(self._events, (when, next(self._numbers), action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Have something happen so much later."""
        self.at(self.now + seconds, action)

    def run_until(self, end: float, *, done: Callable[[], bool] = lambda: False) -> bool:
        """Let everything happen that is due by then, or until `done`; whether it was."""
        while self._events and self._events[0][0] <= end:
            when, _, action = heapq.heappop(self._events)
            self.now = max(self.now, when)
            action()
            self._steps += 1
            if self._steps > STEPS_MAX:
                raise RuntimeError(f"more than {STEPS_MAX} steps: the run does not get on")
            if done():
                return True
        self.now = max(self.now, end)
        return done()

    def count(self, what: str) -> None:
        """One more of these."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def note(self, what: str, data: bytes = b"") -> None:
        """Something happened: it is part of the trace, and of what two equal runs have in common."""
        self.trace.append((self.now, what, data))
        self.fingerprint = crc32(f"{self.now:.6f} {what} ".encode() + data, self.fingerprint)

    # --- hosts ------------------------------------------------------------------------------------------

    def add(self, host: Host) -> None:
        """A machine, which is down."""
        for other in self.hosts:
            for pair in ((host.host_id, other), (other, host.host_id)):
                self.links[pair] = Link(*pair, delay=self.random.uniform(0.0002, 0.002))
        self.hosts[host.host_id] = host

    def start(self, host_id: int) -> None:
        """Start its process, unless it runs."""
        host = self.hosts[host_id]
        if host.process is not None or host.is_gone:
            return
        try:
            host.process = host.boot()
        except Ended as ended:
            self._gone(host, ended.how)
            return
        except CannotStart:
            self.note(f"refused {host_id}")
            self.on_refused(host)
            return
        host.life += 1
        self.note(f"start {host_id}")
        self._plan_tick(host, host.life)

    def end(self, host_id: int, how: str) -> None:
        """End its process, if it runs."""
        host = self.hosts[host_id]
        if host.process is None:
            return
        if how == "stop":
            # What it says last is still sent.
            self._guarded(host, lambda: self._turn(host))
        if host.process is not None:
            self._gone(host, how)

    def pause(self, host_id: int, seconds: float) -> None:
        """Let nothing happen on it for a while."""
        host = self.hosts[host_id]
        host.paused = True
        self.note(f"pause {host_id}")

        def resume() -> None:
            host.paused = False
            for pair in self.links:
                if pair[1] == host_id:
                    self._plan_arrival(self.links[pair])

        self.after(seconds, resume)

    def running(self) -> list[Host]:
        """Hosts with a process, by id."""
        return [host for host in self.hosts.values() if host.process is not None]

    def call(self, host: Host, action: Callable[[Any], None]) -> None:
        """Have its process do something, and take its turn, soon."""
        life = host.life

        def turn() -> None:
            if host.process is None or host.life != life:
                return
            if host.paused:
                self.after(TICK_SECONDS, turn)
                return
            self._guarded(host, lambda: action(host.process))
            self._guarded(host, lambda: self._turn(host))

        self.after(0.0, turn)

    def _gone(self, host: Host, how: str) -> None:
        host.process = None
        host.paused = False
        self.note(f"{how} {host.host_id}")
        host.end(how)
        for (source, target), link in self.links.items():
            if source == host.host_id:
                # What the dead have sent arrives, up to some message.
                if link.is_up:
                    self._lose_some(link)
                link.is_up = False
            elif target == host.host_id:
                link.queue.clear()
                link.down_since = self.now
        self.on_ended(host, how)

    def _plan_tick(self, host: Host, life: int) -> None:
        def tick() -> None:
            if host.life != life or host.process is None:
                return
            if not host.paused:
                self._guarded(host, lambda: self._turn(host))
            self._plan_tick(host, life)

        self.after(TICK_SECONDS * self.random.uniform(0.5, 1.0), tick)

    def _turn(self, host: Host) -> None:
        process = host.process
        if process is None:
            return  # it ended in what it heard
        process.tick()
        for target, message in process.take_outgoing():
            self._send(host.host_id, target, message)
        self.on_turn(host)

    def _guarded(self, host: Host, action: Callable[[], object]) -> None:
        try:
            action()
        except Ended as ended:
            self._gone(host, ended.how)

    # --- links ------------------------------------------------------------------------------------------

    def cut(self, source: int, target: int, *, silent: bool = False) -> None:
        """Let nothing arrive in this direction until `mend`."""
        link = self.links[source, target]
        link.cut, link.silent = True, silent
        link.down_since = self.now
        self.note(f"cut {source}>{target}")

    def mend(self, source: int, target: int) -> None:
        """What was held back arrives, if the link did not break."""
        link = self.links[source, target]
        link.cut = link.silent = False
        if self.hosts[target].process is not None:
            link.down_since = None
        self._plan_arrival(link)
        self.note(f"mend {source}>{target}")

    def break_link(self, source: int, target: int) -> None:
        """Lose what is under way, but for what comes first, and tell the sender; it tries again soon."""
        link = self.links[source, target]
        if not link.is_up:
            return
        self._lose_some(link)
        self._disconnect(link)

    def _lose_some(self, link: Link) -> None:
        kept = self.random.randrange(len(link.queue) + 1)
        while len(link.queue) > kept:
            link.queue.pop()

    def _disconnect(self, link: Link) -> None:
        link.is_up = False
        link.retry_at = self.now + self.random.uniform(0.01, 0.3)
        self.note(f"broken {link.source}>{link.target}")
        host = self.hosts[link.source]
        if host.process is not None:
            host.process.peer_disconnected(link.target)

    def _send(self, source: int, target: int, message: bytes) -> None:
        link = self.links.get((source, target))
        if link is None or not link.is_up:
            return
        self.on_sent(source, target, message)
        host = self.hosts[target]
        if host.process is None or host.life != link.target_life:
            return  # into the void: nobody has noticed yet
        arrives = self.now + link.delay + self.random.random() * link.jitter
        if link.queue:
            arrives = max(arrives, link.queue[-1][0])
        link.queue.append((arrives, message))
        self._plan_arrival(link)

    def _plan_arrival(self, link: Link) -> None:
        if link.queue and not link.due and not link.cut:
            link.due = True
            self.at(max(self.now, link.queue[0][0]), lambda: self._arrive(link))

    def _arrive(self, link: Link) -> None:
        link.due = False
        host = self.hosts[link.target]
        if link.cut or host.paused or host.process is None:
            return

        def hear() -> None:
            while link.queue and link.queue[0][0] <= self.now and host.process is not None:
                _, message = link.queue.popleft()
                self.note(f"{link.source}>{link.target}", message)
                for arriving in self.arrivals(message):
                    host.process.receive(link.source, arriving)
            self._turn(host)

        self._guarded(host, hear)
        self._plan_arrival(link)

    def _look_after_links(self) -> None:
        for link in self.links.values():
            source, target = self.hosts[link.source], self.hosts[link.target]
            if source.process is None or source.paused:
                continue
            wanted = link.target in source.process.peers
            is_same = target.process is not None and target.life == link.target_life
            if link.is_up:
                noticed = link.down_since is not None and self.now - link.down_since > self._patience()
                if (
                    not wanted
                    or (target.process is not None and not is_same)
                    or (noticed and not link.silent)
                ):
                    link.queue.clear()
                    self._disconnect(link)
            elif wanted and not link.cut and target.process is not None and self.now >= link.retry_at:
                self._connect(link, source.process, target)
        self.after(LINK_SECONDS, self._look_after_links)

    def _patience(self) -> float:
        return self.random.choice((0.05, 0.5, 2.0))

    def _connect(self, link: Link, sender: Process, target: Host) -> None:
        assert target.process is not None, "somebody answers"
        if not (sender.admits(link.target) and target.process.admits(link.source)):
            return
        # What a link before this one had under way does not come after it.
        link.queue.clear()
        link.is_up = True
        link.down_since = None
        link.target_life = target.life
        self.note(f"linked {link.source}>{link.target}")
        sender.peer_connected(link.target)


@contextmanager
def simulated(world: World, seed: int) -> Iterator[None]:
    """The library reads the world's clock and draws from the seed, and nobody logs."""
    state, disabled = random.getstate(), logging.root.manager.disable
    clock, notifier = pysyncobj.syncobj.monotonicTime, pysyncobj.syncobj.PIPE_NOTIFIER_ENABLED
    random.seed(seed)
    logging.disable(logging.CRITICAL)
    pysyncobj.syncobj.monotonicTime = world.clock
    pysyncobj.syncobj.PIPE_NOTIFIER_ENABLED = False  # two descriptors each, for a poller nobody waits in
    try:
        yield
    finally:
        pysyncobj.syncobj.monotonicTime = clock
        pysyncobj.syncobj.PIPE_NOTIFIER_ENABLED = notifier
        logging.disable(disabled)
        random.setstate(state)
