"""OffsetService."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc

from millpond.v1 import offsets_pb2
from millpond.wire.errors import InvalidRequest, MillpondError
from millpond_broker.rpc.calls import unary
from millpond_broker.rpc.translate import error_detail
from millpond_broker.runtime.broker import Broker

QUERIES_MAX: Final = 20_000
"""Of one request: more than a broker holds partitions."""


class OffsetService:
    """Where partitions begin and end."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Its methods by name."""
        return {"ListOffsets": unary(offsets_pb2.ListOffsetsRequest, self._list_offsets)}

    async def _list_offsets(self, request: offsets_pb2.ListOffsetsRequest) -> offsets_pb2.ListOffsetsResponse:
        if len(request.queries) > QUERIES_MAX:
            raise InvalidRequest(reason=f"{len(request.queries)} queries; {QUERIES_MAX} are allowed")
        answers = []
        for query in request.queries:
            answers.append(self._answer(query))
            await asyncio.sleep(0)  # a look-up by time reads from disk: others get their turn
        return offsets_pb2.ListOffsetsResponse(offsets=answers)

    def _answer(self, query: offsets_pb2.OffsetQuery) -> offsets_pb2.PartitionOffsets:
        timestamp = query.timestamp if query.HasField("timestamp") else None
        try:
            bounds, offset = self._broker.offsets(query.topic_id, query.partition, timestamp)
        except MillpondError as error:
            return offsets_pb2.PartitionOffsets(error=error_detail(error))
        return offsets_pb2.PartitionOffsets(
            log_start=bounds.log_start,
            high_watermark=bounds.high_watermark,
            log_end=bounds.log_end,
            offset=offset,
        )
