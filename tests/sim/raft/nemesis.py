"""Faults, drawn from the seed: which kinds a run has, when they strike, and how long they last.

A quarter of the time is quiet. What needs more than links and processes (a disk, members that change) a host
or a `Replacer` does; the stock library runs without those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Protocol

from tests.sim.raft.world import Host, World

NETWORK: Final = ("partition", "isolate leader", "one way", "stall", "delay", "break", "flaky")
PROCESSES: Final = ("pause", "stop")
DEATHS: Final = ("kill", "power", "power all", "crash inside", "leader dies")
DISKS: Final = ("sync fails", "disk full", "compact", "flip")
MEMBERSHIP: Final = ("wipe", "replace")
CYCLE_SECONDS: Final = 8.0
QUIET_SECONDS: Final = 2.0
"""Of each cycle."""


class DiskHost(Protocol):
    """A host whose disk can fail."""

    def crash_inside(self, random: Random) -> None:
        """Let it die within one of its next calls of the disk."""

    def fail_sync(self, random: Random) -> None:
        """Let a sync fail, soon."""

    def fill_disk(self, random: Random) -> None:
        """Leave little room."""

    def compact(self) -> None:
        """Have it take a snapshot now."""

    def flip(self, random: Random) -> bool:
        """Turn a bit of what is on the disk, while it is down; whether there was one."""

    def mend_disk(self) -> None:
        """End every fault of the disk that has not struck."""


class Replacing(Protocol):
    """Who changes members."""

    def may_lose(self, host: Host) -> bool:
        """Whether the group can afford that disk now."""

    def lose(self, host: Host) -> None:
        """That disk is gone: see to it that another voter takes its place."""

    def replace(self, host: Host) -> None:
        """Let another voter take the place of that one, which is well."""


@dataclass(frozen=True)
class Mix:
    """What strikes in one run."""

    kinds: tuple[str, ...]
    every_seconds: float
    """On average, in the noisy time."""
    duplicates: float = 0.0
    """Share of votes that arrive twice."""
    garbled: float = 0.0
    """Share of snapshots that arrive with a bit turned."""


def mix_of(seed: int, allowed: Sequence[str], *, messages: bool = False) -> Mix:
    """A few kinds in some runs, all in others."""
    random = Random(f"mix {seed}")
    count = random.choice((1, 2, 3, 5, len(allowed)))
    kinds = tuple(random.sample(list(allowed), min(count, len(allowed))))
    share = random.choice((0.0, 0.3)) if messages else 0.0
    garbled = random.choice((0.0, 0.2)) if messages else 0.0
    return Mix(kinds, random.choice((0.3, 0.6, 1.2, 2.5)), share, garbled)


class Nemesis:
    """See the module. `replacer`: none where members stay."""

    def __init__(self, world: World, mix: Mix, *, seed: int, replacer: Replacing | None = None) -> None:
        self.world = world
        self.mix = mix
        self.random = Random(f"nemesis {seed}")
        self.replacer = replacer
        self._began = world.now
        self._over = False
        self._actions: dict[str, Callable[[Host], bool]] = {
            "partition": self._partition,
            "isolate leader": self._isolate_leader,
            "one way": self._one_way,
            "stall": self._stall,
            "delay": self._delay,
            "break": self._break,
            "flaky": self._flaky,
            "pause": self._pause,
            "stop": self._stop,
            "kill": lambda host: self._end(host, "kill"),
            "power": lambda host: self._end(host, "power"),
            "power all": self._power_all,
            "leader dies": self._leader_dies,
            "crash inside": self._crash_inside,
            "sync fails": self._sync_fails,
            "disk full": self._disk_full,
            "compact": self._compact,
            "flip": self._flip,
            "wipe": self._wipe,
            "replace": self._replace,
        }
        world.on_ended = lambda host, _how: self._start_later(host)

    def begin(self) -> None:
        """Strike from now on, until `heal`."""
        self._began = self.world.now
        self._plan()

    def heal(self) -> None:
        """No more faults: everything that can run runs, and every link is well."""
        self._over = True
        self.world.note("heal")
        for pair in self.world.links:
            self.world.mend(*pair)
        self._usual_delays()
        for host in list(self.world.hosts.values()):  # one that cannot start is replaced by a new one
            if hasattr(host, "mend_disk"):
                host.mend_disk()
            if host.process is None and not host.is_gone:
                self.world.start(host.host_id)

    # --- when -------------------------------------------------------------------------------------------

    def _plan(self) -> None:
        self.world.after(self.random.expovariate(1 / self.mix.every_seconds), self._strike)

    def _strike(self) -> None:
        if self._over:
            return
        since = (self.world.now - self._began) % CYCLE_SECONDS
        if since < CYCLE_SECONDS - QUIET_SECONDS:
            kind = self.random.choice(self.mix.kinds)
            alive = self.world.running()
            if alive and self._actions[kind](self.random.choice(alive)):
                self.world.count(kind)
                self.world.note(kind)
        self._plan()

    def _for_a_while(self, undo: Callable[[], None], longest: float = 6.0) -> None:
        self.world.after(self.random.choice((0.2, 1.0, 3.0, longest)) * self.random.random(), undo)

    def _start_later(self, host: Host) -> None:
        if self._over:
            delay = 0.1
        else:
            delay = self.random.choice((0.02, 0.5, 2.0, 5.0)) * self.random.random()

        def start() -> None:
            host = self.world.hosts[host_id]
            if host.process is None and not host.is_gone:
                self.world.start(host_id)

        host_id = host.host_id
        self.world.after(delay, start)

    # --- links ------------------------------------------------------------------------------------------

    def _cut_pairs(self, pairs: Sequence[tuple[int, int]]) -> bool:
        silent = self.random.random() < 0.3
        for pair in pairs:
            self.world.cut(*pair, silent=silent)

        def mend() -> None:
            if self.random.random() < 0.5:  # what was held back comes late, or never
                for pair in pairs:
                    self.world.break_link(*pair)
            for pair in pairs:
                self.world.mend(*pair)

        self._for_a_while(mend)
        return True

    def _between(self, some: Sequence[int]) -> list[tuple[int, int]]:
        return [pair for pair in self.world.links if (pair[0] in some) != (pair[1] in some)]

    def _partition(self, _host: Host) -> bool:
        ids = list(self.world.hosts)
        return self._cut_pairs(self._between(self.random.sample(ids, self.random.randrange(1, len(ids)))))

    def _isolate_leader(self, host: Host) -> bool:
        leader = self._leader() or host
        pairs = self._between([leader.host_id])
        keep = self.random.choice((None, 0, 1))  # both ways; nothing out; nothing in
        return self._cut_pairs([pair for pair in pairs if keep is None or pair[keep] == leader.host_id])

    def _one_way(self, host: Host) -> bool:
        if self.random.random() < 0.5:
            return self._cut_pairs([self.random.choice(list(self.world.links))])
        side = self.random.randrange(2)
        return self._cut_pairs([pair for pair in self.world.links if pair[side] == host.host_id])

    def _stall(self, _host: Host) -> bool:
        pair = self.random.choice(list(self.world.links))
        self.world.cut(*pair, silent=True)
        self.world.after(self.random.random() * 2.0, lambda: self.world.mend(*pair))
        return True

    def _delay(self, _host: Host) -> bool:
        delay, jitter = self.random.choice(((0.05, 0.01), (0.02, 0.1), (0.2, 0.3)))
        some = self.random.random() < 0.5
        for link in self.world.links.values():
            if not some or self.random.random() < 0.4:
                link.delay, link.jitter = delay, jitter
        self._for_a_while(self._usual_delays)
        return True

    def _usual_delays(self) -> None:
        for link in self.world.links.values():
            link.delay, link.jitter = self.random.uniform(0.0002, 0.002), 0.001

    def _break(self, host: Host) -> bool:
        for pair in list(self.world.links):
            if host.host_id in pair:
                self.world.break_link(*pair)
        return True

    def _flaky(self, _host: Host) -> bool:
        """A link that breaks again and again."""
        pair = self.random.choice(list(self.world.links))
        for _ in range(6):
            self.world.after(self.random.random() * 2.0, lambda: self.world.break_link(*pair))
        return True

    # --- processes --------------------------------------------------------------------------------------

    def _leader(self) -> Host | None:
        leaders = [host for host in self.world.running() if host.process and host.process.leads_term]
        return self.random.choice(leaders) if leaders else None

    def _pause(self, host: Host) -> bool:
        self.world.pause(host.host_id, self.random.choice((0.3, 1.5, 5.0)) * self.random.random())
        return True

    def _end(self, host: Host, how: str) -> bool:
        self.world.end(host.host_id, how)
        return True

    def _stop(self, host: Host) -> bool:
        """In order: a leader hands over first, where it can."""
        if hasattr(host, "hand_over") and self.random.random() < 0.7:
            host.hand_over()
        life = host.life
        self.world.after(self.random.random() * 0.2, lambda: self._end_life(host, life, "stop"))
        return True

    def _end_life(self, host: Host, life: int, how: str) -> None:
        if host.life == life:
            self.world.end(host.host_id, how)

    def _power_all(self, _host: Host) -> bool:
        for host in self.world.running():
            self.world.end(host.host_id, "power")
        return True

    def _leader_dies(self, host: Host) -> bool:
        """A moment after it was cut off from some, so that what it said last is known to few."""
        leader = self._leader() or host
        others = [other for other in self.world.hosts if other != leader.host_id]
        pairs = [(leader.host_id, other) for other in others if self.random.random() < 0.5]
        how, life = self.random.choice(("kill", "power")), leader.life
        self._cut_pairs(pairs)
        self.world.after(self.random.random() * 0.5, lambda: self._end_life(leader, life, how))
        return True

    # --- disks and members ------------------------------------------------------------------------------

    def _crash_inside(self, host: Host) -> bool:
        _disk(host).crash_inside(self.random)
        return True

    def _sync_fails(self, host: Host) -> bool:
        _disk(host).fail_sync(self.random)
        return True

    def _disk_full(self, host: Host) -> bool:
        _disk(host).fill_disk(self.random)
        self._for_a_while(_disk(host).mend_disk, 10.0)
        return True

    def _compact(self, host: Host) -> bool:
        _disk(host).compact()
        return True

    def _flip(self, host: Host) -> bool:
        """Its disk may be lost by that."""
        if self.replacer is None or not self.replacer.may_lose(host):
            return False
        self.world.end(host.host_id, self.random.choice(("kill", "power")))
        return _disk(host).flip(self.random)

    def _wipe(self, host: Host) -> bool:
        if self.replacer is None or not self.replacer.may_lose(host):
            return False
        host.is_gone = True
        self.world.end(host.host_id, "power")
        self.replacer.lose(host)
        return True

    def _replace(self, host: Host) -> bool:
        if self.replacer is None or not self.replacer.may_lose(host):
            return False
        self.replacer.replace(host)
        return True


def _disk(host: Host) -> DiskHost:
    return host  # type: ignore[return-value]  # runs with such faults have such hosts
