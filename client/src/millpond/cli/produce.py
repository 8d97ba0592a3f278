"""`millpond produce`: records from standard input or a file, streamed in bounded memory."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from millpond.cli.app import Command
from millpond.cli.columns import Format
from millpond.cli.hints import described
from millpond.cli.output import print_json, say
from millpond.cli.progress import progress_of
from millpond.cli.sending import BadInput, Sender, Tally, stream
from millpond.cli.session import TIMEOUT_SECONDS, Common, common_with, with_client
from millpond.cli.streams import Source
from millpond.cli.values import headers_of, separator_of
from millpond.wire.errors import MillpondError, UnknownPartition

if TYPE_CHECKING:
    from millpond import Client

DELIVERY_SECONDS: Final = 120.0
"""As the SDK: a cluster that is down for a minute fails nothing."""


@click.command("produce", cls=Command)
@click.argument("topic")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True), default="-")
@click.option("--key", metavar="K", help="The key of every record: all go to one partition.")
@click.option("--key-separator", metavar="C", help=r"A line is the key, this, and the value; \t is a tab.")
@click.option("--header", "headers", metavar="NAME=VALUE", multiple=True, help="May be repeated.")
@click.option("--partition", type=click.IntRange(min=0), help="Where all go.  [default: by key]")
@click.option(
    "--acks",
    type=click.Choice(["all", "leader", "none"]),
    default="all",
    show_default=True,
    help="Who has a record when it counts: every replica in sync, the leader, nobody.",
)
@click.option(
    "--compression",
    type=click.Choice(["none", "gzip", "lz4", "zstd"]),
    default="none",
    show_default=True,
    help="Of batches, before they are sent.",
)
@click.option(
    "--input",
    "form",
    type=click.Choice(["lines", "json"]),
    default="lines",
    show_default=True,
    help="A line is a value as it is, or an object as `millpond consume -o json` writes them.",
)
@common_with(
    "How long to wait for the cluster, and for a record to be acknowledged."
    f"  [default: {TIMEOUT_SECONDS:g} to connect, {DELIVERY_SECONDS:g} for a record]"
)
def command(
    common: Common,
    topic: str,
    file: str,
    *,
    key: str | None,
    key_separator: str | None,
    headers: tuple[str, ...],
    partition: int | None,
    acks: str,
    compression: str,
    form: str,
) -> None:
    """Send each line of FILE, or of standard input, to TOPIC as a record, and say how many were acknowledged.

    Lines are bytes: they need not be text, an empty one is an empty record, a last one without newline
    counts. Records of one key, or of one --partition, keep their order.

    With --input json a line is {"key": …, "value": …, "headers": …, "timestamp": …}: text, or {"base64":
    "…"} for other bytes, or null; headers are an object or [name, value] pairs; only "value" must be there.
    "topic", "partition" and "offset" may be there, and are not used.

    Examples:
      millpond produce orders < orders.txt
      millpond produce orders --key-separator : --header source=import orders.txt
      tail -F app.log | millpond produce logs --compression zstd
      millpond consume orders -o json | millpond produce copy --input json
    """
    if key is not None and key_separator is not None:
        raise click.UsageError("give --key or --key-separator, not both")
    if form == "json" and (key is not None or key_separator is not None):
        raise click.UsageError(
            "with --input json the key is in the object: leave --key and --key-separator out"
        )
    lines = Format(
        json=form == "json",
        key=None if key is None else os.fsencode(key),
        separator=None if key_separator is None else separator_of(key_separator),
        headers=tuple(headers_of(headers)),
    )
    options: dict[str, Any] = {
        "acks": acks,
        "compression": None if compression == "none" else compression,
        "delivery_timeout": DELIVERY_SECONDS if common.timeout is None else common.timeout,
    }
    tally = Tally(acks)
    with _opened(file) as fd:

        async def work(client: Client) -> None:
            await _check_topic(client, topic, partition)
            progress = progress_of(fd, sys.stderr)
            async with client.producer(**options) as producer, asyncio.TaskGroup() as tasks:
                with progress:
                    sender = Sender(producer, topic, tasks, tally, partition=partition)
                    await stream(Source(fd), lines, sender, progress)

        _run(common, topic, work, tally)


def _run(common: Common, topic: str, work: Callable[[Client], Awaitable[None]], tally: Tally) -> None:
    """Do it, and say how far it went, however it ended."""
    try:
        with_client(common, work)
    except (MillpondError, BadInput) as error:
        if common.json:
            print_json(tally.as_dict(topic))
        what = described(error) if isinstance(error, MillpondError) else error.message
        raise click.ClickException(f"{what}; {tally.told()}") from None
    except KeyboardInterrupt:
        if tally.lines:
            say(f"millpond: interrupted; {tally.told()}")
        raise
    if common.json:
        print_json(tally.as_dict(topic))
    else:
        say(tally.told())


@contextmanager
def _opened(file: str) -> Iterator[int]:
    # Here, where Ctrl-C works: opening a named pipe waits for its writer.
    if file == "-":
        if sys.stdin is None:
            raise click.ClickException("there is no standard input to read; name a FILE")
        yield sys.stdin.fileno()
        return
    with Path(file).open("rb", buffering=0) as opened:
        yield opened.fileno()


async def _check_topic(client: Client, topic: str, partition: int | None) -> None:
    """A topic that is not there is an error before anybody has typed a line."""
    found = await client.admin.describe_topic(topic)
    if partition is not None and partition >= len(found.partitions):
        raise UnknownPartition(topic=topic, partition=partition, partitions=len(found.partitions))
