"""The model of the voters: what it promises a broker, and what it takes away."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from millpond_broker.consensus.metadata_log import NotApplied, Ok, Unknown
from millpond_broker.core.commands import Barrier, ClaimController, Voter
from millpond_broker.core.image import MetadataImage
from tests.sim.cluster.metadata import ELECTION_SECONDS, ImagesDiffer, Voters
from tests.sim.cluster.metadata_log import SimMetadataLog
from tests.sim.cluster.network import Network
from tests.sim.loop import Owner, SimLoop, simulated

SOON = ELECTION_SECONDS[1] * 3


class Group:
    """Three voters."""

    def __init__(self, loop: SimLoop, seed: int = 0) -> None:
        self.loop = loop
        self.random = Random(seed)
        self.network = Network(loop, self.random, lambda _what, _about: None)
        founders = tuple(Voter(broker_id, f"disk {broker_id}", f"{broker_id}") for broker_id in (1, 2, 3))
        for broker_id in (1, 2, 3):
            self.network.add(broker_id)
        self.voters = Voters(
            loop, self.random, self.network, founders, lambda _what, _about: None, doubled=0.2
        )
        self.logs = {broker_id: self.start(broker_id) for broker_id in (1, 2, 3)}

    def start(self, broker_id: int) -> SimMetadataLog:
        owner = Owner(f"voter {broker_id}")
        self.network.up(broker_id, owner)
        return SimMetadataLog(self.voters, owner, broker_id, self.random.randbytes(16))

    def run(self, seconds: float) -> None:
        self.loop.run(self.loop.time() + seconds)

    def leader(self) -> SimMetadataLog:
        self.run(SOON)
        assert self.voters.leader is not None
        return self.logs[self.voters.leader]

    def isolate(self, broker_id: int) -> None:
        for other in {1, 2, 3} - {broker_id}:
            self.network.cut(broker_id, other)
            self.network.cut(other, broker_id)


@pytest.fixture
def group() -> Iterator[Group]:
    with simulated(SimLoop()) as loop:
        yield Group(loop)
        assert loop.end() == []


def test_somebody_leads_and_all_know_whom(group: Group) -> None:
    leader = group.leader()
    assert leader.term > 0
    assert {log.leader for log in group.logs.values()} == {group.voters.leader}
    assert [log.term > 0 for log in group.logs.values()].count(True) == 1


def test_what_is_committed_is_in_every_image_in_the_end(group: Group) -> None:
    leader = group.leader()
    seen: list[MetadataImage] = []
    leader.subscribe(seen.append)
    outcome = group.loop.run_for(leader.propose(ClaimController(1, leader.term), 1.0), 2)
    assert isinstance(outcome, Ok)
    assert seen[-1].version >= outcome.index, "callbacks have seen it before the answer"
    group.run(SOON)
    assert {log.image.controller_epoch for log in group.logs.values()} == {leader.term}
    assert len({log.image.version for log in group.logs.values()}) == 1


def test_only_a_leader_takes_proposals(group: Group) -> None:
    leader = group.leader()
    other = next(log for log in group.logs.values() if log is not leader)
    assert isinstance(group.loop.run_for(other.propose(Barrier(), 1.0), 2), NotApplied)


def test_a_leader_that_is_cut_off_commits_nothing_and_another_leads(group: Group) -> None:
    leader = group.leader()
    assert group.voters.leader is not None
    group.isolate(group.voters.leader)
    version = leader.image.version
    outcome = group.loop.run_for(leader.propose(Barrier(), 2.0), 3)
    assert isinstance(outcome, NotApplied | Unknown)
    assert leader.image.version == version
    assert group.leader() is not leader
    group.run(5)
    assert leader.term == 0, "it no longer believes that it leads"


def test_a_broker_that_starts_again_has_its_image_again_and_catches_up(group: Group) -> None:
    leader = group.leader()
    for _ in range(5):
        group.loop.run_for(leader.propose(Barrier(), 1.0), 2)
    group.run(1)
    other = next(broker_id for broker_id in group.logs if broker_id != group.voters.leader)
    group.logs[other].owner.is_dead = True
    group.network.down(other)
    group.voters.left(other)
    again = group.start(other)
    assert again.image.cluster_id is not None
    group.run(1)
    assert again.image == leader.image


def test_proposals_through_changes_of_leader_count_once_or_not_at_all() -> None:
    """A retry of the same proposal after Unknown gives what the first one gave."""
    for seed in range(10):
        with simulated(SimLoop()) as loop:
            group = Group(loop, seed)
            leader = group.leader()
            group.loop.call_later(0.001 * (seed % 5), group.voters.depose)
            outcome = loop.run_for(leader.propose(ClaimController(1, leader.term), 3.0), 4)
            if isinstance(outcome, Unknown):
                assert outcome.sequence == 1
            group.run(SOON)
            images = {log.image.version: log.image for log in group.logs.values()}
            assert len(images) == 1
            loop.end()


def test_images_that_differ_are_noticed(group: Group) -> None:
    group.leader()
    image = group.logs[1].image
    broken = MetadataImage(version=image.version)
    with pytest.raises(ImagesDiffer):
        group.voters.compare(broken)
