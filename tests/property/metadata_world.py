"""A world of brokers around the metadata image: logs that grow, are copied, acknowledged and lost by chance.

It knows of each broker what it has of one partition, and of the partition what was acknowledged; leaders act
on images that are old by now, requests arrive late and out of order, brokers are cut off, killed, lose power
with bytes that they report, and find bad bytes. Everything is drawn from one seed. `Violation` names the
promise that was broken: those of PROOF §3 that concern the image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Final

from millpond_broker.consensus.codec import decode_snapshot, encode_snapshot
from millpond_broker.core.commands import (
    AlterPartitions,
    Command,
    GiveUp,
    GiveUpPartitions,
    InSyncChange,
    InSyncMember,
    Reassignment,
    ReassignPartitions,
    SetTopicConfig,
    StopBroker,
)
from millpond_broker.core.controller import PlanOptions, plan
from millpond_broker.core.image import BrokerState, PartitionImage, Refused
from millpond_broker.core.sessions import Session
from tests.unit.core.clusters import topic
from tests.unit.core.replicas import ORDERS, Replicated, replicated, said

BROKERS: Final = (1, 2, 3, 4)
Record = tuple[int, int]
"""The leader epoch that wrote it, and a number of its own."""


class Violation(Exception):
    """A promise was broken."""


@dataclass
class View:
    """What a leader knows of its own leadership, from an image that may be old."""

    leader_epoch: int
    partition_epoch: int
    isr: frozenset[int]
    min_insync: int
    begun_at: int
    """Its log's end when the epoch began: LESO."""
    asked: tuple[frozenset[int], AlterPartitions] | None = None
    """The ISR that it asked for, and how: counted until a newer image says otherwise (rule 6)."""


@dataclass
class Broker:
    """One broker: its disk, and its process while there is one."""

    log: list[Record] = field(default_factory=list)
    is_up: bool = True
    is_cut_off: bool = False
    starts: int = 1
    marker: int = 0
    """The broker epoch in the clean-stop marker."""
    has_cut: bool = False
    """Its recovery cut bytes, and no registration has said so yet."""
    is_registered: bool = True
    """This process is."""
    knows: int = 0
    """Version of the image that it has."""
    view: View | None = None
    progress: tuple[int, int, InSyncMember] | None = None
    """What its leader knows of it: in which epoch, how long its log was there, and who stated that."""


class World:
    """See the module."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.flush = self.random.choice(["commit", "commit", "interval"])
        self.c: Replicated = replicated(*BROKERS)
        self.c.must(
            topic(
                "orders",
                (1, 2, 3),
                min_insync=self.random.choice([1, 2, 2, 3]),
                config={"flush": self.flush},
            )
        )
        self.brokers = {key: Broker() for key in BROKERS}
        self.acknowledged: list[Record] = []
        self.written = self.commits = 0
        self.mail: list[Command] = []
        self.leaders: dict[int, int] = {0: 1}
        self.now_ms = 0
        self.story: list[str] = []

    # --- the image ------------------------------------------------------------------------------------

    @property
    def state(self) -> PartitionImage:
        return self.c.partition("orders")

    @property
    def min_insync(self) -> int:
        return self.c.image.topics[ORDERS].min_insync_of(len(self.state.replicas))

    def is_current(self, broker_id: int) -> bool:
        """Whether its process is the registered start."""
        broker = self.brokers[broker_id]
        return broker.is_up and broker.is_registered

    def apply(self, command: Command) -> object:
        before = self.state
        result = self.c.do(command)
        self.story.append(f"  {type(command).__name__}: {said(self.state)}")
        self.check_step(before, self.state)
        return result

    def check_step(self, old: PartitionImage, new: PartitionImage) -> None:
        """Rules 11 to 15, for one command."""
        if new == old:
            return
        if new.partition_epoch != old.partition_epoch + 1:
            raise Violation("a change is not one partition epoch")
        if new.leader_epoch not in (old.leader_epoch, old.leader_epoch + 1):
            raise Violation("leader epochs do not go on by one")
        if new.leader is not None and self.leaders.setdefault(new.leader_epoch, new.leader) != new.leader:
            raise Violation("an epoch has two leaders")
        if new.leader_epoch > old.leader_epoch:
            if new.leader is None or self.c.image.brokers[new.leader].state is BrokerState.FENCED:
                raise Violation("an epoch begins without a leader that may lead")
            self.check_election(old, new, new.leader)
        if len(new.isr) >= self.min_insync and new.elr:
            raise Violation("eligible though enough are in sync")
        if not set(old.removing) <= set(new.replicas) and len(new.isr) < self.min_insync:
            raise Violation("replicas are dropped before enough others are in sync")
        for member in new.isr:
            if self.c.image.brokers[member].state is BrokerState.FENCED:
                raise Violation("in sync though fenced")

    def check_election(self, old: PartitionImage, new: PartitionImage, leader: int) -> None:
        log = self.brokers[leader].log
        if new.is_recovering:
            for cut in old.cuts:
                if not is_prefix(self.brokers[cut.broker_id].log, log) and self.is_current(cut.broker_id):
                    raise Violation("recovered from one that has less than another")
            kept = 0
            while kept < min(len(log), len(self.acknowledged)) and log[kept] == self.acknowledged[kept]:
                kept += 1
            del self.acknowledged[kept:]
        elif leader not in (*old.isr, *old.elr):
            raise Violation("elected from outside ISR and ELR")
        elif self.is_current(leader) and not is_prefix(self.acknowledged, log):
            # One that is down, unknown to the image, leads nothing: it registers anew, and says what it lost.
            raise Violation("a leader lacks what was acknowledged")

    def check_members(self) -> None:
        """Whoever may lead cleanly has what was acknowledged, but for what is still to be reported."""
        state = self.state
        cut = {entry.broker_id for entry in state.cuts}
        for member in (*state.isr, *state.elr):
            is_measured = member not in cut and self.is_current(member) and not state.is_offline
            if is_measured and not is_prefix(self.acknowledged, self.brokers[member].log):
                raise Violation("a member lacks what was acknowledged")
        if decode_snapshot(encode_snapshot(self.c.image)) != self.c.image:
            raise Violation("a snapshot is another image")

    # --- what happens -----------------------------------------------------------------------------------

    def step(self) -> None:
        name = self.random.choices(list(ACTIONS), list(ACTIONS.values()))[0]
        self.story.append(f"{name}")
        self.now_ms += self.random.choice([10, 100, 20_000])
        getattr(self, name)()
        self.check_members()

    def pick(self, *, up: bool = True) -> tuple[int, Broker] | None:
        those = [(key, broker) for key, broker in self.brokers.items() if broker.is_up is up]
        return self.random.choice(those) if those else None

    def leading(self) -> tuple[int, Broker, View] | None:
        those = [(key, b, b.view) for key, b in self.brokers.items() if b.is_up and b.view is not None]
        return self.random.choice(those) if those else None

    def write(self) -> None:
        if (leader := self.leading()) is not None:
            _, broker, view = leader
            self.written += 1
            broker.log.append((view.leader_epoch, self.written))

    def replicate(self) -> None:
        """A follower of the epoch in force copies some of what its leader has (rules 3 and 4)."""
        state = self.state
        found = self.pick()
        if found is None or state.leader is None:
            return
        key, follower = found
        leader = self.brokers[state.leader]
        if (
            key == state.leader
            or key not in state.replicas
            or follower.is_cut_off
            or not self.is_current(key)
        ):
            return
        if leader.view is None or leader.view.leader_epoch != state.leader_epoch or leader.is_cut_off:
            return
        follower.view = None
        common = common_length(follower.log, leader.log)
        end = self.random.choice(
            [len(leader.log), len(leader.log), self.random.randint(common, len(leader.log))]
        )
        follower.log[common:] = leader.log[common:end]
        stated = InSyncMember(key, self.c.epoch(key), state.partition_epoch)
        follower.progress = (state.leader_epoch, end, stated)

    def commit(self) -> None:
        """A leader acknowledges what its maximal ISR has in its epoch (rules 6 and 8)."""
        if (leader := self.leading()) is None:
            return
        key, broker, view = leader
        recovering = self.state.recovering_epoch
        if recovering is not None and recovering > view.leader_epoch:
            return  # what a deposed leader acknowledges after an unclean election is lost, as was said
        if len(view.isr) < view.min_insync:
            return
        maximal = view.isr | (view.asked[0] if view.asked else frozenset())
        end = len(broker.log)
        for member in maximal - {key}:
            progress = self.brokers[member].progress
            if progress is None or progress[0] != view.leader_epoch or not self.is_current(member):
                return
            end = min(end, progress[1])
        if end <= len(self.acknowledged):
            return
        self.commits += 1
        if not is_prefix(self.acknowledged, broker.log):
            raise Violation("what was acknowledged is written over")
        self.acknowledged = broker.log[:end]

    def alter(self) -> None:
        """A leader asks for who caught up, without who fell behind (rules 9 and 10)."""
        if (leader := self.leading()) is None:
            return
        key, _, view = leader
        if view.asked is not None:
            self.mail.append(view.asked[1])
            return
        known = len(self.acknowledged)
        stated = {key: InSyncMember(key, self.c.epoch(key))}
        for member, other in self.brokers.items():
            if other.progress is not None and other.progress[:1] == (view.leader_epoch,):
                _, end, statement = other.progress
                if end >= max(known, view.begun_at):
                    stated[member] = statement
        wanted = {key, *(view.isr if self.random.random() < 0.6 else ()), *stated}
        wanted = {member for member in wanted if member == key or self.random.random() < 0.8}
        isr = tuple(stated.get(member, InSyncMember(member, 0)) for member in sorted(wanted))
        change = InSyncChange(ORDERS, 0, view.leader_epoch, view.partition_epoch, isr)
        command = AlterPartitions(key, self.c.epoch(key), (change,))
        view.asked = frozenset(wanted), command
        self.mail.append(command)

    def deliver(self) -> None:
        if self.mail:
            command = self.mail[self.random.randrange(len(self.mail))]
            if self.random.random() < 0.8:
                self.mail.remove(command)
            before = self.state
            self.apply(command)
            self.check_request(command, before)

    def check_request(self, command: Command, before: PartitionImage) -> None:
        """Rule 12: what changes was decided on the state that there was."""
        if not isinstance(command, AlterPartitions) or self.state == before:
            return
        (change,) = command.changes
        if change.partition_epoch_seen != before.partition_epoch:
            raise Violation("a late request changed something")
        for member in change.isr:
            if member.broker_id not in before.isr and member.broker_epoch != self.c.epoch(member.broker_id):
                raise Violation("in sync as an earlier start")

    def learn(self) -> None:
        """A broker gets the image that there is now."""
        found = self.pick()
        if found is None or found[1].is_cut_off or not self.is_current(found[0]):
            return
        key, broker = found
        state, broker.knows = self.state, self.c.image.version
        if state.leader != key:
            broker.view = None
            return
        view = broker.view
        if view is None or view.leader_epoch != state.leader_epoch:
            broker.progress = None
            view = broker.view = View(
                state.leader_epoch, -1, frozenset(), self.min_insync, begun_at=len(broker.log)
            )
        if view.partition_epoch != state.partition_epoch:
            view.asked = None
        view.isr, view.partition_epoch = frozenset(state.isr), state.partition_epoch
        view.min_insync = self.min_insync

    def control(self) -> None:
        """The controller looks who is there, and does what it plans, or the first of it."""
        live = {
            key: Session(self.c.epoch(key), 0, broker.knows, feature_level=2, is_heard=True)
            for key, broker in self.brokers.items()
            if self.is_current(key) and not broker.is_cut_off
        }
        for command in plan(self.c.image, live, self.now_ms, PlanOptions(cut_grace_ms=1000)):
            result = self.apply(command)
            if isinstance(result, Refused) or getattr(result, "value", None) not in (None, ()):
                raise Violation(f"what was planned is refused: {result}")
            if self.random.random() < 0.3:
                return

    def cut_off(self) -> None:
        if (found := self.pick()) is not None:
            found[1].is_cut_off = True

    def reach(self) -> None:
        for broker in self.brokers.values():
            broker.is_cut_off = False

    # --- processes and disks ----------------------------------------------------------------------------

    def kill(self) -> None:
        """An unclean stop: with flush=interval it takes what it likes."""
        if (found := self.pick()) is not None:
            self.down(*found)
            if self.flush == "interval":
                self.lose(found[1])

    def power_off(self) -> None:
        """Synced bytes are gone: recovery finds out, and has to say so."""
        if (found := self.pick()) is not None:
            self.down(*found)
            found[1].has_cut |= self.lose(found[1])

    def black_out(self) -> None:
        """All lose power at once."""
        for key, broker in self.brokers.items():
            self.down(key, broker)
            broker.has_cut |= self.lose(broker)

    def stop(self) -> None:
        if (found := self.pick()) is not None and self.is_current(found[0]):
            key, broker = found
            self.apply(StopBroker(key, self.c.epoch(key)))
            if self.random.random() < 0.7:
                epoch = self.c.epoch(key)
                self.down(key, broker)
                broker.marker = epoch

    def down(self, key: int, broker: Broker) -> None:
        self.story.append(f"  broker {key} is down")
        broker.is_up, broker.is_registered, broker.view, broker.progress = False, False, None, None
        broker.marker = 0

    def lose(self, broker: Broker) -> bool:
        lost = min(len(broker.log), self.random.choice([0, 1, 2, 5]))
        if lost:
            del broker.log[-lost:]
        return lost > 0

    def come_up(self) -> None:
        if (found := self.pick(up=False)) is not None:
            found[1].is_up = True
            found[1].starts += 1

    def register(self) -> None:
        waiting = [key for key, broker in self.brokers.items() if broker.is_up and not broker.is_registered]
        if not waiting:
            return
        key = self.random.choice(waiting)
        broker = self.brokers[key]
        last = broker.log[-1][0] if broker.log else None
        before = self.state
        cuts = [(0, last, len(broker.log))] if broker.has_cut else []
        result = self.c.start(key, broker.starts, previous_epoch=broker.marker, cuts=cuts)
        self.story.append(f"  broker {key} registers, cut {cuts}: {said(self.state)}")
        if not isinstance(result, Refused):
            broker.is_registered, broker.has_cut, broker.marker = True, False, 0
        self.check_step(before, self.state)

    def find_bad_bytes(self) -> None:
        """Rule 15: leave, and wipe only where the image has it without a seat."""
        if (found := self.pick()) is None or not self.is_current(found[0]):
            return
        key, broker = found
        heard, broker.view, broker.progress = broker.progress, None, None
        self.apply(GiveUpPartitions(key, self.c.epoch(key), (self.give_up(leaves=True),)))
        if (self.state.isr or self.state.elr) and key not in (*self.state.isr, *self.state.elr):
            broker.log.clear()
            # The leader goes by what it heard, until it hears of another position.
            broker.progress = heard if self.random.random() < 0.5 else None

    def resign(self) -> None:
        if (leader := self.leading()) is not None:
            key, broker, _ = leader
            broker.view = None
            self.apply(GiveUpPartitions(key, self.c.epoch(key), (self.give_up(leaves=False),)))

    def give_up(self, *, leaves: bool) -> GiveUp:
        return GiveUp(ORDERS, 0, self.state.partition_epoch, leaves)

    # --- administrators ---------------------------------------------------------------------------------

    def set_min_insync(self) -> None:
        self.apply(SetTopicConfig(ORDERS, (), (), self.random.choice([1, 2, 3])))

    def reassign(self) -> None:
        replicas = tuple(self.random.sample(BROKERS, self.random.choice([1, 2, 3, 3])))
        self.apply(ReassignPartitions((Reassignment(ORDERS, 0, replicas, self.state.partition_epoch),)))

    # --- the end ----------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Faults end: everybody is there, everybody is heard, and the partition is led again."""
        self.story.append("heal")
        self.reach()
        for key, broker in self.brokers.items():
            if self.is_current(key) and self.c.image.brokers[key].state is BrokerState.STOPPING:
                self.down(key, broker)  # what stops comes to its end
                broker.marker = self.c.epoch(key)
        for _ in range(12):
            for broker in self.brokers.values():
                if not broker.is_up:
                    broker.is_up = True
                    broker.starts += 1
            self.now_ms += 60_000
            for _ in self.brokers:
                self.control_all()
                self.register()
            for key in self.brokers:
                self.brokers[key].knows = self.c.image.version
            self.check_members()
        if self.state.leader is None and not self.state.is_offline:
            raise Violation(f"nobody leads though everybody is there: {said(self.state)}")

    def control_all(self) -> None:
        for broker in self.brokers.values():
            broker.knows = self.c.image.version
        self.control()


ACTIONS: Final = {
    "write": 12,
    "replicate": 40,
    "commit": 20,
    "alter": 10,
    "deliver": 10,
    "learn": 30,
    "control": 20,
    "cut_off": 1.5,
    "reach": 3,
    "kill": 2,
    "power_off": 1,
    "black_out": 0.4,
    "stop": 1,
    "come_up": 8,
    "register": 12,
    "find_bad_bytes": 0.4,
    "resign": 0.5,
    "set_min_insync": 0.4,
    "reassign": 0.5,
}
"""What may happen, and how often."""


def is_prefix(one: list[Record], of: list[Record]) -> bool:
    return of[: len(one)] == one


def common_length(one: list[Record], other: list[Record]) -> int:
    end = 0
    while end < min(len(one), len(other)) and one[end] == other[end]:
        end += 1
    return end


def run(seed: int, steps: int = 250) -> World:
    """One life of a world. Raises Violation, AssertionError."""
    world = World(seed)
    for _ in range(steps):
        world.step()
    world.heal()
    return world
