"""Who this broker is to others, whom it lets in, and what it answers on their control streams."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from millpond_broker.runtime.asking import Conversation
from millpond_broker.runtime.control_messages import (
    Beat,
    Failed,
    Found,
    HandOver,
    Here,
    Propose,
    Proposed,
    Question,
    ReadyToVote,
    Reply,
    Who,
)
from millpond_broker.runtime.controller import Controller
from millpond_broker.runtime.metadata import Metadata
from millpond_broker.runtime.peers import Peer, PeerStream

AnswerFound = Callable[[Peer, Found], Reply]
"""What this broker knows of its cluster's foundation; asked before there is metadata, too."""


class VoterSeat(Protocol):
    """This broker's place among the voters, or the one that it may get."""

    async def make_ready(self) -> Reply:
        """Before it is added: Ready once it hears the others; Failed."""

    def hand_over(self) -> None:
        """Let another voter lead, if this one does: soon, or not at all."""


class Peering:
    """Of one start. Before `follow` it has no metadata; from `leave` on it is nobody."""

    def __init__(
        self, me: Peer, answer_found: AnswerFound | None, voter_seat: VoterSeat | None = None
    ) -> None:
        """`me`: without a cluster's id. `voter_seat` None: this broker always votes alone."""
        self._me = me
        self._answer_found = answer_found
        self._voter_seat = voter_seat
        self._metadata: Metadata | None = None
        self._controller: Controller | None = None
        self._has_left = False

    def follow(self, metadata: Metadata, controller: Controller) -> None:
        """There is metadata, and perhaps a controller here."""
        self._metadata, self._controller = metadata, controller

    def leave(self) -> None:
        """This start is over: who asks for it finds nobody."""
        self._has_left = True

    # --- any thread may ask these -------------------------------------------------------------------------

    def me(self) -> Peer:
        """Who this broker is, now."""
        metadata = self._metadata
        return replace(self._me, cluster_id=(metadata.image.cluster_id or b"") if metadata else b"")

    def admit(self, peer: Peer) -> str | None:
        """Why that peer is not let in, in either direction; None if it is. One that knows no cluster yet is:
        it asks what there is, and is answered nothing else.
        """
        metadata = self._metadata
        if peer.broker_id == self._me.broker_id:
            return f"two brokers have the id {peer.broker_id}"
        if metadata is None or not peer.cluster_id:
            return None
        image = metadata.image
        if image.cluster_id is not None and peer.cluster_id != image.cluster_id:
            return f"it is of cluster {peer.cluster_id.hex()}, and this one of {image.cluster_id.hex()}"
        broker, voter = image.brokers.get(peer.broker_id), image.voters.get(peer.broker_id)
        disk = broker.directory_id if broker else voter.directory_id if voter else peer.directory_id
        if disk != peer.directory_id:
            return f"broker id {peer.broker_id} belongs to data directory {disk}, not {peer.directory_id}"
        return None

    # --- control streams ----------------------------------------------------------------------------------

    async def serve(self, stream: PeerStream) -> None:
        """Answer on one control stream until it is over."""
        has_beaten = False

        def answer(peer: Peer, question: Question) -> Reply | Awaitable[Reply]:
            nonlocal has_beaten
            has_beaten |= isinstance(question, Beat)
            return self._answer(peer, question)

        try:
            await Conversation(stream, answer).run()
        finally:
            if has_beaten and self._controller is not None:
                self._controller.connection_closed(stream.peer.broker_id)

    def _answer(self, peer: Peer, question: Question) -> Reply | Awaitable[Reply]:
        if self._has_left:
            return Failed("this broker is stopping")
        if isinstance(question, Found):
            if self._answer_found is None:
                return Failed("nothing is founded with this broker")
            return self._answer_found(peer, question)
        if isinstance(question, Who):
            return Here(self._me.incarnation)
        if self._metadata is None or self._controller is None:
            return Failed("this broker has no metadata yet")
        if not peer.cluster_id:
            return Failed("a broker without metadata is told of the foundation, and nothing else")
        if isinstance(question, ReadyToVote | HandOver):
            return self._change_seat(question)
        if isinstance(question, Beat):
            if question.heartbeat.broker_id != peer.broker_id:
                return Failed("a heartbeat is of who sends it")
            return self._controller.beat(question)
        if question.envelope.proposer != peer.incarnation:
            return Failed("a proposal is of who sends it")
        return self._propose(self._metadata, question)

    def _change_seat(self, question: ReadyToVote | HandOver) -> Reply | Awaitable[Reply]:
        if self._voter_seat is None:
            return Failed("this broker runs as the only voter")
        if isinstance(question, ReadyToVote):
            return self._voter_seat.make_ready()
        self._voter_seat.hand_over()
        return Here(self._me.incarnation)

    async def _propose(self, metadata: Metadata, question: Propose) -> Proposed:
        outcome = await metadata.log.propose_for(question.envelope, question.timeout_ms / 1000)
        return Proposed(outcome, metadata.log.leader)
