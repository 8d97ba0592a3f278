"""Disks that hang (rule 40), and log starts that are adopted before that is said (rule 7)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import pytest

from millpond.wire.errors import NotLeader, OperationTimeout, Outcome
from millpond_broker.core.follower import FollowerState
from millpond_broker.runtime import stalls, topics
from millpond_broker.runtime.feed import Feed
from millpond_broker.runtime.topics import Topics
from tests.unit.runtime.brokers import TOPIC, Brokers, Node, brokers

T = TypeVar("T")


class Hanging:
    """Syncs that do not return before they are let go."""

    def __init__(self, node: Node) -> None:
        self.goes_on = asyncio.Event()
        node.partitions.syncer._disk = self

    async def run(self, call: Callable[[], T]) -> T:
        await self.goes_on.wait()
        return call()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What hangs is found out sooner than in five seconds."""
    monkeypatch.setattr(stalls, "FLUSH_STALL_SECONDS", 0.5)


async def test_a_follower_whose_disk_hangs_leaves_the_isr_and_returns_when_it_does_not() -> None:
    """Rules 40 and 10: nobody waits for it for the ten seconds of rule 9."""
    async with brokers() as cluster:
        await cluster.create()
        await cluster.settled()
        node = cluster.nodes[3]
        hanging = Hanging(node)
        async with asyncio.timeout(10.0):
            assert await cluster.send(b"without it") == 0
        assert cluster.state().isr == (1, 2)
        assert await cluster.send(b"nor this one") == 1
        assert cluster.state().isr == (1, 2), "it has not come back"
        hanging.goes_on.set()
        assert await cluster.settled() == 2
        assert cluster.values(node) == [b"without it", b"nor this one"]


async def test_two_of_three_whose_disks_hang_leave_too_few_and_that_is_said() -> None:
    """Rules 8 and 40."""
    async with brokers() as cluster:
        await cluster.create()
        await cluster.settled()
        hanging = [Hanging(cluster.nodes[key]) for key in (2, 3)]
        with pytest.raises(Exception, match="in sync") as told:
            await cluster.send(b"with nobody")
        assert getattr(told.value, "outcome", None) is Outcome.UNKNOWN
        assert cluster.state().isr == (1,)
        for disk in hanging:
            disk.goes_on.set()
        assert await cluster.settled() == 1


async def test_a_leader_whose_disk_hangs_does_not_lead_again_before_it_works() -> None:
    """Rule 40: it is preferred, and has everything of a partition that nobody writes to."""
    async with brokers() as cluster:
        await cluster.create()
        await cluster.send(b"first")
        await cluster.settled()
        node = cluster.leader()
        hanging = Hanging(node)
        waiting = asyncio.ensure_future(cluster.send(b"in its log"))
        await cluster.until(lambda: cluster.state().leader != node.broker_id)
        with pytest.raises(NotLeader) as told:
            await waiting
        assert told.value.outcome is Outcome.UNKNOWN
        await cluster.led()
        assert await cluster.send(b"second") in (1, 2)
        await cluster.until(
            lambda: (following := node.partition().following) is not None and following.session > 0
        )
        for _ in range(3):
            node.partitions._stalls.tick()
            await asyncio.sleep(0.05)
            assert node.broker_id not in cluster.state().isr
        hanging.goes_on.set()
        end = await cluster.settled()
        assert all(cluster.values(each) == cluster.values(node) for each in cluster.nodes.values())
        assert end == len(cluster.values(node))


async def test_a_follower_that_meets_a_new_leader_while_its_disk_hangs_leaves_its_isr_too() -> None:
    """Rule 40: the new one counts on whoever is in the ISR, and would wait for ten seconds."""
    async with brokers() as cluster:
        await cluster.create()
        await cluster.settled()
        node, first = cluster.nodes[3], cluster.leader()
        # The first leader does not hear what it says: it is still in the ISR when the next one is elected.
        node.hold_streams()
        hanging = Hanging(node)
        node.partitions.syncer._began = node.partitions._clock.monotonic() - 1.0
        node.partitions._stalls.tick()
        following = node.partition().following
        assert following is not None
        assert following.state is FollowerState.IDLE
        assert 3 in cluster.state().isr
        await first.crash()
        await cluster.led()
        node.partitions.syncer._began = node.partitions._clock.monotonic() - 1.0
        await cluster.until(lambda: 3 not in cluster.state().isr, 3.0)
        hanging.goes_on.set()
        node.partitions.syncer._began = None
        await cluster.until(lambda: 3 in cluster.state().isr)


async def trimming(cluster: Brokers, node: Node) -> Topics:
    return Topics(
        node,
        node.partitions,
        Feed(cluster.image),
        new_id=lambda: b"",
        record_bytes_max=1 << 20,
        partitions_max=10,
    )


async def test_what_was_deleted_does_not_come_back_with_the_next_leader() -> None:
    """Rule 7: it is answered once all in sync begin there."""
    async with brokers() as cluster:
        await cluster.create()
        for number in range(10):
            await cluster.send(b"%d" % number)
        await cluster.settled()
        admin = await trimming(cluster, cluster.leader())
        assert await admin.trim(TOPIC, {0: 7}) == {0: 7}
        assert [node.log().log_start for node in cluster.nodes.values()] == [7, 7, 7]
        await cluster.leader().crash()
        await cluster.led()
        assert cluster.values(cluster.leader()) == [b"7", b"8", b"9"]


async def test_who_does_not_say_that_it_begins_later_is_waited_for_within_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rule 7: and then it is told that nothing is known of it."""
    monkeypatch.setattr(topics, "TRIM_SECONDS_MAX", 0.2)
    async with brokers() as cluster:
        await cluster.create()
        await cluster.send(b"0")
        await cluster.settled()
        cluster.nodes[3].hold_streams()
        admin = await trimming(cluster, cluster.leader())
        with pytest.raises(OperationTimeout):
            await admin.trim(TOPIC, {0: 1})
        leader = cluster.leader().partition().leader
        assert leader is not None
        assert not leader._for_log_start, "who gave up is forgotten"
        cluster.nodes[3].close_streams()
        await cluster.until(lambda: cluster.nodes[3].log().log_start == 1)
        assert await admin.trim(TOPIC, {0: 1}) == {0: 1}


async def test_a_leadership_that_ends_answers_who_waits_for_a_log_start() -> None:
    """Rule 8's manner: nothing is known of it."""
    async with brokers() as cluster:
        await cluster.create()
        await cluster.send(b"0")
        await cluster.settled()
        cluster.nodes[3].hold_streams()
        node = cluster.leader()
        admin = await trimming(cluster, node)
        asked = asyncio.ensure_future(admin.trim(TOPIC, {0: 1}))
        await cluster.until(lambda: node.log().log_start == 1)
        node.partitions.give_up(node.partition(), leaves=False)
        with pytest.raises(NotLeader):
            await asked
