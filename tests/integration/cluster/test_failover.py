"""Three real brokers, and what happens to them: what was acknowledged is there, once, in order."""

from __future__ import annotations

import asyncio

import pytest

from millpond.client import Client
from millpond.errors import DeliveryTimeout, MillpondError, NotEnoughReplicas, NotLeader, Outcome
from millpond.testing import LocalCluster
from tests.awake import Stalls, awake
from tests.integration.cluster.conftest import controller_of, healed, leaderships, led_by
from tests.integration.cluster.load import IN_FLIGHT_MAX, Load, Reading
from tests.integration.cluster.raw import RawProducer

STALL_S = 0.5
"""Of the machine: the last attempt may have got its answer after its time."""
FAIL_OVER_S = 20.0
"""Most that a test waits for the next acknowledgement after a kill; `make failover` measures it."""


async def test_whoever_is_killed_the_next_leader_goes_on_from_what_was_acknowledged(
    three: LocalCluster, client: Client, topic: str
) -> None:
    """A leader that is not the controller, then one that is, then a follower and nothing else."""
    load = Load(topic, range(3))
    async with Reading(client, topic) as reading, load.running(client):
        await load.progress()
        controller = await controller_of(client)
        leader = 1 + controller % 3
        for victim in (leader, controller):
            partition = await led_by(client, topic, victim)
            three.kill(victim - 1)
            await load.progress(partition, timeout=FAIL_OVER_S)
            await load.progress()
            await three.aio.restart(victim - 1)
            await healed(client)
        follower = 1 + await controller_of(client) % 3
        await client.admin.drain(follower)
        led = await leaderships(client, topic)
        three.kill(follower - 1)
        await load.progress(timeout=FAIL_OVER_S)
        assert await leaderships(client, topic) == led, "nobody had to be elected"
        await three.aio.restart(follower - 1)
        await healed(client)
    assert not load.failures
    await reading.reaches(load)
    await load.audit(three.bootstrap)


async def test_one_of_three_takes_nothing_and_goes_on_when_the_others_are_back(
    three: LocalCluster, client: Client, topic: str
) -> None:
    load = Load(topic, range(3))
    async with load.running(client), client.producer(delivery_timeout=6.0) as producer:
        await load.progress()
        left = 1 + await controller_of(client) % 3
        partition = await led_by(client, topic, left)
        others = [broker - 1 for broker in (1, 2, 3) if broker != left]
        await producer.send(topic, b"%d/-1" % partition, partition=partition)
        for other in others:
            three.kill(other)
        acknowledged = load.acknowledged
        in_flight = await producer.enqueue(topic, b"%d/-2" % partition, partition=partition)
        with pytest.raises(DeliveryTimeout):
            await in_flight
        stalls = Stalls()
        with pytest.raises(DeliveryTimeout) as refused:
            await producer.send(topic, b"%d/-3" % partition, partition=partition)
        if stalls.seconds < STALL_S:
            assert isinstance(refused.value.__cause__, NotEnoughReplicas | NotLeader)
            assert refused.value.outcome is Outcome.NOT_WRITTEN, "its lease is over"
        assert load.acknowledged - acknowledged <= 3 * IN_FLIGHT_MAX, "but for what was on its way"
        async with three.client() as fresh:
            assert topic in [each.name for each in await fresh.admin.list_topics()], "what is left can tell"
        await three.aio.restart(*others)
        await load.progress()
        await healed(client)
    assert not load.failures, "a minute is longer than that"
    await load.audit(three.bootstrap, strangers=[(partition, -1), (partition, -2)])


@pytest.mark.parametrize("controls", [False, True], ids=["leader", "leader-and-controller"])
async def test_a_leader_that_was_paused_acknowledges_nothing_that_its_successor_lacks(
    three: LocalCluster, client: Client, topic: str, *, controls: bool
) -> None:
    """Rule 39, for acks=all and for acks=leader: what reached it in its sleep is no longer its to take."""
    load = Load(topic, range(3))
    async with Reading(client, topic) as reading, load.running(client):
        await load.progress()
        controller = await controller_of(client)
        leader = controller if controls else 1 + controller % 3
        partition = await led_by(client, topic, leader)
        async with (
            RawProducer(client, topic, partition, acks="all") as everywhere,
            RawProducer(client, topic, partition, acks="leader") as alone,
        ):
            three.pause(leader - 1)
            try:
                await everywhere.send(b"%d/-1" % partition)
                await alone.send(b"%d/-2" % partition)
                took = await load.progress(partition)
                assert controls or took > 1.0, "a silent broker has its session"
                await load.progress()
            finally:
                three.resume(leader - 1)
            for raw in (everywhere, alone):
                answer = await raw.answer()
                assert isinstance(answer, MillpondError), f"acknowledged at {answer}"
                assert answer.retriable
        await load.progress()
        await healed(client)
    assert not load.failures
    await reading.reaches(load)
    await load.audit(three.bootstrap)


async def test_brokers_restart_one_after_another_and_no_send_fails(
    three: LocalCluster, client: Client, topic: str
) -> None:
    load = Load(topic, range(3), delivery_timeout=15.0)
    led: list[bool] = []

    async def watch() -> None:
        while True:
            partitions = client.connection.view.topics[topic].partitions
            led.append(all(partition.leader is not None for partition in partitions))
            await client.connection.changed()

    async with Reading(client, topic) as reading, load.running(client), asyncio.TaskGroup() as tasks:
        await load.progress()
        watching = tasks.create_task(watch())
        for broker in range(3):
            await three.aio.restart(broker)
            await load.progress()
            await healed(client, elect=False)
        watching.cancel()
    assert not load.failures
    assert len(led) > 3
    assert all(led), "leaders move before their broker stops"
    await reading.reaches(load)
    await load.audit(three.bootstrap)


async def test_all_are_killed_at_once_and_come_back_with_everything(
    three: LocalCluster, client: Client, topic: str
) -> None:
    load = Load(topic, range(3))
    async with load.running(client):
        await load.progress()
        for broker in range(3):
            three.kill(broker)
        await three.aio.restart(0, 1, 2)
        await load.progress()
        await healed(client)
    assert not load.failures
    await load.audit(three.bootstrap)


async def test_a_topic_is_deleted_while_one_of_its_brokers_is_down(
    three: LocalCluster, client: Client, topic: str
) -> None:
    """It finds out when it is back, and has nothing of it left; another topic of that name is another."""
    load = Load(topic, range(3))
    async with load.running(client):
        await load.progress()
    three.kill(2)
    gone = await client.admin.describe_topic(topic)
    await client.admin.delete_topic(topic)
    made = await client.admin.create_topic(topic, partitions=1, replicas=2)
    assert made.id != gone.id
    async with client.producer() as producer:
        assert (await producer.send(topic, b"0/0")).offset == 0
    await three.aio.restart(2)
    await client.admin.alter_topic(topic, partitions=3)
    await healed(client)
    kept = three.data_dir / "broker-3" / "data" / "partitions"
    began = awake()
    while any(gone.id.hex in entry.name for entry in kept.iterdir()):
        assert awake() - began < 30.0, "what nobody wants any more goes"
        await asyncio.sleep(0.05)
    async with client.consumer(topic, stop="end") as consumer:
        assert [record.value async for record in consumer] == [b"0/0"]


async def test_replicas_move_and_partitions_are_added_under_load(
    three: LocalCluster, client: Client, topic: str
) -> None:
    load = Load(topic, range(3))
    async with Reading(client, topic) as reading, load.running(client):
        await load.progress()
        moved = await client.admin.reassign(topic, {0: [2, 3], 1: [1]}, wait=True)
        assert [partition.replicas for partition in moved.partitions][:2] == [(2, 3), (1,)]
        await load.progress()
        await client.admin.alter_topic(topic, partitions=5)
        async with client.producer() as producer:
            for number in (3, 4):
                assert (await producer.send(topic, b"%d/0" % number, partition=number)).offset == 0
        moved = await client.admin.reassign(topic, {0: [3, 1, 2], 1: [1, 2, 3]}, wait=True)
        assert [partition.replicas for partition in moved.partitions][:2] == [(3, 1, 2), (1, 2, 3)]
        await load.progress()
        await healed(client)
    assert not load.failures
    await reading.reaches(load)
    await load.audit(three.bootstrap, strangers=[(3, 0), (4, 0)])
