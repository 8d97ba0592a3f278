"""The `millpond` command.

This module imports the standard library only, so that the command answers in an installation
without any extra. A command is listed here once there is something behind it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from millpond import __version__

USAGE_ERROR = 2
"""The exit status of a command line that means nothing."""

HELP = """\
usage: millpond [--help | --version]

A durable, partitioned log and work queue in Python.

There is no server yet, and so there are no commands for one. What there is:

  the embedded queue    a durable queue in one directory, from Python:
                          from millpond import embedded
                          with embedded.open("jobs") as queue:
                              queue.produce(b"key", b"value")
  make demo             in a source checkout: that queue at work on real input

options:
  -h, --help    this text
  --version     the version of the installed distribution
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 for an answer, 2 for a wrong usage.

    Whoever reads the output may stop early (`millpond --help | head -1`): that is no failure.
    """
    arguments = sys.argv[1:] if argv is None else argv
    try:
        status = _run(arguments)
        if sys.stdout is not None:  # None where the process was started without one
            sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more as it ends, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _run(arguments: Sequence[str]) -> int:
    match arguments:
        case [] | ["-h" | "--help"]:
            print(HELP, end="")
        case ["--version"]:
            print(f"millpond {__version__}")
        case _:
            given = " ".join(arguments)
            print(f"millpond: {given!r} is not a command; see: millpond --help", file=sys.stderr)
            return USAGE_ERROR
    return 0
