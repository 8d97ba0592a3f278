"""Runs a sender: a stream to each broker that has something to get, its messages out and answers in.

The sender decides; this opens, writes, reads and closes, and asks for a producer id when one is wanted. One
supervisor follows the view and the clock; one task a stream reads it, one writes it. Streams end by
half-close. The sender's state is touched under `lock` only: the synchronous client fills it from other
threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import grpc.aio

from millpond._core.cluster import ClusterView
from millpond._core.sender import RETRY, Answer, Attempt, Sender, Session
from millpond._transport.connection import Connection
from millpond._transport.link import WRITE_ERRORS, Link
from millpond._transport.tasks import Tasks, end
from millpond._transport.translate import error_of
from millpond.v1 import produce_pb2
from millpond.wire.errors import InternalError, MillpondError

PRODUCE: Final = produce_pb2.DESCRIPTOR.services_by_name["ProduceService"]
PRODUCER: Final = produce_pb2.DESCRIPTOR.services_by_name["ProducerService"]

ACKS: Final = {
    "all": produce_pb2.ACKS_ALL,
    "leader": produce_pb2.ACKS_LEADER,
    "none": produce_pb2.ACKS_NONE,
}

HALF_CLOSE_S: Final = 2.0
"""What a broker has to end a stream that was half-closed, before it is cancelled. With acks="none" it may
have megabytes to read yet.
"""
INIT_S: Final = 10.0
"""One round of asking brokers for a producer id."""
INIT_ATTEMPT_S: Final = 3.0
"""A broker that takes longer is passed over for the next."""


class _Stream:
    """One session's stream as tasks see it."""

    def __init__(self, session: Session, loop: asyncio.AbstractEventLoop) -> None:
        self.session = session
        self.wake = asyncio.Event()
        """There may be something to write."""
        self.stalled: asyncio.Future[None] = loop.create_future()


class Producing:
    """The streams of one producer. `follow` is called with each new view, before the sender plans by it."""

    def __init__(
        self,
        connection: Connection,
        sender: Sender,
        acks: str,
        lock: AbstractContextManager[Any],
        follow: Callable[[ClusterView], None],
    ) -> None:
        self._connection = connection
        self._sender = sender
        self._acks = ACKS[acks]
        self._lock = lock
        self._follow = follow
        self._tasks = Tasks("producer")
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, _Stream] = {}
        self._wake = asyncio.Event()
        """For the supervisor."""
        self._wake_at = 0.0
        """When the supervisor will look around without being woken."""
        self._identifying = False
        self._defect: InternalError | None = None
        """What ended the supervisor, if anything did."""
        self._closing = False
        self._ended = asyncio.Event()
        """Set whenever a stream has ended."""

    def start(self) -> None:
        """Begin to send."""
        self._tasks.start(self._supervise(), "produce")
        self._tasks.start(self._watch_view(), "produce-view")

    def nudge(self) -> None:
        """Tell it that records came or are to be flushed. On the loop's thread, under the lock."""
        if self._defect is not None:
            self._sender.fail(self._defect)
            return
        unplaced = self._sender.place_new(self._connection.view)
        for stream in self._streams.values():
            stream.wake.set()
        if unplaced or self._sender.wake_at() < self._wake_at:
            self._wake.set()

    async def close(self, seconds: float | None) -> None:
        """End every stream, then every task, in so many seconds at most. What is unsettled stays so."""
        patience = HALF_CLOSE_S + 1.0
        self._closing = True
        self._wake.set()
        for stream in self._streams.values():
            stream.wake.set()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience if seconds is None else min(patience, max(0.0, seconds))):
                    while self._streams:
                        self._ended.clear()
                        await self._ended.wait()
        finally:
            await self._tasks.stop()

    # --- looking around ---------------------------------------------------------------------------------

    async def _watch_view(self) -> None:
        while not self._closing:
            await self._connection.changed()
            self._wake.set()

    async def _supervise(self) -> None:
        """Follow the view and the clock. Ends by being cancelled, or when the producer closes."""
        try:
            await self._look_around()
        except Exception as error:  # a defect of ours: without a word its records would wait for ever
            self._defect = InternalError(reason=f"the producer's own task failed: {error!r}")
            with self._lock:
                self._sender.fail(self._defect)
            raise

    async def _look_around(self) -> None:
        seen: ClusterView | None = None
        while not self._closing:
            self._wake.clear()
            with self._lock:
                view, now = self._connection.view, self._loop.time()
                if view is not seen:
                    self._follow(view)
                    self._sender.follow(view)
                    seen = view
                self._sender.tick(now)
                self._sender.place_new(view)
                sessions = self._sender.plan(view, now)
                self._wake_at = self._sender.wake_at()
            for session in sessions:
                self._streams[session.number] = _Stream(session, self._loop)
                self._tasks.start(self._run(session), f"produce-{session.broker}")
            for stream in self._streams.values():
                if stream.session.failed is not None and not stream.stalled.done():
                    stream.stalled.set_result(None)
                stream.wake.set()
            await _until(self._wake, self._wake_at, self._loop)

    async def _identify(self) -> None:
        """Get a producer id, however long it takes: records are given up one by one meanwhile."""
        failures = 0
        try:
            while not self._closing:
                try:
                    response = await self._connection.call_any(
                        PRODUCER,
                        "InitProducer",
                        produce_pb2.InitProducerRequest(),
                        self._connection.deadline(INIT_S),
                        attempt_s=INIT_ATTEMPT_S,
                    )
                except MillpondError as error:
                    if self._connection.closed:
                        return
                    self._sender.trouble = error
                    failures += 1
                    await asyncio.sleep(RETRY.delay_s(failures, random.random()))  # noqa: S311 - spreads retries
                else:
                    with self._lock:
                        self._sender.identified(response.producer_id, response.producer_epoch)
                        self.nudge()
                    return
        finally:
            self._identifying = False

    # --- one stream -------------------------------------------------------------------------------------

    async def _run(self, session: Session) -> None:
        error: MillpondError | None = None
        try:
            link = self._connection.link(session.broker)
            error = await self._stream(link, self._streams[session.number])
        except MillpondError as failed:
            error = failed
        finally:
            del self._streams[session.number]
            with self._lock:
                self._sender.lost(session, session.failed or error, self._loop.time())
            self._ended.set()
            self._wake.set()

    async def _stream(self, link: Link, stream: _Stream) -> MillpondError | None:
        call = link.stream(PRODUCE, "Produce")
        reading = self._tasks.start(self._read(call, link, stream), "produce-read")
        writing = self._tasks.start(self._write(call, stream), "produce-write")
        error: MillpondError | None = None
        try:
            await asyncio.wait((reading, writing, stream.stalled), return_when=asyncio.FIRST_COMPLETED)
            if not stream.stalled.done():
                # A writer that ended has half-closed, or found the stream broken: the reader knows why.
                await asyncio.wait(
                    (reading, stream.stalled), timeout=HALF_CLOSE_S, return_when=asyncio.FIRST_COMPLETED
                )
            if reading.done() and not reading.cancelled():
                error = reading.result()
        finally:
            if not call.done():
                call.cancel()
            await end(reading, writing)
        return error

    async def _read(self, call: Any, link: Link, stream: _Stream) -> MillpondError | None:
        """Take answers until the stream ends; why it did, where it failed."""
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                answers = [
                    Answer(
                        result.id,
                        result.base_offset,
                        error_of(result.error) if result.HasField("error") else None,
                    )
                    for result in response.results
                ]
                with self._lock:
                    self._sender.answered(stream.session, answers, self._loop.time())
                stream.wake.set()
            if (code := await call.code()) is not grpc.StatusCode.OK:
                failed = grpc.aio.AioRpcError(
                    code, await call.initial_metadata(), await call.trailing_metadata(), await call.details()
                )
                return link.error_of(failed, "Produce")
        except grpc.aio.AioRpcError as error:
            return link.error_of(error, "Produce")
        return None

    async def _write(self, call: Any, stream: _Stream) -> None:
        """Write what the sender gives, until the producer closes; then half-close."""
        # A stream that failed says so to its reader: a writer just ends.
        with contextlib.suppress(*WRITE_ERRORS):
            while not self._closing:
                stream.wake.clear()
                with self._lock:
                    attempts = self._sender.take(stream.session, self._loop.time())
                if not attempts:
                    if self._sender.wants_identity and not self._identifying:
                        self._identifying = True
                        self._tasks.start(self._identify(), "produce-identify")
                    await _until(stream.wake, stream.session.wake_at, self._loop)
                    continue
                await call.write(self._request(attempts))
                if self._acks == produce_pb2.ACKS_NONE:
                    with self._lock:
                        self._sender.written(stream.session, attempts)
            await call.done_writing()

    def _request(self, attempts: Sequence[Attempt]) -> produce_pb2.ProduceRequest:
        return produce_pb2.ProduceRequest(
            acks=self._acks,
            batches=[
                produce_pb2.ProduceBatch(
                    id=attempt.id,
                    topic_id=attempt.batch.lane.topic_id,
                    partition=attempt.batch.lane.partition,
                    batch=bytes(attempt.data),
                )
                for attempt in attempts
            ],
        )


async def _until(event: asyncio.Event, at: float, loop: asyncio.AbstractEventLoop) -> None:
    """Wait for the event, or until that time of the loop's clock."""
    timer = None if math.isinf(at) else loop.call_at(at, event.set)
    try:
        await event.wait()
    finally:
        if timer is not None:
            timer.cancel()
