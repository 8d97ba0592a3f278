"""What every command that talks to a cluster has in common: its options, and a client to work with.

grpc is imported when a command runs, not when it is looked up: help and completion answer without it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from millpond.cli.hints import remember
from millpond.wire.errors import InvalidConfig, MillpondError

if TYPE_CHECKING:
    from millpond.client import Client

T = TypeVar("T")

CLIENT_ID: Final = "millpond-cli"
TIMEOUT_SECONDS: Final = 15.0
"""Long enough for a broker to start, short enough to sit through."""
TIMEOUT_SECONDS_MAX: Final = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Common:
    """The options of every command. `timeout` is None where none was given."""

    bootstrap: str
    json: bool
    timeout: float | None


def common(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of all, as its first argument."""
    return common_with(f"How long to wait for the cluster.  [default: {TIMEOUT_SECONDS:g}]")(function)


def common_with(timeout_help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """As `common`, for a command whose --timeout means more than that of others."""
    timeout_option = click.option(
        "--timeout",
        type=click.FloatRange(0, TIMEOUT_SECONDS_MAX, min_open=True),
        metavar="SECONDS",
        help=timeout_help,
    )

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(*, bootstrap: str, output: str, timeout: float | None, **options: Any) -> Any:
            remember(bootstrap, options)
            return function(Common(bootstrap=bootstrap, json=output == "json", timeout=timeout), **options)

        for option in reversed((*_OPTIONS, timeout_option)):
            command = option(command)
        return command

    return decorate


def _checked_bootstrap(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    from millpond._core.cluster import addresses_of  # noqa: PLC0415 - help needs none of it

    try:
        addresses_of(value)
    except InvalidConfig as error:
        raise click.BadParameter(error.reason) from None
    except ValueError:  # a port of thousands of digits
        raise click.BadParameter("that is no address; write host:port") from None
    return value


_OPTIONS: Final = (
    click.option(
        "-b",
        "--bootstrap",
        metavar="HOST:PORT[,…]",
        envvar="MILLPOND_BOOTSTRAP",
        default="localhost:7070",
        show_default=True,
        callback=_checked_bootstrap,
        help="Brokers to ask first; MILLPOND_BOOTSTRAP in the environment does the same.",
    ),
    click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="For people, or one JSON object a line and nothing else.",
    ),
)


def with_client(common: Common, work: Callable[[Client], Awaitable[T]]) -> T:
    """Connect, do the work, close; what the work gave. Ctrl-C cancels it and raises KeyboardInterrupt."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it would say, our errors say in one line
    _warn_on_stderr()
    from millpond.client import connect  # noqa: PLC0415 - grpc takes a quarter of a second

    timeout = TIMEOUT_SECONDS if common.timeout is None else common.timeout

    async def connected() -> T:
        try:
            async with connect(common.bootstrap, client_id=CLIENT_ID, timeout=timeout) as client:
                return await work(client)
        except Exception:  # whatever went wrong while Ctrl-C ended it: it was Ctrl-C that ended it
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError from None
            raise

    try:
        return asyncio.run(connected())
    except ExceptionGroup as group:
        raise _first(group) from None


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """What went wrong in a group of tasks: an error that has a name, rather than what followed from it."""
    leaves: list[BaseException] = []
    waiting: list[BaseException] = [group]
    while waiting:
        error = waiting.pop(0)
        if isinstance(error, BaseExceptionGroup):
            waiting.extend(error.exceptions)
        else:
            leaves.append(error)
    known = (error for error in leaves if isinstance(error, MillpondError | OSError | click.ClickException))
    return next(known, leaves[0])


class _OneLine(logging.Handler):
    """Warnings of the client, and of what is below it, as the command itself speaks: without tracebacks."""

    def emit(self, record: logging.LogRecord) -> None:
        print("millpond: " + " ".join(record.getMessage().split()), file=sys.stderr)


def _warn_on_stderr() -> None:
    logger = logging.getLogger()
    if not any(isinstance(handler, _OneLine) for handler in logger.handlers):
        logger.addHandler(_OneLine(logging.WARNING))
