"""LocalCluster with three real brokers: they found a cluster, and are one through kills and restarts."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millpond._local import configuring
from millpond._local.ports import free_ports
from millpond.errors import BrokerNotReady, InternalError, InvalidConfig, OperationTimeout
from millpond.testing import LocalCluster
from tests.unit.embedded.leaks import nothing_left_behind

READY_SECONDS_MAX = 60.0


@pytest.fixture(autouse=True)
async def leaves_nothing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[None]:
    """No process, descriptor or directory; async, so that the session's event loop is there before."""
    before, where = tempfile.tempdir, tmp_path_factory.mktemp("temporary")
    tempfile.tempdir = str(where)
    with nothing_left_behind():
        yield
    tempfile.tempdir = before
    assert not list(where.iterdir())


async def test_three_brokers_found_a_cluster_and_are_ready_within_seconds() -> None:
    began = time.monotonic()
    async with LocalCluster(brokers=3) as cluster, cluster.client() as client:
        took = time.monotonic() - began
        cluster.wait_ready()
        assert len(cluster.bootstrap.split(",")) == 3
        assert sorted(broker.id for broker in await client.admin.brokers()) == [1, 2, 3]
        assert (cluster.data_dir / "secret").stat().st_mode & 0o777 == 0o600
        await client.admin.create_topic("spread", partitions=6, replicas=1)
        assert {cluster.leader("spread", number) for number in range(6)} == {0, 1, 2}
    assert took < 30, "about two where nothing else runs"


async def test_a_killed_broker_comes_back_to_the_others() -> None:
    async with LocalCluster(brokers=3) as cluster, cluster.client() as client:
        await client.admin.create_topic("before", partitions=3, replicas=1)
        leaders = [cluster.leader("before", number) for number in range(3)]
        for i in range(3):
            cluster.kill(i)
            await client.admin.create_topic(f"without-{i}", replicas=1)
            with pytest.raises(BrokerNotReady, match=f"broker {i} does not run"):
                cluster.wait_ready(timeout=1)
            await cluster.aio.restart(i)
            await cluster.aio.wait_ready()
        assert [cluster.leader("before", number) for number in range(3)] == leaders
        names = {topic.name for topic in await client.admin.list_topics()}
        assert {"before", "without-0", "without-1", "without-2"} <= names


async def test_a_cluster_survives_the_death_of_all_its_brokers() -> None:
    async with LocalCluster(brokers=3) as cluster:
        before = cluster.bootstrap
        async with cluster.client() as client:
            await client.admin.create_topic("kept", replicas=1)
        for i in range(3):
            cluster.kill(i)
        await cluster.aio.restart(2, 0, 1)
        cluster.wait_ready()
        assert cluster.bootstrap == before
        async with cluster.client() as client:
            assert [topic.name for topic in await client.admin.list_topics()] == ["kept"]
            await client.admin.create_topic("later", replicas=1)


async def test_a_paused_broker_is_missed_by_nobody_else_and_comes_back() -> None:
    async with LocalCluster(brokers=3) as cluster, cluster.client() as client:
        cluster.pause(0)
        async with asyncio.timeout(60):
            while {broker.id: broker.state for broker in await client.admin.brokers()}[1] != "fenced":
                await asyncio.sleep(0.1)
        await client.admin.create_topic("meanwhile", replicas=1)
        assert cluster.leader("meanwhile", timeout=30) in {1, 2}
        cluster.resume(0)
        await cluster.aio.wait_ready()


async def test_a_clean_stop_of_one_after_the_other_ends_with_status_0() -> None:
    async with LocalCluster(brokers=3) as cluster:
        for i in (1, 0, 2):
            await cluster.aio.stop(i)
        assert all('"event": "stopped"' in cluster.logs(i) for i in range(3))


def test_a_wiped_disk_under_an_old_id_is_refused_in_one_line() -> None:
    with LocalCluster(brokers=3) as cluster:
        cluster.kill(1)
        shutil.rmtree(cluster.data_dir / "broker-2" / "data")
        with pytest.raises(InternalError, match="ended with status 1"):
            cluster.restart(1)
        said = [line for line in cluster.logs(1).splitlines() if line.startswith("millpond broker:")]
        assert len(said) == 1
        assert "broker 2" in said[0]
        assert "a broker with a new disk needs a new id" in said[0]
        for i in (0, 2):
            assert cluster._broker(i).pid is not None, "the others go on"


def test_one_that_waits_for_the_others_to_found_a_cluster_can_be_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with LocalCluster(brokers=3, data_dir=tmp_path) as cluster:
        monkeypatch.setattr("millpond.testing.cluster.START_SECONDS_MAX", 1.5)
        cluster.kill(1)
        cluster.kill(2)
        cluster.stop(0)
        for i in range(3):
            shutil.rmtree(cluster.data_dir / f"broker-{i + 1}" / "data")
        with pytest.raises(OperationTimeout):
            cluster.restart(0)
        broker = cluster._broker(0)
        broker.launch()
        waiting = cluster.logs(0).count("founding_begins")
        while cluster.logs(0).count("founding_begins") == waiting:
            time.sleep(0.01)
        cluster.stop(0)


def test_a_given_directory_is_found_again_with_as_many_brokers(tmp_path: Path) -> None:
    with LocalCluster(brokers=3, data_dir=tmp_path):
        pass
    identities = [(tmp_path / f"broker-{n}" / "data" / "identity").read_bytes() for n in (1, 2, 3)]
    for brokers in (1, 2, 4):
        with pytest.raises(InvalidConfig, match="a cluster of 3"), LocalCluster(brokers, data_dir=tmp_path):
            pass
    with LocalCluster(brokers=3, data_dir=tmp_path) as cluster:
        cluster.wait_ready()
    (tmp_path / "broker-2").rename(tmp_path / "lost")
    configured = (tmp_path / "broker-1" / "broker.toml").read_bytes()
    with pytest.raises(InvalidConfig, match="a cluster of 3"), LocalCluster(brokers=2, data_dir=tmp_path):
        pass
    assert (tmp_path / "broker-1" / "broker.toml").read_bytes() == configured
    (tmp_path / "lost").rename(tmp_path / "broker-2")
    assert identities == [(tmp_path / f"broker-{n}" / "data" / "identity").read_bytes() for n in (1, 2, 3)]


def test_ports_that_somebody_else_took_are_exchanged_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answers = [[*free_ports(7), port, *free_ports(1)], [port, *free_ports(8)]]
        monkeypatch.setattr(
            configuring, "free_ports", lambda count: answers.pop() if answers else free_ports(count)
        )
        with LocalCluster(brokers=3) as cluster:
            assert not answers
            cluster.wait_ready()


async def test_some_of_the_brokers_vote_and_a_directory_may_have_had_fewer_of_them(tmp_path: Path) -> None:
    for voters in (0, 3):
        with pytest.raises(InvalidConfig) as refused:
            LocalCluster(brokers=2, voters=voters)
        assert refused.value.key == "voters"
    async with LocalCluster(brokers=1, data_dir=tmp_path) as cluster, cluster.client() as client:
        await client.admin.create_topic("kept")
    async with LocalCluster(brokers=2, voters=1, data_dir=tmp_path) as cluster, cluster.client() as client:
        assert [(broker.id, broker.voter) for broker in await client.admin.brokers()] == [
            (1, True),
            (2, False),
        ]
        assert [topic.name for topic in await client.admin.list_topics()] == ["kept"]
    with pytest.raises(InvalidConfig, match="has a cluster of 1, not 2"):
        await LocalCluster(brokers=2, data_dir=tmp_path).__aenter__()
