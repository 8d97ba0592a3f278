"""The fuzz of the metadata group: `python -m tests.sim.raft --seeds 1000`.

Runs seeds on all cores, and appends what came of it to docs/proofs.txt. A seed that fails tells how to run it
again: the same seed at the same commit is the same run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from tests import proofs
from tests.sim.raft.mutants import MUTANTS
from tests.sim.raft.report import Report
from tests.sim.raft.seeds import run_mutant, run_plan, run_stock

TOLD_MAX = 20
"""Failures that are told one by one."""


def main() -> int:
    """0: all clean, or, where something was to be found, found."""
    options = _options()
    if options.mutants:
        return _tell_mutants()
    first = options.first if options.replay is None else options.replay
    count = options.seeds if options.replay is None else 1
    runner = _runner(options)
    began = time.monotonic()
    if options.replay is not None:
        reports: Sequence[Report] = [runner(first)]
        print("\n".join(reports[0].trace))
    else:
        with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
            reports = _collect(pool.imap_unordered(runner, range(first, first + count), chunksize=4), count)
    seconds = time.monotonic() - began
    _tell(reports, seconds, options)
    failed = [report for report in reports if report.anomaly]
    wants_some = options.stock or options.mutant is not None
    if not wants_some and options.replay is None:
        _prove(reports, options, len(failed))
    return int(bool(failed) != wants_some)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.raft", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument(
        "--nodes", type=int, choices=(1, 3, 5), help="voters; drawn from the seed if not given"
    )
    parser.add_argument("--mutant", choices=[mutant.guard for mutant in MUTANTS], help="without this guard")
    parser.add_argument("--mutants", action="store_true", help="the table of guards, run as it stands")
    parser.add_argument("--stock", action="store_true", help="the library as it is")
    parser.add_argument("--replay", type=int, metavar="SEED", help="this seed alone, with its last events")
    parser.add_argument("--processes", type=int, help="as many as there are cores if not given")
    return parser.parse_args()


def _runner(options: argparse.Namespace) -> Callable[[int], Report]:
    if options.stock:
        return partial(run_stock, nodes=options.nodes or 3)
    if options.mutant is not None:
        return partial(run_mutant, options.mutant)
    return partial(run_plan, options.nodes)


def _tell_mutants() -> int:
    missed = 0
    for mutant in MUTANTS:
        report, sound = mutant.run(mutant.found_by), mutant.run(mutant.found_by, sound=True)
        found = report.anomaly == mutant.anomaly and sound.anomaly is None
        missed += not found
        how = mutant.story.__name__ if mutant.story else ", ".join(mutant.kinds)
        told = f"seed {report.seed}, after {report.seconds:.1f} s: {report.anomaly or 'nothing'}"
        print(f"{mutant.guard:20} {told:45} ({how}){'' if found else '  NOT AS RECORDED'}")
    return int(missed > 0)


def _collect(reports: Iterable[Report], count: int) -> list[Report]:
    collected = []
    for number, report in enumerate(reports, start=1):
        collected.append(report)
        if report.anomaly:
            print(f"seed {report.seed}: {report.anomaly}: {report.detail[:300]}", flush=True)
        if number % 100 == 0:
            print(f"{number} of {count}", file=sys.stderr, flush=True)
    return sorted(collected, key=lambda report: report.seed)


def _tell(reports: Sequence[Report], seconds: float, options: argparse.Namespace) -> None:
    counts: dict[str, int] = {}
    for report in reports:
        for what, count in report.counts.items():
            counts[what] = counts.get(what, 0) + count
    print(", ".join(f"{what} {count}" for what, count in sorted(counts.items())))
    simulated = sum(report.seconds for report in reports)
    failed = [report for report in reports if report.anomaly]
    acknowledged = sum(report.acknowledged for report in reports)
    print(
        f"{len(reports)} seeds, {len(failed)} with an anomaly; {acknowledged} commands acknowledged;"
        f" {simulated:.0f} s simulated in {seconds:.0f} s"
    )
    for report in failed[:TOLD_MAX]:
        how = ["--stock"] if options.stock else ["--mutant", options.mutant] if options.mutant else []
        nodes = [] if options.nodes is None else ["--nodes", str(options.nodes)]
        again = " ".join([*how, *nodes, "--replay", str(report.seed)])
        print(f"{report.anomaly}: python -m tests.sim.raft {again}")


def _prove(reports: Sequence[Report], options: argparse.Namespace, failed: int) -> None:
    nodes = "" if options.nodes is None else f" NODES={options.nodes}"
    seeds = f"{reports[0].seed}-{reports[-1].seed}"
    result = "clean" if not failed else f"FAILED ({failed})"
    proofs.note(f"fuzz SEEDS={len(reports)} ({seeds}){nodes} {result}")


if __name__ == "__main__":
    sys.exit(main())
