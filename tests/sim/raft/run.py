"""One run of the adapter from one seed: a group, what it is asked, and what strikes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from millpond_broker.consensus.raft import codec
from millpond_broker.consensus.raft.guards import Guards
from millpond_broker.consensus.raft.messages import InstallSnapshot, Vote
from millpond_broker.consensus.raft.voter import VoterOptions
from tests.sim.raft.checker import Anomaly
from tests.sim.raft.judge import SMALL_BYTES, Judge
from tests.sim.raft.membership import Replacer
from tests.sim.raft.nemesis import DEATHS, DISKS, MEMBERSHIP, NETWORK, PROCESSES, Mix, Nemesis, mix_of
from tests.sim.raft.report import HEAL_SECONDS, RUN_SECONDS, Report
from tests.sim.raft.voters import OPTIONS, VoterHost, VoterProcess, record_of
from tests.sim.raft.workload import Workload
from tests.sim.raft.world import Host, World, simulated

CLOCK_STEP = 0.0002
CLOCK_MOVES_EVERY = 5
ALL_FAULTS = (*NETWORK, *PROCESSES, *DEATHS, *DISKS, *MEMBERSHIP)


@dataclass(frozen=True)
class Plan:
    """What to run. `mix` and `nodes`: None to draw them."""

    seed: int
    nodes: int | None = None
    seconds: float = RUN_SECONDS
    guards: Guards = field(default_factory=Guards)
    mix: Mix | None = None
    options: VoterOptions = OPTIONS
    admits_all: bool = False
    """Whether voters let anybody in who has a voter's id."""
    story: Callable[[Group], None] | None = None
    """What happens instead of faults that are drawn (`scenarios`)."""
    heal_seconds: float = HEAL_SECONDS


class Group:
    """The voters of one world, and everything around them."""

    def __init__(self, plan: Plan) -> None:
        seed = plan.seed
        self.plan = plan
        # In some worlds time also passes within a tick: reading the clock twice gives two times.
        moves = CLOCK_STEP if seed % CLOCK_MOVES_EVERY == CLOCK_MOVES_EVERY - 1 else 0.0
        self.world = World(seed, advance_per_reading=moves)
        self.judge = Judge()
        self.workload = Workload(self.world, self.judge, seed=seed)
        self.replacer = Replacer(self.world, self.workload, seed=seed, make_host=self._joiner)
        mix = plan.mix or mix_of(seed, ALL_FAULTS, messages=True)
        self.nemesis = Nemesis(self.world, mix, seed=seed, replacer=self.replacer)
        count = plan.nodes or (5 if seed % 4 == 3 else 3)
        self.founders = list(range(1, count + 1))
        self.world.on_sent = self.judge.sent
        self.world.on_turn = self._look
        self.world.on_refused = self.replacer.noticed
        self.world.arrivals = lambda message: self._arrivals(message, mix)
        for host_id in self.founders:
            self.world.add(self._host(host_id, self.founders))

    def start(self) -> None:
        """All of them."""
        for host_id in self.founders:
            self.world.start(host_id)

    def voters(self) -> list[VoterProcess]:
        """Those that run."""
        processes = [host.process for host in self.world.running()]
        assert all(isinstance(process, VoterProcess) for process in processes), "voters"
        return processes  # type: ignore[return-value]  # as asserted

    def add_joiner(self, host_id: int) -> None:
        """A voter that others are to add, and that knows of them."""
        self.world.add(self._joiner(host_id))
        self.world.start(host_id)

    def settle(self) -> None:
        """Faults are over: all is well again within a bound. Raises Anomaly."""
        world = self.world
        if not world.run_until(world.now + self.plan.heal_seconds, done=self._is_well):
            versions = {process.host.host_id: process.voter.image.version for process in self.voters()}
            raise Anomaly("stuck", f"after {self.plan.heal_seconds:.0f} s without faults: {versions}")
        self.judge.final({p.host.host_id: p.voter.image for p in self._members()})

    def _host(self, host_id: int, founders: list[int] | None) -> VoterHost:
        known = {other: record_of(other).address for other in self.world.hosts or self.founders}
        return VoterHost(
            self.world,
            self.judge,
            host_id,
            seed=self.plan.seed,
            founders=founders,
            known=known,
            guards=self.plan.guards,
            admits_all=self.plan.admits_all,
            options=self.plan.options,
        )

    def _joiner(self, host_id: int) -> VoterHost:
        return self._host(host_id, None)

    def _look(self, host: Host) -> None:
        process = host.process
        if isinstance(process, VoterProcess) and process.leads_term:
            self.judge.leads(host.host_id, process.leads_term, process.voter.voters)

    def _arrivals(self, data: bytes, mix: Mix) -> Sequence[bytes]:
        random = self.world.random
        if len(data) < SMALL_BYTES:
            if mix.duplicates and isinstance(codec.decode(data), Vote) and random.random() < mix.duplicates:
                self.world.count("vote twice")
                return data, data
        elif mix.garbled and random.random() < mix.garbled:
            message = codec.decode(data)
            if isinstance(message, InstallSnapshot):
                self.world.count("snapshot garbled")
                garbled = bytearray(message.snapshot.data)
                garbled[random.randrange(len(garbled))] ^= 1 << random.randrange(8)
                snapshot = message.snapshot._replace(data=bytes(garbled))
                return (codec.encode(replace(message, snapshot=snapshot)),)
        return (data,)

    def _members(self) -> list[VoterProcess]:
        leaders = [process for process in self.voters() if process.voter.term]
        if not leaders:
            return []
        voters = max(leaders, key=lambda process: process.voter.term).voter.voters
        return [process for process in self.voters() if process.host.host_id in voters]

    def _is_well(self) -> bool:
        """There is one leader, who has stopped being asked, and all members are as far as it."""
        if self.replacer.is_busy:
            return False
        members = self._members()
        leading = [process for process in members if process.voter.term]
        if len(leading) != 1 or len(members) < len(leading[0].voter.voters):
            return False
        if not self.workload.is_over:
            if leading[0].voter.image.version < self.judge.acknowledged.last_index:
                return False
            if self.judge.acknowledged.last_index <= self._acknowledged_before:
                return False  # it must get on, too
            self.workload.is_over = True
        ends = {process.voter._store.journal.last_index for process in members}
        applied = {process.voter._library.applied_index for process in members}
        return len(ends) == 1 and applied == ends

    _acknowledged_before = 0

    def heal(self) -> None:
        """No more faults."""
        self.nemesis.heal()
        self._acknowledged_before = self.judge.acknowledged.last_index


def run(plan: Plan) -> Report:
    """See the module."""
    group = Group(plan)
    world, anomaly = group.world, None
    with simulated(world, plan.seed):
        try:
            group.start()
            if plan.story is None:
                group.workload.begin()
                group.nemesis.begin()
                world.run_until(world.now + plan.seconds)
            else:
                plan.story(group)
                group.workload.begin()
            group.heal()
            group.settle()
        except Anomaly as found:
            anomaly = found
    world.counts["elections"] = group.judge.elected.changes
    return Report.of(world, plan.seed, anomaly, len(group.judge.acknowledged.by_key), describe)


def describe(data: bytes) -> str:
    """A message, for a trace."""
    message = codec.decode(data)
    if isinstance(message, InstallSnapshot):
        return f"InstallSnapshot(term={message.term}, last_index={message.snapshot.last_index})"
    text = repr(message)
    return text if len(text) < 300 else text[:300] + "…"
