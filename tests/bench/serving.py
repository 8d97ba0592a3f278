"""Sections of the benchmark that run a broker process: its streams beside bare ones, latency, memory, starts.

The broker, the bare server (`raw.py`) and this client share the machine's cores, so that what they reach
together is what a laptop gives, not what a server could.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

import millpond
from millpond.testing import LocalCluster
from millpond.v1 import fetch_pb2, produce_pb2
from millpond.wire.batch import encode_batch
from tests.bench import raw

RECORD_BYTES = 100
RECORDS = 400_000
BATCH_BYTES = 256 << 10
ROUNDS = 5
HERE = Path(__file__).parent

Row = dict[str, Any]
Work = Callable[[], Awaitable[object]]


async def timed(work: Work) -> float:
    """Seconds it took."""
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


def row(name: str, unit: str, rates: list[float], **extra: float) -> Row:
    return Row(name=name, unit=unit, median=statistics.median(rates), min=min(rates), max=max(rates), **extra)


def values(count: int) -> list[bytes]:
    return [(b'{"id": %d, "note": "' % n).ljust(RECORD_BYTES, b"x") for n in range(count)]


@asynccontextmanager
async def bare_server() -> AsyncIterator[Any]:
    """A channel to the yardstick's process."""
    process = subprocess.Popen(  # noqa: ASYNC220 - before anything is measured
        [sys.executable, str(HERE / "raw.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=raw.OPTIONS) as channel:
            yield channel
    finally:
        process.stdin.close()
        process.wait(10)


async def bare_upload(channel: Any, message: bytes, count: int) -> None:
    """Write and read at once, as a produce stream does."""
    stream = channel.stream_stream(raw.UPLOAD)()

    async def read() -> None:
        while await stream.read() is not grpc.aio.EOF:
            pass

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        for _ in range(count):
            await stream.write(message)
        await stream.done_writing()


async def bare_download(channel: Any, size: int, count: int) -> None:
    stream = channel.unary_stream(raw.DOWNLOAD)(raw.ASK.pack(count, size))
    while await stream.read() is not grpc.aio.EOF:
        pass


def streams() -> Iterator[Row]:
    """Records of 100 B through one broker, and the same bytes through a bare gRPC stream, turn by turn."""
    yield from asyncio.run(_streams())


async def _streams() -> list[Row]:
    column = values(RECORDS)
    total_mb = RECORDS * RECORD_BYTES / 1e6
    messages = RECORDS * RECORD_BYTES // BATCH_BYTES
    message = b"x" * BATCH_BYTES
    rates: dict[str, list[float]] = {}
    async with (
        LocalCluster() as cluster,
        bare_server() as channel,
        millpond.connect(cluster.bootstrap) as client,
    ):

        async def produce(topic: str) -> None:
            async with client.producer(acks="all", batch_bytes=BATCH_BYTES) as producer:
                await producer.send_many(topic, column, partition=0)

        async def consume(topic: str) -> None:
            async with client.consumer(topic, stop="end") as consumer:
                count = 0
                async for batch in consumer.batches():
                    count += len(batch)
            assert count >= RECORDS

        for turn in range(ROUNDS + 1):
            names = [f"commit-{turn}", f"interval-{turn}"]
            await client.admin.create_topic(names[0], partitions=1)
            await client.admin.create_topic(names[1], partitions=1, config={"flush": "interval"})
            works: dict[str, Work] = {
                "bare stream up, 256 KiB messages": lambda: bare_upload(channel, message, messages),
                "produce, acks=all, flush=commit": lambda: produce(names[0]),  # noqa: B023 - awaited in this turn
                "produce, acks=all, flush=interval": lambda: produce(names[1]),  # noqa: B023 - likewise
                "bare stream down, 1 MiB messages": lambda: bare_download(channel, 1 << 20, int(total_mb)),
                "consume, columns": lambda: consume(names[0]),  # noqa: B023 - likewise
            }
            for name, work in works.items():
                seconds = await timed(work)
                if turn:  # the first one warms up
                    rates.setdefault(name, []).append(total_mb / seconds)
            for name in names:
                await client.admin.delete_topic(name)
    up, down = (statistics.median(rates[name]) for name in rates if name.startswith("bare"))
    return [
        row(name, "MB/s", found, **_beside(name, statistics.median(found), up, down))
        for name, found in rates.items()
    ]


def _beside(name: str, rate: float, up: float, down: float) -> dict[str, float]:
    if name.startswith("bare"):
        return {}
    bare = up if name.startswith("produce") else down
    return {"of bare": rate / bare, "M records/s": rate / RECORD_BYTES}


def latency() -> Iterator[Row]:
    """One awaited send after another, of 100 B, in ms; beside it a bare round trip of as many bytes."""
    yield from asyncio.run(_latency())


async def _latency(sends: int = 2000) -> list[Row]:
    rows = []
    async with (
        LocalCluster() as cluster,
        bare_server() as channel,
        millpond.connect(cluster.bootstrap) as client,
    ):
        stream = channel.stream_stream(raw.UPLOAD)()

        async def bare() -> None:
            await stream.write(b"x" * RECORD_BYTES)
            await stream.read()

        for flush in ("commit", "interval"):
            await client.admin.create_topic(flush, partitions=1, config={"flush": flush})
        async with client.producer() as producer:
            works: dict[str, Work] = {
                "bare round trip": bare,
                "send, acks=all, flush=commit": lambda: producer.send("commit", b"x" * RECORD_BYTES),
                "send, acks=all, flush=interval": lambda: producer.send("interval", b"x" * RECORD_BYTES),
            }
            for name, work in works.items():
                for _ in range(100):
                    await work()
                took = sorted([await timed(work) * 1000 for _ in range(sends)])
                p99 = took[sends * 99 // 100]
                rows.append(row(name, "ms", took, p99=p99, p999=took[sends * 999 // 1000]))
        await stream.done_writing()
        await stream.read()
    return rows


def memory() -> Iterator[Row]:
    """Resident memory of the broker in MB: idle, while twenty senders flood it, while twenty readers that
    never read have asked for everything.
    """
    yield from asyncio.run(_memory())


async def _memory() -> list[Row]:
    rows = []
    async with LocalCluster() as cluster, millpond.connect(cluster.bootstrap) as client:
        topic = await client.admin.create_topic("flooded", partitions=4)
        topic_id = topic.id.bytes
        pid = broker_pid(cluster)
        rows.append(row("idle", "MB", [resident_mb(pid)]))
        data = bytes(encode_batch(values(2500), time.time_ns() // 1_000_000).data)
        channels = [grpc.aio.insecure_channel(cluster.bootstrap, options=raw.OPTIONS) for _ in range(20)]
        seen: list[float] = []
        async with asyncio.TaskGroup() as tasks:
            flooding = [tasks.create_task(flood(channel, topic_id, data)) for channel in channels]
            while not all(task.done() for task in flooding):
                seen.append(resident_mb(pid))
                await asyncio.sleep(0.05)
        rows.append(row("flooded by 20 senders, 4 GB in all", "MB", seen))
        readers = [await greedy(channel, topic_id) for channel in channels]
        seen = []
        for _ in range(40):
            seen.append(resident_mb(pid))
            await asyncio.sleep(0.05)
        rows.append(row("20 readers that never read", "MB", seen))
        for reader in readers:
            reader.cancel()
        for channel in channels:
            await channel.close()
    return rows


async def flood(channel: Any, topic_id: bytes, data: bytes) -> None:
    """200 MB as fast as the stream takes them; answers are read only at the end."""
    stream = channel.stream_stream("/millpond.v1.ProduceService/Produce")()
    for number in range(200_000_000 // len(data)):
        item = produce_pb2.ProduceBatch(id=number, topic_id=topic_id, partition=number % 4, batch=data)
        request = produce_pb2.ProduceRequest(acks=produce_pb2.ACKS_ALL, batches=[item])
        await stream.write(request.SerializeToString())
    await stream.done_writing()
    while await stream.read() is not grpc.aio.EOF:
        pass


async def greedy(channel: Any, topic_id: bytes) -> Any:
    """A reader with all the credit in the world that reads nothing."""
    stream = channel.stream_stream("/millpond.v1.FetchService/Fetch")()
    starts = [fetch_pb2.FetchStart(handle=1 + n, topic_id=topic_id, partition=n) for n in range(4)]
    await stream.write(fetch_pb2.FetchRequest(credit_bytes=1 << 40, start=starts).SerializeToString())
    return stream


def broker_pid(cluster: LocalCluster) -> int:
    """The one child of this process that is a broker."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    (pid,) = (int(pid) for pid in children if b"millpond_broker" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return pid


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def starts() -> Iterator[Row]:
    """From nothing to the first answer, in s."""
    bare = [_run("-c", "pass") for _ in range(ROUNDS)]
    yield row("python -c pass", "s", bare)
    for command in (["--help"], ["topic", "--help"], ["produce", "--help"]):
        yield row(
            f"millpond {' '.join(command)}", "s", [_run("-m", "millpond", *command) for _ in range(ROUNDS)]
        )
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        with LocalCluster() as cluster:
            took.append(time.perf_counter() - began)
            bootstrap = cluster.bootstrap
            if len(took) == ROUNDS:
                listing = ["-m", "millpond", "topic", "list", "-b", bootstrap]
                yield row("millpond topic list", "s", [_run(*listing) for _ in range(ROUNDS)])
    yield row("LocalCluster, one broker ready", "s", took)


def _run(*arguments: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


SECTIONS: dict[str, Callable[[], Iterator[Row]]] = {
    "streams": streams,
    "latency": latency,
    "memory": memory,
    "starts": starts,
}
