"""Changes of topics side by side: what holds for one at a time holds for many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from millpond.v1 import admin_pb2, metadata_pb2
from tests.integration.broker.raw import RawClient, code_of, detail_of
from tests.integration.broker.serving import OPTIONS, Served, serving


@pytest_asyncio.fixture(loop_scope="session")
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path / "data", options=replace(OPTIONS, partitions_max=200)) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def client(served: Served) -> AsyncIterator[RawClient]:
    async with RawClient(served.address) as made:
        yield made


async def outcome(call: Any) -> str:
    """The code of a refusal, or "ok"."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        detail = detail_of(error)
        return "no name" if detail is None else code_of(detail)
    return "ok"


def alter(client: RawClient, name: str, partitions: int) -> Any:
    return client.call(
        "AdminService", "AlterTopic", admin_pb2.AlterTopicRequest(name=name, partitions=partitions)
    )


async def taken_in(client: RawClient) -> None:
    """What was sent before has reached the broker: calls of one connection begin in order."""
    for _ in range(2):
        await client.call("MetadataService", "Describe", metadata_pb2.DescribeRequest())


async def partitions_held(client: RawClient) -> int:
    found = await client.call("MetadataService", "Describe", metadata_pb2.DescribeRequest())
    return sum(len(topic.partitions) for topic in found.topics)


async def side_by_side(served: Served, client: RawClient, *calls: Any) -> list[str]:
    """The outcomes of calls that all begin before any of them may change the metadata."""
    served.disk.hold()
    began = []
    for call in calls:
        began.append(asyncio.ensure_future(outcome(call)))
        await taken_in(client)
    served.disk.release()
    return await asyncio.gather(*began)


async def test_creations_side_by_side_keep_to_the_bound_together(served: Served, client: RawClient) -> None:
    codes = await side_by_side(
        served, client, *(client.create_topic(f"topic-{number}", 150) for number in range(4))
    )
    assert sorted(codes) == ["INVALID_CONFIG"] * 3 + ["ok"]
    assert await partitions_held(client) == 150


async def test_topics_that_grow_side_by_side_keep_to_the_bound_together(
    served: Served, client: RawClient
) -> None:
    await client.create_topic("a", 20)
    await client.create_topic("b", 20)
    codes = await side_by_side(served, client, alter(client, "a", 150), alter(client, "b", 150))
    assert sorted(codes) == ["INVALID_CONFIG", "ok"]
    assert await partitions_held(client) == 170


async def test_two_who_ask_for_the_same_number_of_partitions_both_get_it(
    served: Served, client: RawClient
) -> None:
    await client.create_topic("a", 2)
    assert await side_by_side(served, client, alter(client, "a", 4), alter(client, "a", 4)) == ["ok", "ok"]
    assert await partitions_held(client) == 4


@pytest.mark.parametrize("first", ["alter", "delete"])
async def test_a_topic_that_is_deleted_while_it_is_altered_is_unknown_by_its_name(
    served: Served, client: RawClient, first: str
) -> None:
    """Both changes may be in one entry of the journal: the answer to the first finds the topic gone."""
    await client.create_topic("going")
    request = admin_pb2.AlterTopicRequest(name="going", set={"retention_ms": "1000"})
    told: list[str] = []

    async def altered() -> None:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.call("AdminService", "AlterTopic", request)
        detail = detail_of(refused.value)
        assert detail is not None
        told.extend((code_of(detail), detail.facts["topic"]))

    changes = [altered(), client.delete_topic("going")]
    if first == "delete":
        changes.reverse()
    codes = await side_by_side(served, client, client.create_topic("before"), *changes)
    assert codes == ["ok"] * 3
    assert told == ["UNKNOWN_TOPIC", "going"]


async def test_a_creation_that_is_repeated_is_told_of_the_topic(
    client: RawClient,
) -> None:
    """A client whose first attempt had no answer in time takes it as done."""
    assert await outcome(client.create_topic("twice", 150)) == "ok"
    assert await outcome(client.create_topic("twice", 150)) == "TOPIC_EXISTS"
    assert await outcome(client.create_topic("another", 150)) == "INVALID_CONFIG"
