"""Faults, drawn from the seed: which kinds a run has, when they strike, and how long they last.

A quarter of the time is quiet. Whatever was broken is mended by itself after a while, and all by `heal`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from millpond_broker.core.commands import AlterPartitions
from millpond_broker.runtime.peers import Purpose
from millpond_broker.storage.log import Log
from tests.sim.cluster.metadata import Ambush
from tests.sim.cluster.process import BrokerHost
from tests.sim.cluster.topics import CHANGES
from tests.sim.cluster.world import World

NETWORK: Final = (
    "partition",
    "isolate leader",
    "isolate controller",
    "one way",
    "ring",
    "delay",
    "break",
    "stall",
)
PROCESSES: Final = (
    "kill",
    "power",
    "power all",
    "crash inside",
    "stop",
    "rolling",
    "pause",
    "controller dies",
    "ambush",
)
OTHERS: Final = (
    "controller change",
    "slow disk",
    "sync fails",
    "sync hangs",
    "read fails",
    "disk full",
    "clock",
    "client dies",
)
BAD_DISKS: Final = ("flip", "truncate")
"""They spoil what was synced. Of each partition only one replica is ever struck, its victim: what is below
the high watermark is on another one at least, since a minimum of two is in sync: nothing may be lost to them.
"""
TAKE_UNSYNCED: Final = ("power", "power all", "crash inside", "sync fails", *BAD_DISKS)
"""Those that may take bytes that were not synced, which flush=interval has not promised to keep."""
CYCLE_SECONDS: Final = 6.0
QUIET_SECONDS: Final = 1.5
"""Of each cycle."""
DOWN_SECONDS: Final = (0.05, 0.5, 2.5)
FAULT_SECONDS: Final = (0.3, 1.5, 5.0)
SEGMENTS_STRUCK: Final = 0.7
"""Of the bits that turn; the others are anywhere in a log's directory."""
STALL_SECONDS: Final = (0.5, 3.0, 13.0)
"""The longest is longer than a member of the ISR may lag."""


@dataclass(frozen=True)
class Mix:
    """What strikes in one run, and how often, on average, in its noisy time."""

    kinds: tuple[str, ...]
    every_seconds: float


def mix_of(seed: int, allowed: Sequence[str]) -> Mix:
    """A few kinds in some runs, all in others; in half of them topics change meanwhile."""
    random = Random(f"mix {seed}")
    count = random.choice((1, 2, 2, 4, len(allowed)))
    kinds = tuple(random.sample(list(allowed), min(count, len(allowed))))
    changes = tuple(random.sample(CHANGES, random.choice((0, 0, 1, 2, len(CHANGES)))))
    return Mix(kinds + changes, random.choice((0.5, 1.0, 2.0, 4.0)))


class Nemesis:
    """See the module. Brokers that ended start again, whoever ended them."""

    def __init__(self, world: World, mix: Mix) -> None:
        self.world = world
        self.mix = mix
        self.random = Random(f"nemesis {world.seed}")
        self._began = world.loop.time()
        self.on_change: Callable[[str], None] = lambda _what: None
        """Asked to change topics in that way."""
        self.on_client_crash: Callable[[], None] = lambda: None
        """Asked to let a client die."""
        self._is_over = False
        self._actions: dict[str, Callable[[BrokerHost], None]] = {
            "partition": lambda host: self._cut_off(host, both=True),
            "isolate leader": lambda host: self._cut_off(self._a_leader() or host, both=True),
            "isolate controller": lambda host: self._cut_off(self._controller() or host, both=True),
            "one way": lambda host: self._cut_off(host, both=False),
            "ring": self._ring,
            "delay": self._delay,
            "break": self._break,
            "stall": self._stall,
            "kill": lambda host: host.kill(),
            "power": lambda host: host.kill(power=True),
            "power all": self._power_all,
            "crash inside": self._crash_inside,
            "stop": lambda host: host.stop(),
            "pause": self._pause,
            "controller dies": lambda host: (self._controller() or host).kill(),
            "controller change": lambda _host: self.world.voters.depose(),
            "slow disk": self._slow_disk,
            "sync fails": self._sync_fails,
            "disk full": self._disk_full,
            "sync hangs": self._sync_hangs,
            "read fails": self._read_fails,
            "rolling": lambda _host: self._roll(sorted(world.hosts)),
            "ambush": self._ambush,
            "flip": self._flip,
            "truncate": lambda _host: self._truncate(),
            "clock": self._clock,
            "client dies": lambda _host: self.on_client_crash(),
        }
        for what in CHANGES:
            self._actions[what] = lambda _host, what=what: self.on_change(what)  # type: ignore[misc]  # bound now
        world.on_gone.append(self._start_again)

    def begin(self) -> None:
        """Strike from now on, until `heal`."""
        self._began = self.world.loop.time()
        self._plan()

    def heal(self) -> None:
        """No more faults, and those there are end."""
        self._is_over = True
        self.world.note("heal")
        self.world.network.mend_all()
        self._usual_delays()
        for host in self.world.hosts.values():
            host.disk.heal()
            host.disk._operations_left = None
            host.disk.capacity_bytes = None
            host.speed.stall = 0.0
            host.resume()
            host.start()

    def _plan(self) -> None:
        self.world.loop.call_later(self.random.expovariate(1 / self.mix.every_seconds), self._strike)

    def _strike(self) -> None:
        if self._is_over:
            return
        self._plan()
        if (self.world.loop.time() - self._began) % CYCLE_SECONDS < QUIET_SECONDS:
            return
        kind = self.random.choice(self.mix.kinds)
        running = [host for host in self.world.hosts.values() if host.owner is not None]
        if running:
            self.world.count(kind)
            host = self.random.choice(running)
            self.world.note(f"strikes: {kind} {host.broker_id}")
            self._actions[kind](host)

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self.world.loop.call_later(seconds, lambda: None if self._is_over else action())

    def _for_a_while(self, action: Callable[[], None]) -> None:
        self._after(self.random.choice(FAULT_SECONDS) * self.random.random(), action)

    # --- who --------------------------------------------------------------------------------------------

    def _controller(self) -> BrokerHost | None:
        leader = self.world.voters.leader
        return None if leader is None else self.world.hosts[leader]

    def _a_leader(self) -> BrokerHost | None:
        image = self.world.voters.snapshots[self.world.voters.last_index]
        leaders = [
            state.leader
            for topic in image.topics.values()
            for state in topic.partitions
            if state.leader is not None
        ]
        return self.world.hosts[self.random.choice(leaders)] if leaders else None

    # --- links ------------------------------------------------------------------------------------------

    def _cut_off(self, host: BrokerHost, *, both: bool) -> None:
        """From all brokers, or some; from clients, too, in half of the cases."""
        me, others = host.broker_id, [other for other in self.world.hosts if other != host.broker_id]
        if self.random.random() < 0.3:
            others = others[:1]
        if self.random.random() < 0.5:
            others += self.world.network.others_than(list(self.world.hosts))
        pairs = [(me, other) for other in others]
        if both:
            pairs += [(other, me) for other in others]
        elif self.random.random() < 0.5:
            pairs = [(other, me) for other in others]
        self._cut(pairs)

    def _ring(self, _host: BrokerHost) -> None:
        """Everybody has a majority, and not the same one."""
        one, other = self.random.sample(list(self.world.hosts), 2)
        self._cut([(one, other), (other, one)])

    def _cut(self, pairs: Sequence[tuple[int, int]]) -> None:
        for pair in pairs:
            self.world.network.cut(*pair)

        def mend() -> None:
            for pair in pairs:
                self.world.network.mend(*pair)

        self._for_a_while(mend)

    def _delay(self, _host: BrokerHost) -> None:
        delay, jitter = self.random.choice(((0.01, 0.01), (0.05, 0.02), (0.2, 0.2)))
        for link in self.world.network.links():
            if self.random.random() < 0.5:
                link.delay, link.jitter = delay, jitter
        self._for_a_while(self._usual_delays)

    def _usual_delays(self) -> None:
        for link in self.world.network.links():
            link.delay, link.jitter = self.random.uniform(0.0002, 0.002), self.random.uniform(0, 0.001)

    def _stall(self, host: BrokerHost) -> None:
        """Nothing is replicated from it, or to it, and everything else goes on: it lags, or its followers."""
        others = [other for other in self.world.hosts if other != host.broker_id]
        pairs = [(host.broker_id, other) for other in others]
        if self.random.random() < 0.5:
            pairs = [(other, host.broker_id) for other in others]
        for pair in pairs:
            self.world.network.stall(*pair, Purpose.REPLICATION.value)

        def mend() -> None:
            for pair in pairs:
                self.world.network.stall(*pair, "")

        self._after(self.random.choice(STALL_SECONDS), mend)

    def _break(self, host: BrokerHost) -> None:
        """Its connections, again and again."""
        for _ in range(self.random.randint(1, 5)):
            for other in self.world.hosts:
                if other != host.broker_id:
                    delay = self.random.random()
                    self._after(delay, lambda one=host.broker_id, other=other: self._break_now(one, other))  # type: ignore[misc]  # bound now

    def _break_now(self, one: int, other: int) -> None:
        self.world.network.break_between(one, other)

    # --- processes and disks ----------------------------------------------------------------------------

    def _power_all(self, _host: BrokerHost) -> None:
        for host in self.world.hosts.values():
            host.kill(power=True)

    def _start_again(self, host: BrokerHost) -> None:
        down = 0.05 if self._is_over else self.random.choice(DOWN_SECONDS) * self.random.random()
        self.world.loop.call_later(down, host.start)

    def _crash_inside(self, host: BrokerHost) -> None:
        """It dies within one of its next calls of the disk."""
        host.disk.crash_after(self.random.randrange(40))

    def _roll(self, left: list[int]) -> None:
        """One after another is restarted in order, each once all are there again."""
        if self._is_over or not left:
            return
        hosts = self.world.hosts
        if all(host.is_ready for host in hosts.values()):
            hosts[left.pop()].stop()
        self._after(0.5, lambda: self._roll(left))

    def _ambush(self, _host: BrokerHost) -> None:
        """The controller dies as the next ISR that is asked for is about to be committed, or just was."""
        dies_before = self.random.random() < 0.5
        self.world.voters.ambush = Ambush(AlterPartitions, before=dies_before, struck=self._controller_dies)

    def _controller_dies(self) -> None:
        controller = self._controller()
        if controller is not None and not self._is_over:
            self.world.count("ambushed")
            controller.kill()

    def _pause(self, host: BrokerHost) -> None:
        """It may be another process by then that goes on: none of its business."""
        host.pause()
        self._for_a_while(host.resume)

    def _slow_disk(self, host: BrokerHost) -> None:
        """In some cases for so long that its replicas lag, or that it gives up what it leads."""
        host.speed.stall, seconds = self.random.choice(((0.02, 3.0), (0.2, 3.0), (1.0, 5.0), (4.0, 14.0)))

        def mend() -> None:
            host.speed.stall = 0.0

        self._after(seconds, mend)

    def _sync_fails(self, host: BrokerHost) -> None:
        host.disk.fail_next_sync(written=self.random.random())

    def _sync_hangs(self, host: BrokerHost) -> None:
        """Nothing of its disk comes back for longer than a leader is given (rule 40)."""
        host.speed.stall = self.random.uniform(6.0, 10.0)

        def mend() -> None:
            host.speed.stall = 0.0

        self._after(0.05, mend)  # for the calls that begin until then

    def _read_fails(self, host: BrokerHost) -> None:
        """A segment cannot be read for a while; on any disk, since what it holds comes back."""
        partitions = host.broker._partitions if host.broker is not None else None
        logs = [partition.log for partition in partitions or () if partition.log is not None]
        if not logs:
            return
        log = self.random.choice(logs)
        names = [name for name in sorted(host.disk.list(log.directory)) if name.endswith(".log")]
        if names:
            path = log.directory / self.random.choice(names)
            host.disk.fail_reads(path)
            self._for_a_while(lambda: host.disk._unreadable.discard(path))

    def _disk_full(self, host: BrokerHost) -> None:
        """There is little room for a while."""
        host.disk.capacity_bytes = 1 << 40
        used_bytes = host.disk.capacity_bytes - host.disk._room()
        host.disk.capacity_bytes = used_bytes + self.random.randrange(20_000)

        def mend() -> None:
            host.disk.capacity_bytes = None

        self._for_a_while(mend)

    def _flip(self, _host: BrokerHost) -> None:
        """A bit turns in some file of a log: mostly in what was synced of a segment, else anywhere."""
        victims = [(host, log) for host in self.world.hosts.values() for log in self._victims(host)]
        if not victims:
            return
        host, log = self.random.choice(victims)
        files = host.disk.list(log.directory)
        is_segment = self.random.random() < SEGMENTS_STRUCK
        names = [
            name for name, size in sorted(files.items()) if size and (not is_segment or name.endswith(".log"))
        ]
        if names and log.durable_end > log.log_start:
            name = self.random.choice(names)
            self.world.count(f"flipped {name.rpartition('.')[2] if '.' in name else name}")
            host.disk.flip_bit(log.directory / name, self.random.randrange(8 * files[name]))

    def _truncate(self) -> None:
        """A broker dies, and finds a file of a log shorter than it was, of whatever kind."""
        victims = [(host, log) for host in self.world.hosts.values() for log in self._victims(host)]
        if not victims:
            return
        host, log = self.random.choice(victims)
        files = {name: size for name, size in sorted(host.disk.list(log.directory).items()) if size}
        host.kill()
        if files:
            name = self.random.choice(list(files))
            host.disk.cut(log.directory / name, self.random.randrange(files[name]))

    def _victims(self, host: BrokerHost) -> list[Log]:
        """Logs on this disk that may be spoilt."""
        partitions = host.broker._partitions if host.broker is not None else None
        return [
            partition.log
            for partition in partitions or ()
            if partition.log is not None and self._victim(partition.key) == host.broker_id
        ]

    def _victim(self, key: tuple[bytes, int]) -> int:
        """The one broker whose replica of that partition may be spoilt, however often."""
        return Random(f"victim {self.world.seed} {key}").choice(list(self.world.hosts))

    def _clock(self, host: BrokerHost) -> None:
        host.clock.skew_ms = self.random.randrange(-30_000, 30_000)
