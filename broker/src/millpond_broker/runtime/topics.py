"""What administrators ask for: validated, proposed, and answered once this broker follows it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from millpond.wire.errors import (
    InvalidConfig,
    InvalidRequest,
    NotEnoughBrokers,
    OperationTimeout,
    UnknownTopic,
)
from millpond_broker.core.commands import Command, CreateTopic, DeleteTopic, SetTopicConfig
from millpond_broker.core.image import MetadataImage, TopicImage
from millpond_broker.core.requests import new_partitions, new_topic
from millpond_broker.core.topic_config import TopicConfig
from millpond_broker.runtime.feed import Feed
from millpond_broker.runtime.metadata import Proposing
from millpond_broker.runtime.partitions import Partitions
from millpond_broker.runtime.replicas import Replicas

PLANS_MAX: Final = 3
"""For partitions that are to be placed: each but the first after brokers were found to be gone."""
TRIM_SECONDS_MAX: Final = 5.0
"""For the replicas in sync to begin later, beyond their flush_interval_ms, because none trims what it has not
synced. One that is gone is out of the ISR by then: a session is 3 s."""


class Topics:
    """Topic administration of a broker that runs."""

    def __init__(
        self,
        metadata: Proposing,
        local: Partitions,
        feed: Feed,
        *,
        new_id: Callable[[], bytes],
        record_bytes_max: int,
        partitions_max: int,
    ) -> None:
        self.replicas = Replicas(metadata)
        """Who holds and leads their partitions."""
        self._metadata = metadata
        self._local = local
        self._feed = feed
        self._new_id = new_id
        # A record above it would never fit the largest batch.
        self._record_bytes_max = record_bytes_max
        # Of all topics: each costs this broker files, memory and time at a start.
        self._partitions_max = partitions_max
        # Held from counting partitions until those that are added are in the image, or several creations
        # side by side would each find the same room.
        self._adding = asyncio.Lock()

    async def create(
        self,
        name: str,
        *,
        partitions: int,
        replicas: int | None,
        min_insync: int | None,
        config: Mapping[str, str],
    ) -> tuple[TopicImage, int]:
        """The topic, which takes records now, and the version of the metadata that has it.

        Raises InvalidTopicName, TopicExists, NotEnoughBrokers, InvalidConfig, InvalidRequest; UnknownTopic if
        somebody deleted it before it could be answered.
        """
        self._check(TopicConfig.parse(config))
        topic_id = self._new_id()

        def planned(image: MetadataImage) -> CreateTopic:
            command = new_topic(
                image,
                topic_id=topic_id,
                name=name,
                partitions=partitions,
                replicas=replicas,
                min_insync=min_insync,
                config=config,
            )
            # After that there is none of the name: a call that is repeated finds what the first one made.
            self._check_room(partitions)
            return command

        async with self._adding:
            await self._place(planned)
        return await self._led(topic_id, name)

    async def delete(self, name: str) -> int:
        """The version of the metadata in which the topic is gone; its files are, too. Raises UnknownTopic."""
        with _gone_as(name):
            await self._metadata.propose(DeleteTopic(topic_id=self._find(name).topic_id))
        version = self._metadata.image.version
        await self._local.reached(version)
        return version

    async def alter(
        self, name: str, *, partitions: int | None, set_config: Mapping[str, str], unset: tuple[str, ...]
    ) -> tuple[TopicImage, int]:
        """The topic as it is now. Settings change before partitions are added; each is all or nothing.

        Raises UnknownTopic, InvalidConfig (also for `flush`, which is fixed), InvalidRequest.
        """
        topic = self._find(name)
        if partitions is not None and partitions < len(topic.partitions):
            raise InvalidRequest(
                reason=f"{name!r} has {len(topic.partitions)} partitions, which stay; not {partitions}"
            )
        if set_config or unset:
            self._check(TopicConfig.parse(set_config, topic.config))
            changed = SetTopicConfig(
                topic_id=topic.topic_id, set=tuple(sorted(set_config.items())), unset=tuple(sorted(unset))
            )
            with _gone_as(name):
                await self._metadata.propose(changed)
        if partitions is not None:
            with _gone_as(name):
                await self._grow(topic.topic_id, partitions)
        return await self._led(topic.topic_id, name)

    async def _grow(self, topic_id: bytes, partitions: int) -> None:
        async with self._adding:
            image = self._metadata.image
            there = len(image.topics[topic_id].partitions) if topic_id in image.topics else 0
            if partitions != there:
                self._check_room(partitions - there)
                await self._place(lambda image: new_partitions(image, topic_id, partitions))

    async def _place(self, plan: Callable[[MetadataImage], Command]) -> None:
        """Propose partitions on brokers that run. Those that were chosen may all be gone by the time that it
        is applied, the controller above all: then they are chosen anew. Raises what `plan` raises, and what
        it is refused with.
        """
        for plans_left in reversed(range(PLANS_MAX)):
            command = plan(self._metadata.image)
            try:
                await self._metadata.propose(command)
            except NotEnoughBrokers:
                if not plans_left:
                    raise
            else:
                return

    async def trim(self, topic_id: bytes, before: Mapping[int, int]) -> dict[int, int]:
        """Log starts by partition, after forgetting what lies before the given offsets, on every replica in
        sync (rule 7). Partitions are done one after another; an error leaves those before it trimmed.

        Raises UnknownTopic, UnknownPartition, OffsetOutOfRange, NotLeader, StorageFailed, StorageFull;
        OperationTimeout where it is done here, and some replica in sync has not said so in time.
        """
        if any(offset < 0 for offset in before.values()):
            raise InvalidRequest(reason="offsets begin at 0")
        found = {number: self._local.find(topic_id, number) for number in before}
        starts = {number: partition.trim(before[number]) for number, partition in found.items()}
        seconds = TRIM_SECONDS_MAX + max(
            [partition.unsynced_seconds_max for partition in found.values()], default=0
        )
        try:
            async with asyncio.timeout(seconds):
                for number, partition in found.items():
                    await partition.trimmed_everywhere(starts[number])
        except TimeoutError:
            raise OperationTimeout(what="trimming on every replica", timeout=seconds) from None
        return starts

    def _check(self, config: TopicConfig) -> None:
        if config.record_bytes_max > self._record_bytes_max:
            raise InvalidConfig(
                key="record_bytes_max",
                reason=f"{config.record_bytes_max} is more than this cluster's batches have room for:"
                f" {self._record_bytes_max}",
            )

    def _check_room(self, added: int) -> None:
        held = sum(len(topic.partitions) for topic in self._metadata.image.topics.values())
        if held + added > self._partitions_max:
            raise InvalidConfig(
                key="partitions",
                reason=f"{held} and {added} more exceed limits.partitions_max, {self._partitions_max}",
            )

    async def _led(self, topic_id: bytes, name: str) -> tuple[TopicImage, int]:
        """Wait until every partition of the topic has a leader, and what is this broker's takes records.

        Raises UnknownTopic if it was deleted meanwhile.
        """
        image = self._metadata.image
        while True:
            topic = image.topics.get(topic_id)
            if topic is None:
                raise UnknownTopic(topic=name)
            if all(partition.leader is not None for partition in topic.partitions):
                await self._local.reached(image.version)
                return topic, image.version
            image = await self._feed.newer_than(image)

    def _find(self, name: str) -> TopicImage:
        image = self._metadata.image
        if name not in image.topic_ids:
            raise UnknownTopic(topic=name)
        return image.topics[image.topic_ids[name]]


@contextmanager
def _gone_as(name: str) -> Iterator[None]:
    """A topic that somebody else deleted meanwhile goes by the name that the caller knows, not by its id."""
    try:
        yield
    except UnknownTopic:
        raise UnknownTopic(topic=name) from None
