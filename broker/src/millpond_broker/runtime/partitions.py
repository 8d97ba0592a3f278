"""The partitions that this broker holds, made to follow the metadata: opened, led, reconfigured, deleted.

`Partitions.run` takes the latest image, however many passed since the last one, and brings what is here in
line with it; nothing else opens or closes a log. Rule 12: a partition is led only in an epoch that the image
binds to this incarnation of the broker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from millpond.wire.errors import (
    BrokerNotReady,
    InvalidRequest,
    MillpondError,
    NotLeader,
    StorageFailed,
    UnknownPartition,
    UnknownTopic,
)
from millpond.wire.record import TopicPartition
from millpond_broker.core.admission import AdmissionLimits
from millpond_broker.core.commands import ID_BYTES
from millpond_broker.core.image import EMPTY, MetadataImage, PartitionImage, TopicImage
from millpond_broker.core.in_sync import Committed, Standing
from millpond_broker.core.leader import Reign
from millpond_broker.core.state import BrokerState
from millpond_broker.core.topic_config import TopicConfig
from millpond_broker.observe.logs import event
from millpond_broker.observe.metrics import BrokerMetrics
from millpond_broker.runtime.partition import Partition, PartitionOptions, State
from millpond_broker.runtime.ports import Blocking, Clock
from millpond_broker.runtime.syncer import Syncer
from millpond_broker.storage.directory import DataDirectory, remove_log, topic_id_of
from millpond_broker.storage.files import Files
from millpond_broker.storage.group_commit import GroupCommit
from millpond_broker.storage.log import Log, LogOptions

_log: Final = logging.getLogger(__name__)

Key = tuple[bytes, int]


@dataclass(frozen=True, kw_only=True)
class PartitionsOptions:
    """What the partitions of a broker share."""

    broker_id: int
    incarnation: bytes
    limits: AdmissionLimits


class Partitions:
    """Replicas by (topic id, number). `run` is its task."""

    def __init__(
        self,
        options: PartitionsOptions,
        files: Files,
        directory: DataDirectory,
        group_commit: GroupCommit,
        *,
        syncs: Blocking,
        disk: Blocking,
        clock: Clock,
        metrics: BrokerMetrics,
        resign: Callable[[Partition], None],
    ) -> None:
        self.syncer = Syncer(group_commit, syncs, clock, metrics, self._log_failed)
        self._options = options
        self._files = files
        self._directory = directory
        self._disk = disk
        self._clock = clock
        self._metrics = metrics
        # Asks the controller for a new leadership: this one's log must be cut, which no leader may do in its
        # own epoch (rule 12).
        self._resign = resign
        self._held: dict[Key, Partition] = {}
        self._image: MetadataImage = EMPTY
        self._wake = asyncio.Event()
        # Version of the image that everything here follows.
        self._reached = 0
        self._progress = asyncio.Condition()

    # --- who is here ----------------------------------------------------------------------------------

    def find(self, topic_id: bytes, number: int) -> Partition:
        """The partition, which may not lead. Raises InvalidRequest, UnknownTopic, UnknownPartition, NotLeader
        or BrokerNotReady.
        """
        partition = self._held.get((topic_id, number))
        if partition is not None:
            return partition
        topic = self._image.topics.get(topic_id)
        if topic is None:
            if len(topic_id) > ID_BYTES:
                raise InvalidRequest(reason=f"a topic id has {ID_BYTES} bytes, not {len(topic_id)}")
            raise UnknownTopic(topic=topic_id.hex())
        if not 0 <= number < len(topic.partitions):
            raise UnknownPartition(topic=topic.name, partition=number, partitions=len(topic.partitions))
        if self._options.broker_id not in topic.partitions[number].replicas:
            leader = topic.partitions[number].leader
            raise NotLeader(topic=topic.name, partition=number, leader=leader)
        raise BrokerNotReady(reason=f"{topic.name}-{number} is opening")

    def __iter__(self) -> Iterator[Partition]:
        return iter(self._held.values())

    def __len__(self) -> int:
        return len(self._held)

    # --- following the metadata -----------------------------------------------------------------------

    def follow(self, image: MetadataImage) -> None:
        """There is a newer image."""
        assert image.version >= self._image.version, "metadata only goes forward"
        self._image = image
        self._wake.set()

    async def reached(self, version: int) -> None:
        """Wait until everything here follows that version of the metadata. The caller has the deadline."""
        async with self._progress:
            await self._progress.wait_for(lambda: self._reached >= version)

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.catch_up()

    async def catch_up(self) -> None:
        """Bring everything in line with the latest image. One call at a time: `run`'s, or the start's."""
        image = self._image
        wanted = dict(self._wanted(image))
        for key in [key for key in self._held if key not in wanted]:
            await self._delete(key)
        for key, (topic, state) in wanted.items():
            await self._place(key, topic, state, image)
        async with self._progress:
            self._reached = image.version
            self._progress.notify_all()

    def _wanted(self, image: MetadataImage) -> Iterator[tuple[Key, tuple[TopicImage, PartitionImage]]]:
        for topic in image.topics.values():
            for number, state in enumerate(topic.partitions):
                if self._options.broker_id in state.replicas:
                    yield (topic.topic_id, number), (topic, state)

    async def _place(self, key: Key, topic: TopicImage, state: PartitionImage, image: MetadataImage) -> None:
        partition = self._held.get(key)
        if partition is None:
            partition = self._held[key] = self._new(key, topic)
        self._configure(partition, topic.config)
        if partition.log is None and not await self._open(partition, topic.config):
            return
        broker = image.brokers.get(self._options.broker_id)
        is_ours = broker is not None and broker.incarnation == self._options.incarnation
        if not is_ours or state.leader != self._options.broker_id:
            if partition.state is State.LEADING:
                partition.stand_by(
                    NotLeader(topic=topic.name, partition=partition.name.partition, leader=state.leader)
                )
            return
        if partition.last_epoch < state.leader_epoch:
            await self._lead(partition, topic, state, image)

    async def _lead(
        self, partition: Partition, topic: TopicImage, state: PartitionImage, image: MetadataImage
    ) -> None:
        log = partition.log
        assert log is not None, "it was opened"
        if log.failure is not None:
            if not partition.options.waits_for_sync:
                return  # what was answered may lie past the durable end: it stays as it is (rule 40)
            if not await self._reopen(partition, log):
                return
        reign = Reign(
            topic=topic.name,
            partition=partition.name.partition,
            broker_id=self._options.broker_id,
            broker_epoch=image.brokers[self._options.broker_id].epoch,
            leader_epoch=state.leader_epoch,
            waits_for_sync=partition.options.waits_for_sync,
            committed=_committed(topic, state, image),
        )
        partition.lead(log, reign)

    def _new(self, key: Key, topic: TopicImage) -> Partition:
        topic_id, number = key
        return Partition(
            topic_id,
            TopicPartition(topic.name, number),
            self._options_for(topic.config),
            clock=self._clock,
            metrics=self._metrics,
            request_sync=self.syncer.request,
        )

    def _options_for(self, config: TopicConfig) -> PartitionOptions:
        return PartitionOptions(
            limits=self._options.limits,
            record_bytes_max=config.record_bytes_max,
            waits_for_sync=config.flush == "commit",
            flush_interval_ms=config.flush_interval_ms,
        )

    def _configure(self, partition: Partition, config: TopicConfig) -> None:
        partition.options = self._options_for(config)
        if partition.log is not None:
            partition.log.options = _log_options(config)

    # --- logs, off the loop ---------------------------------------------------------------------------

    def _directory_of(self, partition: Partition) -> Path:
        return self._directory.log_directory(partition.name, partition.topic_id.hex())

    async def _open(self, partition: Partition, config: TopicConfig) -> bool:
        where, name, options = self._directory_of(partition), partition.name, _log_options(config)
        opened: list[Log] = []  # kept beside the answer: one that is cancelled is closed with the rest
        try:
            await self._disk.run(lambda: opened.append(Log.open(self._files, where, name, options)))
        except MillpondError as error:
            event(_log, logging.ERROR, "log_not_opened", log=str(where), error=str(error))
            partition.fail(error)
            return False
        finally:
            if opened:
                partition.log = opened[0]
        report = opened[0].recovery
        if report.cut_bytes or report.corruption is not None:
            event(
                _log,
                logging.WARNING,
                "log_recovered",
                log=str(where),
                verified_bytes=report.verified_bytes,
                cut_bytes=report.cut_bytes,
                cut_offset=report.cut_offset,
                corruption=None if report.corruption is None else report.corruption.reason,
            )
        return True

    async def _reopen(self, partition: Partition, log: Log) -> bool:
        await self.syncer.forget(partition)
        partition.log = None  # nobody else looks at it while the thread cuts it
        try:
            await self._disk.run(log.reopen)
        except MillpondError as error:
            event(_log, logging.ERROR, "log_not_reopened", log=str(log.directory), error=str(error))
            partition.fail(error)
            return False
        finally:
            partition.log = log
        event(_log, logging.WARNING, "log_reopened", log=str(log.directory), log_end=log.log_end)
        return True

    async def _delete(self, key: Key) -> None:
        partition = self._held[key]
        partition.close(UnknownTopic(topic=partition.name.topic))
        await self.syncer.forget(partition)
        del self._held[key]
        log, partition.log = partition.log, None
        if log is not None:
            log.abandon()
        await self._remove(self._directory_of(partition))

    async def remove_orphans(self) -> None:
        """Delete logs whose topic the metadata does not know: deleting it was cut short."""
        known = {topic_id.hex() for topic_id in self._image.topics}
        for name in await self._disk.run(lambda: self._files.list(self._directory.partitions)):
            topic_id = topic_id_of(name)
            if topic_id is not None and topic_id not in known:
                await self._remove(self._directory.partitions / name)

    async def _remove(self, where: Path) -> None:
        try:
            if self._files.exists(where):
                await self._disk.run(lambda: remove_log(self._files, where))
        except OSError as error:
            # The topic is gone all the same, and the next start tries again.
            event(_log, logging.ERROR, "log_not_removed", log=str(where), error=str(error))
            return
        event(_log, logging.INFO, "log_removed", log=str(where))

    # --- trouble and upkeep ---------------------------------------------------------------------------

    def _log_failed(self, partition: Partition) -> None:
        log = partition.log
        if log is None or log.failure is None or partition.state is State.CLOSED:
            return
        event(_log, logging.ERROR, "log_failed", log=str(log.directory), error=str(log.failure))
        if partition.state is State.LEADING:
            partition.fail(
                StorageFailed(path=log.failure.path, reason=log.failure.reason, outcome=log.failure.outcome)
            )
        if partition.options.waits_for_sync:
            self._resign(partition)

    async def upkeep(self) -> None:
        """Retention, and another chance for logs that failed. The loop gets a turn after each."""
        for partition in list(self._held.values()):
            if partition.state is State.LEADING:
                try:
                    partition.retain()
                except MillpondError as error:
                    event(_log, logging.WARNING, "not_retained", log=str(partition.name), error=str(error))
                    if partition.log is not None and partition.log.failure is not None:
                        self._log_failed(partition)
            elif partition.state is State.OFFLINE:
                if partition.log is None:
                    self._wake.set()  # opening is tried again
                else:
                    self._log_failed(partition)
            await asyncio.sleep(0)

    async def close(self, broker_epoch: int) -> None:
        """Close every log: durable, and said to be complete under that epoch. `run` has ended."""
        stopping = BrokerNotReady(reason="the broker is stopping")
        deleted = {partition for partition in self._held.values() if partition.state is State.CLOSED}
        for partition in self._held.values():
            if partition not in deleted:
                partition.close(stopping)
        for partition in self._held.values():
            await self.syncer.forget(partition)
            log, partition.log = partition.log, None
            if log is None:
                continue
            if partition in deleted:
                log.abandon()  # its topic is gone, and its deletion cut short: the next start goes on with it
            else:
                await self._disk.run(lambda log=log: _close(log, broker_epoch))  # type: ignore[misc]  # bound now
        self._held.clear()


def _close(log: Log, broker_epoch: int) -> None:
    try:
        log.close(broker_epoch)
    except MillpondError as error:
        event(_log, logging.ERROR, "log_not_closed", log=str(log.directory), error=str(error))


def _committed(topic: TopicImage, state: PartitionImage, image: MetadataImage) -> Committed:
    brokers = {
        member: Standing(broker.epoch, may_join=broker.state is BrokerState.RUNNING)
        for member in state.replicas
        if (broker := image.brokers.get(member)) is not None
    }
    return Committed(
        partition_epoch=state.partition_epoch,
        replicas=frozenset(state.replicas),
        isr=frozenset(state.isr),
        min_insync=min(topic.min_insync, len(state.replicas)),
        brokers=brokers,
    )


def _log_options(config: TopicConfig) -> LogOptions:
    return LogOptions(
        segment_bytes=config.segment_bytes,
        segment_ms=config.segment_ms,
        retention_ms=config.retention_ms,
        retention_bytes=config.retention_bytes,
    )
