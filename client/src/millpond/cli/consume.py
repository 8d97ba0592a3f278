"""`millpond consume`: the records of a topic on standard output."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from millpond.cli.app import Command
from millpond.cli.records import FIELDS, json_lines, plain_lines
from millpond.cli.session import TIMEOUT_SECONDS, Common, common_with, with_client
from millpond.cli.streams import Sink
from millpond.cli.values import TIMES, position

if TYPE_CHECKING:
    from millpond import Client, Consumer

BUFFER_BYTES: Final = 8 << 20
"""Read ahead of what is printed: enough to keep a fast reader busy, little for a slow one."""

Start = int | datetime | Literal["beginning", "end"]


def _fields(_context: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    fields = tuple(text.split(","))
    for field in fields:
        if field not in FIELDS:
            raise click.BadParameter(f"{field!r} is not one of {', '.join(FIELDS)}")
    return fields


@click.command("consume", cls=Command, epilog=TIMES)
@click.argument("topic")
@click.option("--group", hidden=True)
@click.option(
    "--partition",
    "partitions",
    type=click.IntRange(min=0),
    multiple=True,
    help="Only this one; may be repeated.  [default: all]",
)
@click.option(
    "--from",
    "start",
    callback=position("beginning", "end"),
    default="beginning",
    show_default=True,
    metavar="beginning|end|OFFSET|TIME",
    help="Where to begin in each partition.",
)
@click.option("--max-records", type=click.IntRange(min=0), metavar="N", help="Stop after so many.")
@click.option(
    "--follow/--no-follow",
    default=None,
    help="Wait for more at the end, or stop there.  [default: wait on a terminal, else stop]",
)
@click.option(
    "--print",
    "fields",
    callback=_fields,
    metavar="FIELD,…",
    help=f"Print these fields with tabs between: {', '.join(FIELDS)}.  [default: value]",
)
@common_with(
    f"How long to wait for the cluster.  [default: {TIMEOUT_SECONDS:g}; with --follow, to connect only]"
)
def command(
    common: Common,
    topic: str,
    *,
    group: str | None,
    partitions: tuple[int, ...],
    start: Start,
    max_records: int | None,
    follow: bool | None,
    fields: tuple[str, ...] | None,
) -> None:
    """Print the records of TOPIC, from the beginning unless told otherwise. Nothing is committed.

    A record is its value and a newline, bytes as they are; null prints nothing. With -o json it is an object
    with topic, partition, offset, timestamp, key, value and headers, in which bytes that are not UTF-8 are
    {"base64": "…"}: what `millpond produce --input json` reads. Records of one partition come in order.

    The end is what could be read when the command began. Following goes on through whatever happens to the
    cluster, and says so on standard error; with --timeout, it ends when the cluster was away for so long.

    Examples:
      millpond consume orders
      millpond consume orders --follow --from end
      millpond consume orders --from -1h --print timestamp,key,value
      millpond consume orders --partition 0 --from 1200 --max-records 10 -o json
      millpond consume orders -o json | millpond produce copy --input json
    """
    if group is not None:
        raise click.UsageError("consumer groups are not in this version; leave --group out")
    sink = Sink()
    if follow is None:
        follow = sink.interactive
    lines = _formatter(common, fields)
    options: dict[str, Any] = {
        "start": start,
        "buffer_bytes": BUFFER_BYTES,
        "trouble_timeout": patience_s(common, follow=follow),
    }
    if partitions:
        options["partitions"] = partitions
    if not follow:
        options["stop"] = "end"

    async def work(client: Client) -> None:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(sink.closed(), name="watching standard output")
            async with client.consumer(topic, **options) as consumer:
                await _copy(consumer, max_records, lines, sink)
            watching.cancel()

    with_client(common, work)


def patience_s(common: Common, *, follow: bool) -> float:
    """For how long a cluster may be away from somebody who reads: who follows it waits for it."""
    if common.timeout is not None:
        return common.timeout
    return math.inf if follow else TIMEOUT_SECONDS


def _formatter(common: Common, fields: Sequence[str] | None) -> Callable[[Any], bytes]:
    if common.json:
        return lambda batch: json_lines(batch, fields or FIELDS)
    return lambda batch: plain_lines(batch, fields or ("value",))


async def _copy(
    consumer: Consumer[bytes | None, bytes | None],
    records_max: int | None,
    lines: Callable[[Any], bytes],
    sink: Sink,
) -> None:
    left = sys.maxsize if records_max is None else records_max
    if not left:
        return
    async for batch in consumer.batches():
        taken = batch if len(batch) <= left else batch.slice(0, left)
        await sink.write(lines(taken))
        left -= len(taken)
        if not left:
            return
