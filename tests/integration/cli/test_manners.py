"""How the streaming commands end: pipes that close, Ctrl-C, terminals, brokers that die."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import PIPE

import pytest

from millpond.testing import LocalCluster
from tests.integration.cli.conftest import DEADLINE_S, Cli


def fill(cli: Cli, topic: str, count: int) -> None:
    cli.run("produce", topic, stdin=b"".join(b"%d\n" % n for n in range(count)))


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """The end that a person sits at, and the one for a process."""
    person, process = pty.openpty()
    try:
        yield person, process
    finally:
        os.close(person)
        os.close(process)


def read_until(fd: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        piece = os.read(fd, 65_536)
        assert piece, seen
        seen += piece
    return seen


@pytest.mark.parametrize("follow", ["--follow", "--no-follow"])
def test_a_reader_that_stops_early_ends_it_with_0(cli: Cli, follow: str) -> None:
    topic = cli.topic()
    fill(cli, topic, 50_000)
    with cli.start("consume", topic, follow) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"0\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(DEADLINE_S) == 0


def test_a_reader_that_leaves_is_noticed_although_nothing_more_comes(cli: Cli) -> None:
    topic = cli.topic()
    fill(cli, topic, 2)
    with cli.start("consume", topic, "--follow") as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == [b"0\n", b"1\n"]
        process.stdout.close()
        assert process.wait(DEADLINE_S) == 0


def test_a_reader_that_pauses_loses_nothing(cli: Cli) -> None:
    topic = cli.topic()
    fill(cli, topic, 100_000)
    with cli.start("consume", topic) as process:
        assert process.stdout is not None
        first = process.stdout.readline()  # the pipe is full long before the reader goes on
        cli.run("cluster", "status")
        rest = process.stdout.read()
        assert process.wait(DEADLINE_S) == 0
    assert (first + rest).split() == [b"%d" % n for n in range(100_000)]


def test_following_shows_what_comes_and_ctrl_c_ends_it_quietly_with_130(cli: Cli) -> None:
    topic = cli.topic()
    with cli.start("consume", topic, "--follow", "-o", "json") as process:
        assert process.stdout is not None
        for n in range(3):
            cli.run("produce", topic, stdin=b"%d" % n)
            assert json.loads(process.stdout.readline())["value"] == str(n)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=DEADLINE_S) == (b"", b"")
    assert process.returncode == 130


def test_following_waits_for_a_cluster_that_is_away_and_says_so_once() -> None:
    with LocalCluster() as cluster:
        cli = Cli(cluster.bootstrap)
        topic = cli.topic()
        cli.run("produce", topic, stdin=b"before")
        with cli.start("consume", topic, "--follow") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == b"before\n"
            cluster.kill(0)
            said = process.stderr.readline().decode()
            assert said.startswith(
                f"millpond: the leader of {topic}-0 could not be reached: {cluster.bootstrap}"
            )
            assert said.endswith("; reading waits for it\n")
            with cli.start("consume", topic, "--timeout", "1") as impatient:
                assert impatient.wait(DEADLINE_S) == 1
            cluster.restart(0)
            cli.run("produce", topic, stdin=b"after")
            assert process.stdout.readline() == b"after\n"
            assert process.stderr.readline() == b"millpond: reading goes on\n"
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=DEADLINE_S) == (b"", b"")


def test_ctrl_c_ends_a_consumer_whose_reader_does_not_read(cli: Cli) -> None:
    topic = cli.topic()
    fill(cli, topic, 100_000)
    with cli.start("consume", topic) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130


def test_on_a_terminal_it_follows(cli: Cli) -> None:
    topic = cli.topic()
    fill(cli, topic, 1)
    with terminal() as (person, end), cli.start("consume", topic, stdout=end) as process:
        read_until(person, b"0\r\n")
        cli.run("produce", topic, stdin=b"later")
        read_until(person, b"later\r\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130


def test_what_is_typed_is_sent_line_by_line(cli: Cli) -> None:
    topic = cli.topic()
    with cli.start("consume", topic, "--follow") as reader, cli.start("produce", topic) as writer:
        assert writer.stdin is not None
        assert reader.stdout is not None
        for line in (b"one\n", b"two\n"):
            writer.stdin.write(line)
            writer.stdin.flush()
            assert reader.stdout.readline() == line  # although the input goes on
        _, said = writer.communicate(timeout=DEADLINE_S)
        assert (writer.returncode, said) == (0, b"2 records acknowledged\n")
        reader.send_signal(signal.SIGINT)
        reader.communicate(timeout=DEADLINE_S)


def test_ctrl_c_ends_a_producer_that_waits_and_says_how_far_it_came(cli: Cli) -> None:
    topic = cli.topic()
    with cli.start("consume", topic, "--follow") as reader, cli.start("produce", topic) as writer:
        assert writer.stdin is not None
        assert reader.stdout is not None
        writer.stdin.write(b"one\n")
        writer.stdin.flush()
        assert reader.stdout.readline() == b"one\n"
        writer.send_signal(signal.SIGINT)
        reader.send_signal(signal.SIGINT)
        reader.communicate(timeout=DEADLINE_S)
        _, said = writer.communicate(timeout=DEADLINE_S)
    assert writer.returncode == 130
    assert said.startswith(b"millpond: interrupted; ")
    assert said.count(b"\n") == 1


def test_a_bar_is_shown_on_a_terminal_and_nowhere_else(cli: Cli) -> None:
    topic = cli.topic()
    with terminal() as (person, end):
        words = ["produce", topic]
        process = subprocess.Popen(
            [*cli.command, *words],
            env=cli.environment | {"TERM": "xterm"},
            stdin=PIPE,
            stdout=PIPE,
            stderr=end,
        )
        with process:
            assert process.stdin is not None
            process.stdin.write(b"one\n")
            process.stdin.flush()
            read_until(person, b"records")
            process.stdin.close()
            seen = read_until(person, b"1 record acknowledged")
            assert process.wait(DEADLINE_S) == 0
        assert b"\x1b[" in seen


@pytest.fixture
def own() -> Iterator[tuple[LocalCluster, Cli]]:
    """A broker to be killed."""
    with LocalCluster() as cluster:
        yield cluster, Cli(cluster.bootstrap)


def test_a_broker_that_restarts_is_waited_for(own: tuple[LocalCluster, Cli]) -> None:
    cluster, cli = own
    topic = cli.topic()
    with cli.start("consume", topic, "--follow") as reader, cli.start("produce", topic) as writer:
        assert writer.stdin is not None
        assert reader.stdout is not None
        writer.stdin.write(b"one\n")
        writer.stdin.flush()
        assert reader.stdout.readline() == b"one\n"
        cluster.kill(0)
        writer.stdin.write(b"two\n")
        writer.stdin.flush()
        cluster.restart(0)
        assert reader.stdout.readline() == b"two\n"
        _, said = writer.communicate(timeout=DEADLINE_S)
        assert writer.returncode == 0
        assert said.splitlines()[-1] == b"2 records acknowledged"
        reader.send_signal(signal.SIGINT)
        reader.communicate(timeout=DEADLINE_S)


def test_a_broker_that_stays_away_is_a_failure_that_says_how_far_it_came(
    own: tuple[LocalCluster, Cli],
) -> None:
    cluster, cli = own
    topic = cli.topic()
    with (
        cli.start("consume", topic, "--follow", "--max-records", "1") as reader,
        cli.start("produce", topic, "--timeout", "2", "-o", "json") as writer,
    ):
        assert writer.stdin is not None
        assert reader.stdout is not None
        writer.stdin.write(b"one\n")
        writer.stdin.flush()
        assert reader.stdout.readline() == b"one\n"
        assert reader.wait(DEADLINE_S) == 0
        cluster.kill(0)
        out, said = writer.communicate(b"two\nthree\n", timeout=DEADLINE_S)
    assert writer.returncode == 1
    assert said.splitlines()[-1].endswith(b"; 1 record acknowledged")
    summary = json.loads(out)
    assert (summary["sent"], summary["acknowledged"]) == (3, 1)
