"""The whole cluster as it can be seen from here: one broker's metadata, and who answers.

A broker's metadata are as old as its last word from the controller, and say nothing of the way from here to
the others. So each broker is asked by itself, all at once, and who is in touch is believed before who is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple

from millpond._core.cluster import BrokerView, TopicView
from millpond._core.retry import Deadline
from millpond._transport.connection import DESCRIBE_S, METADATA, NOTHING, Connection
from millpond._transport.describing import Told, is_behind, newest
from millpond._transport.translate import broker_of, topic_of
from millpond.v1.metadata_pb2 import Broker, ClusterMetadata, DescribeRequest
from millpond.wire.errors import (
    BrokerNotReady,
    ClusterUnavailable,
    MillpondError,
    OperationTimeout,
    UnsupportedFormat,
)

ANSWER_S: Final = 2.0
"""For a broker to answer a question that takes no work: a loop that is busy may be late by a second."""


class Survey(NamedTuple):
    """What one broker told, and who else answers. `told_by` is None, and it passes for current, where that
    broker is too old to say.
    """

    topics: tuple[TopicView, ...]
    brokers: tuple[BrokerView, ...]
    controller: int | None
    told_by: int | None
    unheard_s: float
    """For how long it has not heard of the controller."""
    current: bool
    """That is less than a session, and nothing newer was told here before."""
    behind: bool
    """Newer was told here before, by brokers that do not answer now."""
    silent: Mapping[int, str]
    """Brokers that do not answer here, and why."""
    not_ready: Mapping[int, str]
    """Brokers that answer that they serve nobody: they start, or stop."""


class _Untold(NamedTuple):
    """A broker that says nothing of the cluster, and why. `runs`: it is there, and says so itself."""

    why: str
    runs: bool


async def survey(connection: Connection, deadline: Deadline, *, brief: bool = False) -> Survey:
    """Raises ClusterUnavailable if nobody answers. `brief`: no topics, and where the first that answers is in
    touch, nobody else is asked.
    """
    question = NOTHING if brief else DescribeRequest()
    told = await newest(connection, question, deadline)
    answers: Mapping[int, ClusterMetadata | _Untold] = {}
    if not brief or told.metadata.out_of_touch or told.behind:
        answers = await _ask_all(connection, told.metadata, deadline)
    if told.metadata.out_of_touch:
        told = await _told_by_another(connection, told, answers, question, deadline)
    metadata = told.metadata
    untold = {key: answer for key, answer in answers.items() if isinstance(answer, _Untold)}
    return Survey(
        tuple(sorted((topic_of(topic) for topic in metadata.topics), key=lambda topic: topic.name)),
        tuple(sorted(broker_of(broker) for broker in metadata.brokers)),
        metadata.controller_id or None,
        metadata.told_by or None,
        metadata.unheard_ms / 1000,
        not metadata.out_of_touch and not told.behind,
        told.behind,
        {key: answer.why for key, answer in untold.items() if not answer.runs},
        {key: answer.why for key, answer in untold.items() if answer.runs},
    )


async def _ask_all(
    connection: Connection, told: ClusterMetadata, deadline: Deadline
) -> dict[int, ClusterMetadata | _Untold]:
    """What each broker says of itself, all at once: one that hangs costs no more than the time for one."""
    seconds = min(ANSWER_S, connection.left_s(deadline))
    async with asyncio.TaskGroup() as group:
        asked = {
            broker.id: group.create_task(_ask(connection, broker, told.cluster_id, seconds))
            for broker in told.brokers
        }
    connection.check()  # closed meanwhile: nobody's silence but ours
    return {key: task.result() for key, task in asked.items()}


async def _ask(
    connection: Connection, broker: Broker, cluster_id: bytes, seconds: float
) -> ClusterMetadata | _Untold:
    """What it says of itself. Raises none of our errors, so that all who are asked at once may end."""
    try:
        answer: ClusterMetadata = await connection.link(broker.address).call(
            METADATA, "Describe", NOTHING, seconds
        )
    except ClusterUnavailable as error:
        return _Untold(", ".join(error.tried.values()), runs=False)
    except OperationTimeout:
        return _Untold(f"no answer within {seconds:g} s", runs=False)
    except UnsupportedFormat as error:  # whoever that is, it is no broker
        return _Untold(str(error), runs=False)
    except BrokerNotReady as error:
        return _Untold(error.reason, runs=True)
    except MillpondError as error:  # a refusal is an answer
        return _Untold(str(error), runs=True)
    if answer.cluster_id != cluster_id:
        return _Untold("a broker of another cluster answers there", runs=False)
    if answer.told_by not in (0, broker.id):
        return _Untold(f"broker {answer.told_by} answers there", runs=False)
    return answer


async def _told_by_another(
    connection: Connection,
    told: Told,
    answers: Mapping[int, ClusterMetadata | _Untold],
    question: DescribeRequest,
    deadline: Deadline,
) -> Told:
    """What a broker that is in touch says; what was told before, if there is none."""
    addresses = {broker.id: broker.address for broker in told.metadata.brokers}
    for key, answer in answers.items():
        if isinstance(answer, _Untold) or answer.out_of_touch or not answer.told_by:
            continue
        seconds = min(DESCRIBE_S, connection.left_s(deadline))
        try:
            other: ClusterMetadata = await connection.link(addresses[key]).call(
                METADATA, "Describe", question, seconds
            )
        except MillpondError:
            connection.check()
            continue
        if not other.out_of_touch and other.version >= told.metadata.version:
            return Told(other, told.behind and is_behind(connection, other))
    return told
