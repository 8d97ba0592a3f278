"""Whole brokers under faults: nothing that was acknowledged is lost, and whatever is planted is noticed. More
seeds: `make sim`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.sim.cluster.mutants import MUTANTS, Mutant

SEEDS = 100
SEED_SECONDS = 12
"""Of faults, in each of them: more of them in as much time as longer ones would take. `make sim` has 20."""
SECONDS_MAX = 600
TRIES = 25
RUN = (
    "millpond._core.lane",
    "millpond._core.handout",
    "millpond._transport.produce_stream",
    "millpond._transport.fetching",
    "millpond_broker.core.controller",
    "millpond_broker.core.follower",
    "millpond_broker.rpc.produce",
    "millpond_broker.runtime.seats",
    "millpond_broker.storage.recovery",
)
"""Modules of the product that a run is about, among others."""


def told(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """What the simulator says, in processes of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tests.sim.cluster", "--unproven", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS_MAX,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )


@pytest.mark.timeout(SECONDS_MAX)
def test_what_was_acknowledged_survives_faults() -> None:
    """A seed that fails is told with the command that runs it again."""
    ran = told("--seeds", str(SEEDS), "--seconds", str(SEED_SECONDS))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    acknowledged = re.search(r"(\d+) batches acknowledged", ran.stdout)
    assert acknowledged is not None
    assert int(acknowledged[1]) > 50 * SEEDS, "they did something"
    for module in RUN:
        package, _, name = module.rpartition(".")
        line = re.search(rf"^  {re.escape(package)}: (.*)$", ran.stdout, re.MULTILINE)
        assert line is not None, package
        assert name in line[1].split(), f"{module} ran"


@pytest.mark.parametrize("seed", ["3", "20"])
def test_a_seed_is_a_run(seed: str) -> None:
    """The same trace in two processes, whose memory lies elsewhere; with restarts, and with other topics."""
    replay = ("--seconds", "10", "--replay", seed, "--fingerprint")
    first, second = (told(*replay).stdout for _ in range(2))
    assert "fingerprint" in first
    assert first == second


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_bug_is_noticed(mutant: Mutant) -> None:
    seeds = range(mutant.found_by, mutant.found_by + TRIES)  # any change of the code makes a seed another run
    assert any(mutant.run(seed).anomaly in mutant.anomalies for seed in seeds)
