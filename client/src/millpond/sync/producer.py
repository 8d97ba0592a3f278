"""Producers without `await`, and what their sends give."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Final, Generic, TypeVar

from millpond import producer as asyncio_producer
from millpond._core.accumulator import VALUE_OVERHEAD_BYTES, RoomWaiter
from millpond._core.pending_batch import Ack, PendingBatch
from millpond._transport.bound_topic import BoundTopic as AsyncioTopic
from millpond._transport.bound_topic import HeadersLike, Where
from millpond._transport.delivery import SendResult
from millpond._transport.loop_thread import LoopThread
from millpond.sync.closing import Closing
from millpond.wire.errors import BufferFull, DeliveryTimeout, MillpondError, Outcome

K = TypeVar("K")
V = TypeVar("V")

MENDS_MAX: Final = 1000
"""Attempts to put the books right, each but the last cut short by an interrupt of its own."""


class _Home:
    """What the deliveries and topics of one producer share."""

    __slots__ = ("lock", "thread")

    def __init__(self, thread: LoopThread) -> None:
        self.thread = thread
        # Reentrant: a signal handler of the program may send while the thread it interrupted holds it.
        self.lock = threading.RLock()


class Delivery:
    """One record on its way. Any thread may ask for its `result`, as often as it likes."""

    __slots__ = ("_batch", "_home", "_index")

    def __init__(self, batch: PendingBatch, index: int, home: _Home) -> None:
        self._batch = batch
        self._index = index
        self._home = home

    def done(self) -> bool:
        """Whether `result` would not wait."""
        return self._batch.settled

    def result(self, timeout: float | None = None) -> Ack:
        """Its Ack, once there is one; what it failed with is raised.

        Raises DeliveryTimeout, outcome unknown, after `timeout` seconds; the record stays on its way, then.
        """
        batch, index = self._batch, self._index
        if not batch.settled:
            self._wait(timeout)
        elif batch.error is not None:
            with self._home.lock:
                batch.claim(index)
        return batch.ack(index)

    def _wait(self, timeout: float | None) -> None:
        batch, index, home = self._batch, self._index, self._home
        home.thread.check()
        done = threading.Lock()
        done.acquire()
        wake = done.release
        with home.lock:
            batch.claim(index)
            if batch.settled:
                return
            batch.waiters[wake] = None
        in_time = False
        try:
            in_time = home.thread.wait(done, timeout)
        finally:
            if not in_time:
                with home.lock:
                    batch.waiters.pop(wake, None)
                    batch.unclaim(index)
        if not in_time:
            assert timeout is not None, "it ran out"
            raise DeliveryTimeout(timeout=timeout, outcome=Outcome.UNKNOWN)

    def __repr__(self) -> str:
        lane = self._batch.lane
        state = "pending" if not self.done() else "failed" if self._batch.error else "acknowledged"
        return f"<Delivery to {lane.topic}-{lane.partition}: {state}>"


class Producer(Closing, Generic[K, V]):
    """Writes records. Made by `client.producer(…)`; any thread may use it."""

    def __init__(self, inner: asyncio_producer.Producer[K, V], thread: LoopThread) -> None:
        self._inner = inner
        self._thread = thread
        self._outgoing = inner._outgoing  # noqa: SLF001 - one producer with two surfaces
        self._home = _Home(thread)
        self._outgoing.lock = self._home.lock
        self._topics: dict[str, BoundTopic[K, V]] = {}
        thread.run(inner._opened)  # noqa: SLF001 - what awaiting it does

    def topic(self, name: str) -> BoundTopic[K, V]:
        """The producer bound to one topic: the same calls without its name, and the fastest way to send."""
        if (bound := self._topics.get(name)) is None:
            self._thread.check()
            with self._home.lock:
                bound = self._topics[name] = BoundTopic(self._inner.topic(name), self._home)
        return bound

    def send(
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
        """Send one record, and wait until it is acknowledged; see `millpond.Producer.send`."""
        return self.topic(topic).send(
            value, key=key, headers=headers, partition=partition, timestamp=timestamp, timeout=timeout
        )

    def enqueue(
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
        """Send one record, and wait for room in the buffer only; see `millpond.Producer.enqueue`."""
        return self.topic(topic).enqueue(
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
        """Send one record without waiting for anything; see `millpond.Producer.send_nowait`."""
        return self.topic(topic).send_nowait(
            value, key=key, headers=headers, partition=partition, timestamp=timestamp
        )

    def send_many(
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
        """Send columns of records, and wait until all are acknowledged; see `millpond.Producer.send_many`."""
        return self.topic(topic).send_many(
            values, keys=keys, headers=headers, timestamps=timestamps, partition=partition, timeout=timeout
        )

    def room(self, timeout: float | None = None) -> None:
        """Wait until the record that last raised BufferFull would fit. Raises OperationTimeout."""
        self._thread.run(lambda: self._inner.room(timeout))

    def flush(self, timeout: float | None = None) -> None:
        """Wait until everything sent before is acknowledged or has failed; see `millpond.Producer.flush`."""
        self._thread.run(lambda: self._inner.flush(timeout))

    def close(self, timeout: float | None = None) -> None:
        """Deliver what is here, within `timeout` seconds if given, and end. Closing twice is closing once."""
        if self._thread.forked or self._outgoing.closed:
            return
        self._thread.run(lambda: self._inner.close(timeout))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.forked or self._outgoing.closed:
            return
        self._thread.run(lambda: self._inner.__aexit__(kind, error, trace))

    @property
    def unsettled_bytes(self) -> int:
        """Bytes of the buffer that records hold which are not acknowledged yet."""
        return self._inner.unsettled_bytes


class BoundTopic(Generic[K, V]):
    """A producer bound to one topic, by `producer.topic(name)`. Any thread may use it."""

    def __init__(self, inner: AsyncioTopic[K, V], home: _Home) -> None:
        self.name: Final = inner.name
        self._inner = inner
        self._home = home
        self._thread = home.thread
        self._lock = home.lock

    def send_nowait(
        self,
        value: V | None,
        *,
        key: K | None = None,
        headers: HeadersLike | None = None,
        partition: Where | None = None,
        timestamp: int | datetime | None = None,
    ) -> Delivery:
        """Send one record without waiting for anything; ask what it gives for its `result`.

        Raises BufferFull if there is no room: then `producer.room()` and try again.
        """
        inner = self._inner
        if self._thread.forked:  # the lock may be locked for ever
            self._thread.check()
        with self._lock:
            batch = inner.hot
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
                    return Delivery(batch, index, self._home)
            return self._put(lambda: inner.put(value, key, headers, partition, timestamp))

    def _put(self, put: Callable[[], tuple[PendingBatch, int]]) -> Delivery:
        """Add a record, under the lock. Whatever interrupts it leaves the books in order."""
        try:
            batch, index = put()
        except (MillpondError, TypeError, ValueError):
            raise
        except BaseException:  # raised by a signal handler, at any step
            self._mend(self._inner.accumulator.recount)
            raise
        return Delivery(batch, index, self._home)

    def _mend(self, mend: Callable[[], None]) -> None:
        """Put the books right after an interrupt. Another one meanwhile, as while the lock is waited for, is
        raised once that is done, or given up after so many.
        """
        interrupt: BaseException | None = None
        for _ in range(MENDS_MAX):
            try:
                with self._lock:
                    mend()
                break
            except BaseException as error:  # raised by a signal handler: what it cut short is done anew
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def enqueue(
        self,
        value: V | None,
        *,
        key: K | None = None,
        headers: HeadersLike | None = None,
        partition: Where | None = None,
        timestamp: int | datetime | None = None,
        timeout: float | None = None,
    ) -> Delivery:
        """Send one record, waiting for room in the buffer only; ask what it gives for its `result`.

        The usual way to send many. Who waits first gets room first. Raises DeliveryTimeout (not written) if
        there is none within `timeout` seconds, delivery_timeout unless given; else as `send`.
        """
        inner, accumulator = self._inner, self._inner.accumulator
        self._thread.check()
        if timeout is None:
            timeout = inner.outgoing.delivery_timeout
        if not inner.view.topic_id:
            self._thread.run(lambda: inner.learn(inner.outgoing.deadline(timeout)))
        record = inner.record(value, key, headers, timestamp)
        done = threading.Lock()
        done.acquire()
        with self._lock:
            inner.outgoing.check()
            inner.require()
            if not accumulator.crowded:
                try:
                    return self._put(lambda: inner.add(record[0], record[1], record[2], partition, record[3]))
                except BufferFull:
                    pass
            size = inner.measure(record[0], record[1], record[2])
        waiter = RoomWaiter(size, done.release, only_look=False)
        try:
            with self._lock:
                accumulator.join(waiter)
            if not self._thread.wait(done, timeout):
                full = BufferFull(buffer_bytes=accumulator.options.buffer_bytes)
                raise DeliveryTimeout(timeout=timeout, outcome=Outcome.NOT_WRITTEN) from full
            with self._lock:
                inner.outgoing.check()
                inner.require()
                added = inner.add(record[0], record[1], record[2], partition, record[3], granted_bytes=size)
                accumulator.use(waiter)
        except (MillpondError, TypeError, ValueError):
            with self._lock:
                accumulator.leave(waiter)
            raise
        except BaseException:  # raised by a signal handler, at any step
            self._mend(lambda: accumulator.abandon(waiter))
            raise
        return Delivery(*added, self._home)

    def send(
        self,
        value: V | None,
        *,
        key: K | None = None,
        headers: HeadersLike | None = None,
        partition: Where | None = None,
        timestamp: int | datetime | None = None,
        timeout: float | None = None,
    ) -> Ack:
        """Send one record, and wait until it is acknowledged; see the asyncio client's `send`."""
        delivery = self.enqueue(
            value, key=key, headers=headers, partition=partition, timestamp=timestamp, timeout=timeout
        )
        return delivery.result(timeout)

    def send_many(
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

        Not atomic: PartialDelivery has the `result` so far, and an error by index in `failed`.
        """
        # Walked through here: an iterator of the caller's may use this client, and would wait for itself.
        columns = partial(
            self._inner.send_many,
            list(values),
            keys=None if keys is None else list(keys),
            headers=None if headers is None else list(headers),
            timestamps=timestamps
            if timestamps is None or isinstance(timestamps, int | datetime)
            else list(timestamps),
            partition=partition,
            timeout=timeout,
        )
        return self._thread.run(columns)
