"""`millpond bench` measures against a real broker, and leaves nothing behind."""

from __future__ import annotations

import signal

import pytest

from tests.integration.cli.conftest import DEADLINE_S, Cli

COMMON = [
    "bench",
    "records",
    "size",
    "batch_bytes",
    "partitions",
    "replicas",
    "min_insync",
    "seconds",
    "records_per_second",
    "mb_per_second",
]


@pytest.mark.parametrize("what", ["produce", "consume", "latency"])
def test_it_measures_on_a_topic_of_its_own_which_goes_again(cli: Cli, what: str) -> None:
    (result,) = cli.json("bench", what, "--records", "200", "--size", "50")
    assert list(result)[: len(COMMON)] == COMMON
    assert (result["bench"], result["records"], result["size"]) == (what, 200, 50)
    assert result["records_per_second"] > 0
    if what == "latency":
        assert list(result)[len(COMMON) :] == ["p50_ms", "p90_ms", "p99_ms", "p99.9_ms", "max_ms"]
        assert 0 < result["p50_ms"] <= result["p99_ms"] <= result["max_ms"]
    assert "bench-" not in cli.text("topic", "ls")


def test_a_topic_that_is_named_is_used_and_stays(cli: Cli) -> None:
    topic = cli.topic()
    cli.run("bench", "produce", "--records", "100", "--topic", topic)
    (result,) = cli.json("bench", "consume", "--topic", topic)
    assert (result["records"], result["partitions"]) == (100, 1)
    assert len(cli.run("consume", topic).stdout.removesuffix(b"\n")) >= 100 * 100


def test_its_table_is_for_people(cli: Cli) -> None:
    text = cli.text("bench", "latency", "--records", "10")
    assert "p99 ms:" in text
    assert "records per second:" in text


def test_values_that_are_too_large_are_refused_by_size(cli: Cli) -> None:
    line = cli.refusal("bench", "produce", "--size", "2000000", "--records", "3")
    assert line.startswith("millpond: 2000000 bytes are more than the 1048576 allowed")


def test_more_replicas_than_brokers_are_refused(cli: Cli) -> None:
    assert "--replicas" in cli.refusal("bench", "produce", "--replicas", "2")


def test_ctrl_c_leaves_no_topic_behind(cli: Cli) -> None:
    with cli.start("bench", "latency", "--records", "10000000") as process:
        while "bench-" not in cli.text("topic", "ls"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=DEADLINE_S) == (b"", b"")
    assert process.returncode == 130
    assert "bench-" not in cli.text("topic", "ls")
