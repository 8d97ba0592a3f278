"""`millpond topic`: create, list, describe, alter, move, trim and delete topics."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from millpond.cli.app import CommandGroup
from millpond.cli.output import counted, print_json, print_table
from millpond.cli.session import Common, common, with_client
from millpond.cli.values import TIMES, position, settings_of

if TYPE_CHECKING:
    from millpond.admin import TopicDescription
    from millpond.client import Client


class TopicGroup(CommandGroup):
    """`ls` is `list`."""

    aliases = {"ls": "list"}  # noqa: RUF012 - as the base class declares it


@click.group("topic", cls=TopicGroup)
def command() -> None:
    """Create, list, describe, alter, move, trim and delete topics.

    Examples:
      millpond topic create orders --partitions 6 --config retention_ms=86400000
      millpond topic ls
      millpond topic describe orders -o json
    """


BROKER_DIGITS_MAX: Final = 10
"""An id has 32 bits."""
_partitions_max = 100_000
_NUMBER = click.IntRange(min=1, max=_partitions_max)


@command.command("create")
@click.argument("name")
@click.option("--partitions", type=_NUMBER, default=3, show_default=True, help="How many logs it has.")
@click.option("--replicas", type=_NUMBER, help="Copies of each.  [default: as many as brokers, at most 3]")
@click.option(
    "--min-insync", type=_NUMBER, help="Copies that an acknowledgement means.  [default: a majority]"
)
@click.option("--config", metavar="KEY=VALUE", multiple=True, help="A setting; may be repeated.")
@common
def create(
    common: Common,
    name: str,
    *,
    partitions: int,
    replicas: int | None,
    min_insync: int | None,
    config: tuple[str, ...],
) -> None:
    """Create the topic NAME, and print what was made of what was asked.

    Nothing else creates topics: producing to one that is not there, or consuming from it, is an error.

    Examples:
      millpond topic create orders
      millpond topic create audit --partitions 1 --config retention_ms=-1 --config flush=interval
    """
    settings = settings_of(config)

    async def work(client: Client) -> TopicDescription:
        return await client.admin.create_topic(
            name, partitions=partitions, replicas=replicas, min_insync=min_insync, config=settings
        )

    topic = with_client(common, work)
    if common.json:
        print_json({**_as_json(topic), "replicas": topic.replicas, "min_insync": topic.min_insync})
        return
    print(f"created topic {_resolved(topic)}")
    for key in settings:
        print(f"  {key} = {topic.config.get(key)}")


def _as_json(topic: TopicDescription) -> dict[str, Any]:
    """Its description, the settings in an order that stays."""
    described = topic.as_dict()
    return {**described, "config": dict(sorted(described["config"].items()))}


def _resolved(topic: TopicDescription) -> str:
    return (
        f"{topic.name}: {counted(len(topic.partitions), 'partition')}, {counted(topic.replicas, 'replica')},"
        f" min-insync {topic.min_insync}"
    )


@command.command("list")
@click.option("--internal", is_flag=True, help="Also those of the system, whose names begin with __.")
@common
def list_topics(common: Common, internal: bool) -> None:
    """List the topics by name; `ls` does the same.

    Examples:
      millpond topic list
      millpond topic ls -o json | jq -r .name
    """

    async def work(client: Client) -> list[TopicDescription]:
        return await client.admin.list_topics(internal=internal)

    topics = with_client(common, work)
    if common.json:
        for topic in topics:
            print_json(_as_json(topic))
        return
    rows = [(topic.name, len(topic.partitions), topic.replicas, topic.min_insync) for topic in topics]
    print_table(("NAME", "PARTITIONS", "REPLICAS", "MIN-INSYNC"), rows)


@command.command("describe")
@click.argument("name")
@common
def describe(common: Common, name: str) -> None:
    """Describe the topic NAME: its settings, who leads each partition, and the ends of its logs.

    The high watermark is the end of what can be read. An end that no leader could tell is -, or null in JSON.

    Examples:
      millpond topic describe orders
      millpond topic describe orders -o json | jq '.partitions[].high_watermark'
    """

    async def work(client: Client) -> TopicDescription:
        return await client.admin.describe_topic(name)

    _print_topic(common, with_client(common, work))


def _print_topic(common: Common, topic: TopicDescription) -> None:
    if common.json:
        print_json(_as_json(topic))
        return
    print(_resolved(topic))
    print(f"id: {topic.id}")
    print("config: " + " ".join(f"{key}={value}" for key, value in sorted(topic.config.items())))
    columns = "PARTITION LEADER EPOCH REPLICAS ISR ELR LOG-START HIGH-WATERMARK LOG-END".split()
    print_table(columns, [tuple(partition.as_dict().values()) for partition in topic.partitions])


@command.command("delete")
@click.argument("name")
@common
def delete(common: Common, name: str) -> None:
    """Delete the topic NAME and all its records, at once and for good.

    Examples:
      millpond topic delete orders
    """

    async def work(client: Client) -> None:
        await client.admin.delete_topic(name)

    with_client(common, work)
    if common.json:
        print_json({"name": name, "deleted": True})
    else:
        print(f"deleted topic {name}")


@command.command("alter")
@click.argument("name")
@click.option("--partitions", type=_NUMBER, help="More than there are: each new one begins empty.")
@click.option("--config", metavar="KEY=VALUE", multiple=True, help="A setting; may be repeated.")
@click.option("--unset", metavar="KEY", multiple=True, help="A setting to put back to its default.")
@common
def alter(
    common: Common, name: str, partitions: int | None, config: tuple[str, ...], unset: tuple[str, ...]
) -> None:
    """Change the topic NAME: add partitions, set settings, put some back to their defaults.

    With more partitions keys move to other ones: the records of a key keep their order only within each.

    Examples:
      millpond topic alter orders --config retention_ms=3600000
      millpond topic alter orders --partitions 12 --unset retention_ms
    """
    settings = settings_of(config)
    if both := settings.keys() & set(unset):
        raise click.UsageError(f"{min(both)!r} cannot be both set and unset")
    if partitions is None and not settings and not unset:
        raise click.UsageError("nothing to change: give --partitions, --config or --unset")

    async def work(client: Client) -> TopicDescription:
        return await client.admin.alter_topic(name, partitions=partitions, config=settings, unset=unset)

    topic = with_client(common, work)
    if common.json:
        print_json(_as_json(topic))
        return
    print(f"altered topic {_resolved(topic)}")
    for key in (*settings, *unset):
        print(f"  {key} = {topic.config.get(key)}")


def _broker_ids(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, ...]:
    words = [word.strip() for word in value.split(",")]
    if not all(word.isascii() and word.isdecimal() and len(word) < BROKER_DIGITS_MAX for word in words):
        raise click.BadParameter(f"{value!r} is not broker ids with commas between, as 1,2,3")
    return tuple(map(int, words))


@command.command("reassign")
@click.argument("name")
@click.option("--partition", type=click.IntRange(min=0), required=True, help="The one that moves.")
@click.option(
    "--replicas",
    callback=_broker_ids,
    metavar="ID[,ID…]",
    required=True,
    help="Brokers that are to hold it, the first preferred as its leader.",
)
@click.option("--wait/--no-wait", default=True, show_default=True, help="Return when it has moved.")
@common
def reassign(common: Common, name: str, *, partition: int, replicas: tuple[int, ...], wait: bool) -> None:
    """Move a partition of the topic NAME to other brokers, while it is written and read.

    New replicas are added first; once they are in sync, the others are dropped. Asking for the replicas that
    it has cancels a move that is under way.

    Examples:
      millpond topic reassign orders --partition 0 --replicas 2,3,1
      millpond topic reassign orders --partition 4 --replicas 1,2 --no-wait
    """

    async def work(client: Client) -> TopicDescription:
        await client.admin.reassign(name, {partition: replicas}, wait=wait)
        return await client.admin.describe_topic(name)

    _print_topic(common, with_client(common, work))


@command.command("trim", epilog=TIMES)
@click.argument("name")
@click.option(
    "--before",
    callback=position("end"),
    metavar="OFFSET|TIME",
    required=True,
    help="The first offset or time to keep; `end` keeps nothing that can be read now.",
)
@click.option("--partition", type=click.IntRange(min=0), help="Only this one.  [default: all]")
@common
def trim(common: Common, name: str, before: int | datetime | Literal["end"], partition: int | None) -> None:
    """Forget the oldest records of the topic NAME, for good, and print where each log begins now.

    Examples:
      millpond topic trim orders --before 1000 --partition 0
      millpond topic trim orders --before -7d
      millpond topic trim orders --before 2026-11-21T08:00:00Z
    """

    async def work(client: Client) -> dict[int, int]:
        return await client.admin.trim_topic(name, before=before, partition=partition)

    log_starts = sorted(with_client(common, work).items())
    if not common.json:
        print_table(("PARTITION", "LOG-START"), log_starts)
        return
    for number, log_start in log_starts:
        row: dict[str, Any] = {"topic": name, "partition": number, "log_start": log_start}
        print_json(row)
