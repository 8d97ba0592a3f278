"""`millpond up`: real brokers in the foreground, kept running, stopped, and never left behind."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from millpond._local.examining import LOCK
from millpond._local.ports import free_ports, is_taken
from tests.integration.cli.conftest import COMMAND, DEADLINE_S, Cli


class Up:
    """A running `millpond up -o json`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.ready: dict[str, Any] = {}

    def comes_up(self) -> None:
        """Until it is ready."""
        self.event("starting")
        self.ready = self.event("ready")

    def any_event(self) -> dict[str, Any]:
        """The next event."""
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def event(self, name: str) -> dict[str, Any]:
        """The next event, which is to be of that name."""
        found = self.any_event()
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
def up(where: Path, *words: str, waits: bool = False) -> Iterator[Up]:
    """One that is ready, unless it `waits` for something first; its logs are in `where`/err. Killed with the
    block, unless it has ended.
    """
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
            if not waits:
                one.comes_up()
            yield one
        finally:
            process.kill()


def row_of_ports() -> int:
    """The first of those that three brokers have, all free: ten apart, three of each."""
    while True:
        first = free_ports(1)[0]
        row = [first + 10 * broker + offset for broker in range(3) for offset in range(3)]
        if not any(is_taken(f"127.0.0.1:{port}") for port in row):
            return first


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def pause(pid: int) -> None:
    """SIGSTOP; it has stopped when this returns. A signal is only on its way when `kill` returns."""
    os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + DEADLINE_S
    while Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "T":
        assert time.monotonic() < until, "it does not stop"
        time.sleep(0.002)


@contextmanager
def held(pid: int) -> Iterator[None]:
    """It stays stopped, whoever has it go on."""
    is_over = threading.Event()

    def hold() -> None:
        with suppress(ProcessLookupError):
            while not is_over.wait(0.001):
                os.kill(pid, signal.SIGSTOP)

    holding = threading.Thread(target=hold)
    pause(pid)
    holding.start()
    try:
        yield
    finally:
        is_over.set()
        holding.join()


def wait_until_gone(pids: list[int]) -> None:
    until = time.monotonic() + DEADLINE_S
    while any(map(runs, pids)):
        assert time.monotonic() < until, "a broker was left behind"
        time.sleep(0.02)


def wait_until_there(where: Path, pattern: str, count: int = 1) -> None:
    """Until so many files of a directory are there."""
    until = time.monotonic() + DEADLINE_S
    while len(list(where.glob(pattern))) < count:
        assert time.monotonic() < until, pattern
        time.sleep(0.002)


def refused(where: Path, *words: str, status: int = 1) -> str:
    """The one line with which it failed; whatever is in `where` is as it was before, but for the lock."""
    before = contents(where)
    done = subprocess.run(
        [*COMMAND, "up", *words], capture_output=True, text=True, cwd=where, check=False, timeout=DEADLINE_S
    )
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("millpond: "))
    assert "Traceback" not in done.stderr
    assert contents(where) == before
    return line


def contents(where: Path) -> dict[str, bytes | None]:
    found = (path for path in where.rglob("*") if path.name != LOCK)
    return {str(path): path.read_bytes() if path.is_file() else None for path in found}


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
    first = row_of_ports()
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
    port = row_of_ports() + 11
    with socket.create_server(("127.0.0.1", port)):
        line = refused(tmp_path, "--port", str(port - 11))
        assert not list(tmp_path.iterdir()), "nothing was made for a cluster that cannot start"
        assert refused(tmp_path, "--ephemeral", "--port", str(port - 11)) == line
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
        with held(one.pid(1)):  # it is let go on, to stop
            one.process.send_signal(signal.SIGINT)
            one.event("stopping")
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
    first = row_of_ports()
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
        pause(one.pid(1))
        one.process.kill()
        wait_until_gone([one.pid(number) for number in (1, 2, 3)])
    (left,) = tmp_path.glob("millpond-up-*")
    with up(tmp_path, "--ephemeral", "--brokers", "1", "--port", "0") as one:
        assert not left.exists()
        one.end()


@pytest.mark.parametrize(
    ("number", "pattern"),
    [
        (signal.SIGINT, "up.lock"),
        (signal.SIGTERM, "broker-1/log"),
        (signal.SIGINT, "broker-*/data/identity"),
        (signal.SIGHUP, "broker-*/data/metadata"),
    ],
)
def test_ctrl_c_while_it_starts_stops_what_has_begun(
    number: signal.Signals, pattern: str, tmp_path: Path
) -> None:
    """Whatever its brokers are at: Python's own start, the ports, the founding."""
    with up(tmp_path, "--ephemeral", "--port", "0", waits=True) as one:
        one.event("starting")
        wait_until_there(tmp_path, f"millpond-up-*/{pattern}")
        brokers = children(one.process.pid)
        assert one.end(number) in (["stopping", "stopped"], ["ready", "stopping", "stopped"])
        wait_until_gone(brokers)
    assert [path.name for path in tmp_path.iterdir()] == ["err"], "the temporary directory is gone"


def children(pid: int) -> list[int]:
    found = (task / "children" for task in Path(f"/proc/{pid}/task").iterdir())
    return [int(child) for path in found for child in path.read_text().split()]


def test_a_signal_before_there_is_an_event_loop_is_kept_for_it(tmp_path: Path) -> None:
    """From the moment at which there is something to put away."""
    script = (
        "import os, signal, sys, tempfile; from millpond._local import home; from millpond.cli import main;"
        "made = tempfile.mkdtemp;"
        "home.tempfile.mkdtemp = lambda **words: (os.kill(os.getpid(), int(sys.argv[1])), made(**words))[1];"
        "sys.exit(main(['up', '--ephemeral', '--port', '0', '-o', 'json']))"
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        done = subprocess.run(
            [sys.executable, "-c", script, str(int(number))],
            env=os.environ | {"TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        events = [json.loads(line)["event"] for line in done.stdout.splitlines()]
        assert (done.returncode, events[-2:]) == (0, ["stopping", "stopped"]), done.stderr
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("cluster.json", 1),
        ("broker-*/broker.toml", 1),
        ("broker-*/log", 3),
        ("broker-*/data/identity", 1),
        ("broker-*/data/metadata", 1),
        ("broker-*/data/metadata", 3),
    ],
)
def test_a_start_that_was_ended_at_any_instant_is_completed_by_the_next(
    pattern: str, count: int, tmp_path: Path
) -> None:
    """By as many, or, before anybody has metadata, by as many as are asked for then."""
    kept = tmp_path / "millpond-data"
    with up(tmp_path, "--port", "0", waits=True) as one:
        wait_until_there(kept, pattern, count)
        one.process.kill()
    with up(tmp_path, "--port", "0", waits=True) as one:
        while (ready := one.any_event())["event"] != "ready":
            assert ready["event"] in ("waiting", "starting")
        assert len(Cli(ready["bootstrap"]).json("cluster", "brokers")) == 3
        one.end()


def test_a_start_that_was_ended_before_there_were_data_does_not_fix_their_number(tmp_path: Path) -> None:
    for kept in (tmp_path / f"kept-{number}" for number in range(10)):  # who looks late finds metadata
        with up(tmp_path, "--port", "0", "--data", kept.name, waits=True) as one:
            one.event("starting")
            wait_until_there(kept, "broker-1/data/identity")
            one.process.send_signal(signal.SIGSTOP)  # it is not to end them itself meanwhile
            for broker in (brokers := children(one.process.pid)):
                os.kill(broker, signal.SIGKILL)
            one.process.kill()
        wait_until_gone(brokers)
        if not list(kept.glob("broker-*/data/metadata")):
            break
    else:
        pytest.fail("it was never looked at in time")
    words = ("--port", "0", "--data", kept.name, "--brokers", "1")
    assert "none has metadata: remove broker-2, broker-3" in refused(tmp_path, *words)
    for number in (2, 3):
        shutil.rmtree(kept / f"broker-{number}")
    with up(tmp_path, *words) as one:
        assert len(one.ready["brokers"]) == 1
        one.end()


def test_a_cluster_does_not_become_smaller_by_losing_a_directory(tmp_path: Path) -> None:
    words = ("--data", "kept", "--port", "0")
    with up(tmp_path, *words) as one:
        Cli(one.ready["bootstrap"]).run("topic", "create", "orders")
        one.end()
    (tmp_path / "kept" / "broker-2").rename(tmp_path / "away")
    line = refused(tmp_path, *words)
    assert "kept: has a cluster of 3, and broker-2 is missing: put it back" in line
    assert "docs/operations.md" in line
    assert "kept has a cluster of 3, not 2" in refused(tmp_path, *words, "--brokers", "2")
    (tmp_path / "away").rename(tmp_path / "kept" / "broker-2")
    with up(tmp_path, *words) as one:
        assert [topic["name"] for topic in Cli(one.ready["bootstrap"]).json("topic", "list")] == ["orders"]
        one.end()


def test_a_directory_that_was_made_before_there_were_records_is_taken_over(tmp_path: Path) -> None:
    words = ("--data", "kept", "--port", "0")
    with up(tmp_path, *words) as one:
        one.end()
    record = tmp_path / "kept" / "cluster.json"
    before = record.read_text()
    record.unlink()
    shutil.move(tmp_path / "kept" / "broker-3", tmp_path / "away")
    assert "broker-3 is missing" in refused(tmp_path, *words)
    shutil.move(tmp_path / "away", tmp_path / "kept" / "broker-3")
    with up(tmp_path, *words) as one:
        one.end()
    assert record.read_text() == before


def test_what_is_not_a_directory_of_its_own_is_refused(tmp_path: Path) -> None:
    assert "'' is no directory" in refused(tmp_path, "--data", "", status=2)
    (tmp_path / "notes.txt").touch()
    assert "it holds other files, 'notes.txt' for one" in refused(tmp_path, "--data", ".")


def test_the_brokers_of_a_run_that_was_killed_are_waited_for(tmp_path: Path) -> None:
    words = ("--data", "kept", "--brokers", "1", "--port", str(row_of_ports()))
    with up(tmp_path, *words) as one:
        one.process.kill()
    with up(tmp_path, *words, waits=True) as one:
        if (first := one.any_event())["event"] == "waiting":
            assert first["brokers"] == [1]
            one.event("starting")
        one.event("ready")
        one.end()
    # One that takes its time, and one that does not stop before Ctrl-C.
    with (tmp_path / "kept" / "broker-1" / "log").open() as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        with up(tmp_path, *words, waits=True) as one:
            assert one.event("waiting")["brokers"] == [1]
            assert one.end() == ["stopping", "stopped"]
        with up(tmp_path, *words, waits=True) as one:
            one.event("waiting")
            fcntl.flock(log, fcntl.LOCK_UN)
            one.comes_up()
            one.end()
    with (tmp_path / "kept" / "broker-1" / "data" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "is in use by a broker that was started by itself" in refused(tmp_path, *words)


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
