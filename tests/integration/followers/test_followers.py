"""Five real brokers of which three vote: the others lead, replicate and serve as those do (rule 44)."""

from __future__ import annotations

import asyncio
import json

import millpond
from millpond.client import Client
from millpond.testing import LocalCluster
from tests.integration.cluster.conftest import HEALED_S, controller_of, healed, led_by
from tests.integration.cluster.load import Load, Reading

FAIL_OVER_S = 20.0
"""Most that a test waits for the next acknowledgement after what it did."""


async def state_of(client: Client, broker_id: int) -> str:
    """As the cluster sees it."""
    return next(broker.state for broker in await client.admin.brokers() if broker.id == broker_id)


async def becomes(client: Client, broker_id: int, state: str) -> None:
    async with asyncio.timeout(HEALED_S):
        while await state_of(client, broker_id) != state:
            await asyncio.sleep(0.1)


def follows(cluster: LocalCluster, broker: int, events: str) -> list[dict[str, object]]:
    """What a broker, counted from 0, has logged under that name."""
    lines = (json.loads(line) for line in cluster.logs(broker).splitlines() if line.startswith("{"))
    return [line for line in lines if line["event"] == events]


async def test_brokers_that_do_not_vote_do_everything_else(
    five: LocalCluster, client: Client, topic: str
) -> None:
    metadata = {path.parent.parent.name for path in five.data_dir.glob("broker-*/data/metadata")}
    assert metadata == {"broker-1", "broker-2", "broker-3"}, "what is followed is not kept on disk"
    assert [broker.voter for broker in await client.admin.brokers()] == [True, True, True, False, False]
    load = Load(topic, range(5))
    async with Reading(client, topic) as reading, load.running(client):
        await load.progress()
        address = five.bootstrap.split(",")[4]
        async with millpond.connect(address, timeout=30) as by_follower:
            assert len(await by_follower.admin.brokers()) == 5
            made = await by_follower.admin.create_topic(f"{topic}-5", partitions=2)
            assert made.name in [each.name for each in await client.admin.list_topics()]
            await by_follower.admin.delete_topic(made.name)
    assert not load.failures
    await reading.reaches(load)
    await load.audit(five.bootstrap)


async def test_followers_and_voters_are_killed_in_turn_and_nothing_acknowledged_is_lost(
    five: LocalCluster, client: Client, topic: str
) -> None:
    """A follower; the voter that the other one follows; the controller; and a follower with a voter."""
    load = Load(topic, range(5))
    async with Reading(client, topic) as reading, load.running(client):
        await load.progress()
        controller = await controller_of(client)
        for victims in ((4,), (1 + controller % 3,), (controller,), (5, 1 + (controller + 1) % 3)):
            partition = await led_by(client, topic, victims[0])
            for victim in victims:
                five.kill(victim - 1)
            if len(victims) == 1:  # of two, a partition may have had two of its three replicas
                await load.progress(partition, timeout=FAIL_OVER_S)
                await load.progress()
            await five.aio.restart(*(victim - 1 for victim in victims))
            await healed(client)
            await load.progress()
    assert not load.failures
    await reading.reaches(load)
    await load.audit(five.bootstrap)


async def test_a_follower_that_is_paused_is_fenced_and_comes_back_with_the_metadata_of_meanwhile(
    five: LocalCluster, client: Client, topic: str
) -> None:
    """Voters restart meanwhile, so that none keeps the commands that it lacks: it gets the image whole."""
    load = Load(topic, range(5))
    async with load.running(client):
        await load.progress()
        partition = await led_by(client, topic, 4)
        five.pause(3)
        await load.progress(partition, timeout=FAIL_OVER_S)
        await becomes(client, 4, "fenced")
        await client.admin.create_topic(f"{topic}-m", partitions=3, replicas=1)
        for voter in range(3):
            await five.aio.restart(voter)
            await becomes(client, voter + 1, "running")
        five.resume(3)
        await becomes(client, 4, "running")
        async with millpond.connect(five.bootstrap.split(",")[3], timeout=30) as by_follower:
            async with asyncio.timeout(30):
                while f"{topic}-m" not in [each.name for each in await by_follower.admin.list_topics()]:
                    await asyncio.sleep(0.1)
        await client.admin.delete_topic(f"{topic}-m")
        await healed(client)
        await load.progress()
    assert not load.failures
    await load.audit(five.bootstrap)


async def test_whoever_is_followed_may_stand_still_and_the_followers_lead_on(
    five: LocalCluster, client: Client, topic: str
) -> None:
    """Each voter in turn, the controller among them: what the followers lead is not interrupted for long."""
    load = Load(topic, range(5))
    async with load.running(client):
        await load.progress()
        for voter in (1, 2, 3):
            epochs = {broker.id: broker.epoch for broker in await client.admin.brokers()}
            five.pause(voter - 1)
            await load.progress(timeout=FAIL_OVER_S)
            await becomes(client, voter, "fenced")
            await client.admin.create_topic(f"{topic}-{voter}", partitions=1, replicas=1)
            after = {broker.id: (broker.epoch, broker.state) for broker in await client.admin.brokers()}
            assert [after[key] for key in (4, 5)] == [(epochs[key], "running") for key in (4, 5)]
            five.resume(voter - 1)
            await healed(client)
            await client.admin.delete_topic(f"{topic}-{voter}")
    assert not load.failures
    assert follows(five, 3, "subscription_over") or follows(five, 4, "subscription_over")
    await load.audit(five.bootstrap)


async def test_a_cluster_of_voters_and_followers_survives_the_death_of_all_its_brokers(
    five: LocalCluster, client: Client, topic: str
) -> None:
    """Followers start without a voter to follow, and wait for one."""
    load = Load(topic, range(5))
    async with load.running(client):
        await load.progress()
        for broker in range(5):
            five.kill(broker)
        await five.aio.restart(4, 3, 2, 1, 0)
        await load.progress(timeout=60)
        await healed(client)
    await load.audit(five.bootstrap)
