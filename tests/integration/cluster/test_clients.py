"""Clients of a cluster whose brokers are away, move, or are all down: they wait, and find them again."""

from __future__ import annotations

import asyncio
import re
import socket

import pytest

import millpond
from millpond._local.ports import free_ports
from millpond.client import Client
from millpond.testing import LocalCluster
from tests.awake import awake
from tests.integration.cluster.conftest import healed, led_by
from tests.integration.cluster.load import Load, Reading

DOWN_S = 12.0
"""The whole cluster: longer than any pause between a client's attempts, and than a call may take."""


def move_clients_port(cluster: LocalCluster, broker: int) -> str:
    """Where a broker, counted from 0, serves clients from its next start on."""
    path = cluster.data_dir / f"broker-{broker + 1}" / "broker.toml"
    address = f"127.0.0.1:{free_ports(1)[0]}"
    text, changed = re.subn(r'(?m)^"listen" = .*$', f'"listen" = "{address}"', path.read_text(), count=1)
    assert changed, "of the section [broker], which comes first"
    path.write_text(text)
    return address


@pytest.mark.parametrize("broker", range(3))
async def test_any_broker_alone_is_bootstrap_enough_to_write_and_read_everything(
    three: LocalCluster, topic: str, broker: int
) -> None:
    bootstrap = three.bootstrap.split(",")[broker]
    load = Load(topic, range(3))
    async with millpond.connect(bootstrap, timeout=30.0) as client, load.running(client):
        await load.progress()
    assert not load.failures
    await load.audit(bootstrap)


async def test_addresses_that_are_down_or_hang_at_the_start_cost_some_seconds_at_most(
    three: LocalCluster, topic: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hangs:  # it accepts, and never says a word
        down, silent = f"127.0.0.1:{free_ports(1)[0]}", f"127.0.0.1:{hangs.getsockname()[1]}"
        began = awake()
        async with millpond.connect(f"{down},{silent},{three.bootstrap}", timeout=30.0) as client:
            assert awake() - began < 20.0
            assert topic in {each.name for each in await client.admin.list_topics()}
            async with client.producer() as producer:
                await producer.send(topic, b"x", partition=0)


async def test_a_broker_that_returns_on_another_port_is_found_there(
    three: LocalCluster, client: Client, topic: str
) -> None:
    """By a client that has been there all along, and that was never told."""
    partition = await led_by(client, topic, 2)
    load = Load(topic, range(3))
    reading = Reading(client, topic)
    async with reading, load.running(client):
        await load.progress()
        before = three.bootstrap.split(",")[1]
        three.kill(1)
        address = move_clients_port(three, 1)
        await three.aio.restart(1)
        await healed(client)
        assert await led_by(client, topic, 2) == partition
        await load.progress(partition)
        assert [each.address for each in await client.admin.brokers()] == three.bootstrap.split(",")
        assert three.bootstrap.split(",")[1] == address != before
    assert not load.failures
    await reading.reaches(load)
    await load.audit(three.bootstrap)


async def test_what_was_sent_while_the_whole_cluster_was_down_arrives_once_and_in_order(
    three: LocalCluster, client: Client, topic: str
) -> None:
    """And is read on: a consumer waits for longer than its client would for a call, and one that was told to
    wait for less says what is the matter, and goes on all the same.
    """
    load = Load(topic, range(3), delivery_timeout=120.0)
    async with three.client(timeout=DOWN_S / 2) as other:
        reading, impatient = Reading(other, topic), Reading(other, topic, trouble_timeout=DOWN_S / 4)
        async with reading, impatient, load.running(client):
            await load.progress()
            for broker in range(3):
                three.kill(broker)
            await asyncio.sleep(DOWN_S)  # it is the length that is tested
            told = list(impatient.troubles)
            await three.aio.restart(0, 1, 2)
            back_after = await load.progress()
            await healed(client)
        await reading.reaches(load)
        await impatient.reaches(load)
    assert back_after < 2 * DOWN_S, "nobody has fallen asleep over it"
    assert not load.failures, "within delivery_timeout none fails"
    assert load.longest_wait > DOWN_S
    assert told, "it was told while nobody was there"
    assert len(told) < 2 * DOWN_S / (DOWN_S / 4), "not for each partition, and not at each look"
    assert f"the leader of {topic}-" in str(told[0])
    await load.audit(three.bootstrap)
