"""What is asked of the group: commands at whoever says that it leads, again where the outcome is unknown.

Each proposal is named by (proposer, sequence), and a retry, at whichever voter, repeats the name. Producer
ids are not idempotent, so that a command that counts twice shows. Large commands are refused, which makes
them large in the log and leaves the image small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from millpond_broker.consensus.codec import encode
from millpond_broker.consensus.metadata_log import NotApplied, Ok, ProposeOutcome
from millpond_broker.core.commands import (
    AllocateProducerIds,
    ClaimController,
    Command,
    CreateTopic,
    DeleteTopic,
    Envelope,
    RegisterBroker,
    SetTopicConfig,
)
from tests.sim.raft.judge import Judge, Key
from tests.sim.raft.voters import VoterProcess
from tests.sim.raft.world import Host, World

CLIENTS = 4
IN_FLIGHT_MAX = 48
"""Of all clients: fewer than the results that are remembered of each."""
LOST_SECONDS = 4.0
"""After which nothing is heard any more of a proposal at a process that has ended."""
REGISTERED = 1
"""The broker that ids are allocated for."""


@dataclass
class _Operation:
    key: Key
    command: Command


class Workload:
    """See the module."""

    def __init__(self, world: World, judge: Judge, *, seed: int) -> None:
        self.world = world
        self.judge = judge
        self.is_over = False
        self._random = Random(f"workload {seed}")
        self._rate_seconds = self._random.choice((0.03, 0.06, 0.12))
        self._sequences = [0] * CLIENTS
        self._claimed: set[tuple[int, int]] = set()
        self._again: list[_Operation] = []
        self._in_flight = 0
        self._topics: list[bytes] = []
        self._names = 0

    def begin(self) -> None:
        """Ask, from now on, until `is_over`."""
        self._step()

    def new_key(self) -> Key:
        """A name for one more proposal."""
        client = self._random.randrange(CLIENTS)
        self._sequences[client] += 1
        return f"proposer {client:07}".encode(), self._sequences[client]

    def propose(self, host: Host, key: Key, command: Command, told: Callable[[ProposeOutcome], None]) -> None:
        """Hand it in there. `told` may never be called: its process ends."""

        def hand_in(process: VoterProcess) -> None:
            epoch = process.voter.image.controller_epoch
            self.judge.attempted(key)
            process.propose(encode(Envelope(*key, epoch, command)), done)

        def done(outcome: ProposeOutcome) -> None:
            self.world.count(type(outcome).__name__)
            self.judge.told(key, outcome)
            told(outcome)

        self.world.call(host, hand_in)

    # --- steps ------------------------------------------------------------------------------------------

    def _step(self) -> None:
        if self.is_over:
            return
        self._claim()
        burst = self._random.choice((1, 1, 1, 1, 1, 1, 8)) if self._in_flight < IN_FLIGHT_MAX else 0
        for _ in range(burst):
            host = self._target()
            if host is not None:
                self._ask(host)
        self.world.after(self._rate_seconds * 2 * self._random.random(), self._step)

    def _target(self) -> Host | None:
        """Mostly a leader, also one that only believes to be, sometimes any."""
        running = self.world.running()
        leading = [host for host in running if host.process and host.process.leads_term]
        if leading and self._random.random() < 0.97:
            return self._random.choice(leading)
        return self._random.choice(running) if running and self._random.random() < 0.1 else None

    def _claim(self) -> None:
        for host in self.world.running():
            process = host.process
            assert isinstance(process, VoterProcess), "a voter"
            term = process.voter.term
            if term and (host.host_id, term) not in self._claimed:
                self._claimed.add((host.host_id, term))
                self._begin(host, _Operation(self.new_key(), ClaimController(host.host_id, term)))

    def _ask(self, host: Host) -> None:
        if self._again and self._random.random() < 0.5:
            operation = self._again.pop(self._random.randrange(len(self._again)))
            self.world.count("retry")
        else:
            process = host.process
            assert isinstance(process, VoterProcess), "a voter"
            operation = _Operation(self.new_key(), self._command(process))
        self._begin(host, operation)

    def _begin(self, host: Host, operation: _Operation) -> None:
        self._in_flight += 1
        is_told = False

        def told(outcome: ProposeOutcome | None) -> None:
            nonlocal is_told
            if is_told:
                return
            is_told = True
            self._in_flight -= 1
            if isinstance(outcome, Ok):
                return
            if not isinstance(outcome, NotApplied) or self._random.random() < 0.5:
                self._again.append(operation)

        def give_up() -> None:
            if host.life != life or host.process is None:
                told(None)
            elif not is_told:
                self.world.after(LOST_SECONDS, give_up)

        life = host.life
        self.propose(host, operation.key, operation.command, told)
        self.world.after(LOST_SECONDS, give_up)

    def _command(self, process: VoterProcess) -> Command:
        random, image = self._random, process.voter.image
        broker = image.brokers.get(REGISTERED)
        drawn = random.random()
        if broker is None or drawn < 0.01:
            incarnation = random.randbytes(16)
            return RegisterBroker(REGISTERED, incarnation, record_disk(process), "a:1", "a:2", "", "1")
        if drawn < 0.6:
            return AllocateProducerIds(REGISTERED, broker.epoch, 1)
        if drawn < 0.72 and self._topics:
            topic_id = self._topics.pop(random.randrange(len(self._topics)))
            return DeleteTopic(topic_id)
        if drawn < 0.85:
            self._names += 1
            topic_id = self._names.to_bytes(16, "big")
            self._topics.append(topic_id)
            return CreateTopic(topic_id, f"topic-{self._names}", 1, 1, (), ((REGISTERED,),))
        size = random.choice((100, 100, 2_000, 20_000, 100_000))
        return SetTopicConfig(b"no such topic id", (("note", "x" * size),), ())


def record_disk(process: VoterProcess) -> str:
    """The disk that the registered broker says it has: that of the voter of its id, which is pinned."""
    voter = process.voter.image.voters.get(REGISTERED)
    return voter.directory_id if voter is not None else f"disk-{REGISTERED}"
