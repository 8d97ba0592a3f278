"""`millpond produce` and `millpond consume` against a real broker: bytes in, the same bytes out."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli.conftest import Cli


def produced(cli: Cli, topic: str, stdin: bytes, *words: str) -> str:
    """What it said on stderr."""
    done = cli.run("produce", topic, *words, stdin=stdin)
    assert done.stdout == b""
    return done.stderr.decode()


def consumed(cli: Cli, topic: str, *words: str) -> bytes:
    done = cli.run("consume", topic, *words)
    assert done.stderr == b""
    return done.stdout


def test_lines_go_in_and_come_out_as_the_bytes_they_are(cli: Cli) -> None:
    topic = cli.topic()
    lines = [b"one", b"", b"\xff\x00\xfe", b"a\r", "ü\u2028x".encode(), b"last"]
    assert produced(cli, topic, b"\n".join(lines)) == "6 records acknowledged\n"
    assert consumed(cli, topic) == b"".join(line + b"\n" for line in lines)
    assert [
        partition["high_watermark"] for partition in cli.json("topic", "describe", topic)[0]["partitions"]
    ] == [6]


def test_no_input_is_no_record_and_no_failure(cli: Cli) -> None:
    topic = cli.topic()
    assert produced(cli, topic, b"") == "0 records acknowledged\n"
    assert consumed(cli, topic) == b""
    assert cli.json("consume", topic) == []


def test_a_file_can_be_named_and_a_lone_newline_is_an_empty_record(cli: Cli, tmp_path: Path) -> None:
    topic = cli.topic()
    path = tmp_path / "input"
    path.write_bytes(b"\n")
    assert cli.run("produce", topic, str(path)).stderr == b"1 record acknowledged\n"
    assert cli.run("produce", topic, "-", stdin=b"x").stderr == b"1 record acknowledged\n"
    assert consumed(cli, topic) == b"\nx\n"


def test_keys_headers_and_the_time_are_kept(cli: Cli) -> None:
    topic = cli.topic()
    produced(cli, topic, b"k:v:w\n:e\n", "--key-separator", ":", "--header", "a=1", "--header", "a=2")
    produced(cli, topic, b"v\n", "--key", "fixed", "--header", "b=\udcff")
    first, second, third = cli.json("consume", topic)
    assert (first["key"], first["value"], first["headers"]) == ("k", "v:w", [["a", "1"], ["a", "2"]])
    assert (second["key"], second["value"]) == ("", "e")
    assert (third["key"], third["value"], third["headers"]) == ("fixed", "v", {"b": {"base64": "/w=="}})
    assert [record["offset"] for record in (first, second, third)] == [0, 1, 2]
    assert third["timestamp"] > 1_700_000_000_000
    plain = consumed(cli, topic, "--print", "offset,key,value", "--max-records", "2")
    assert plain == b"0\tk\tv:w\n1\t\te\n"


def test_a_key_goes_to_one_partition_and_partition_says_which(cli: Cli) -> None:
    topic = cli.topic("--partitions", "4")
    produced(cli, topic, b"".join(b"k%d:%d\n" % (n % 7, n) for n in range(700)), "--key-separator", ":")
    of_key: dict[str, set[int]] = {}
    order: dict[str, list[int]] = {}
    for record in cli.json("consume", topic):
        of_key.setdefault(record["key"], set()).add(record["partition"])
        order.setdefault(record["key"], []).append(int(record["value"]))
    assert all(len(partitions) == 1 for partitions in of_key.values())
    assert all(values == sorted(values) and len(values) == 100 for values in order.values())
    produced(cli, topic, b"x\ny\n", "--partition", "3")
    assert consumed(cli, topic, "--partition", "3").endswith(b"x\ny\n")
    assert b"x" not in consumed(cli, topic, "--partition", "0", "--partition", "1", "--partition", "2")


KEPT = ("--partitions", "1", "--config", "retention_ms=-1")
"""For records of long ago, which retention would take away under the test."""

RECORDS: list[dict[str, Any]] = [
    {"key": None, "value": "v", "headers": {}, "timestamp": 1_700_000_000_000},
    {"key": "k", "value": None, "headers": {"h": "1"}, "timestamp": 1_700_000_000_001},
    {
        "key": {"base64": "/w=="},
        "value": {"base64": "AP8="},
        "headers": {"h": {"base64": "gA=="}},
        "timestamp": 5,
    },
    {"key": "", "value": "", "headers": [["h", "1"], ["g", "2"], ["h", "3"]], "timestamp": 1_700_000_000_000},
    {"key": "ключ", "value": 'line\nbreak\t\u2028\u0000"', "headers": {"имя": "x"}, "timestamp": 0},
]


@pytest.mark.parametrize("compression", ["none", "gzip", "lz4", "zstd"])
def test_json_makes_the_round_trip_whole(cli: Cli, compression: str) -> None:
    first, second = cli.topic(*KEPT), cli.topic(*KEPT)
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS).encode()
    assert produced(cli, first, lines, "--input", "json") == "5 records acknowledged\n"
    out = consumed(cli, first, "-o", "json")
    assert [
        {name: record[name] for name in RECORDS[0]} for record in map(json.loads, out.splitlines())
    ] == RECORDS
    produced(cli, second, out, "--input", "json", "--compression", compression)
    assert consumed(cli, second, "-o", "json").replace(second.encode(), first.encode()) == out


def test_bad_json_names_the_line_and_what_stands_before_it_is_sent(cli: Cli) -> None:
    topic = cli.topic()
    line = cli.refusal(
        "produce", topic, "--input", "json", stdin=b'{"value": "a"}\n{"value": "b"}\n{"value"}\n'
    )
    assert line.startswith("millpond: line 3 is not JSON: ")
    assert line.endswith("; 2 records acknowledged")
    assert consumed(cli, topic) == b"a\nb\n"
    line = cli.refusal("produce", topic, "--key-separator", ":", stdin=b"a:b\n\n")
    assert line == "millpond: line 2 has no separator ':' between key and value; 1 record acknowledged"


def test_the_summary_in_json_is_one_object(cli: Cli) -> None:
    topic = cli.topic()
    done = cli.run("produce", topic, "-o", "json", stdin=b"abc\nd\n")
    assert done.stderr == b""
    (summary,) = map(json.loads, done.stdout.splitlines())
    assert summary.pop("seconds") >= 0
    assert summary == {"topic": topic, "sent": 2, "acknowledged": 2, "bytes": 4}


@pytest.mark.parametrize("acks", ["leader", "none"])
def test_weaker_acknowledgements_say_what_they_are(cli: Cli, acks: str) -> None:
    topic = cli.topic()
    said = produced(cli, topic, b"a\nb\n", "--acks", acks)
    assert (
        said
        == {
            "leader": "2 records acknowledged\n",
            "none": "2 records sent; with --acks none nobody acknowledges them\n",
        }[acks]
    )
    assert consumed(cli, topic, "--follow", "--max-records", "2") == b"a\nb\n"


def test_a_topic_is_never_made_by_the_way(cli: Cli) -> None:
    for words in (["produce", "nowhere"], ["consume", "nowhere"], ["consume", "nowhere", "--follow"]):
        assert "create it with: millpond topic create nowhere" in cli.refusal(*words, stdin=b"x\n")
    topic = cli.topic()
    for words in (["produce", topic, "--partition", "1"], ["consume", topic, "--partition", "1"]):
        assert "not 1" in cli.refusal(*words, stdin=b"x\n")
    assert "nowhere" not in cli.text("topic", "ls")


def test_a_record_that_is_too_large_is_refused_by_size_and_the_others_count(cli: Cli) -> None:
    topic = cli.topic("--partitions", "1", "--config", "record_bytes_max=1000")
    line = cli.refusal("produce", topic, stdin=b"a\n" + b"x" * 2000 + b"\nb\n")
    assert "1000 allowed" in line.replace(",", "")
    assert "--config record_bytes_max=N" in line
    assert line.startswith("millpond: line 2 is too large: ")
    assert line.endswith("; 1 record acknowledged")
    assert consumed(cli, topic) == b"a\n"


def test_reading_begins_where_it_is_told(cli: Cli) -> None:
    topic = cli.topic(*KEPT)
    lines = "".join(json.dumps({"value": str(n), "timestamp": 1_000 * n}) + "\n" for n in range(10))
    produced(cli, topic, lines.encode(), "--input", "json")
    assert consumed(cli, topic, "--from", "8") == b"8\n9\n"
    assert consumed(cli, topic, "--from", "beginning", "--max-records", "2") == b"0\n1\n"
    assert consumed(cli, topic, "--max-records", "0") == b""
    assert consumed(cli, topic, "--from", "end") == b""
    assert consumed(cli, topic, "--from", "1970-01-01T00:00:06.5Z") == b"7\n8\n9\n"
    assert consumed(cli, topic, "--from", "-1h") == b""
    assert cli.json("topic", "trim", topic, "--before", "1970-01-01T00:00:08Z") == [
        {"topic": topic, "partition": 0, "log_start": 8}
    ]
    assert consumed(cli, topic) == b"8\n9\n"
    assert (
        cli.text("topic", "trim", topic, "--before", "end") == "PARTITION  LOG-START\n        0         10\n"
    )


def test_a_large_input_streams_through_whole_and_in_order(cli: Cli, tmp_path: Path) -> None:
    topic = cli.topic()
    source = random.Random(7)
    path = tmp_path / "input"
    with path.open("wb") as file:
        for _ in range(40):
            data = source.randbytes(1 << 18)
            file.write(data.replace(b"\x07", b"\n") + b"\n")
    size = path.stat().st_size
    (summary,) = map(json.loads, cli.run("produce", topic, str(path), "-o", "json").stdout.splitlines())
    assert summary["bytes"] + summary["acknowledged"] == size
    assert consumed(cli, topic) == path.read_bytes()
