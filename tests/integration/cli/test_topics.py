"""`millpond topic` and `millpond cluster` against a real broker: what programs parse, what people read."""

from __future__ import annotations

import json
import uuid

import millpond
from tests.integration.cli.conftest import Cli

DESCRIBED = ["name", "id", "config", "partitions"]
PARTITION = [
    "partition",
    "leader",
    "leader_epoch",
    "replicas",
    "isr",
    "elr",
    "log_start",
    "high_watermark",
    "log_end",
]


def test_a_topic_is_created_with_what_was_resolved_printed(cli: Cli) -> None:
    name = f"orders-{uuid.uuid4().hex[:8]}"
    assert cli.text("topic", "create", name, "--config", "retention_ms=60000") == (
        f"created topic {name}: 3 partitions, 1 replica, min-insync 1\n  retention_ms = 60000\n"
    )
    line = cli.refusal("topic", "create", name)
    assert line == (
        f"millpond: topic {name!r} exists already; describe it with: millpond topic describe {name}"
    )


def test_creating_in_json_is_one_object_with_the_numbers(cli: Cli) -> None:
    name = f"orders-{uuid.uuid4().hex[:8]}"
    (made,) = cli.json("topic", "create", name, "--partitions", "2")
    assert (made["name"], made["replicas"], made["min_insync"]) == (name, 1, 1)
    assert [partition["partition"] for partition in made["partitions"]] == [0, 1]


def test_describe_prints_exactly_the_object_of_the_contract(cli: Cli) -> None:
    name = cli.topic("--partitions", "2", "--config", "segment_bytes=8192")
    (found,) = cli.json("topic", "describe", name)
    assert list(found) == DESCRIBED
    assert (found["name"], found["config"]["segment_bytes"]) == (name, "8192")
    uuid.UUID(found["id"])
    assert [list(partition) for partition in found["partitions"]] == [PARTITION] * 2
    assert found["partitions"][1] == {
        "partition": 1,
        "leader": 1,
        "leader_epoch": found["partitions"][1]["leader_epoch"],
        "replicas": [1],
        "isr": [1],
        "elr": [],
        "log_start": 0,
        "high_watermark": 0,
        "log_end": 0,
    }


def test_describe_is_a_table_for_people(cli: Cli) -> None:
    name = cli.topic()
    text = cli.text("topic", "describe", name)
    assert text.startswith(f"{name}: 1 partition, 1 replica, min-insync 1\nid: ")
    assert "PARTITION  LEADER  EPOCH  REPLICAS  ISR  ELR  LOG-START  HIGH-WATERMARK  LOG-END\n" in text


def test_list_has_every_topic_by_name_and_ls_is_the_same(cli: Cli) -> None:
    names = {cli.topic(), cli.topic()}
    for word in ("list", "ls"):
        listed = [topic["name"] for topic in cli.json("topic", word)]
        assert listed == sorted(listed)
        assert names <= set(listed)
    rows = cli.text("topic", "ls").splitlines()
    assert rows[0].split() == ["NAME", "PARTITIONS", "REPLICAS", "MIN-INSYNC"]
    assert names <= {row.split()[0] for row in rows}


def test_alter_changes_and_puts_back(cli: Cli) -> None:
    name = cli.topic()
    default = cli.json("topic", "describe", name)[0]["config"]["retention_ms"]
    text = cli.text("topic", "alter", name, "--partitions", "2", "--config", "retention_ms=5000")
    assert text == f"altered topic {name}: 2 partitions, 1 replica, min-insync 1\n  retention_ms = 5000\n"
    (altered,) = cli.json("topic", "alter", name, "--unset", "retention_ms")
    assert (altered["config"]["retention_ms"], len(altered["partitions"])) == (default, 2)


def test_delete_is_for_good(cli: Cli) -> None:
    name = cli.topic()
    assert cli.text("topic", "delete", name) == f"deleted topic {name}\n"
    refused = cli.refusal("topic", "delete", name)
    assert "does not exist; see which there are with: millpond topic list" in refused
    assert "create" not in refused
    assert cli.json("topic", "delete", cli.topic())[0]["deleted"] is True


def test_what_the_broker_refuses_is_one_line_and_exit_1(cli: Cli) -> None:
    name = cli.topic()
    assert "did you mean retention_ms?" in cli.refusal("topic", "create", "x", "--config", "retention_m=1")
    assert "ask for fewer with --replicas" in cli.refusal("topic", "create", "x", "--replicas", "2")
    assert "'a b'" in cli.refusal("topic", "create", "a b")
    assert "partitions" in cli.refusal("topic", "alter", cli.topic("--partitions", "2"), "--partitions", "1")
    assert "not 1" in cli.refusal("topic", "trim", name, "--before", "1")
    assert "not 9" in cli.refusal("topic", "trim", name, "--before", "0", "--partition", "9")
    assert "does not exist" in cli.refusal("topic", "describe", "nowhere")


def test_brokers_are_exactly_the_objects_of_the_contract(cli: Cli) -> None:
    (broker,) = cli.json("cluster", "brokers")
    assert list(broker) == ["id", "address", "rack", "state", "controller", "epoch", "version"]
    assert broker | {"epoch": 0} == {
        "id": 1,
        "address": cli.bootstrap,
        "rack": "",
        "state": "running",
        "controller": True,
        "epoch": 0,
        "version": millpond.__version__,
    }
    header, row = cli.text("cluster", "brokers").splitlines()
    assert header.split() == ["ID", "ADDRESS", "RACK", "STATE", "CONTROLLER", "EPOCH", "VERSION"]
    assert row.split()[:5] == ["1", cli.bootstrap, "-", "running", "yes"]


def test_the_status_of_a_sound_cluster_has_nothing_amiss(cli: Cli) -> None:
    cli.topic()
    (status,) = cli.json("cluster", "status")
    assert (status["controller"], status["brokers"], status["brokers_running"]) == (1, 1, 1)
    assert status["topics"] >= 1
    assert not status["without_leader"] + status["under_replicated"] + status["under_min_insync"]
    assert (status["healthy"], status["problems"]) == (True, [])
    text = cli.text("cluster", "status")
    assert text.startswith("healthy:            yes\n")
    assert "under replicated:   0\n" in text


def test_an_option_on_the_line_goes_before_the_environment(cli: Cli) -> None:
    assert "127.0.0.1:1" in cli.refusal("topic", "ls", "-b", "127.0.0.1:1", "--timeout", "0.2")
    several = f"127.0.0.1:1,{cli.bootstrap}"
    assert json.loads(cli.text("cluster", "brokers", "-b", several, "-o", "json"))["id"] == 1


def test_a_name_that_is_no_text_is_a_usage_error(cli: Cli) -> None:
    for words in (["topic", "describe"], ["topic", "create"], ["consume"], ["produce"]):
        assert "is not UTF-8" in cli.refusal(*words, "a\udcff", status=2)
