"""`millpond bench`: what a cluster does, measured through the public SDK in its fastest way.

Numbers hold for the machine, the disk and the load of the moment; compare runs of one place.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from millpond.cli.app import CommandGroup
from millpond.cli.columns import Columns
from millpond.cli.output import print_json
from millpond.cli.sending import SEND_RECORDS_MAX, Sender, Tally
from millpond.cli.session import Common, common, with_client

if TYPE_CHECKING:
    from millpond import Client
    from millpond.admin import TopicDescription

RECORDS: Final = 500_000
LATENCY_RECORDS: Final = 2_000
LATENCY_RECORDS_MAX: Final = 10_000_000
"""Each measurement is kept until the end, for its percentile."""
SEND_BYTES_MAX: Final = 1 << 20
SENDS_AHEAD: Final = 4
"""Bytes handed to the producer at once, and how often before the first are acknowledged: order is no matter
here, and a producer that never runs dry is what is to be measured."""
WARM_UP_RECORDS: Final = 20
"""Sent before latency is measured: connections, the producer's id, the first files."""
PERCENTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is asked for; `topic` is None for one of its own."""

    records: int
    size: int
    batch_bytes: int
    replicas: int | None
    partitions: int
    topic: str | None


@click.group("bench", cls=CommandGroup)
def command() -> None:
    """Measure what a cluster does.

    Each makes a topic of its own and deletes it at the end, unless --topic names one.

    Examples:
      millpond bench produce --records 1000000 --size 100
      millpond bench consume -o json
      millpond bench latency --records 5000
    """


Measure = Callable[["Client", Load], Awaitable[dict[str, Any]]]


def _load(records: int, records_max: int | None = None) -> Callable[[Measure], Callable[..., Any]]:
    """The options that the three have in common, and `common` ones."""
    options = (
        click.option("--records", type=click.IntRange(1, records_max), default=records, show_default=True),
        click.option(
            "--size", type=click.IntRange(min=1), default=100, show_default=True, help="Bytes of a value."
        ),
        click.option(
            "--batch-bytes",
            type=click.IntRange(min=1),
            default=262_144,
            show_default=True,
            help="When a batch is full.",
        ),
        click.option("--replicas", type=click.IntRange(min=1), help="Of the topic that is made."),
        click.option(
            "--partitions",
            type=click.IntRange(min=1),
            default=3,
            show_default=True,
            help="Of the topic that is made.",
        ),
        click.option("--topic", help="One that is there; it is not deleted."),
        common,
    )

    def decorate(measure: Measure) -> Callable[..., Any]:
        def measured(common: Common, **asked: Any) -> None:
            _print(common, with_client(common, lambda client: measure(client, Load(**asked))))

        measured.__doc__ = measure.__doc__
        decorated: Callable[..., Any] = measured
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


@command.command("produce")
@_load(RECORDS)
async def produce(client: Client, load: Load) -> dict[str, Any]:
    """Send records with acks=all, as many at once as the producer takes; until the last acknowledgement.

    Examples:
      millpond bench produce
      millpond bench produce --size 1000 --batch-bytes 1048576
    """
    async with _topic(client, load) as topic:
        seconds = await _produce(client, load, topic.name)
        return _throughput(
            "produce", load, topic, records=load.records, size_bytes=load.records * load.size, seconds=seconds
        )


@command.command("consume")
@_load(RECORDS)
async def consume(client: Client, load: Load) -> dict[str, Any]:
    """Read records in batches, from the beginning; from the opening of the consumer to the last record.

    With --topic it reads what is there, at most --records; else it first fills a topic of its own.

    Examples:
      millpond bench consume --records 1000000
      millpond bench consume --topic orders
    """
    async with _topic(client, load) as topic:
        if load.topic is None:
            await _produce(client, load, topic.name)
        count = size = 0
        began = time.perf_counter()
        async with client.consumer(topic.name, stop="end") as consumer:
            async for batch in consumer.batches():
                count += len(batch)
                size += sum(map(len, filter(None, batch.values)))
                if count >= load.records:
                    break
            seconds = time.perf_counter() - began
        return _throughput("consume", load, topic, records=count, size_bytes=size, seconds=seconds)


@command.command("latency")
@_load(LATENCY_RECORDS, LATENCY_RECORDS_MAX)
async def latency(client: Client, load: Load) -> dict[str, Any]:
    """Send one record at a time with acks=all and await each: how long an acknowledgement takes.

    Examples:
      millpond bench latency
      millpond bench latency --records 10000 --size 1000 -o json
    """
    value = os.urandom(load.size)
    clock = time.perf_counter_ns
    taken_ns: list[int] = []
    async with (
        _topic(client, load) as topic,
        client.producer(acks="all", batch_bytes=load.batch_bytes) as producer,
    ):
        for _ in range(WARM_UP_RECORDS):
            await producer.send(topic.name, value)
        began = clock()
        for _ in range(load.records):
            sent_at = clock()
            await producer.send(topic.name, value)
            taken_ns.append(clock() - sent_at)
        seconds = (clock() - began) / 1e9
        result = _throughput(
            "latency", load, topic, records=load.records, size_bytes=load.records * load.size, seconds=seconds
        )
    return {**result, **latencies_of(taken_ns)}


def latencies_of(taken_ns: Sequence[int]) -> dict[str, float]:
    """Percentiles in ms: the least latency that so many are not above. `max` is the worst."""
    ordered = sorted(taken_ns)
    count = len(ordered)
    ranks = {name: min(count - 1, int(share * count)) for name, share in PERCENTILES.items()}
    found = {f"{name}_ms": ordered[rank] for name, rank in ranks.items()}
    found["max_ms"] = ordered[-1]
    return {name: round(value / 1e6, 3) for name, value in found.items()}


@asynccontextmanager
async def _topic(client: Client, load: Load) -> AsyncIterator[TopicDescription]:
    """The topic to measure on; one of its own goes again, however the measurement ends."""
    if load.topic is not None:
        yield await client.admin.describe_topic(load.topic)
        return
    name = f"bench-{uuid.uuid4().hex[:12]}"
    made = await client.admin.create_topic(name, partitions=load.partitions, replicas=load.replicas)
    try:
        yield made
    finally:
        await client.admin.delete_topic(name)


async def _produce(client: Client, load: Load, topic: str) -> float:
    """Send them all; the seconds from the first to the last acknowledgement."""
    at_once = max(1, min(SEND_RECORDS_MAX, load.records, SEND_BYTES_MAX // load.size))
    pool = os.urandom(load.size * at_once)  # bytes that nothing on the way can make smaller
    values = [pool[start : start + load.size] for start in range(0, len(pool), load.size)]
    tally = Tally("all")
    async with (
        client.producer(acks="all", batch_bytes=load.batch_bytes) as producer,
        asyncio.TaskGroup() as tasks,
    ):
        sender = Sender(producer, topic, tasks, tally, ahead=SENDS_AHEAD)
        began = time.perf_counter()
        left = load.records
        while left > 0 and not sender.failed:
            await sender.send(Columns(values if left >= at_once else values[:left], None, None, None))
            left -= at_once
        await sender.finish()
        return time.perf_counter() - began


def _throughput(
    what: str, load: Load, topic: TopicDescription, *, records: int, size_bytes: int, seconds: float
) -> dict[str, Any]:
    return {
        "bench": what,
        "records": records,
        "size": load.size,
        "batch_bytes": load.batch_bytes,
        "partitions": len(topic.partitions),
        "replicas": topic.replicas,
        "min_insync": topic.min_insync,
        "seconds": round(seconds, 3),
        "records_per_second": round(records / seconds),
        "mb_per_second": round(size_bytes / seconds / 1e6, 2),
    }


def _print(common: Common, result: dict[str, Any]) -> None:
    if common.json:
        print_json(result)
        return
    for name, value in result.items():
        text = f"{value:,}" if isinstance(value, int | float) else value
        print(f"{name.replace('_', ' ') + ':':<20}{text}")
