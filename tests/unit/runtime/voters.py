"""Metadata logs of several brokers in memory: one list of commands, and who leads as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from millpond_broker.consensus.codec import encode_snapshot
from millpond_broker.consensus.metadata_log import CommittedEntry, NotApplied, Ok, ProposeOutcome, Unknown
from millpond_broker.consensus.snapshots import Snapshot
from millpond_broker.core.commands import (
    REPLICATION_LEVEL,
    Command,
    Envelope,
    InitCluster,
    RegisterBroker,
    Voter,
)
from millpond_broker.core.image import EMPTY, MetadataImage, apply

CLUSTER_ID = bytes(range(16))


def address_of(broker_id: int) -> str:
    return f"broker-{broker_id}:7071"


def directory_of(broker_id: int) -> str:
    return f"disk-{broker_id}"


def incarnation_of(broker_id: int, start: int = 0) -> bytes:
    return bytes([broker_id, start] * 8)


def registration(broker_id: int, start: int = 0) -> RegisterBroker:
    return RegisterBroker(
        broker_id=broker_id,
        incarnation=incarnation_of(broker_id, start),
        directory_id=directory_of(broker_id),
        address=f"broker-{broker_id}:7070",
        peer_address=address_of(broker_id),
        rack="",
        version="test",
        feature_level=REPLICATION_LEVEL,
    )


class Voters:
    """All of them. A majority is always there, and what is proposed to who leads is committed at once."""

    def __init__(self, *broker_ids: int) -> None:
        voters = tuple(Voter(key, directory_of(key), address_of(key)) for key in broker_ids)
        first = Envelope(CLUSTER_ID, 1, 0, InitCluster(CLUSTER_ID, voters, REPLICATION_LEVEL))
        self.envelopes = [first]
        self.leader: int | None = None
        self.term = 0
        self.logs: dict[int, MemoryLog] = {key: MemoryLog(self, key) for key in broker_ids}
        self.losing_answers: set[int] = set()
        """Brokers that commit what they are asked to, and do not know it."""
        self.behind: set[int] = set()
        """Brokers whose images stay as they are."""
        self.spread()

    def elect(self, broker_id: int) -> None:
        """It leads from now on."""
        self.leader = broker_id
        self.term += 1
        self.spread()
        for log in self.logs.values():
            log.tell()

    def spread(self) -> None:
        """Bring every image up to date."""
        for key, log in self.logs.items():
            if key not in self.behind:
                log.apply()

    def commit(self, envelope: Envelope) -> Ok:
        self.envelopes.append(envelope)
        index = len(self.envelopes) + 1
        before = EMPTY
        for at, known in enumerate(self.envelopes[:-1], start=2):
            before, _ = apply(before, at, known)
        _, result = apply(before, index, envelope)
        self.spread()
        return Ok(index, result)


class MemoryLog:
    """Implements MetadataLog: of one broker."""

    def __init__(self, voters: Voters, broker_id: int) -> None:
        self.image = EMPTY
        self.stuck = False
        """It leads, and commits nothing."""
        self.kept_from: int | None = None
        """From which index on it keeps commands; None: it keeps none."""
        self._voters = voters
        self._broker_id = broker_id
        self._callbacks: list[Callable[[MetadataImage], None]] = []

    @property
    def term(self) -> int:
        return self._voters.term if self._voters.leader == self._broker_id else 0

    @property
    def leader(self) -> int | None:
        return self._voters.leader

    def apply(self) -> None:
        envelopes = self._voters.envelopes[max(0, self.image.version - 1) :]
        for index, envelope in enumerate(envelopes, start=max(1, self.image.version) + 1):
            self.image, _ = apply(self.image, index, envelope)
        if envelopes:
            self.tell()

    def tell(self) -> None:
        for callback in list(self._callbacks):
            callback(self.image)

    async def propose(
        self,
        command: Command,
        timeout: float,
        *,
        sequence: int | None = None,
        controller_epoch: int | None = None,
    ) -> ProposeOutcome:
        raise AssertionError("everything is proposed in the broker's own name")

    async def propose_for(self, envelope: Envelope, timeout: float) -> ProposeOutcome:
        await asyncio.sleep(0)
        if self.stuck:
            await asyncio.sleep(timeout)
            return Unknown("stuck", envelope.sequence)
        if not self.term:
            return NotApplied("this voter does not lead")
        outcome = self._voters.commit(envelope)
        if self._broker_id in self._voters.losing_answers:
            return Unknown("the answer was lost", envelope.sequence)
        return outcome

    async def barrier(self, timeout: float) -> int:
        return self.image.version

    def subscribe(self, callback: Callable[[MetadataImage], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def committed(self, from_index: int) -> Iterator[CommittedEntry]:
        if self.kept_from is None or from_index < self.kept_from:
            raise LookupError("a snapshot is the start")
        envelopes = list(enumerate(self._voters.envelopes, start=2))
        return (
            CommittedEntry(index, 1, envelope)
            for index, envelope in envelopes
            if from_index <= index <= self.image.version
        )

    def snapshot(self) -> Snapshot:
        return Snapshot(self.image.version, 1, encode_snapshot(self.image))

    def look_elsewhere(self) -> None:
        """All there is, is here."""

    async def failed(self) -> None:
        await asyncio.Event().wait()

    def hand_over(self) -> None:
        """Whoever leads next is decided by the test."""

    async def close(self) -> None:
        """Nothing is open."""
