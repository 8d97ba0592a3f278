"""The demo's consumer process: reads the topic to its end, through a kill of a leader.

    consume.py BOOTSTRAP DELIVERED

What it was given becomes rows [partition, first offset, next offset] of the journal DELIVERED.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import millpond
from corpus import TOPIC
from journal import Journal


async def main(bootstrap: str, journal_path: Path) -> None:
    """Consume from the beginning to the end that the topic has now."""
    with Journal(journal_path) as journal:
        async with millpond.connect(bootstrap) as client, client.consumer(TOPIC, stop="end") as consumer:
            async for batch in consumer.batches():
                journal.write([[batch.partition, batch.offsets[0], batch.offsets[-1] + 1]])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
