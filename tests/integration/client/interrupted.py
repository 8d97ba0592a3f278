"""Reads a topic until Ctrl-C, and says how it ended: what `test_interrupt` starts."""

from __future__ import annotations

import asyncio
import sys
import threading

import millpond


async def read(bootstrap: str, topic: str) -> None:
    async with millpond.connect(bootstrap) as client, client.consumer(topic) as consumer:
        print("reading", flush=True)
        async for _ in consumer:
            pass


if __name__ == "__main__":
    try:
        asyncio.run(read(*sys.argv[1:]))
    except KeyboardInterrupt:
        print(f"interrupted, {threading.active_count()} thread")
