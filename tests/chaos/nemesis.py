"""What strikes the containers: drawn from a seed, one fault or two at a time, with quiet between them.

The seed draws what is done, to what role and for how long; who has that role, the cluster says at that time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from docker.errors import APIError

from tests.chaos.containers import BROKERS, Containers
from tests.chaos.observer import Observer

QUIET_SECONDS: Final = (1.0, 5.0)
"""Between two strikes: about a quarter of the time."""
WHOLE_SECONDS_MAX: Final = 90.0
"""For every replica to be in sync again after all was healed: longer is a failure of its own."""
TWO_AT_ONCE: Final = 0.15
"""How often two brokers are struck at the same time."""
WAITS_FOR_WHOLE: Final = 0.6
"""How often the next strike waits until the cluster is whole. Otherwise it meets what is being repaired."""


class Fault(NamedTuple):
    """One kind. `minority_recovers`: with one broker struck so, others take over meanwhile; else only its end
    helps: a leader that clients cannot reach goes on leading.

    Older engines, 20.10 among them, move published ports to the network that is left. There, `cut-clients`
    breaks every connection and lets clients come again; `cut` leaves no network, and is a cut everywhere.
    """

    begin: Callable[[Containers, int], None]
    end: Callable[[Containers, int], None]
    seconds: tuple[float, float]
    minority_recovers: bool = True


def _cut_both(containers: Containers, broker: int) -> None:
    containers.cut(broker, "peers")
    containers.cut(broker, "clients")


def _join_both(containers: Containers, broker: int) -> None:
    containers.join(broker, "clients")
    containers.join(broker, "peers")


FAULTS: Final = {
    "kill": Fault(Containers.kill, Containers.start, (0.0, 12.0)),
    "term": Fault(Containers.stop, Containers.start, (0.0, 8.0)),
    "pause": Fault(Containers.pause, Containers.unpause, (1.0, 20.0)),
    "cut": Fault(_cut_both, _join_both, (2.0, 20.0)),
    "cut-peers": Fault(
        lambda containers, broker: containers.cut(broker, "peers"),
        lambda containers, broker: containers.join(broker, "peers"),
        (2.0, 20.0),
    ),
    "cut-clients": Fault(
        lambda containers, broker: containers.cut(broker, "clients"),
        lambda containers, broker: containers.join(broker, "clients"),
        (2.0, 12.0),
        minority_recovers=False,
    ),
}
CLIENT: Final = "client"
"""The name of what befalls clients: a writer is killed, and another begins."""
CLIENT_TOO: Final = 0.25
"""How often that happens, beside a strike."""
NAMES: Final = (*FAULTS, CLIENT)
ROLES: Final = (
    *("any", "any", "leader", "leader", "leader", "controller", "controller", "controller"),
    *("majority", "all"),
)


@dataclass
class Strike:
    """What was done, to whom, and when, by the monotonic clock."""

    names: tuple[str, ...]
    brokers: tuple[int, ...]
    began_at: float
    healing_at: float | None = None
    healed_at: float | None = None
    whole_at: float | None = None
    controller: int | None = None
    counts_from_heal: bool = field(default=False)
    """A majority was struck, or nobody can take over: what counts is how soon it works when that is over."""
    is_whole: bool = True
    """False: the engine did not do all of it, or not undo it at once. Its pauses say nothing."""

    def __str__(self) -> str:
        done = ", ".join(f"{name} {broker}" for name, broker in zip(self.names, self.brokers, strict=True))
        return f"{done} (controller {self.controller}{'' if self.is_whole else '; NOT DONE by the engine'})"


class Nemesis:
    """Strikes until its time is over. `strikes` is what it did."""

    def __init__(
        self,
        containers: Containers,
        observer: Observer,
        names: Sequence[str],
        seed: int,
        *,
        crash_client: Callable[[], Awaitable[None]],
        tell: Callable[[str], None],
    ) -> None:
        self.strikes: list[Strike] = []
        self.failures: list[str] = []
        self._containers = containers
        self._observer = observer
        self._names = [name for name in names if name != CLIENT]
        self._clients_too = CLIENT in names
        self._crash_client = crash_client
        self._random = random.Random(seed)
        self._tell = tell

    async def run(self, until: float) -> None:
        """At least one strike; the last one is healed, and the cluster whole, when this returns."""
        is_last = False
        while not (is_last or self.failures):
            await asyncio.sleep(self._random.uniform(*QUIET_SECONDS))
            waits = self._random.random() < WAITS_FOR_WHOLE
            if self._clients_too and (self._random.random() < CLIENT_TOO or not self._names):
                await self._crash_client()
            strike = await self._strike() if self._names else None
            is_last = time.monotonic() >= until
            if strike is not None and (waits or is_last):
                await self._until_whole(strike)

    async def _strike(self) -> Strike:
        drawn = self._random
        role = drawn.choice(ROLES)
        count = {"majority": 2, "all": 3}.get(role, 2 if drawn.random() < TWO_AT_ONCE else 1)
        shuffled = drawn.sample(BROKERS, k=len(BROKERS))
        # More than one: mostly of one kind, which is what a power cut or a switch does.
        kinds = [drawn.choice(self._names)] * count
        if drawn.random() < 0.5:
            kinds = [drawn.choice(self._names) for _ in range(count)]
        faults = [FAULTS[name] for name in kinds]
        seconds = max(drawn.uniform(*fault.seconds) for fault in faults)
        first = {"leader": self._observer.busiest, "controller": self._observer.controller}.get(role)
        brokers = sorted(shuffled, key=lambda broker: broker != first)[:count]
        strike = Strike(tuple(kinds), tuple(brokers), time.monotonic(), controller=self._observer.controller)
        strike.counts_from_heal = count > 1 or not all(fault.minority_recovers for fault in faults)
        self.strikes.append(strike)
        self._tell(f"STRIKE {len(self.strikes)}: {strike} for {seconds:.0f} s")
        await self._each(strike, [fault.begin for fault in faults])
        await asyncio.sleep(seconds)
        strike.healing_at = time.monotonic()
        await self._each(strike, [fault.end for fault in faults])
        if not strike.is_whole:
            await asyncio.to_thread(self._containers.heal)
        strike.healed_at = time.monotonic()
        self._tell(f"healed {len(self.strikes)}")
        return strike

    async def _each(self, strike: Strike, what: Sequence[Callable[[Containers, int], None]]) -> None:
        """All at once: they are meant to meet."""
        async with asyncio.TaskGroup() as tasks:
            for do, broker in zip(what, strike.brokers, strict=True):
                tasks.create_task(self._one(strike, do, broker))

    async def _one(self, strike: Strike, do: Callable[[Containers, int], None], broker: int) -> None:
        """An engine on a busy machine cannot always do what it is told, as to freeze a container: that is
        said, and ends no run.
        """
        try:
            await asyncio.to_thread(do, self._containers, broker)
        except APIError as error:
            strike.is_whole = False
            self._tell(f"THE ENGINE did not do it to broker {broker}: {str(error)[-200:]}")

    async def _until_whole(self, strike: Strike) -> None:
        assert strike.healed_at is not None, "it is over"
        try:
            async with asyncio.timeout(WHOLE_SECONDS_MAX):
                await self._observer.becomes_whole()
        except TimeoutError:
            self.failures.append(
                f"not whole {WHOLE_SECONDS_MAX:.0f} s after {strike}: {self._observer.line()}"
            )
            return
        strike.whole_at = time.monotonic()
        self._tell(f"whole again, {strike.whole_at - strike.healed_at:.1f} s after it was healed")
