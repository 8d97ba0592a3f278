"""Three real brokers: what acks=all takes and gives, what they use at rest, whether they keep their parts.

The sections are latency; throughput, beside three processes that pass on the same bytes and sync them
(`pipe.py`), in turn; and rest. Brokers, yardstick and client share
the machine's cores.

`python -m tests.bench.replicated --minutes 5` is the other question: full load from several processes, and
how often a leader or the controller changed meanwhile, which is to be never. Its exit status says so.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import socket
import statistics
import subprocess
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from operator import ne
from pathlib import Path

import millpond
from millpond.client import Client
from millpond.errors import MillpondError
from millpond.producer import Delivery
from millpond.testing import LocalCluster
from tests.bench import pipe
from tests.bench.serving import Row, row, timed, values

RECORD_BYTES = 100
LATENCY_SECONDS = 10.0
LATENCY_RATE = 1000
LATENCY_RUNS = 5
LATE_SECONDS = 0.02
"""A record that leaves so long after its instant was kept by this process, not by the brokers: it is counted
with the rest, and how many there are is told."""
THROUGHPUT_RECORDS = 400_000
THROUGHPUT_RUNS = 5
REST_SECONDS = 30.0
SATURATING_PROCESSES = 3
SATURATED_BATCH = 5_000
WATCH_SECONDS = 0.5

# --- latency ---------------------------------------------------------------------------------------------


def latency() -> Iterator[Row]:
    """One record of 100 B a millisecond, acks=all through three brokers, in ms from the instant it is due."""
    yield from asyncio.run(_latency())


async def _latency() -> list[Row]:
    rows = []
    async with LocalCluster(brokers=3) as cluster, cluster.client() as client:
        await client.admin.create_topic("timed", partitions=1)
        async with client.producer() as producer:
            await _one_a_millisecond(producer, 2.0)
            for run in range(LATENCY_RUNS):
                before = brokers_cpu_seconds()
                took, late = await _one_a_millisecond(producer, LATENCY_SECONDS)
                used = sum(brokers_cpu_seconds().values()) - sum(before.values())
                rows.append(
                    row(
                        f"acks=all at {LATENCY_RATE:,} records/s, run {run + 1}",
                        "ms",
                        took,
                        p99=took[len(took) * 99 // 100],
                        p999=took[len(took) * 999 // 1000],
                        late=float(late),
                        brokers_cores=used / LATENCY_SECONDS,
                    )
                )
    return rows


async def _one_a_millisecond(
    producer: millpond.Producer[bytes, bytes], seconds: float
) -> tuple[list[float], int]:
    """Sorted times in ms; and how many records left late. Nobody waits for an answer before the next one."""
    value, interval = b"x" * RECORD_BYTES, 1 / LATENCY_RATE
    took: list[float] = []
    late = 0

    async def note(delivery: Delivery, due: float) -> None:
        await delivery
        took.append((time.perf_counter() - due) * 1000)

    gc.collect()
    gc.disable()  # of this process: what is measured are the brokers
    try:
        async with asyncio.TaskGroup() as tasks:
            began = time.perf_counter()
            for number in range(int(seconds * LATENCY_RATE)):
                due = began + number * interval
                if (early := due - time.perf_counter()) > 0:
                    await asyncio.sleep(early)
                late += time.perf_counter() - due > LATE_SECONDS
                tasks.create_task(note(await producer.enqueue("timed", value), due))
    finally:
        gc.enable()
    return sorted(took), late


# --- throughput ------------------------------------------------------------------------------------------


def throughput() -> Iterator[Row]:
    """send_many of 100 B records, acks=all, and the same bytes through three bare processes, turn by turn."""
    yield from asyncio.run(_throughput())


async def _throughput() -> list[Row]:
    column = values(THROUGHPUT_RECORDS)
    total_mb = THROUGHPUT_RECORDS * RECORD_BYTES / 1e6
    found: dict[str, list[float]] = {}
    with bare_pipe() as port:
        async with LocalCluster(brokers=3) as cluster, cluster.client() as client:
            for partitions in (1, 3):
                await client.admin.create_topic(f"through-{partitions}", partitions=partitions)

            async def produce(partitions: int) -> None:
                async with client.producer() as producer:
                    where = 0 if partitions == 1 else None
                    await producer.send_many(f"through-{partitions}", column, partition=where)

            works: dict[str, Callable[[], Awaitable[object]]] = {
                "bare, three processes": lambda: asyncio.to_thread(through_pipe, port, int(total_mb * 1e6)),
                "acks=all, one partition": lambda: produce(1),
                "acks=all, a partition on each": lambda: produce(3),
            }
            for turn in range(THROUGHPUT_RUNS + 1):
                for name, work in works.items():
                    seconds = await timed(work)
                    if turn:  # the first one warms up
                        found.setdefault(name, []).append(total_mb / seconds)
    bare = statistics.median(found["bare, three processes"])
    return [
        row(
            name,
            "MB/s",
            rates,
            **(
                {}
                if name.startswith("bare")
                else {
                    "of bare": statistics.median(rates) / bare,
                    "M records/s": statistics.median(rates) / RECORD_BYTES,
                }
            ),
        )
        for name, rates in found.items()
    ]


@contextmanager
def bare_pipe() -> Iterator[int]:
    """The port of the yardstick's first process."""
    processes: list[subprocess.Popen[str]] = []

    def start(*ports: int) -> int:
        command = [sys.executable, str(Path(pipe.__file__)), *map(str, ports)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        return int(process.stdout.readline())

    try:
        yield start(start(), start())
    finally:
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(10)


def through_pipe(port: int, size: int) -> None:
    """So many bytes, until all three have synced them."""
    chunk = b"x" * pipe.CHUNK_BYTES
    with socket.create_connection(("127.0.0.1", port)) as connection:
        left = size
        while left:
            connection.sendall(chunk[:left])
            left -= min(left, len(chunk))
        synced = 0
        while synced < size:
            (synced,) = pipe.COUNT.unpack(connection.recv(pipe.COUNT.size, socket.MSG_WAITALL))


# --- at rest ---------------------------------------------------------------------------------------------


def rest() -> Iterator[Row]:
    """Three brokers that nobody asks anything: what each uses of a core, in %, over half a minute."""
    with LocalCluster(brokers=3) as cluster:
        for topic, partitions in (("few", 3), ("hundred", 97)):
            asyncio.run(_make(cluster, topic, partitions))
            time.sleep(5.0)
            before = brokers_cpu_seconds()
            time.sleep(REST_SECONDS)
            after = brokers_cpu_seconds()
            used = [100 * (after[pid] - before[pid]) / REST_SECONDS for pid in before]
            yield row(f"at rest, {3 if topic == 'few' else 100} partitions of three replicas", "%", used)


async def _make(cluster: LocalCluster, topic: str, partitions: int) -> None:
    async with cluster.client() as client:
        await client.admin.create_topic(topic, partitions=partitions)


def brokers_cpu_seconds() -> dict[int, float]:
    """Of this process's children that are brokers, by process id."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    found = {}
    for pid in map(int, children):
        if b"millpond_broker" in Path(f"/proc/{pid}/cmdline").read_bytes():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


# --- under full load, for minutes ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parts:
    """Who has which part."""

    controller: int | None
    leaders: tuple[tuple[int | None, int], ...]
    """With the leader epoch, by partition."""
    isrs: tuple[tuple[int, ...], ...]


async def saturate(minutes: float) -> bool:
    """Whether every part stayed where it was."""
    async with LocalCluster(brokers=3) as cluster, cluster.client(timeout=30.0) as client:
        topic = await client.admin.create_topic(
            "full", partitions=6, config={"retention_bytes": str(256 << 20), "segment_bytes": str(32 << 20)}
        )
        first = last = await parts(client)
        controllers = leaders = isrs = unanswered = 0
        async with loaded(cluster.bootstrap, minutes * 60) as processes:
            until = time.monotonic() + minutes * 60
            while time.monotonic() < until:
                await asyncio.sleep(WATCH_SECONDS)
                try:
                    now = await parts(client)
                except MillpondError as error:
                    unanswered += 1
                    sys.stdout.write(f"not answered: {error}\n")
                    continue
                controllers += now.controller != last.controller
                leaders += sum(map(ne, now.leaders, last.leaders))
                isrs += sum(map(ne, now.isrs, last.isrs))
                last = now
            sent = sum([int((await process.communicate())[0]) for process in processes])
        last = await parts(client)
    sys.stdout.write(
        f"{minutes:g} minutes of full load from {SATURATING_PROCESSES} processes on {os.cpu_count()} cores,"
        f" {len(topic.partitions)} partitions: {sent:,} records acknowledged by all"
        f" ({sent / minutes / 60:,.0f}/s); changes of a leader {leaders}, of the controller {controllers},"
        f" of an ISR {isrs}; questions without an answer {unanswered}\n"
    )
    return not (leaders or controllers) and last.leaders == first.leaders


async def parts(client: Client) -> Parts:
    """As the cluster says now."""
    topic = await client.admin.describe_topic("full")
    controllers = [broker.id for broker in await client.admin.brokers() if broker.controller]
    return Parts(
        controllers[0] if controllers else None,
        tuple([(partition.leader, partition.leader_epoch) for partition in topic.partitions]),
        tuple([tuple(sorted(partition.isr)) for partition in topic.partitions]),
    )


@asynccontextmanager
async def loaded(bootstrap: str, seconds: float) -> AsyncIterator[list[Process]]:
    """Processes that send as much as they can for so long, and then say how much."""
    command = [
        sys.executable,
        "-m",
        "tests.bench.replicated",
        "--send",
        bootstrap,
        "--minutes",
        f"{seconds / 60}",
    ]
    processes = [
        await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        for _ in range(SATURATING_PROCESSES)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def send(bootstrap: str, seconds: float) -> int:
    """Records that were acknowledged by all."""
    column, sent = values(SATURATED_BATCH), 0
    until = time.monotonic() + seconds
    async with millpond.connect(bootstrap) as client, client.producer() as producer:
        while time.monotonic() < until:
            await producer.send_many("full", column)
            sent += len(column)
    return sent


SECTIONS: dict[str, Callable[[], Iterator[Row]]] = {
    "replicated-latency": latency,
    "replicated-throughput": throughput,
    "replicated-rest": rest,
}


def replicated() -> Iterator[Row]:
    """Three real brokers: latency, throughput, rest."""
    for measured in SECTIONS.values():
        yield from measured()


LONG_SECTIONS = {"replicated": replicated, **SECTIONS}


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="of full load")
    parser.add_argument("--send", metavar="BOOTSTRAP", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.send is not None:
        sys.stdout.write(f"{asyncio.run(send(arguments.send, arguments.minutes * 60))}\n")
        return 0
    return 0 if asyncio.run(saturate(arguments.minutes)) else 1


if __name__ == "__main__":
    sys.exit(main())
