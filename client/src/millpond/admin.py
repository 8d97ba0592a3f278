"""`client.admin`: topics, brokers and offsets, described and changed.

Descriptions are frozen; `as_dict()` gives the object that the command line prints as JSON.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Literal

from millpond._core.cluster import BrokerView, PartitionView, TopicView
from millpond._core.retry import Deadline
from millpond._core.times import milliseconds
from millpond._transport import survey as surveys
from millpond._transport import topics as calls
from millpond._transport.connection import Connection
from millpond._transport.offsets import OffsetAnswer, OffsetQuestion, check_partition, list_offsets
from millpond.wire.errors import InvalidConfig, MillpondError, TopicExists, UnknownTopic
from millpond.wire.record import TopicPartition

OFFSETS_WAIT_S: Final = 5.0
"""A description waits so long for the ends of a log whose leader does not answer, then leaves them out."""


@dataclass(frozen=True, kw_only=True)
class PartitionDescription:
    """One partition. The ends of its log are None where they were not asked for, or its leader is away."""

    partition: int
    leader: int | None
    leader_epoch: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    elr: tuple[int, ...]
    log_start: int | None = None
    high_watermark: int | None = None
    log_end: int | None = None
    adding: tuple[int, ...] = ()
    """Of the replicas, those that a reassignment adds."""
    removing: tuple[int, ...] = ()
    """Those that it drops once these are in sync."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "partition": self.partition,
            "leader": self.leader,
            "leader_epoch": self.leader_epoch,
            "replicas": list(self.replicas),
            "isr": list(self.isr),
            "elr": list(self.elr),
            "log_start": self.log_start,
            "high_watermark": self.high_watermark,
            "log_end": self.log_end,
        }


@dataclass(frozen=True, kw_only=True)
class TopicDescription:
    """One topic. `config` has every setting with its value in effect, as text."""

    name: str
    id: uuid.UUID
    replicas: int
    min_insync: int
    config: Mapping[str, str]
    partitions: tuple[PartitionDescription, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "name": self.name,
            "id": str(self.id),
            "config": dict(self.config),
            "partitions": [partition.as_dict() for partition in self.partitions],
        }


@dataclass(frozen=True, kw_only=True)
class BrokerDescription:
    """One broker. `address` is host:port for clients; `state` is running, fenced or stopping (in a
    `ClusterStatus` also unreachable or not_ready); `voter` says whether it votes on the cluster's metadata.
    """

    id: int
    address: str
    rack: str
    state: str
    controller: bool
    epoch: int
    version: str
    voter: bool = False

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "id": self.id,
            "address": self.address,
            "rack": self.rack,
            "state": self.state,
            "controller": self.controller,
            "epoch": self.epoch,
            "version": self.version,
        }


@dataclass(frozen=True, kw_only=True)
class ClusterStatus:
    """How a cluster is, as far as it can be seen from here: by id and by name, internal topics included.

    Where it is not `current`, no broker that answers has heard of a controller for more than a session, or
    all are `behind`: topics, and the states of brokers, are as they were then, and nobody is the controller.
    Brokers that do not answer have the state `unreachable`, those that answer and are not ready `not_ready`.
    """

    brokers: tuple[BrokerDescription, ...]
    topics: tuple[TopicDescription, ...]
    current: bool
    told_by: int | None
    """Whose word this is; None: a broker too old to say, and `current` is not known to be true."""
    unheard_seconds: float
    """For how long that broker has not heard of the controller."""
    silent: Mapping[int, str]
    """Brokers that do not answer here, whatever the cluster says of them, and why."""
    not_ready: Mapping[int, str] = field(default_factory=dict)
    """Brokers that answer, and serve nobody: they start or stop; and what they say of it."""
    behind: bool = False
    """Newer than this was told to this client before, by brokers that do not answer now."""


class Admin:
    """Changes and describes topics. Every call takes `timeout=` in seconds and ends by then."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def create_topic(
        self,
        name: str,
        *,
        partitions: int = 3,
        replicas: int | None = None,
        min_insync: int | None = None,
        config: Mapping[str, Any] | None = None,
        exist_ok: bool = False,
        timeout: float | None = None,
    ) -> TopicDescription:
        """Create a topic, to which this client can produce at once.

        Without `replicas`, as many as there are brokers, at most 3; without `min_insync`, a majority of
        them. With `exist_ok` a topic that exists is described as it is. Raises TopicExists,
        InvalidTopicName, NotEnoughBrokers, InvalidConfig (which names the key).
        """
        for key, number in (("partitions", partitions), ("replicas", replicas), ("min_insync", min_insync)):
            if number is not None and not 0 <= number < 1 << 31:
                raise InvalidConfig(key=key, reason=f"{number} is no number of them")
        deadline = self._connection.deadline(timeout)
        try:
            topic = await calls.create_topic(
                self._connection,
                name,
                deadline,
                partitions=partitions,
                replicas=replicas,
                min_insync=min_insync,
                config=_texts(config),
            )
        except TopicExists:
            if not exist_ok:
                raise
            await self._connection.topic(name, deadline)
            return await self._describe(name, deadline)
        return _description(topic)

    async def delete_topic(self, name: str, *, timeout: float | None = None) -> None:
        """Delete a topic and all its records. Raises UnknownTopic."""
        await calls.delete_topic(self._connection, name, self._connection.deadline(timeout))

    async def describe_topic(self, name: str, *, timeout: float | None = None) -> TopicDescription:
        """One topic, with the ends of its logs as their leaders see them. Raises UnknownTopic."""
        return await self._describe(name, self._connection.deadline(timeout))

    async def list_topics(
        self, *, internal: bool = False, timeout: float | None = None
    ) -> list[TopicDescription]:
        """Every topic by name, without the ends of their logs; those of the system only if `internal`."""
        topics = await calls.describe(self._connection, (), self._connection.deadline(timeout))
        return [_description(topic) for topic in topics if internal or not topic.name.startswith("__")]

    async def alter_topic(
        self,
        name: str,
        *,
        partitions: int | None = None,
        config: Mapping[str, Any] | None = None,
        unset: Iterable[str] = (),
        timeout: float | None = None,
    ) -> TopicDescription:
        """Add partitions, change settings, put those in `unset` back to their defaults.

        More partitions move keys to other ones: records of a key keep their order only within each.
        Raises UnknownTopic, InvalidConfig, InvalidRequest for fewer partitions than there are.
        """
        if isinstance(unset, str):
            raise TypeError("unset= takes names, not one name: unset=[...]")
        deadline = self._connection.deadline(timeout)
        topic = await calls.alter_topic(
            self._connection,
            name,
            deadline,
            partitions=partitions,
            config=_texts(config),
            unset=tuple(unset),
        )
        return _description(topic)

    async def trim_topic(
        self,
        name: str,
        *,
        before: int | datetime | Literal["end"],
        partition: int | None = None,
        timeout: float | None = None,
    ) -> dict[int, int]:
        """Forget the records before an offset, a time or the end, in one partition or in all.

        Gives the log start of each afterwards; one that lies behind `before` already stays. Durable when
        it returns. Raises OffsetOutOfRange for an offset past the high watermark.
        """
        deadline = self._connection.deadline(timeout)
        topic = await self._connection.topic(name, deadline)
        numbers = _partitions(topic, None if partition is None else [partition])
        if isinstance(before, int) and not isinstance(before, bool):
            offsets = dict.fromkeys(numbers, before)
        else:
            found = await self._offsets(topic, numbers, before, deadline)
            offsets = {key.partition: offset for key, offset in found.items()}
        return await calls.trim_topic(self._connection, topic, offsets, deadline)

    async def reassign(
        self,
        name: str,
        replicas: Mapping[int, Sequence[int]],
        *,
        wait: bool = False,
        timeout: float | None = None,
    ) -> TopicDescription:
        """Move partitions to other brokers: replicas by partition, the first preferred as leader.

        Those that are new are added, and once they are in sync the others are dropped; writing and reading
        go on. Returns when that has begun, or with `wait` when it is done. Asking for the replicas that
        there are cancels what is under way. Raises UnknownTopic, UnknownPartition, InvalidRequest,
        NotEnoughBrokers, and with `wait` OperationTimeout (it goes on then).
        """
        deadline = self._connection.deadline(timeout)
        topic = await calls.reassign(self._connection, name, replicas, deadline)
        if wait:
            topic = await calls.moved(self._connection, topic, replicas, deadline)
        return _description(topic)

    async def elect_leaders(
        self,
        topic: str | None = None,
        *,
        partitions: Sequence[int] | None = None,
        unclean: bool = False,
        timeout: float | None = None,
    ) -> dict[TopicPartition, int]:
        """Give partitions back to their preferred leaders, of one topic or of all; who leads those that have
        another leader now. The cluster does so by itself a while after a broker came back.

        With `unclean`, elect leaders for partitions that have none instead, also where whoever is there may
        lack acknowledged records: those are lost then. Raises UnknownTopic, UnknownPartition.
        """
        if topic is None and (partitions is not None or unclean):
            raise TypeError("partitions= and unclean= are for one topic: name it")
        return await calls.elect_leaders(
            self._connection,
            topic or "",
            partitions or (),
            self._connection.deadline(timeout),
            unclean=unclean,
        )

    async def drain(
        self, broker: int, *, timeout: float | None = None
    ) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """Move leaderships away from a broker, before maintenance; it goes on as a follower.

        Who leads what was moved; and what it still leads, since no other replica is in sync. Others are
        preferred as leaders of its partitions from then on; `reassign` changes that. Raises InvalidRequest
        for a broker that is not a member.
        """
        return await calls.drain(self._connection, broker, self._connection.deadline(timeout))

    async def add_voter(self, broker: int, *, timeout: float | None = None) -> tuple[int, ...]:
        """Let a broker that is a member vote on the cluster's metadata; the ids of all that vote then.

        One at a time. Raises InvalidRequest for one that cannot be reached, or cannot vote; nothing changes
        where it votes already.
        """
        return await calls.change_voters(
            self._connection, "AddVoter", broker, self._connection.deadline(timeout)
        )

    async def remove_voter(self, broker: int, *, timeout: float | None = None) -> tuple[int, ...]:
        """Let a broker vote no more, dead or alive; the ids of those that still vote.

        It may go on as a broker, and never votes again. Raises InvalidRequest where too few of the others
        run to decide anything.
        """
        return await calls.change_voters(
            self._connection, "RemoveVoter", broker, self._connection.deadline(timeout)
        )

    async def brokers(self, *, timeout: float | None = None) -> list[BrokerDescription]:
        """Every broker of the cluster, by id, as whoever answers has heard of it: `status` says when. Where
        all that answer are behind what this client was told before, the newest of them is believed, but for
        who is the controller: nobody is known to be.
        """
        brokers, controller = await calls.brokers(self._connection, self._connection.deadline(timeout))
        return [_broker_description(broker, controller) for broker in brokers]

    async def status(self, *, brief: bool = False, timeout: float | None = None) -> ClusterStatus:
        """Brokers and topics, how old that knowledge is, and which brokers answer: each is asked by itself,
        and waited for at most two seconds. Raises ClusterUnavailable if none does.

        With `brief`, without topics; and where the first that answers is in touch, nobody else is asked.
        """
        found = await surveys.survey(self._connection, self._connection.deadline(timeout), brief=brief)
        controller = found.controller if found.current else None
        brokers = [_broker_description(broker, controller) for broker in found.brokers]
        if not found.current:
            seen = dict.fromkeys(found.silent, "unreachable") | dict.fromkeys(found.not_ready, "not_ready")
            brokers = [replace(broker, state=seen.get(broker.id, broker.state)) for broker in brokers]
        return ClusterStatus(
            brokers=tuple(brokers),
            topics=tuple(map(_description, found.topics)),
            current=found.current,
            told_by=found.told_by,
            unheard_seconds=found.unheard_s,
            silent=found.silent,
            not_ready=found.not_ready,
            behind=found.behind,
        )

    async def list_offsets(
        self,
        topic: str,
        *,
        at: int | datetime | Literal["beginning", "end"] = "beginning",
        partitions: Sequence[int] | None = None,
        timeout: float | None = None,
    ) -> dict[TopicPartition, int]:
        """The offset at the beginning, the end or a time (ms UTC or datetime) of each partition.

        The end is the high watermark: what can be read. A time after the last record gives it too.
        """
        deadline = self._connection.deadline(timeout)
        view = await self._connection.topic(topic, deadline)
        return await self._offsets(view, _partitions(view, partitions), at, deadline)

    async def _describe(self, name: str, deadline: Deadline) -> TopicDescription:
        topics = await calls.describe(self._connection, (name,), deadline)
        if not topics:
            raise UnknownTopic(topic=name)
        return _description(topics[0], await self._ends(topics[0], deadline))

    async def _ends(self, topic: TopicView, deadline: Deadline) -> dict[int, OffsetAnswer]:
        """The ends of its logs, where a leader tells them in time."""
        await self._connection.topic(topic.name, deadline)  # leaders are looked up in the view
        by_leader: dict[int, list[OffsetQuestion]] = {}
        for partition in topic.partitions:
            if partition.leader is not None:
                question = OffsetQuestion(topic, partition.partition)
                by_leader.setdefault(partition.leader, []).append(question)
        wait = self._connection.deadline(min(OFFSETS_WAIT_S, self._connection.left_s(deadline)))
        # Leader by leader, so that one that is away keeps nothing of the others'.
        try:
            async with asyncio.TaskGroup() as group:
                asked = [
                    group.create_task(self._ends_at_leader(questions, wait))
                    for questions in by_leader.values()
                ]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return {key.partition: answer for task in asked for key, answer in task.result().items()}

    async def _ends_at_leader(
        self, questions: Sequence[OffsetQuestion], deadline: Deadline
    ) -> dict[TopicPartition, OffsetAnswer]:
        try:
            return await list_offsets(self._connection, questions, deadline)
        except MillpondError as error:
            if not error.retriable:
                raise
            return {}

    async def _offsets(
        self, topic: TopicView, partitions: Iterable[int], at: int | datetime | str, deadline: Deadline
    ) -> dict[TopicPartition, int]:
        if isinstance(at, str) and at not in ("beginning", "end"):
            raise ValueError(f"{at!r} is neither 'beginning' nor 'end', nor a time")
        timestamp = None if isinstance(at, str) else milliseconds(at, "at")
        questions = [OffsetQuestion(topic, number, timestamp) for number in partitions]
        answers = await list_offsets(self._connection, questions, deadline)
        return {key: _pick(answer, at) for key, answer in sorted(answers.items())}


def _pick(answer: OffsetAnswer, at: int | datetime | str) -> int:
    if at == "beginning":
        return answer.log_start
    return answer.high_watermark if at == "end" else answer.of_time


def _partitions(topic: TopicView, wanted: Sequence[int] | None) -> Sequence[int]:
    if wanted is None:
        return range(len(topic.partitions))
    for partition in wanted:
        check_partition(topic, partition)
    return wanted


def _texts(config: Mapping[str, Any] | None) -> dict[str, str]:
    """Settings as they are sent. None is written -1: no limit."""
    return {key: _text(value) for key, value in (config or {}).items()}


def _text(value: object) -> str:
    if value is None:
        return "-1"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _description(topic: TopicView, ends: Mapping[int, OffsetAnswer] | None = None) -> TopicDescription:
    ends = ends or {}
    return TopicDescription(
        name=topic.name,
        id=uuid.UUID(bytes=topic.topic_id),
        replicas=topic.replicas,
        min_insync=topic.min_insync,
        config=dict(topic.config),
        partitions=tuple(
            _partition(partition, ends.get(partition.partition)) for partition in topic.partitions
        ),
    )


def _partition(partition: PartitionView, ends: OffsetAnswer | None) -> PartitionDescription:
    return PartitionDescription(
        partition=partition.partition,
        leader=partition.leader,
        leader_epoch=partition.leader_epoch,
        replicas=partition.replicas,
        isr=partition.isr,
        elr=partition.elr,
        log_start=None if ends is None else ends.log_start,
        high_watermark=None if ends is None else ends.high_watermark,
        log_end=None if ends is None else ends.log_end,
        adding=partition.adding,
        removing=partition.removing,
    )


def _broker_description(broker: BrokerView, controller: int | None) -> BrokerDescription:
    return BrokerDescription(
        id=broker.id,
        address=broker.address,
        rack=broker.rack,
        state=broker.state,
        controller=broker.id == controller,
        epoch=broker.epoch,
        version=broker.version,
        voter=broker.voter,
    )
