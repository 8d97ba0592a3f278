"""The client: what `millpond.connect` gives, from which everything else is had."""

from __future__ import annotations

import logging
import os
from types import TracebackType
from typing import Any, Final, TypeVar, Unpack, overload

from millpond._core.serdes import Deserializer, Serializer
from millpond._transport.connection import Connection
from millpond._transport.opening import Openable
from millpond.admin import Admin
from millpond.consumer import Consumer, ConsumerOptions
from millpond.producer import CANCELLED_FLUSH_S, Producer, ProducerOptions
from millpond.wire.errors import ClientClosed, DeliveryFailed

K = TypeVar("K")
V = TypeVar("V")

_log: Final = logging.getLogger("millpond")

BOOTSTRAP_VARIABLE: Final = "MILLPOND_BOOTSTRAP"
BOOTSTRAP_DEFAULT: Final = "localhost:7070"


class Client(Openable):
    """A connection to a cluster. Made by `connect`; awaiting or entering it connects.

    Belongs to the event loop and the process that opened it.
    """

    def __init__(self, bootstrap: str, client_id: str, timeout: float) -> None:
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._timeout = timeout
        self._connection: Connection | None = None

    async def _open(self) -> None:
        self._connection = await Connection.open(self._bootstrap, self._client_id, self._timeout)

    @property
    def connection(self) -> Connection:
        """What is open beneath; for this package's own modules. Raises ClientClosed before it was opened."""
        if self._connection is None:
            raise ClientClosed(what="client (await it, or enter it with `async with`, first)")
        return self._connection

    @property
    def admin(self) -> Admin:
        """Topics, brokers and offsets: described and changed."""
        return Admin(self.connection)

    @overload
    def producer(self, **options: Unpack[ProducerOptions]) -> Producer[bytes, bytes]: ...

    @overload
    def producer(
        self, *, key_serializer: Serializer[K], **options: Unpack[ProducerOptions]
    ) -> Producer[K, bytes]: ...

    @overload
    def producer(
        self, *, value_serializer: Serializer[V], **options: Unpack[ProducerOptions]
    ) -> Producer[bytes, V]: ...

    @overload
    def producer(
        self,
        *,
        key_serializer: Serializer[K],
        value_serializer: Serializer[V],
        **options: Unpack[ProducerOptions],
    ) -> Producer[K, V]: ...

    def producer(self, **options: Any) -> Producer[Any, Any]:
        """A producer, to be awaited, or entered with `async with`; its options are those of `Producer`."""
        self.connection.check()
        return Producer(self.connection, **options)

    @overload
    def consumer(
        self, *topics: str, **options: Unpack[ConsumerOptions]
    ) -> Consumer[bytes | None, bytes | None]: ...

    @overload
    def consumer(
        self, *topics: str, key_deserializer: Deserializer[K], **options: Unpack[ConsumerOptions]
    ) -> Consumer[K | None, bytes | None]: ...

    @overload
    def consumer(
        self, *topics: str, value_deserializer: Deserializer[V], **options: Unpack[ConsumerOptions]
    ) -> Consumer[bytes | None, V | None]: ...

    @overload
    def consumer(
        self,
        *topics: str,
        key_deserializer: Deserializer[K],
        value_deserializer: Deserializer[V],
        **options: Unpack[ConsumerOptions],
    ) -> Consumer[K | None, V | None]: ...

    def consumer(self, *topics: str, **options: Any) -> Consumer[Any, Any]:
        """A consumer, to be awaited, or entered with `async with`; its options are those of `Consumer`."""
        self.connection.check()
        return Consumer(self.connection, *topics, **options)

    async def close(self, timeout: float | None = None) -> None:
        """Close producers and consumers (a producer delivers what it holds), then everything else.

        Ends within `timeout` seconds, the client's own unless given: what is not acknowledged by then fails.
        Closing twice is closing once. Raises DeliveryFailed for failures of sends that nobody awaited.
        """
        if self._connection is not None:
            await self._connection.close(timeout)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cancelled = kind is not None and not issubclass(kind, Exception)
        try:
            await self.close(CANCELLED_FLUSH_S if cancelled else None)
        except DeliveryFailed as failed:
            if error is None:
                raise
            _log.warning("%s", failed)  # the block's own exception is the one to see


def connect(
    bootstrap: str | None = None, *, client_id: str = "millpond-python", timeout: float = 30.0
) -> Client:
    """A client of the cluster at `bootstrap`, to be awaited, or entered with `async with`.

    `bootstrap` is host:port of one or more brokers, with commas between: all others are learned from
    whichever answers. Without it, the environment's MILLPOND_BOOTSTRAP, then localhost:7070. `client_id` is
    what brokers call this client in logs and metrics. `timeout` is for connecting, and for each later call
    that names none; seconds. Opening raises ClusterUnavailable, which names each address that was tried.
    """
    if bootstrap is not None and not isinstance(bootstrap, str):
        raise TypeError(f"bootstrap is a str, host:port with commas between, not {type(bootstrap).__name__}")
    if bootstrap is None:
        bootstrap = os.environ.get(BOOTSTRAP_VARIABLE) or BOOTSTRAP_DEFAULT
    return Client(bootstrap, client_id, timeout)
