"""A broker's log line, JSON for machines, as a line for people: time, level, event, facts."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Final

LINE_CHARACTERS_MAX: Final = 500
"""Of a line on a screen. The file has it whole."""
_HEAD: Final = ("ts", "level", "logger", "event", "trace")

_COLOURS: Final = {"warning": "yellow", "error": "red", "critical": "red"}


def colour_of(level: str) -> str | None:
    """The colour of a level's name; None for one that needs no attention."""
    return _COLOURS.get(level)


def readable(line: bytes) -> tuple[str, str]:
    """The level, and the line in words; of what is no such line "" and its text. Never more than one line,
    and nothing in it that a terminal would obey.
    """
    try:
        logged = json.loads(line)
        at = datetime.fromisoformat(logged["ts"]).astimezone().isoformat(timespec="milliseconds")
        level, name = str(logged["level"]), str(logged["event"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return "", _tame(line.decode("utf-8", "replace"))
    facts = [f"{key}={_value(value)}" for key, value in logged.items() if key not in _HEAD]
    if isinstance(trace := logged.get("trace"), str) and trace.strip():
        facts.append(f"trace={_value(trace.strip().splitlines()[-1])}")  # its last line says what happened
    return level, _tame(" ".join((at[11:23], f"{level:<7}", name, *facts)))


def _value(value: Any) -> str:
    if isinstance(value, str) and value and not set(value) & set(" ='\"\n"):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _tame(text: str) -> str:
    shown = text if len(text) <= LINE_CHARACTERS_MAX else f"{text[: LINE_CHARACTERS_MAX - 1]}…"
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in shown
    )
