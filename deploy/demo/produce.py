"""The demo's producer process: every line of the corpus to the cluster, file name as key.

    produce.py BOOTSTRAP ACKNOWLEDGED GATE

Each acknowledged run of lines becomes a row [name, first line, count, partition, first offset] of the
journal ACKNOWLEDGED, after it was confirmed and not before. Brokers are killed meanwhile: the client finds
the new leaders and retries by itself, and this process knows nothing of it, but that it goes past GATE
records only when it is let.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import millpond
from corpus import TOPIC, Line, lines
from gate import Gate
from journal import Journal

CHUNK_LINES = 5_000
"""Lines a call: what is journaled at once."""
LINES_A_SECOND_MAX = 50_000
"""A stream that lasts: there is time to kill brokers in the middle of it, and to see them come back."""


async def main(bootstrap: str, journal_path: Path, gate: Gate) -> None:
    """Produce everything."""
    done = 0
    with Journal(journal_path) as journal:
        async with millpond.connect(bootstrap) as client, client.producer() as producer:
            rest = lines()
            next_at = time.monotonic()
            while chunk := list(islice(rest, CHUNK_LINES)):
                result = await producer.send_many(
                    TOPIC, [line.text for line in chunk], keys=[line.name.encode() for line in chunk]
                )
                journal.write(runs(chunk, zip(result.partitions, result.offsets, strict=True)))
                done += len(chunk)
                await gate.pass_with(done)
                next_at = max(time.monotonic(), next_at + CHUNK_LINES / LINES_A_SECOND_MAX)
                await asyncio.sleep(next_at - time.monotonic())


def runs(chunk: Sequence[Line], places: Iterable[tuple[int, int]]) -> list[list[Any]]:
    """Rows for the journal: consecutive lines of one file at consecutive offsets make one."""
    found: list[list[Any]] = []
    for line, (partition, offset) in zip(chunk, places, strict=True):
        run = found[-1] if found else None
        if run and run[0] == line.name and run[3] == partition and run[4] + run[2] == offset:
            run[2] += 1
        else:
            found.append([line.name, line.number, 1, partition, offset])
    return found


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), Gate(int(sys.argv[3]))))
