"""Voters that administrators add and remove: what is asked of whom, and what is refused before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from millpond.wire.errors import BrokerNotReady, InvalidRequest
from millpond_broker.core.commands import RemoveVoter
from millpond_broker.runtime.control_messages import Failed, Ready, Reply
from millpond_broker.runtime.peering import Peering
from millpond_broker.runtime.peers import Peer, Purpose
from millpond_broker.runtime.voting import Voting
from tests.unit.runtime.followers import Following, play
from tests.unit.runtime.members import until
from tests.unit.runtime.test_following_metadata import as_voter, decide
from tests.unit.runtime.voters import address_of, directory_of


@dataclass
class Seat:
    """A broker that answers as a test says, at its own port."""

    answer: Reply
    asked: list[str] = field(default_factory=list)
    on_hand_over: Callable[[], None] = lambda: None

    async def make_ready(self) -> Reply:
        self.asked.append("ready")
        return self.answer

    def hand_over(self) -> None:
        self.asked.append("hand over")
        self.on_hand_over()


async def listens(cluster: Following, broker_id: int, seat: Seat) -> None:
    """Its port, as if a broker ran there."""
    node = cluster.nodes[broker_id]
    peer = Peer(broker_id, directory_of(broker_id), node.incarnation, b"")
    peering = Peering(peer, None, seat)
    peering.follow(node.metadata, node.controller)
    node.streams.serve(Purpose.CONTROL, peering.serve)


def voting(cluster: Following, broker_id: int = 2, seat: Seat | None = None) -> Voting:
    node = cluster.nodes[broker_id]
    return Voting(node.metadata, broker_id, node.streams, seat or Seat(Failed("not asked")))


async def with_follower(cluster: Following, answer: Reply) -> Seat:
    """Broker 4 follows, and answers that when it is to vote."""
    await cluster.follow(4)
    await cluster.running()
    seat = Seat(answer)
    await listens(cluster, 4, seat)
    return seat


def test_a_broker_that_reaches_enough_of_the_others_is_added() -> None:
    async def story(cluster: Following) -> None:
        seat = await with_follower(cluster, Ready(directory_of(4), (1, 3)))
        as_voter(cluster, 4)
        image = await voting(cluster).add(4)
        assert list(image.voters) == [1, 2, 3, 4]
        assert (image.voters[4].directory_id, image.voters[4].address) == (directory_of(4), address_of(4))
        await voting(cluster).add(4)
        assert seat.asked == ["ready"], "it votes already"

    play(story)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Ready(directory_of(4), (1,)), "2 can be reached and 3 are needed"),
        (Ready(directory_of(4), ()), "1 can be reached and 3 are needed"),
        (Failed("its disk was removed"), "cannot be made a voter: its disk was removed"),
    ],
)
def test_a_broker_with_which_nothing_could_be_decided_is_refused(answer: Reply, reason: str) -> None:
    async def story(cluster: Following) -> None:
        await with_follower(cluster, answer)
        with pytest.raises(InvalidRequest, match=reason):
            await voting(cluster).add(4)
        assert 4 not in cluster.nodes[1].metadata.image.voters

    play(story)


def test_only_a_member_that_runs_and_is_reached_is_added() -> None:
    async def story(cluster: Following) -> None:
        with pytest.raises(InvalidRequest, match="not a member"):
            await voting(cluster).add(9)
        await with_follower(cluster, Ready("another disk", (1, 2, 3)))
        with pytest.raises(BrokerNotReady, match="started anew"):
            await voting(cluster).add(4)
        del cluster.network.listening[address_of(4)]
        with pytest.raises(BrokerNotReady, match="broker 4 at"):
            await voting(cluster).add(4)
        await cluster.end(4)
        await until(lambda: cluster.nodes[2].metadata.image.brokers[4].is_lost, 5.0)
        with pytest.raises(InvalidRequest, match="broker 4 is fenced"):
            await voting(cluster).add(4)

    play(story)


def test_a_voter_is_removed_while_a_majority_of_the_rest_runs() -> None:
    async def story(cluster: Following) -> None:
        await cluster.kill(3)
        await until(lambda: cluster.nodes[2].metadata.image.brokers[3].is_lost, 5.0)
        with pytest.raises(InvalidRequest, match="without broker 1 there would be 2 voters"):
            await voting(cluster).remove(1)
        assert list((await voting(cluster).remove(3)).voters) == [1, 2]
        assert list((await voting(cluster).remove(3)).voters) == [1, 2], "asking twice is asking once"
        with pytest.raises(InvalidRequest, match="not a member"):
            await voting(cluster).remove(9)

    play(story)


def test_a_voter_that_leads_lets_another_lead_before_it_is_removed() -> None:
    async def story(cluster: Following) -> None:
        seat = Seat(Failed("not asked"), on_hand_over=lambda: cluster.voters.elect(3))
        await listens(cluster, 1, seat)
        assert list((await voting(cluster).remove(1)).voters) == [2, 3]
        assert seat.asked == ["hand over"]

    play(story)


def test_the_last_voter_stays_and_a_broker_alone_changes_none() -> None:
    async def story(cluster: Following) -> None:
        for voter in (3, 2):
            decide(cluster, RemoveVoter(voter))
        with pytest.raises(InvalidRequest, match="the last voter stays"):
            await voting(cluster, 1).remove(1)
        alone = Voting(cluster.nodes[1].metadata, 1, None, None)
        with pytest.raises(InvalidRequest, match=r"no cluster\.secret_file"):
            await alone.add(2)

    play(story)
