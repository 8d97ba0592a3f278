"""What administrators ask for about replicas and leaders, against the metadata alone."""

from __future__ import annotations

import pytest

from millpond.wire.errors import InvalidRequest, InvalidUpdateVersion, UnknownPartition, UnknownTopic
from millpond_broker.core.commands import Barrier, Command, ElectLeaders, ReassignPartitions
from millpond_broker.core.image import MetadataImage
from millpond_broker.core.results import Refused
from millpond_broker.runtime.replicas import LedPartition, Replicas
from tests.unit.core.clusters import topic
from tests.unit.core.replicas import Replicated, replicated


class Local:
    """Proposing over a cluster of the metadata tests. `overtake`: so many commands come too late."""

    def __init__(self, cluster: Replicated, overtake: int = 0) -> None:
        self.cluster = cluster
        self.overtake = overtake
        self.proposed: list[Command] = []

    @property
    def image(self) -> MetadataImage:
        return self.cluster.image

    async def propose(self, command: Command, timeout: float = 1.0) -> object:
        self.proposed.append(command)
        if self.overtake and not isinstance(command, Barrier):
            self.overtake -= 1
            isr = self.cluster.partition("orders").isr
            self.cluster.in_sync(*(isr[:2] if len(isr) > 2 else (1, 2, 3)))
        result = self.cluster.do(command)
        if isinstance(result, Refused):
            raise result.error
        return result.value


def three(*assignments: tuple[int, ...], min_insync: int = 2) -> Replicated:
    c = replicated(1, 2, 3)
    c.must(topic("orders", *(assignments or ((1, 2, 3),)), min_insync=min_insync))
    c.control(1, 2, 3)
    return c


async def test_a_broker_is_drained_by_letting_others_be_preferred() -> None:
    c = three((1, 2, 3), (1, 3, 2), (2, 1, 3))
    moved, remaining, version = await Replicas(Local(c)).drain(1)
    assert moved == [LedPartition("orders", 0, 3), LedPartition("orders", 1, 2)]
    assert (remaining, version) == ([], c.image.version)
    assert [c.partition("orders", number).replicas for number in range(3)] == [
        (3, 2, 1),
        (2, 3, 1),
        (2, 1, 3),
    ]
    assert [len(c.partition("orders", number).isr) for number in range(3)] == [3, 3, 3]
    c.control(1, 2, 3, now_ms=10**9)
    assert [c.partition("orders", number).leader for number in range(3)] == [3, 2, 2], "it lasts"


async def test_what_nobody_else_has_stays_where_it_is() -> None:
    c = three()
    c.in_sync(1)
    moved, remaining, _ = await Replicas(Local(c)).drain(1)
    assert (moved, remaining) == ([], [LedPartition("orders", 0, 1)])
    with pytest.raises(InvalidRequest, match="9 is not a member"):
        await Replicas(Local(c)).drain(9)


async def test_a_request_that_was_overtaken_is_decided_anew() -> None:
    c = three()
    local = Local(c, overtake=2)
    moved, _, _ = await Replicas(local).drain(1)
    proposed = [type(command) for command in local.proposed]
    assert proposed == [Barrier, *[ReassignPartitions] * 3, ElectLeaders]
    assert [led.leader for led in moved] == [c.partition("orders").leader]
    c = three()
    with pytest.raises(InvalidUpdateVersion):
        await Replicas(Local(c, overtake=99)).drain(1)


async def test_leaderships_go_back_to_who_is_preferred() -> None:
    c = three()
    c.fence(1)
    c.unfence(1)
    c.in_sync(2, 3, 1)
    replicas = Replicas(Local(c))
    assert c.partition("orders").leader == 2
    assert (await replicas.elect("", (), unclean=False))[0] == [LedPartition("orders", 0, 1)]
    assert (await replicas.elect("orders", (0,), unclean=False))[0] == []
    with pytest.raises(UnknownTopic):
        await replicas.elect("others", (), unclean=False)
    with pytest.raises(UnknownPartition):
        await replicas.elect("orders", (7,), unclean=False)
    with pytest.raises(InvalidRequest):
        await replicas.elect("", (0,), unclean=False)


async def test_unclean_elections_are_for_what_nobody_leads() -> None:
    c = three(min_insync=1)
    c.in_sync(1)
    c.fence(1)
    assert c.partition("orders").leader is None
    assert (await Replicas(Local(c)).elect("orders", (), unclean=True))[0] == [LedPartition("orders", 0, 2)]
    assert c.partition("orders").is_recovering


async def test_moving_to_where_it_is_changes_nothing() -> None:
    c = three()
    local = Local(c)
    found, _ = await Replicas(local).reassign("orders", {0: (1, 2, 3)})
    assert (found.partitions[0].replicas, local.proposed) == ((1, 2, 3), [])
    found, version = await Replicas(local).reassign("orders", {0: (3, 1)})
    assert (found.partitions[0].target, version) == ((3, 1), c.image.version)
    with pytest.raises(InvalidRequest):
        await Replicas(local).reassign("orders", {0: (3, 3)})
    with pytest.raises(InvalidRequest):
        await Replicas(local).reassign("orders", {})
