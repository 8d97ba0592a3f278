"""Lines of many, one at a time, and a reader who does not read."""

from __future__ import annotations

import os
import pty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from millpond.cli import screen
from millpond.cli.screen import Screen, shows_colours
from tests.unit.embedded.leaks import nothing_left_behind


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def drained(descriptor: int) -> str:
    os.set_blocking(descriptor, False)
    return os.read(descriptor, 1 << 20).decode()


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    with nothing_left_behind():
        yield


def logs(tmp_path: Path, *names: str) -> dict[str, Path]:
    return {name: tmp_path / name for name in names}


def followed(paths: dict[str, Path], *, colours: bool) -> Screen:
    shown = Screen(colours=colours)
    shown.follow(paths)
    return shown


def test_what_is_said_comes_after_what_was_logged_and_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pipe() as (reader, writer):
        monkeypatch.setattr(screen, "STDERR", writer)
        paths = logs(tmp_path, "one", "second")
        shown = followed(paths, colours=False)
        for path in paths.values():
            path.write_bytes(b"begin\nend\n")
        shown.say("said", writer)
        shown.close()
        assert drained(reader) == "one    | begin\none    | end\nsecond | begin\nsecond | end\nsaid\n"


def test_something_can_be_said_before_there_are_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pipe() as (reader, writer):
        monkeypatch.setattr(screen, "STDERR", writer)
        shown = Screen(colours=False)
        shown.say("waiting", writer)
        shown.follow(logs(tmp_path, "one"))
        (tmp_path / "one").write_bytes(b"begin\n")
        shown.close()
        assert sorted(drained(reader).splitlines()) == ["one | begin", "waiting"]


def test_colours_tell_brokers_apart_and_what_needs_attention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pipe() as (reader, writer):
        monkeypatch.setattr(screen, "STDERR", writer)
        shown = followed(logs(tmp_path, "one"), colours=True)
        (tmp_path / "one").write_bytes(
            b'{"ts": "2026-11-21T05:38:12.123Z", "level": "error", "logger": "l", "event": "cut"}\n'
        )
        shown.close()
        assert "\x1b[36mone |\x1b[0m \x1b[31m" in drained(reader)


def test_a_reader_that_has_left_stops_nothing(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    shown = followed(logs(tmp_path, "one"), colours=False)
    for _ in range(10):
        shown.say("said", writer)
    shown.close()
    os.close(writer)
    assert shown._gone == {writer}


def test_a_reader_that_stands_still_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "CLOSE_SECONDS_MAX", 0.2)
    reader, writer = os.pipe()
    shown = followed(logs(tmp_path, "one"), colours=False)
    for _ in range(5 * screen.SAID_MAX):
        shown.say("x" * 1000, writer)
    assert len(shown._said) <= screen.SAID_MAX
    shown.close()
    assert shown._thread.is_alive(), "it waits for its reader, and the process would not wait for it"
    os.close(reader)
    shown._thread.join(10)
    os.close(writer)


def test_colours_are_for_terminals_of_people_who_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    person, terminal = pty.openpty()
    assert shows_colours(terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not shows_colours(terminal)
    for end in (person, terminal):
        os.close(end)
    with pipe() as (_, writer):
        monkeypatch.delenv("NO_COLOR")
        assert not shows_colours(writer)
