"""Batches written as a test says, without the producer: where they begin and end is the test's choice."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import grpc.aio

from millpond._transport.translate import error_of
from millpond.client import Client
from millpond.v1 import produce_pb2
from millpond.wire.batch import encode_batch
from millpond.wire.errors import ClusterUnavailable
from millpond.wire.record import TopicPartition

PRODUCE = produce_pb2.DESCRIPTOR.services_by_name["ProduceService"]


NOW_MS = time.time_ns() // 1_000_000
"""Not long ago: what is older than retention may be gone by the time that it is read."""
KEPT = {"retention_ms": -1}
"""Settings of a topic for records of long ago."""


async def write(
    client: Client,
    topic: str,
    *batches: Sequence[bytes | None],
    partition: int = 0,
    timestamps: Sequence[int] | int = NOW_MS,
) -> list[int]:
    """Write these batches, acknowledged by all; the base offset of each. One that fails raises its error."""
    connection = client.connection
    view = await connection.topic(topic, connection.deadline(10.0))
    leader = connection.view.leader(*TopicPartition(topic, partition))
    assert leader is not None
    link = connection.link(leader.id)
    requests = [
        produce_pb2.ProduceRequest(
            acks=produce_pb2.ACKS_ALL,
            batches=[
                produce_pb2.ProduceBatch(
                    id=number,
                    topic_id=view.topic_id,
                    partition=partition,
                    batch=bytes(encode_batch(values, timestamps).data),
                )
            ],
        )
        for number, values in enumerate(batches)
    ]
    try:
        results = await _exchange(link.stream(PRODUCE, "Produce"), requests)
    except grpc.aio.AioRpcError as error:
        raise link.error_of(error, "Produce") from None
    if len(results) != len(batches):
        raise ClusterUnavailable(tried={link.address: "the stream ended without a result"})
    return [results[number] for number in range(len(batches))]


async def _exchange(call: Any, requests: Sequence[produce_pb2.ProduceRequest]) -> dict[int, int]:
    for request in requests:
        await call.write(request)
    await call.done_writing()
    results: dict[int, int] = {}
    async for response in call:
        for result in response.results:
            if result.HasField("error"):
                raise error_of(result.error)
            results[result.id] = result.base_offset
    return results
