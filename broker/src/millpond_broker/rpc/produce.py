"""ProduceService and ProducerService."""

from __future__ import annotations

from typing import Any, Final

import grpc

from millpond.v1 import produce_pb2
from millpond.wire.batch import MESSAGE_BATCHES_MAX
from millpond.wire.errors import InvalidRequest
from millpond_broker.core.leader import Acks
from millpond_broker.rpc.calls import MESSAGE_BYTES_MAX, Context, bidi, read_all, serve, unary
from millpond_broker.rpc.translate import error_detail
from millpond_broker.runtime.broker import Broker
from millpond_broker.runtime.produce import Batch, ProduceSession, Result

_ACKS: Final = {
    produce_pb2.ACKS_NONE: Acks.NONE,
    produce_pb2.ACKS_LEADER: Acks.LEADER,
    produce_pb2.ACKS_ALL: Acks.ALL,
}


class ProduceService:
    """Batches in, results out."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Its methods by name."""
        return {"Produce": bidi(self._produce)}

    async def _produce(self, context: Context) -> None:
        async with self._broker.produce_stream() as session:

            def take(request: produce_pb2.ProduceRequest) -> None:
                acks = _ACKS.get(request.acks)
                if acks is None:
                    raise InvalidRequest(reason=f"acks {request.acks} is none of all, leader and none")
                if len(request.batches) > MESSAGE_BATCHES_MAX:
                    counted = f"{len(request.batches)} batches in a message"
                    raise InvalidRequest(reason=f"{counted}; {MESSAGE_BATCHES_MAX} are allowed")
                for item in request.batches:
                    session.offer(Batch(item.id, item.topic_id, item.partition, item.batch), acks)

            reader = read_all(
                context,
                session,
                produce_pb2.ProduceRequest,
                take,
                session.room,
                bytes_max=MESSAGE_BYTES_MAX,
            )
            await serve(session, reader, _write(context, session))


async def _write(context: Context, session: ProduceSession) -> None:
    while results := await session.take():
        response = produce_pb2.ProduceResponse(results=map(_result, results))
        await context.write(response.SerializeToString())


def _result(result: Result) -> produce_pb2.ProduceResult:
    error = None if result.error is None else error_detail(result.error)
    return produce_pb2.ProduceResult(id=result.id, base_offset=result.base_offset, error=error)


class ProducerService:
    """Producer ids."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Its methods by name."""
        return {"InitProducer": unary(produce_pb2.InitProducerRequest, self._init_producer)}

    async def _init_producer(
        self, _request: produce_pb2.InitProducerRequest
    ) -> produce_pb2.InitProducerResponse:
        producer_id = await self._broker.new_producer_id()
        return produce_pb2.InitProducerResponse(producer_id=producer_id, producer_epoch=0)
