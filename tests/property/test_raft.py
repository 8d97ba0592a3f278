"""The metadata group under faults: the adapter holds, the library alone does not, nor the adapter with any
guard taken away. `make fuzz` runs more seeds.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.sim.raft.checker import check_flaps
from tests.sim.raft.mutants import MUTANTS, Mutant
from tests.sim.raft.run import Group, Plan, run
from tests.sim.raft.world import simulated

SEEDS = range(20)
SECONDS = 25.0
FOUND_SEEDS = (399, 20597)
"""In each, a voter that had been away could not answer a leader that was added meanwhile."""
STOCK_SEEDS = (15, 88)
"""Of those from 0 to 99: in each, the library lost what it had acknowledged."""


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_acknowledged_survives_faults(seed: int) -> None:
    report = run(Plan(seed, seconds=SECONDS))
    again = f"python -m tests.sim.raft --replay {seed}"
    assert report.anomaly is None, f"{report.detail}\n{again}\n" + "\n".join(report.trace)
    assert report.acknowledged > 0, "it did something"


@pytest.mark.parametrize("seed", FOUND_SEEDS)
def test_what_once_failed_does_not(seed: int) -> None:
    assert run(Plan(seed)).anomaly is None


@pytest.mark.parametrize("seed", STOCK_SEEDS)
def test_the_library_as_it_is_loses_what_it_acknowledged(seed: int) -> None:
    # In a process of its own: the library leaves files open.
    command = [sys.executable, "-m", "tests.sim.raft", "--stock", "--replay", str(seed)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "lost-acknowledged" in told


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.guard)
def test_a_guard_that_is_gone_is_missed(mutant: Mutant) -> None:
    """Another seed that shows it: python -m tests.sim.raft --mutant GUARD."""
    assert mutant.run(mutant.found_by).anomaly == mutant.anomaly
    assert mutant.run(mutant.found_by, sound=True).anomaly is None


def test_a_seed_is_a_run_whatever_the_hash_seed() -> None:
    code = (
        "from tests.sim.raft.run import Plan, run\n"
        "report = run(Plan(7, seconds=8.0))\n"
        "print(report.fingerprint, report.acknowledged, report.counts)\n"
    )
    prints = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1")
    ]
    assert prints[0] == prints[1] != ""


@pytest.mark.parametrize("whose", ["leader", "follower"])
@pytest.mark.parametrize(
    "cut", ["hears nobody", "is heard by nobody", "does not hear one", "is not heard by one"]
)
def test_one_way_cuts_of_one_voter_change_the_leader_twice_a_minute_at_most(whose: str, cut: str) -> None:
    group = Group(Plan(1, nodes=3))
    world = group.world
    with simulated(world, 1):
        group.start()
        group.workload.begin()
        assert world.run_until(20.0, done=lambda: any(process.voter.term for process in group.voters()))
        leader = next(process.host.host_id for process in group.voters() if process.voter.term)
        one = leader if whose == "leader" else next(i for i in group.founders if i != leader)
        # A follower's links that matter most are those with the leader.
        others = sorted((i for i in group.founders if i != one), key=lambda i: i != leader)
        if "one" in cut:
            del others[1:]
        before = group.judge.elected.changes
        for other in others:
            world.cut(*((other, one) if "hear " in cut or "hears" in cut else (one, other)), silent=True)
        world.run_until(world.now + 60.0)
        check_flaps(group.judge.elected.changes - before, 60.0)
        acknowledged = group.judge.acknowledged.last_index
        world.run_until(world.now + 5.0)
        assert group.judge.acknowledged.last_index > acknowledged, "it works, all the same"
