"""What administrators ask for about voters: one is added, one is removed, in a cluster that runs.

A change counts from its entry in the log on, and that entry needs a majority of the voters with it. So what
could leave the cluster without one is refused before: a new voter has to have made its log, and to have
reached enough of the others, before it is added; of those that stay, a majority has to run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from millpond.wire.errors import BrokerNotReady, InvalidRequest, OperationTimeout
from millpond_broker.core.commands import AddVoter, RemoveVoter, Voter
from millpond_broker.core.image import BrokerState, MetadataImage
from millpond_broker.runtime.asking import Target, Unanswered, ask_once
from millpond_broker.runtime.control_messages import Failed, HandOver, Question, Ready, ReadyToVote, Reply
from millpond_broker.runtime.metadata import Metadata
from millpond_broker.runtime.peering import VoterSeat
from millpond_broker.runtime.peers import PeerStreams

READY_SECONDS_MAX: Final = 10.0
"""For a broker to make a voter's log, and to reach the other voters."""
HAND_OVER_SECONDS_MAX: Final = 3.0
"""For another voter to lead after one was asked to let it; an election takes one."""
ATTEMPTS_MAX: Final = 5
"""To remove a voter that leads, or leads again."""


class Voting:
    """Of one broker that runs. `seat` None: it runs as the only voter, and nobody reaches it."""

    def __init__(
        self, metadata: Metadata, broker_id: int, streams: PeerStreams | None, seat: VoterSeat | None
    ) -> None:
        self._metadata = metadata
        self._broker_id = broker_id
        self._streams = streams
        self._seat = seat

    async def add(self, broker_id: int) -> MetadataImage:
        """The image in which that broker votes. Raises InvalidRequest for one that cannot vote, or with which
        the voters might not be able to decide; BrokerNotReady, OperationTimeout.
        """
        image = self._metadata.image
        if broker_id in image.voters:
            return image
        broker = image.brokers.get(broker_id)
        if broker is None:
            raise InvalidRequest(
                reason=f"broker {broker_id} is not a member of the cluster: start it with this cluster's"
                " voters and secret, and add it then"
            )
        if not broker.peer_address:
            raise InvalidRequest(reason=f"broker {broker_id} has no address for other brokers")
        if broker.state is not BrokerState.RUNNING:
            raise InvalidRequest(reason=f"broker {broker_id} is {broker.state.value}, and could not vote now")
        answer = await self._ask(broker_id, ReadyToVote(), READY_SECONDS_MAX)
        if not isinstance(answer, Ready):
            reason = answer.reason if isinstance(answer, Failed) else type(answer).__name__
            raise InvalidRequest(reason=f"broker {broker_id} cannot be made a voter: {reason}")
        if answer.directory_id != broker.directory_id:
            raise BrokerNotReady(reason=f"broker {broker_id} has just been started anew")
        reached = running_voters(image).intersection(answer.reached)
        check_majority([*image.voters, broker_id], {*reached, broker_id}, f"with broker {broker_id}")
        voter = Voter(broker_id, broker.directory_id, broker.peer_address)
        await self._metadata.propose(AddVoter(voter, tuple(image.voters)))
        return self._metadata.image

    async def remove(self, broker_id: int) -> MetadataImage:
        """The image in which that broker does not vote. Raises InvalidRequest where too few would be left;
        BrokerNotReady, OperationTimeout.
        """
        for attempts_left in reversed(range(ATTEMPTS_MAX)):
            image = self._metadata.image
            if broker_id not in image.voters:
                if broker_id not in image.brokers:
                    raise InvalidRequest(reason=f"broker {broker_id} is not a member of the cluster")
                return image
            staying = image.voters.keys() - {broker_id}
            if not staying:
                raise InvalidRequest(reason="the last voter stays")
            check_majority(staying, running_voters(image), f"without broker {broker_id}")
            if self._leader == broker_id:
                await self._hand_over(broker_id)
            try:
                await self._metadata.propose(RemoveVoter(broker_id, tuple(image.voters)))
            except BrokerNotReady:
                # It led, or came to lead; whoever leads refuses to remove itself.
                if not attempts_left or self._leader not in (broker_id, None):
                    raise
        return self._metadata.image

    @property
    def _leader(self) -> int | None:
        return self._metadata.log.leader

    async def _hand_over(self, leader: int) -> None:
        await self._ask(leader, HandOver(), HAND_OVER_SECONDS_MAX)
        try:
            async with asyncio.timeout(HAND_OVER_SECONDS_MAX):
                await self._metadata.wait(lambda _image: self._leader not in (leader, None))
        except TimeoutError:
            raise OperationTimeout(
                what=f"waiting for another voter to lead than broker {leader}", timeout=HAND_OVER_SECONDS_MAX
            ) from None

    async def _ask(self, broker_id: int, question: Question, seconds: float) -> Reply:
        """Raises BrokerNotReady when it cannot be reached; InvalidRequest where there are no others."""
        if self._seat is None or self._streams is None:
            raise InvalidRequest(reason="this broker is alone: it has no cluster.secret_file")
        if broker_id == self._broker_id:
            if isinstance(question, ReadyToVote):
                return await self._seat.make_ready()
            self._seat.hand_over()
            return Failed("nothing is said to oneself")
        address = self._metadata.address_of(broker_id)
        if address is None:
            raise BrokerNotReady(reason=f"nobody knows where broker {broker_id} is")
        try:
            return await ask_once(self._streams, Target(broker_id, address), question, seconds)
        except Unanswered as error:
            raise BrokerNotReady(reason=f"broker {broker_id} at {address}: {error}") from None


def running_voters(image: MetadataImage) -> set[int]:
    """Voters that the controller knows to be alive."""
    return {
        key
        for key in image.voters
        if (broker := image.brokers.get(key)) is not None and broker.state is not BrokerState.FENCED
    }


def check_majority(voters: Iterable[int], there: set[int], how: str) -> None:
    """Raises InvalidRequest unless a majority of those voters is there."""
    all_of_them = set(voters)
    needed, found = len(all_of_them) // 2 + 1, len(all_of_them & there)
    if found < needed:
        raise InvalidRequest(
            reason=f"{how} there would be {len(all_of_them)} voters, of which {found} can be reached and"
            f" {needed} are needed: nothing could be decided any more"
        )
