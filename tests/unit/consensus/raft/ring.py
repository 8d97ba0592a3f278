"""A few voters in memory, on simulated disks, under a clock that stands still unless it is moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Final

import pysyncobj.syncobj

from millpond_broker.consensus.codec import encode
from millpond_broker.consensus.metadata_log import ProposeOutcome
from millpond_broker.consensus.raft.compaction import CompactionOptions
from millpond_broker.consensus.raft.voter import Voter, VoterOptions
from millpond_broker.consensus.store import METADATA, Store, format_directory, format_joiner
from millpond_broker.core.commands import (
    AllocateProducerIds,
    ClaimController,
    Command,
    Envelope,
    InitCluster,
    RegisterBroker,
)
from millpond_broker.core.commands import (
    Voter as VoterRecord,
)
from tests.sim.disk import SimFiles

DIRECTORY: Final = Path("/data")
CLUSTER: Final = b"cluster of tests"
PROPOSER: Final = b"proposer of test"
STEP_SECONDS: Final = 0.01
STEPS_MAX: Final = 2000


def record(broker_id: int) -> VoterRecord:
    """The record of a voter of tests."""
    return VoterRecord(broker_id, f"disk-{broker_id}", f"broker-{broker_id}:7071")


class Ring:
    """Voters 1 to `count` of a new cluster. A message sent in one step is heard in the next."""

    def __init__(self, count: int, options: VoterOptions | None = None) -> None:
        self.now = 100.0
        self.options = options or VoterOptions(compaction=CompactionOptions(entries=50, entries_max=100))
        self.disks: dict[int, SimFiles] = {}
        self.voters: dict[int, Voter] = {}
        self.cut: set[tuple[int, int]] = set()
        self.on_the_way: list[tuple[int, int, bytes]] = []
        self.sequence = 0
        founders = tuple(map(record, range(1, count + 1)))
        self.configured = {founder.broker_id: founder.address for founder in founders}
        first = encode(Envelope(CLUSTER, 1, 0, InitCluster(CLUSTER, founders)))
        for broker_id in range(1, count + 1):
            format_directory(self.blank(broker_id), DIRECTORY, first, term=1, vote="1")
            self.start(broker_id)

    def blank(self, broker_id: int) -> SimFiles:
        """An empty disk for that voter."""
        files = self.disks[broker_id] = SimFiles(Random(broker_id))
        files.make_directory(DIRECTORY)
        files.sync_directory(Path("/"))
        return files

    def join(self, broker_id: int) -> Voter:
        """One that is to be added, on a blank disk."""
        format_joiner(self.blank(broker_id), DIRECTORY)
        return self.start(broker_id)

    def start(self, broker_id: int) -> Voter:
        """Start it from its disk; all are connected."""
        voter = self.voters[broker_id] = Voter(
            Store.open(self.disks[broker_id], DIRECTORY),
            broker_id=broker_id,
            directory_id=record(broker_id).directory_id,
            now=lambda: self.now,
            random=Random(broker_id),
            options=self.options,
            configured=self.configured,
        )
        for other, peer in self.voters.items():
            if other != broker_id:
                voter.peer_connected(other)
                peer.peer_connected(broker_id)
        return voter

    def crash(self, broker_id: int) -> None:
        """Its machine loses power."""
        del self.voters[broker_id]
        self.disks[broker_id].crash()
        self.on_the_way = [way for way in self.on_the_way if broker_id not in way[:2]]
        for peer in self.voters.values():
            peer.peer_disconnected(broker_id)

    def fill(self, broker_id: int) -> None:
        """Its disk has no room left."""
        files = self.disks[broker_id]
        files.capacity_bytes = sum(files.list(DIRECTORY / METADATA).values())

    def isolate(self, broker_id: int) -> None:
        """Nothing reaches or leaves it."""
        for other in self.voters:
            self.cut |= {(broker_id, other), (other, broker_id)}

    def step(self, count: int = 1) -> None:
        """Let that many steps pass."""
        for _ in range(count):
            self.now += STEP_SECONDS
            heard, self.on_the_way = self.on_the_way, []
            for source, target, message in heard:
                if target in self.voters and (source, target) not in self.cut:
                    self.voters[target].receive(source, message)
            for broker_id, voter in sorted(self.voters.items()):
                voter.tick()
                self.on_the_way += [(broker_id, *sent) for sent in voter.take_outgoing()]

    def until(self, condition: Callable[[], object]) -> None:
        """Let steps pass until it holds."""
        for _ in range(STEPS_MAX):
            if condition():
                return
            self.step()
        raise AssertionError("it did not come about")

    def leader(self, *, besides: int = 0) -> int:
        """Who leads, once somebody does."""
        found: dict[int, int] = {}

        def look() -> bool:
            found.update({v.term: key for key, v in self.voters.items() if v.term and key != besides})
            return bool(found)

        self.until(look)
        return found[max(found)]

    def ask(
        self, broker_id: int, command: Command, *, epoch: int | None = None, sequence: int | None = None
    ) -> list[ProposeOutcome]:
        """Propose it there; what is returned gets its outcome."""
        if sequence is None:
            self.sequence += 1
            sequence = self.sequence
        voter = self.voters[broker_id]
        epoch = voter.image.controller_epoch if epoch is None else epoch
        outcomes: list[ProposeOutcome] = []
        voter.propose(encode(Envelope(PROPOSER, sequence, epoch, command)), outcomes.append)
        return outcomes

    def do(self, broker_id: int, command: Command) -> ProposeOutcome:
        """Propose it there, and wait for its outcome."""
        outcomes = self.ask(broker_id, command)
        self.until(lambda: outcomes)
        return outcomes[0]

    def controller(self, *, besides: int = 0) -> int:
        """The leader, after its claim, with broker 1 registered."""
        leader = self.leader(besides=besides)
        self.do(leader, ClaimController(leader, self.voters[leader].term))
        self.do(leader, RegisterBroker(1, CLUSTER, "disk-1", "a:1", "a:2", "", "0"))
        return leader

    def take_ids(self, broker_id: int, count: int) -> None:
        """That many commands that count."""
        for _ in range(count):
            epoch = self.voters[broker_id].image.brokers[1].epoch
            self.do(broker_id, AllocateProducerIds(1, epoch, 1))

    def settle(self) -> None:
        """Wait until all have the same image."""
        self.step(20)
        self.until(lambda: len({voter.image.version for voter in self.voters.values()}) == 1)
        images = [voter.image for voter in self.voters.values()]
        assert all(image == images[0] for image in images)


@contextmanager
def ring(count: int, options: VoterOptions | None = None) -> Iterator[Ring]:
    """A ring, whose clock is the library's for so long."""
    real = pysyncobj.syncobj.monotonicTime
    made: list[Ring] = []
    pysyncobj.syncobj.monotonicTime = lambda: made[0].now if made else 100.0
    try:
        one = Ring(count, options)
        made.append(one)
        yield one
    finally:
        pysyncobj.syncobj.monotonicTime = real
