"""Consumers without `await`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Generic, Literal, Self, TypeVar

from millpond import consumer as asyncio_consumer
from millpond._core.handout import RecordBatch
from millpond._transport.loop_thread import LoopThread
from millpond.sync.closing import Closing
from millpond.wire.errors import InvalidRequest
from millpond.wire.record import Record, TopicPartition

K = TypeVar("K")
V = TypeVar("V")


class Consumer(Closing, Generic[K, V]):
    """Reads topics. Made by `client.consumer(…)`; belongs to the thread that made it.

    Another thread that uses it gets InvalidRequest; closing it is for anybody.
    """

    def __init__(self, inner: asyncio_consumer.Consumer[K, V], thread: LoopThread) -> None:
        self._inner = inner
        self._thread = thread
        self._owner = threading.get_ident()
        thread.run(inner._opened)  # noqa: SLF001 - what awaiting it does

    def _check(self) -> None:
        self._thread.check()
        if threading.get_ident() != self._owner:
            raise InvalidRequest(reason="a consumer belongs to the thread that made it; make one in each")

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Record[K, V]:
        inner = self._inner
        hand = inner._hand  # noqa: SLF001 - one consumer with two surfaces: records lie ready in a list
        at = hand.at
        if threading.get_ident() != self._owner or at >= inner._until:  # noqa: SLF001 - likewise
            self._check()
            if not self._thread.run(inner._more):  # noqa: SLF001 - likewise
                raise StopIteration
            at = hand.at
        hand.at = at + 1
        return hand.records[at]

    def batches(self) -> Iterator[RecordBatch[K, V]]:
        """Iterate over columns instead: `for batch in consumer.batches()`. The fastest way to read."""
        while True:
            self._check()
            batch = self._thread.run(self._inner._next_batch)  # noqa: SLF001 - one consumer with two surfaces
            if batch is None:
                return
            yield batch

    def poll(self, max_records: int = 500, timeout: float | None = 1.0) -> list[Record[K, V]]:
        """Up to `max_records` records: what lies ready, or the first that come within `timeout` seconds."""
        self._check()
        return self._thread.run(lambda: self._inner.poll(max_records, timeout))

    @property
    def finished(self) -> bool:
        """Whether `stop="end"` was reached in every partition, and everything handed out."""
        self._check()
        return self._thread.call(lambda: self._inner.finished)

    @property
    def records_skipped(self) -> int:
        """How many offsets retention deleted before they could be read."""
        return self._inner.records_skipped

    def commit(self, *what: object, **how: object) -> None:
        """Groups alone have offsets to commit: raises InvalidConfig."""
        self._check()
        self._thread.run(lambda: self._inner.commit(*what, **how))

    @property
    def assignment(self) -> list[TopicPartition]:
        """The partitions that are read now."""
        self._check()
        return self._thread.call(lambda: self._inner.assignment)

    def position(self, topic: str, partition: int) -> int:
        """The offset that is handed out next. Raises UnknownPartition for a partition that is not read."""
        self._check()
        return self._thread.call(lambda: self._inner.position(topic, partition))

    def seek(
        self,
        topic: str,
        partition: int,
        *,
        offset: int | None = None,
        timestamp: int | datetime | None = None,
        to: Literal["beginning", "end"] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Go on at an offset, at a time (int milliseconds UTC or aware datetime), or at an end."""
        self._check()
        seek = partial(
            self._inner.seek, topic, partition, offset=offset, timestamp=timestamp, to=to, timeout=timeout
        )
        self._thread.run(seek)

    def close(self, timeout: float | None = None) -> None:
        """End its streams and tasks, within `timeout` seconds if given. Closing twice is closing once."""
        if not self._thread.forked:
            self._thread.run(lambda: self._inner.close(timeout))
