"""The demo's consumer process: reads the topic to its end, through a kill of a leader.

    consume.py BOOTSTRAP DELIVERED GATE

What it was given becomes rows [partition, first offset, next offset] of the journal DELIVERED. It goes past
GATE records only when it is let.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import millpond
from corpus import TOPIC
from gate import Gate
from journal import Journal


async def main(bootstrap: str, journal_path: Path, gate: Gate) -> None:
    """Consume from the beginning to the end that the topic has now."""
    done = 0
    with Journal(journal_path) as journal:
        async with millpond.connect(bootstrap) as client, client.consumer(TOPIC, stop="end") as consumer:
            async for batch in consumer.batches():
                journal.write([[batch.partition, batch.offsets[0], batch.offsets[-1] + 1]])
                done += len(batch.offsets)
                await gate.pass_with(done)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), Gate(int(sys.argv[3]))))
