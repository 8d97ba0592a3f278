"""Disks of real brokers that are full, damaged or failing: nothing that was acknowledged is lost, writes are
refused or led elsewhere, and the replica is whole again by itself.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from millpond.client import Client
from millpond.errors import InternalError, MillpondError, Outcome, StorageFull
from tests.integration.cluster.conftest import controller_of, healed, led_by
from tests.integration.cluster.disks import FaultyCluster, fill, flip_a_bit, is_flipped, small_disk
from tests.integration.cluster.load import Load, Reading
from tests.integration.cluster.raw import RawProducer

DISK_BYTES = 64 << 20
"""Of each broker: what these tests write, several times over."""
VALUE_BYTES = 2_000
SEGMENT_BYTES = 1 << 16
COLD = 200
"""Records by which a partition has several segments that are sealed, and read by nobody any more."""
LAG_S = 10.0
"""A follower that lacks a record for longer is out of sync (rule 9)."""
AGAIN_S = 10.0
"""From what is wrong with a disk to its partitions being led, by whomever."""


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyCluster]:
    """Takes the place of the package's. Each broker has a small disk of its own, where that can be had."""
    directory = tmp_path_factory.mktemp("disks")
    with ExitStack() as mounted:
        try:
            for number in (1, 2, 3):
                data = directory / f"broker-{number}" / "data"
                mounted.enter_context(small_disk(data, DISK_BYTES))
        except OSError:
            mounted.close()
        cluster = mounted.enter_context(FaultyCluster(3, data_dir=directory))
        yield cluster


@pytest.fixture(autouse=True)
def mended(three: FaultyCluster, all_run: None) -> Iterator[None]:
    """A test that failed half-way leaves the others their disks."""
    yield
    for number in (1, 2, 3):
        three.order(number)
        (data_of(three, number) / "ballast").unlink(missing_ok=True)


@pytest_asyncio.fixture
async def topic(client: Client) -> AsyncIterator[str]:
    """As the package's, with small segments."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    await client.admin.create_topic(name, partitions=3, config={"segment_bytes": SEGMENT_BYTES})
    yield name
    await client.admin.delete_topic(name)


def data_of(three: FaultyCluster, broker: int) -> Path:
    return three.data_dir / f"broker-{broker}" / "data"


def needs_a_small_disk(three: FaultyCluster) -> None:
    if not data_of(three, 1).is_mount():
        pytest.skip("no small file system can be mounted here")


async def cold(load: Load) -> None:
    """Until every partition has sealed segments."""
    async with asyncio.timeout(60.0):
        while any(len(acks) < COLD for acks in load.acked.values()):
            await load.progress()


@pytest.mark.parametrize("controls", [False, True], ids=["leader", "leader-and-controller"])
async def test_a_leader_without_room_refuses_writes_until_there_is_some(
    three: FaultyCluster, client: Client, topic: str, *, controls: bool
) -> None:
    """Rule 40: retriable, and nothing of it is written. What others lead goes on without it."""
    needs_a_small_disk(three)
    load = Load(topic, range(3), value_bytes=VALUE_BYTES)
    async with Reading(client, topic) as reading, load.running(client):
        await load.progress()
        controller = await controller_of(client)
        leader = controller if controls else 1 + controller % 3
        partition = await led_by(client, topic, leader)
        ballast = fill(data_of(three, leader))
        try:
            async with RawProducer(client, topic, partition, acks="all") as raw:
                await raw.send(b"x" * 100_000)
                answer = await raw.answer()
                assert isinstance(answer, MillpondError), f"acknowledged at {answer}"
                assert answer.retriable
                assert isinstance(answer, StorageFull), str(answer)
                assert answer.outcome is Outcome.NOT_WRITTEN
            await load.progress(*{0, 1, 2} - {partition}, timeout=LAG_S + AGAIN_S)
            assert (await client.admin.describe_topic(topic)).partitions
        finally:
            ballast.unlink()
        await load.progress(timeout=LAG_S + AGAIN_S)
        await healed(client)
        await load.progress()
    assert not load.failures
    await reading.reaches(load)
    await load.audit(three.bootstrap)


async def test_a_follower_without_room_is_done_without_until_there_is_some(
    three: FaultyCluster, client: Client, topic: str
) -> None:
    """It leaves the ISRs for its lag (rule 9), and comes back by itself."""
    needs_a_small_disk(three)
    load = Load(topic, range(3), value_bytes=VALUE_BYTES)
    async with Reading(client, topic) as reading, load.running(client):
        await load.progress()
        follower = 1 + await controller_of(client) % 3
        await client.admin.drain(follower)
        ballast = fill(data_of(three, follower))
        try:
            await load.progress(timeout=LAG_S + AGAIN_S)
            await load.progress()
        finally:
            ballast.unlink()
        await healed(client)
        await load.progress()
    assert not load.failures
    await reading.reaches(load)
    await load.audit(three.bootstrap)


@pytest.mark.parametrize("leads", [True, False], ids=["leader", "follower"])
@pytest.mark.parametrize("runs", [True, False], ids=["runs", "down"])
async def test_a_flipped_bit_is_mended_from_the_others(
    three: FaultyCluster, client: Client, topic: str, *, leads: bool, runs: bool
) -> None:
    """Rule 15, in a segment that nobody writes to any more: the replica gives up its seat once somebody reads
    there, and gets everything from the others. A reader from the beginning sees all of it, at most later.
    """
    load = Load(topic, range(3), value_bytes=VALUE_BYTES)
    async with load.running(client):
        await cold(load)
        victim = 1 + await controller_of(client) % 3
        partition = await led_by(client, topic, victim)
        if not leads:
            await client.admin.drain(victim)
        if not runs:
            three.kill(victim - 1)
        topic_id = (await client.admin.describe_topic(topic)).id
        damaged = three.segments(victim, topic_id, partition)[1]
        before = damaged.read_bytes()
        position = flip_a_bit(damaged)
        if not runs:
            await three.aio.restart(victim - 1)
            await healed(client)
        if not leads:
            # What a follower has in its cold segments is read by nobody before it leads.
            await client.admin.reassign(topic, {partition: _first(victim)}, wait=True)
        await client.admin.elect_leaders()
        async with Reading(client, topic) as reading:
            await reading.reaches(load, timeout=AGAIN_S)
        await load.progress(timeout=AGAIN_S)
        await healed(client)
        assert not is_flipped(damaged, position, before)
        await load.progress()
    assert not load.failures
    await load.audit(three.bootstrap)


async def test_a_replica_that_catches_up_is_sent_nothing_that_is_damaged(
    three: FaultyCluster, client: Client, topic: str
) -> None:
    """The leader finds the flipped bit when it reads for a replica that starts from nothing, and gives its
    place to one that has what it has not (rule 15).
    """
    load = Load(topic, range(3), value_bytes=VALUE_BYTES)
    async with load.running(client):
        await cold(load)
        leader = 1 + await controller_of(client) % 3
        partition = await led_by(client, topic, leader)
        others = [broker for broker in (1, 2, 3) if broker != leader]
        await client.admin.reassign(topic, {partition: [leader, others[0]]}, wait=True)
        topic_id = (await client.admin.describe_topic(topic)).id
        damaged = three.segments(leader, topic_id, partition)[1]
        before = damaged.read_bytes()
        position = flip_a_bit(damaged)
        await client.admin.reassign(topic, {partition: [leader, *others]}, wait=True)
        await load.progress(timeout=AGAIN_S)
        await healed(client)
        assert not is_flipped(damaged, position, before)
        await load.progress()
    assert not load.failures
    await load.audit(three.bootstrap)


@pytest.mark.parametrize("leads", [True, False], ids=["leader", "follower"])
async def test_a_disk_that_fails_to_sync_is_led_elsewhere_and_followed_again(
    three: FaultyCluster, client: Client, topic: str, *, leads: bool
) -> None:
    """Rule 40: what was not confirmed counts as lost there, however the next sync turns out."""
    load = Load(topic, range(3), value_bytes=VALUE_BYTES)
    async with Reading(client, topic) as reading, load.running(client):
        await load.progress()
        victim = 1 + await controller_of(client) % 3
        if not leads:
            await client.admin.drain(victim)
        with three.failing(victim, "sync"):
            await load.progress(timeout=LAG_S + AGAIN_S)
            await load.progress(timeout=LAG_S + AGAIN_S)
            assert "log_failed" in [event["event"] for event in three.events(victim)]
        await healed(client)
        await load.progress()
    assert not load.failures
    await reading.reaches(load)
    await load.audit(three.bootstrap)


@pytest.mark.parametrize("controls", [False, True], ids=["voter", "controller"])
async def test_a_voter_whose_journal_fails_to_sync_ends_and_starts_again(
    three: FaultyCluster, client: Client, topic: str, *, controls: bool
) -> None:
    """Rule 40: a process that goes on would count what may be lost."""
    load = Load(topic, range(3), value_bytes=VALUE_BYTES)
    async with Reading(client, topic) as reading, load.running(client):
        await load.progress()
        controller = await controller_of(client)
        victim = controller if controls else 1 + controller % 3
        with three.failing(victim, "sync", "/metadata/"):
            await client.admin.alter_topic(topic, config={"retention_ms": 10**9})  # an entry for the journal
            async with asyncio.timeout(AGAIN_S):
                while three._broker(victim - 1).pid is not None:
                    await asyncio.sleep(0.05)
            with pytest.raises(InternalError, match="status 1"):
                await three.aio.stop(victim - 1)
            await load.progress(timeout=AGAIN_S)
        await three.aio.restart(victim - 1)
        await healed(client)
        await load.progress()
    assert not load.failures
    await reading.reaches(load)
    await load.audit(three.bootstrap)


def _first(broker: int) -> list[int]:
    return [broker, *(other for other in (1, 2, 3) if other != broker)]
