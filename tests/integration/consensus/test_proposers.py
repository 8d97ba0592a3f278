"""A broker as one of several: its metadata log proposes barriers, and the broker everything else."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from millpond_broker.config import load
from millpond_broker.observe.metrics import BrokerMetrics
from millpond_broker.others import Others
from millpond_broker.runtime.broker import Broker
from millpond_broker.runtime.ports import DiskThread, SystemClock
from millpond_broker.storage.files import OsFiles
from tests.integration.broker.serving import OPTIONS

SECONDS_MAX = 30.0


def new_id() -> bytes:
    return uuid.uuid4().bytes


@pytest.fixture
async def founder(tmp_path: Path) -> AsyncIterator[Broker]:
    """One that founded a cluster to which others may come."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 32)
    secret.chmod(0o600)
    settings = {
        "broker.id": "1",
        "broker.data_dir": str(tmp_path / "data"),
        "cluster.peer_listen": "127.0.0.1:0",
        "cluster.secret_file": str(secret),
    }
    disk, syncs = DiskThread("disk"), DiskThread("syncs")
    others = Others(load(None, {}, settings), secret, disk, new_id)
    broker = Broker(
        replace(OPTIONS, data_dir=tmp_path / "data"),
        OsFiles(),
        syncs=syncs,
        disk=disk,
        clock=SystemClock(),
        metrics=BrokerMetrics(),
        new_id=new_id,
        streams=others.streams,
        open_metadata=others.open_metadata,
        answer_found=others.answer_found,
        voter_seat=others,
    )
    is_ready, stopping = asyncio.Event(), asyncio.Event()
    async with asyncio.timeout(SECONDS_MAX):
        running = asyncio.create_task(broker.run("127.0.0.1:1", is_ready.set, stopping))
        await is_ready.wait()
    yield broker
    stopping.set()
    await running
    disk.close()
    syncs.close()


async def test_what_a_broker_proposes_is_never_taken_for_a_barrier_of_its_log(founder: Broker) -> None:
    """Each numbers its own from 1. Under one name, what has the number of a barrier before it would be told
    what that one gave, as the same proposal made again, and not be done.
    """
    metadata = founder._metadata
    assert metadata is not None
    for _ in range(50):
        await metadata.log.barrier(SECONDS_MAX)
    for number in range(10):
        name = f"topic-{number}"
        topic, _ = await founder.topics().create(
            name, partitions=1, replicas=None, min_insync=None, config={}
        )
        assert metadata.image.topic_ids[name] == topic.topic_id
