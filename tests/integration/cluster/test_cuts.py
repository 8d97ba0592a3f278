"""The network between three real brokers is cut, in both directions or in one: what was acknowledged is
there, one broker leads, and what was cut off comes back by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import pytest

import millpond
from millpond.cli.health import problems_of
from millpond.client import Client
from millpond.errors import MillpondError, NotEnoughReplicas, NotLeader
from tests.awake import Stalls
from tests.integration.cluster.conftest import controller_of, healed, led_by
from tests.integration.cluster.load import Load, Reading
from tests.integration.cluster.network import Bytes, NetworkedCluster, Pair, between, ways
from tests.integration.cluster.raw import RawProducer

SESSION_S = 3.0
"""Of silence, after which a broker is fenced; its lease is over by then (rule 39)."""
LAG_S = 10.0
"""A follower that lacks a record for longer is out of sync (rule 9)."""
ELECTION_S = 3.0
"""For the voters to agree on a controller, and for it to elect; on a machine that does other things, too."""
LATE_S = 1.5
"""That an acknowledgement may have been on its way, to a client that the machine kept waiting."""
STALL_S = 0.5
"""Of the machine: after more of it a broker may have lost its session, and not by the cut."""
WHOLE_S = 30.0
"""From the end of a cut to full ISRs: reconnecting, registering nobody, catching up on seconds of records."""

Direction = Literal["both", "deaf", "mute"]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NetworkedCluster]:
    """Takes the place of the package's, for a network that can be cut."""
    cluster = NetworkedCluster(3, tmp_path_factory.mktemp("cuts"))
    with cluster.network, cluster:
        yield cluster


@pytest.fixture(autouse=True)
def mended(three: NetworkedCluster) -> Iterator[None]:
    """A test that failed half-way leaves the others their network."""
    yield
    three.network.heal()


def cut_off(broker: int, direction: Direction) -> frozenset[Pair]:
    """A broker from the two others: `deaf` hears nothing, `mute` is not heard."""
    others = {1, 2, 3} - {broker}
    match direction:
        case "both":
            return between([broker], others)
        case "deaf":
            return ways(others, [broker])
        case "mute":
            return ways([broker], others)


@dataclass
class Insistent:
    """Sends to the broker that leads now, and to no other, one record after another."""

    acks: Literal["all", "leader"]
    topic: str
    partition: int
    first: int
    """Numbers of its records go down from here."""
    acked: list[tuple[float, int, int]] = field(default_factory=list)
    """When it was sent, offset, number."""
    refused: list[tuple[float, MillpondError]] = field(default_factory=list)
    sent: int = 0

    @asynccontextmanager
    async def insisting(self, client: Client) -> AsyncIterator[None]:
        """For as long as the block lasts."""
        async with RawProducer(client, self.topic, self.partition, acks=self.acks) as raw:
            task = asyncio.ensure_future(self._insist(raw))
            try:
                yield
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _insist(self, raw: RawProducer) -> None:
        while True:
            number = self.first - self.sent
            self.sent += 1
            sent_at = time.monotonic()
            await raw.send(b"%d/%d" % (self.partition, number))
            answer = await raw.answer(60.0)
            if isinstance(answer, MillpondError):
                self.refused.append((time.monotonic(), answer))
            else:
                self.acked.append((sent_at, answer, number))
            await asyncio.sleep(0.02)

    @property
    def strangers(self) -> list[tuple[int, int]]:
        """Everything that it may have written."""
        return [(self.partition, self.first - number) for number in range(self.sent)]

    def acked_between(self, earliest: float, latest: float) -> list[tuple[float, int, int]]:
        """Records that were sent then, and acknowledged, however late the client heard of it."""
        return [ack for ack in self.acked if earliest < ack[0] < latest]


async def values_of(client: Client, topic: str, partition: int) -> dict[int, object]:
    """By offset."""
    async with client.consumer(topic, partitions=[partition], stop="end") as consumer:
        return {record.offset: record.value async for record in consumer}


async def states(client: Client) -> set[str]:
    return {broker.state for broker in await client.admin.brokers()}


async def agreed(three: NetworkedCluster, topic: str, brokers: set[int], not_led_by: int) -> None:
    """Until all of these say the same of who leads, and that one does not."""

    async def told_by(broker: int) -> tuple[tuple[int | None, int], ...]:
        address = three.bootstrap.split(",")[broker - 1]
        async with millpond.connect(address, timeout=WHOLE_S) as client:
            seen = await client.admin.describe_topic(topic)
            return tuple((each.leader, each.leader_epoch) for each in seen.partitions)

    async with asyncio.timeout(WHOLE_S):
        while True:
            told = {await told_by(broker) for broker in brokers}
            if len(told) == 1 and all(leader not in (None, not_led_by) for leader, _ in told.pop()):
                return
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("late", [Bytes.LATE, Bytes.LOST], ids=["late", "lost"])
async def test_a_follower_that_is_cut_off_is_done_without_and_comes_back(
    three: NetworkedCluster, client: Client, topic: str, *, late: Bytes
) -> None:
    """Neither leader nor controller: nobody has to be elected, and the writes that wait for it go on once it
    is fenced.
    """
    load = Load(topic, range(3))
    async with Reading(client, topic) as reading, load.running(client):
        await load.progress()
        follower = 1 + await controller_of(client) % 3
        await client.admin.drain(follower)
        with three.network.without(cut_off(follower, "both"), late):
            assert await load.progress(timeout=2 * (SESSION_S + ELECTION_S)) > 1.0, "it has its session"
            await load.progress()
            await agreed(three, topic, {1, 2, 3} - {follower}, follower)
        began = time.monotonic()
        await healed(client)
        assert time.monotonic() - began < WHOLE_S
        await load.progress()
    assert not load.failures
    await reading.reaches(load)
    await load.audit(three.bootstrap)


@pytest.mark.parametrize("direction", ["both", "deaf", "mute"])
@pytest.mark.parametrize("who", ["leader", "controller"])
async def test_a_leader_that_is_cut_off_stops_acknowledging_and_another_goes_on(
    three: NetworkedCluster, client: Client, topic: str, who: str, direction: Direction
) -> None:
    """Rules 39 and 9: acks=all at once, acks=leader with its lease. Clients still reach it, and one of them
    knows no other: it finds whoever leads all the same, and is shown nothing that is lost.
    """
    load = Load(topic, range(3))
    controller = await controller_of(client)
    leader = controller if who == "controller" else 1 + controller % 3
    partition = await led_by(client, topic, leader)
    everywhere = Insistent("all", topic, partition, -1)
    alone = Insistent("leader", topic, partition, -1_000_001)
    async with (
        millpond.connect(three.bootstrap.split(",")[leader - 1]) as astray,
        Reading(astray, topic) as astray_reading,
        Reading(client, topic) as reading,
    ):
        async with load.running(client):
            await load.progress()
            async with everywhere.insisting(client), alone.insisting(client):
                with three.network.without(cut_off(leader, direction)):
                    cut_at = time.monotonic()
                    await load.progress(partition, timeout=2 * (2 * SESSION_S + ELECTION_S))
                    await asyncio.sleep(max(0.0, cut_at + SESSION_S + 2 * LATE_S - time.monotonic()))
                    await load.progress()
                    await agreed(three, topic, {1, 2, 3} - {leader}, leader)
                    healed_at = time.monotonic()
                await load.progress()
            await healed(client)
            assert time.monotonic() - healed_at < WHOLE_S
            await load.progress()
        assert not load.failures
        assert not everywhere.acked_between(cut_at + LATE_S, healed_at)
        kept = await values_of(client, topic, partition)
        assert all(
            kept.get(offset) == b"%d/%d" % (partition, number) for _, offset, number in everywhere.acked
        )
        assert not alone.acked_between(cut_at + SESSION_S + LATE_S, healed_at)
        assert all(isinstance(error, NotLeader | NotEnoughReplicas) for _, error in alone.refused)
        await reading.reaches(load)
        await astray_reading.reaches(load)
    await load.audit(three.bootstrap, strangers=[*everywhere.strangers, *alone.strangers])


@pytest.mark.parametrize("controls", ["leader", "follower", "third"])
async def test_a_leader_and_one_follower_that_do_not_hear_each_other_go_on_without_the_other(
    three: NetworkedCluster, client: Client, topic: str, controls: str
) -> None:
    """A third one hears both. If that is the controller, nobody is silent: the follower leaves the ISR
    for its lag (rule 9). Else the controller is one of the two, and the other is fenced.
    """
    load = Load(topic, range(3))
    async with Reading(client, topic) as reading, load.running(client):
        await load.progress()
        controller = await controller_of(client)
        one, another = 1 + controller % 3, 1 + (controller + 1) % 3
        leader, follower = {
            "leader": (controller, one),
            "follower": (one, controller),
            "third": (one, another),
        }[controls]
        cut_at, stalls = time.monotonic(), Stalls()
        with three.network.without(between([leader], [follower])):
            partition = await led_by(client, topic, leader)
            await load.progress(partition, timeout=2 * (LAG_S + SESSION_S + ELECTION_S))
            if controls == "third" and stalls.seconds < STALL_S:
                assert time.monotonic() - cut_at > LAG_S - SESSION_S
            async with asyncio.timeout(WHOLE_S):
                while ("fenced" in await states(client)) == (controls == "third"):
                    await asyncio.sleep(0.1)
            await load.progress(timeout=2 * (LAG_S + SESSION_S + ELECTION_S))
        began = time.monotonic()
        await healed(client)
        assert time.monotonic() - began < WHOLE_S
        await load.progress()
    assert not load.failures
    await reading.reaches(load)
    await load.audit(three.bootstrap)


async def test_the_status_is_told_by_who_is_in_touch_although_another_was_asked(
    three: NetworkedCluster, client: Client
) -> None:
    """A broker that is cut off from the others, and not from its clients, knows less than they."""
    await healed(client)
    cut = await controller_of(client)
    only = three.bootstrap.split(",")[cut - 1]
    async with millpond.connect(only, timeout=10.0) as by_the_cut_off:
        with three.network.without(cut_off(cut, "both")):
            async with asyncio.timeout(WHOLE_S):
                while True:
                    status = await by_the_cut_off.admin.status()
                    fenced = {broker.id for broker in status.brokers if broker.state == "fenced"}
                    if status.current and fenced == {cut} and not status.silent:
                        break
                    await asyncio.sleep(0.1)
            assert status.told_by != cut
            assert next(iter(problems_of(status))).name == "out_of_cluster"
    await healed(client)
