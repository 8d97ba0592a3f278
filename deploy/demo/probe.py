"""The demo's stop-watch: one small write after another to a partition on each broker.

A write counts as the first after a kill if it *began* after it: an answer that was under way does not.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

import millpond
from journal import Journal

TOPIC: Final = "heartbeat"
PAUSE_SECONDS: Final = 0.02
"""Between two writes to a partition: enough for hundredths of a second."""


class Probe:
    """Writes to the partitions of its topic, and journals rows [partition, offset, value] of what was
    acknowledged.
    """

    def __init__(self, client: millpond.Client, journal: Path, partitions: int) -> None:
        self._client = client
        self._path = journal
        self._partitions = partitions
        self._first: list[tuple[float, asyncio.Future[float], int]] = []

    async def run(self) -> None:
        """Write until cancelled."""
        with Journal(self._path) as journal:
            async with self._client.producer() as producer, asyncio.TaskGroup() as tasks:
                for partition in range(self._partitions):
                    tasks.create_task(self._write(producer, journal, partition))

    async def _write(
        self, producer: millpond.Producer[bytes, bytes], journal: Journal, partition: int
    ) -> None:
        number = 0
        while True:
            began = time.monotonic()
            value = f"{partition}/{number}"
            ack = await producer.send(TOPIC, value.encode(), partition=partition)
            journal.write([[partition, ack.offset, value]])
            now = time.monotonic()
            for after, first, wanted in self._first:
                if wanted == partition and began >= after and not first.done():
                    first.set_result(now)
            number += 1
            await asyncio.sleep(PAUSE_SECONDS)

    async def next_write(self, partition: int, after: float) -> float:
        """When the first write to the partition was acknowledged that began after a moment of the monotonic
        clock.
        """
        first: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        entry = (after, first, partition)
        self._first.append(entry)
        try:
            return await first
        finally:
            self._first.remove(entry)
