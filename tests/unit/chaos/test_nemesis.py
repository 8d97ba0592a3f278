"""What a chaos run does to its containers, and what it makes of an engine that does not do it."""

from __future__ import annotations

import pytest
from docker.errors import APIError

from tests.chaos.containers import Containers
from tests.chaos.judge import Pause, Verdict
from tests.chaos.nemesis import FAULTS, Fault, Nemesis
from tests.chaos.observer import Observer
from tests.chaos.report import Report
from tests.chaos.timeline import Timeline


class Balky(Containers):
    """Of an engine that freezes nothing, and takes note."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pause(self, broker: int) -> None:
        raise APIError(f"cannot freeze {broker}")

    def unpause(self, broker: int) -> None:
        raise APIError(f"{broker} is not paused")

    def heal(self) -> None:
        self.told.append("healed")


async def test_what_the_engine_does_not_do_is_said_and_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = Fault(
        lambda made, broker: made.pause(broker), lambda made, broker: made.unpause(broker), (0.0, 0.0)
    )
    monkeypatch.setitem(FAULTS, "pause", fault)
    containers, told = Balky(), list[str]()

    async def crash_client() -> None:
        raise AssertionError("not asked for")

    nemesis = Nemesis(
        containers,
        Observer(containers, "t"),
        ["pause"],
        seed=1,
        crash_client=crash_client,
        tell=told.append,
    )
    strike = await nemesis._strike()
    assert not strike.is_whole
    assert containers.told == ["healed"]
    assert sum("THE ENGINE did not do it" in line for line in told) == 2 * len(strike.brokers)
    timeline = Timeline("t", min_insync=2)
    nothing = Verdict(acknowledged=0, read_fresh=0, operations=0, anomalies=[])
    report = Report([strike], [Pause("t-0", 6.0, 6.7)], timeline, nothing)
    assert "pauses with enough in sync: none" in report.show(), "it says nothing of the brokers"
