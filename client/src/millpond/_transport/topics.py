"""Calls that read and change topics, as functions of the types of `_core`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

from millpond._core.cluster import BrokerView, ClusterView, TopicView
from millpond._core.retry import Deadline
from millpond._transport.connection import ATTEMPT_S, NOTHING, Connection
from millpond._transport.describing import current, newest
from millpond._transport.offsets import by_leader, pause_or_raise
from millpond._transport.translate import broker_of, topic_of
from millpond.v1 import admin_pb2, metadata_pb2
from millpond.wire.errors import MillpondError, TopicExists, UnknownTopic
from millpond.wire.record import TopicPartition

ADMIN: Final = admin_pb2.DESCRIPTOR.services_by_name["AdminService"]


async def create_topic(
    connection: Connection,
    name: str,
    deadline: Deadline,
    *,
    partitions: int,
    replicas: int | None,
    min_insync: int | None,
    config: Mapping[str, str],
) -> TopicView:
    """Create it; the connection's view has it then."""
    request = admin_pb2.CreateTopicRequest(
        name=name, partitions=partitions, replicas=replicas, min_insync=min_insync, config=config
    )
    unanswered: list[str] = []
    try:
        response = await connection.call_any(ADMIN, "CreateTopic", request, deadline, unanswered=unanswered)
    except TopicExists:
        if not unanswered:
            raise
        # Most likely by this call: its answer was lost with the connection. Another's topic of the same
        # name and number of partitions would serve as well as under `exist_ok`.
        topic = await connection.topic(name, deadline)
        if len(topic.partitions) != partitions:
            raise
        return topic
    return await _settled(connection, response, deadline)


async def alter_topic(
    connection: Connection,
    name: str,
    deadline: Deadline,
    *,
    partitions: int | None,
    config: Mapping[str, str],
    unset: Iterable[str],
) -> TopicView:
    """Change it; the connection's view has the change then."""
    request = admin_pb2.AlterTopicRequest(name=name, partitions=partitions, set=config, unset=unset)
    response = await connection.call_any(ADMIN, "AlterTopic", request, deadline)
    return await _settled(connection, response, deadline)


async def _settled(
    connection: Connection, response: admin_pb2.TopicResponse, deadline: Deadline
) -> TopicView:
    await connection.newer_than(response.version - 1, deadline)
    return topic_of(response.topic)


async def delete_topic(connection: Connection, name: str, deadline: Deadline) -> None:
    """Delete it; the connection's view is without it then."""
    request = admin_pb2.DeleteTopicRequest(name=name)
    unanswered: list[str] = []
    try:
        response = await connection.call_any(ADMIN, "DeleteTopic", request, deadline, unanswered=unanswered)
    except UnknownTopic:
        if not unanswered:
            raise
        return  # a call whose answer was lost has deleted it
    await connection.newer_than(response.version - 1, deadline)


async def describe(connection: Connection, topics: Iterable[str], deadline: Deadline) -> list[TopicView]:
    """The topics of these names (all, for none), of a broker that is not behind what was seen here."""
    answer = await current(connection, metadata_pb2.DescribeRequest(topics=topics), deadline)
    return sorted((topic_of(topic) for topic in answer.topics), key=lambda topic: topic.name)


async def brokers(connection: Connection, deadline: Deadline) -> tuple[list[BrokerView], int | None]:
    """The brokers and the controller, as the newest answer has them; where that is behind what was seen here,
    nobody is known to be the controller.
    """
    told = await newest(connection, NOTHING, deadline)
    controller = None if told.behind else told.metadata.controller_id or None
    return sorted(broker_of(broker) for broker in told.metadata.brokers), controller


async def reassign(
    connection: Connection, name: str, replicas: Mapping[int, Iterable[int]], deadline: Deadline
) -> TopicView:
    """Begin to move partitions; the connection's view has that then."""
    request = admin_pb2.ReassignPartitionsRequest(
        name=name,
        partitions=[
            admin_pb2.PartitionReplicas(partition=number, replicas=members)
            for number, members in sorted(replicas.items())
        ],
    )
    response = await connection.call_any(ADMIN, "ReassignPartitions", request, deadline)
    return await _settled(connection, response, deadline)


async def moved(
    connection: Connection, topic: TopicView, partitions: Iterable[int], deadline: Deadline
) -> TopicView:
    """The topic once none of these partitions is on its way. Raises UnknownTopic if it is deleted."""
    numbers = tuple(partitions)

    def is_done(view: ClusterView) -> bool:
        now = view.topics.get(topic.name)
        if now is None or now.topic_id != topic.topic_id:
            return True
        return not any(now.partitions[number].is_moving for number in numbers)

    view = await connection.until(is_done, deadline, f"moving replicas of topic {topic.name!r}")
    now = view.topics.get(topic.name)
    if now is None or now.topic_id != topic.topic_id:
        raise UnknownTopic(topic=topic.name)
    return now


async def elect_leaders(
    connection: Connection, name: str, partitions: Iterable[int], deadline: Deadline, *, unclean: bool
) -> dict[TopicPartition, int]:
    """Elect; those whose leader has changed, in the connection's view, too."""
    request = admin_pb2.ElectLeadersRequest(name=name, partitions=partitions, unclean=unclean)
    response = await connection.call_any(ADMIN, "ElectLeaders", request, deadline)
    await connection.newer_than(response.version - 1, deadline)
    return _led(response.elected)


async def drain(
    connection: Connection, broker: int, deadline: Deadline
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """What others lead now, and what the broker still leads."""
    request = admin_pb2.DrainBrokerRequest(broker_id=broker)
    response = await connection.call_any(ADMIN, "DrainBroker", request, deadline)
    await connection.newer_than(response.version - 1, deadline)
    return _led(response.moved), _led(response.remaining)


async def change_voters(
    connection: Connection, method: str, broker: int, deadline: Deadline
) -> tuple[int, ...]:
    """Who votes after `method`: "AddVoter" or "RemoveVoter"."""
    request: admin_pb2.AddVoterRequest | admin_pb2.RemoveVoterRequest
    if method == "AddVoter":
        request = admin_pb2.AddVoterRequest(broker_id=broker)
    else:
        request = admin_pb2.RemoveVoterRequest(broker_id=broker)
    response = await connection.call_any(ADMIN, method, request, deadline)
    await connection.newer_than(response.version - 1, deadline)
    return tuple(response.voters)


def _led(partitions: Iterable[admin_pb2.LedPartition]) -> dict[TopicPartition, int]:
    return {TopicPartition(led.topic, led.partition): led.leader for led in partitions}


async def trim_topic(
    connection: Connection, topic: TopicView, before: Mapping[int, int], deadline: Deadline
) -> dict[int, int]:
    """Forget records below these offsets, by partition; the log starts afterwards.

    Repeated at each leader until it answers: trimming twice is trimming once.
    """
    waiting = {TopicPartition(topic.name, partition): offset for partition, offset in before.items()}
    log_starts: dict[int, int] = {}
    failures = 0
    while waiting:
        groups, error = by_leader(connection, waiting)
        results = await asyncio.gather(
            *(_trim(connection, broker, topic, group, deadline) for broker, group in groups.items())
        )
        for trimmed, failed in results:
            log_starts |= trimmed
            if failed is not None and (error is None or not failed.retriable):
                error = failed
        waiting = {key: offset for key, offset in waiting.items() if key.partition not in log_starts}
        if waiting:
            assert error is not None, "what was not trimmed failed"
            failures += 1
            await pause_or_raise(connection, error, failures, deadline, [topic])
    return log_starts


async def _trim(
    connection: Connection,
    broker: int,
    topic: TopicView,
    group: Mapping[TopicPartition, int],
    deadline: Deadline,
) -> tuple[dict[int, int], MillpondError | None]:
    request = admin_pb2.TrimTopicRequest(
        topic_id=topic.topic_id,
        partitions=[
            admin_pb2.TrimPartition(partition=key.partition, before_offset=offset)
            for key, offset in group.items()
        ],
    )
    try:
        link = connection.link(broker)
        seconds = min(ATTEMPT_S, connection.left_s(deadline))
        response = await link.call(ADMIN, "TrimTopic", request, seconds)
    except MillpondError as error:
        return {}, error
    return dict(response.log_starts), None
