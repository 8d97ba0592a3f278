"""Records of one partition on their way: collected, encoded, sent, and what became of them.

A batch is what a send's awaitable points into: everything is known of a whole batch or of none of it. Its
columns go when it is settled; what is left answers for each record.
"""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from millpond.wire.batch import Batch, Producer, encode_batch, seal
from millpond.wire.compression import Codec
from millpond.wire.errors import MillpondError
from millpond.wire.header import HEADER_BYTES
from millpond.wire.record import NO_HEADERS, Headers

if TYPE_CHECKING:
    from millpond._core.lane import Lane

FAILED_BATCHES_KEPT: Final = 16
"""Failed batches that are remembered to name the first error nobody awaited; the others are only counted."""


class Ack(NamedTuple):
    """Where a record is. `timestamp` is milliseconds UTC, as it was sent; `offset` is -1 with acks="none"."""

    topic: str
    partition: int
    offset: int
    timestamp: int


class Row(NamedTuple):
    """One record of a batch that is more than values."""

    value: bytes | None
    key: bytes | None
    headers: Headers
    timestamp: int


class Columns(NamedTuple):
    """Records of `send_many`: columns of equal length; one timestamp may serve for all."""

    values: Sequence[bytes | None]
    keys: Sequence[bytes | None] | None
    headers: Sequence[Headers] | None
    timestamps: Sequence[int] | int


class BatchState(enum.Enum):
    """Where a batch stands. A settled one may still be on its way: its sequence is to be accounted for."""

    OPEN = "open"
    """Takes records."""
    READY = "ready"
    """Closed, and without a sequence."""
    SENT = "sent"
    """One attempt is unanswered."""
    WAITING = "waiting"
    """To be sent again, with the sequence that it has."""
    AGAIN = "again"
    """Certainly not in the log: to be sent under another sequence."""
    ACKED = "acked"
    GONE = "gone"
    """Given up; no attempt is unanswered."""


class PendingBatch:
    """One batch of one lane. The lane moves its state, the accumulator fills it, `settle` ends it."""

    __slots__ = (
        "acked_base_offset",
        "attempt",
        "base_sequence",
        "claims",
        "columns",
        "count",
        "created_at",
        "deadline",
        "encoded",
        "error",
        "lane",
        "last_error",
        "leased",
        "left",
        "message",
        "number",
        "reported",
        "rows",
        "settled",
        "stamps",
        "state",
        "tally",
        "unknown",
        "values",
        "waiters",
    )

    def __init__(self, lane: Lane, number: int, created_at: float, deadline: float) -> None:
        self.lane = lane
        self.number = number
        """Batches of one producer in the order in which they were begun."""
        self.created_at = created_at
        self.deadline = deadline
        """When its first record has been here for delivery_timeout."""
        self.state = BatchState.OPEN
        self.leased = 0
        """Bytes of the buffer that it holds."""
        self.left = 0
        """Those of them that no record uses. Only a batch that a topic keeps hot has any."""
        self.values: list[bytes | None] = []
        """Records that are only values. Empty if `rows` or `columns` holds the records."""
        self.stamps: list[tuple[int, int]] = []
        """(index, ms): from that record on, this is the time. For `values` alone."""
        self.rows: list[Row] | None = None
        self.columns: Columns | None = None
        self.count = 0
        """How many records, once it is closed."""
        self.encoded: Batch | None = None
        self.base_sequence = -1
        self.attempt = 0
        """The id of the unanswered attempt, while SENT."""
        self.message: list[int] | None = None
        """How many batches of the message that it travelled in are unanswered: shared by them all."""
        self.unknown = False
        """Some attempt may be in the log, or get there. Never taken back (rule 8)."""
        self.last_error: MillpondError | None = None
        """What the last attempt was refused with."""
        self.settled = False
        self.acked_base_offset = -1
        self.error: MillpondError | None = None
        self.waiters: dict[Callable[[], None], None] = {}
        """Called once when it is settled."""
        self.claims: dict[int, int] = {}
        """Records that somebody awaits, or has awaited, and how many do."""
        self.reported = False
        """Somebody awaits the batch as a whole, and will be told of each record."""
        self.tally: Tally | None = None
        """Where its failed records are counted until somebody awaits them."""

    def __len__(self) -> int:
        if self.state is not BatchState.OPEN:
            return self.count
        return len(self.values) if self.rows is None else len(self.rows)

    @property
    def size_bytes(self) -> int:
        """Bytes of its records, overhead included, as the buffer counts them."""
        return self.leased - self.left

    # --- filling ----------------------------------------------------------------------------------------

    def stamp(self, now_ms: int) -> None:
        """Values from here on were sent at this time."""
        if not self.stamps or self.stamps[-1][1] != now_ms:
            self.stamps.append((len(self.values), now_ms))

    def to_rows(self) -> list[Row]:
        """Make room for keys, headers and times of their own."""
        if self.rows is None:
            times = self._times() if self.values else []
            rows = [Row(value, None, NO_HEADERS, at) for value, at in zip(self.values, times, strict=True)]
            # In this order, so that an interrupt between the two loses nothing: `rows` is what counts.
            self.rows = rows
            self.values = []
        return self.rows

    def close(self) -> None:
        """No record joins it any more."""
        assert self.state is BatchState.OPEN, "closed once"
        self.count = len(self.columns.values) if self.columns is not None else len(self)
        self.state = BatchState.READY

    # --- encoding ---------------------------------------------------------------------------------------

    def encode(self, codec: Codec, producer: Producer) -> Batch:
        """Its bytes, with this place in the producer's sequence."""
        assert self.count > 0, "an empty batch is not sent"
        if self.encoded is None:
            columns = self._columns()
            self.encoded = encode_batch(
                columns.values,
                columns.timestamps,
                keys=columns.keys,
                headers=columns.headers,
                codec=codec,
                producer=producer,
            )
            self._keep_times(columns.timestamps)
        elif _producer_of(self.encoded) != producer:
            header, data = self.encoded
            changed = header._replace(
                producer_id=producer.producer_id,
                producer_epoch=producer.epoch,
                base_sequence=producer.base_sequence,
            )
            self.encoded = seal(changed, memoryview(data)[HEADER_BYTES:])
        return self.encoded

    def _columns(self) -> Columns:
        if self.columns is not None:
            return self.columns
        if self.rows is None:
            times = self.stamps[0][1] if len(self.stamps) == 1 else self._times()
            return Columns(self.values, None, None, times)
        values, keys, headers, timestamps = zip(*self.rows, strict=True)
        return Columns(
            values,
            keys if any(key is not None for key in keys) else None,
            headers if any(headers) else None,
            timestamps,
        )

    def _times(self) -> list[int]:
        times: list[int] = []
        ends = [index for index, _ in self.stamps[1:]] + [len(self.values)]
        for (start, now_ms), end in zip(self.stamps, ends, strict=True):
            times += [now_ms] * (end - start)
        return times

    def _keep_times(self, timestamps: Sequence[int] | int) -> None:
        """Records go once they are encoded; their times are part of each acknowledgement."""
        if isinstance(timestamps, int):
            self.stamps = [(0, timestamps)]
        elif self.rows is not None or self.columns is not None:
            self.stamps = []
            for index, timestamp in enumerate(timestamps):
                if not self.stamps or self.stamps[-1][1] != timestamp:
                    self.stamps.append((index, timestamp))
        self.values, self.rows, self.columns = [], None, None

    def timestamps(self) -> list[int]:
        """The times of all records, once it was encoded."""
        ends = [index for index, _ in self.stamps[1:]] + [self.count]
        times: list[int] = []
        for (start, at), end in zip(self.stamps, ends, strict=True):
            times += [at] * (end - start)
        return times

    def timestamp(self, index: int) -> int:
        """The time of one record, once it was encoded."""
        return self.stamps[bisect_right(self.stamps, index, key=_index_of) - 1][1]

    # --- the end ----------------------------------------------------------------------------------------

    def settle(self, base_offset: int, error: MillpondError | None) -> None:
        """Everything is known that will ever be told. `error` None: acknowledged."""
        assert not self.settled, "a record's fate is told once"
        self.acked_base_offset, self.error = base_offset, error
        self.settled = True
        self.values, self.rows, self.columns, self.encoded = [], None, None, None
        waiters, self.waiters = self.waiters, {}
        for wake in waiters:
            wake()

    def ack(self, index: int) -> Ack:
        """The acknowledgement of one record. Raises a copy of what the batch failed with.

        A copy, because each `raise` adds to an exception's traceback.
        """
        assert self.settled, "asked once it is known"
        if self.error is not None:
            raise copy_of(self.error)
        offset = -1 if self.acked_base_offset < 0 else self.acked_base_offset + index
        return Ack(self.lane.topic, self.lane.partition, offset, self.timestamp(index))

    def claim(self, index: int) -> None:
        """Somebody awaits this record: its failure will be told."""
        claims = self.claims.get(index, 0)
        self.claims[index] = claims + 1
        if not claims and self.tally is not None:
            self.tally.count -= 1

    def unclaim(self, index: int) -> None:
        """They gave up waiting."""
        self.claims[index] -= 1
        if not self.claims[index]:
            del self.claims[index]
            if self.tally is not None:
                self.tally.count += 1

    def unreport(self) -> None:
        """Nobody will tell of the batch as a whole: its failed records count as those that nobody awaited."""
        if self.reported:
            self.reported = False
            if self.tally is not None:
                self.tally.count += self.unclaimed

    @property
    def unclaimed(self) -> int:
        """How many records nobody awaits."""
        return 0 if self.reported else self.count - len(self.claims)


class Tally:
    """Failures that nobody awaited, since they were last raised."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[PendingBatch] = []

    def add(self, batch: PendingBatch) -> None:
        """A batch has failed."""
        batch.tally = self
        self.count += batch.unclaimed
        if len(self._first) < FAILED_BATCHES_KEPT:
            self._first.append(batch)

    def first(self) -> MillpondError:
        """The first failure that nobody awaited, as far as it is remembered."""
        unclaimed = (batch for batch in self._first if batch.unclaimed)
        error = next(unclaimed, self._first[0]).error
        assert error is not None, "what is counted has failed"
        return copy_of(error)


def _producer_of(batch: Batch) -> Producer:
    header = batch.header
    return Producer(header.producer_id, header.producer_epoch, header.base_sequence)


def _index_of(stamp: tuple[int, int]) -> int:
    return stamp[0]


def copy_of(error: MillpondError) -> MillpondError:
    """An error like it, with the same cause, to be raised once."""
    made = type(error)(**error.facts())
    made.__cause__ = error.__cause__
    return made
