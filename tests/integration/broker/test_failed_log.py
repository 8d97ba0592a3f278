"""Logs that fail or fill up while something else is under way: who is answered, in which epoch they go on."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from millpond.v1 import admin_pb2, produce_pb2
from millpond_broker.core.leader import Reign
from millpond_broker.runtime.partition import Partition
from millpond_broker.storage.log import Log
from tests.integration.broker.raw import RawClient, batch, code_of
from tests.integration.broker.serving import OPTIONS, serving
from tests.integration.broker.test_lifecycle import used_bytes
from tests.sim.disk import SimFiles

NO_UPKEEP = replace(OPTIONS, upkeep_seconds=1000.0)
"""Whatever is answered is answered by the event itself, not by the next round of upkeep."""


async def test_a_refused_append_answers_what_waited_for_an_earlier_one() -> None:
    """A refused append syncs the log, to take its bytes back: the syncer then finds nothing to sync, and the
    batch before it is as durable as any.
    """
    disk = SimFiles(Random(8))
    async with (
        serving(Path("/data"), files=disk, options=NO_UPKEEP) as served,
        RawClient(served.address) as client,
    ):
        topic = await client.create_topic("full")
        await client.send(topic, batch([b"kept"]))
        disk.capacity_bytes = used_bytes(disk, Path("/")) + 10_000
        stream = client.produce()
        items = [
            produce_pb2.ProduceBatch(id=1, topic_id=topic, batch=batch([b"small"])),
            produce_pb2.ProduceBatch(id=2, topic_id=topic, batch=batch([b"x" * 50_000])),
        ]
        await stream.write(produce_pb2.ProduceRequest(acks=produce_pb2.ACKS_ALL, batches=items))
        answers: dict[int, produce_pb2.ProduceResult] = {}
        async with asyncio.timeout(30):
            while len(answers) < 2:
                answers.update((result.id, result) for result in (await stream.read()).results)
        assert not answers[1].HasField("error")
        assert answers[1].base_offset == 1
        assert code_of(answers[2].error) == "STORAGE_FULL"
        assert served.broker.unanswered_bytes == 0
        assert await client.read(topic, 0, 2) == [b"kept", b"small"]
        await stream.done_writing()


async def test_a_log_that_failed_is_led_again_in_a_later_epoch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 12: the image may be followed for another topic's sake between the failure and the resignation; in
    it this broker still leads, in the epoch in which bytes of the log were lost.
    """
    reigns: list[tuple[int, int]] = []
    lead = Partition.lead

    def noted(partition: Partition, log: Log, reign: Reign) -> None:
        if partition.name.topic == "mended":
            reigns.append((reign.leader_epoch, log.generation))
        lead(partition, log, reign)

    monkeypatch.setattr(Partition, "lead", noted)
    disk = SimFiles(Random(7))
    async with serving(Path("/data"), files=disk) as served, RawClient(served.address) as client:
        other = await client.create_topic("another")
        topic = await client.create_topic("mended")
        await client.send(topic, batch([b"kept"]))
        growing = asyncio.ensure_future(
            client.call(
                "AdminService", "AlterTopic", admin_pb2.AlterTopicRequest(name="another", partitions=2)
            )
        )
        while len(served.broker.metadata().topics[other].partitions) < 2:
            await asyncio.sleep(0)
        served.disk.hold()
        while not served.disk.waiting:  # the new partition's log is being opened
            await asyncio.sleep(0)
        disk.fail_next_sync(Path(f"/data/partitions/mended-0-{topic.hex()}/00000000000000000000.log"))
        (failed,) = await client.send(topic, batch([b"lost"]))
        assert code_of(failed.error) == "STORAGE_FAILED"
        served.disk.release()
        await growing
        result = failed
        while result.HasField("error"):
            assert code_of(result.error) in ("STORAGE_FAILED", "NOT_LEADER", "BROKER_NOT_READY")
            (result,) = await client.send(topic, batch([b"again"]))
        assert result.base_offset == 1
        assert reigns == [(0, 0), (1, 1)], (
            "(epoch, cuts of the log): cut once, and never led in epoch 0 again"
        )
        assert await client.read(topic, 0, 2) == [b"kept", b"again"]
