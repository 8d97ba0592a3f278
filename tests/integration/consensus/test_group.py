"""The metadata log between several voters, each on its thread and a real disk."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millpond.wire.errors import BrokerNotReady, NotADataDirectory, StorageFailed
from millpond_broker.consensus.group import GroupOptions, format_founder
from millpond_broker.consensus.metadata_log import PROPOSALS_IN_FLIGHT_MAX, NotApplied, Ok, Unknown
from millpond_broker.consensus.raft.compaction import CompactionOptions
from millpond_broker.consensus.raft.voter import VoterOptions
from millpond_broker.consensus.solo import SoloMetadataLog
from millpond_broker.core.commands import (
    AddVoter,
    AllocateProducerIds,
    Barrier,
    ClaimController,
    CreateTopic,
    RemoveVoter,
)
from millpond_broker.core.image import MetadataImage
from millpond_broker.storage.files import OsFiles
from tests.integration.consensus.groups import (
    CLUSTER,
    SECONDS_MAX,
    STEADY,
    Group,
    registration,
    until,
    voter,
)


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Group]:
    """Three voters that run."""
    group = Group(tmp_path, 3)
    await group.start()
    yield group
    await group.stop()
    group.disk.close()


async def test_what_one_acknowledges_all_apply(three: Group) -> None:
    leader = await three.controller()
    registered = await three.do(leader, registration(1))
    seen: list[MetadataImage] = []
    leader.subscribe(seen.append)
    outcomes = await asyncio.gather(
        *(leader.propose(AllocateProducerIds(1, registered.index, 10), SECONDS_MAX) for _ in range(300))
    )
    assert all(isinstance(outcome, Ok) for outcome in outcomes)
    indexes = [outcome.index for outcome in outcomes if isinstance(outcome, Ok)]
    assert len(set(indexes)) == 300
    assert seen[-1] is leader.image
    assert leader.image.next_producer_id == 3000
    await three.same()
    committed = [entry.index for entry in leader.committed(indexes[0])]
    assert committed == indexes


async def test_who_does_not_lead_proposes_nothing(three: Group) -> None:
    leader = await three.controller()
    other = next(log for log in three.logs.values() if log is not leader)
    assert isinstance(await other.propose(Barrier(), SECONDS_MAX), NotApplied)
    with pytest.raises(BrokerNotReady):
        await other.barrier(SECONDS_MAX)
    await until(lambda: other.leader == three.id_of(leader))


async def test_what_cannot_be_encoded_takes_no_room(three: Group) -> None:
    leader = await three.controller()
    for _ in range(PROPOSALS_IN_FLIGHT_MAX + 1):
        with pytest.raises(ValueError, match="out of range"):
            await leader.propose(AllocateProducerIds(1, -1, 10), SECONDS_MAX)
    names = tuple((f"key-{number}", "x" * 1000) for number in range(1100))
    too_large = CreateTopic(CLUSTER, "t", 1, 1, names, ((1,),))
    assert isinstance(await leader.propose(too_large, SECONDS_MAX), NotApplied)
    await three.do(leader, Barrier())


async def test_a_barrier_sees_everything_before_it(three: Group) -> None:
    leader = await three.controller()
    before = (await three.do(leader, Barrier())).index
    versions = await asyncio.gather(*(leader.barrier(SECONDS_MAX) for _ in range(50)))
    assert all(version > before for version in versions)
    assert len(set(versions)) <= 2, "whoever asks at once shares one"


async def test_a_leader_that_nobody_hears_leads_no_more_and_tells_nobody_that_it_was_done(
    three: Group,
) -> None:
    """What it cannot commit is unknown: it may be in another's log. A retry of it there counts once."""
    leader = await three.controller()
    lonely = three.id_of(leader)
    registered = await three.do(leader, registration(1))
    three.hub.isolate(lonely)
    outcome = await leader.propose(AllocateProducerIds(1, registered.index, 10), SECONDS_MAX)
    assert isinstance(outcome, Unknown)
    successor = await three.controller(besides=lonely)
    assert successor.term > 0
    await until(lambda: leader.term == 0)
    three.hub.heal()
    await three.do(successor, AllocateProducerIds(1, registered.index, 10))
    await three.same()
    assert leader.image.next_producer_id == 10


async def test_all_stop_at_once_and_nothing_is_gone(tmp_path: Path) -> None:
    group = Group(tmp_path, 3)
    await group.start()
    leader = await group.controller()
    registered = await group.do(leader, registration(1))
    await group.do(leader, AllocateProducerIds(1, registered.index, 10))
    await group.stop()
    await group.start()
    leader = await group.controller()
    assert leader.image.next_producer_id == 10
    assert leader.image.cluster_id == CLUSTER
    await group.same()
    await group.stop()
    group.disk.close()


async def test_a_leader_that_stops_lets_another_lead_first(three: Group) -> None:
    """Nobody has to miss it first: the next one leads in a moment."""
    leader = await three.controller()
    term = leader.term
    await three.stop(three.id_of(leader))
    successor = await three.leader()
    assert successor.term == term + 1


async def test_a_voter_that_comes_late_gets_a_snapshot(tmp_path: Path) -> None:
    options = GroupOptions(
        voter=VoterOptions(timing=STEADY, compaction=CompactionOptions(entries=20, entries_max=40))
    )
    group = Group(tmp_path, 3, options)
    await group.start(1, 2)
    leader = await group.controller()
    registered = await group.do(leader, registration(1))
    for _ in range(200):
        await group.do(leader, AllocateProducerIds(1, registered.index, 1))
    await group.start(3)
    await group.same()
    late = group.logs[3]
    with pytest.raises(LookupError):
        late.committed(2)
    assert late.image.next_producer_id == 200
    await group.stop()
    await group.start(3)
    assert group.logs[3].image.version >= 150, "it kept the snapshot"
    await group.stop()
    group.disk.close()


async def test_a_dead_voter_is_replaced(three: Group) -> None:
    """One after the other, through the log: the dead one is removed, a new one on a new disk added."""
    leader = await three.controller()
    dead = next(key for key, log in three.logs.items() if log is not leader)
    await three.stop(dead)
    await three.do(leader, RemoveVoter(dead))
    three.format_joiner(4)
    await three.start(4)
    await three.do(leader, AddVoter(voter(4)))
    await three.same()
    assert dead not in leader.image.voters
    assert 4 in leader.image.voters
    # Now the group needs the new one: without the old leader, it and the other are the majority.
    old = three.id_of(leader)
    three.hub.isolate(old)
    successor = await three.controller(besides=old)
    await three.do(successor, registration(4))
    three.hub.heal()
    await three.same()


async def test_one_change_of_voters_at_a_time_and_never_of_the_leader_itself(three: Group) -> None:
    leader = await three.controller()
    refused = await leader.propose(RemoveVoter(three.id_of(leader)), SECONDS_MAX)
    assert isinstance(refused, NotApplied)
    assert "itself" in refused.reason
    outcomes = await asyncio.gather(
        *(leader.propose(AddVoter(voter(broker_id)), SECONDS_MAX) for broker_id in (4, 5))
    )
    assert [type(outcome) for outcome in outcomes] == [Ok, NotApplied]
    await three.same()
    assert list(leader.image.voters) == [1, 2, 3, 4]


async def test_a_blank_disk_does_not_become_an_old_voter(tmp_path: Path) -> None:
    """It forgot how that one voted, and what it acknowledged."""
    group = Group(tmp_path, 3)
    await group.start(1, 2)
    await group.controller()
    impostor = voter(3)
    reason = group.hub.voters[1].admit(type(group.hub.voters[1].identity())(3, "another disk", CLUSTER))
    assert reason is not None
    assert impostor.directory_id in reason
    await group.stop()
    group.disk.close()


async def test_metadata_are_formatted_once_and_belong_to_a_disk(tmp_path: Path) -> None:
    group = Group(tmp_path, 1)
    with pytest.raises(NotADataDirectory):
        format_founder(OsFiles(), group.directory(1), cluster_id=CLUSTER, voters=(voter(1),))
    journal = group.directory(1) / "metadata" / "journal"
    data = bytearray(journal.read_bytes())
    data[40] ^= 1
    journal.write_bytes(bytes(data))
    with pytest.raises(StorageFailed):
        await group.start()
    group.disk.close()


async def test_a_group_of_one_leads_at_once(tmp_path: Path) -> None:
    group = Group(tmp_path, 1)
    await group.start()
    leader = await group.controller()
    await group.do(leader, registration(1))
    await group.stop()
    group.disk.close()


async def test_a_lone_broker_becomes_the_first_of_three_voters(tmp_path: Path) -> None:
    """Its directory is opened as it is; the others are added to it, one after another."""
    group = Group(tmp_path, 0)
    group.configured = {1: "broker-1:7071"}
    solo = await SoloMetadataLog.open(
        OsFiles(),
        group.directory(1),
        broker_id=1,
        directory_id=voter(1).directory_id,
        new_id=lambda: uuid.uuid4().bytes,
        run_blocking=group.disk.run,
    )
    await solo.propose(ClaimController(1, solo.term), SECONDS_MAX)
    before = await solo.propose(registration(1), SECONDS_MAX)
    assert isinstance(before, Ok)
    refused = await solo.propose(AddVoter(voter(2)), SECONDS_MAX)
    assert isinstance(refused, NotApplied), "it runs alone"
    last_term = solo.term
    await solo.close()
    await group.start(1)
    first = await group.controller()
    assert first.term > last_term
    for broker_id in (2, 3):
        group.format_joiner(broker_id)
        await group.start(broker_id)
        await group.do(first, AddVoter(voter(broker_id)))
    await group.same()
    assert list(first.image.voters) == [1, 2, 3]
    assert first.image.brokers[1].epoch == before.index
    group.hub.isolate(1)
    await group.controller(besides=1)
    group.hub.heal()
    await group.same()
    await group.stop()
    group.disk.close()


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    threads = threading.active_count()
    group = Group(tmp_path, 3)
    await group.start()
    await group.controller()
    await group.stop()
    group.disk.close()
    await until(lambda: threading.active_count() == threads)
