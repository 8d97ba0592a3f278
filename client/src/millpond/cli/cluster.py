"""`millpond cluster`: who is there, how they are, and who leads."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from millpond.cli.app import CommandGroup
from millpond.cli.health import age_of, problems_of, seen_of
from millpond.cli.hints import here
from millpond.cli.output import counted, print_json, print_table, say
from millpond.cli.session import Common, common, with_client

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from millpond.admin import BrokerDescription, ClusterStatus, TopicDescription
    from millpond.client import Client
    from millpond.wire.record import TopicPartition


@click.group("cluster", cls=CommandGroup)
def command() -> None:
    """Show the brokers and the state of the cluster, and move leaderships.

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

    async def work(client: Client) -> ClusterStatus:
        return await client.admin.status(brief=True)

    found = with_client(common, work)
    if not found.current:
        say(here(f"millpond: {_how_old(found)}; see: millpond cluster status{{b}}"))
    if common.json:
        for broker in found.brokers:
            print_json(broker.as_dict())
        return
    columns = "ID ADDRESS RACK STATE CONTROLLER EPOCH VERSION".split()
    print_table(columns, [tuple(broker.as_dict().values()) for broker in found.brokers])


def _how_old(status: ClusterStatus) -> str:
    return f"{age_of(status)}: this is how it was then"


@command.command("status")
@common
def status(common: Common) -> None:
    """Say whether the cluster is healthy, and if not, what is wrong and what can be done about it.

    A partition is without a leader when nobody serves it; under-replicated when fewer brokers than its
    replicas are in sync; under min-insync when it takes no records with acks=all for want of them. Each
    broker is asked by itself, for two seconds at most. Where no majority of the voters is in touch, what
    is shown is what a broker knew before, held against who answers. The exit status is 0 however it is,
    and 1 if nobody can be asked.

    Examples:
      millpond cluster status
      test "$(millpond cluster status -o json | jq .healthy)" = true
    """

    async def work(client: Client) -> ClusterStatus:
        return await client.admin.status()

    found = with_client(common, work)
    topics = seen_of(found)
    facts, problems = status_of(found.brokers, topics), problems_of(found)
    healthy = not any(problem.harmful for problem in problems)
    if common.json:
        age = {"told_by": found.told_by, "unheard_seconds": round(found.unheard_seconds, 3)}
        told = [{**problem.as_dict(), "do": here(problem.do)} for problem in problems]
        print_json({"healthy": healthy, "current": found.current, **age, **facts, "problems": told})
        return
    for name, value in {"healthy": "yes" if healthy else "no", **facts}.items():
        print(f"{name.replace('_', ' ') + ':':<20}{'-' if value is None else value}")
    if not found.current:
        print(f"\n{_how_old(found)}, but for who answers")
    print()
    print_table("ID ADDRESS STATE ANSWERS CONTROLLER LEADS REPLICAS".split(), _shares(found, topics))
    for problem in problems:
        print(f"\n{problem.line}\n    {here(problem.do)}")


def _shares(status: ClusterStatus, topics: Sequence[TopicDescription]) -> list[tuple[object, ...]]:
    """Each broker, whether it answers here, and how many partitions it leads and has."""
    partitions = [partition for topic in topics for partition in topic.partitions]
    leads = Counter(partition.leader for partition in partitions)
    replicas = Counter(replica for partition in partitions for replica in partition.replicas)
    return [
        (
            *(each.id, each.address, each.state, _answers(each.id, status), each.controller),
            *(leads[each.id], replicas[each.id]),
        )
        for each in status.brokers
    ]


def _answers(broker: int, status: ClusterStatus) -> bool | str:
    return "not ready" if broker in status.not_ready else broker not in status.silent


def status_of(brokers: Sequence[BrokerDescription], topics: Sequence[TopicDescription]) -> dict[str, Any]:
    """The state of a cluster in a few numbers; internal topics count."""
    partitions = [(topic, partition) for topic in topics for partition in topic.partitions]
    return {
        "controller": next((broker.id for broker in brokers if broker.controller), None),
        "brokers": len(brokers),
        "brokers_running": sum(broker.state == "running" for broker in brokers),
        "voters": sum(broker.voter for broker in brokers),
        "voters_running": sum(broker.voter and broker.state == "running" for broker in brokers),
        "topics": len(topics),
        "partitions": len(partitions),
        "without_leader": sum(partition.leader is None for _, partition in partitions),
        "under_replicated": sum(len(partition.isr) < len(partition.replicas) for _, partition in partitions),
        "under_min_insync": sum(len(partition.isr) < topic.min_insync for topic, partition in partitions),
        "not_preferred": sum(
            partition.leader not in (None, partition.replicas[0]) for _, partition in partitions
        ),
    }


@command.command("elect-leaders")
@click.option("--topic", metavar="NAME", help="Only of this topic.  [default: all]")
@click.option("--partition", type=click.IntRange(min=0), multiple=True, help="Only this one; repeatable.")
@click.option(
    "--unclean",
    is_flag=True,
    help="For partitions without a leader, at the price of acknowledged records that nobody there has.",
)
@common
def elect_leaders(common: Common, topic: str | None, partition: tuple[int, ...], *, unclean: bool) -> None:
    """Give partitions back to their preferred leaders, and print those that another broker leads now.

    The cluster does so by itself some seconds after a broker came back. --unclean is for partitions whose
    replicas are lost for good but for some that were not in sync: what those lack is gone.

    Examples:
      millpond cluster elect-leaders
      millpond cluster elect-leaders --topic orders --partition 3
      millpond cluster elect-leaders --topic orders --partition 3 --unclean
    """
    if topic is None and (partition or unclean):
        raise click.UsageError("--partition and --unclean are for one topic: name it with --topic")

    async def work(client: Client) -> dict[TopicPartition, int]:
        return await client.admin.elect_leaders(topic, partitions=partition or None, unclean=unclean)

    _print_led(common, with_client(common, work))


def _print_led(common: Common, led: Mapping[TopicPartition, int]) -> None:
    rows = [(key.topic, key.partition, leader) for key, leader in sorted(led.items())]
    if not common.json:
        if rows:
            print_table(("TOPIC", "PARTITION", "LEADER"), rows)
        else:
            say("no partition has another leader now")
        return
    for topic, number, leader in rows:
        print_json({"topic": topic, "partition": number, "leader": leader})


@command.command("drain")
@click.argument("broker", type=click.IntRange(min=1))
@common
def drain(common: Common, broker: int) -> None:
    """Move leaderships away from BROKER before maintenance, and print who leads them now.

    It goes on as a follower, and others are preferred as leaders of its partitions from then on. What it
    still leads is told on stderr, and the exit status is 1: no other replica of that is in sync.

    Examples:
      millpond cluster drain 2
    """

    async def work(client: Client) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        return await client.admin.drain(broker)

    moved, remaining = with_client(common, work)
    _print_led(common, moved)
    if remaining:
        first = min(remaining)
        raise click.ClickException(
            f"broker {broker} still leads {counted(len(remaining), 'partition')}, of which no other replica"
            f" is in sync: partition {first.partition} of {first.topic} is the first"
        )


@command.command("add-voter")
@click.argument("broker", type=click.IntRange(min=1))
@common
def add_voter(common: Common, broker: int) -> None:
    """Let BROKER vote on the cluster's metadata, and print who votes then.

    It has to run, and to reach the others. One at a time: three voters outlive the loss of one, five of two.

    Examples:
      millpond cluster add-voter 4
    """

    async def work(client: Client) -> tuple[int, ...]:
        return await client.admin.add_voter(broker)

    _print_voters(common, with_client(common, work))


@command.command("remove-voter")
@click.argument("broker", type=click.IntRange(min=1))
@common
def remove_voter(common: Common, broker: int) -> None:
    """Let BROKER, dead or alive, vote no more, and print who still votes.

    It may go on as a broker, but its disk never votes again. To replace a dead voter, remove it and add
    another broker.

    Examples:
      millpond cluster remove-voter 2
    """

    async def work(client: Client) -> tuple[int, ...]:
        return await client.admin.remove_voter(broker)

    _print_voters(common, with_client(common, work))


def _print_voters(common: Common, voters: Sequence[int]) -> None:
    if common.json:
        print_json({"voters": list(voters)})
    else:
        print_table(("VOTER",), [(voter,) for voter in voters])
