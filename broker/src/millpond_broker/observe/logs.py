"""Logs as one JSON object a line, on stderr, through the standard library's logging.

    {"ts": "2026-11-21T05:38:12.123Z", "level": "info", "logger": "…", "event": "log_reopened", "log_end": 7}

`event` is a name that one can search for; what varies stands in fields of its own. What other packages log
comes out in the same form, their message as the event. Never a line for each record.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Final, TextIO

VALUE_CHARACTERS_MAX: Final = 8_000
"""Of one text in a line. A trace keeps its end, which says what happened; other text its beginning."""
LINE_CHARACTERS_MAX: Final = 64_000
"""Of a line: collectors of logs cut or drop longer ones, and then it is no JSON."""

_FIELDS: Final = "millpond_fields"
_RESERVED: Final = frozenset(("ts", "level", "logger", "event", "trace"))


def configure(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send everything that is logged in this process, warnings of Python too, to stderr (or `stream`).

    Calling it again replaces what the call before set up.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old.formatter, JsonLines):
            root.removeHandler(old)
            old.flush()
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(capture=True)


def event(logger: logging.Logger, level: int, name: str, /, **fields: object) -> None:
    """Log that `name` happened. A field that is an exception is shown with its traceback."""
    if logger.isEnabledFor(level):
        logger.log(level, "%s", name, extra={_FIELDS: fields})


class JsonLines(logging.Formatter):
    """A log record as one line of JSON; always one line, always JSON, whatever was logged."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        head = {
            "ts": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _short(record.getMessage()),
        }
        fields: dict[str, Any] = {}
        for name, value in getattr(record, _FIELDS, {}).items():
            fields[f"{name}_" if name in _RESERVED - {"trace"} else name] = _plain(value)
        if record.exc_info and record.exc_info[1] is not None:
            fields["trace"] = _trace(record.exc_info[1])
        return _line(head, fields)


def _line(head: dict[str, str], fields: dict[str, Any]) -> str:
    try:
        line = json.dumps(head | fields, default=_text, allow_nan=False)
    except (ValueError, TypeError, RecursionError):  # not a number, a cycle, a key that is none
        line = json.dumps(head | {name: _text(value) for name, value in fields.items()})
    if len(line) > LINE_CHARACTERS_MAX:
        line = json.dumps(head | {"fields_left_out": f"{len(line)} characters"})
    return line


def _plain(value: object) -> object:
    if isinstance(value, BaseException):
        return _trace(value)
    return _short(value) if isinstance(value, str) else value


def _text(value: object) -> str:
    try:
        return _short(str(value))
    except Exception as error:  # whatever it is, a log line must not fail on it
        return f"{type(value).__name__} that cannot be shown: {type(error).__name__}"


def _short(text: str) -> str:
    return text if len(text) <= VALUE_CHARACTERS_MAX else f"{text[:VALUE_CHARACTERS_MAX]}…"


def _trace(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error)).rstrip()
    return text if len(text) <= VALUE_CHARACTERS_MAX else f"…{text[-VALUE_CHARACTERS_MAX:]}"
