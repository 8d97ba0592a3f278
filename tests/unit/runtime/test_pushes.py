"""What travels between a leader and its followers, and how few messages that takes (rules 7, 37 and 38)."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from millpond_broker.runtime import stream_to_follower, stream_to_leader
from millpond_broker.runtime.replication_messages import Acknowledged, Pushed, Taken
from millpond_broker.storage.log import Log
from tests.unit.runtime.brokers import Brokers, End, brokers


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Everything that is sent on any stream."""
    messages: list[Any] = []
    send = End.send

    def noting(end: End, message: Any) -> None:
        messages.append(message)
        send(end, message)

    monkeypatch.setattr(End, "send", noting)
    return messages


async def written_to(cluster: Brokers, said: list[Any], records: int) -> None:
    """One record after another, each acknowledged by all."""
    await cluster.create()
    await cluster.settled()
    said.clear()
    for number in range(records):
        await cluster.send(b"%d" % number)


async def test_a_partition_that_is_written_to_tells_its_high_watermark_with_the_next_batch(
    said: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 7: a follower's only lags. Rule 38: credit travels with what is said anyway."""
    monkeypatch.setattr(stream_to_follower, "TELL_SECONDS", 60.0)
    monkeypatch.setattr(stream_to_leader, "TAKEN_SECONDS_MAX", 60.0)
    async with brokers() as cluster:
        await written_to(cluster, said, 10)
        leader = cluster.leader()
        for node in cluster.nodes.values():
            assert node.partition().high_watermark >= (10 if node is leader else 9)
        sent = Counter(type(message) for message in said)
        assert all(message.data for message in said if isinstance(message, Pushed))
        assert sent[Pushed] == 2 * 10
        assert sent[Taken] <= sent[Acknowledged] <= 2 * 10


async def test_followers_of_a_partition_at_rest_are_told_its_high_watermark_once(said: list[Any]) -> None:
    """Rule 7: within a hundredth of a second, and with no batch."""
    async with brokers() as cluster:
        await written_to(cluster, said, 1)
        assert await cluster.settled() == 1
        bare = [message for message in said if isinstance(message, Pushed) and not message.data]
        assert sorted(message.push.high_watermark for message in bare) == [1, 1]


async def test_credit_comes_back_though_nothing_else_is_said(said: list[Any]) -> None:
    """Rule 38: for every push, dropped ones too: a follower whose disk is full acknowledges nothing."""
    async with brokers() as cluster:
        await cluster.create()
        await cluster.settled()
        node = cluster.nodes[3]
        node.files.capacity_bytes = node.used_bytes()
        said.clear()
        task = asyncio.ensure_future(cluster.send(b"x" * 10_000))
        await cluster.until(lambda: any(isinstance(message, Taken) for message in said))
        node.files.capacity_bytes = None
        await task
        assert await cluster.settled() == 1


async def test_what_all_followers_lack_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    read_framed = Log.read_framed

    def counting(log: Log, offset: int, bytes_max: int, end: int) -> tuple[bytes, int]:
        reads.append(offset)
        return read_framed(log, offset, bytes_max, end)

    monkeypatch.setattr(Log, "read_framed", counting)
    async with brokers() as cluster:
        await cluster.create()
        await cluster.settled()
        for number in range(5):
            await cluster.send(b"%d" % number)
        assert await cluster.settled() == 5
        assert reads == [0, 1, 2, 3, 4]
        assert all(cluster.values(node) == [b"%d" % i for i in range(5)] for node in cluster.nodes.values())
