"""Following a log file: whole lines, once each, within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from millpond._local import tailing
from millpond._local.tailing import Tail


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def tail(path: Path) -> Iterator[Tail]:
    tail = Tail(path)
    yield tail
    tail.close()


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def everything(tail: Tail) -> tuple[int, list[bytes]]:
    left_out, lines = tail.lines()
    while more := tail.lines()[1]:
        lines += more
    return left_out, lines


def test_each_line_comes_once_and_whole(tail: Tail, path: Path) -> None:
    assert tail.lines() == (0, [])
    append(path, b"one\ntw")
    assert tail.lines() == (0, [b"one"])
    append(path, b"o\nthree\n")
    assert tail.lines() == (0, [b"two", b"three"])
    assert tail.lines() == (0, [])


def test_the_run_before_is_kept_beside_it(path: Path) -> None:
    append(path, b"before\n")
    tail = Tail(path)
    assert tail.lines() == (0, [])
    tail.close()
    assert path.with_name("log.1").read_bytes() == b"before\n"


def test_much_comes_in_turns(tail: Tail, path: Path) -> None:
    lines = [b"%06d" % n for n in range(20_000)]
    append(path, b"\n".join([*lines, b""]))
    assert 0 < len(tail.lines()[1]) < len(lines)
    assert everything(tail)[1][-1] == lines[-1]


def test_who_is_too_far_behind_is_told_how_much_is_left_out(tail: Tail, path: Path) -> None:
    lines = [b"%06d" % n for n in range(tailing.BEHIND_BYTES_MAX // 7 + 10)]
    append(path, b"begun")
    assert tail.lines() == (0, [])
    append(path, b"\n" + b"\n".join([*lines, b""]))
    left_out, shown = everything(tail)
    assert shown == lines[-len(shown) :], "whole lines only"
    assert left_out + sum(len(line) + 1 for line in shown) == path.stat().st_size


def test_a_line_without_an_end_is_cut(tail: Tail, path: Path) -> None:
    append(path, b"x" * (tailing.LINE_BYTES_MAX + 10) + b"\nnext\n")
    _, shown = everything(tail)
    assert [len(shown[0]), shown[-1]] == [tailing.LINE_BYTES_MAX, b"next"]


def test_a_file_that_has_become_large_begins_anew(
    tail: Tail, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tailing, "FILE_BYTES_MAX", 100)
    with path.open("ab") as broker:  # as a broker has it open
        broker.write(b"x" * 120 + b"\n")
        broker.flush()
        assert len(tail.lines()[1]) == 1
        assert tail.lines() == (0, [])
        assert path.stat().st_size == 0
        broker.write(b"later\n")
        broker.flush()
        assert tail.lines() == (0, [b"later"])
        assert path.stat().st_size == 6
