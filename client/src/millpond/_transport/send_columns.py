"""`send_many`: columns cut into batches by partition, sent as the buffer has room, their offsets gathered."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any, Final, Literal, NamedTuple

from millpond._core.accumulator import (
    HEADER_OVERHEAD_BYTES,
    ROW_OVERHEAD_BYTES,
    Partitioner,
    TopicIntake,
    headers_of,
)
from millpond._core.pending_batch import Columns, PendingBatch, copy_of
from millpond._core.retry import Deadline
from millpond._transport.delivery import SendResult, settled
from millpond._transport.outgoing import Outgoing
from millpond.wire.errors import (
    DeliveryTimeout,
    MillpondError,
    Outcome,
    PartialDelivery,
    RecordTooLarge,
    UnknownTopic,
)
from millpond.wire.header import RECORDS_MAX
from millpond.wire.record import Headers

YIELD_BATCHES: Final = 4
"""Other tasks run after so many batches at the latest: encoding and writing happen meanwhile."""

ColumnOf = Callable[[list[Any], Literal["key", "value"], list[Headers] | None], list[bytes | None]]
"""A user's column, which it is, and the headers of its records: bytes and None."""


def columns_of(
    values: Iterable[Any],
    keys: Iterable[Any] | None,
    headers: Iterable[Any] | None,
    timestamps: Iterable[int | datetime] | int | datetime | None,
    *,
    column_of: ColumnOf,
    milliseconds: Callable[[int | datetime], int],
) -> Columns:
    """A user's columns as they are sent. Raises TypeError, and ValueError for columns of unequal length."""
    given = list(values)
    had = None if headers is None else [headers_of(item) for item in headers]
    times: Sequence[int] | int = -1
    if isinstance(timestamps, int | datetime):
        times = milliseconds(timestamps)
    elif timestamps is not None:
        times = [milliseconds(item) for item in timestamps]
    columns = Columns(
        column_of(given, "value", had),
        None if keys is None else column_of(list(keys), "key", had),
        had,
        times,
    )
    for name in ("keys", "headers", "timestamps"):
        column = getattr(columns, name)
        if not (column is None or isinstance(column, int)) and len(column) != len(given):
            raise ValueError(f"{len(column)} {name} for {len(given)} values")
    return columns


class _Chunk(NamedTuple):
    """One batch, and which of the records it has: a range, or their indexes."""

    batch: PendingBatch
    indexes: range | list[int]


class SendMany:
    """One call of `send_many`."""

    def __init__(
        self,
        topic: TopicIntake,
        columns: Columns,
        partition: int | Partitioner | None,
        outgoing: Outgoing,
    ) -> None:
        self._topic = topic
        self._columns = columns
        self._partition = partition
        self._outgoing = outgoing
        self._chunks: list[_Chunk] = []
        self._failed: dict[int, MillpondError] = {}
        self._sizes = self._measured()

    def _measured(self) -> list[int]:
        """The size of each record, overhead included. Raises RecordTooLarge."""
        values, keys, headers, _ = self._columns
        sizes = [0 if value is None else len(value) for value in values]
        if keys is not None:
            sizes = [size + (0 if key is None else len(key)) for size, key in zip(sizes, keys, strict=True)]
        overheads = None
        if headers is not None:
            pairs = [item.multi_items() for item in headers]
            extra = [sum(len(name.encode()) + len(content) for name, content in item) for item in pairs]
            sizes = [size + more for size, more in zip(sizes, extra, strict=True)]
            overheads = [HEADER_OVERHEAD_BYTES * len(item) for item in pairs]
        largest = max(sizes, default=0)
        if largest > self._topic.record_bytes_max:
            raise RecordTooLarge(size_bytes=largest, limit_bytes=self._topic.record_bytes_max)
        if overheads is None:
            sizes = [size + ROW_OVERHEAD_BYTES for size in sizes]
        else:
            sizes = [size + more + ROW_OVERHEAD_BYTES for size, more in zip(sizes, overheads, strict=True)]
        buffer_bytes = self._topic.accumulator.options.buffer_bytes
        if (largest := max(sizes, default=0)) > buffer_bytes:
            raise RecordTooLarge(size_bytes=largest, limit_bytes=buffer_bytes)
        return sizes

    async def send(self, deadline: Deadline) -> None:
        """Hand everything to the lanes, waiting for room. What finds none in time has failed."""
        try:
            await self._send(deadline)
        except BaseException:  # cancelled, or closed meanwhile: nobody will ask for the result
            self._abandon()
            raise

    def _abandon(self) -> None:
        """Failures of what was handed over are for the next flush to tell."""
        with self._outgoing.lock:
            for chunk in self._chunks:
                chunk.batch.unreport()

    async def _send(self, deadline: Deadline) -> None:
        accumulator = self._topic.accumulator
        sent = 0
        for number, indexes in self._interleaved():
            size = sum(map(self._sizes.__getitem__, indexes))
            if not await self._room(size, deadline):
                timeout = DeliveryTimeout(timeout=deadline.timeout, outcome=Outcome.NOT_WRITTEN)
                self._failed.update(dict.fromkeys(indexes, timeout))
                continue
            with self._outgoing.lock:
                if not self._topic.view.topic_id:  # deleted meanwhile
                    accumulator.give_room(size)
                    self._failed.update(dict.fromkeys(indexes, UnknownTopic(topic=self._topic.view.name)))
                    continue
                accumulator.tick()
                lane = self._topic.sticky() if number is None else accumulator.lane(self._topic.view, number)
                batch = self._topic.add_columns(lane, self._cut(indexes), size)
                batch.reported = True
            self._chunks.append(_Chunk(batch, indexes))
            sent += 1
            if sent % YIELD_BATCHES == 0:
                await asyncio.sleep(0)

    async def _room(self, size: int, deadline: Deadline) -> bool:
        with self._outgoing.lock:
            if not self._topic.accumulator.crowded and self._topic.accumulator.take_room(size):
                return True
        return await self._outgoing.wait_for_room(size, deadline)

    def _interleaved(self) -> Iterator[tuple[int | None, range | list[int]]]:
        """(partition, indexes) of each batch, partitions in turn; None: any partition."""
        groups = [(number, self._batches(indexes)) for number, indexes in self._by_partition().items()]
        while groups:
            for group in list(groups):
                number, batches = group
                indexes = next(batches, None)
                if indexes is None:
                    groups.remove(group)
                else:
                    yield number, indexes

    def _by_partition(self) -> dict[int | None, range | list[int]]:
        values, keys, _, _ = self._columns
        count = len(values)
        partition_of, partition = self._topic.partition_of, self._partition
        chooses = callable(partition) or self._topic.accumulator.options.partitioner is not None
        if isinstance(partition, int) or (keys is None and not chooses):
            return {partition_of(None, None, partition): range(count)} if count else {}
        groups: dict[int | None, range | list[int]] = {}
        for index, value in enumerate(values):
            number = partition_of(value, None if keys is None else keys[index], partition)
            group = groups.get(number)
            if group is None:
                groups[number] = [index]
            else:
                assert isinstance(group, list), "made here"
                group.append(index)
        return groups

    def _batches(self, indexes: range | list[int]) -> Iterator[range | list[int]]:
        """Cut into what one batch holds."""
        limit = min(self._topic.batch_bytes, self._topic.accumulator.options.buffer_bytes)
        ends = list(accumulate(map(self._sizes.__getitem__, indexes)))
        start = base = 0
        while start < len(indexes):
            end = max(start + 1, bisect_right(ends, base + limit, lo=start))
            end = min(end, start + RECORDS_MAX)
            base = ends[end - 1]
            yield indexes[start:end]
            start = end

    def _cut(self, indexes: range | list[int]) -> Columns:
        values, keys, headers, timestamps = self._columns
        if isinstance(timestamps, int) and timestamps < 0:
            timestamps = self._topic.accumulator.now_ms
        return Columns(
            _take(values, indexes),
            None if keys is None else _take(keys, indexes),
            None if headers is None else _take(headers, indexes),
            timestamps if isinstance(timestamps, int) else _take(timestamps, indexes),
        )

    async def result(self, deadline: Deadline | None) -> SendResult:
        """Wait for every batch. Raises PartialDelivery if any record has failed."""
        count = len(self._columns.values)
        result = SendResult(self._topic.view.name, [-1] * count, [-1] * count, [-1] * count)
        try:
            async with asyncio.timeout_at(None if deadline is None else deadline.at):
                for chunk in self._chunks:
                    await settled(chunk.batch)
        except TimeoutError:
            pass  # the caller's, not the records': what is not known yet is said so below
        except BaseException:  # cancelled: failures are for the next flush to tell
            self._abandon()
            raise
        for chunk in self._chunks:
            self._gather(chunk, result, deadline)
        if self._failed:
            raise PartialDelivery(result=result, failed=dict(sorted(self._failed.items())))
        return result

    def _gather(self, chunk: _Chunk, result: SendResult, deadline: Deadline | None) -> None:
        batch, indexes = chunk
        if not batch.settled or batch.error is not None:
            if batch.error is not None:
                error = copy_of(batch.error)
            else:
                assert deadline is not None, "otherwise all are settled"
                batch.unreport()
                error = DeliveryTimeout(timeout=deadline.timeout, outcome=Outcome.UNKNOWN)
            self._failed.update(dict.fromkeys(indexes, error))
            return
        base = batch.acked_base_offset
        offsets: Sequence[int] = range(base, base + batch.count) if base >= 0 else [-1] * batch.count
        times = batch.timestamps()
        _put(result.partitions, indexes, [batch.lane.partition] * batch.count)
        _put(result.offsets, indexes, offsets)
        _put(result.timestamps, indexes, times)


def _take(column: Sequence[Any], indexes: range | list[int]) -> Sequence[Any]:
    if isinstance(indexes, range):
        return column[indexes.start : indexes.stop]
    return list(map(column.__getitem__, indexes))


def _put(column: list[int], indexes: range | list[int], items: Sequence[int]) -> None:
    if isinstance(indexes, range):
        column[indexes.start : indexes.stop] = items
    else:
        for index, item in zip(indexes, items, strict=True):
            column[index] = item
