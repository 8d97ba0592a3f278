"""What one producer is made of, below its surface: the machines, their streams, and who waits for either.

Everything that touches the machines does so under `lock`. In the asyncio client that is no lock at all; the
synchronous one, whose threads send for themselves, brings a real one.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Final

from millpond._core.accumulator import Accumulator, AccumulatorOptions
from millpond._core.cluster import ClusterView
from millpond._core.pending_batch import PendingBatch, Tally
from millpond._core.retry import Deadline
from millpond._core.sender import Sender, SenderOptions
from millpond._transport.connection import Connection
from millpond._transport.delivery import resolve
from millpond._transport.produce_stream import Producing
from millpond.wire.errors import ClientClosed, DeliveryFailed, OperationTimeout

YIELD_RECORDS: Final = 500
"""`enqueue` lets other tasks run after so many records that it did not have to wait for."""


class Outgoing:
    """See the module. Between two turns of the event loop there is one *tick*: all of its sends are looked
    at together when it ends.
    """

    def __init__(
        self,
        connection: Connection,
        acks: str,
        collecting: AccumulatorOptions,
        sending: SenderOptions,
    ) -> None:
        self.connection = connection
        self.delivery_timeout: Final = collecting.delivery_timeout
        self.accumulator = Accumulator(collecting, begin_tick=self._begin_tick, choose=random.randrange)
        self.accumulator.on_settled = self._settled
        self.sender = Sender(sending, self.accumulator, jitter=random.random)
        self.lock: AbstractContextManager[Any] = nullcontext()
        self.follow: Callable[[ClusterView], None] = _nothing
        """Told of each new view before the sender is. Set before `start`."""
        self.closed = False
        """No more records are taken."""
        self._acks = acks
        self._producing: Producing | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._flushing: dict[Callable[[], None], int] = {}
        """Whom to tell that batches up to a number are settled."""
        self._unyielded = 0

    def start(self) -> None:
        """Begin to send. On the loop that it belongs to from now on."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._producing = Producing(self.connection, self.sender, self._acks, self.lock, self.follow)
        self._producing.start()

    @property
    def started(self) -> bool:
        """Whether it was opened."""
        return self._producing is not None

    def check(self) -> None:
        """Raise ClientClosed or ForkedClient where nothing may be sent (any more)."""
        self.connection.check()
        if self.closed or self._producing is None:
            raise ClientClosed(what="producer")

    def deadline(self, timeout: float | None) -> Deadline:
        """Of a call that begins now; delivery_timeout where the caller named none."""
        return self.connection.deadline(self.delivery_timeout if timeout is None else timeout)

    # --- ticks ------------------------------------------------------------------------------------------

    def _begin_tick(self) -> tuple[float, int]:
        loop = self._loop
        assert loop is not None, "checked"
        if threading.get_ident() == self._thread:
            loop.call_soon(self._end_tick)
        else:
            loop.call_soon_threadsafe(self._end_tick)
        return loop.time(), time.time_ns() // 1_000_000

    def _end_tick(self) -> None:
        with self.lock:
            self.accumulator.end_tick()
            if self._producing is not None and not self.connection.closed:
                self._producing.nudge()

    async def let_others(self) -> None:
        """Let other tasks run, now and then: a send that finds room awaits nothing by itself."""
        self._unyielded += 1
        if self._unyielded >= YIELD_RECORDS:
            self._unyielded = 0
            await asyncio.sleep(0)

    # --- waiting ----------------------------------------------------------------------------------------

    async def wait_for_room(self, size_bytes: int | None, deadline: Deadline) -> bool:
        """Wait for that much room, which is taken then; None: for what last found none, which is not taken.

        Whether there was some in time.
        """
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        with self.lock:
            waiter = self.accumulator.wait_for_room(size_bytes, partial(self._resolve, future))
        try:
            async with asyncio.timeout_at(deadline.at):
                await future
            self.check()
        except TimeoutError:
            with self.lock:
                self.accumulator.leave(waiter)
            return False
        except BaseException:  # cancelled, or closed meanwhile: the room is for others
            with self.lock:
                self.accumulator.leave(waiter)
            raise
        with self.lock:
            self.accumulator.use(waiter)
        if size_bytes is None:
            loop.call_soon(self._grant)  # those behind, after the one who looked
        return True

    def _grant(self) -> None:
        with self.lock:
            self.accumulator.grant()

    def _resolve(self, future: asyncio.Future[None]) -> None:
        """From whichever thread gave the room back."""
        if threading.get_ident() == self._thread:
            resolve(future)
        elif self._loop is not None:
            self._loop.call_soon_threadsafe(resolve, future)

    async def flush(self, timeout: float | None) -> None:
        """Until everything sent before is settled. Raises OperationTimeout after `timeout` seconds."""
        done = asyncio.get_running_loop().create_future()
        wake = partial(resolve, done)
        with self.lock:
            self.accumulator.end_tick()
            number = self.sender.flush()
            if self.accumulator.settled_up_to(number):
                return
            self._flushing[wake] = number
            assert self._producing is not None, "opened"
            self._producing.nudge()
        try:
            async with asyncio.timeout(timeout):
                await done
        except TimeoutError:
            assert timeout is not None, "it ran out"
            raise OperationTimeout(what="flush", timeout=timeout) from None
        finally:
            with self.lock:
                self._flushing.pop(wake, None)

    def _settled(self, _: PendingBatch) -> None:
        for wake, number in list(self._flushing.items()):
            if self.accumulator.settled_up_to(number):
                wake()

    # --- the end ----------------------------------------------------------------------------------------

    async def stop(self, seconds: float | None) -> None:
        """End the streams, within so many seconds if given; what is unsettled fails with ClientClosed."""
        try:
            if self._producing is not None:
                await self._producing.close(seconds)
        finally:
            with self.lock:
                self.sender.close("producer")

    def raise_unawaited(self) -> None:
        """Raise DeliveryFailed if there were failures that nobody awaited, and forget them."""
        with self.lock:
            tally = self.accumulator.tally
            if tally.count <= 0:
                return
            self.accumulator.tally = Tally()
            failed = DeliveryFailed(count=tally.count, first=tally.first())
        raise failed


def _nothing(_: ClusterView) -> None:
    return
