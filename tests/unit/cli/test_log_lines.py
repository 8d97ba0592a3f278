"""A broker's log line for people."""

from __future__ import annotations

import json

import pytest

from millpond.cli.log_lines import LINE_CHARACTERS_MAX, readable


def line(**fields: object) -> bytes:
    head = {"ts": "2026-11-21T05:38:12.123Z", "level": "info", "logger": "l", "event": "cut"}
    return json.dumps(head | fields).encode()


def test_time_level_event_and_facts_are_one_line() -> None:
    level, text = readable(line(topic="orders", end=7, why="a b", all=[1, 2], none=None))
    assert level == "info"
    assert text[:12].endswith("12.123")
    assert text[13:] == 'info    cut topic=orders end=7 why="a b" all=[1,2] none=null'


def test_of_a_trace_its_last_line_is_shown() -> None:
    text = readable(line(level="error", trace="Traceback:\n  File x\nValueError: no"))[1]
    assert text.endswith('cut trace="ValueError: no"')


@pytest.mark.parametrize(
    "raw",
    [b"millpond broker: it failed", b"[]", b"7", b"{}", b'{"ts": 1}', b"[" * 100_000, b"", line(ts="now")],
)
def test_what_is_no_line_of_a_broker_is_shown_as_it_is(raw: bytes) -> None:
    level, text = readable(raw)
    assert level == ""
    assert text[:20] == raw[:20].decode()


def test_a_terminal_is_told_nothing_by_a_log() -> None:
    for raw in (line(why="\x1b[2J\r\n"), b"\x1b]0;title\x07\xff\r"):
        assert readable(raw)[1].isprintable()


def test_a_long_line_is_cut() -> None:
    assert len(readable(line(why="x" * 10_000))[1]) == LINE_CHARACTERS_MAX
