"""The broker as a process: what it prints, how it ends, and what it says when it cannot start."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SECONDS_MAX = 30


def configured(directory: Path, **settings: str) -> Path:
    """A configuration file with free ports."""
    path = directory / "broker.toml"
    broker = {"data_dir": str(directory / "data"), "listen": "127.0.0.1:0"} | settings
    lines = "\n".join(f'{key} = "{value}"' for key, value in broker.items())
    path.write_text(f'[broker]\nid = 1\n{lines}\n[http]\nlisten = "127.0.0.1:0"\n')
    return path


@contextmanager
def running(config: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A broker that is ready, and what it said; killed behind the block if it is still there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "millpond_broker", "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def refused(*arguments: str) -> tuple[int, str]:
    """Exit status and what is on stderr, of a broker that should not start."""
    done = subprocess.run(
        [sys.executable, "-m", "millpond_broker", *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with running(configured(tmp_path)) as (process, ready):
        assert ready["event"] == "ready"
        assert ready["broker"] == 1
        process.send_signal(number)
        out, err = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 0
    assert out == "", "one line on stdout, and no more"
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert events == ["ready", "stopped"]


def test_health_and_metrics_are_served_over_http(tmp_path: Path) -> None:
    with running(configured(tmp_path)) as (_, ready):
        for path, part in (("healthz", "alive"), ("readyz", "running"), ("metrics", "millpond_syncs_total")):
            with urllib.request.urlopen(f"http://{ready['http']}/{path}", timeout=SECONDS_MAX) as answer:
                assert answer.status == 200
                assert part in answer.read().decode()


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with running(configured(tmp_path)) as (_, ready):
        (tmp_path / "other").mkdir()
        status, err = refused("--config", str(configured(tmp_path / "other", listen=ready["client"])))
    assert status == 2
    assert "broker.listen" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_directory_in_use_is_named(tmp_path: Path) -> None:
    config = configured(tmp_path)
    with running(config):
        status, err = refused("--config", str(config))
    assert status == 1
    assert "in use" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_configuration_that_means_nothing_is_named(tmp_path: Path) -> None:
    status, err = refused("--config", str(configured(tmp_path, lisen="127.0.0.1:1")))
    assert status == 2
    assert err.splitlines() == [err.strip()], "one line"
    assert "broker.lisen" in err
    assert "did you mean" in err


def test_it_starts_again_after_a_kill(tmp_path: Path) -> None:
    config = configured(tmp_path)
    with running(config) as (process, _):
        process.kill()
        process.wait(SECONDS_MAX)
    with running(config) as (process, _):
        process.terminate()
        assert process.wait(SECONDS_MAX) == 0
