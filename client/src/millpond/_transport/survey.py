"""The whole cluster as it can be seen from here: one broker's metadata, and who answers.

A broker's metadata are as old as its last word from the controller, and say nothing of the way from here to
the others. So each broker is asked by itself, all at once, and who is in touch is believed before who is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from millpond._core.cluster import BrokerView, TopicView
from millpond._core.retry import Deadline
from millpond._transport.connection import DESCRIBE_S, METADATA, NOTHING, Connection
from millpond._transport.translate import broker_of, topic_of
from millpond.v1 import metadata_pb2
from millpond.wire.errors import ClusterUnavailable, MillpondError, OperationTimeout

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
    """That is less than a session."""
    silent: Mapping[int, str]
    """Brokers that do not answer here, and why."""


async def survey(connection: Connection, deadline: Deadline) -> Survey:
    """Raises ClusterUnavailable if nobody answers."""
    everything = metadata_pb2.DescribeRequest()
    told = await connection.call_any(
        METADATA,
        "Describe",
        everything,
        deadline,
        attempt_s=DESCRIBE_S,
        accept=lambda answer: (
            answer.version >= connection.view.version or answer.cluster_id != connection.view.cluster_id
        ),
    )
    seconds = min(ANSWER_S, connection.left_s(deadline))
    answers = dict(
        zip(
            (broker.id for broker in told.brokers),
            await asyncio.gather(*(_ask(connection, each, told, seconds) for each in told.brokers)),
            strict=True,
        )
    )
    if told.out_of_touch:
        told = await _told_by_another(connection, told, answers, deadline)
    return Survey(
        tuple(sorted((topic_of(topic) for topic in told.topics), key=lambda topic: topic.name)),
        tuple(sorted(broker_of(broker) for broker in told.brokers)),
        told.controller_id or None,
        told.told_by or None,
        told.unheard_ms / 1000,
        not told.out_of_touch,
        {key: answer for key, answer in answers.items() if isinstance(answer, str)},
    )


async def _ask(connection: Connection, broker: Any, told: Any, seconds: float) -> Any:
    """What it says of itself; a text, if it does not: why."""
    try:
        answer = await connection.link(broker.address).call(METADATA, "Describe", NOTHING, seconds)
    except ClusterUnavailable as error:
        return ", ".join(error.tried.values())
    except OperationTimeout:
        return f"no answer within {seconds:g} s"
    except MillpondError as error:
        connection.check()  # closed: nobody's silence but ours
        return str(error)
    if answer.cluster_id != told.cluster_id:
        return "a broker of another cluster answers there"
    if answer.told_by not in (0, broker.id):
        return f"broker {answer.told_by} answers there"
    return answer


async def _told_by_another(
    connection: Connection, told: Any, answers: Mapping[int, Any], deadline: Deadline
) -> Any:
    """What a broker that is in touch says; what was told before, if there is none."""
    addresses = {broker.id: broker.address for broker in told.brokers}
    for key, answer in answers.items():
        if isinstance(answer, str) or answer.out_of_touch or not answer.told_by:
            continue
        seconds = min(DESCRIBE_S, connection.left_s(deadline))
        try:
            other = await connection.link(addresses[key]).call(
                METADATA, "Describe", metadata_pb2.DescribeRequest(), seconds
            )
        except MillpondError:
            connection.check()
            continue
        if not other.out_of_touch and other.version >= told.version:
            return other
    return told
