"""What people write on a command line, as values: offsets and times, settings, headers, separators."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

import click

OFFSET_MAX: Final = (1 << 63) - 1

TIMES: Final = (
    "TIME is ISO 8601, as 2026-11-21T08:00:00Z or 2026-11-21 (local time where it names no zone), or how"
    " long ago: -30s, -15m, -1h, -2d, -1w, also -1h30m."
)
"""For the help of each command that takes one."""

_UNITS: Final = {
    "w": "weeks",
    "d": "days",
    "h": "hours",
    "m": "minutes",
    "s": "seconds",
    "ms": "milliseconds",
}
_AGO: Final = re.compile(r"-(?:(?:\d{1,18})(?:ms|[wdhms]))+", re.ASCII)
_SPAN: Final = re.compile(r"(\d+)(ms|[wdhms])", re.ASCII)


def time_of(text: str, now: datetime) -> datetime:
    """The aware datetime that `text` means. Raises ValueError for a text that means none."""
    if _AGO.fullmatch(text):
        try:
            spans = (timedelta(**{_UNITS[unit]: int(number)}) for number, unit in _SPAN.findall(text))
            return now - sum(spans, timedelta())
        except OverflowError:
            raise ValueError(f"{text!r} is before all time") from None
    try:
        time = datetime.fromisoformat(text)
        return time if time.tzinfo is not None else time.astimezone()
    except (ValueError, OverflowError, OSError):  # the last two: a year that local time cannot have
        raise ValueError(
            f"{text!r} is not a time; write it like 2026-11-21T08:00:00Z, or -1h for an hour ago"
        ) from None


def position_of(text: str, words: Iterable[str], now: datetime) -> str | int | datetime:
    """One of the words, an offset, or a time. Raises ValueError."""
    if text in words:
        return text
    if text.isascii() and text.isdecimal():
        if len(text) > 19 or int(text) > OFFSET_MAX:
            raise ValueError(f"{text} is more than any offset")
        return int(text)
    try:
        return time_of(text, now)
    except ValueError as error:
        choices = ", ".join([*words, "an offset"])
        raise ValueError(f"{error} (or {choices})") from None


def position(*words: str) -> Callable[[click.Context, click.Parameter, str], str | int | datetime]:
    """The callback of an option that takes one of the words, an offset or a time."""

    def convert(_context: click.Context, _parameter: click.Parameter, text: str) -> str | int | datetime:
        try:
            return position_of(text, words, datetime.now(UTC))
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return convert


def settings_of(pairs: Iterable[str]) -> dict[str, str]:
    """`k=v` words as a mapping. Raises BadParameter for a word that is none, or a key that stands twice."""
    settings: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE, as in retention_ms=3600000")
        if key in settings:
            raise click.BadParameter(f"{key!r} stands twice")
        settings[key] = value
    return settings


def headers_of(pairs: Iterable[str]) -> list[tuple[str, bytes]]:
    """`k=v` words as headers, in their order; a name may stand twice. Raises BadParameter."""
    headers: list[tuple[str, bytes]] = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE, as in source=import")
        try:
            name.encode()
        except UnicodeEncodeError:
            raise click.BadParameter(f"{name!r} is not UTF-8, as names of headers are") from None
        headers.append((name, os.fsencode(value)))
    return headers


def separator_of(text: str) -> bytes:
    r"""The bytes between key and value; \t is a tab, because few shells let one type it."""
    if not text:
        raise click.BadParameter("the separator has at least one character")
    return os.fsencode(text.replace("\\t", "\t"))
