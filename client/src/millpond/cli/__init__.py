"""The `millpond` command.

This module imports the standard library only, so that the command answers in an installation without any
extra: with its help, its version, or the one line that says what to install. What runs a command is in
`millpond.cli.app`, and imported when there is one to run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from types import MappingProxyType
from typing import Final, NamedTuple

from millpond import __version__

FAILED: Final = 1
USAGE_ERROR: Final = 2
"""The exit status of a command line that means nothing, or that asks for what is not installed."""
INTERRUPTED: Final = 130
"""As a shell reports a program that Ctrl-C ended."""

COMPLETION_VARIABLE: Final = "_MILLPOND_COMPLETE"
"""Set by the shell's completion script, which runs this command to be told what may follow."""


class Command(NamedTuple):
    """One line of the help, and the extra without which the command does not run."""

    summary: str
    extra: str = "cli"


COMMANDS: Final[Mapping[str, Command]] = MappingProxyType(
    {
        "broker": Command("run one broker in the foreground", "broker"),
        "up": Command("run a local cluster in the foreground", "broker"),
        "topic": Command("create, list, describe, alter, trim and delete topics"),
        "produce": Command("send records from standard input or a file"),
        "consume": Command("print the records of a topic"),
        "cluster": Command("show the brokers and the state of the cluster"),
        "bench": Command("measure what a cluster does: produce, consume, latency"),
        "completion": Command("print the completion script for bash, zsh or fish"),
    }
)
"""Each is a module of this package, which has it as `command`."""

NOT_YET: Final[Mapping[str, str]] = MappingProxyType(
    {
        "group": "consumer groups",
        "check": "judging histories",
    }
)
"""Commands whose feature this version does not have, and which feature that is."""


class Extra(NamedTuple):
    """The packages by which an extra is recognised, and what to install for it."""

    packages: tuple[str, ...]
    install: str


_CLI: Final = ("click", "rich")
EXTRAS: Final[Mapping[str, Extra]] = MappingProxyType(
    {
        "cli": Extra(_CLI, "millpond[cli]"),
        "broker": Extra(("pysyncobj", *_CLI), "millpond[broker,cli]"),
    }
)

_LINES = "\n".join(f"  {name:<12}{command.summary}" for name, command in COMMANDS.items())
HELP: Final = f"""\
usage: millpond COMMAND [OPTIONS] [ARGUMENTS]

A durable message log and work queue: its broker, its topics, and records in and out.

commands:
{_LINES}

`millpond COMMAND --help` has the options of each, with examples.

options of every command that talks to a cluster:
  -b, --bootstrap HOST:PORT[,…]   brokers to ask first (default: $MILLPOND_BOOTSTRAP, then localhost:7070)
  -o, --output table|json         for people, or one JSON object a line and nothing else
  --timeout SECONDS               how long to wait for the cluster

options:
  -h, --help    this text
  --version     the version of the installed distribution

exit status: 0 done, 1 the operation failed, 2 the command line means nothing, 130 Ctrl-C
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: see HELP.

    Whoever reads the output may stop early (`millpond consume orders | head -1`): that is no failure.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(arguments)
        if sys.stdout is not None:  # None where the process was started without one
            sys.stdout.flush()
    except BrokenPipeError:
        _silence()
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:  # of the flush: everything else was told where it happened
        _silence()
        print(f"millpond: cannot write the output: {error.strerror}", file=sys.stderr)
        return FAILED
    return status


def _silence() -> None:
    """The interpreter flushes once more as it ends, and would complain then."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run(arguments: list[str]) -> int:
    if COMPLETION_VARIABLE in os.environ and not _missing("cli"):
        from millpond.cli.app import complete  # noqa: PLC0415 - needs the extra

        return complete()
    match arguments:
        case [] | ["-h" | "--help", *_]:
            print(HELP, end="")
            return 0
        case ["--version", *_]:
            print(f"millpond {__version__}")
            return 0
        case [name, *_] if name in COMMANDS:
            extra = COMMANDS[name].extra
            if _missing(extra):
                return _refuse(
                    f"millpond {name} needs the {extra} extra: pip install '{EXTRAS[extra].install}'"
                )
            from millpond.cli.app import run  # noqa: PLC0415 - needs the extra

            return run(arguments)
        case [name, *_] if name in NOT_YET:
            return _refuse(
                f"millpond: {name!r} belongs to {NOT_YET[name]}, which this version does not have;"
                " see: millpond --help"
            )
        case [name, *_]:
            return _refuse(f"millpond: {name!r} is not a command{_guess(name)}; see: millpond --help")
    raise AssertionError("every list of arguments is one of these")


def _missing(extra: str) -> bool:
    # By what it depends on: our own packages are in the distribution whatever was asked for.
    return any(find_spec(package) is None for package in EXTRAS[extra].packages)


def _refuse(line: str) -> int:
    print(line, file=sys.stderr)
    return USAGE_ERROR


def _guess(name: str) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - only for a mistake

    close = get_close_matches(name, COMMANDS, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
