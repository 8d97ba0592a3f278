"""What administrators ask for about replicas and leaders: which brokers hold a partition, and which leads it.

Every request is decided on this broker's image and applied item by item; an item whose partition has changed
meanwhile (the controller elects, leaders change their ISRs) is decided anew, a few times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from millpond.wire.errors import InvalidRequest, InvalidUpdateVersion, MillpondError, UnknownTopic
from millpond_broker.core.commands import Assignment, Barrier, Command, ReassignPartitions
from millpond_broker.core.image import MetadataImage, TopicImage
from millpond_broker.core.requests import (
    new_reassignment,
    preferred_elections,
    unclean_elections,
    without_preference,
)
from millpond_broker.core.results import RefusedItem
from millpond_broker.runtime.metadata import Proposing

ATTEMPTS_MAX: Final = 5
"""Decisions on one request: each is made void only by a change that somebody else was quicker with."""

Wanted = Sequence[tuple[bytes, int]]


@dataclass(frozen=True, slots=True)
class LedPartition:
    """A partition, and who leads it."""

    topic: str
    partition: int
    leader: int | None


class Replicas:
    """Administration of replicas and leaders of a broker that runs."""

    def __init__(self, metadata: Proposing) -> None:
        self._metadata = metadata

    async def reassign(self, name: str, replicas: Mapping[int, Assignment]) -> tuple[TopicImage, int]:
        """The topic, whose partitions are on their way to these replicas, and the version that says so.

        Each partition begins or is refused by itself; the first refusal is raised. Raises UnknownTopic,
        UnknownPartition, InvalidRequest, NotEnoughBrokers.
        """
        if not replicas:
            raise InvalidRequest(reason="no partitions are named")
        topic_id = self._find(self._metadata.image, name)

        def decide(image: MetadataImage) -> list[ReassignPartitions]:
            if topic_id not in image.topics:
                raise UnknownTopic(topic=name)
            each = [new_reassignment(image, topic_id, number, to) for number, to in replicas.items()]
            # What is on its way there already is not asked for twice: that would be no change.
            partitions = image.topics[topic_id].partitions
            items = [
                item
                for command in each
                for item in command.reassignments
                if partitions[item.partition].target != item.replicas
            ]
            return [ReassignPartitions(tuple(items))] if items else []

        await self._until_done(decide)
        image = self._metadata.image
        if topic_id not in image.topics:
            raise UnknownTopic(topic=name)
        return image.topics[topic_id], image.version

    async def elect(
        self, name: str, partitions: Sequence[int], *, unclean: bool
    ) -> tuple[list[LedPartition], int]:
        """Preferred leaders where another leads; or, unclean, leaders where nobody leads. Of one topic's
        partitions (none named: all), or of every topic for an empty name. Those whose leader has changed.
        What there is to elect is decided on what the cluster knows now: with no controller nothing is.

        Raises UnknownTopic, UnknownPartition, and as `propose`.
        """
        await self._metadata.propose(Barrier())
        before = self._metadata.image
        if name:
            topic_id = self._find(before, name)
            numbers = partitions or range(len(before.topics[topic_id].partitions))
            wanted: Wanted = [(topic_id, number) for number in numbers]
        elif partitions:
            raise InvalidRequest(reason="partitions are of a topic, and none is named")
        else:
            wanted = _all(before)
        elections = unclean_elections if unclean else preferred_elections
        await self._until_done(lambda image: elections(image, _there(image, wanted)))
        after = self._metadata.image
        return _moved(before, after, wanted), after.version

    async def drain(self, broker_id: int) -> tuple[list[LedPartition], list[LedPartition], int]:
        """What others lead now instead of this broker, and what it still leads, since nobody else is in sync.

        It goes on as a follower, last among those that are preferred. Topics made later may prefer it again.
        """
        await self._metadata.propose(Barrier())  # as in `elect`
        before = self._metadata.image
        if broker_id not in before.brokers:
            raise InvalidRequest(reason=f"broker {broker_id} is not a member of the cluster")
        await self._until_done(lambda image: without_preference(image, broker_id))
        led = _led_by(before, broker_id)
        await self._until_done(lambda image: preferred_elections(image, _led_by(image, broker_id)))
        after = self._metadata.image
        remaining = [_state(after, key) for key in _led_by(after, broker_id)]
        return _moved(before, after, led), remaining, after.version

    async def _until_done(self, decide: Callable[[MetadataImage], Sequence[Command]]) -> None:
        """Propose what is decided, and again what was overtaken. Raises the first refusal of another kind,
        once everything was proposed.
        """
        overtaken: MillpondError | None = None
        for _ in range(ATTEMPTS_MAX):
            commands = decide(self._metadata.image)
            if not commands:
                return
            overtaken, refused = None, None
            for command in commands:
                items = cast("tuple[RefusedItem, ...] | None", await self._metadata.propose(command))
                for item in items or ():
                    error = item.refused.error
                    if isinstance(error, InvalidUpdateVersion):
                        overtaken = error
                    elif not isinstance(error, UnknownTopic):  # what is deleted meanwhile needs nothing
                        refused = refused or error
            if refused is not None:
                raise refused
            if overtaken is None:
                return
        assert overtaken is not None, "it ended otherwise"
        raise overtaken

    @staticmethod
    def _find(image: MetadataImage, name: str) -> bytes:
        topic_id = image.topic_ids.get(name)
        if topic_id is None:
            raise UnknownTopic(topic=name)
        return topic_id


def _all(image: MetadataImage) -> Wanted:
    return [(key, number) for key, topic in image.topics.items() for number in range(len(topic.partitions))]


def _there(image: MetadataImage, wanted: Iterable[tuple[bytes, int]]) -> Wanted:
    """Those whose topic was not deleted meanwhile."""
    return [key for key in wanted if key[0] in image.topics]


def _led_by(image: MetadataImage, broker_id: int) -> Wanted:
    return [
        (key, number)
        for key, topic in image.topics.items()
        for number, partition in enumerate(topic.partitions)
        if partition.leader == broker_id
    ]


def _state(image: MetadataImage, key: tuple[bytes, int]) -> LedPartition:
    topic = image.topics[key[0]]
    return LedPartition(topic.name, key[1], topic.partitions[key[1]].leader)


def _moved(before: MetadataImage, after: MetadataImage, wanted: Wanted) -> list[LedPartition]:
    pairs = [(_state(before, key), _state(after, key)) for key in _there(after, wanted)]
    return [now for then, now in pairs if now.leader not in (None, then.leader)]
