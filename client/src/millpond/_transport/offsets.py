"""Where logs begin and end, and the offsets of times: asked of each partition's leader, until it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, TypeVar

from millpond._core.cluster import TopicView
from millpond._core.retry import Deadline
from millpond._transport.connection import Connection
from millpond._transport.translate import error_of
from millpond.v1 import offsets_pb2
from millpond.wire.errors import (
    ClusterUnavailable,
    MillpondError,
    NotLeader,
    OperationTimeout,
    UnknownPartition,
    UnknownTopic,
)
from millpond.wire.record import TopicPartition

OFFSETS: Final = offsets_pb2.DESCRIPTOR.services_by_name["OffsetService"]

ATTEMPT_S: Final = 3.0
"""A leader that takes longer may hang; by then the view says who leads instead."""

T = TypeVar("T")


class OffsetQuestion(NamedTuple):
    """What is asked about one partition. `timestamp`: ms UTC, also ask for the first record from then on."""

    topic: TopicView
    partition: int
    timestamp: int | None = None


class OffsetAnswer(NamedTuple):
    """The ends of one partition's log, exclusive where they are ends. `offset`: of the time asked for."""

    log_start: int
    high_watermark: int
    log_end: int
    offset: int | None

    @property
    def of_time(self) -> int:
        """The offset of the time; the high watermark when there is no record from then on."""
        return self.high_watermark if self.offset is None else self.offset


def check_partition(topic: TopicView, partition: int) -> None:
    """Raise UnknownPartition unless the topic has it."""
    if not 0 <= partition < len(topic.partitions):
        raise UnknownPartition(topic=topic.name, partition=partition, partitions=len(topic.partitions))


async def list_offsets(
    connection: Connection, questions: Iterable[OffsetQuestion], deadline: Deadline
) -> dict[TopicPartition, OffsetAnswer]:
    """The answer to each question.

    Leaders that move, restart or are not known yet are waited for until the deadline; then the last error
    is raised, or OperationTimeout. Raises UnknownTopic and UnknownPartition as the leaders say.
    """
    open_questions = {
        TopicPartition(question.topic.name, question.partition): question for question in questions
    }
    answers: dict[TopicPartition, OffsetAnswer] = {}
    failures = 0
    while open_questions:
        found, error = await _ask_leaders(connection, open_questions, deadline)
        answers |= found
        for answered in found:
            del open_questions[answered]
        if open_questions:
            assert error is not None, "what was not answered failed"
            failures += 1
            topics = [question.topic for question in open_questions.values()]
            await pause_or_raise(connection, error, failures, deadline, topics)
    return answers


async def pause_or_raise(
    connection: Connection,
    error: MillpondError,
    failures: int,
    deadline: Deadline,
    topics: Iterable[TopicView],
) -> None:
    """Wait before the next attempt at what was asked of these topics; raise `error` where another cannot help
    or comes too late, and UnknownTopic for one that is there no more.

    A leader may hear of a topic or partition later than this client did.
    """
    partitions, is_same = {}, True
    for topic in topics:
        if (now := connection.view.topics.get(topic.name)) is None:
            raise UnknownTopic(topic=topic.name)
        is_same &= now.topic_id == topic.topic_id
        partitions[topic.name] = len(now.partitions)
    match error:
        case UnknownTopic():
            may_help = is_same
        case UnknownPartition(topic=name, partition=number):
            may_help = is_same and number < partitions.get(name, 0)
        case _:
            may_help = error.retriable or isinstance(error, OperationTimeout)
    if not may_help:
        raise error
    try:
        await connection.pause(failures, deadline, "asking the leaders")
    except OperationTimeout:
        raise error from None


def by_leader(
    connection: Connection, partitions: Mapping[TopicPartition, T]
) -> tuple[dict[int, dict[TopicPartition, T]], MillpondError | None]:
    """What belongs to which broker id, and the error of partitions that have no leader now."""
    groups: dict[int, dict[TopicPartition, T]] = {}
    error = None
    for partition, item in partitions.items():
        leader = connection.view.leader(*partition)
        if leader is None:
            error = NotLeader(topic=partition.topic, partition=partition.partition)
        else:
            groups.setdefault(leader.id, {})[partition] = item
    return groups, error


async def _ask_leaders(
    connection: Connection, questions: Mapping[TopicPartition, OffsetQuestion], deadline: Deadline
) -> tuple[dict[TopicPartition, OffsetAnswer], MillpondError | None]:
    """What the leaders that are known answer, and one of the errors where some did not."""
    groups, error = by_leader(connection, questions)
    answers: dict[TopicPartition, OffsetAnswer] = {}
    results = await asyncio.gather(
        *(_ask(connection, broker, group, deadline) for broker, group in groups.items())
    )
    for answered, failed in results:
        answers |= answered
        # One that no retry mends decides: the caller is to hear of it now.
        if failed is not None and (error is None or not failed.retriable):
            error = failed
    return answers, error


async def _ask(
    connection: Connection, broker: int, group: Mapping[TopicPartition, OffsetQuestion], deadline: Deadline
) -> tuple[dict[TopicPartition, OffsetAnswer], MillpondError | None]:
    request = offsets_pb2.ListOffsetsRequest(
        queries=[
            offsets_pb2.OffsetQuery(
                topic_id=question.topic.topic_id, partition=question.partition, timestamp=question.timestamp
            )
            for question in group.values()
        ]
    )
    try:
        link = connection.link(broker)
        response = await link.call(
            OFFSETS, "ListOffsets", request, min(ATTEMPT_S, connection.left_s(deadline))
        )
    except ClusterUnavailable as error:  # others may be there: it is the leader that is not
        first = next(iter(group))
        return {}, ClusterUnavailable(tried=error.tried, leader_of=f"{first.topic}-{first.partition}")
    except MillpondError as error:
        return {}, error
    answers: dict[TopicPartition, OffsetAnswer] = {}
    failed = None
    for partition, told in zip(group, response.offsets, strict=False):
        if told.HasField("error"):
            failed = error_of(told.error)
        else:
            answers[partition] = OffsetAnswer(
                told.log_start,
                told.high_watermark,
                told.log_end,
                told.offset if told.HasField("offset") else None,
            )
    return answers, failed
