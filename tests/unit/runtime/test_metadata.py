"""Changes of metadata from a broker that is not the controller: asked, asked again, and counted once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from millpond.wire.errors import BrokerNotReady, OperationTimeout, TopicExists
from millpond_broker.core.commands import (
    AllocateProducerIds,
    ClaimController,
    CreateTopic,
    FinishReassignments,
    PartitionSeen,
    UnfenceBroker,
)
from millpond_broker.rpc import control_codec
from millpond_broker.runtime.metadata import Deposed, Metadata
from millpond_broker.runtime.peering import Peering
from millpond_broker.runtime.peers import Peer, Purpose
from tests.unit.runtime.streams import MemoryStream, MemoryStreams, Network
from tests.unit.runtime.voters import Voters, address_of, directory_of, incarnation_of, registration


class NoController:
    """These tests need none: who leads the voters takes proposals before it claims, too."""

    def connection_closed(self, broker_id: int) -> None:
        """Nobody asked."""


@dataclass
class Node:
    metadata: Metadata
    streams: MemoryStreams


@asynccontextmanager
async def nodes(voters: Voters) -> AsyncIterator[dict[int, Node]]:
    """A broker's metadata and control streams, for each of the voters."""
    network = Network()
    made: dict[int, Node] = {}
    async with AsyncExitStack() as cleanup:
        for key, log in voters.logs.items():
            streams = MemoryStreams(network, address_of(key))
            metadata = Metadata(log, key, incarnation_of(key), streams)
            peering = Peering(Peer(key, directory_of(key), incarnation_of(key), b""), None)
            peering.follow(metadata, NoController())  # type: ignore[arg-type]  # as it says
            streams.serve(Purpose.CONTROL, peering.serve)
            await streams.start(peering.me, peering.admit)
            cleanup.push_async_callback(streams.close)
            cleanup.push_async_callback(metadata.close)
            made[key] = Node(metadata, streams)
        yield made


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def topic(number: int) -> CreateTopic:
    return CreateTopic(bytes([number]) * 16, f"topic-{number}", 1, 1, (), ((1,),))


async def test_a_change_goes_to_the_controller_and_is_here_when_it_is_answered() -> None:
    voters = Voters(1, 2, 3)
    voters.elect(1)
    async with nodes(voters) as all_of_them:
        metadata = all_of_them[2].metadata
        epoch = await metadata.propose(registration(2))
        assert metadata.image.brokers[2].epoch == epoch


async def test_what_was_committed_without_a_word_counts_once() -> None:
    """It is retried under the same sequence, and answered with what the first attempt gave."""
    voters = Voters(1, 2, 3)
    voters.elect(1)
    async with nodes(voters) as all_of_them:
        metadata = all_of_them[2].metadata
        epoch = await metadata.propose(registration(2))
        assert isinstance(epoch, int)
        voters.losing_answers.add(1)
        asked = asyncio.ensure_future(metadata.propose(AllocateProducerIds(2, epoch, 100)))
        await until(lambda: len(voters.envelopes) >= 4)
        voters.losing_answers.clear()
        assert await asked == 0
        assert metadata.image.next_producer_id == 100


async def test_a_new_controller_is_asked_as_soon_as_it_leads() -> None:
    voters = Voters(1, 2, 3)
    voters.elect(1)
    async with nodes(voters) as all_of_them:
        voters.logs[1].stuck = True
        asked = asyncio.ensure_future(all_of_them[2].metadata.propose(registration(2)))
        await asyncio.sleep(0.01)
        assert not asked.done()
        voters.elect(3)
        async with asyncio.timeout(1):
            await asked


async def test_a_change_decided_under_a_deposed_controller_is_decided_anew() -> None:
    """It was refused for its epoch alone: with the next epoch it is another proposal."""
    voters = Voters(1, 2, 3)
    voters.elect(1)
    async with nodes(voters) as all_of_them:
        await all_of_them[1].metadata.propose(ClaimController(1, voters.term))
        voters.behind.add(2)
        voters.elect(3)
        await all_of_them[3].metadata.propose(ClaimController(3, voters.term))
        stale = all_of_them[2].metadata
        assert stale.image.controller_epoch == 1
        asked = asyncio.ensure_future(stale.propose(registration(2)))
        await until(lambda: len(voters.envelopes) >= 4)
        voters.behind.clear()
        voters.spread()
        await asked
        assert 2 in stale.image.brokers


async def test_a_refusal_is_raised_and_not_tried_again() -> None:
    voters = Voters(1, 2, 3)
    voters.elect(1)
    async with nodes(voters) as all_of_them:
        epoch = await all_of_them[1].metadata.propose(registration(1))
        assert isinstance(epoch, int)
        await all_of_them[2].metadata.propose(UnfenceBroker(1, epoch))
        await all_of_them[2].metadata.propose(topic(1))
        count = len(voters.envelopes)
        with pytest.raises(TopicExists):
            await all_of_them[2].metadata.propose(CreateTopic(bytes(16), "topic-1", 1, 1, (), ((1,),)))
        assert len(voters.envelopes) == count + 1


async def test_without_a_controller_nothing_was_changed() -> None:
    voters = Voters(1, 2, 3)
    async with nodes(voters) as all_of_them:
        with pytest.raises(BrokerNotReady, match="nobody is known to lead"):
            await all_of_them[2].metadata.propose(registration(2), 0.05)


async def test_a_controller_that_says_nothing_leaves_the_outcome_unknown() -> None:
    voters = Voters(1, 2, 3)
    voters.elect(1)
    voters.logs[1].stuck = True
    async with nodes(voters) as all_of_them:
        with pytest.raises(OperationTimeout):
            await all_of_them[2].metadata.propose(registration(2), 0.05)


async def test_a_change_that_is_too_large_for_the_log_is_said_to_be_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    voters = Voters(1, 2, 3)
    voters.elect(1)

    def send(_stream: MemoryStream, message: Any) -> None:
        control_codec.encode(message)

    monkeypatch.setattr(MemoryStream, "send", send)
    async with nodes(voters) as all_of_them:
        many = tuple(PartitionSeen(bytes(16), number, 1) for number in range(60_000))
        with pytest.raises(BrokerNotReady, match="1048576 fit"):
            await all_of_them[2].metadata.propose(FinishReassignments(many))


async def test_nobody_proposes_in_another_ones_name() -> None:
    """A proposer's sequences are its own: another's command under them would be answered with its results."""
    voters = Voters(1, 2, 3)
    voters.elect(1)
    async with nodes(voters) as all_of_them:
        forger = Metadata(voters.logs[2], 2, incarnation_of(3), all_of_them[2].streams)
        with pytest.raises(OperationTimeout):
            await forger.propose(registration(2), 0.15)
        await forger.close()
        assert len(voters.envelopes) == 1


async def test_a_controller_proposes_in_the_term_that_it_claimed_or_not_at_all() -> None:
    voters = Voters(1, 2, 3)
    voters.elect(1)
    async with nodes(voters) as all_of_them:
        term = voters.term
        await all_of_them[1].metadata.propose_as_controller(ClaimController(1, term), term, 1.0)
        voters.elect(2)
        with pytest.raises(Deposed):
            await all_of_them[1].metadata.propose_as_controller(registration(1), term, 1.0)
