"""LocalCluster with real brokers: ready within seconds, at the test's mercy, and gone with it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millpond._local import configuring
from millpond._local.ports import free_ports
from millpond.errors import (
    BrokerNotReady,
    ClusterUnavailable,
    InternalError,
    InvalidConfig,
    InvalidRequest,
    OperationTimeout,
    UnknownPartition,
    UnknownTopic,
)
from millpond.testing import LocalCluster
from tests.unit.embedded.leaks import nothing_left_behind


@pytest.fixture(autouse=True)
async def leaves_nothing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[None]:
    """No process, descriptor or directory; async, so that the session's event loop is there before."""
    before, where = tempfile.tempdir, tmp_path_factory.mktemp("temporary")
    tempfile.tempdir = str(where)
    with nothing_left_behind():
        yield
    tempfile.tempdir = before
    assert not list(where.iterdir())


def get(address: str, path: str) -> tuple[int, str]:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
        return answer.status, answer.read().decode()


def test_a_broker_is_ready_in_about_a_second_and_answers_on_all_its_ports() -> None:
    began = time.monotonic()
    with LocalCluster() as cluster:
        took = time.monotonic() - began
        host, _, port = cluster.bootstrap.rpartition(":")
        socket.create_connection((host, int(port)), timeout=10).close()
        assert get(cluster.http_address(), "/readyz")[0] == 200
        assert "millpond_records_in_total 0.0" in get(cluster.http_address(), "/metrics")[1]
        events = [json.loads(line)["event"] for line in cluster.logs(0).splitlines()]
        assert "ready" in events
    assert took < 30, "about one where nothing else runs"


async def test_it_works_the_same_in_a_coroutine_with_a_client() -> None:
    async with LocalCluster() as cluster, cluster.client(client_id="test") as client:
        await client.admin.create_topic("orders", partitions=2)
        assert cluster.leader("orders", 1) == 0
        _, metrics = get(cluster.http_address(), "/metrics")
        assert 'millpond_log_end_offset{topic="orders",partition="1"} 0' in metrics
        with pytest.raises(UnknownTopic):
            cluster.leader("none")
        with pytest.raises(UnknownPartition):
            cluster.leader("orders", 2)
        await cluster.aio.restart(0)
        await cluster.aio.wait_ready(timeout=10)
        assert cluster.leader("orders", 0) == 0
        assert (await client.admin.describe_topic("orders", timeout=30)).name == "orders"
        await cluster.aio.stop(0)


async def test_addresses_and_topics_survive_kill_and_restart() -> None:
    with LocalCluster() as cluster:
        before = cluster.bootstrap, cluster.http_address()
        async with cluster.client() as client:
            await client.admin.create_topic("kept")
        cluster.kill(0)
        with pytest.raises(BrokerNotReady, match="broker 0 does not run"):
            cluster.wait_ready(timeout=1)
        with pytest.raises(BrokerNotReady):
            cluster.leader("kept")
        cluster.kill(0)
        cluster.restart(0)
        assert (cluster.bootstrap, cluster.http_address()) == before
        assert cluster.leader("kept") == 0
        cluster.restart(0)
        cluster.stop(0)
        cluster.stop(0)
        assert cluster.logs(0).count('"event": "stopped"') == 2


def test_a_paused_broker_answers_nothing_until_it_is_resumed() -> None:
    with LocalCluster() as cluster:
        cluster.pause(0)
        with pytest.raises(OperationTimeout, match="until broker 0 is ready"):
            cluster.wait_ready(timeout=0.3)
        with pytest.raises(ClusterUnavailable):
            cluster.leader("orders", timeout=0.3)
        cluster.resume(0)
        cluster.wait_ready(timeout=10)
        cluster.pause(0)  # and left like that: leaving the block ends it all the same


def test_a_given_directory_is_kept_and_found_again(tmp_path: Path) -> None:
    where = tmp_path / "deep" / "cluster"
    with LocalCluster(data_dir=where) as cluster:
        assert cluster.data_dir == where
        with pytest.raises(InternalError, match="in use"), LocalCluster(data_dir=where):
            pass
        cluster.wait_ready()
    identity = (where / "broker-1" / "data" / "identity").read_bytes()
    with LocalCluster(data_dir=str(where)):
        pass
    assert (where / "broker-1" / "data" / "identity").read_bytes() == identity


async def test_configuration_reaches_the_broker() -> None:
    config = {"limits.batch_bytes_max": 1_000_000, "broker.rack": 'b "7"\\'}
    async with LocalCluster(config=config) as cluster, cluster.client() as client:
        (broker,) = await client.admin.brokers()
        assert broker.rack == 'b "7"\\'


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"limits.batch_bytes_max": "1"}, "limits.batch_bytes_max"),
        ({"limits.batch_byte_max": 1}, "limits.batch_byte_max"),
        ({"broker.listen": "127.0.0.1:1"}, "broker.listen"),
        ({"limits.streams_max": None}, "limits.streams_max"),
        ({"nothing": 1}, "nothing"),
        ({"cluster.voters": ["1@a:1", "2@b:2"]}, "cluster.voters"),
    ],
)
def test_configuration_that_is_wrong_is_refused_before_anything_starts(
    config: dict[str, object], key: str
) -> None:
    with pytest.raises(InvalidConfig) as raised, LocalCluster(config=config):
        pass
    assert raised.value.key == key


@pytest.mark.parametrize("brokers", [0, 8])
def test_what_is_no_number_of_voters_is_refused(brokers: int) -> None:
    with pytest.raises(InvalidConfig) as raised:
        LocalCluster(brokers)
    assert raised.value.key == "brokers"


def test_what_needs_an_open_cluster_and_a_broker_of_it_says_so() -> None:
    cluster = LocalCluster()
    with pytest.raises(InvalidRequest, match="not open"):
        _ = cluster.bootstrap
    with cluster:
        for i in (-1, 1):
            with pytest.raises(InvalidRequest, match=f"no broker {i}"):
                cluster.kill(i)
        with pytest.raises(InvalidRequest, match="open already"):
            cluster.__enter__()
    with pytest.raises(InvalidRequest, match="not open"):
        cluster.stop(0)
    with cluster:
        cluster.wait_ready()


def test_ports_that_somebody_else_took_are_exchanged_at_the_first_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        answers = [[taken.getsockname()[1], *free_ports(2)], [*free_ports(2), taken.getsockname()[1]]]
        monkeypatch.setattr(
            configuring, "free_ports", lambda count: answers.pop() if answers else free_ports(count)
        )
        with LocalCluster() as cluster:
            assert not answers
            assert str(taken.getsockname()[1]) not in cluster.bootstrap
            cluster.wait_ready()


async def test_clusters_can_start_side_by_side() -> None:
    async with LocalCluster() as one, LocalCluster() as other:
        assert one.bootstrap != other.bootstrap


def fail_in_a_block(pids: list[int]) -> None:
    with LocalCluster() as cluster:
        pids.append(cluster._broker(0).pid or 0)
        cluster.pause(0)
        _ = 1 / 0


def test_a_block_that_fails_raises_its_own_error_and_the_broker_is_gone() -> None:
    pids: list[int] = []
    with pytest.raises(ZeroDivisionError):
        fail_in_a_block(pids)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_broker_that_was_killed_from_outside_can_be_restarted() -> None:
    with LocalCluster() as cluster:
        for again in (True, False):
            pid = cluster._broker(0).pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            if again:
                while cluster._broker(0).pid is not None:
                    time.sleep(0.001)
                cluster.restart(0)


def crash_in_a_block() -> None:
    with LocalCluster() as cluster:
        pid = cluster._broker(0).pid
        assert pid is not None
        os.kill(pid, signal.SIGUSR1)  # which ends a process that does not expect it


def test_a_broker_that_failed_by_itself_fails_the_test() -> None:
    with pytest.raises(InternalError, match="broker 0 ended with status -10"):
        crash_in_a_block()


def test_variables_of_the_environment_do_not_change_a_tests_brokers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLPOND_BROKER__LISTEN", "nonsense")
    monkeypatch.setenv("MILLPOND_BOOTSTRAP", "elsewhere:1")
    with LocalCluster() as cluster:
        cluster.wait_ready()


PARENT = """
import sys, time
from millpond.testing import LocalCluster
with LocalCluster(data_dir=sys.argv[1]) as cluster:
    if sys.argv[2] == "paused":
        cluster.pause(0)
    print(cluster._broker(0).pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("how", ["running", "paused"])
def test_no_broker_outlives_a_test_process_that_was_killed(tmp_path: Path, how: str) -> None:
    script = [sys.executable, "-c", PARENT, str(tmp_path / "data"), how]
    with subprocess.Popen(script, stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < until, "it is still there"
        time.sleep(0.01)


def interrupt_in_a_block(where: Path) -> None:
    with LocalCluster(data_dir=where):
        threading.Timer(0.1, signal.pthread_kill, (threading.get_ident(), signal.SIGINT)).start()
        threading.Event().wait(30)


def test_ctrl_c_ends_the_cluster_in_order(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupt_in_a_block(tmp_path)
    assert '"event": "stopped"' in (tmp_path / "broker-1" / "log").read_text()
