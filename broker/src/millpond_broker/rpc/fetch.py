"""FetchService."""

from __future__ import annotations

from typing import Any

import grpc

from millpond.v1 import fetch_pb2
from millpond.wire.errors import InvalidRequest
from millpond_broker.rpc.calls import Context, bidi, read_all, serve
from millpond_broker.rpc.translate import error_detail
from millpond_broker.runtime.broker import Broker
from millpond_broker.runtime.fetch import SUBSCRIPTIONS_MAX, Fetched, FetchSession


class FetchService:
    """Positions in, batches out."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Its methods by name."""
        return {"Fetch": bidi(self._fetch)}

    async def _fetch(self, context: Context) -> None:
        async with self._broker.fetch_stream() as session:

            def take(request: fetch_pb2.FetchRequest) -> None:
                for name, count in (("start", len(request.start)), ("stop", len(request.stop))):
                    if count > SUBSCRIPTIONS_MAX:
                        raise InvalidRequest(
                            reason=f"{count} to {name} in a message; {SUBSCRIPTIONS_MAX} are allowed"
                        )
                for handle in request.stop:
                    session.stop(handle)
                for start in request.start:
                    session.start(start.handle, start.topic_id, start.partition, start.offset)
                if request.credit_bytes:
                    session.grant(request.credit_bytes)
                if request.ping:
                    session.ping(request.ping)

            reader = read_all(context, session, fetch_pb2.FetchRequest, take, session.room)
            await serve(session, reader, _write(context, session))


async def _write(context: Context, session: FetchSession) -> None:
    while taken := await session.take():
        response = fetch_pb2.FetchResponse(fetched=map(_fetched, taken.fetched), pong=taken.pong)
        await context.write(response.SerializeToString())


def _fetched(fetched: Fetched) -> fetch_pb2.Fetched:
    bounds = fetched.bounds
    return fetch_pb2.Fetched(
        handle=fetched.handle,
        batches=fetched.batches,
        high_watermark=0 if bounds is None else bounds.high_watermark,
        log_start=0 if bounds is None else bounds.log_start,
        error=None if fetched.error is None else error_detail(fetched.error),
    )
