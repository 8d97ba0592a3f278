"""`millpond broker` is a broker in the foreground."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

from tests.integration.cli.conftest import Cli

CONFIG = """
[broker]
id = 7
data_dir = "{data}"
listen = "127.0.0.1:0"
[cluster]
peer_listen = "127.0.0.1:0"
[http]
listen = "127.0.0.1:0"
"""


def test_it_says_when_it_is_ready_serves_and_ctrl_c_stops_it_cleanly(tmp_path: Path) -> None:
    config = tmp_path / "broker.toml"
    config.write_text(CONFIG.format(data=tmp_path / "data"))
    nowhere = Cli("127.0.0.1:1")
    with nowhere.start("broker", "--config", str(config)) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert (ready["event"], ready["broker"]) == ("ready", 7)
        cli = Cli(ready["client"])
        assert [broker["id"] for broker in cli.json("cluster", "brokers")] == [7]
        process.send_signal(signal.SIGINT)
        rest, log = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, b"")
    assert b"Traceback" not in log


def test_one_that_is_alone_with_a_secret_serves_peers_and_says_where(tmp_path: Path) -> None:
    secret, config = tmp_path / "secret", tmp_path / "broker.toml"
    secret.touch(mode=0o600)
    secret.write_text("s" * 32)
    settings = f'[cluster]\nsecret_file = "{secret}"'
    config.write_text(CONFIG.format(data=tmp_path / "data").replace("[cluster]", settings))
    for _ in range(2):
        with Cli("127.0.0.1:1").start("broker", "--config", str(config)) as process:
            assert process.stdout is not None
            host, _, port = json.loads(process.stdout.readline())["peer"].rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        assert process.returncode == 0


def test_a_secret_that_is_not_there_is_one_line_and_exit_2(tmp_path: Path) -> None:
    config = tmp_path / "broker.toml"
    settings = f'[cluster]\nsecret_file = "{tmp_path / "none"}"'
    config.write_text(CONFIG.format(data=tmp_path / "data").replace("[cluster]", settings))
    line = Cli("127.0.0.1:1").refusal("broker", "--config", str(config), status=2)
    assert "cluster.secret_file" in line
    assert not (tmp_path / "data").exists()


def test_a_configuration_that_cannot_be_read_is_one_line_and_exit_2(tmp_path: Path) -> None:
    line = Cli("127.0.0.1:1").refusal("broker", "--config", str(tmp_path / "none.toml"), status=2)
    assert "none.toml" in line
