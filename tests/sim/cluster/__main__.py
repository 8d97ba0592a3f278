"""Whole brokers under faults: `python -m tests.sim.cluster --seeds 1000`, or `make sim`.

Runs seeds on all cores, and appends what came of it to docs/proofs.txt. A seed that fails tells how to run it
again: the same seed at the same commit is the same run. `--replay SEED` shows its last events, and writes its
history beside it with `--history`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from tests import proofs
from tests.sim.cluster.covered import lines_told
from tests.sim.cluster.run import RUN_SECONDS, Report, run_seed
from tests.sim.history.operations import to_lines

TOLD_MAX = 20
"""Failures that are told one by one."""


def main() -> int:
    """0: all clean."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of text and bytes iterate by hashes, which are drawn at each start unless this is set before.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.sim.cluster", *sys.argv[1:]])
    options = _options()
    began = time.monotonic()
    if options.replay is not None:
        reports: Sequence[Report] = [
            run_seed(options.replay, options.replicas, options.seconds, names_modules=True)
        ]
        print("\n".join(reports[0].trace))
        if options.fingerprint:
            print(f"fingerprint {reports[0].fingerprint}, {reports[0].acknowledged}, {reports[0].counts}")
            return 0
        if options.history is not None:
            options.history.write_text("\n".join(to_lines(reports[0].history)) + "\n")
    else:
        with tempfile.TemporaryDirectory() as directory:
            coverage = Path(directory) if options.coverage else None
            seeds = range(options.first, options.first + options.seeds)
            with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
                runner = partial(
                    run_seed, replicas=options.replicas, seconds=options.seconds, coverage=coverage
                )
                reports = _collect(pool.imap_unordered(runner, seeds, chunksize=2), options.seeds)
            if coverage is not None:
                print("\n".join(lines_told(coverage)))
    _tell_modules(reports)
    _tell(reports, time.monotonic() - began, options)
    if options.replay is None and not options.unproven:
        _prove(reports)
    return int(any(report.anomaly for report in reports))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.cluster", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--replicas", type=int, help="of each partition; drawn from the seed if not given")
    parser.add_argument("--seconds", type=float, default=RUN_SECONDS, help="of faults, in each of them")
    parser.add_argument("--replay", type=int, metavar="SEED", help="this seed alone, with its last events")
    parser.add_argument(
        "--history", type=Path, help="where to write the history of the seed that is replayed"
    )
    parser.add_argument("--fingerprint", action="store_true", help="of the seed that is replayed")
    parser.add_argument("--coverage", action="store_true", help="which lines of the product run: slow")
    parser.add_argument("--unproven", action="store_true", help="leave docs/proofs.txt as it is")
    parser.add_argument("--processes", type=int, help="as many as there are cores if not given")
    return parser.parse_args()


def _collect(reports: Iterable[Report], count: int) -> list[Report]:
    collected = []
    for number, report in enumerate(reports, start=1):
        collected.append(report)
        if report.anomaly:
            print(f"seed {report.seed}: {report.anomaly}: {report.detail[:400]}", flush=True)
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
    speed = simulated / max(sum(report.cpu_seconds for report in reports), 0.001)
    failed = [report for report in reports if report.anomaly]
    acknowledged = sum(report.acknowledged for report in reports)
    print(
        f"{len(reports)} seeds, {len(failed)} with an anomaly; {acknowledged} batches acknowledged;"
        f" {simulated:.0f} s simulated in {seconds:.0f} s, {speed:.1f} times as fast as real on a core"
    )
    for report in failed[:TOLD_MAX]:
        replicas = "" if options.replicas is None else f" --replicas {options.replicas}"
        length = "" if options.seconds == RUN_SECONDS else f" --seconds {options.seconds:g}"
        print(f"{report.anomaly}: python -m tests.sim.cluster --replay {report.seed}{replicas}{length}")


def _tell_modules(reports: Sequence[Report]) -> None:
    """Which of the product's modules ran, in a line for each package."""
    packages: dict[str, list[str]] = {}
    for module in sorted({module for report in reports for module in report.modules}):
        package, _, name = module.rpartition(".")
        packages.setdefault(package, []).append(name)
    if packages:
        print(f"{sum(map(len, packages.values()))} modules of the product ran:")
    for package, names in packages.items():
        print(f"  {package}: {' '.join(names)}")


def _prove(reports: Sequence[Report]) -> None:
    failed = sum(report.anomaly is not None for report in reports)
    seeds = f"{reports[0].seed}-{reports[-1].seed}"
    result = "clean" if not failed else f"FAILED ({failed})"
    proofs.note(f"sim SEEDS={len(reports)} ({seeds}) {result}")


if __name__ == "__main__":
    sys.exit(main())
