"""From lines of input to columns of records, as `send_many` takes them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from millpond.cli.records import Parsed, parse_json


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


@dataclass(frozen=True)
class Columns:
    """Records as `send_many` takes them; None for a column that none of them needs."""

    values: Sequence[bytes | None]
    keys: Sequence[bytes | None] | None
    headers: Sequence[Sequence[tuple[str, bytes]]] | None
    timestamps: Sequence[int] | None
    line: int = 0
    """Of the first of them in the input; 0 where they are of none."""

    @classmethod
    def of(cls, records: Sequence[Parsed], line: int = 0) -> Columns:
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
            line,
        )

    def until(self, end: int) -> Columns:
        """The records before index `end`."""
        return Columns(
            self.values[:end],
            None if self.keys is None else self.keys[:end],
            None if self.headers is None else self.headers[:end],
            None if self.timestamps is None else self.timestamps[:end],
            self.line,
        )

    def first_over(self, limit_bytes: int) -> int | None:
        """The index of the first record that is larger: value, key and headers together."""
        for index, value in enumerate(self.values):
            size = 0 if value is None else len(value)
            if self.keys is not None:
                size += len(self.keys[index] or b"")
            if self.headers is not None:
                size += sum(len(name.encode()) + len(content) for name, content in self.headers[index])
            if size > limit_bytes:
                return index
        return None


def columns_of(lines: Sequence[bytes], form: Format, line: int) -> tuple[Columns, str | None]:
    """The records of these lines, the first of which is that line of the input.

    Up to the first that is no record; then also what is wrong with that one.
    """
    if not form.json and form.separator is None:
        keys = None if form.key is None else [form.key] * len(lines)
        headers = [form.headers] * len(lines) if form.headers else None
        return Columns(lines, keys, headers, None, line), None
    records: list[Parsed] = []
    for text in lines:
        try:
            records.append(form.parse(text))
        except ValueError as error:
            return Columns.of(records, line), str(error)
    return Columns.of(records, line), None
