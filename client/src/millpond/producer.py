"""`client.producer(…)`: records out, each with an awaitable, in order and once.

A send adds the record to a batch of its partition (`_core.accumulator`) and returns; batches leave in the
background (`_transport.outgoing`). This is the surface: options, topics, the end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections.abc import Iterable
from datetime import datetime
from types import TracebackType
from typing import Final, Generic, Literal, TypedDict, TypeVar

from millpond._core.accumulator import AccumulatorOptions, Partitioner
from millpond._core.cluster import ClusterView
from millpond._core.lane import IN_FLIGHT_MAX
from millpond._core.pending_batch import Ack
from millpond._core.sender import SenderOptions
from millpond._core.serdes import Serializer, encode_with
from millpond._transport.bound_topic import BoundTopic, HeadersLike, Where
from millpond._transport.connection import Connection
from millpond._transport.delivery import Delivery, SendResult
from millpond._transport.opening import Openable
from millpond._transport.outgoing import Outgoing
from millpond.wire.compression import codec_named, compress
from millpond.wire.errors import (
    ClientClosed,
    DeliveryFailed,
    ForkedClient,
    InvalidConfig,
    OperationTimeout,
)

__all__ = ["Ack", "BoundTopic", "Delivery", "Producer", "ProducerOptions", "SendResult"]

K = TypeVar("K")
V = TypeVar("V")

CANCELLED_FLUSH_S: Final = 1.0
"""What a producer that is left by a cancellation still takes for records in hand."""

_log: Final = logging.getLogger("millpond")
_open: weakref.WeakSet[Outgoing] = weakref.WeakSet()


def _after_fork() -> None:
    # A hot batch takes records without looking: in the child, it must look, and find that it may not.
    for outgoing in list(_open):
        outgoing.accumulator.recount()


os.register_at_fork(after_in_child=_after_fork)


class ProducerOptions(TypedDict, total=False):
    """Options of `client.producer`; see Producer."""

    acks: Literal["all", "leader", "none"]
    compression: str | None
    linger: float | None
    batch_bytes: int
    buffer_bytes: int
    delivery_timeout: float
    max_in_flight: int
    partitioner: Partitioner | None


class Producer(Openable, Generic[K, V]):
    """Writes records. Made by `client.producer(…)`; awaiting or entering it opens it.

    `acks` is what an acknowledgement means: "all" that every replica in sync has the record, "leader" that
    the leader has (it is lost if the leader is lost for good), "none" nothing but that it was sent.
    `compression`: none, gzip, lz4 or zstd. `linger`: seconds that a batch waits for more records; None does
    so only while others are on their way. `batch_bytes` and `buffer_bytes` bound one batch, and all records
    that are not acknowledged yet. `delivery_timeout`: seconds after which a record that entered the buffer
    fails with DeliveryTimeout. `max_in_flight`: unanswered batches of one partition, 1 to 5; order and
    exactly-once writing hold for any. `partitioner(key, value, partitions)` gives the partition of records
    that name none.

    Belongs to one event loop. A failure that nobody awaited is raised by the next `flush` or `close`.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        acks: Literal["all", "leader", "none"] = "all",
        compression: str | None = None,
        linger: float | None = None,
        batch_bytes: int = 262_144,
        buffer_bytes: int = 32 << 20,
        delivery_timeout: float = 120.0,
        max_in_flight: int = IN_FLIGHT_MAX,
        partitioner: Partitioner | None = None,
        key_serializer: Serializer[K] | None = None,
        value_serializer: Serializer[V] | None = None,
    ) -> None:
        if acks not in ("all", "leader", "none"):
            raise ValueError(f"acks={acks!r}; it takes 'all', 'leader' or 'none'")
        codec = codec_named(compression)
        compress(codec, b"")  # raises what is not installed here, and not at the first batch
        _at_least("batch_bytes", batch_bytes, 1)
        _at_least("buffer_bytes", buffer_bytes, 1)
        if linger is not None and not 0 <= linger < delivery_timeout:
            raise InvalidConfig(key="linger", reason=f"{linger} s is not within delivery_timeout")
        if not delivery_timeout > 0:
            raise InvalidConfig(key="delivery_timeout", reason=f"{delivery_timeout} s is no time")
        if not 1 <= max_in_flight <= IN_FLIGHT_MAX:
            raise InvalidConfig(key="max_in_flight", reason=f"{max_in_flight} is not 1 to {IN_FLIGHT_MAX}")
        self._connection = connection
        self._key_encode = None if key_serializer is None else encode_with(key_serializer, "key_serializer")
        self._value_encode = (
            None if value_serializer is None else encode_with(value_serializer, "value_serializer")
        )
        self._outgoing = Outgoing(
            connection,
            acks,
            AccumulatorOptions(
                batch_bytes=batch_bytes,
                buffer_bytes=buffer_bytes,
                delivery_timeout=delivery_timeout,
                partitioner=partitioner,
            ),
            SenderOptions(
                codec=codec,
                linger=linger,
                max_in_flight=max_in_flight,
                delivery_timeout=delivery_timeout,
                answered=acks != "none",
            ),
        )
        self._outgoing.follow = self._follow
        self._topics: dict[str, BoundTopic[K, V]] = {}
        self._closing: asyncio.Event | None = None
        """Set once it is closed."""

    # --- opening and closing ---------------------------------------------------------------------------

    async def _open(self) -> None:
        self._connection.adopt(self)
        self._outgoing.start()
        _open.add(self._outgoing)

    async def close(self, timeout: float | None = None) -> None:
        """Deliver what is here, within `timeout` seconds if given, and end. Closing twice is closing once.

        Records that are not acknowledged by then fail with ClientClosed. Raises DeliveryFailed for failures
        that nobody awaited.
        """
        outgoing = self._outgoing
        if outgoing.closed:
            if self._closing is not None:  # by another task: what it delivers needs the connection until then
                await self._closing.wait()
            return
        outgoing.closed = True
        self._closing = asyncio.Event()
        try:
            await self._close(timeout)
        finally:
            self._closing.set()
        outgoing.raise_unawaited()

    async def _close(self, timeout: float | None) -> None:
        outgoing = self._outgoing
        deadline = None if timeout is None else self._connection.deadline(timeout)
        try:
            self._connection.check()
        except ForkedClient:
            return
        except ClientClosed:
            pass
        try:
            if outgoing.started and not self._connection.closed:
                await outgoing.flush(timeout)
        except OperationTimeout:
            pass  # what is left fails, and is told as that
        finally:
            self._connection.release(self)
            await outgoing.stop(None if deadline is None else self._connection.left_s(deadline))

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

    def _follow(self, view: ClusterView) -> None:
        for bound in self._topics.values():
            bound.follow_view(view)

    # --- sending ----------------------------------------------------------------------------------------

    def topic(self, name: str) -> BoundTopic[K, V]:
        """The producer bound to one topic: the same calls without its name, and the fastest way to send."""
        if (bound := self._topics.get(name)) is None:
            if not isinstance(name, str):
                raise TypeError(f"a topic is a str, not {type(name).__name__}")
            bound = BoundTopic(self._outgoing, name, self._key_encode, self._value_encode)
            self._topics[name] = bound
        return bound

    async def send(
        self,
        topic: str,
        value: V | None,
        *,
        key: K | None = None,
        headers: HeadersLike | None = None,
        partition: Where | None = None,
        timestamp: int | datetime | None = None,
        timeout: float | None = None,
    ) -> Ack:
        """Send one record, and wait until it is acknowledged; see `BoundTopic.send`."""
        return await self.topic(topic).send(
            value, key=key, headers=headers, partition=partition, timestamp=timestamp, timeout=timeout
        )

    async def enqueue(
        self,
        topic: str,
        value: V | None,
        *,
        key: K | None = None,
        headers: HeadersLike | None = None,
        partition: Where | None = None,
        timestamp: int | datetime | None = None,
        timeout: float | None = None,
    ) -> Delivery:
        """Send one record, and wait for room in the buffer only; see `BoundTopic.enqueue`."""
        return await self.topic(topic).enqueue(
            value, key=key, headers=headers, partition=partition, timestamp=timestamp, timeout=timeout
        )

    def send_nowait(
        self,
        topic: str,
        value: V | None,
        *,
        key: K | None = None,
        headers: HeadersLike | None = None,
        partition: Where | None = None,
        timestamp: int | datetime | None = None,
    ) -> Delivery:
        """Send one record without waiting for anything; see `BoundTopic.send_nowait`."""
        return self.topic(topic).send_nowait(
            value, key=key, headers=headers, partition=partition, timestamp=timestamp
        )

    async def send_many(
        self,
        topic: str,
        values: Iterable[V | None],
        *,
        keys: Iterable[K | None] | None = None,
        headers: Iterable[HeadersLike | None] | None = None,
        timestamps: Iterable[int | datetime] | int | datetime | None = None,
        partition: Where | None = None,
        timeout: float | None = None,
    ) -> SendResult:
        """Send columns of records, and wait until all are acknowledged; see `BoundTopic.send_many`."""
        return await self.topic(topic).send_many(
            values, keys=keys, headers=headers, timestamps=timestamps, partition=partition, timeout=timeout
        )

    async def room(self, timeout: float | None = None) -> None:
        """Wait until the record that last raised BufferFull would fit. Raises OperationTimeout."""
        outgoing = self._outgoing
        outgoing.check()
        deadline = outgoing.deadline(timeout)
        if not await outgoing.wait_for_room(None, deadline):
            raise OperationTimeout(what="waiting for room in the producer's buffer", timeout=deadline.timeout)

    async def flush(self, timeout: float | None = None) -> None:
        """Wait until everything sent before is acknowledged or has failed, without lingering.

        Ends by itself within delivery_timeout. Raises DeliveryFailed for failures that nobody awaited, and
        OperationTimeout after `timeout` seconds.
        """
        self._outgoing.check()
        await self._outgoing.flush(timeout)
        self._outgoing.raise_unawaited()

    @property
    def unsettled_bytes(self) -> int:
        """Bytes of the buffer that records hold which are not acknowledged yet."""
        accumulator = self._outgoing.accumulator
        return accumulator.options.buffer_bytes - accumulator.free_bytes


def _at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise InvalidConfig(key=key, reason=f"{value} is not at least {least}")
