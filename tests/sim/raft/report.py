"""What a run gave, and how it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.sim.raft.checker import Anomaly
from tests.sim.raft.world import World

RUN_SECONDS = 40.0
"""Of faults, in the world's time."""
HEAL_SECONDS = 60.0
"""Within which all is to be well again, once faults have ended."""


@dataclass(frozen=True)
class Report:
    """Of one seed."""

    seed: int
    seconds: float
    """In the world's time, with what it took to heal."""
    anomaly: str | None
    detail: str
    acknowledged: int
    counts: dict[str, int]
    """What was injected, and what came of it."""
    fingerprint: int
    trace: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        world: World,
        seed: int,
        anomaly: Anomaly | None,
        acknowledged: int,
        describe: Callable[[bytes], str] = repr,
    ) -> Report:
        """Of a world that has come to its end."""
        trace = []
        if anomaly is not None:
            trace = [f"{at:9.4f}  {what}  {describe(data) if data else ''}" for at, what, data in world.trace]
        return cls(
            seed=seed,
            seconds=world.now,
            anomaly=anomaly.name if anomaly else None,
            detail=anomaly.detail if anomaly else "",
            acknowledged=acknowledged,
            counts=dict(sorted(world.counts.items())),
            fingerprint=world.fingerprint,
            trace=trace,
        )
