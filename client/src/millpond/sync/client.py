"""The synchronous client: what `millpond.sync.connect` gives."""

from __future__ import annotations

from typing import Any, TypeVar, Unpack, overload

from millpond import client as asyncio_client
from millpond import consumer as asyncio_consumer
from millpond._core.serdes import Deserializer, Serializer
from millpond._transport.loop_thread import LoopThread
from millpond.consumer import ConsumerOptions
from millpond.producer import ProducerOptions
from millpond.sync.admin import Admin
from millpond.sync.closing import Closing
from millpond.sync.consumer import Consumer
from millpond.sync.producer import Producer

K = TypeVar("K")
V = TypeVar("V")


def connect(
    bootstrap: str | None = None, *, client_id: str = "millpond-python", timeout: float = 30.0
) -> Client:
    """A client of the cluster at `bootstrap`, connected; close it, or use it in a `with` block.

    As `millpond.connect`. Raises ClusterUnavailable, which names each address that was tried.
    """
    return Client(asyncio_client.connect(bootstrap, client_id=client_id, timeout=timeout))


class Client(Closing):
    """A connection to a cluster. Made by `connect`; any thread may use it."""

    def __init__(self, inner: asyncio_client.Client) -> None:
        self._inner = inner
        self._closed = False
        self._thread = LoopThread.acquire()
        try:
            self._thread.run(inner._opened)  # noqa: SLF001 - what awaiting it does
        except BaseException:  # interrupted, too: no thread is left behind
            self._closed = True
            self._thread.release()
            raise

    @property
    def admin(self) -> Admin:
        """Topics, brokers and offsets: described and changed."""
        self._thread.check()
        return Admin(self._inner.admin, self._thread)

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
        """A producer, open; close it, or use it in a `with` block. Options: `millpond.Producer`."""
        self._thread.check()
        return Producer(self._inner.producer(**options), self._thread)

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
        """A consumer, open, of this thread; its options are those of `millpond.Consumer`."""
        self._thread.check()

        def make() -> asyncio_consumer.Consumer[Any, Any]:
            return self._inner.consumer(*topics, **options)

        return Consumer(self._thread.call(make), self._thread)

    def close(self, timeout: float | None = None) -> None:
        """Close producers and consumers, then everything else, within `timeout` seconds (the client's own,
        unless given). Closing twice is closing once.

        Raises DeliveryFailed for failures of sends that nobody awaited.
        """
        if self._closed or self._thread.forked:
            return
        self._closed = True
        try:
            self._thread.run(lambda: self._inner.close(timeout))
        finally:
            self._thread.release()
