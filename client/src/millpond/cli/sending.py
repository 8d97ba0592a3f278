"""How lines become records and are sent: a piece at a time, a few pieces ahead of the acknowledgements.

What `millpond produce` does once it is connected. Memory is bounded by the pieces under way.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import click

from millpond.cli.output import counted
from millpond.cli.progress import Progress
from millpond.cli.records import Parsed, parse_json
from millpond.cli.streams import Lines, Source
from millpond.wire.errors import MillpondError, PartialDelivery

LINE_BYTES_MAX: Final = 64 << 20
"""A line that is longer was not meant to be a record: no topic takes one of that size."""
SEND_RECORDS_MAX: Final = 10_000
"""Records handed to the producer at once: what a piece of empty lines would otherwise make of it."""
SENDS_UNDER_WAY_MAX: Final = 4
"""Pieces that may wait for acknowledgements while the next is read: at the disk, on the way, ready to go."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a line becomes a record."""

    json: bool
    key: bytes | None = None
    separator: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()

    def parse(self, line: bytes) -> Parsed:
        """Raises ValueError with what is wrong with the line."""
        if self.json:
            parsed = parse_json(line)
            return parsed._replace(headers=parsed.headers + self.headers) if self.headers else parsed
        if self.separator is None:
            return Parsed(self.key, line, self.headers, None)
        key, found, value = line.partition(self.separator)
        if not found:
            raise ValueError(f"has no separator {os.fsdecode(self.separator)!r} between key and value")
        return Parsed(key, value, self.headers, None)


class BadInput(click.ClickException):
    """A line that is no record. What stands before it was sent."""


@dataclass
class Tally:
    """How far it went. `lines` counts those that were read, `sent` records given to the producer."""

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
    bad: BadInput | None = None
    piece = b"-"
    while piece and bad is None and not sender.failed:
        piece = await source.read()
        try:
            whole = lines.feed(piece) if piece else lines.end()
        except ValueError as error:
            bad = BadInput(f"line {tally.lines + 1:,} {error}")
            break
        for start in range(0, len(whole), SEND_RECORDS_MAX):
            columns, bad = _columns(whole[start : start + SEND_RECORDS_MAX], form, tally)
            await sender.send(columns)
            if bad is not None:
                break
        progress.show(len(piece), tally.done)
    await sender.finish()
    progress.show(0, tally.done)
    if bad is not None:
        raise bad


def _columns(lines: Sequence[bytes], form: Format, tally: Tally) -> tuple[Columns, BadInput | None]:
    """The records of these lines, up to the first that is none, and what is wrong with that one."""
    if not form.json and form.separator is None:
        tally.lines += len(lines)
        keys = None if form.key is None else [form.key] * len(lines)
        headers = [form.headers] * len(lines) if form.headers else None
        return Columns(lines, keys, headers, None), None
    records: list[Parsed] = []
    bad = None
    for line in lines:
        tally.lines += 1
        try:
            records.append(form.parse(line))
        except ValueError as error:
            bad = BadInput(f"line {tally.lines:,} {error}")
            break
    return Columns.of(records), bad


@dataclass(frozen=True)
class Columns:
    """Records as `send_many` takes them; None for a column that none of them needs."""

    values: Sequence[bytes | None]
    keys: Sequence[bytes | None] | None
    headers: Sequence[Sequence[tuple[str, bytes]]] | None
    timestamps: Sequence[int] | None

    @classmethod
    def of(cls, records: Sequence[Parsed]) -> Columns:
        """The columns of these records."""
        timestamps = None
        if any(record.timestamp is not None for record in records):
            now_ms = time.time_ns() // 1_000_000
            timestamps = [now_ms if record.timestamp is None else record.timestamp for record in records]
        return cls(
            [record.value for record in records],
            [record.key for record in records] if any(r.key is not None for r in records) else None,
            [record.headers for record in records] if any(r.headers for r in records) else None,
            timestamps,
        )


class Sender:
    """Gives columns to a producer in their order, a few pieces ahead of the acknowledgements.

    After a piece that failed nothing more is sent; those under way settle, and count.
    """

    def __init__(
        self, producer: Any, topic: str, tasks: asyncio.TaskGroup, tally: Tally, *, partition: int | None
    ) -> None:
        self.tally = tally
        self.failed = False
        self._producer = producer
        self._topic = topic
        self._tasks = tasks
        self._partition = partition
        self._error: MillpondError | None = None
        self._begun = False
        self._room = asyncio.Semaphore(SENDS_UNDER_WAY_MAX)

    async def send(self, columns: Columns) -> None:
        """Send them after those before; waits for room only, but the first time for their acknowledgement."""
        if not columns.values or self.failed:
            return
        self.tally.sent += len(columns.values)
        self.tally.value_bytes += sum(len(value) for value in columns.values if value is not None)
        await self._room.acquire()
        sending = self._send(columns)
        if self._begun:
            # Tasks begin in the order in which they are made, and a send takes its place as it begins: it
            # has nothing to wait for, because the first one has found out all there is, and there is room.
            self._tasks.create_task(sending, name="sending")
        else:
            self._begun = True
            await sending

    async def _send(self, columns: Columns) -> None:
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
        except MillpondError as error:
            count = count - len(error.failed) if isinstance(error, PartialDelivery) else 0
            self._error = self._error or error
            self.failed = True
        finally:
            self._room.release()
        self.tally.acknowledged += count

    async def finish(self) -> None:
        """Wait for what is under way. Raises the first error."""
        for _ in range(SENDS_UNDER_WAY_MAX):
            await self._room.acquire()
        if self._error is not None:
            raise self._error
