"""Logs: one line, one JSON object, whatever was logged."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millpond_broker.observe import logs
from millpond_broker.observe.logs import JsonLines, configure, event

log = logging.getLogger("millpond.test")


@pytest.fixture(scope="module", autouse=True)
def logging_as_before() -> Iterator[None]:
    """`configure` is for a whole process; the other tests get theirs back."""
    root = logging.getLogger()
    handlers, level, show = list(root.handlers), root.level, warnings.showwarning
    yield
    logging.captureWarnings(capture=False)
    assert warnings.showwarning is show
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="module")
def stream() -> io.StringIO:
    text = io.StringIO()
    configure(stream=text)
    return text


def the_line(stream: io.StringIO) -> dict[str, Any]:
    """The only line since the last call."""
    text = stream.getvalue()
    stream.seek(0)
    stream.truncate()
    assert text.count("\n") == 1
    assert text.endswith("\n")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    line: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return line


def test_an_event_is_one_object_with_its_fields(stream: io.StringIO) -> None:
    event(log, logging.WARNING, "log_reopened", log_end=7, path="/x")
    line = the_line(stream)
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "millpond.test",
        "event": "log_reopened",
        "log_end": 7,
        "path": "/x",
    }


def test_what_others_log_comes_out_in_the_same_form(stream: io.StringIO) -> None:
    logging.getLogger("grpc._channel").error("lost %d of %s\n", 3, "five")
    line = the_line(stream)
    assert (line["logger"], line["event"]) == ("grpc._channel", "lost 3 of five\n")


def test_an_exception_is_shown_with_its_traceback(stream: io.StringIO) -> None:
    try:
        raise OSError(28, "No space left")
    except OSError as error:
        event(log, logging.ERROR, "call_failed", trace=error)
        by_field = the_line(stream)["trace"]
        log.exception("as the library does it")
        by_library = the_line(stream)["trace"]
    for trace in (by_field, by_library):
        assert trace.startswith("Traceback")
        assert trace.endswith("OSError: [Errno 28] No space left")


def test_a_field_never_takes_the_place_of_the_lines_own(stream: io.StringIO) -> None:
    event(log, logging.INFO, "x", ts=1, level=2, event=3, name=4)
    line = the_line(stream)
    assert (line["event"], line["level"], line["event_"], line["level_"], line["ts_"], line["name"]) == (
        *("x", "info"),
        *(3, 2, 1, 4),
    )


def test_a_level_that_is_off_costs_nothing_and_writes_nothing(stream: io.StringIO) -> None:
    event(log, logging.DEBUG, "x")
    assert stream.getvalue() == ""


def test_a_warning_of_python_is_a_line_too(stream: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        configure(stream=stream)
        warnings.warn("old ways", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    assert the_line(stream)["logger"] == "py.warnings"


def test_configuring_again_does_not_write_twice(stream: io.StringIO) -> None:
    configure(stream=stream)
    configure(stream=stream)
    event(log, logging.INFO, "once")
    assert the_line(stream)["event"] == "once"


def test_without_a_stream_it_is_stderr(stream: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    event(log, logging.INFO, "here")
    sys.stderr.flush()
    configure(stream=stream)
    captured = capsys.readouterr()
    assert (captured.out, json.loads(captured.err)["event"]) == ("", "here")


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_a_value_that_is_no_json_does_not_make_the_line_none(stream: io.StringIO) -> None:
    circle: list[Any] = []
    circle.append(circle)
    for value in (float("nan"), b"\xff", Hostile(), circle, {1: {b"k": 2}}, {(1, 2): 3}, "\ud800", {1, 2}):
        event(log, logging.INFO, "odd", value=value)
        assert "value" in the_line(stream)


def test_a_long_text_is_cut_and_a_long_line_left_out(stream: io.StringIO) -> None:
    event(log, logging.INFO, "x" * 100_000, value="y" * 100_000)
    line = the_line(stream)
    assert max(len(line["event"]), len(line["value"])) <= logs.VALUE_CHARACTERS_MAX + 1
    event(log, logging.INFO, "many", values=list(range(100_000)))
    line = the_line(stream)
    assert (line["event"], "values" in line, "fields_left_out" in line) == ("many", False, True)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
)


@given(message=st.text(), fields=st.dictionaries(st.text(), json_like, max_size=4))
def test_any_record_is_one_line_of_json(message: str, fields: dict[str, Any]) -> None:
    record = log.makeRecord("n", 20, "f", 1, "%s", (message,), None, extra={"millpond_fields": fields})
    line = JsonLines().format(record)
    assert "\n" not in line
    assert json.loads(line)["event"] == message
