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
        # gRPC's own poller ends by itself once the last channel is closed; it is given the time to.
        for thread in threading.enumerate():
            if thread is not threading.main_thread():
                thread.join(3.0)
        print(f"interrupted, {threading.active_count()} thread")
