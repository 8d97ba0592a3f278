"""`client.admin` against a real broker."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
import pytest_asyncio

from millpond.client import Client
from millpond.errors import (
    InvalidConfig,
    InvalidRequest,
    InvalidTopicName,
    NotEnoughBrokers,
    OffsetOutOfRange,
    TopicExists,
    UnknownPartition,
    UnknownTopic,
)
from millpond.testing import LocalCluster
from tests.integration.client.writing import KEPT, NOW_MS, write


@pytest_asyncio.fixture
async def client(millpond_cluster: LocalCluster) -> AsyncIterator[Client]:
    async with millpond_cluster.client(timeout=20.0) as made:
        yield made


async def test_a_topic_is_created_with_numbers_resolved_and_usable_at_once(
    client: Client, millpond_topic: str
) -> None:
    made = await client.admin.create_topic(millpond_topic, partitions=2, config={"retention_ms": 60_000})
    assert (made.name, made.replicas, made.min_insync) == (millpond_topic, 1, 1)
    assert made.config["retention_ms"] == "60000"
    assert isinstance(made.id, uuid.UUID)
    assert client.connection.view.topics[millpond_topic].topic_id == made.id.bytes
    assert await write(client, millpond_topic, [b"a"], partition=1) == [0]


async def test_a_description_is_what_the_command_line_prints(client: Client, millpond_topic: str) -> None:
    made = await client.admin.create_topic(millpond_topic, partitions=1)
    await write(client, millpond_topic, [b"a", b"b"])
    described = json.loads(json.dumps((await client.admin.describe_topic(millpond_topic)).as_dict()))
    assert described["partitions"] == [
        {
            "partition": 0,
            "leader": 1,
            "leader_epoch": described["partitions"][0]["leader_epoch"],
            "replicas": [1],
            "isr": [1],
            "elr": [],
            "log_start": 0,
            "high_watermark": 2,
            "log_end": 2,
        }
    ]
    assert (described["name"], described["id"]) == (millpond_topic, str(made.id))
    assert described["config"]["flush"] == "commit"


async def test_topics_are_listed_by_name_without_internal_ones(client: Client, millpond_topic: str) -> None:
    for name in (f"{millpond_topic}-b", f"{millpond_topic}-a"):
        await client.admin.create_topic(name, partitions=1)
    listed = [topic.name for topic in await client.admin.list_topics()]
    assert [name for name in listed if name.startswith(millpond_topic)] == [
        f"{millpond_topic}-a",
        f"{millpond_topic}-b",
    ]
    assert not [name for name in listed if name.startswith("__")]


async def test_a_topic_that_exists_is_an_error_unless_that_is_fine(
    client: Client, millpond_topic: str
) -> None:
    first = await client.admin.create_topic(millpond_topic, partitions=1)
    with pytest.raises(TopicExists) as caught:
        await client.admin.create_topic(millpond_topic, partitions=1)
    assert caught.value.topic == millpond_topic
    again = await client.admin.create_topic(millpond_topic, partitions=5, exist_ok=True)
    assert again.id == first.id
    assert len(again.partitions) == 1


async def test_what_cannot_be_created_is_said_by_name(client: Client, millpond_topic: str) -> None:
    with pytest.raises(InvalidTopicName):
        await client.admin.create_topic("no spaces")
    with pytest.raises(InvalidTopicName):
        await client.admin.create_topic("__mine")
    with pytest.raises(NotEnoughBrokers) as brokers:
        await client.admin.create_topic(millpond_topic, replicas=7)
    assert (brokers.value.replicas, brokers.value.brokers) == (7, 1)
    with pytest.raises(InvalidConfig) as config:
        await client.admin.create_topic(millpond_topic, config={"retention": 1})
    assert config.value.key == "retention"
    with pytest.raises((InvalidRequest, InvalidConfig)):
        await client.admin.create_topic(millpond_topic, partitions=0)


async def test_a_topic_is_altered(client: Client, millpond_topic: str) -> None:
    await client.admin.create_topic(millpond_topic, partitions=1, config={"segment_ms": 50_000})
    altered = await client.admin.alter_topic(
        millpond_topic, partitions=3, config={"retention_ms": 77_000}, unset=["segment_ms"]
    )
    assert len(altered.partitions) == 3
    assert altered.config["retention_ms"] == "77000"
    assert altered.config["segment_ms"] != "50000"
    assert len(client.connection.view.topics[millpond_topic].partitions) == 3
    with pytest.raises((InvalidRequest, InvalidConfig)):
        await client.admin.alter_topic(millpond_topic, partitions=2)
    with pytest.raises(UnknownTopic):
        await client.admin.alter_topic("nothing-here", partitions=2)
    with pytest.raises(TypeError, match="unset="):
        await client.admin.alter_topic(millpond_topic, unset="segment_ms")


async def test_a_deleted_topic_is_gone_and_may_be_made_again(client: Client, millpond_topic: str) -> None:
    first = await client.admin.create_topic(millpond_topic, partitions=1)
    await write(client, millpond_topic, [b"old"])
    await client.admin.delete_topic(millpond_topic)
    for call in (client.admin.describe_topic, client.admin.delete_topic, client.admin.list_offsets):
        with pytest.raises(UnknownTopic) as caught:
            await call(millpond_topic)
        assert caught.value.topic == millpond_topic
    second = await client.admin.create_topic(millpond_topic, partitions=1)
    assert second.id != first.id
    assert await client.admin.list_offsets(millpond_topic, at="end") == {(millpond_topic, 0): 0}


async def test_offsets_of_both_ends_and_of_times(client: Client, millpond_topic: str) -> None:
    await client.admin.create_topic(millpond_topic, partitions=2, config=KEPT)
    await write(client, millpond_topic, [b"a", b"b"], [b"c"], timestamps=1_700_000_000_000)
    await write(client, millpond_topic, [b"d"], timestamps=1_700_000_005_000)
    first, second = (millpond_topic, 0), (millpond_topic, 1)
    admin = client.admin
    assert await admin.list_offsets(millpond_topic) == {first: 0, second: 0}
    assert await admin.list_offsets(millpond_topic, at="end") == {first: 4, second: 0}
    assert await admin.list_offsets(millpond_topic, at=1_700_000_000_001, partitions=[0]) == {first: 3}
    at = datetime.fromtimestamp(1_700_000_000, tz=UTC)
    assert await admin.list_offsets(millpond_topic, at=at, partitions=[0]) == {first: 0}
    assert await admin.list_offsets(millpond_topic, at=1_800_000_000_000) == {first: 4, second: 0}
    with pytest.raises(UnknownPartition) as caught:
        await admin.list_offsets(millpond_topic, partitions=[2])
    assert caught.value.partitions == 2
    with pytest.raises(ValueError, match="neither"):
        await admin.list_offsets(millpond_topic, at="middle")  # type: ignore[arg-type]  # what is refused


async def test_a_topic_is_trimmed_to_an_offset_a_time_or_the_end(client: Client, millpond_topic: str) -> None:
    await client.admin.create_topic(millpond_topic, partitions=2)
    for partition in (0, 1):
        for number in range(4):
            await write(client, millpond_topic, [b"v"], partition=partition, timestamps=NOW_MS + number)
    trim = client.admin.trim_topic
    assert await trim(millpond_topic, before=1, partition=0) == {0: 1}
    third = datetime.fromtimestamp((NOW_MS + 2) / 1000, tz=UTC)
    assert await trim(millpond_topic, before=third) == {0: 2, 1: 2}
    assert await trim(millpond_topic, before=1) == {0: 2, 1: 2}, "what is gone stays gone"
    with pytest.raises(OffsetOutOfRange):
        await trim(millpond_topic, before=5)
    assert await trim(millpond_topic, before="end") == {0: 4, 1: 4}
    described = await client.admin.describe_topic(millpond_topic)
    assert [(each.log_start, each.high_watermark) for each in described.partitions] == [(4, 4), (4, 4)]


async def test_brokers_are_described(client: Client, millpond_cluster: LocalCluster) -> None:
    (broker,) = await client.admin.brokers()
    described = broker.as_dict()
    assert list(described) == ["id", "address", "rack", "state", "controller", "epoch", "version"]
    assert broker.address == millpond_cluster.bootstrap
    assert (broker.id, broker.state, broker.controller) == (1, "running", True)
