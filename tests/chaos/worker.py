"""The clients of a chaos run: processes on the host with the SDK as it is released, each with its history.

    python -m tests.chaos.worker write|follow|reread|fresh --name w1 --topic t --bootstrap … --history FILE

Each tells its counts once a second, a JSON object a line on stdout. SIGTERM ends it: a writer first settles
what it has sent. Times are of the system's monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal, TextIO

import millpond
from millpond.client import Client
from millpond.errors import MillpondError, OffsetOutOfRange, Outcome
from tests.sim.history.operations import FAIL, INFO, INVOKE, OK, Assign, Operation, Poll, Refused, Send

WRITE_PAUSE_SECONDS: Final = 0.04
"""Between two records of a writer in a partition: a steady stream that leaves the brokers the machine."""
IN_FLIGHT_MAX: Final = 200
"""Records of a partition whose outcome a writer does not know: it waits then."""
DELIVERY_SECONDS: Final = 25.0
"""After which a send is given up: longer than most faults, so that most sends outlive them, and not all."""
CONNECT_SECONDS: Final = 60.0
REREAD_SECONDS: Final = 8.0
"""On average, after which a reader that rereads begins again, at the beginning or somewhere."""
AGAIN_SECONDS: Final = 0.2
FRESH_SECONDS_MAX: Final = 300.0


class Worker:
    """What all of them have: a name, a history, counts, and an end."""

    def __init__(self, options: argparse.Namespace, history: TextIO) -> None:
        self.name: str = options.name
        self.topic: str = options.topic
        self.partitions: int = options.partitions
        self.acks: Literal["all", "leader"] = options.acks
        self.random = random.Random(f"{options.seed} {options.name}")
        self.stopping = asyncio.Event()
        self.counts = {"acknowledged": 0, "failed": 0, "unknown": 0, "read": 0, "errors": 0}
        self._history = history

    def note(self, operation: Operation) -> None:
        """Written at once: a history has to hold what happened before a crash of this process, too."""
        self._history.write(json.dumps(asdict(operation)) + "\n")

    def where(self, partition: int) -> str:
        """A partition, as histories have it."""
        return f"{self.topic}-{partition}"

    async def tell(self) -> None:
        """The counts, until cancelled."""
        while True:
            print(json.dumps({"name": self.name, **self.counts}), flush=True)
            await asyncio.sleep(1.0)


# --- writers ----------------------------------------------------------------------------------------------


async def write(worker: Worker, client: Client) -> None:
    """One stream of records for each partition, through one producer, until it is to stop."""
    producer = await client.producer(acks=worker.acks, delivery_timeout=DELIVERY_SECONDS)
    try:
        async with asyncio.TaskGroup() as tasks:
            for partition in range(worker.partitions):
                tasks.create_task(_write_to(worker, producer, partition))
    finally:
        with contextlib.suppress(MillpondError):  # each failure was awaited, and is in the history
            await producer.close()


async def _write_to(worker: Worker, producer: millpond.Producer[bytes, bytes], partition: int) -> None:
    in_flight: asyncio.Queue[tuple[str, millpond.Delivery] | None] = asyncio.Queue(IN_FLIGHT_MAX)
    number = 0
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_note_outcomes(worker, partition, in_flight))
        while not worker.stopping.is_set():
            value = f"{worker.name}.{partition}.{number}"
            number += 1
            worker.note(_sent(worker, partition, value, INVOKE))
            delivery = await producer.enqueue(worker.topic, value.encode(), partition=partition)
            await in_flight.put((value, delivery))
            await asyncio.sleep(worker.random.uniform(0.5, 1.5) * WRITE_PAUSE_SECONDS)
        await in_flight.put(None)


async def _note_outcomes(
    worker: Worker, partition: int, in_flight: asyncio.Queue[tuple[str, millpond.Delivery] | None]
) -> None:
    while (item := await in_flight.get()) is not None:
        value, delivery = item
        try:
            ack = await delivery
        except MillpondError as error:
            is_known = getattr(error, "outcome", Outcome.UNKNOWN) is Outcome.NOT_WRITTEN
            worker.counts["failed" if is_known else "unknown"] += 1
            worker.note(_sent(worker, partition, value, FAIL if is_known else INFO, error=repr(error)))
        else:
            worker.counts["acknowledged"] += 1
            worker.note(_sent(worker, partition, value, OK, offset=ack.offset))


def _sent(
    worker: Worker, partition: int, value: str, kind: str, *, offset: int | None = None, error: str = ""
) -> Send:
    return Send(
        time=time.monotonic(),
        process=worker.name,
        kind=kind,
        partition=worker.where(partition),
        values=(value,),
        offset=offset,
        error=error,
    )


# --- readers ----------------------------------------------------------------------------------------------


async def follow(worker: Worker, client: Client) -> None:
    """From the beginning, for as long as it lasts."""
    await _read(worker, client, 0, float("inf"))


async def reread(worker: Worker, client: Client) -> None:
    """Again and again, from the beginning or from somewhere: old offsets stay what they were."""
    known = 0
    while not worker.stopping.is_set():
        ends_at = time.monotonic() + worker.random.expovariate(1 / REREAD_SECONDS)
        start = worker.random.choice((0, known // 2, known * 9 // 10))
        known = max(known, await _read(worker, client, start, ends_at))


async def fresh(worker: Worker, client: Client) -> None:
    """Everything, once: by a process that knows nothing of what was."""
    async with asyncio.timeout(FRESH_SECONDS_MAX):
        await _read(worker, client, 0, float("inf"), stop="end")


async def _read(worker: Worker, client: Client, start: int, ends_at: float, **options: Any) -> int:
    """Until a time of the monotonic clock; the least offset that is next in any partition then."""
    following = dict.fromkeys(range(worker.partitions), start)
    async with client.consumer(worker.topic, start=start, **options) as consumer:
        for partition in following:
            where = worker.where(partition)
            worker.note(Assign(time=time.monotonic(), process=worker.name, partition=where, offset=start))
        while time.monotonic() < ends_at and not worker.stopping.is_set():
            try:
                records = await consumer.poll(max_records=2000, timeout=0.5)
            except OffsetOutOfRange as error:
                worker.note(
                    Refused(
                        time=time.monotonic(),
                        process=worker.name,
                        partition=worker.where(error.partition),
                        offset=error.offset,
                        error=repr(error),
                    )
                )
                break
            except MillpondError:  # nobody to be reached for long: this consumer goes on when there is
                worker.counts["errors"] += 1
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            if not records and consumer.finished:
                break
            _note_records(worker, records, following)
    return min(following.values())


def _note_records(
    worker: Worker, records: list[millpond.Record[bytes | None, bytes | None]], following: dict[int, int]
) -> None:
    """The SDK has refused whatever lies past the high watermark that came with it, and tells none: noted is
    the least that it can have been.
    """
    found: dict[int, list[tuple[int, str]]] = {}
    for record in records:
        found.setdefault(record.partition, []).append((record.offset, (record.value or b"").decode()))
    for partition, read in found.items():
        following[partition] = read[-1][0] + 1
        worker.counts["read"] += len(read)
        worker.note(
            Poll(
                time=time.monotonic(),
                process=worker.name,
                partition=worker.where(partition),
                records=tuple(read),
                high_watermark=following[partition],
            )
        )


ROLES: Final = {"write": write, "follow": follow, "reread": reread, "fresh": fresh}


async def work(options: argparse.Namespace) -> None:
    """One of the roles, until it is over or SIGTERM."""
    with options.history.open("w", buffering=1) as history:
        worker = Worker(options, history)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, worker.stopping.set)
        loop.add_signal_handler(
            signal.SIGINT, lambda: None
        )  # Ctrl-C is for who runs this, who ends it in order
        async with millpond.connect(options.bootstrap, timeout=CONNECT_SECONDS) as client:
            telling = asyncio.create_task(worker.tell(), name="counts")
            try:
                await ROLES[options.role](worker, client)
            finally:
                telling.cancel()
                print(json.dumps({"name": worker.name, **worker.counts}), flush=True)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--name", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--history", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--acks", default="all", help="noted as all, whatever it is: see the run's own option"
    )
    asyncio.run(work(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
