"""Leaderships and seats that are given up once, however often and late that is said (rules 12, 15 and 40)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from millpond.wire.errors import InvalidUpdateVersion, OperationTimeout
from millpond_broker.core.commands import Command, GiveUpPartitions
from millpond_broker.core.follower import FollowerState
from tests.unit.runtime.brokers import Brokers, Node, brokers


class Unheard:
    """The first word of a broker that it gives up is applied, and its answer lost."""

    def __init__(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[GiveUpPartitions] = []
        self.is_over = asyncio.Event()
        self._propose = node.propose
        monkeypatch.setattr(node, "propose", self._say)

    async def _say(self, command: Command, timeout: float = 1.0) -> Any:
        if not isinstance(command, GiveUpPartitions):
            return await self._propose(command, timeout)
        self.said.append(command)
        if len(self.said) > 1:
            return await self._propose(command, timeout)
        await self._propose(command, timeout)
        await self.is_over.wait()
        raise OperationTimeout(what="giving up", timeout=timeout)

    async def ends(self, cluster: Brokers, node: Node) -> None:
        """The answer is missed: what was asked for is looked at again, and asked for or dropped."""
        wished = node.partitions._requests._given_up
        self.is_over.set()
        await cluster.until(lambda: bool(wished))
        await cluster.until(lambda: not wished)


async def test_a_seat_that_was_given_up_unheard_is_not_given_up_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rule 12: the replica is emptied and in sync again by the time that the answer is missed."""
    async with brokers() as cluster:
        await cluster.create()
        await cluster.send(b"kept")
        await cluster.settled()
        node = cluster.nodes[3]
        unheard = Unheard(node, monkeypatch)
        following = node.partition().following
        assert following is not None
        following.log_corrupt()
        await cluster.until(lambda: bool(unheard.said))
        await cluster.until(
            lambda: 3 not in cluster.state().isr or following.state is FollowerState.FOLLOWING
        )
        await cluster.settled()
        assert cluster.values(node) == [b"kept"]
        epoch = cluster.state().partition_epoch
        await unheard.ends(cluster, node)
        assert (len(unheard.said), cluster.state().partition_epoch) == (1, epoch)


async def test_a_leadership_that_was_given_up_unheard_does_not_cost_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rule 12: the only one in sync leads on in the next epoch, and that one is kept."""
    async with brokers() as cluster:
        await cluster.create(min_insync=1)
        await cluster.send(b"kept")
        await cluster.settled()
        node = cluster.leader()
        for other in cluster.nodes.values():
            if other is not node:
                await other.crash()
        epoch = cluster.state().leader_epoch
        unheard = Unheard(node, monkeypatch)
        node.partitions.give_up(node.partition(), leaves=False)
        await cluster.until(lambda: cluster.state().leader_epoch > epoch)
        await cluster.led()
        await unheard.ends(cluster, node)
        assert (len(unheard.said), cluster.state().leader_epoch) == (1, epoch + 1)
        assert await cluster.send(b"after") == 1


async def test_damage_that_is_found_later_gives_up_the_seat_of_then() -> None:
    """Rule 15: it is another seat, which was taken with another log."""
    async with brokers() as cluster:
        await cluster.create()
        await cluster.send(b"kept")
        node = cluster.nodes[3]
        for _ in range(2):
            await cluster.settled()
            before = cluster.state().partition_epoch
            following = node.partition().following
            assert following is not None
            following.log_corrupt()
            await cluster.until(lambda before=before: cluster.state().partition_epoch > before + 1)  # type: ignore[misc]  # bound now
        assert await cluster.settled() == 1


async def test_a_late_word_is_refused_by_its_name() -> None:
    """Rule 12: it names the partition epoch that it was decided on."""
    async with brokers() as cluster:
        await cluster.create()
        node = cluster.nodes[3]
        requests: list[GiveUpPartitions] = []
        propose = node.propose

        async def noting(command: Command, timeout: float = 1.0) -> object:
            if isinstance(command, GiveUpPartitions):
                requests.append(command)
            return await propose(command, timeout)

        node.propose = noting  # type: ignore[method-assign]  # to have what was said
        await cluster.settled()
        following = node.partition().following
        assert following is not None
        following.log_corrupt()
        await cluster.until(lambda: bool(requests))
        await cluster.settled()
        before = cluster.state()
        refused = cluster.propose(requests[0])
        assert isinstance(refused, tuple)
        assert [type(item.refused.error) for item in refused] == [InvalidUpdateVersion]
        assert cluster.state() is before
