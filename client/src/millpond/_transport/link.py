"""One broker's channel: calls and streams to one address, their failures as typed errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from millpond._core.cluster import Unreached
from millpond._transport.translate import CLIENT_ID_METADATA_KEY, error_in
from millpond.wire.errors import (
    ClusterUnavailable,
    InternalError,
    MillpondError,
    OperationTimeout,
    UnsupportedFormat,
)

MESSAGE_BYTES_MAX: Final = 32 << 20
"""On both ends: a batch at its largest, and room around it."""

KEEPALIVE_MS: Final = 10_000
"""A connection on which nothing was heard for so long is asked whether it lives."""
KEEPALIVE_ANSWER_MS_MAX: Final = 10_000
"""A peer may take so long to answer, beside the broker's loop. Then the connection is over. gRPC pings a busy
connection for its own ends, too, and a pause of some seconds should not break it."""

_OPTIONS: Final = (
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    # A peer that vanished or hangs without a word is found out: the watch of the metadata asks nobody else
    # before. Brokers allow pings twice as often.
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_ANSWER_MS_MAX),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_ANSWER_MS_MAX),  # what counts: left alone, it is a minute
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A broker that restarts is back within a second; by default grpc would wait up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # also what one attempt to connect may take
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A name may stand for another host when its broker is back. By default grpc asks twice a minute at most.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),  # what may be repeated is for this client to decide
    # Channels to one address would otherwise share a connection, its flow control and its fate.
    ("grpc.use_local_subchannel_pool", 1),
)


WRITE_ERRORS: Final = (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError)
"""What a write to a stream, or its half-close, raises where the stream is over: which of them depends on how
far gRPC has got with the end of it.
"""


class Link:
    """The channel to one address. Kept until the connection closes; it reconnects by itself."""

    def __init__(self, address: str, client_id: str, check: Callable[[], None]) -> None:
        self.address = address
        self._check = check
        """Raises ClientClosed or ForkedClient where this link may not be used (any more)."""
        self._metadata: Final = ((CLIENT_ID_METADATA_KEY, client_id),)
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._callables: dict[tuple[str, str], Any] = {}

    async def call(self, service: ServiceDescriptor, method: str, request: Any, timeout: float) -> Any:
        """One request, one response. Ends within `timeout` seconds.

        Raises the broker's error as its class; OperationTimeout; ClusterUnavailable where the broker
        cannot be reached (whether it had the request is not known); InternalError for anything else.
        """
        self._check()
        if timeout <= 0:
            raise OperationTimeout(what=method, timeout=timeout)
        multicallable = self._callable(service, method, "unary_unary")
        try:
            return await multicallable(request, timeout=timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise self.error_of(error, method, timeout) from None
        except asyncio.CancelledError:
            # Closing the channel cancels its calls: that is no cancellation of the task which awaits one.
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                self._check()
            raise

    def stream(self, service: ServiceDescriptor, method: str) -> Any:
        """A call that streams both ways (grpc.aio.StreamStreamCall); `error_of` reads how it failed."""
        self._check()
        return self._callable(service, method, "stream_stream")(metadata=self._metadata)

    def watch(self, service: ServiceDescriptor, method: str, request: Any) -> Any:
        """A call whose response streams (grpc.aio.UnaryStreamCall)."""
        self._check()
        return self._callable(service, method, "unary_stream")(request, metadata=self._metadata)

    def error_of(self, error: grpc.aio.AioRpcError, what: str, timeout: float = 0.0) -> MillpondError:
        """The typed error of a call or stream that failed."""
        if (told := error_in(error.trailing_metadata())) is not None:
            return told
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return OperationTimeout(what=f"{what} at {self.address}", timeout=timeout)
        if code is grpc.StatusCode.UNAVAILABLE:
            return ClusterUnavailable(tried={self.address: _brief(details)})
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return UnsupportedFormat(
                what=f"{self.address} knows no {what}: no broker of this version is there"
            )
        if code is grpc.StatusCode.CANCELLED:
            try:
                self._check()
            except MillpondError as closed:
                return closed
            return ClusterUnavailable(tried={self.address: "the call was cancelled"})
        return InternalError(reason=f"{what} at {self.address}: {code.name} {details}")

    def _callable(self, service: ServiceDescriptor, method: str, kind: str) -> Any:
        key = service.full_name, method
        if (found := self._callables.get(key)) is None:
            descriptor = service.methods_by_name[method]
            found = getattr(self._channel, kind)(
                f"/{service.full_name}/{method}",
                request_serializer=GetMessageClass(descriptor.input_type).SerializeToString,
                response_deserializer=GetMessageClass(descriptor.output_type).FromString,
            )
            self._callables[key] = found
        return found

    async def close(self) -> None:
        """Close the channel, and with it whatever still runs on it."""
        await self._channel.close()


_BRIEFLY: Final = (
    ("http1.x server", Unreached.HTTP_PORT),
    ("failed parsing http/2", "something that does not speak gRPC answers there"),
    ("connection refused", Unreached.REFUSED),
    ("connection reset", "connection reset"),
    ("timed out", "connection timed out"),
    ("errors resolving", "its name cannot be resolved"),
)


def _brief(details: str) -> str:
    """What a person wants of grpc's words for a connection that failed."""
    for words, told in _BRIEFLY:
        if words in details.lower():
            return told
    return details or "unavailable"
