"""What a consumer asks of whom, and what becomes of the answers: from the cluster's view to a buffer.

Every partition has a cursor; every leader of one has a session, which is one stream. `plan` puts cursors
where their leaders are, `take_request` says what to send, `received` and `lost` take what came of it, `pop`
gives what is next to the user. A cursor resumes at `fetch_offset`, which moves only when a batch enters the
buffer, so that whatever breaks and wherever the leader goes, no record comes twice and none is left out.

Credit keeps the buffer within its bytes (and one batch for each stream, if a batch is larger than its share):
brokers share it evenly, and a session is granted anew what was handed out of its share, in steps of half of
it, so that a message for credit is paid for by many batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from crc32c import crc32c

from millpond._core.cluster import ClusterView
from millpond._core.fetch_buffer import FetchBuffer, Fetched, FetchedBatch, FetchedError, FetchedGap
from millpond._core.retry import Backoff
from millpond._core.session import PING_AFTER_S, Cursor, FetchAsk, FetchedPart, FetchFrom, Place, Session
from millpond.wire.batch import Batch, parse_batch
from millpond.wire.errors import (
    BrokerNotReady,
    ClusterUnavailable,
    CorruptBatch,
    MillpondError,
    NotLeader,
    OffsetOutOfRange,
    UnsupportedFormat,
)
from millpond.wire.header import CRC_START, BatchHeader, parse_header
from millpond.wire.record import TopicPartition

RETRY: Final = Backoff(first_s=0.05, factor=2.0, max_s=1.0)
CORRUPT_ATTEMPTS: Final = 3
"""A batch with a wrong checksum is fetched so often before its reader hears of it: it may be the way here."""
STREAM_CREDIT_BYTES_MAX: Final = 16 << 20
"""Most that is granted ahead on one stream: what a broker honours by default, and forgets beyond."""
SETTLED_S: Final = 1.0
"""A subscription that was not refused for so long, on a stream that answers, is sound."""


class Fetcher:
    """Cursors, sessions and the buffer of one consumer. `jitter` gives fractions for the backoff."""

    def __init__(self, *, buffer_bytes: int, raise_on_gap: bool, jitter: Callable[[], float]) -> None:
        assert buffer_bytes > 0, "room for something"
        self.cursors: dict[TopicPartition, Cursor] = {}
        self.sessions: dict[int, Session] = {}
        self.buffer = FetchBuffer()
        self._buffer_bytes = buffer_bytes
        self._raise_on_gap = raise_on_gap
        self.replan = False
        """Something was detached that only `plan` can subscribe again."""
        self._jitter = jitter
        self._last_session = 0
        self._brokers = 1
        """As many streams as there may be: what one was granted cannot be taken back for another."""

    # --- what is wanted --------------------------------------------------------------------------------

    def add(
        self,
        key: TopicPartition,
        topic_id: bytes,
        offset: int,
        *,
        floating: bool = False,
        stop_at: int | None = None,
        holes: bool = True,
    ) -> Cursor:
        """Begin to read a partition at `offset`."""
        assert key not in self.cursors, "one cursor a partition"
        cursor = Cursor(key, topic_id, offset, offset, floating, stop_at, holes)
        self.cursors[key] = cursor
        return cursor

    def remove(self, key: TopicPartition) -> None:
        """Read it no more; what lies in the buffer of it is not handed out."""
        cursor = self.cursors.pop(key)
        self._detach(cursor)
        cursor.generation += 1

    def seek(self, key: TopicPartition, offset: int, *, floating: bool = False) -> None:
        """Go on at `offset`; what was fetched before is not handed out."""
        cursor = self.cursors[key]
        self._detach(cursor)
        cursor.generation += 1
        cursor.next_offset = cursor.fetch_offset = offset
        cursor.floating = floating
        cursor.halted = False
        cursor.failures = cursor.corrupt = 0
        cursor.retry_at = 0.0
        cursor.trouble = None

    def fail(self, error: MillpondError) -> None:
        """Let the user hear of an error that is of no one partition."""
        self.buffer.push(FetchedError(None, 0, error))

    def clear(self) -> None:
        """Give up what was fetched: a closed consumer may be kept for long, and is part of cycles."""
        self.buffer = FetchBuffer()

    @property
    def finished(self) -> bool:
        """Whether everything up to where it stops was taken out of the buffer."""
        return not self.buffer and all(cursor.fetched_all for cursor in self.cursors.values())

    # --- where it is ------------------------------------------------------------------------------------

    def plan(self, view: ClusterView, now: float) -> list[Session]:
        """Subscribe each cursor where its leader is; the sessions that this needs, to be opened now."""
        opened: list[Session] = []
        self._brokers = max(1, len(view.brokers))
        live = {session.broker: session for session in self.sessions.values() if not session.closing}
        for cursor in self.cursors.values():
            if cursor.halted or cursor.fetched_all:
                self._detach(cursor)
                continue
            leader = view.leader(*cursor.key)
            if leader is None:
                # The old leader's stream, if it still stands, has whatever can be had.
                if cursor.session is None and now >= cursor.retry_at:
                    self._trouble(
                        cursor, NotLeader(topic=cursor.key.topic, partition=cursor.key.partition), now
                    )
                continue
            epoch = view.topics[cursor.key.topic].partitions[cursor.key.partition].leader_epoch
            place = Place(leader.id, epoch)
            if cursor.session is not None:
                if self.sessions[cursor.session].broker == leader.id:
                    continue
                self._detach(cursor)
            elif now < cursor.retry_at and place == cursor.place:
                continue
            if (session := live.get(leader.id)) is None:
                session = live[leader.id] = self._new_session(leader.id, now)
                opened.append(session)
            self._attach(cursor, session, place, now)
        for session in self.sessions.values():
            session.closing = session.closing or not session.cursors
        return opened

    def retry_at(self) -> float | None:
        """When `plan` has something to do by the passing of time alone; None: never."""
        waiting = [
            cursor.retry_at
            for cursor in self.cursors.values()
            if cursor.session is None and not cursor.halted and not cursor.fetched_all
        ]
        return min(waiting, default=None)

    def overdue(self, now: float, patience_s: float) -> MillpondError | None:
        """The trouble of a partition that has received nothing for that long because of it.

        Told once; then its patience begins anew, and that of others that were as overdue: a hundred
        partitions of a cluster that is down are one trouble.
        """
        error = self.troubled(now, patience_s)
        if error is not None:
            for cursor in self.cursors.values():
                if cursor.trouble is not None and now - cursor.troubled_at >= patience_s:
                    cursor.troubled_at = now
        return error

    def troubled(self, now: float, since_s: float) -> MillpondError | None:
        """As `overdue`, and changes nothing: asked again, it says the same. With 0.0: any trouble at all."""
        for cursor in self.cursors.values():
            if cursor.halted or cursor.fetched_all or cursor.trouble is None:
                continue
            if now - cursor.troubled_at >= since_s:
                return cursor.trouble
        return None

    def _new_session(self, broker: int, now: float) -> Session:
        self._last_session += 1
        # As if nothing had come for long: the first message asks for a sign of life.
        session = Session(self._last_session, broker, heard_at=now - PING_AFTER_S)
        self.sessions[session.id] = session
        return session

    def _attach(self, cursor: Cursor, session: Session, place: Place, now: float) -> None:
        session.last_handle += 1
        cursor.session, cursor.handle = session.id, session.last_handle
        cursor.place, cursor.attached_at = place, now
        session.cursors[cursor.handle] = cursor
        start = FetchFrom(cursor.handle, cursor.topic_id, cursor.key.partition, cursor.fetch_offset)
        session.starts.append(start)

    def _detach(self, cursor: Cursor) -> None:
        """End its subscription, if it has one, by telling the leader."""
        if cursor.session is None:
            return
        session = self.sessions[cursor.session]
        del session.cursors[cursor.handle]
        unsent = [start for start in session.starts if start.handle != cursor.handle]
        if len(unsent) == len(session.starts):
            session.stops.append(cursor.handle)
        session.starts = unsent
        cursor.session = None

    def _trouble(self, cursor: Cursor, error: MillpondError, now: float) -> None:
        if cursor.trouble is None:
            cursor.troubled_at = now
        cursor.trouble = error
        cursor.failures += 1
        cursor.retry_at = now + RETRY.delay_s(cursor.failures, self._jitter())

    def _sound(self, cursor: Cursor) -> None:
        cursor.failures = 0
        cursor.trouble = None

    # --- what is sent -----------------------------------------------------------------------------------

    def take_request(self, session: Session, now: float) -> FetchAsk | None:
        """What to send on this session now; None: nothing."""
        credit = self._grant(session)
        ping = 0
        if session.pinged_at is None and now >= session.wake_at:
            session.last_ping += 1
            session.pinged_at = now
            ping = session.last_ping
        if not (credit or session.starts or session.stops or ping):
            return None
        ask = FetchAsk(credit, tuple(session.starts), tuple(session.stops), ping)
        session.starts.clear()
        session.stops.clear()
        return ask

    def _grant(self, session: Session) -> int:
        """Credit to give now, counted as given."""
        if session.closing:
            return 0
        share = max(1, min(self._buffer_bytes // self._brokers, STREAM_CREDIT_BYTES_MAX))
        outstanding = session.outstanding_bytes
        promised = sum(max(0, each.outstanding_bytes) for each in self.sessions.values())
        room = self._buffer_bytes - self.buffer.bytes - promised
        more = min(share - max(0, outstanding), room)
        if more <= 0 and outstanding <= 0 and not session.buffered_bytes:
            more = 1  # others hold all the room: a batch at a time comes through all the same
        # Half of the share at once, unless nothing is left to hand out: then the next batch may be one that
        # is larger than what is outstanding, which only a fresh grant lets through.
        if more <= 0 or (more < (share + 1) // 2 and session.buffered_bytes):
            return 0
        grant = more - min(0, outstanding)
        session.granted_bytes += grant
        return grant

    # --- what came --------------------------------------------------------------------------------------

    def received(self, session: Session, parts: Iterable[FetchedPart], now: float) -> None:
        """Take one message of a leader."""
        session.heard_at = now
        session.pinged_at = None
        for part in parts:
            session.received_bytes += len(part.batches)
            cursor = session.cursors.get(part.handle)
            if cursor is None:
                continue  # of a subscription that was ended while this was under way
            if part.error is None:
                cursor.high_watermark, cursor.log_start = part.high_watermark, part.log_start
            if part.batches:
                self._take_batches(session, cursor, part, now)
            if part.error is not None and cursor.session == session.id and cursor.handle == part.handle:
                self._ended(session, cursor, part.error, now)
        for cursor in session.cursors.values():
            if now - cursor.attached_at >= SETTLED_S:
                self._sound(cursor)

    def lost(self, session: Session, error: MillpondError | None, now: float) -> None:
        """The stream is no more. Its partitions are subscribed anew, where their leaders are by then."""
        del self.sessions[session.id]
        if error is None:
            error = BrokerNotReady(reason=f"broker {session.broker} ended the stream")
        for cursor in session.cursors.values():
            cursor.session = None
            told = error
            if isinstance(error, ClusterUnavailable):
                # Others may be there: it is this partition's leader that is not.
                leader_of = f"{cursor.key.topic}-{cursor.key.partition}"
                told = ClusterUnavailable(tried=error.tried, leader_of=leader_of)
            self._trouble(cursor, told, now)
        session.cursors.clear()

    def _take_batches(self, session: Session, cursor: Cursor, part: FetchedPart, now: float) -> None:
        data = memoryview(part.batches)
        at = 0
        while at < len(data):
            try:
                batch, unreadable = _batch_at(data, at)
                _check_place(cursor, batch.header, part)
            except CorruptBatch as error:
                self._corrupted(cursor, error, now)
                return
            at += len(batch.data)
            header = batch.header
            if header.next_offset <= cursor.fetch_offset:
                continue
            if not self._bridge(cursor, header, part.log_start):
                return
            self.buffer.push(
                FetchedBatch(
                    cursor,
                    cursor.generation,
                    session.id,
                    batch,
                    cursor.fetch_offset,
                    cursor.stop_at,
                    unreadable,
                )
            )
            session.buffered_bytes += len(batch.data)
            cursor.fetch_offset = header.next_offset
            cursor.floating = False
            cursor.corrupt = 0
            self._sound(cursor)
            if cursor.fetched_all:
                self._detach(cursor)
                return

    def _bridge(self, cursor: Cursor, header: BatchHeader, log_start: int) -> bool:
        """Whether the batch may follow what was fetched: where records were dropped between, say so.

        Compaction leaves holes too, which are no loss: only what lies below the log start was dropped.
        """
        resumed_at = min(header.base_offset, log_start)
        if resumed_at <= cursor.fetch_offset or cursor.floating:
            return True
        return self._gap(cursor, resumed_at, cursor.fetch_offset, log_start, header.next_offset)

    def _gap(self, cursor: Cursor, resumed_at: int, offset: int, log_start: int, log_end: int) -> bool:
        if self._raise_on_gap:
            key = cursor.key
            error = OffsetOutOfRange(
                topic=key.topic, partition=key.partition, offset=offset, log_start=log_start, log_end=log_end
            )
            self._halt(cursor, error)
            return False
        self.buffer.push(FetchedGap(cursor, cursor.generation, resumed_at - offset, resumed_at))
        cursor.fetch_offset = resumed_at
        return True

    def _corrupted(self, cursor: Cursor, error: CorruptBatch, now: float) -> None:
        self._detach(cursor)
        self.replan = True  # nobody else will: the leader knows of nothing wrong
        cursor.corrupt += 1
        if cursor.corrupt < CORRUPT_ATTEMPTS:
            self._trouble(cursor, error, now)
            return
        cursor.corrupt = 0
        self._halt(cursor, CorruptBatch(reason=error.reason, offset=cursor.fetch_offset))

    def _ended(self, session: Session, cursor: Cursor, error: MillpondError, now: float) -> None:
        """The leader ended the subscription."""
        del session.cursors[cursor.handle]
        cursor.session = None
        if isinstance(error, OffsetOutOfRange) and error.log_start > cursor.fetch_offset:
            if cursor.floating:
                cursor.fetch_offset = cursor.next_offset = error.log_start
            elif not self._gap(cursor, error.log_start, cursor.fetch_offset, error.log_start, error.log_end):
                return
            cursor.retry_at = now
            cursor.place = None
        elif error.retriable or error.refresh_metadata:
            self._trouble(cursor, error, now)
        else:
            self._halt(cursor, error)

    def _halt(self, cursor: Cursor, error: MillpondError) -> None:
        """Read no further until the user has heard of `error`, in its turn."""
        self._detach(cursor)
        cursor.halted = True
        self.buffer.push(FetchedError(cursor, cursor.generation, error))

    # --- what is handed out -----------------------------------------------------------------------------

    def pop(self, now: float) -> Fetched | None:
        """What is next for the user; None: nothing is there. An error, once popped, is tried again."""
        while (item := self.buffer.pop()) is not None:
            if isinstance(item, FetchedBatch):
                session = self.sessions.get(item.session)
                if session is not None:
                    session.buffered_bytes -= len(item.batch.data)
            if item.cursor is None:
                return item
            if item.generation != item.cursor.generation:
                continue
            if isinstance(item, FetchedError):
                item.cursor.halted = False
                item.cursor.failures += 1
                item.cursor.retry_at = now + RETRY.delay_s(item.cursor.failures, self._jitter())
            return item
        return None


def _batch_at(data: memoryview, at: int) -> tuple[Batch, MillpondError | None]:
    """The batch at `at`, its checksum verified, and why it cannot be unpacked if that shows already.

    Raises CorruptBatch for what cannot even be passed over.
    """
    header = parse_header(data, at)
    piece = data[at : at + max(0, header.size_bytes)]
    try:
        return parse_batch(piece), None
    except UnsupportedFormat as error:
        # Of a kind this version does not know, and yet whole: its reader is told, and goes on behind it.
        if len(piece) != header.size_bytes or crc32c(piece[CRC_START:]) != header.crc:
            raise CorruptBatch(reason="checksum") from None
        if header.last_offset_delta < 0:
            raise CorruptBatch(reason="a batch that ends before it begins") from None
        return Batch(header, piece), error


def _check_place(cursor: Cursor, header: BatchHeader, part: FetchedPart) -> None:
    """Raise CorruptBatch for a batch that cannot stand where it says: its checksum does not cover that.

    What would be left out if it were believed is asked for again instead.
    """
    if header.next_offset > part.high_watermark:
        reason = f"it ends at {header.next_offset}, past the high watermark {part.high_watermark}"
        raise CorruptBatch(reason=reason)
    expected = max(cursor.fetch_offset, part.log_start)
    if header.base_offset > expected and not (cursor.holes or cursor.floating):
        raise CorruptBatch(reason=f"it begins at {header.base_offset} where {expected} is next")
