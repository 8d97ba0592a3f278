"""Records as bytes on standard output and input: one JSON object a line, or fields with tabs between.

What `consume -o json` writes, `produce --input json` reads: key, value, headers and timestamp come out
as they went in. Topic, partition and offset are said, and not read: where a record goes is for
the producer to say.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from millpond import Headers, RecordBatch

FIELDS: Final = ("topic", "partition", "offset", "timestamp", "key", "value", "headers")
"""Of a record, in the order of a JSON line."""
_FIELDS: Final = frozenset(FIELDS)

_encode = json.JSONEncoder(check_circular=False).encode
"""ASCII: JSON lets U+2028 stand in text, and some readers of lines take it for the end of one."""


class Parsed(NamedTuple):
    """A record to produce. Without a timestamp, it is of now."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp: int | None


# --- writing -------------------------------------------------------------------------------------------


def json_of(data: bytes | None) -> str | dict[str, str] | None:
    """Bytes in JSON: text where they are UTF-8, else {"base64": …}; null for none."""
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode("ascii")}


def json_of_headers(headers: Headers) -> dict[str, Any] | list[tuple[str, Any]]:
    """A mapping while no name stands twice, else [name, value] pairs: so that none is lost."""
    items = headers.multi_items()
    if not items:
        return {}
    pairs = [(name, json_of(value)) for name, value in items]
    mapping = dict(pairs)
    return mapping if len(mapping) == len(pairs) else pairs


def json_lines(batch: RecordBatch[bytes | None, bytes | None], fields: Sequence[str] = FIELDS) -> bytes:
    """A line for each record of the batch."""
    topic, partition = batch.topic, batch.partition
    rows = zip(batch.offsets, batch.timestamps, batch.keys, batch.values, batch.headers, strict=True)
    objects: Iterator[dict[str, Any]] = (
        {
            "topic": topic,
            "partition": partition,
            "offset": offset,
            "timestamp": timestamp,
            "key": json_of(key),
            "value": json_of(value),
            "headers": json_of_headers(headers),
        }
        for offset, timestamp, key, value, headers in rows
    )
    if tuple(fields) != FIELDS:
        objects = ({field: whole[field] for field in fields} for whole in objects)
    return "".join(f"{_encode(one)}\n" for one in objects).encode("ascii")


def plain_lines(batch: RecordBatch[bytes | None, bytes | None], fields: Sequence[str] = ("value",)) -> bytes:
    """The fields of each record with tabs between, and a newline. Bytes as they are, nothing for null."""
    if tuple(fields) == ("value",):
        try:
            return b"\n".join(batch.values) + b"\n"  # type: ignore[arg-type]  # a null raises here
        except TypeError:
            pass
    columns = [_plain_column(batch, field) for field in fields]
    return b"".join(b"\t".join(row) + b"\n" for row in zip(*columns, strict=True))


def _plain_column(batch: RecordBatch[bytes | None, bytes | None], field: str) -> Iterable[bytes]:
    match field:
        case "value":
            return (value or b"" for value in batch.values)
        case "key":
            return (key or b"" for key in batch.keys)
        case "headers":
            return (_encode(json_of_headers(headers)).encode("ascii") for headers in batch.headers)
        case "offset":
            return (b"%d" % offset for offset in batch.offsets)
        case "timestamp":
            return (b"%d" % timestamp for timestamp in batch.timestamps)
        case "partition":
            return [b"%d" % batch.partition] * len(batch)
    assert field == "topic", "checked where it was given"
    return [batch.topic.encode()] * len(batch)


# --- reading -------------------------------------------------------------------------------------------


def parse_json(line: bytes) -> Parsed:
    """The record of a JSON line. Raises ValueError with what is wrong with it."""
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError):  # an integer of thousands of digits, nesting without end
        raise ValueError("is not JSON that makes sense") from None
    if not isinstance(record, dict):
        raise ValueError('is not a JSON object such as {"key": "k", "value": "v"}')  # noqa: TRY004 - of the input
    if not record.keys() <= _FIELDS:
        unknown = min(record.keys() - _FIELDS)
        raise ValueError(f"has an unknown field {unknown!r}; there are {', '.join(FIELDS)}")
    if "value" not in record:
        raise ValueError('has no "value"; null is a tombstone')
    timestamp = record.get("timestamp")
    if timestamp is not None and (type(timestamp) is not int or not 0 <= timestamp < 1 << 63):
        raise ValueError('has a "timestamp" that is not milliseconds since 1970')
    return Parsed(
        bytes_of(record.get("key"), '"key"'),
        bytes_of(record["value"], '"value"'),
        headers_of_json(record.get("headers")),
        timestamp,
    )


def bytes_of(value: object, what: str) -> bytes | None:
    """The inverse of `json_of`. Raises ValueError."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"has a {what} with half a character in it") from None
    if isinstance(value, dict) and value.keys() == {"base64"} and isinstance(value["base64"], str):
        try:
            return base64.b64decode(value["base64"], validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(f"has a {what} whose base64 is none") from None
    raise ValueError(f'has a {what} that is not text, {{"base64": "…"}} or null')


def headers_of_json(value: object) -> tuple[tuple[str, bytes], ...]:
    """The inverse of `json_of_headers`: takes a mapping, and pairs. Raises ValueError."""
    if not value and (value is None or isinstance(value, dict | list)):
        return ()
    pairs: Iterable[Any] = value.items() if isinstance(value, Mapping) else _pairs(value)
    headers = []
    for name, content in pairs:
        if not isinstance(name, str):
            raise ValueError('has "headers" with a name that is not text')  # noqa: TRY004 - of the input
        data = bytes_of(content, f"header {name!r}")
        if data is None:
            raise ValueError(f"has a header {name!r} that is null")
        bytes_of(name, f"header {name!r}")
        headers.append((name, data))
    return tuple(headers)


def _pairs(value: object) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise ValueError('has "headers" that are neither an object nor [name, value] pairs')
    return value
