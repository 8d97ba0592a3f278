"""`client.consumer(…)`: records in order, read ahead into a bounded buffer and handed out from there.

Fetching runs in the background (`_transport.fetching`); a batch is unpacked when its turn comes, and then
iteration only walks over a list. What a consumer has handed out is its position.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, Generic, Literal, TypedDict, TypeVar

from millpond._core.assignment import Subscription, assign
from millpond._core.cluster import ClusterView
from millpond._core.fetch_buffer import FetchedGap
from millpond._core.fetcher import Fetcher
from millpond._core.hand import Hand
from millpond._core.handout import Reading, RecordBatch
from millpond._core.retry import Deadline
from millpond._core.serdes import Deserializer, decode_with
from millpond._core.session import Cursor
from millpond._core.times import milliseconds
from millpond._transport.connection import Connection
from millpond._transport.fetching import Fetching
from millpond._transport.offsets import OffsetAnswer, OffsetQuestion, check_partition, list_offsets
from millpond._transport.opening import Openable
from millpond.wire.errors import (
    ClientClosed,
    InvalidConfig,
    InvalidRequest,
    MillpondError,
    OffsetOutOfRange,
    UnknownPartition,
    UnknownTopic,
)
from millpond.wire.record import Record, TopicPartition

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

Start = int | datetime | Literal["beginning", "end"]

YIELD_RECORDS: Final = 1000
"""Iteration lets other tasks run after so many records at the latest, however many lie ready."""
TROUBLE_CHECK_S: Final = 0.5
"""How often a consumer that waits looks whether it should rather raise."""
TROUBLE_TOLD_S: Final = 5.0
"""Trouble of so long is logged: a leader that fails is replaced sooner, a cluster that is down is not."""

_log: Final = logging.getLogger("millpond")


class ConsumerOptions(TypedDict, total=False):
    """Options of `client.consumer`; see Consumer."""

    group: str | None
    pattern: str | re.Pattern[str] | None
    partitions: Sequence[int] | None
    start: Start
    stop: Literal["end"] | None
    commit: Literal["auto", "manual"]
    on_bad_record: Literal["raise", "deliver"]
    on_gap: Literal["warn", "raise"]
    buffer_bytes: int
    trouble_timeout: float


class Consumer(Openable, Generic[K, V]):
    """Reads topics. Made by `client.consumer(…)`; awaiting or entering it opens it.

    `pattern` is a regular expression for whole topic names, and includes topics made later. `partitions`
    are numbers, for each topic; without them all, new ones too. `start` is where each partition begins:
    "beginning", "end", an offset, or a time (an aware datetime); partitions that come later begin at their
    beginning. `stop="end"` ends the iteration at what could be read when it was opened. `on_gap` says what
    happens when retention deletes records that were not read: a warning and `records_skipped`, or
    OffsetOutOfRange. `buffer_bytes` bounds what is read ahead.

    `trouble_timeout`: seconds for which a partition may receive nothing because of a trouble that may pass,
    such as a cluster that is down; then that trouble is raised (ClusterUnavailable, NotLeader, …), and again
    after each further such time. `math.inf` waits for ever. The consumer stays usable: iterating, or polling,
    again goes on without a gap or a repeat. That it waits is logged once, and that it goes on.

    A deserializer that fails raises DeserializationError, the position already past the record; with
    `on_bad_record="deliver"` the record comes with `.error` set and its bytes raw. One task at a time.
    """

    def __init__(
        self,
        connection: Connection,
        *topics: str,
        group: str | None = None,
        pattern: str | re.Pattern[str] | None = None,
        partitions: Sequence[int] | None = None,
        start: Start = "beginning",
        stop: Literal["end"] | None = None,
        commit: Literal["auto", "manual"] = "auto",
        on_bad_record: Literal["raise", "deliver"] = "raise",
        on_gap: Literal["warn", "raise"] = "warn",
        buffer_bytes: int = 32 << 20,
        trouble_timeout: float = 120.0,
        key_deserializer: Deserializer[K] | None = None,
        value_deserializer: Deserializer[V] | None = None,
    ) -> None:
        if group is not None:
            raise InvalidConfig(key="group", reason="consumer groups are not in this version; leave it out")
        _choice("commit", commit, ("auto", "manual"))
        _choice("stop", stop, (None, "end"))
        _choice("on_bad_record", on_bad_record, ("raise", "deliver"))
        _choice("on_gap", on_gap, ("warn", "raise"))
        if buffer_bytes < 1:
            raise InvalidConfig(key="buffer_bytes", reason=f"{buffer_bytes} is not at least 1")
        if not trouble_timeout > 0:
            raise InvalidConfig(key="trouble_timeout", reason=f"{trouble_timeout} s is no time")
        self._subscription = _subscription(topics, pattern, partitions)
        self._start = _checked_start(start)
        self._stop = stop
        self._connection = connection
        self._trouble_timeout = trouble_timeout
        self._is_trouble_told = False
        self._fetcher = Fetcher(
            buffer_bytes=buffer_bytes, raise_on_gap=on_gap == "raise", jitter=random.random
        )
        reading = Reading(
            None if key_deserializer is None else decode_with(key_deserializer, "key_deserializer"),
            None if value_deserializer is None else decode_with(value_deserializer, "value_deserializer"),
            on_bad_record == "deliver",
        )
        self._hand: Hand[K, V] = Hand(self._fetcher, reading, self._skipped)
        self._fetching: Fetching | None = None
        self._closed = False
        self._missing: frozenset[str] = frozenset()
        """Topics that were named and are not there: told at every call, once what was read before is out."""
        self._cut_short: frozenset[str] = frozenset()
        """With `stop`: topics that were deleted before their end was reached. There is no other end."""
        self._ready = asyncio.Event()
        """Set when there may be something to hand out."""
        self._until = 0
        """Records of the hand that may be taken before other tasks get their turn."""
        self._since_yield = 0
        self.records_skipped = 0
        """How many offsets retention deleted before they could be read."""

    # --- opening and closing ---------------------------------------------------------------------------

    async def _open(self) -> None:
        self._connection.adopt(self)
        deadline = self._connection.deadline(None)
        for topic in self._subscription.topics:
            await self._connection.topic(topic, deadline)
        view = self._connection.view
        wanted = assign(view, self._subscription).wanted
        await self._begin(view, list(wanted), deadline)
        if self._closed:  # by another task, meanwhile
            raise ClientClosed(what="consumer")
        self._fetching = Fetching(self._connection, self._fetcher, self._follow, self._ready.set)
        self._fetching.start()

    async def _begin(self, view: ClusterView, wanted: Sequence[TopicPartition], deadline: Deadline) -> None:
        """Place a cursor in each partition, where `start` and `stop` say."""
        start = self._start
        answers: dict[TopicPartition, OffsetAnswer] = {}
        if self._stop is not None or start == "end" or isinstance(start, datetime):
            timestamp = milliseconds(start) if isinstance(start, datetime) else None
            questions = [OffsetQuestion(view.topics[key.topic], key.partition, timestamp) for key in wanted]
            answers = await list_offsets(self._connection, questions, deadline)
        for key in wanted:
            answer = answers.get(key)
            offset = _start_offset(start, answer)
            if answer is not None and offset > answer.log_end:
                # As the broker would say; with `stop` it would not be asked, and nothing would be read.
                raise OffsetOutOfRange(
                    topic=key.topic,
                    partition=key.partition,
                    offset=offset,
                    log_start=answer.log_start,
                    log_end=answer.log_end,
                )
            self._fetcher.add(
                key,
                view.topics[key.topic].topic_id,
                offset,
                floating=start == "beginning",
                holes=view.topics[key.topic].compacted,
                stop_at=None if self._stop is None or answer is None else answer.high_watermark,
            )

    async def close(self, timeout: float | None = None) -> None:
        """End its streams and tasks, within `timeout` seconds (about two, unless given). Closing twice is
        closing once.
        """
        if self._closed:
            return
        self._closed = True
        self._ready.set()
        self._connection.release(self)
        try:
            if self._fetching is not None:
                await self._fetching.close(timeout)
        finally:
            self._fetcher.clear()

    def _check(self) -> None:
        self._connection.check()
        if self._closed or self._fetching is None:
            raise ClientClosed(what="consumer")

    def _follow(self, view: ClusterView) -> None:
        """Take up partitions that came, leave those that went."""
        try:
            wanted, missing = assign(view, self._subscription)
        except UnknownPartition as error:  # a topic was deleted, and made again with fewer
            self._fetcher.fail(error)
            return
        for key, cursor in list(self._fetcher.cursors.items()):
            if wanted.get(key) != cursor.topic_id:
                self._fetcher.remove(key)
                if self._stop is not None:
                    self._cut_short |= {key.topic}
        if self._stop is None:
            for key, topic_id in wanted.items():
                if key not in self._fetcher.cursors:
                    # All of it came while this consumer was there to read it: `start` is not for it.
                    compacted = view.topics[key.topic].compacted
                    self._fetcher.add(key, topic_id, 0, floating=True, holes=compacted)
        self._missing = frozenset(missing)

    # --- records ----------------------------------------------------------------------------------------

    def __aiter__(self) -> Consumer[K, V]:
        return self

    async def __anext__(self) -> Record[K, V]:
        # By far the most frequent lines of the client: nothing is awaited while records lie ready.
        hand = self._hand
        at = hand.at
        if at >= self._until:
            if not await self._more():
                raise StopAsyncIteration
            at = hand.at
        hand.at = at + 1
        return hand.records[at]

    def batches(self) -> Batches[K, V]:
        """Iterate over columns instead: `async for batch in consumer.batches()`. The fastest way to read."""
        return Batches(self)

    async def poll(self, max_records: int = 500, timeout: float | None = 1.0) -> list[Record[K, V]]:
        """Up to `max_records` records: what lies ready, or the first that come within `timeout` seconds.

        Empty on time-out, and at once when `finished`. None waits as long as the client's own time-out.
        """
        self._check()
        if max_records < 1:
            raise ValueError(f"max_records={max_records} is not at least 1")
        deadline = self._connection.deadline(timeout)
        hand = self._hand
        polled: list[Record[K, V]] = []
        while len(polled) < max_records:
            if hand.at >= len(hand.records):
                try:
                    if not await self._load(deadline, wait=not polled):
                        break
                except MillpondError as error:
                    if not polled:
                        raise
                    hand.defer(error)  # the records come first; none of them is lost
                    break
            taken = hand.records[hand.at : hand.at + max_records - len(polled)]
            hand.at += len(taken)
            self._since_yield += len(taken)
            polled += taken
        return polled

    @property
    def finished(self) -> bool:
        """Whether `stop="end"` was reached in every partition, and everything handed out."""
        return self._stop is not None and self._hand.finished and not self._cut_short

    async def commit(self, *_: object, **__: object) -> None:
        """Groups alone have offsets to commit: raises InvalidConfig."""
        raise InvalidConfig(key="group", reason="only a consumer with group= commits, and this one has none")

    # --- positions ---------------------------------------------------------------------------------------

    @property
    def assignment(self) -> list[TopicPartition]:
        """The partitions that are read now."""
        return sorted(self._fetcher.cursors)

    def position(self, topic: str, partition: int) -> int:
        """The offset that is handed out next. Raises UnknownPartition for a partition that is not read."""
        return self._hand.position(self._cursor_of(topic, partition))

    async def seek(
        self,
        topic: str,
        partition: int,
        *,
        offset: int | None = None,
        timestamp: int | datetime | None = None,
        to: Literal["beginning", "end"] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Go on at an offset, at a time (int milliseconds UTC or aware datetime), or at an end: exactly one.

        A time after the last record is the high watermark. An offset that retention has passed is
        handled as `on_gap` says; one past the end raises OffsetOutOfRange when it is read.
        """
        self._check()
        if (offset is None) + (timestamp is None) + (to is None) != 2:
            raise TypeError("seek() takes exactly one of offset=, timestamp= and to=")
        _choice("to", to, (None, "beginning", "end"))
        cursor = self._cursor_of(topic, partition)
        if offset is None:
            view = await self._connection.topic(topic, self._connection.deadline(timeout))
            check_partition(view, partition)
            when = None if timestamp is None else milliseconds(timestamp)
            question = OffsetQuestion(view, partition, when)
            answers = await list_offsets(self._connection, [question], self._connection.deadline(timeout))
            answer = answers[cursor.key]
            if to == "beginning":
                offset = answer.log_start
            else:
                offset = answer.high_watermark if to == "end" else answer.of_time
        elif offset < 0:
            raise ValueError(f"offset={offset} is negative")
        self._check()
        assert self._fetching is not None, "checked"
        if self._fetcher.cursors.get(cursor.key) is not cursor:
            raise UnknownTopic(topic=topic)  # it was deleted in the meantime
        self._fetcher.seek(cursor.key, offset, floating=to == "beginning")
        self._hand.moved(cursor)
        self._until = 0
        self._fetching.moved()

    def _cursor_of(self, topic: str, partition: int) -> Cursor:
        cursor = self._fetcher.cursors.get(TopicPartition(topic, partition))
        if cursor is None:
            known = self._connection.view.topics.get(topic)
            if known is None:
                raise UnknownTopic(topic=topic)
            check_partition(known, partition)
            raise InvalidRequest(reason=f"this consumer does not read {topic}-{partition}")
        return cursor

    # --- the next of what was fetched -------------------------------------------------------------------

    async def _more(self) -> bool:
        """Make the next record one that may be taken; whether there is one."""
        self._check()
        hand = self._hand
        if hand.at < len(hand.records):
            await self._yield()
        elif not await self._load(None, wait=True):
            return False
        self._until = min(len(hand.records), hand.at + YIELD_RECORDS)
        self._since_yield += self._until - hand.at
        return hand.at < self._until

    async def _load(self, deadline: Deadline | None, *, wait: bool) -> bool:
        """Take the next batch in hand, to be handed out by the record; whether there is one."""
        self._until = 0
        return await self._ready_with(self._hand.load, deadline, wait=wait) is True

    async def _next_batch(self) -> RecordBatch[K, V] | None:
        """The next batch, to be handed out whole; None at the end."""
        self._until = 0
        batch = await self._ready_with(self._hand.take, None, wait=True)
        if batch:
            self._since_yield += len(batch)
        return batch

    async def _ready_with(self, attempt: Callable[[float], T], deadline: Deadline | None, *, wait: bool) -> T:
        """What `attempt` gives once that is something; nothing at the end, or at the deadline.

        Nothing is awaited between taking and giving: whoever is cancelled while waiting loses nothing.
        """
        loop = asyncio.get_running_loop()
        while True:
            self._check()
            assert self._fetching is not None, "checked"
            if wait:  # who does not wait has records in hand, which a cancellation here would lose
                await self._yield()
            try:
                found = attempt(loop.time())
            except MillpondError:
                self._fetching.moved()  # a partition that had failed may be tried again
                raise
            finally:
                self._fetching.handed_out()  # also when all that went out of the buffer was out of date
            if found:
                return found
            if not wait or not await self._wait(deadline):
                return found

    async def _wait(self, deadline: Deadline | None) -> bool:
        """Wait until there may be more; False at the end, or at the deadline. Raises lasting trouble."""
        loop = asyncio.get_running_loop()
        self._ready.clear()
        if self._fetcher.buffer:
            return True
        if gone := self._missing | self._cut_short:
            raise UnknownTopic(topic=min(gone))
        if self.finished:
            return False
        self._look_for_trouble(loop.time())
        wait = TROUBLE_CHECK_S
        if deadline is not None:
            if deadline.expired(loop.time()):
                await asyncio.sleep(0)  # who polls without waiting, again and again, must not stop the loop
                return False
            wait = min(wait, deadline.left_s(loop.time()))
        self._since_yield = 0
        try:
            async with asyncio.timeout(wait):
                await self._ready.wait()
        except TimeoutError:
            pass
        self._check()
        return True

    def _look_for_trouble(self, now: float) -> None:
        """Raise what has lasted; log once that reading waits for it, and once that it goes on. Where all is
        well each partition is looked at once: a reader who is up to date comes by before each of its waits.
        """
        if self._fetcher.troubled(now, 0.0) is None:
            if self._is_trouble_told:
                self._is_trouble_told = False
                _log.warning("reading goes on")
            return
        if not self._is_trouble_told and (trouble := self._fetcher.troubled(now, TROUBLE_TOLD_S)) is not None:
            self._is_trouble_told = True
            _log.warning("%s; reading waits for it", trouble)
        if (overdue := self._fetcher.overdue(now, self._trouble_timeout)) is not None:
            raise overdue

    async def _yield(self) -> None:
        """Let other tasks run, now and then: handing out what lies ready awaits nothing by itself."""
        if self._since_yield >= YIELD_RECORDS:
            self._since_yield = 0
            await asyncio.sleep(0)

    def _skipped(self, gap: FetchedGap) -> None:
        self.records_skipped += gap.skipped
        where = f"{gap.cursor.key.topic}-{gap.cursor.key.partition}"
        what = "retention deleted %d records that were not read; going on at offset %d"
        _log.warning("%s: " + what, where, gap.skipped, gap.resumed_at)


class Batches(Generic[K, V]):
    """What `consumer.batches()` iterates over."""

    def __init__(self, consumer: Consumer[K, V]) -> None:
        self._consumer = consumer

    def __aiter__(self) -> Batches[K, V]:
        return self

    async def __anext__(self) -> RecordBatch[K, V]:
        batch = await self._consumer._next_batch()  # noqa: SLF001 - its other half
        if batch is None:
            raise StopAsyncIteration
        return batch


def _choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        words = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name}={value!r}; it takes {words}")


def _subscription(
    topics: tuple[str, ...], pattern: str | re.Pattern[str] | None, partitions: Sequence[int] | None
) -> Subscription:
    if not topics and pattern is None:
        raise TypeError("a consumer takes topics, or pattern=")
    for topic in topics:
        if not isinstance(topic, str):
            raise TypeError(f"topics are str, not {type(topic).__name__}; several are several arguments")
    try:
        compiled = re.compile(pattern) if isinstance(pattern, str) else pattern
    except re.error as error:
        raise InvalidConfig(key="pattern", reason=str(error)) from None
    if partitions is not None and not partitions:
        raise ValueError("partitions=[] reads nothing; leave it out to read all")
    for partition in partitions or ():
        if type(partition) is not int:
            raise TypeError(f"partitions are int, not {type(partition).__name__}")
    return Subscription(
        tuple(dict.fromkeys(topics)),
        compiled,
        None if partitions is None else tuple(dict.fromkeys(partitions)),
    )


def _checked_start(start: Start) -> Start:
    if isinstance(start, datetime):
        milliseconds(start, "start")
    elif isinstance(start, int) and not isinstance(start, bool):
        if start < 0:
            raise ValueError(f"start={start} is negative")
    else:
        _choice("start", start, ("beginning", "end"))
    return start


def _start_offset(start: Start, answer: OffsetAnswer | None) -> int:
    if isinstance(start, int):
        return start
    if start == "beginning":
        return 0 if answer is None else answer.log_start
    assert answer is not None, "the leader was asked"
    return answer.high_watermark if start == "end" else answer.of_time
