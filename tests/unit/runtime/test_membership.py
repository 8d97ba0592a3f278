"""Brokers in their cluster: unfenced, leased, found dead, replaced, stopped (rules 12 and 39)."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from millpond_broker.consensus.metadata_log import MetadataLogFailed, NotApplied
from millpond_broker.core.commands import (
    AlterPartitions,
    CreateTopic,
    Envelope,
    InSyncChange,
    InSyncMember,
    Voter,
)
from millpond_broker.core.image import BrokerState
from millpond_broker.core.state import frozen
from millpond_broker.runtime.control_messages import Beat, Beaten
from millpond_broker.runtime.heartbeats import TakenOver
from millpond_broker.runtime.peers import Peer
from tests.unit.runtime.members import Cluster, play, until
from tests.unit.runtime.voters import CLUSTER_ID, address_of, directory_of, incarnation_of, registration

TOPIC = CreateTopic(b"t" * 16, "t", 3, 2, (), ((2, 1, 3), (1, 2, 3)))


def test_brokers_that_start_together_are_unfenced_and_have_their_leases() -> None:
    async def story(cluster: Cluster) -> None:
        await until(lambda: all(node.lease.holds() for node in cluster.nodes.values()), 1.0)
        assert cluster.nodes[1].controller.is_controller
        assert cluster.nodes[3].metadata.image.controller_epoch == cluster.voters.term

    play(story)


def test_a_broker_that_is_gone_is_fenced_by_a_probe_and_not_by_its_silence() -> None:
    """Rule 39: its connection closed, and nobody accepts another."""

    async def story(cluster: Cluster) -> None:
        await cluster.kill(3)
        brokers = cluster.nodes[1].metadata
        await until(lambda: brokers.image.brokers[3].state is BrokerState.FENCED, 0.5)

    play(story)


def test_a_broker_that_is_silent_on_an_open_connection_has_its_whole_session() -> None:
    """Rule 39: and its lease is over when it is fenced."""

    async def story(cluster: Cluster) -> None:
        silent, image = cluster.nodes[3], cluster.nodes[1].metadata

        async def hang(_beat: object) -> None:
            await asyncio.Event().wait()

        silent.heartbeats._ask = hang  # type: ignore[method-assign,assignment]  # it hangs
        await asyncio.sleep(2.3)
        assert image.image.brokers[3].state is BrokerState.RUNNING
        assert silent.lease.holds()
        await until(lambda: image.image.brokers[3].state is BrokerState.FENCED, 1.0)
        assert not silent.lease.holds()

    play(story)


def test_a_new_controller_finds_out_at_its_claim_who_is_gone() -> None:
    """Rule 39: the one before it died with its host; nobody waits for a session."""

    async def story(cluster: Cluster) -> None:
        await cluster.kill(1)
        cluster.voters.elect(2)
        image = cluster.nodes[2].metadata
        await until(lambda: image.image.brokers[1].state is BrokerState.FENCED, 0.5)
        assert image.image.controller_id == 2
        await until(cluster.nodes[3].lease.holds, 1.0)

    play(story)


def test_a_change_of_controller_fences_nobody_and_ends_no_lease() -> None:
    async def story(cluster: Cluster) -> None:
        epochs = {key: node.metadata.image.brokers[key].since for key, node in cluster.nodes.items()}
        for leader in (2, 3, 1):
            cluster.voters.elect(leader)
            for _ in range(80):
                await asyncio.sleep(0.05)
                assert all(node.lease.holds() for node in cluster.nodes.values())
        for key, node in cluster.nodes.items():
            assert node.metadata.image.brokers[key].since == epochs[key]

    play(story)


def test_a_deposed_controller_answers_no_heartbeat() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.voters.elect(2)
        await until(lambda: cluster.nodes[2].controller.is_controller, 1.0)
        assert not cluster.nodes[1].controller.is_controller

    play(story)


def test_a_controller_that_is_deposed_in_the_middle_of_a_change_just_ends() -> None:
    async def story(cluster: Cluster) -> None:
        log, voters = cluster.nodes[1].log, cluster.voters

        async def deposed(_envelope: Envelope, _timeout: float) -> NotApplied:
            voters.elect(2)
            return NotApplied("this voter does not lead")

        log.propose_for = deposed  # type: ignore[method-assign,assignment]  # as its last proposal finds out
        await cluster.kill(3)
        await until(lambda: cluster.nodes[2].metadata.image.brokers[3].state is BrokerState.FENCED, 2.0)
        assert cluster.nodes[1].failure is None
        assert not cluster.nodes[1].controller.is_controller

    play(story)


def test_a_lease_ends_without_a_controller() -> None:
    """Rule 39: three seconds from when the last answered heartbeat was sent."""

    async def story(cluster: Cluster) -> None:
        await cluster.kill(1)
        cluster.voters.leader = None
        await asyncio.sleep(2.4)
        assert cluster.nodes[2].lease.holds()
        await asyncio.sleep(0.7)
        assert not cluster.nodes[2].lease.holds()

    play(story)


def test_a_start_registers_once_the_one_before_it_is_found_to_be_gone() -> None:
    """Rule 12: the same host, at once: nobody waits for a session here either."""

    async def story(cluster: Cluster) -> None:
        before = cluster.nodes[3].metadata.image.brokers[3].epoch
        await cluster.kill(3)
        again = await cluster.start(3, start=1)
        await until(lambda: again.state is BrokerState.RUNNING, 1.5)
        assert again.metadata.image.brokers[3].epoch > before

    play(story)


def test_the_controller_itself_comes_back_as_another_start() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.kill(1)
        cluster.voters.elect(2)
        again = await cluster.start(1, start=1)
        await until(lambda: again.state is BrokerState.RUNNING, 2.0)

    play(story)


def test_a_start_whose_place_was_taken_ends() -> None:
    async def story(cluster: Cluster) -> None:
        old = cluster.nodes[3]

        async def hang(_beat: object) -> None:
            return None

        asking = old.heartbeats._ask
        old.heartbeats._ask = hang  # type: ignore[method-assign,assignment]  # as if its host were paused
        await until(lambda: old.state is BrokerState.FENCED, 5.0)
        await cluster.nodes[2].metadata.propose(registration(3, start=1))
        old.heartbeats._ask = asking  # type: ignore[method-assign]  # it goes on
        await until(lambda: old.failure is not None, 2.0)
        assert isinstance(old.failure, TakenOver)

    play(story)


def test_a_broker_with_other_metadata_than_the_controller_ends() -> None:
    """DESIGN §7: of the same version, and another digest."""

    async def story(cluster: Cluster) -> None:
        wrong = cluster.nodes[3]
        wrong.log.image = replace(wrong.log.image, next_producer_id=12345)
        wrong.log.tell()
        await until(lambda: wrong.failure is not None, 2.0)
        assert isinstance(wrong.failure, MetadataLogFailed)
        assert "what the controller" in str(wrong.failure)
        assert cluster.nodes[1].failure is None
        assert cluster.nodes[2].failure is None

    play(story)


def test_who_stops_leads_nothing_that_others_could_and_they_know() -> None:
    """Rule 12, the controlled stop."""

    async def story(cluster: Cluster) -> None:
        await cluster.nodes[1].metadata.propose(TOPIC)
        image = cluster.nodes[1].metadata
        await until(lambda: all(p.leader for p in image.image.topics[b"t" * 16].partitions), 2.0)
        cluster.voters.behind.add(3)
        leaving = asyncio.ensure_future(cluster.nodes[2].membership.leave(30.0))
        await asyncio.sleep(2.0)
        assert all(p.leader != 2 for p in image.image.topics[b"t" * 16].partitions)
        assert not leaving.done(), "broker 3 does not know yet"
        cluster.voters.behind.clear()
        cluster.voters.spread()
        async with asyncio.timeout(1.5):
            await leaving

    play(story)


async def _restarted_without_being_in_sync(cluster: Cluster) -> None:
    """Broker 3 runs again, and has to catch up in two partitions that 2 and 1 lead."""
    image = cluster.nodes[1].metadata
    await cluster.nodes[1].metadata.propose(TOPIC)
    await cluster.kill(3)
    await until(lambda: all(3 not in p.isr for p in image.image.topics[b"t" * 16].partitions), 2.0)
    again = await cluster.start(3, start=1)
    await until(lambda: again.state is BrokerState.RUNNING, 2.0)


def _all_in_sync(cluster: Cluster, leader: int) -> AlterPartitions:
    """What that leader asks for once broker 3 has caught up."""
    image = cluster.nodes[leader].metadata.image
    members = tuple(InSyncMember(key, broker.epoch, image.version) for key, broker in image.brokers.items())
    changes = [
        InSyncChange(b"t" * 16, number, partition.leader_epoch, partition.partition_epoch, members)
        for number, partition in enumerate(image.topics[b"t" * 16].partitions)
        if partition.leader == leader
    ]
    return AlterPartitions(leader, image.brokers[leader].epoch, tuple(changes))


def test_who_stops_waits_for_one_that_catches_up_where_too_few_would_be_in_sync() -> None:
    """Brokers restarted one after another: there again is not in sync again."""

    async def story(cluster: Cluster) -> None:
        await _restarted_without_being_in_sync(cluster)
        image = cluster.nodes[1].metadata
        leaving = asyncio.ensure_future(cluster.nodes[2].membership.leave(30.0))
        await asyncio.sleep(1.0)
        await cluster.nodes[1].metadata.propose(_all_in_sync(cluster, 1))
        await asyncio.sleep(3.0)
        assert not leaving.done(), "its own partition has two in sync"
        assert image.image.brokers[2].state is BrokerState.RUNNING, "it leads on"
        await cluster.nodes[2].metadata.propose(_all_in_sync(cluster, 2))
        async with asyncio.timeout(2.0):
            await leaving
        assert [sorted(p.isr) for p in image.image.topics[b"t" * 16].partitions] == [[1, 3], [1, 3]]

    play(story)


def test_who_stops_waits_for_replicas_that_stay_behind_only_so_long() -> None:
    async def story(cluster: Cluster) -> None:
        await _restarted_without_being_in_sync(cluster)
        began = asyncio.get_running_loop().time()
        await cluster.nodes[2].membership.leave(30.0)
        assert 10.0 <= asyncio.get_running_loop().time() - began < 12.0
        assert [p.isr for p in cluster.nodes[1].metadata.image.topics[b"t" * 16].partitions] == [(1,), (1,)]

    play(story)


def test_brokers_that_stop_together_wait_for_none_that_stops_as_well() -> None:
    async def story(cluster: Cluster) -> None:
        await _restarted_without_being_in_sync(cluster)
        async with asyncio.timeout(3.0):
            await asyncio.gather(*(node.membership.leave(30.0) for node in cluster.nodes.values()))

    play(story)


def test_who_has_stopped_is_fenced_at_once_though_its_port_is_open() -> None:
    """It closes its logs by then: nobody waits for that, nor for a session."""

    async def story(cluster: Cluster) -> None:
        cluster.nodes[3].stop_beating()
        image = cluster.nodes[1].metadata
        await until(lambda: image.image.brokers[3].state is BrokerState.FENCED, 0.5)

    play(story)


def test_a_slow_answer_ends_no_stream() -> None:
    """Rule 39: whoever closes one is probed, and a slow broker would fail that."""

    async def story(cluster: Cluster) -> None:
        slow, asked = cluster.nodes[3], cluster.nodes[3].heartbeats._ask
        since = slow.metadata.image.brokers[3].since

        async def late(beat: Beat) -> Beaten | None:
            answer = await asked(beat)
            await asyncio.sleep(1.5)
            return answer

        slow.heartbeats._ask = late  # type: ignore[method-assign]  # as a loop that lags
        for _ in range(100):
            await asyncio.sleep(0.1)
            assert slow.lease.holds()
        assert slow.metadata.image.brokers[3].since == since

    play(story)


def test_the_last_one_stops_without_waiting_for_anybody() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.kill(2)
        await cluster.kill(3)
        await asyncio.sleep(1.0)
        async with asyncio.timeout(2.0):
            await cluster.nodes[1].membership.leave(30.0)

    play(story)


def test_the_last_voter_waits_for_no_controller_that_cannot_be() -> None:
    """Two of three have stopped, and were the majority: the metadata say no more what became of them."""

    async def story(cluster: Cluster) -> None:
        cluster.voters.leader = None
        await cluster.kill(1)
        await cluster.kill(2)
        assert cluster.nodes[3].metadata.image.brokers[2].state is BrokerState.RUNNING
        async with asyncio.timeout(1.5):
            assert not await cluster.nodes[3].membership.leave(30.0)

    play(story)


def test_one_of_two_that_are_left_of_five_waits_for_nobody() -> None:
    """The other one is there, and can decide nothing: the metadata need three of five."""

    async def story(cluster: Cluster) -> None:
        cluster.voters.leader = None
        voters = {key: Voter(key, f"disk-{key}", address_of(key)) for key in (1, 2, 3, 4, 5)}
        for log in cluster.voters.logs.values():
            log.image = replace(log.image, voters=frozen(voters))
        await cluster.kill(1)
        async with asyncio.timeout(1.5):
            assert not await cluster.nodes[3].membership.leave(30.0)

    play(story)


def test_all_that_stop_at_once_wait_for_nobody() -> None:
    """Each of them sees that no other one runs on."""

    async def story(cluster: Cluster) -> None:
        await cluster.nodes[1].metadata.propose(TOPIC)
        async with asyncio.timeout(1.5):
            await asyncio.gather(*(node.membership.leave(30.0) for node in cluster.nodes.values()))

    play(story)


def test_who_stops_waits_for_a_controller_while_there_can_be_one() -> None:
    """An election is under way: the two others are there."""

    async def story(cluster: Cluster) -> None:
        cluster.voters.leader = None
        leaving = asyncio.ensure_future(cluster.nodes[3].membership.leave(30.0))
        await asyncio.sleep(3.0)
        assert not leaving.done()
        cluster.voters.elect(2)
        assert await leaving
        assert cluster.nodes[2].metadata.image.brokers[3].state is not BrokerState.RUNNING

    play(story)


def test_who_is_let_in_has_the_disk_that_belongs_to_its_id() -> None:
    async def story(cluster: Cluster) -> None:
        admit = cluster.nodes[1].peering.admit
        assert admit(Peer(2, directory_of(2), incarnation_of(2), CLUSTER_ID)) is None
        assert admit(Peer(2, "another", incarnation_of(2), b"")) is None, "it is told why not, and no more"
        assert "belongs to" in str(admit(Peer(2, "another", incarnation_of(2), CLUSTER_ID)))
        assert "of cluster" in str(admit(Peer(2, directory_of(2), incarnation_of(2), bytes(16))))
        assert "two brokers" in str(admit(Peer(1, directory_of(1), incarnation_of(1, 1), CLUSTER_ID)))

    play(story)
