"""Runs a command on a machine that stands still now and then: `python -m tests.stalled make pytest`.

As a virtual machine does on a busy host: all its processes at once, for as long as it takes, and then they go
on as if nothing had been. A group of processes that the kernel freezes has that anywhere; a signal would
not do, for tests send SIGSTOP themselves. Needs root, and control groups (either version).
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.proofs import note

CONTROL_GROUPS: Final = Path("/sys/fs/cgroup")
BETWEEN_S: Final = (2.0, 7.0)
END_S_MAX: Final = 30.0


class Freezer:
    """A control group of its own, for whatever the command starts."""

    def __init__(self) -> None:
        first = CONTROL_GROUPS / "freezer"
        self.group = (first if first.is_dir() else CONTROL_GROUPS) / f"stalled-{os.getpid()}"
        self.group.mkdir()
        state = self.group / "freezer.state"
        self._file, self._words = (
            (state, ("THAWED", "FROZEN")) if state.exists() else (self.group / "cgroup.freeze", ("0", "1"))
        )

    def join(self) -> None:
        """This process, and all that it starts."""
        (self.group / "cgroup.procs").write_text(str(os.getpid()))

    def stand_still(self, seconds: float) -> None:
        """All of them."""
        try:
            self._file.write_text(self._words[1])
            time.sleep(seconds)
        finally:
            self._file.write_text(self._words[0])

    def close(self) -> None:
        """Ends what the command left behind."""
        procs, give_up_at = self.group / "cgroup.procs", time.monotonic() + END_S_MAX
        while (left := procs.read_text().split()) and time.monotonic() < give_up_at:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.1)
        self.group.rmdir()


def main() -> int:
    """The command's status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds-max", type=float, default=1.5, help="of one stall")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000), help="of when and how long")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    freezer, stalls, chance = Freezer(), 0, random.Random(options.seed)
    try:
        with subprocess.Popen(options.command, preexec_fn=freezer.join) as process:  # noqa: PLW1509 - no threads
            while process.poll() is None:
                time.sleep(chance.uniform(*BETWEEN_S))
                freezer.stand_still(chance.uniform(0.2, options.seconds_max))
                stalls += 1
    finally:
        freezer.close()
    result = "clean" if process.returncode == 0 else f"FAILED ({process.returncode})"
    note(f"stalled SEED={options.seed}: {stalls} stalls of up to {options.seconds_max} s, {result}")
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
