"""From a command line to a command, and from whatever happens there to one line and an exit status.

The only module that knows how failures are told. Commands raise; they do not print their errors.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final

import click

from millpond.cli import COMMANDS, COMPLETION_VARIABLE, FAILED, INTERRUPTED, USAGE_ERROR
from millpond.cli.hints import described
from millpond.wire import errors

TRACEBACK_VARIABLE: Final = "MILLPOND_TRACEBACK"
"""Set, it lets an error that nobody foresaw out as it is, for whoever looks for its cause."""


class Root(click.Group):
    """`millpond` itself: a command's module is imported when the command is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"millpond.cli.{cmd_name}").command
        return command


class Command(click.Command):
    """A command whose help keeps the lines of a block, such as its examples, as they are."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.help = _blocks_kept(self.help)


class CommandGroup(click.Group):
    """A group of commands. `aliases` are other names."""

    command_class = Command
    aliases: Mapping[str, str] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("no_args_is_help", False)  # an error says what is missing, in one line
        super().__init__(*args, **kwargs)
        self.help = _blocks_kept(self.help)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, self.aliases.get(cmd_name, cmd_name))


def _blocks_kept(text: str | None) -> str | None:
    """A help text in which each block of indented lines under a heading is kept from being wrapped."""
    if text is None:
        return None
    return re.sub(r"\n\n(?=[^\n]+:\n {2})", "\n\n\b\n", inspect.cleandoc(text))


root: Final = Root(
    "millpond",
    # Those below it inherit both.
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=False,
)


def run(arguments: Sequence[str]) -> int:
    """Run the command that the arguments name; its exit status. Errors are told here, in one line each.

    BrokenPipeError and KeyboardInterrupt are let out: they are the end of a command, not errors of it.
    """
    try:
        with root.make_context("millpond", list(arguments)) as context:
            try:
                result = root.invoke(context)
            except errors.MillpondError as error:
                return _tell(described(error, context.invoked_subcommand), FAILED)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.Abort:
        return INTERRUPTED
    except click.UsageError as error:
        place = "" if error.ctx is None else f"; see: {error.ctx.command_path} --help"
        return _tell(error.format_message().rstrip(".") + place, USAGE_ERROR)
    except click.ClickException as error:
        return _tell(error.format_message(), FAILED)
    except BrokenPipeError:
        raise
    except ModuleNotFoundError as error:
        return _tell(f"{error}; install it again with: pip install 'millpond[broker,cli]'", USAGE_ERROR)
    except OSError as error:
        # One without a name is of standard input or output: all other files are named, sockets are grpc's.
        where = "input or output failed" if error.filename is None else error.filename
        return _tell(f"{where}: {error.strerror or error}", FAILED)
    except (
        UnicodeEncodeError
    ) as error:  # a byte of an argument, as Python keeps it; keys and headers may be any
        return _tell(f"{error.object!r} is not UTF-8, as names and settings are", USAGE_ERROR)
    except Exception as error:  # a bug of ours is told in one line too, and says how to see more
        if TRACEBACK_VARIABLE in os.environ:
            raise
        kind = type(error).__name__
        return _tell(f"unforeseen {kind}: {error} ({TRACEBACK_VARIABLE}=1 shows where)", FAILED)
    return result if isinstance(result, int) else 0


def complete() -> int:
    """Answer the shell's completion script, as click does it."""
    try:
        root.main(prog_name="millpond", complete_var=COMPLETION_VARIABLE)
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    return 0


def _tell(message: str, status: int) -> int:
    print("millpond: " + " ".join(message.split()), file=sys.stderr)
    return status
