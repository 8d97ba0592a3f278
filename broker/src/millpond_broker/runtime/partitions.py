"""The partitions that this broker holds, made to follow the metadata: opened, led, followed, deleted.

`follow` takes each image and gives every replica its part in it; nothing else does, and nothing but `LogWork`
opens, cuts or closes a log. Rule 12: until the image holds this very start's registration this broker acts on
no partition, and it leads only in an epoch that the image gives it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from millpond.wire.errors import (
    BrokerNotReady,
    CorruptBatch,
    InvalidRequest,
    MillpondError,
    NotLeader,
    StorageFailed,
    UnknownPartition,
    UnknownTopic,
)
from millpond.wire.record import TopicPartition
from millpond_broker.core.admission import AdmissionLimits
from millpond_broker.core.commands import ID_BYTES, CutReport
from millpond_broker.core.follower import Follower
from millpond_broker.core.image import EMPTY, MetadataImage, PartitionImage, TopicImage
from millpond_broker.core.in_sync import Committed, Member, WantedIsr
from millpond_broker.core.leader import Reign
from millpond_broker.core.topic_config import TopicConfig
from millpond_broker.observe.logs import event
from millpond_broker.observe.metrics import BrokerMetrics
from millpond_broker.runtime.following import Following
from millpond_broker.runtime.log_work import Cut, Delete, Empty, LogWork, Open, Work, log_options
from millpond_broker.runtime.metadata import Proposing
from millpond_broker.runtime.partition import Key, Partition, PartitionOptions, State
from millpond_broker.runtime.peers import PeerStream, PeerStreams
from millpond_broker.runtime.ports import Blocking, Clock
from millpond_broker.runtime.requests import Requests
from millpond_broker.runtime.seats import Seats
from millpond_broker.runtime.stalls import Stalls
from millpond_broker.runtime.stream_to_follower import Pace, StreamsToFollowers
from millpond_broker.runtime.stream_to_leader import StreamToLeader
from millpond_broker.runtime.syncer import Syncer
from millpond_broker.storage.directory import DataDirectory, partition_of
from millpond_broker.storage.files import Files
from millpond_broker.storage.group_commit import GroupCommit
from millpond_broker.storage.log import Log

_log: Final = logging.getLogger(__name__)

CHECKPOINTS_SECONDS_MAX: Final = 0.01
"""Of a round of upkeep, for writing down high watermarks: nothing rests on when, and each takes two syncs."""
TICK_SECONDS: Final = 0.25
"""How often leaders look for who lags, and ask again for what had no answer."""


@dataclass(frozen=True, kw_only=True)
class PartitionsOptions:
    """What the partitions of a broker share."""

    broker_id: int
    incarnation: bytes
    limits: AdmissionLimits
    logs_at_once: int = 1
    """Worked on at a time, which `disk` has to take."""
    catch_up_bytes_per_second: int = 64 << 20
    """Pushed to replicas that are not in sync, all together."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What the logs on this disk say of the stop before: for the registration (rule 15)."""

    previous_epoch: int
    """The broker epoch under which every log was closed; 0: not all were."""
    cuts: tuple[CutReport, ...]
    """Logs that lost bytes, and where they end now."""


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
        metadata: Proposing,
        has_lease: Callable[[], bool],
        streams: PeerStreams | None,
    ) -> None:
        self.syncer = Syncer(group_commit, syncs, clock, metrics, self._log_failed)
        self.has_lease = has_lease
        self._options = options
        self._files = files
        self._directory = directory
        self._disk = disk
        self._clock = clock
        self._metrics = metrics
        self._streams = streams
        self._work = LogWork(files, directory, disk, self.syncer, self._worked, at_once=options.logs_at_once)
        self._requests = Requests(metadata, self._me, self._state_of)
        self._stalls = Stalls(
            self.syncer, lambda: list(self), lambda partition: self.give_up(partition, leaves=False)
        )
        self._seats = Seats(
            options.broker_id,
            clock,
            work=self._work,
            requests=self._requests,
            me=self._me,
            state_of=self._state_of,
        )
        self._followers = StreamsToFollowers(self._held_at, Pace(options.catch_up_bytes_per_second, clock))
        self._held: dict[Key, Partition] = {}
        self._image: MetadataImage = EMPTY
        # One for each broker that was ever followed.
        self._leaders: dict[int, StreamToLeader] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._stream_number = 0
        # Greater than every session of a follower that is over.
        self._sessions = 0
        # Each event is used once: whoever waits holds the one that the next change sets.
        self._progress = asyncio.Event()
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

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

    def _held_at(self, key: Key) -> Partition | None:
        return self._held.get(key)

    def __iter__(self) -> Iterator[Partition]:
        return iter(self._held.values())

    def __len__(self) -> int:
        return len(self._held)

    def _me(self) -> Member | None:
        """This start of this broker, as the metadata has registered it."""
        broker = self._image.brokers.get(self._options.broker_id)
        if broker is None or broker.incarnation != self._options.incarnation:
            return None
        return Member(broker.broker_id, broker.epoch)

    # --- life -----------------------------------------------------------------------------------------

    async def recover(self) -> Recovered:
        """Open every log on this disk. Before this broker registers, and before `run`."""
        for name in await self._disk.run(lambda: self._files.list(self._directory.partitions)):
            if (found := partition_of(name)) is None:
                continue
            (topic, number), topic_id = found
            self._new((bytes.fromhex(topic_id), number), topic, TopicConfig())
        await self._work.open_all(list(self._held.values()), log_options(TopicConfig()))
        epochs, cuts = set(), []
        for partition in self._held.values():
            log = partition.log
            if log is None:
                epochs.add(0)
                continue
            report = log.recovery
            epochs.add(report.clean_epoch or 0)
            if report.may_have_lost:
                cuts.append(CutReport(*partition.key, log.last_epoch, log.log_end))
        return Recovered(epochs.pop() if len(epochs) == 1 else 0, tuple(cuts))

    async def run(self) -> None:
        """Follow, ask and replicate until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tasks.create_task(self._work.run(), name="log work")
            tasks.create_task(self._requests.run(), name="requests")
            tasks.create_task(self._tick(), name="ticks")
            tasks.create_task(self._ends_when_broken(), name="metadata followed")
            for link in self._leaders.values():
                tasks.create_task(link.run(), name=f"stream to {link.leader}")

    async def _ends_when_broken(self) -> None:
        await asyncio.shield(self._broken)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._stalls.tick()
            for partition in list(self._held.values()):
                partition.tick()

    async def serve_follower(self, stream: PeerStream) -> None:
        """Another broker follows partitions that are led here; until the stream is over."""
        await self._followers.serve(stream)

    async def reached(self, version: int) -> None:
        """Wait until everything here follows that version of the metadata. The caller has the deadline."""
        while self._image.version < version or not self._work.is_idle:
            await self._progress.wait()

    def _has_progressed(self) -> None:
        self._progress.set()
        self._progress = asyncio.Event()

    async def remove_orphans(self) -> None:
        """Delete logs whose topic the metadata does not know, and that could not even be opened."""
        await self._work.remove_unknown(frozenset(topic_id.hex() for topic_id in self._image.topics))

    # --- following the metadata -----------------------------------------------------------------------

    def follow(self, image: MetadataImage) -> None:
        """There is a newer image. Does not raise: what is wrong ends `run`."""
        try:
            self._follow_image(image)
        except Exception as error:  # of a callback: told to whoever owns this, which is `run`
            if not self._broken.done():
                self._broken.set_exception(error)

    def _follow_image(self, image: MetadataImage) -> None:
        before = self._image
        assert image.version >= before.version, "metadata only goes forward"
        was_registered = self._me() is not None
        self._image = image
        if self._me() is not None:
            if not was_registered:
                self._losses_are_told()
            is_new = not was_registered or image.brokers is not before.brokers
            known = {} if is_new else before.topics
            for topic_id, topic in image.topics.items():
                if known.get(topic_id) is not topic:
                    for number, state in topic.changed_since(known.get(topic_id)):
                        self._place((topic_id, number), topic, state)
            if is_new or image.topics is not before.topics:
                for key in [key for key in self._held if not self._is_ours(key)]:
                    self._drop(self._held[key])
        self._has_progressed()

    def _losses_are_told(self) -> None:
        """The registration said what recovery had cut."""
        for partition in self._held.values():
            if partition.log is not None and partition.log.recovery.may_have_lost:
                try:
                    partition.log.loss_is_told()
                except MillpondError as error:  # told again at the next start: a seat too many is given up
                    event(_log, logging.WARNING, "no_checkpoint", log=str(partition.name), error=str(error))

    def _is_ours(self, key: Key) -> bool:
        state = self._state_of(key)
        return state is not None and self._options.broker_id in state[1].replicas

    def _state_of(self, key: Key) -> tuple[TopicImage, PartitionImage] | None:
        topic = self._image.topics.get(key[0])
        if topic is None or key[1] >= len(topic.partitions):
            return None
        return topic, topic.partitions[key[1]]

    def _place(self, key: Key, topic: TopicImage, state: PartitionImage) -> None:
        """Let a replica of this broker play its part. While its log is worked on it plays none but the one
        that it has; `_worked` comes back to it.
        """
        me = self._options.broker_id
        partition = self._held.get(key)
        if me not in state.replicas:
            return
        if partition is None:
            partition = self._new(key, topic.name, topic.config)
        self._configure(partition, topic.config)
        partition.floor = max(partition.floor, dict(state.floors).get(me, 0))
        if self._work.is_due(partition):
            if not self._is_as_before(partition, state):
                self._stand_by(partition, state)
            return
        if partition.log is None:
            self._work.ask(partition, Open(log_options(topic.config)))
        elif partition.spoilt_in is not None:
            self._stand_by(partition, state)
            self._seats.start_over(partition, partition.log, state)
        elif self._seats.lacks_what_it_had(partition, state):
            self._stand_by(partition, state)
        elif state.leader == me:
            self._lead(partition, partition.log, topic, state)
        elif state.leader is not None:
            self._follow(partition, partition.log, state)
        else:
            self._stand_by(partition, state)
            self._seats.gives_up_as_corrupt(partition, state)

    def _is_as_before(self, partition: Partition, state: PartitionImage) -> bool:
        following = partition.following
        return following is not None and following.leader_epoch == state.leader_epoch

    def _stand_by(self, partition: Partition, state: PartitionImage) -> None:
        if partition.state in (State.LEADING, State.FOLLOWING):
            name = partition.name
            partition.stand_by(NotLeader(topic=name.topic, partition=name.partition, leader=state.leader))

    def _lead(self, partition: Partition, log: Log, topic: TopicImage, state: PartitionImage) -> None:
        committed = Committed.of(topic, state, self._image)
        if partition.leader is not None and partition.last_epoch == state.leader_epoch:
            partition.committed(committed)
            return
        if partition.last_epoch >= state.leader_epoch:
            return  # its log failed in this epoch: it has resigned (rule 12)
        if self._seats.gives_up_as_corrupt(partition, state):
            self._stand_by(partition, state)
            return
        if log.failure is not None:
            self._stand_by(partition, state)
            self._mend(partition)
            return
        self._stand_by(partition, state)
        if log.durable_end < log.log_start:
            partition.fail(CorruptBatch(reason="nothing of it is sound from its log start on", offset=None))
            return
        me = self._me()
        assert me is not None, "nobody leads before it is registered"
        reign = Reign(
            topic=topic.name,
            partition=partition.name.partition,
            broker_id=me.broker_id,
            broker_epoch=me.broker_epoch,
            leader_epoch=state.leader_epoch,
            waits_for_sync=partition.options.waits_for_sync,
            committed=committed,
        )
        partition.lead(log, reign)

    def _follow(self, partition: Partition, log: Log, state: PartitionImage) -> None:
        me = self._me()
        assert me is not None, "nobody follows before it is registered"
        assert state.leader is not None, "there is somebody to follow"
        floor = dict(state.floors).get(me.broker_id, 0)
        is_member = me.broker_id in state.isr or me.broker_id in state.elr
        if partition.following is not None and partition.following.leader_epoch == state.leader_epoch:
            partition.following.saw(state.partition_epoch, floor, is_member=is_member)
            return
        name = partition.name
        error = NotLeader(topic=name.topic, partition=name.partition, leader=state.leader)
        self._stand_by(partition, state)
        if log.failure is not None:
            self._mend(partition)
            return
        known_in = max(partition.known_in_epoch, -1 if log.last_epoch is None else log.last_epoch)
        machine = Follower(
            me,
            state.leader_epoch,
            log.position(),
            max(log.log_start, partition.known_high_watermark),
            waits_for_sync=partition.options.waits_for_sync,
            partition_epoch=state.partition_epoch,
            may_cut_committed=state.recovering_epoch is not None and known_in < state.recovering_epoch,
            last_session=self._sessions,
        )
        link = self._link(state.leader)
        following = Following(
            partition, machine, self, known_in=known_in, on_end=lambda: self._unfollow(link, partition)
        )
        partition.follow(following, error)
        self._stalls.meet(partition)
        if log.corruption is not None:
            following.log_corrupt()
        link.add(partition.key, following)

    def _unfollow(self, link: StreamToLeader, partition: Partition) -> None:
        following = link.remove(partition.key)
        if following is not None:
            self._sessions = max(self._sessions, following.session)

    def _link(self, leader: int) -> StreamToLeader:
        link = self._leaders.get(leader)
        if link is None:
            assert self._streams is not None, "a broker alone follows nobody"
            link = self._leaders[leader] = StreamToLeader(
                leader,
                self._streams,
                address=lambda: self._peer_address(leader),
                me=self._me,
                next_number=self._next_number,
            )
            if self._tasks is not None:
                self._tasks.create_task(link.run(), name=f"stream to {leader}")
        return link

    def _peer_address(self, broker_id: int) -> str | None:
        broker = self._image.brokers.get(broker_id)
        return None if broker is None else broker.peer_address

    def _next_number(self) -> int:
        self._stream_number += 1
        return self._stream_number

    def _new(self, key: Key, topic: str, config: TopicConfig) -> Partition:
        topic_id, number = key
        self._held[key] = partition = Partition(
            topic_id,
            TopicPartition(topic, number),
            self._options_for(config),
            clock=self._clock,
            metrics=self._metrics,
            around=self,
        )
        return partition

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
            partition.log.options = log_options(config)

    def _drop(self, partition: Partition) -> None:
        if partition.state is not State.CLOSED:
            name, found = partition.name, self._state_of(partition.key)
            error: MillpondError = UnknownTopic(topic=name.topic)
            if found is not None:
                error = NotLeader(topic=name.topic, partition=name.partition, leader=found[1].leader)
            partition.close(error)
            self._requests.forget(partition)
            self._work.ask(partition, Delete())

    # --- what partitions ask for ----------------------------------------------------------------------

    def request_sync(self, partition: Partition) -> None:
        """Something was appended, or its log failed."""
        self.syncer.request(partition)

    def alter(self, partition: Partition, wanted: WantedIsr) -> None:
        """Its leader wants that ISR."""
        self._requests.alter(partition, wanted)

    def give_up(self, partition: Partition, *, leaves: bool) -> None:
        """It gives up its leadership; `leaves`: its seat as well."""
        self._requests.give_up(partition, leaves=leaves)

    def corrupt(self, partition: Partition) -> bool:
        """Its leader has found its log damaged. Whether it is given up for that."""
        found = self._state_of(partition.key)
        return found is not None and self._seats.gives_up_as_corrupt(partition, found[1])

    def push(self, partition: Partition, followers: list[int]) -> None:
        """There is something to push to these."""
        self._followers.push(partition, followers)

    def tell_later(self, partition: Partition) -> None:
        """Its high watermark has moved."""
        self._followers.tell_later(partition)

    def cut(self, partition: Partition, offset: int) -> None:
        """Its log is to end there."""
        self._work.ask(partition, Cut(offset))

    def empty(self, partition: Partition, offset: int) -> None:
        """Its log is to begin there, with nothing."""
        self._work.ask(partition, Empty(offset))

    # --- logs -----------------------------------------------------------------------------------------

    def _worked(self, partition: Partition, work: Work) -> None:
        """Something was done to a log, or failed: its partition goes on from what it is now."""
        log = partition.log
        if isinstance(work, Delete):
            if self._held.get(partition.key) is partition:
                del self._held[partition.key]
        elif log is not None and log.failure is None and partition.state is not State.CLOSED:
            if isinstance(work, Open) and self._me() is not None:
                partition.has_lost |= log.recovery.may_have_lost
            partition.spoilt_in = None
            if partition.following is not None:
                partition.following.log_ready()
            else:
                partition.opened(log)
        found = self._state_of(partition.key)
        if (
            isinstance(partition.error, CorruptBatch)
            and log is not None
            and log.failure is not None
            and found
        ):
            partition.spoilt_in = found[1].partition_epoch
        if isinstance(work, Delete) or (
            log is not None and (log.failure is None or partition.spoilt_in is not None)
        ):
            self._place_again(partition.key)
        elif log is None and found is not None:
            self._seats.gives_up(partition, found[1])  # it could not be opened
        self._has_progressed()

    def _place_again(self, key: Key) -> None:
        if self._me() is not None and (state := self._state_of(key)) is not None:
            self._place(key, *state)

    def _mend(self, partition: Partition) -> None:
        if partition.spoilt_in is None:
            self._seats.mend(partition)
        else:
            self._place_again(partition.key)

    def _log_failed(self, partition: Partition) -> None:
        log = partition.log
        if log is None or log.failure is None or partition.state is State.CLOSED:
            return
        failure = log.failure
        event(_log, logging.ERROR, "log_failed", log=str(log.directory), error=str(failure))
        if partition.state is State.LEADING:
            partition.fail(StorageFailed(path=failure.path, reason=failure.reason, outcome=failure.outcome))
        if partition.following is not None:
            partition.following.log_failed()
        if partition.options.waits_for_sync and self._seats.has_led_in_this_epoch(partition):
            self.give_up(partition, leaves=False)  # it is cut in a later epoch only (rule 12)
        else:
            self._mend(partition)

    async def upkeep(self) -> None:
        """Retention, checkpoints, another chance for logs that failed. The loop gets a turn after each."""
        checkpoints_until = self._clock.monotonic() + CHECKPOINTS_SECONDS_MAX
        for partition in list(self._held.values()):
            if partition.log is not None and partition.state in (State.LEADING, State.FOLLOWING):
                partition.log.note_high_watermark(partition.high_watermark)
                if self._clock.monotonic() < checkpoints_until:
                    self._checkpoint(partition, partition.log)
            if partition.state is State.LEADING:
                if partition.log is not None and partition.log.corruption is not None:
                    self.corrupt(partition)
                try:
                    partition.retain()
                except MillpondError as error:
                    event(_log, logging.WARNING, "not_retained", log=str(partition.name), error=str(error))
                    if partition.log is not None and partition.log.failure is not None:
                        self._log_failed(partition)
            elif not self._work.is_due(partition) and partition.state is not State.CLOSED:
                if partition.log is not None and partition.log.failure is not None:
                    self._log_failed(partition)
                elif partition.state is State.OFFLINE:
                    self._place_again(partition.key)
            await asyncio.sleep(0)

    def _checkpoint(self, partition: Partition, log: Log) -> None:
        try:
            log.checkpoint()
        except MillpondError as error:
            event(_log, logging.WARNING, "no_checkpoint", log=str(partition.name), error=str(error))
            if log.failure is not None:
                self._log_failed(partition)

    def end_waits(self) -> None:
        """Nobody else is left to acknowledge: who waits for others is told that nothing is known (rule 8)."""
        for partition in self._held.values():
            if partition.leader is not None and len(partition.leader.in_sync.maximal) > 1:
                partition.stand_by(BrokerNotReady(reason="the broker is stopping"))

    async def close(self, broker_epoch: int) -> None:
        """Close every log: durable, and said to be complete under that epoch. `run` has ended."""
        self._followers.close()
        stopping = BrokerNotReady(reason="the broker is stopping")
        deleted = {partition for partition in self._held.values() if partition.state is State.CLOSED}
        for partition in self._held.values():
            if partition not in deleted:
                if partition.log is not None:
                    partition.log.note_high_watermark(partition.high_watermark)
                partition.close(stopping)
        # Of those whose topic is gone the deletion was cut short: the next start goes on with it.
        await self._work.close_all(
            {part: None if part in deleted else broker_epoch for part in self._held.values()}
        )
        self._held.clear()
