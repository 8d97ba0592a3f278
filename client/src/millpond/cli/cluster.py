"""`millpond cluster`: who is there, and how they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from millpond.cli.app import CommandGroup
from millpond.cli.output import print_json, print_table
from millpond.cli.session import Common, common, with_client

if TYPE_CHECKING:
    from collections.abc import Sequence

    from millpond.admin import BrokerDescription, TopicDescription
    from millpond.client import Client


class ClusterGroup(CommandGroup):
    """What moves leaders waits for replication."""

    not_yet = {"elect-leaders": "replication", "drain": "replication"}  # noqa: RUF012 - as the base class has it


@click.group("cluster", cls=ClusterGroup)
def command() -> None:
    """Show the brokers and the state of the cluster.

    Examples:
      millpond cluster status
      millpond cluster brokers -o json
    """


@command.command("brokers")
@common
def brokers(common: Common) -> None:
    """List the brokers: where clients reach them, and what state they are in.

    Examples:
      millpond cluster brokers
      millpond cluster brokers -o json | jq -r .address
    """

    async def work(client: Client) -> list[BrokerDescription]:
        return await client.admin.brokers()

    found = with_client(common, work)
    if common.json:
        for broker in found:
            print_json(broker.as_dict())
        return
    columns = "ID ADDRESS RACK STATE CONTROLLER EPOCH VERSION".split()
    print_table(columns, [tuple(broker.as_dict().values()) for broker in found])


@command.command("status")
@common
def status(common: Common) -> None:
    """Say how the cluster is: brokers, topics, and partitions that are not as they should be.

    A partition is without a leader when nobody serves it; under-replicated when fewer brokers than its
    replicas are in sync; under min-insync when it takes no records with acks=all for want of them.

    Examples:
      millpond cluster status
      test "$(millpond cluster status -o json | jq .without_leader)" = 0
    """

    async def work(client: Client) -> tuple[list[BrokerDescription], list[TopicDescription]]:
        return await client.admin.brokers(), await client.admin.list_topics(internal=True)

    facts = status_of(*with_client(common, work))
    if common.json:
        print_json(facts)
        return
    for name, value in facts.items():
        print(f"{name.replace('_', ' ') + ':':<20}{'-' if value is None else value}")


def status_of(brokers: Sequence[BrokerDescription], topics: Sequence[TopicDescription]) -> dict[str, Any]:
    """The state of a cluster in a few numbers; internal topics count."""
    partitions = [(topic, partition) for topic in topics for partition in topic.partitions]
    return {
        "controller": next((broker.id for broker in brokers if broker.controller), None),
        "brokers": len(brokers),
        "brokers_running": sum(broker.state == "running" for broker in brokers),
        "topics": len(topics),
        "partitions": len(partitions),
        "without_leader": sum(partition.leader is None for _, partition in partitions),
        "under_replicated": sum(len(partition.isr) < len(partition.replicas) for _, partition in partitions),
        "under_min_insync": sum(len(partition.isr) < topic.min_insync for topic, partition in partitions),
    }
