"""Leaders and followers with real logs: what is acknowledged is on all of them, and stays."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from millpond.wire.errors import BrokerNotReady, MillpondError, NotEnoughReplicas, NotLeader, Outcome
from millpond_broker.core.commands import (
    FenceBroker,
    FinishReassignments,
    PartitionSeen,
    Reassignment,
    ReassignPartitions,
    UnfenceBroker,
)
from millpond_broker.core.leader import Acks
from tests.unit.runtime.brokers import TOPIC, Brokers, Node, brokers


def follower_of(cluster: Brokers) -> Node:
    """One that does not lead."""
    return next(node for node in cluster.nodes.values() if node is not cluster.leader())


async def test_what_is_acknowledged_is_durable_everywhere() -> None:
    """Rules 6 and 7."""
    async with brokers() as cluster:
        await cluster.create()
        assert [await cluster.send(b"v%d" % i) for i in range(5)] == [0, 1, 2, 3, 4]
        assert await cluster.settled() == 5
        assert all(cluster.values(node) == [b"v%d" % i for i in range(5)] for node in cluster.nodes.values())


async def test_a_crashed_leader_is_followed_by_one_that_has_everything() -> None:
    async with brokers() as cluster:
        await cluster.create()
        for i in range(3):
            await cluster.send(b"v%d" % i)
        first = cluster.leader()
        await first.crash()
        await cluster.led()
        assert cluster.leader() is not first
        assert await cluster.send(b"after") == 3
        await first.up()
        assert await cluster.settled() == 4


async def test_a_tail_that_nobody_else_has_is_cut_when_its_writer_returns() -> None:
    """Rules 3 to 5: by epochs, with other records at the same offsets meanwhile."""
    async with brokers() as cluster:
        await cluster.create()
        await cluster.send(b"kept")
        first = cluster.leader()
        first.hold_streams()
        lost = [asyncio.ensure_future(cluster.send(b"lost")) for _ in range(3)]
        await cluster.until(lambda: first.log().durable_end == 4)
        await first.crash()
        await cluster.led()
        await cluster.send(b"other")
        await first.up()
        assert await cluster.settled() == 2
        assert all(cluster.values(node) == [b"kept", b"other"] for node in cluster.nodes.values())
        for send in lost:
            send.cancel()
        await asyncio.gather(*lost, return_exceptions=True)


async def test_who_waited_in_an_epoch_that_ended_is_told_that_nothing_is_known() -> None:
    """Rule 8."""
    async with brokers() as cluster:
        await cluster.create()
        first = cluster.leader()
        first.hold_streams()
        sending = asyncio.ensure_future(cluster.send(b"who knows"))
        await cluster.until(lambda: first.log().durable_end == 1)
        cluster.propose(FenceBroker(first.broker_id, first.epoch))
        with pytest.raises(NotLeader) as caught:
            await sending
        assert caught.value.outcome is Outcome.UNKNOWN


async def test_who_follows_refuses_what_leaders_do() -> None:
    async with brokers() as cluster:
        await cluster.create()
        with pytest.raises(NotLeader) as caught:
            follower_of(cluster).partition().read(0, 100)
        assert caught.value.leader == cluster.leader().broker_id


async def test_too_few_in_sync_refuse_before_the_append() -> None:
    """Rule 8."""
    async with brokers() as cluster:
        await cluster.create()
        await cluster.send(b"kept")
        for node in [node for node in cluster.nodes.values() if node is not cluster.leader()]:
            await node.crash()
        with pytest.raises(NotEnoughReplicas):
            await cluster.send(b"refused")
        assert cluster.leader().log().log_end == 1


async def test_without_its_lease_a_leader_answers_nothing_that_another_could_contradict() -> None:
    """Rule 39: acks=leader and offsets need it; acks=all only who is there."""
    async with brokers() as cluster:
        await cluster.create()
        leader = cluster.leader()
        await cluster.send(b"both are there")
        leader.has_lease = False
        assert await cluster.send(b"all") == 1
        with pytest.raises(NotLeader) as caught:
            await cluster.send(b"leader", Acks.LEADER)
        assert caught.value.outcome is Outcome.UNKNOWN
        with pytest.raises(BrokerNotReady):
            leader.partition().offsets(None)
        await cluster.settled()
        for node in cluster.nodes.values():
            if node is not leader:
                node.close_streams()
                cluster.cut.add(node.broker_id)
        await cluster.until(lambda: not leader.ends)
        with pytest.raises(NotEnoughReplicas):
            await cluster.send(b"nobody there")


async def test_a_replica_that_starts_from_nothing_gets_everything() -> None:
    async with brokers() as cluster:
        await cluster.create()
        for i in range(200):
            await cluster.send(b"%d" % i * 1000)
        await cluster.settled()
        node = follower_of(cluster)
        await node.crash()
        node.lose_disk()
        await cluster.send(b"meanwhile")
        await node.up()
        assert await cluster.settled() == 201


async def test_a_follower_adopts_the_log_start_of_its_leader() -> None:
    """Rule 7; and rule 4 for one that was away when it moved past all that it has."""
    async with brokers() as cluster:
        await cluster.create()
        for i in range(10):
            await cluster.send(b"%d" % i)
        await cluster.settled()
        away = follower_of(cluster)
        await away.crash()
        for i in range(10):
            await cluster.send(b"%d" % i)
        cluster.leader().partition().trim(15)
        there = next(node for node in cluster.nodes.values() if node not in (away, cluster.leader()))
        await cluster.until(lambda: there.log().log_start == 15)
        await away.up()
        assert await cluster.settled() == 20
        assert away.log().log_start == 15


async def test_a_log_start_within_a_batch_is_where_nobody_begins() -> None:
    """Rules 4 and 37: a replica that starts from nothing begins with the batch, and adopts the log start."""
    async with brokers() as cluster:
        await cluster.create()
        await cluster.send_all([b"%d" % i for i in range(10)])
        await cluster.settled()
        node = follower_of(cluster)
        await node.crash()
        node.lose_disk()
        cluster.leader().partition().trim(5)
        await node.up()
        assert await cluster.settled() == 10
        await cluster.until(lambda: node.log().log_start == 5)


async def test_a_failed_sync_of_a_follower_costs_what_was_in_doubt_and_no_more() -> None:
    """Rule 40."""
    async with brokers() as cluster:
        await cluster.create()
        await cluster.send(b"before")
        node = follower_of(cluster)
        node.files.fail_next_sync(node.segment())
        assert await cluster.send(b"through it") == 1
        assert await cluster.settled() == 2
        assert cluster.values(node) == [b"before", b"through it"]


async def test_a_leader_whose_sync_fails_resigns_and_comes_back_as_a_follower() -> None:
    """Rules 12 and 40: it is cut in an epoch that it does not lead."""
    async with brokers() as cluster:
        await cluster.create()
        await cluster.send(b"before")
        first, epoch = cluster.leader(), cluster.state().leader_epoch
        first.files.fail_next_sync(first.segment())
        with pytest.raises(MillpondError):
            await cluster.send(b"in doubt")
        await cluster.until(lambda: cluster.state().leader_epoch > epoch)
        await cluster.led()
        assert cluster.leader() is not first
        await cluster.send(b"after")
        end = await cluster.settled()
        values = cluster.values(cluster.leader())
        assert len(values) == end
        assert [value for value in values if value != b"in doubt"] == [b"before", b"after"]
        assert all(cluster.values(node) == values for node in cluster.nodes.values())


@pytest.mark.parametrize("leads", [True, False])
async def test_a_flipped_bit_is_repaired_from_another_replica(*, leads: bool) -> None:
    """Rule 15: report, leave ISR and ELR, only then empty, and start over."""
    async with brokers() as cluster:
        await cluster.create()
        for i in range(20):
            await cluster.send(b"%d" % i * 100)
        await cluster.settled()
        node = cluster.leader() if leads else follower_of(cluster)
        await node.crash()
        node.files.flip_bit(node.segment(), 8 * 1000)
        await node.up()
        await cluster.led()
        assert await cluster.send(b"after") == 20
        assert await cluster.settled() == 21
        assert node.log().corruption is None
        assert cluster.values(node) == [b"%d" % i * 100 for i in range(20)] + [b"after"]


@pytest.mark.parametrize("stops", ["cleanly", "by a crash"])
async def test_a_start_that_did_not_get_to_tell_what_it_cut_forgets_nothing(stops: str) -> None:
    """Rule 15: the next one tells it, and is not taken for one that has everything."""
    async with brokers() as cluster:
        await cluster.create()
        for i in range(5):
            await cluster.send(b"%d" % i)
        await cluster.settled()
        for broker_id in (3, 2, 1):
            await cluster.nodes[broker_id].crash()
        node = cluster.nodes[1]
        node.tear(20)
        assert await node.only_recover(stops_cleanly=stops == "cleanly") == 4
        await node.up()
        assert [cut.end for cut in node.recovered.cuts] == [4]
        assert cluster.state().leader is None, "it waits for those that cut nothing"
        for broker_id in (2, 3):
            await cluster.nodes[broker_id].up()
        assert await cluster.settled() == 5
        assert not node.log().recovery.may_have_lost or not node.log()._checkpoint.current.has_lost


async def test_a_damaged_batch_that_a_leader_finds_when_it_is_read_moves_the_leadership() -> None:
    """Rule 15, found while running."""
    async with brokers() as cluster:
        await cluster.create()
        for i in range(20):
            await cluster.send(b"%d" % i * 100)
        await cluster.settled()
        first = cluster.leader()
        first.files.flip_bit(first.segment(), 8 * 1000)
        offset = 0
        while first.log().corruption is None:
            with suppress(MillpondError):
                first.partition().read(offset, 10)
            offset += 1
        await cluster.until(lambda: cluster.state().leader != first.broker_id)
        await cluster.led()
        assert await cluster.send(b"after") == 20
        assert await cluster.settled() == 21
        assert first.log().corruption is None


async def test_a_full_disk_of_a_follower_is_waited_for_and_heals() -> None:
    """Rule 40."""
    async with brokers() as cluster:
        await cluster.create()
        await cluster.send(b"before")
        node = follower_of(cluster)
        node.files.capacity_bytes = node.used_bytes() + 100
        sending = asyncio.ensure_future(cluster.send(b"x" * 5000))
        await cluster.until(lambda: cluster.leader().log().log_end == 2)
        assert not sending.done()
        node.files.capacity_bytes = None
        assert await sending == 1
        await cluster.settled()


async def test_flush_interval_counts_what_was_appended() -> None:
    """PROTOCOL, "Words"."""
    async with brokers() as cluster:
        await cluster.create(flush="interval")
        assert [await cluster.send(b"v%d" % i) for i in range(5)] == [0, 1, 2, 3, 4]
        await cluster.leader().crash()
        await cluster.led()
        assert await cluster.send(b"after") == 5


async def test_a_partition_moves_to_other_brokers() -> None:
    async with brokers() as cluster:
        await cluster.create()
        for i in range(5):
            await cluster.send(b"%d" % i)
        await cluster.settled()
        cluster.propose(
            ReassignPartitions((Reassignment(TOPIC, 0, (2, 3), cluster.state().partition_epoch),))
        )
        seen = PartitionSeen(TOPIC, 0, cluster.state().partition_epoch)
        cluster.propose(FinishReassignments((seen,)))
        assert cluster.state().replicas == (2, 3)
        await cluster.led()
        assert await cluster.send(b"after") == 5
        await cluster.until(lambda: not len(cluster.nodes[1].partitions))
        assert not cluster.nodes[1].files.exists(cluster.nodes[1].segment())


async def test_a_broker_that_was_fenced_by_mistake_returns() -> None:
    """Epochs make a false alarm harmless (rule 39)."""
    async with brokers() as cluster:
        await cluster.create()
        await cluster.send(b"before")
        first = cluster.leader()
        cluster.propose(FenceBroker(first.broker_id, first.epoch))
        await cluster.led()
        assert await cluster.send(b"meanwhile") == 1
        cluster.propose(UnfenceBroker(first.broker_id, first.epoch))
        assert await cluster.settled() == 2


async def test_an_unclean_stop_of_all_at_once_loses_nothing_acknowledged() -> None:
    async with brokers() as cluster:
        await cluster.create()
        sends = [asyncio.ensure_future(cluster.send(b"%d" % i)) for i in range(50)]
        await cluster.until(lambda: any(send.done() for send in sends))
        acknowledged = {send.result(): b"%d" % i for i, send in enumerate(sends) if send.done()}
        for node in cluster.nodes.values():
            await node.crash()
        for send in sends:
            send.cancel()
        await asyncio.gather(*sends, return_exceptions=True)
        for node in cluster.nodes.values():
            await node.up()
        await cluster.until(lambda: cluster.state().leader is not None)
        await cluster.until(lambda: len(cluster.state().isr) == 3)
        await cluster.send(b"after")
        await cluster.settled()
        values = cluster.values(cluster.leader())
        assert {offset: values[offset] for offset in acknowledged} == acknowledged
