"""One seed, by name: what the processes of a fuzz run. Not in `__main__`, which they could not import."""

from __future__ import annotations

from tests.sim.raft.mutants import MUTANTS
from tests.sim.raft.report import Report
from tests.sim.raft.run import Plan, run
from tests.sim.raft.stock import run_stock

__all__ = ["run_mutant", "run_plan", "run_stock"]


def run_plan(nodes: int | None, seed: int) -> Report:
    """The adapter, whole."""
    return run(Plan(seed, nodes=nodes))


def run_mutant(guard: str, seed: int) -> Report:
    """The adapter without one guard."""
    (mutant,) = (mutant for mutant in MUTANTS if mutant.guard == guard)
    return mutant.run(seed)
