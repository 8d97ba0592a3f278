"""The library as it is, in the same world: what the faults do without the adapter.

One replicated method, a compaction every 60 entries, journal and dump in a temporary directory. Faults are
those of the network, and restarts in order: it need not even crash.
"""

from __future__ import annotations

import contextlib
import pickle
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from tests.sim.raft.checker import Acknowledged, Anomaly
from tests.sim.raft.nemesis import NETWORK, Nemesis, mix_of
from tests.sim.raft.report import RUN_SECONDS, Report
from tests.sim.raft.world import Host, World, simulated

CLOCK_STEP: float = 0.0002
"""Its snapshot loop waits for the clock."""
PROPOSAL_SECONDS: float = 0.03
HEAL_SECONDS: float = 15.0


class _MemoryTransport(Transport):  # type: ignore[misc]  # pysyncobj has no types
    """Dictionaries of the library's as pickles, for the world to carry."""

    def __init__(self) -> None:
        super().__init__(None, None, [])
        self.outgoing: list[tuple[int, bytes]] = []

    ready = True

    def send(self, node: Node, message: dict[str, Any]) -> None:
        self.outgoing.append((node.id, pickle.dumps(message)))

    def destroy(self) -> None:
        """There is nothing to give back."""


class _Log(SyncObj):  # type: ignore[misc]  # pysyncobj has no types
    """The state is what was applied, by index."""

    def __init__(self, me: int, others: Sequence[int], directory: Path, transport: Transport) -> None:
        settings = SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=False,
            raftMinTimeout=0.5,
            raftMaxTimeout=1.0,
            leaderFallbackTimeout=1.0,
            logCompactionMinEntries=60,
            logCompactionMinTime=10**9,
            useFork=False,
            commandsWaitLeader=False,
            fullDumpFile=str(directory / "dump"),
            journalFile=str(directory / "journal"),
        )
        super().__init__(Node(me), [Node(other) for other in others], settings, transport=transport)
        self.applied: dict[int, int] = {}

    @replicated  # type: ignore[untyped-decorator]  # pysyncobj has no types
    def apply(self, number: int, padding: bytes) -> int:
        del padding
        self.applied[self.raftLastApplied + 1] = number
        return int(self.raftLastApplied) + 1


class _Process:
    def __init__(self, me: int, others: Sequence[int], directory: Path) -> None:
        self._transport = _MemoryTransport()
        self.peers = others
        self.library = _Log(me, others, directory, self._transport)

    @property
    def leads_term(self) -> int:
        return int(self.library.raftCurrentTerm) if self.library._isLeader() else 0

    def admits(self, _peer: int) -> bool:
        return True

    def tick(self) -> None:
        with contextlib.suppress(Exception):  # its own thread logs it and goes on
            self.library.doTick(0.0)

    def receive(self, peer: int, message: bytes) -> None:
        with contextlib.suppress(Exception):  # likewise
            self._transport._onMessageReceived(Node(peer), pickle.loads(message))

    def take_outgoing(self) -> Sequence[tuple[int, bytes]]:
        taken, self._transport.outgoing = self._transport.outgoing, []
        return taken

    def peer_connected(self, peer: int) -> None:
        self._transport._onNodeConnected(Node(peer))

    def peer_disconnected(self, peer: int) -> None:
        self._transport._onNodeDisconnected(Node(peer))

    def propose(self, number: int, size: int, done: Callable[[Any, int], None]) -> None:
        self.library.apply(number, b"x" * size, callback=done)


class _StockHost(Host):
    def __init__(self, host_id: int, others: Sequence[int], directory: Path) -> None:
        super().__init__(host_id)
        self._others = others
        self._directory = directory
        directory.mkdir()
        self._running: _Process | None = None

    def boot(self) -> _Process:
        self._running = _Process(self.host_id, self._others, self._directory)
        return self._running

    def end(self, how: str) -> None:
        assert how == "stop", "in order, always"
        assert self._running is not None, "it ran"
        self._running.library.destroy()


class _Group:
    """Members of a stock group, what they are asked, and what they answered."""

    def __init__(self, world: World, nodes: int, directory: Path) -> None:
        self.world = world
        self.acknowledged = Acknowledged()
        self.is_asked = True
        self._proposed = 0
        ids = range(1, nodes + 1)
        for host_id in ids:
            others = [other for other in ids if other != host_id]
            world.add(_StockHost(host_id, others, directory / str(host_id)))
        for host_id in ids:
            world.start(host_id)

    def leaders(self) -> list[Host]:
        return [host for host in self.world.running() if _process(host).leads_term]

    def propose(self) -> None:
        random, leaders = self.world.random, self.leaders()
        if leaders and self.is_asked:
            leader = random.choice(leaders)
            for _ in range(random.choice((1, 1, 1, 1, 1, 10))):
                self._propose_at(leader, random.choice((100, 100, 1000, 20_000)))
        self.world.after(PROPOSAL_SECONDS * random.random() * 2, self.propose)

    def _propose_at(self, leader: Host, size: int) -> None:
        self._proposed += 1
        number = self._proposed

        def done(index: int | None, reason: int) -> None:
            if reason == FAIL_REASON.SUCCESS and index is not None:
                self.acknowledged.acknowledged(number, index, None)

        self.world.call(leader, lambda process: process.propose(number, size, done))

    def judge(self) -> None:
        """Raises Anomaly."""
        states = [_process(host).library.applied for host in self.world.running()]
        leaders = self.leaders()
        final = _process(leaders[0]).library.applied if leaders else max(states, key=len)
        values = set(final.values())
        lost = [number for number in self.acknowledged.by_key if number not in values]
        if lost:
            detail = f"{len(lost)} of {len(self.acknowledged.by_key)}"
            raise Anomaly("lost-acknowledged", detail)
        for state in states:
            if any(index in final and final[index] != number for index, number in state.items()):
                raise Anomaly("digest", "voters that applied as far do not agree")
        if not leaders:
            raise Anomaly("stuck", "nobody leads")
        shortest = min(max(state, default=0) for state in states)
        if shortest < self.acknowledged.last_index:
            raise Anomaly("stuck", f"a voter is at {shortest} of {self.acknowledged.last_index}")


def _process(host: Host) -> _Process:
    assert isinstance(host.process, _Process), "a stock group"
    return host.process


def run_stock(seed: int, *, nodes: int = 3, seconds: float = RUN_SECONDS) -> Report:
    """One run of the library as it is, with restarts if the seed is odd. It is judged at the end, when all is
    healed.
    """
    world = World(seed, advance_per_reading=CLOCK_STEP)
    with tempfile.TemporaryDirectory() as home, simulated(world, seed):
        group = _Group(world, nodes, Path(home))
        kinds = (*NETWORK, "stop") if seed % 2 else NETWORK
        nemesis = Nemesis(world, mix_of(seed, kinds), seed=seed)
        nemesis.begin()
        group.propose()
        world.run_until(world.now + seconds)
        nemesis.heal()
        anomaly = None
        try:
            world.run_until(world.now + HEAL_SECONDS)
            group.is_asked = False
            world.run_until(world.now + 1.0)
            group.judge()
        except Anomaly as found:
            anomaly = found
        for host in world.running():
            host.end("stop")
    return Report.of(world, seed, anomaly, len(group.acknowledged.by_key))
