"""What a send gives at once: an awaitable that points into its batch, and the result of many sends.

A slotted object and nothing else, because one is made for each record. A future is made by whoever really
has to wait; records of a batch that is settled are awaited without one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

from millpond._core.pending_batch import Ack, PendingBatch


class Delivery:
    """One record on its way. Awaiting it, as often as one likes, gives its Ack or raises why it failed."""

    __slots__ = ("_batch", "_index")

    def __init__(self, batch: PendingBatch, index: int) -> None:
        self._batch = batch
        self._index = index

    def done(self) -> bool:
        """Whether awaiting it would not wait."""
        return self._batch.settled

    def __await__(self) -> Generator[Any, None, Ack]:
        batch, index = self._batch, self._index
        if not batch.settled:
            yield from _wait(batch, index).__await__()
        elif batch.error is not None:
            batch.claim(index)
        return batch.ack(index)

    def __repr__(self) -> str:
        lane = self._batch.lane
        state = "pending" if not self.done() else "failed" if self._batch.error else "acknowledged"
        return f"<Delivery to {lane.topic}-{lane.partition}: {state}>"


def claim(delivery: Delivery) -> None:
    """Whoever sent it has been told that its fate is unknown: it is no failure that nobody heard of."""
    delivery._batch.claim(delivery._index)  # noqa: SLF001 - a method would be of the public surface


async def _wait(batch: PendingBatch, index: int) -> None:
    batch.claim(index)
    try:
        await settled(batch)
    except BaseException:  # cancelled: somebody else may want to hear of a failure
        batch.unclaim(index)
        raise


async def settled(batch: PendingBatch) -> None:
    """Wait until everything is known of a batch."""
    if batch.settled:
        return
    # One for each that waits, not for the batch: a task that is cancelled cancels the future it waits for.
    future = asyncio.get_running_loop().create_future()
    wake = partial(resolve, future)
    batch.waiters[wake] = None
    try:
        await future
    finally:
        batch.waiters.pop(wake, None)


def resolve(future: asyncio.Future[None]) -> None:
    """Let whoever waits for it go on, unless they no longer wait."""
    if not future.done():
        future.set_result(None)


@dataclass(frozen=True, slots=True)
class SendResult:
    """Where the records of a `send_many` are: columns in the order of its arguments.

    `timestamps` are milliseconds UTC. A record that failed has offset -1; which did, PartialDelivery says.
    """

    topic: str
    partitions: list[int]
    offsets: list[int]
    timestamps: list[int]

    def __len__(self) -> int:
        return len(self.offsets)
