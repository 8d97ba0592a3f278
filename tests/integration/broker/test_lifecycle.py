"""Starting, stopping, starting again, and disks that fail: what clients are told, and what is kept."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import grpc
import pytest

from millpond.v1 import metadata_pb2, produce_pb2
from millpond.wire.batch import Producer
from millpond.wire.errors import DirectoryInUse
from tests.integration.broker.raw import RawClient, batch, code_of, detail_of, drain
from tests.integration.broker.serving import DiskOnThread, serving
from tests.sim.disk import SimFiles


def image_of(cluster: metadata_pb2.ClusterMetadata) -> tuple[int, int]:
    """(broker epoch, leader epoch of the first partition of the first topic)."""
    return cluster.brokers[0].epoch, cluster.topics[0].partitions[0].leader_epoch


async def describe(client: RawClient) -> metadata_pb2.ClusterMetadata:
    found = await client.call("MetadataService", "Describe", metadata_pb2.DescribeRequest())
    assert isinstance(found, metadata_pb2.ClusterMetadata)
    return found


def used_bytes(disk: SimFiles, directory: Path) -> int:
    """Lengths of all files below a directory."""
    return sum(
        size or (used_bytes(disk, directory / name) if is_directory(disk, directory / name) else 0)
        for name, size in disk.list(directory).items()
    )


def is_directory(disk: SimFiles, path: Path) -> bool:
    try:
        disk.list(path)
    except NotADirectoryError:
        return False
    return True


async def test_a_restart_keeps_records_producers_and_topics_under_new_epochs(tmp_path: Path) -> None:
    """Rules 12 and 16."""
    data = batch([b"a", b"b"], Producer(77, 0, 0))
    async with serving(tmp_path / "data") as served, RawClient(served.address) as client:
        topic = await client.create_topic("kept", 2, retention_ms="-1")
        await client.send(topic, data)
        before = await describe(client)
    async with serving(tmp_path / "data") as served, RawClient(served.address) as client:
        after = await describe(client)
        assert [found.topic_id for found in after.topics] == [topic]
        assert after.topics[0].config["retention_ms"] == "-1"
        assert after.cluster_id == before.cluster_id
        assert all(new > old for new, old in zip(image_of(after), image_of(before), strict=True))
        assert await client.read(topic, 0, 2) == [b"a", b"b"]
        (again,) = await client.send(topic, data)
        assert again.base_offset == 0, "a retry over the restart"
        (more,) = await client.send(topic, batch([b"c"], Producer(77, 0, 2)))
        assert more.base_offset == 2


async def test_producer_ids_are_given_once_over_restarts(tmp_path: Path) -> None:
    seen = set()
    for _ in range(3):
        async with serving(tmp_path / "data") as served, RawClient(served.address) as client:
            for _ in range(5):
                given = await client.call(
                    "ProducerService", "InitProducer", produce_pb2.InitProducerRequest()
                )
                assert given.producer_id not in seen
                seen.add(given.producer_id)


async def test_a_stop_answers_what_is_under_way_and_refuses_what_comes(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as served, RawClient(served.address) as client:
        topic = await client.create_topic("stopping")
        served.syncs.hold()
        stream = client.produce()
        item = produce_pb2.ProduceBatch(id=1, topic_id=topic, batch=batch([b"a"]))
        await stream.write(produce_pb2.ProduceRequest(acks=produce_pb2.ACKS_ALL, batches=[item]))
        while served.broker.unanswered_bytes == 0:
            await asyncio.sleep(0)
        served.stopping.set()
        while served.broker.phase.value != "stopping":
            await asyncio.sleep(0)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.create_topic("too-late")
        detail = detail_of(refused.value)
        assert detail is not None
        assert code_of(detail) == "BROKER_NOT_READY"
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        served.syncs.release()
        (result,) = (await stream.read()).results
        assert result.base_offset == 0
        assert not result.HasField("error")
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await drain(stream)
        detail = detail_of(ended.value)
        assert detail is not None
        assert code_of(detail) == "BROKER_NOT_READY"
        await served.ended
    async with serving(tmp_path / "data") as served, RawClient(served.address) as client:
        assert await client.read(topic, 0, 1) == [b"a"]


async def test_a_directory_has_one_broker(tmp_path: Path) -> None:
    async with serving(tmp_path / "data"):
        with pytest.raises(ExceptionGroup) as refused:
            async with serving(tmp_path / "data"):
                pass
        assert refused.group_contains(DirectoryInUse)


async def test_a_watcher_sees_everything_first_and_then_what_changes(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as served, RawClient(served.address) as client:
        first = await client.create_topic("first")
        watch = client.watch()
        update = await watch.read()
        assert [topic.topic_id for topic in update.changed.topics] == [first]
        second = await client.create_topic("second")
        seen: list[bytes] = []
        while second not in seen:
            update = await watch.read()
            seen += [topic.topic_id for topic in update.changed.topics]
        assert first not in seen
        await client.delete_topic("first")
        while list(update.removed_topic_ids) != [first]:
            update = await watch.read()
        served.stopping.set()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await drain(watch)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_deleted_topic_leaves_no_files_and_its_name_is_free(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as served, RawClient(served.address) as client:
        topic = await client.create_topic("again", 2)
        await client.send(topic, batch([b"old"]))
        await client.delete_topic("again")
        assert not any(topic.hex() in path.name for path in (tmp_path / "data" / "partitions").iterdir())
        other = await client.create_topic("again", 1)
        assert other != topic
        assert [result.base_offset for result in await client.send(other, batch([b"new"]))] == [0]
        (stale,) = await client.send(topic, batch([b"x"]))
        assert code_of(stale.error) == "UNKNOWN_TOPIC"


async def test_logs_of_a_topic_that_was_being_deleted_go_at_the_next_start(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as served, RawClient(served.address) as client:
        topic = await client.create_topic("orphaned")
        await client.send(topic, batch([b"x"]))
        kept = tmp_path / "data" / "partitions" / f"orphaned-0-{topic.hex()}"
        copied = {path.name: path.read_bytes() for path in kept.iterdir()}
        await client.delete_topic("orphaned")
    kept.mkdir()
    for name, content in copied.items():
        (kept / name).write_bytes(content)
    (tmp_path / "data" / "partitions" / "lost+found").mkdir()
    async with serving(tmp_path / "data"):
        assert not kept.exists()
        assert (kept.parent / "lost+found").exists(), "what is not ours stays"


async def test_a_stop_in_the_middle_of_a_deletion_is_a_clean_stop(tmp_path: Path) -> None:
    """The deletion waits for a sync of the log; the next start goes on with it."""
    async with (
        serving(tmp_path / "data", syncs=DiskOnThread()) as served,
        RawClient(served.address) as client,
    ):
        topic, other = await client.create_topic("going"), await client.create_topic("staying")
        await client.send(other, batch([b"kept"]))
        served.syncs.hold()
        sending = asyncio.ensure_future(client.send(topic, batch([b"lost"])))
        while not served.syncs.waiting:
            await asyncio.sleep(0)
        deleting = asyncio.ensure_future(client.delete_topic("going"))
        (result,) = await sending
        assert code_of(result.error) == "UNKNOWN_TOPIC", "the partition is closed, its log is in the sync"
        served.stopping.set()
        while served.broker.phase.value != "stopping":
            await asyncio.sleep(0)
        served.syncs.release()
        await served.ended
        await asyncio.gather(deleting, return_exceptions=True)
    async with serving(tmp_path / "data") as served, RawClient(served.address) as client:
        assert not any(topic.hex() in path.name for path in (tmp_path / "data" / "partitions").iterdir())
        assert await client.read(other, 0, 1) == [b"kept"]


async def test_after_a_failed_sync_the_partition_comes_back_with_what_was_acknowledged() -> None:
    """Rules 12 and 40: the sender is told that the outcome is unknown, the log is cut to what was confirmed,
    under a new leader epoch.
    """
    disk = SimFiles(Random(7))
    async with serving(Path("/data"), files=disk) as served, RawClient(served.address) as client:
        topic = await client.create_topic("mended")
        await client.send(topic, batch([b"kept"]))
        before = image_of(await describe(client))
        disk.fail_next_sync()
        (failed,) = await client.send(topic, batch([b"lost"]))
        assert code_of(failed.error) == "STORAGE_FAILED"
        assert failed.error.facts["outcome"] == "unknown"
        while True:
            (result,) = await client.send(topic, batch([b"again"]))
            if not result.HasField("error"):
                break
            assert code_of(result.error) in ("STORAGE_FAILED", "NOT_LEADER", "BROKER_NOT_READY")
        assert result.base_offset == 1
        assert await client.read(topic, 0, 2) == [b"kept", b"again"]
        after = image_of(await describe(client))
        assert after[1] > before[1]


async def test_a_full_disk_refuses_records_serves_reads_and_recovers_by_itself() -> None:
    """Rule 40."""
    disk = SimFiles(Random(8))
    async with serving(Path("/data"), files=disk) as served, RawClient(served.address) as client:
        topic = await client.create_topic("full")
        await client.send(topic, batch([b"kept"]))
        disk.capacity_bytes = used_bytes(disk, Path("/")) + 10_000
        (refused,) = await client.send(topic, batch([b"x" * 50_000]))
        assert code_of(refused.error) == "STORAGE_FULL"
        assert refused.error.facts["outcome"] == "not_written"
        assert await client.read(topic, 0, 1) == [b"kept"]
        disk.capacity_bytes = None
        (result,) = await client.send(topic, batch([b"fits"]))
        assert result.base_offset == 1


@pytest.mark.parametrize("seed", range(20))
async def test_what_was_acknowledged_survives_a_power_loss(seed: int) -> None:
    """DESIGN §5 with the real runtime: unsynced bytes and names are dropped, each by itself."""
    random = Random(seed)
    disk = SimFiles(random)
    acknowledged: dict[int, bytes] = {}
    async with serving(Path("/data"), files=disk) as served, RawClient(served.address) as client:
        topic = await client.create_topic("powered", segment_bytes="4096")
        for number in range(random.randrange(5, 40)):
            value = b"%d-" % number + b"x" * random.randrange(1000)
            (result,) = await client.send(topic, batch([value]))
            acknowledged[result.base_offset] = value
        served.syncs.hold()
        stream = client.produce()
        for number in range(3):  # appended, never synced, never acknowledged
            item = produce_pb2.ProduceBatch(id=number, topic_id=topic, batch=batch([b"unsynced"]))
            await stream.write(produce_pb2.ProduceRequest(acks=produce_pb2.ACKS_ALL, batches=[item]))
        while served.broker.offsets(topic, 0, None)[0].log_end < len(acknowledged) + 3:
            await asyncio.sleep(0)
        after = disk.clone(random)
        after.crash()
        stream.cancel()
    async with serving(Path("/data"), files=after) as served, RawClient(served.address) as client:
        values = await client.read(topic, 0, len(acknowledged))
        # What was never synced may be there all the same, behind them.
        assert dict(enumerate(values[: len(acknowledged)])) == acknowledged
