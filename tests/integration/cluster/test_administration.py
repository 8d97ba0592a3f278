"""Replicas and leaders, moved by hand: in the SDK and on the command line, against three real brokers."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import pytest

import millpond
from millpond.client import Client
from millpond.errors import (
    InvalidRequest,
    NotEnoughBrokers,
    TopicExists,
    UnknownPartition,
    UnknownTopic,
)
from millpond.testing import LocalCluster
from tests.awake import awake
from tests.integration.cluster.conftest import controller_of, healed, led_by
from tests.integration.cluster.load import Load


async def millpond_command(cluster: LocalCluster, *arguments: str, status: int = 0) -> list[dict[str, Any]]:
    """What the command prints in JSON."""
    command = [sys.executable, "-m", "millpond", *arguments, "-b", cluster.bootstrap, "-o", "json"]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=False, timeout=60, env=dict(os.environ)
    )
    assert done.returncode == status, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_a_broker_is_drained_and_gets_its_leaderships_back(
    three: LocalCluster, client: Client, topic: str
) -> None:
    load = Load(topic, range(3))
    async with load.running(client):
        await load.progress()
        partition = await led_by(client, topic, 2)
        moved = await millpond_command(three, "cluster", "drain", "2")
        assert [(row["topic"], row["partition"]) for row in moved if row["topic"] == topic] == [
            (topic, partition)
        ]
        described = await client.admin.describe_topic(topic)
        assert 2 not in [each.leader for each in described.partitions]
        assert described.partitions[partition].replicas[-1] == 2
        (status,) = await millpond_command(three, "cluster", "status")
        assert (status["brokers_running"], status["without_leader"]) == (3, 0)
        await load.progress()
        back = [2, *(broker for broker in (1, 3))]
        await client.admin.reassign(topic, {partition: back})
        await client.admin.elect_leaders(topic, partitions=[partition])
        (described_now,) = await millpond_command(three, "topic", "describe", topic)
        assert described_now["partitions"][partition]["leader"] == 2
        assert sorted(described_now["partitions"][partition]["isr"]) == [1, 2, 3]
        await load.progress()
    assert not load.failures
    await load.audit(three.bootstrap)


async def test_a_partition_moves_and_the_command_waits_until_it_has(
    three: LocalCluster, client: Client, topic: str
) -> None:
    (described,) = await millpond_command(
        three, "topic", "reassign", topic, "--partition", "0", "--replicas", "3,1"
    )
    partition = described["partitions"][0]
    assert (partition["replicas"], sorted(partition["isr"])) == ([3, 1], [1, 3])
    brokers = await millpond_command(three, "cluster", "brokers")
    assert [broker["state"] for broker in brokers] == ["running"] * 3
    assert [broker["controller"] for broker in brokers].count(True) == 1
    assert {broker["address"] for broker in brokers} == set(three.bootstrap.split(","))


async def test_a_topic_that_is_made_while_a_broker_is_away_is_held_by_it_as_well(
    three: LocalCluster, client: Client, topic: str
) -> None:
    three.kill(2)
    made = await client.admin.create_topic(f"{topic}-meanwhile", partitions=3)
    assert (made.replicas, made.min_insync) == (3, 2)
    async with client.producer() as producer:
        for partition in range(3):
            await producer.send(made.name, b"here", partition=partition)
    await three.aio.restart(2)
    await healed(client)
    described = await client.admin.describe_topic(made.name)
    assert all(sorted(partition.replicas) == [1, 2, 3] for partition in described.partitions)
    assert sorted(partition.replicas[0] for partition in described.partitions) == [1, 2, 3]
    await client.admin.delete_topic(made.name)


async def test_what_cannot_be_is_refused_by_name(three: LocalCluster, client: Client, topic: str) -> None:
    with pytest.raises(NotEnoughBrokers):
        await client.admin.create_topic(f"{topic}-wide", replicas=4)
    with pytest.raises(TopicExists):
        await client.admin.create_topic(topic)
    with pytest.raises(UnknownTopic):
        await client.admin.reassign(f"{topic}-none", {0: [1]})
    with pytest.raises(UnknownPartition):
        await client.admin.reassign(topic, {9: [1]})
    with pytest.raises(InvalidRequest):
        await client.admin.reassign(topic, {0: [1, 7]})
    with pytest.raises(InvalidRequest):
        await client.admin.drain(7)
    with pytest.raises(UnknownTopic):
        await client.admin.elect_leaders(f"{topic}-none")


async def test_a_lost_partition_is_led_again_at_a_price_that_was_named(
    three: LocalCluster, client: Client, topic: str
) -> None:
    """Its only replica in sync is gone, and an administrator takes what there is."""
    name = f"{topic}-loose"
    await client.admin.create_topic(name, partitions=1, replicas=2, min_insync=1)
    described = await client.admin.describe_topic(name)
    leader, follower = described.partitions[0].replicas
    three.kill(follower - 1)
    async with client.producer() as producer:
        await producer.send(name, b"kept by the leader alone")
        three.kill(leader - 1)
        await three.aio.restart(follower - 1)
        began = awake()
        while (await client.admin.describe_topic(name)).partitions[0].leader is not None:
            assert awake() - began < 30.0
            await asyncio.sleep(0.05)
        elected = await client.admin.elect_leaders(name, unclean=True)
        assert list(elected.values()) == [follower]
        assert (await producer.send(name, b"taken by the other")).offset >= 0
    await three.aio.restart(leader - 1)
    await healed(client)
    async with client.consumer(name, stop="end") as consumer:
        assert b"taken by the other" in [record.value async for record in consumer]
    await client.admin.delete_topic(name)


async def test_a_client_finds_whoever_is_left_and_sees_nothing_undone(
    three: LocalCluster, client: Client, topic: str
) -> None:
    """Whichever broker it watched dies; a topic that was just made is known wherever it asks next."""
    controller = await controller_of(client)
    for victim in (controller, 1 + controller % 3):
        three.kill(victim - 1)
        async with millpond.connect(three.bootstrap, timeout=20.0) as fresh:
            for number in range(5):
                name = f"{topic}-{victim}-{number}"
                made = await client.admin.create_topic(name, partitions=1, replicas=2, min_insync=1)
                assert (await fresh.admin.describe_topic(name)).id == made.id
                async with fresh.producer(delivery_timeout=20.0) as producer:
                    assert (await producer.send(name, b"first")).offset == 0
                await fresh.admin.delete_topic(name)
                assert name not in [each.name for each in await client.admin.list_topics()]
        await three.aio.restart(victim - 1)
        await healed(client)
