"""A producer bound to one topic: where each send happens, whoever it was asked of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Generic, Literal, TypeVar

from millpond._core.accumulator import (
    VALUE_OVERHEAD_BYTES,
    Partitioner,
    TopicIntake,
    headers_of,
)
from millpond._core.cluster import ClusterView, TopicView
from millpond._core.pending_batch import Ack, PendingBatch
from millpond._core.retry import Deadline
from millpond._core.serdes import Encode, SerdeContext
from millpond._core.times import milliseconds
from millpond._transport.delivery import Delivery, SendResult, claim
from millpond._transport.outgoing import Outgoing
from millpond._transport.send_columns import SendMany, columns_of
from millpond.wire.batch import TIMESTAMP_MAX_MS
from millpond.wire.errors import (
    BufferFull,
    ClusterUnavailable,
    DeliveryTimeout,
    InvalidRecord,
    OperationTimeout,
    Outcome,
    UnknownTopic,
)
from millpond.wire.record import Headers

K = TypeVar("K")
V = TypeVar("V")

HeadersLike = Mapping[str, bytes] | Iterable[tuple[str, bytes]]
Where = int | Partitioner

_UNKNOWN_ID: Final = b""
MakeDelivery = Callable[[PendingBatch, int], Any]


class BoundTopic(TopicIntake, Generic[K, V]):
    """A producer bound to one topic, by `producer.topic(name)`. Valid as long as the producer is open."""

    def __init__(
        self, outgoing: Outgoing, name: str, key_encode: Encode | None, value_encode: Encode | None
    ) -> None:
        super().__init__(outgoing.accumulator, TopicView(name, _UNKNOWN_ID, (), 0, 0, {}))
        self.name: Final = name
        self.outgoing: Final = outgoing
        self._key_encode = key_encode
        self._value_encode = value_encode
        self._key_context = SerdeContext(name, "key")
        self._value_context = SerdeContext(name, "value")
        self._seen: ClusterView | None = None
        self.catch_up()

    # --- the topic --------------------------------------------------------------------------------------

    def follow_view(self, view: ClusterView) -> None:
        """Take over what the cluster says now."""
        self._seen = view
        topic = view.topics.get(self.name)
        if topic is None:
            self.accumulator.cool()
            self.view = TopicView(self.name, _UNKNOWN_ID, (), 0, 0, {})
        elif topic is not self.view:
            self.follow(topic, view)
            if self._value_encode is not None:
                self._hot_allowed = False  # each value is to be encoded first

    def catch_up(self) -> None:
        """See what the client sees now: whoever was told of a change may rely on it at once."""
        view = self.outgoing.connection.view
        if view is not self._seen:
            self.follow_view(view)

    def require(self) -> None:
        """Raise UnknownTopic unless this client knows the topic."""
        self.catch_up()
        if not self.view.topic_id:
            raise UnknownTopic(topic=self.name)

    async def learn(self, deadline: Deadline) -> None:
        """As `require`, after asking the cluster."""
        if not self.view.topic_id:
            try:
                await self.outgoing.connection.topic(self.name, deadline)
            except (ClusterUnavailable, OperationTimeout) as error:
                raise DeliveryTimeout(timeout=deadline.timeout, outcome=Outcome.NOT_WRITTEN) from error
            with self.outgoing.lock:
                self.require()

    # --- one record -------------------------------------------------------------------------------------

    def send_nowait(
        self,
        value: V | None,
        *,
        key: K | None = None,
        headers: HeadersLike | None = None,
        partition: Where | None = None,
        timestamp: int | datetime | None = None,
    ) -> Delivery:
        """Send one record without waiting for anything; await what it gives for its Ack, now or later.

        Raises BufferFull if there is no room: then await `producer.room()` and try again. Raises UnknownTopic
        also for a topic that this client has not heard of yet; `send` and `enqueue` ask. See `send`.
        """
        batch = self.hot
        if (
            batch is not None
            and key is None
            and headers is None
            and partition is None
            and timestamp is None
            and type(value) is bytes
        ):
            left = batch.left - len(value) - VALUE_OVERHEAD_BYTES
            if left >= 0:
                batch.left = left
                values = batch.values
                index = len(values)
                values.append(value)
                return Delivery(batch, index)
        return Delivery(*self.put(value, key, headers, partition, timestamp))

    def put(
        self,
        value: V | None,
        key: K | None,
        headers: HeadersLike | None,
        partition: Where | None,
        timestamp: int | datetime | None,
    ) -> tuple[PendingBatch, int]:
        """`send_nowait` for every kind of record: its batch, and its place there."""
        self.outgoing.check()
        self.require()
        value_bytes, key_bytes, had, at = self.record(value, key, headers, timestamp)
        return self.add(value_bytes, key_bytes, had, partition, at)

    async def enqueue(
        self,
        value: V | None,
        *,
        key: K | None = None,
        headers: HeadersLike | None = None,
        partition: Where | None = None,
        timestamp: int | datetime | None = None,
        timeout: float | None = None,
    ) -> Delivery:
        """Send one record, waiting for room in the buffer only; await what it gives for its Ack.

        The usual way to send many. Who waits first gets room first. Raises DeliveryTimeout (not written) if
        there is none within `timeout` seconds, delivery_timeout unless given; else as `send`.
        """
        outgoing = self.outgoing
        outgoing.check()
        self.catch_up()
        deadline: Deadline | None = None
        if not self.view.topic_id:
            deadline = outgoing.deadline(timeout)
            await self.learn(deadline)
        value_bytes, key_bytes, had, at = self.record(value, key, headers, timestamp)
        if not self.accumulator.crowded:
            try:
                delivery = Delivery(*self.add(value_bytes, key_bytes, had, partition, at))
            except BufferFull:
                pass
            else:
                await outgoing.let_others()
                return delivery
        if deadline is None:
            deadline = outgoing.deadline(timeout)
        size = self.measure(value_bytes, key_bytes, had)
        if not await outgoing.wait_for_room(size, deadline):
            full = BufferFull(buffer_bytes=self.accumulator.options.buffer_bytes)
            raise DeliveryTimeout(timeout=deadline.timeout, outcome=Outcome.NOT_WRITTEN) from full
        try:
            self.require()
            return Delivery(*self.add(value_bytes, key_bytes, had, partition, at, granted_bytes=size))
        except BaseException:  # whatever it was, the room is free again
            self.accumulator.give_room(size)
            raise

    async def send(
        self,
        value: V | None,
        *,
        key: K | None = None,
        headers: HeadersLike | None = None,
        partition: Where | None = None,
        timestamp: int | datetime | None = None,
        timeout: float | None = None,
    ) -> Ack:
        """Send one record, and wait until it is acknowledged.

        `value` None is a tombstone. `headers` is a mapping or pairs of str and bytes. `partition` is a number
        or a function of (key, value, number of partitions); without it, records of one key go to one
        partition, and those without a key wherever a batch is open. `timestamp` is int milliseconds UTC or
        an aware datetime; now, unless given.

        Raises RecordTooLarge and TypeError at once; UnknownTopic, UnknownPartition; DeliveryTimeout, whose
        `outcome` says whether the record may be in the log, also when `timeout` seconds are over first (the
        record stays on its way, then).
        """
        deadline = self.outgoing.deadline(timeout)
        delivery = await self.enqueue(
            value, key=key, headers=headers, partition=partition, timestamp=timestamp, timeout=timeout
        )
        if timeout is None:
            return await delivery
        try:
            async with asyncio.timeout_at(deadline.at):
                return await delivery
        except DeliveryTimeout:
            raise
        except TimeoutError:
            claim(delivery)
            raise DeliveryTimeout(timeout=timeout, outcome=Outcome.UNKNOWN) from None

    # --- many records -----------------------------------------------------------------------------------

    async def send_many(
        self,
        values: Iterable[V | None],
        *,
        keys: Iterable[K | None] | None = None,
        headers: Iterable[HeadersLike | None] | None = None,
        timestamps: Iterable[int | datetime] | int | datetime | None = None,
        partition: Where | None = None,
        timeout: float | None = None,
    ) -> SendResult:
        """Send columns of records, and wait until all are acknowledged; columns come back.

        `keys`, `headers` and `timestamps` have an item for each value; one timestamp may serve for all. Not
        atomic: PartialDelivery has the `result` so far, and an error by index in `failed`. What `send` raises
        at once is raised here before anything is sent.
        """
        outgoing = self.outgoing
        outgoing.check()
        deadline = outgoing.deadline(timeout)
        with outgoing.lock:
            self.catch_up()
        if not self.view.topic_id:
            await self.learn(deadline)
        columns = columns_of(
            values, keys, headers, timestamps, column_of=self.column, milliseconds=_milliseconds
        )
        many = SendMany(self, columns, partition, outgoing)
        await many.send(deadline)
        return await many.result(None if timeout is None else deadline)

    # --- what a user gives ------------------------------------------------------------------------------

    def record(
        self,
        value: V | None,
        key: K | None,
        headers: HeadersLike | None,
        timestamp: int | datetime | None,
    ) -> tuple[bytes | None, bytes | None, Headers, int | None]:
        """A record as it is sent. Raises TypeError, ValueError, InvalidRecord."""
        had = headers_of(headers)
        return (
            self._bytes_of(value, "value", had),
            None if key is None else self._bytes_of(key, "key", had),
            had,
            None if timestamp is None else _milliseconds(timestamp),
        )

    def column(
        self, items: list[Any], field: Literal["key", "value"], headers: list[Headers] | None
    ) -> list[bytes | None]:
        """A column of values or keys as it is sent."""
        encode = self._key_encode if field == "key" else self._value_encode
        if encode is None and set(map(type, items)) <= {bytes, type(None)}:
            return items
        if headers is None:
            return [self._bytes_of(item, field, None) for item in items]
        return [self._bytes_of(item, field, had) for item, had in zip(items, headers, strict=False)]

    def _bytes_of(
        self, item: object, field: Literal["key", "value"], headers: Headers | None
    ) -> bytes | None:
        """A key or value as it is sent; None passes untouched. Raises TypeError."""
        encode = self._key_encode if field == "key" else self._value_encode
        if item is None or (encode is None and type(item) is bytes):
            return item
        if encode is not None:
            context = self._key_context if field == "key" else self._value_context
            made = encode(item, context._replace(headers=headers) if headers else context)
            if made is not None and type(made) is not bytes:
                kind = type(made).__name__
                raise TypeError(f"{field}_serializer= gave {kind}; it is to give bytes, or None")
            return made
        if isinstance(item, bytes | bytearray | memoryview):
            return bytes(item)
        kind = type(item).__name__
        hint = "str.encode, for example" if isinstance(item, str) else "a function that gives bytes"
        raise TypeError(f"{field} is {kind}, not bytes; give the producer {field}_serializer= ({hint})")


def _milliseconds(timestamp: int | datetime) -> int:
    at = milliseconds(timestamp)
    if at < 0:
        raise InvalidRecord(reason=f"timestamp {at} ms lies before 1970")
    if at > TIMESTAMP_MAX_MS:  # here: in a batch it would fail its neighbours too
        raise InvalidRecord(reason=f"timestamp {at} ms is no time that a record can have")
    return at
