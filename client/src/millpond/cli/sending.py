"""How lines become records and are sent: a piece at a time, while the next is read.

What `millpond produce` does once it is connected. Memory is bounded by the pieces under way.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click

from millpond.cli.columns import Columns, Format, columns_of
from millpond.cli.hints import described
from millpond.cli.output import counted
from millpond.cli.progress import Progress
from millpond.cli.streams import Lines, Source
from millpond.wire.errors import MillpondError, PartialDelivery, RecordTooLarge

if TYPE_CHECKING:
    from millpond.producer import Producer

LINE_BYTES_MAX: Final = 64 << 20
"""A line that is longer was not meant to be a record: no topic takes one of that size."""
SEND_RECORDS_MAX: Final = 50_000
"""Records handed to the producer at once: what a piece of empty lines would otherwise make of it."""


class BadInput(click.ClickException):
    """A line that is no record. What stands before it was sent."""


@dataclass
class Tally:
    """How far it went. `lines` counts those that were read, `sent` the records of sends that have ended."""

    acks: str
    lines: int = 0
    sent: int = 0
    acknowledged: int = 0
    value_bytes: int = 0
    started_at: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        """Records that need nothing more."""
        return self.sent if self.acks == "none" else self.acknowledged

    def told(self) -> str:
        """In one line, for people."""
        if self.acks == "none":
            return f"{counted(self.sent, 'record')} sent; with --acks none nobody acknowledges them"
        return f"{counted(self.acknowledged, 'record')} acknowledged"

    def as_dict(self, topic: str) -> dict[str, Any]:
        """As JSON has it."""
        seconds = time.monotonic() - self.started_at
        return {
            "topic": topic,
            "sent": self.sent,
            "acknowledged": None if self.acks == "none" else self.acknowledged,
            "bytes": self.value_bytes,
            "seconds": round(seconds, 3),
        }


async def stream(source: Source, form: Format, sender: Sender, progress: Progress) -> None:
    """Send every line. Raises BadInput for one that is no record, once those before it are acknowledged."""
    lines = Lines(LINE_BYTES_MAX)
    tally = sender.tally
    wrong: str | None = None
    piece = b"-"
    while piece and wrong is None and not sender.failed:
        piece = await source.read()
        try:
            whole = lines.feed(piece) if piece else lines.end()
        except ValueError as error:
            wrong = str(error)
            break
        for start in range(0, len(whole), SEND_RECORDS_MAX):
            columns, wrong = columns_of(whole[start : start + SEND_RECORDS_MAX], form, tally.lines + 1)
            tally.lines += len(columns.values)
            await sender.send(columns)
            if wrong is not None:
                break
        progress.show(len(piece), tally.done)
    await sender.finish()
    progress.show(0, tally.done)
    if wrong is not None:
        raise BadInput(f"line {tally.lines + 1:,} {wrong}")


class Sender:
    """Gives columns to a producer, one after another, while the next are read.

    `ahead` is how many may be under way. With 1, the next are sent once those before are acknowledged: their
    order holds, because nothing overtakes. They are large enough for a producer to work at full speed. After
    some that failed nothing more is sent; those under way settle, and count.
    """

    def __init__(
        self,
        producer: Producer[Any, Any],
        topic: str,
        tasks: asyncio.TaskGroup,
        tally: Tally,
        *,
        partition: int | None = None,
        ahead: int = 1,
    ) -> None:
        self.tally = tally
        self.failed = False
        self._producer = producer
        self._topic = topic
        self._tasks = tasks
        self._partition = partition
        self._ahead = ahead
        self._error: MillpondError | BadInput | None = None
        self._room = asyncio.Semaphore(ahead)

    async def send(self, columns: Columns) -> None:
        """Send them; waits only until there is room to begin."""
        if not columns.values:
            return
        await self._room.acquire()
        if self.failed:
            self._room.release()
            return
        self._tasks.create_task(self._send(columns), name="sending")

    async def _send(self, columns: Columns) -> None:
        try:
            await self._send_many(columns)
        except RecordTooLarge as error:
            self._fail(await self._send_before(columns, error))
        except MillpondError as error:
            self._fail(error)
        finally:
            self._room.release()

    async def _send_many(self, columns: Columns) -> None:
        count = len(columns.values)
        try:
            await self._producer.send_many(
                self._topic,
                columns.values,
                keys=columns.keys,
                headers=columns.headers,
                timestamps=columns.timestamps,
                partition=self._partition,
            )
        except RecordTooLarge:
            raise  # before anything was sent
        except MillpondError as error:
            self._count(columns, count - len(error.failed) if isinstance(error, PartialDelivery) else 0)
            raise
        self._count(columns, count)

    async def _send_before(self, columns: Columns, error: RecordTooLarge) -> MillpondError | BadInput:
        """Send what stands before the line that is too large; what to say of that line."""
        index = columns.first_over(error.limit_bytes) if columns.line else None
        if index is None:  # no line of an input, or over another limit than that of a record
            return error
        if index:
            try:
                await self._send_many(columns.until(index))
            except MillpondError as other:
                return other
        return BadInput(f"line {columns.line + index:,} is too large: {described(error)}")

    def _count(self, columns: Columns, acknowledged: int) -> None:
        self.tally.sent += len(columns.values)
        self.tally.value_bytes += sum(len(value) for value in columns.values if value is not None)
        self.tally.acknowledged += acknowledged

    def _fail(self, error: MillpondError | BadInput) -> None:
        self._error = self._error or error
        self.failed = True

    async def finish(self) -> None:
        """Wait for what is under way. Raises the first error."""
        for _ in range(self._ahead):
            await self._room.acquire()
        if self._error is not None:
            raise self._error
