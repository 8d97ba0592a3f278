"""Runs a fetcher: a stream to each leader that it wants, its messages out and theirs in.

The fetcher decides; this opens, writes, reads, pings and closes. One supervisor task follows the cluster's
view, one task a stream reads and writes it. Streams end by half-close, and are cancelled only when the
broker does not end them in time (a cancelled read leaks in grpc.aio).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

import grpc.aio

from millpond._core.cluster import ClusterView
from millpond._core.fetcher import Fetcher
from millpond._core.session import FetchAsk, FetchedPart, Session
from millpond._transport.connection import Connection
from millpond._transport.link import WRITE_ERRORS, Link
from millpond._transport.tasks import Tasks, end
from millpond._transport.translate import error_of
from millpond.v1 import fetch_pb2
from millpond.wire.errors import ClusterUnavailable, InternalError, MillpondError

FETCH: Final = fetch_pb2.DESCRIPTOR.services_by_name["FetchService"]

HALF_CLOSE_S: Final = 1.0
"""What a broker has to end a stream that was half-closed, before it is cancelled."""


class Fetching:
    """The streams of one consumer. `follow` is called with each new view, before the fetcher plans by it;
    `progress` whenever there may be something to hand out.
    """

    def __init__(
        self,
        connection: Connection,
        fetcher: Fetcher,
        follow: Callable[[ClusterView], None],
        progress: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._fetcher = fetcher
        self._follow = follow
        self._progress = progress
        self._tasks = Tasks("consumer")
        self._wake = asyncio.Event()
        """For the supervisor: a cursor was moved, a stream ended."""
        self._streams: dict[int, asyncio.Event] = {}
        """By session: for its stream, there may be something to send."""
        self._loop = asyncio.get_running_loop()
        self._closing = False

    def start(self) -> None:
        """Begin to fetch."""
        self._tasks.start(self._supervise(), "fetch")

    def moved(self) -> None:
        """Tell it that cursors were added or moved."""
        self._wake.set()

    def handed_out(self) -> None:
        """Tell it that there is room in the buffer."""
        for wake in self._streams.values():
            wake.set()

    async def close(self, timeout: float | None) -> None:
        """End every stream, then every task."""
        self._closing = True
        self.handed_out()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2 * HALF_CLOSE_S if timeout is None else timeout):
                    while self._streams:
                        self._wake.clear()
                        await self._wake.wait()
        finally:
            await self._tasks.stop()

    async def _supervise(self) -> None:
        try:
            await self._follow_plans()
        except Exception as error:  # a defect of ours: without a word its reader would wait for ever
            self._fetcher.fail(InternalError(reason=f"the consumer's own task failed: {error!r}"))
            self._progress()
            raise

    async def _follow_plans(self) -> None:
        """Follow the view and the fetcher's plan. Ends by being cancelled."""
        seen: ClusterView | None = None
        while not self._closing:
            self._wake.clear()
            view = self._connection.view
            if view is not seen:
                self._follow(view)
                seen = view
            for session in self._fetcher.plan(view, self._loop.time()):
                self._streams[session.id] = asyncio.Event()
                self._tasks.start(self._run(session), f"fetch-{session.broker}")
            self.handed_out()  # what the plan subscribed or ended is to be sent
            self._progress()
            await self._until_something()

    async def _until_something(self) -> None:
        retry_at = self._fetcher.retry_at()
        changed = self._tasks.start(self._connection.changed(), "fetch-view")
        woken = self._tasks.start(self._wake.wait(), "fetch-wake")
        now = self._loop.time()
        try:
            await asyncio.wait(
                (changed, woken),
                timeout=None if retry_at is None else max(0.001, retry_at - now),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            changed.cancel()
            woken.cancel()

    async def _run(self, session: Session) -> None:
        """One stream, from its opening to its end."""
        error: MillpondError | None = None
        try:
            link = self._connection.link(session.broker)
            error = await self._stream(link, session)
        except MillpondError as failed:
            error = failed
        finally:
            del self._streams[session.id]
            self._fetcher.lost(session, error, self._loop.time())
            self._wake.set()

    async def _stream(self, link: Link, session: Session) -> MillpondError | None:
        call = link.stream(FETCH, "Fetch")
        reading = self._tasks.start(self._read(call, link, session), "fetch-read")
        writing = self._tasks.start(self._write(call, session), "fetch-write")
        error: MillpondError | None = None
        try:
            while not (reading.done() or writing.done()):
                now = self._loop.time()
                if session.stalled(now):
                    tried = {link.address: "the stream stalled: no answer to a ping"}
                    return ClusterUnavailable(tried=tried)
                self._streams[session.id].set()  # a ping may be due
                timeout = max(0.01, session.wake_at - now)
                await asyncio.wait((reading, writing), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            # The writer ends by itself, having half-closed; what it leaves to be read ends the stream.
            await asyncio.wait((reading,), timeout=HALF_CLOSE_S)
            if reading.done() and not reading.cancelled():
                error = reading.result()
        finally:
            if not call.done():
                call.cancel()
            await end(reading, writing)
        return error

    async def _read(self, call: Any, link: Link, session: Session) -> MillpondError | None:
        """Take messages until the stream ends; why it did, where it failed."""
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                parts = [
                    FetchedPart(
                        part.handle,
                        part.batches,
                        part.high_watermark,
                        part.log_start,
                        error_of(part.error) if part.HasField("error") else None,
                    )
                    for part in response.fetched
                ]
                self._fetcher.received(session, parts, self._loop.time())
                if self._fetcher.replan or any(part.error is not None for part in parts):
                    self._fetcher.replan = False
                    self._wake.set()
                if parts:
                    self._progress()
            if (code := await call.code()) is not grpc.StatusCode.OK:
                return await _status(call, link, code)
        except grpc.aio.AioRpcError as error:
            return link.error_of(error, "Fetch")
        return None

    async def _write(self, call: Any, session: Session) -> None:
        """Send what the fetcher has to say until the session is closing; then half-close."""
        wake = self._streams[session.id]
        # A stream that failed says so to its reader: a writer just ends.
        with contextlib.suppress(*WRITE_ERRORS):
            while not (session.closing or self._closing):
                wake.clear()
                if (ask := self._fetcher.take_request(session, self._loop.time())) is not None:
                    await call.write(_request(ask))
                else:
                    await wake.wait()
            await call.done_writing()


async def _status(call: Any, link: Link, code: grpc.StatusCode) -> MillpondError:
    """The error of a stream that ended with a status instead of raising one."""
    error = grpc.aio.AioRpcError(
        code, await call.initial_metadata(), await call.trailing_metadata(), await call.details()
    )
    return link.error_of(error, "Fetch")


def _request(ask: FetchAsk) -> fetch_pb2.FetchRequest:
    return fetch_pb2.FetchRequest(
        credit_bytes=ask.credit_bytes,
        start=[
            fetch_pb2.FetchStart(
                handle=each.handle, topic_id=each.topic_id, partition=each.partition, offset=each.offset
            )
            for each in ask.start
        ],
        stop=ask.stop,
        ping=ask.ping,
    )
