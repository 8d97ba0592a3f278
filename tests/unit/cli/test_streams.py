"""Bytes in and out without holding up the loop: pipes that are slow, full, or closed."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millpond.cli.streams import READ_BYTES, Lines, Sink, Source

DEADLINE_S = 20


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for fd in (reading, writing):
        with suppress(OSError):  # the test may have closed it
            os.close(fd)


@given(st.binary(max_size=60).map(lambda data: data.replace(b"a", b"\n")), st.integers(1, 10))
def test_lines_do_not_depend_on_how_the_pieces_fall(data: bytes, size: int) -> None:
    lines = Lines(1000)
    found = [line for at in range(0, len(data), size) for line in lines.feed(data[at : at + size])]
    found += lines.end()
    assert found == data.removesuffix(b"\n").split(b"\n") if data else not found


def test_empty_lines_count_and_so_does_a_last_one_without_newline() -> None:
    lines = Lines(1000)
    assert lines.feed(b"\n\na\r\nb") == [b"", b"", b"a\r"]
    assert lines.end() == [b"b"]
    assert lines.end() == []


def test_a_line_that_never_ends_is_refused_before_it_fills_the_memory() -> None:
    lines = Lines(10)
    assert lines.feed(b"x" * 10) == []
    with pytest.raises(ValueError, match="longer than 10 bytes"):
        lines.feed(b"x")


async def test_what_is_in_a_pipe_is_read_at_once_and_more_is_waited_for(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    source = Source(reading)
    os.write(writing, b"one\n")
    assert await source.read() == b"one\n"
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(source.read())
        await asyncio.sleep(0)
        assert not waiting.done()
        os.write(writing, b"two")
        assert await waiting == b"two"
        os.close(writing)
        assert await source.read() == b""


async def test_a_file_is_read_in_bounded_pieces(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"x" * (2 * READ_BYTES + 5))
    with path.open("rb", buffering=0) as file:
        source = Source(file.fileno())
        sizes = [len(await source.read()) for _ in range(4)]
    assert sizes == [READ_BYTES, READ_BYTES, 5, 0]


@pytest.fixture
def piped(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Sink, int]]:
    """A sink on a pipe, and the end to read from."""
    reading, writing = pipe
    with os.fdopen(os.dup(writing), "w") as stdout:
        os.close(writing)
        monkeypatch.setattr(sys, "stdout", stdout)
        yield Sink(), reading
        monkeypatch.undo()


async def test_a_pipe_that_is_full_holds_up_the_writer_and_nobody_else(piped: tuple[Sink, int]) -> None:
    sink, reading = piped
    data = os.urandom(1 << 20)
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(sink.write(data))
        source = Source(reading)
        read = b""
        while len(read) < len(data):
            read += await source.read()  # in the same loop, although the pipe is full most of the time
        await writing
    assert read == data


async def test_writing_to_a_full_pipe_can_be_cancelled(piped: tuple[Sink, int]) -> None:
    sink, _ = piped
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(sink.write(bytes(1 << 20)), 0.05)


async def test_a_pipe_whose_reader_is_gone_is_noticed_without_writing(piped: tuple[Sink, int]) -> None:
    sink, reading = piped
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        closed = tasks.create_task(_broken(sink))
        await asyncio.sleep(0)
        assert not closed.done()
        os.close(reading)
        assert await closed
    with pytest.raises(BrokenPipeError):
        await sink.write(b"x")


async def _broken(sink: Sink) -> bool:
    try:
        await sink.closed()
    except BrokenPipeError:
        return True
    return False
