"""A producer's stream to the broker that leads now, and to no other: it does not follow the leader."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Literal, Self

from millpond._transport.produce_stream import ACKS, PRODUCE
from millpond._transport.translate import error_of
from millpond.client import Client
from millpond.v1 import produce_pb2
from millpond.wire.batch import encode_batch
from millpond.wire.errors import MillpondError
from millpond.wire.record import TopicPartition


class RawProducer:
    """One stream; each `send` is one batch of one record."""

    def __init__(
        self, client: Client, topic: str, partition: int, *, acks: Literal["all", "leader", "none"]
    ) -> None:
        self._connection = client.connection
        self._key = TopicPartition(topic, partition)
        self._acks = ACKS[acks]
        self._call: Any = None

    async def __aenter__(self) -> Self:
        leader = self._connection.view.leader(*self._key)
        assert leader is not None
        self._call = self._connection.link(leader.id).stream(PRODUCE, "Produce")
        await self._call.wait_for_connection()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call.cancel()

    async def send(self, value: bytes) -> None:
        """Hand it to the connection; whether anybody reads it is another matter."""
        await self._call.write(
            produce_pb2.ProduceRequest(
                acks=self._acks,
                batches=[
                    produce_pb2.ProduceBatch(
                        id=1,
                        topic_id=self._connection.view.topics[self._key.topic].topic_id,
                        partition=self._key.partition,
                        batch=bytes(encode_batch([value], 1_000).data),
                    )
                ],
            )
        )

    async def answer(self, timeout: float = 15.0) -> int | MillpondError:
        """The offset it was acknowledged at, or the error."""
        async with asyncio.timeout(timeout):
            response = await self._call.read()
        (result,) = response.results
        return error_of(result.error) if result.HasField("error") else int(result.base_offset)
