"""How long a partition takes no writes when its leader is killed: `make failover KILLS=n`.

Three real brokers on loopback. Each kill is a SIGKILL of the broker that leads one partition; what is
measured is from the signal to the next acknowledged write of that partition, begun after the signal. Half of
the kills hit a leader that is not the controller, half one that is. At the end another process reads
everything: every acknowledged (partition, offset, value) has to be there. The result goes to docs/proofs.txt.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import millpond
from millpond.client import Client
from millpond.errors import MillpondError
from millpond.producer import Producer
from millpond.testing import LocalCluster
from tests import proofs

PARTITIONS = 3
BROKERS = 3
SETTLED_SECONDS_MAX = 30.0
WRITERS_PAUSE_SECONDS = 0.002

Acknowledged = dict[tuple[int, int], str]
"""Values by (partition, offset)."""


async def settled(client: Client) -> int:
    """Wait until every replica is in sync again; the controller's id."""
    async with asyncio.timeout(SETTLED_SECONDS_MAX):
        while True:
            try:
                topic = await client.admin.describe_topic("written")
                brokers = await client.admin.brokers()
            except MillpondError:
                await asyncio.sleep(0.1)
                continue
            controllers = [broker.id for broker in brokers if broker.controller]
            is_whole = all(len(partition.isr) == BROKERS for partition in topic.partitions)
            if is_whole and controllers and all(broker.state == "running" for broker in brokers):
                return controllers[0]
            await asyncio.sleep(0.05)


async def write(producer: Producer[bytes, bytes], partition: int, acknowledged: Acknowledged) -> None:
    """One record after another until cancelled: kills meet a partition that is in use."""
    number = 0
    while True:
        value = f"{partition}-{number}"
        ack = await producer.send("written", value.encode(), partition=partition)
        acknowledged[partition, ack.offset] = value
        number += 1
        await asyncio.sleep(WRITERS_PAUSE_SECONDS)


async def kill_one(
    cluster: LocalCluster, client: Client, *, of_controller: bool, acknowledged: Acknowledged, number: int
) -> float | None:
    """Seconds without writes; None where no partition is led by such a broker."""
    controller = await settled(client)
    topic = await client.admin.describe_topic("written")
    led = [
        (partition.partition, partition.leader)
        for partition in topic.partitions
        if partition.leader is not None and (partition.leader == controller) == of_controller
    ]
    if not led:
        return None
    partition, leader = led[number % len(led)]
    async with client.producer() as producer:
        await producer.send("written", b"warm", partition=partition)
        began = time.perf_counter()
        cluster.kill(leader - 1)
        value = f"after kill {number} {of_controller}"
        ack = await producer.send("written", value.encode(), partition=partition)
        took = time.perf_counter() - began
        acknowledged[partition, ack.offset] = value
    await cluster.aio.restart(leader - 1)
    return took


async def measure(kills: int) -> bool:
    """The table; whether nothing was lost."""
    acknowledged: Acknowledged = {}
    times: dict[bool, list[float]] = {False: [], True: []}
    async with LocalCluster(brokers=BROKERS) as cluster, cluster.client() as client:
        await client.admin.create_topic("written", partitions=PARTITIONS)
        async with client.producer() as producer, asyncio.TaskGroup() as tasks:
            writers = [
                tasks.create_task(write(producer, partition, acknowledged)) for partition in range(PARTITIONS)
            ]
            number = 0
            while any(len(found) < kills for found in times.values()):
                of_controller = len(times[True]) < min(kills, len(times[False]) + 1) and number % 2 == 1
                if not of_controller and len(times[False]) >= kills:
                    of_controller = True
                took = await kill_one(
                    cluster, client, of_controller=of_controller, acknowledged=acknowledged, number=number
                )
                number += 1
                if took is None:
                    await client.admin.elect_leaders()
                    continue
                times[of_controller].append(took)
                sys.stdout.write(f"{'controller' if of_controller else 'leader'} {took:.3f} s\n")
                sys.stdout.flush()
            for writer in writers:
                writer.cancel()
        await settled(client)
        missing = check(cluster.bootstrap, acknowledged)
    told = []
    for of_controller, found in times.items():
        found.sort()
        name = "leader and controller" if of_controller else "leader only"
        p99 = found[min(len(found) - 1, int(len(found) * 0.99))]
        told.append(f"{name} median {found[len(found) // 2]:.3f} s p99 {p99:.3f} s max {found[-1]:.3f} s")
    lost = f"{missing} of {len(acknowledged)} acknowledged not read by a fresh process"
    proofs.note(f"failover KILLS={kills} {'; '.join(told)}; {lost}")
    return not missing


def check(bootstrap: str, acknowledged: Acknowledged) -> int:
    """How many of them another process does not read where they were acknowledged."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "acknowledged.json"
        path.write_text(json.dumps([[*where, value] for where, value in acknowledged.items()]))
        command = [
            sys.executable,
            "-m",
            "tests.bench.failover",
            "--check",
            str(path),
            "--bootstrap",
            bootstrap,
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    return int(done.stdout)


async def missing_of(rows: list[tuple[int, int, str]], bootstrap: str) -> int:
    """What the fresh process does."""
    wanted = {(partition, offset): value for partition, offset, value in rows}
    async with (
        millpond.connect(bootstrap) as client,
        client.consumer("written", start="beginning", stop="end") as consumer,
    ):
        async for record in consumer:
            where = (record.partition, record.offset)
            if where in wanted and (record.value or b"").decode() == wanted[where]:
                del wanted[where]
    return len(wanted)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="of each kind")
    parser.add_argument("--check", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--bootstrap", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.check is not None:
        rows = json.loads(arguments.check.read_text())
        sys.stdout.write(f"{asyncio.run(missing_of(rows, arguments.bootstrap))}\n")
        return 0
    return 0 if asyncio.run(measure(arguments.kills)) else 1


if __name__ == "__main__":
    sys.exit(main())
