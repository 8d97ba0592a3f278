"""Ctrl-C in a program that reads: it ends at once, cleanly, and has nothing to say about it."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from millpond.testing import LocalCluster

SCRIPT = Path(__file__).with_name("interrupted.py")


@pytest.mark.parametrize("paused", [False, True], ids=["with its broker", "with a broker that hangs"])
async def test_a_reader_ends_with_ctrl_c(paused: bool) -> None:
    async with LocalCluster() as cluster:
        async with cluster.client() as client:
            await client.admin.create_topic("t", partitions=1)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            SCRIPT,
            cluster.bootstrap,
            "t",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(20):
                assert await process.stdout.readline() == b"reading\n"
            if paused:
                cluster.pause(0)
            process.send_signal(signal.SIGINT)
            async with asyncio.timeout(30):
                output, errors = await process.communicate()
            assert (output, errors) == (b"interrupted, 1 thread\n", b"")
            assert process.returncode == 0
        finally:
            if paused:
                cluster.resume(0)
            if process.returncode is None:
                process.kill()
                await process.wait()
