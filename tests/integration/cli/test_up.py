"""`millpond up`: real brokers in the foreground, kept running, stopped, and never left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from millpond._local.home import LOCK
from millpond._local.ports import free_ports
from tests.integration.cli.conftest import COMMAND, DEADLINE_S, Cli


class Up:
    """A running `millpond up -o json`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.ready: dict[str, Any] = {}

    def event(self, name: str) -> dict[str, Any]:
        """The next event, which is to be of that name."""
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert found["event"] == name, found
        return found

    def pid(self, broker: int) -> int:
        """Of a broker, counted from 1, as it was at first."""
        return int(self.ready["brokers"][broker - 1]["pid"])

    def end(self, number: signal.Signals = signal.SIGINT, status: int = 0) -> list[str]:
        """End it by a signal; the names of the events until then."""
        self.process.send_signal(number)
        assert self.process.stdout is not None
        names = [json.loads(line)["event"] for line in self.process.stdout]
        assert self.process.wait(DEADLINE_S) == status
        return names


@contextmanager
def up(where: Path, *words: str) -> Iterator[Up]:
    """One that is ready; its logs are in `where`/err. Killed with the block, unless it has ended."""
    with (where / "err").open("ab") as err:
        process = subprocess.Popen(
            [*COMMAND, "up", "-o", "json", *words],
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            cwd=where,
            env=os.environ | {"TMPDIR": str(where)},
        )
    with process:
        one = Up(process)
        try:
            one.event("starting")
            one.ready = one.event("ready")
            yield one
        finally:
            process.kill()


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pids: list[int]) -> None:
    until = time.monotonic() + DEADLINE_S
    while any(map(runs, pids)):
        assert time.monotonic() < until, "a broker was left behind"
        time.sleep(0.02)


def refused(where: Path, *words: str) -> str:
    """The one line with which it failed; nothing was left in a temporary directory."""
    done = subprocess.run(
        [*COMMAND, "up", *words], capture_output=True, text=True, cwd=where, check=False, timeout=DEADLINE_S
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("millpond: "))
    assert "Traceback" not in done.stderr
    return line


def test_three_brokers_serve_one_that_dies_comes_back_and_ctrl_c_stops_all(tmp_path: Path) -> None:
    with up(tmp_path, "--ephemeral", "--port", "0") as one:
        cli = Cli(one.ready["bootstrap"])
        assert [broker["id"] for broker in cli.json("cluster", "brokers")] == [1, 2, 3]
        cli.run("topic", "create", "orders")
        cli.run("produce", "orders", stdin=b"hello\n")
        os.kill(one.pid(2), signal.SIGKILL)
        assert one.event("broker_ended") == {
            "event": "broker_ended",
            "broker": 2,
            "status": -9,
            "restart_in_seconds": 0.5,
        }
        back = one.event("broker_ready")
        assert back["client"] == one.ready["brokers"][1]["client"], "the same ports"
        assert cli.text("consume", "orders") == "hello\n"
        until = time.monotonic() + DEADLINE_S
        while not (status := cli.json("cluster", "status")[0])["healthy"]:
            assert time.monotonic() < until, status
        assert one.end() == ["stopping", "stopped"]
        wait_until_gone([one.pid(1), back["pid"], one.pid(3)])
    assert [path.name for path in tmp_path.iterdir()] == ["err"], "the temporary directory is gone"


def test_the_ports_are_those_of_the_contract_and_the_logs_are_for_people(tmp_path: Path) -> None:
    first = free_ports(1)[0]
    with up(tmp_path, "--ephemeral", "--brokers", "2", "--port", str(first)) as one:
        assert [(broker["client"], broker["peer"], broker["http"]) for broker in one.ready["brokers"]] == [
            tuple(f"127.0.0.1:{first + 10 * number + each}" for each in range(3)) for number in range(2)
        ]
        one.end(signal.SIGTERM)
    lines = (tmp_path / "err").read_text().splitlines()
    assert all(line.startswith(("broker-1 | ", "broker-2 | ")) for line in lines)
    (ready,) = (line for line in lines if line.startswith("broker-2") and " ready broker=2 " in line)
    assert f"client=127.0.0.1:{first + 10}" in ready
    assert "\x1b" not in "".join(lines)


def test_a_directory_is_found_again_by_as_many_brokers_and_one_user_at_a_time(tmp_path: Path) -> None:
    words = ("--data", "kept", "--brokers", "1", "--port", "0")
    with up(tmp_path, *words) as one:
        cli = Cli(one.ready["bootstrap"])
        cli.run("topic", "create", "orders")
        assert "kept is in use by another `millpond up`" in refused(tmp_path, *words)
        one.end()
    with up(tmp_path, "--data", "kept", "--port", "0") as one:
        assert len(one.ready["brokers"]) == 1, "as many as there are"
        assert [topic["name"] for topic in Cli(one.ready["bootstrap"]).json("topic", "list")] == ["orders"]
        one.end()
    line = refused(tmp_path, "--data", "kept", "--brokers", "3")
    assert "has a cluster of 1, not 3" in line


def test_a_port_that_is_taken_is_one_line_with_whose_it_would_have_been(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused(tmp_path, "--ephemeral", "--port", str(port - 11))
    assert f"127.0.0.1:{port}: is taken" in line
    assert "(broker 2, for the other brokers)" in line
    assert "--port" in line


def test_without_restarts_a_broker_that_dies_stays_down_and_the_last_one_ends_it(tmp_path: Path) -> None:
    with up(tmp_path, "--ephemeral", "--brokers", "1", "--port", "0", "--no-restart") as one:
        os.kill(one.pid(1), signal.SIGKILL)
        assert one.event("broker_ended")["restart_in_seconds"] is None
        assert one.process.wait(DEADLINE_S) == 1
    assert "no broker runs any more" in (tmp_path / "err").read_text()


def test_a_second_ctrl_c_kills_what_does_not_stop(tmp_path: Path) -> None:
    with up(tmp_path, "--ephemeral", "--brokers", "1", "--port", "0") as one:
        with socket.create_connection(("127.0.0.1", int(one.ready["bootstrap"].rpartition(":")[2]))):
            os.kill(one.pid(1), signal.SIGSTOP)
            one.process.send_signal(signal.SIGINT)
            one.event("stopping")
            os.kill(one.pid(1), signal.SIGSTOP)  # it had been let go on, to stop
            assert one.end(status=130) == ["killed"]
        wait_until_gone([one.pid(1)])


def test_without_a_broker_the_status_says_which_and_what_to_do(tmp_path: Path) -> None:
    with up(tmp_path, "--ephemeral", "--port", "0", "--no-restart") as one:
        cli = Cli(one.ready["bootstrap"])
        cli.run("topic", "create", "orders")
        os.kill(one.pid(3), signal.SIGKILL)
        one.event("broker_ended")
        until = time.monotonic() + DEADLINE_S
        names: set[str] = set()
        while not {"not_running", "under_replicated"} <= names:
            assert time.monotonic() < until, names
            (status,) = cli.json("cluster", "status")
            names = {problem["problem"] for problem in status["problems"]}
            assert status["healthy"] == (not names - {"not_preferred"})
        text = cli.text("cluster", "status")
        assert "1 broker not running: broker 3 (fenced, " in text
        assert ": connection refused)" in text
        assert "3 partitions with fewer replicas in sync than they have: orders/0, orders/1, orders/2" in text
        one.end()


def test_the_other_ports_of_a_broker_are_told_by_what_they_are(tmp_path: Path) -> None:
    first = free_ports(1)[0]
    with up(tmp_path, "--ephemeral", "--brokers", "2", "--port", str(first)) as one:
        cli = Cli(one.ready["bootstrap"])
        for port, is_what in ((first + 1, "it speaks gRPC, but is no port"), (first + 2, "it speaks HTTP: ")):
            began = time.monotonic()
            line = cli.refusal("topic", "list", "-b", f"127.0.0.1:{port}", "--timeout", str(DEADLINE_S))
            assert time.monotonic() - began < DEADLINE_S / 2, "it will never be another port"
            assert is_what in line
            assert f"try -b 127.0.0.1:{first}" in line
        one.end()


def test_brokers_do_not_outlive_one_that_is_killed_and_the_next_tidies_up(tmp_path: Path) -> None:
    with up(tmp_path, "--ephemeral", "--port", "0") as one:
        os.kill(one.pid(1), signal.SIGSTOP)
        one.process.kill()
        wait_until_gone([one.pid(number) for number in (1, 2, 3)])
    (left,) = tmp_path.glob("millpond-up-*")
    os.utime(left / LOCK, (0, 0))  # long ago
    with up(tmp_path, "--ephemeral", "--brokers", "1", "--port", "0") as one:
        assert not left.exists()
        one.end()


def test_ctrl_c_while_it_starts_ends_it_with_130(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "up", "--ephemeral", "--port", "0", "-o", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    with process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "starting"
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130
    assert not list(tmp_path.iterdir())


def test_for_people_it_says_how_to_reach_it(tmp_path: Path) -> None:
    words = ["up", "--ephemeral", "--brokers", "1", "--port", "0"]
    with subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            assert ready.startswith("ready: 1 broker at 127.0.0.1:")
            address = ready.split()[-1]
            rest = [process.stdout.readline() for _ in range(3)]
            assert f"  millpond topic create orders -b {address}\n" in rest
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
    assert (process.returncode, out) == (0, "")
    assert err.startswith("millpond up: starting 1 broker, data in ")
    assert err.endswith("millpond up: stopped\n")


def test_the_command_needs_neither_pytest_nor_grpc_to_be_looked_up() -> None:
    script = (
        "import sys; from millpond.cli import main; main(['up', '--help']);"
        "print(*sorted({'pytest', 'grpc', 'millpond.testing', 'rich'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=60)
    assert done.stderr == b"\n"
