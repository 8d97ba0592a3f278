"""The product's main job on real input: `make demo`.

Three brokers, in processes of their own. Every line of the Python standard library's source is streamed to
them, and read back. Meanwhile brokers are killed with SIGKILL: a leader, then the controller, then a leader
again while a consumer reads; each comes back and catches up. Then a fresh process holds what is in the topic
against the files and against what was acknowledged. Exits 0 if nothing is missing.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import corpus
import probe
from acts import PHASE_SECONDS_MAX, Demo
from journal import Tally
from millpond.testing import LocalCluster
from probe import Probe
from view import View, watched

HERE = Path(__file__).parent
TABLE_SECONDS = 0.25
BROKERS = 3
PARTITIONS = 6


async def main() -> int:
    """Run the acts; 0 if the proof holds."""
    with tempfile.TemporaryDirectory(prefix="millpond-demo-") as directory, View() as view:
        acknowledged, delivered, beats = (
            Path(directory, name) for name in ("acknowledged", "delivered", "beats")
        )
        total = corpus.count()
        size_mb = sum(len(line) for name in corpus.names() for line in corpus.lines_of(name)) / 1e6
        files = len(corpus.names())
        view.say(f"input: {total:,} lines, {size_mb:.1f} MB, of {files:,} Python source files")
        async with LocalCluster(BROKERS) as cluster, cluster.client() as client:
            view.say(f"{BROKERS} brokers are a cluster: {cluster.bootstrap}")
            for topic, partitions in ((corpus.TOPIC, PARTITIONS), (probe.TOPIC, BROKERS)):
                await client.admin.create_topic(topic, partitions=partitions)
            stopwatch = Probe(client, beats, BROKERS)
            async with _background(stopwatch.run(), watched(client, corpus.TOPIC, view, TABLE_SECONDS)):
                demo = Demo(cluster, client, stopwatch, view)
                view.say(
                    f"producing: {PARTITIONS} partitions, each on {BROKERS} brokers, and acks of all in sync"
                )
                await demo.act(
                    "produce",
                    [str(HERE / "produce.py"), cluster.bootstrap, str(acknowledged)],
                    Tally(acknowledged, lambda row: int(row[2])),
                    total,
                    [(0.2, demo.kill_leader), (0.6, demo.kill_controller)],
                )
                view.say("consuming from the beginning")
                await demo.act(
                    "consume",
                    [str(HERE / "consume.py"), cluster.bootstrap, str(delivered)],
                    Tally(delivered, lambda row: int(row[2]) - int(row[1])),
                    total,
                    [(0.3, demo.kill_leader)],
                )
            view.say("a fresh process reads everything and compares")
            proven = await verified(view, cluster.bootstrap, acknowledged, delivered, beats)
        verdict = "PROVEN" if proven else "NOT PROVEN"
        view.say(f"{verdict} by a fresh process, {time.monotonic() - view.began:.1f} s in all")
    return 0 if proven else 1


@asynccontextmanager
async def _background(*works: Awaitable[None]) -> AsyncIterator[None]:
    """What goes on beside the block, and ends with it."""

    async def run(work: Awaitable[None]) -> None:
        await work

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(run(work)) for work in works]
        yield
        for task in running:
            task.cancel()


async def verified(view: View, bootstrap: str, *journals: Path) -> bool:
    """What the verifier found, in words; whether all of it holds."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HERE / "verify.py"),
        bootstrap,
        *map(str, journals),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PHASE_SECONDS_MAX):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if not said:
        view.say("the verifier died")
        return False
    for line in in_words(json.loads(said)):
        view.say(line)
    return process.returncode == 0


def in_words(found: dict[str, Any]) -> list[str]:
    """What the verifier found."""
    return [
        f"acknowledged lines found at their offsets: {found['acknowledged']:,} of {found['lines']:,}",
        f"missing {found['missing']}, wrong {found['wrong']}, out of order {found['unordered']}",
        f"files whole: {found['files_whole']:,} of {found['files']:,}",
        f"there without an acknowledgement, or twice: {found['records'] - found['acknowledged']:,}",
        f"never delivered: {found['undelivered']}, delivered twice: {found['delivered_twice']:,}",
        f"acknowledged heartbeats: {found['heartbeats']:,}, missing {found['heartbeats_missing']}",
    ]


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
