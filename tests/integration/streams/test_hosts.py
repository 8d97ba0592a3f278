"""Peers that die, or stand still: the other end is told, in time."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from millpond_broker.runtime.peers import Peer, PeerStream, PeerUnreachable, Purpose, StreamClosed
from tests.awake import awake
from tests.integration.peers.voters import WAIT_SECONDS
from tests.integration.streams.brokers import Broker, question, receive, until
from tests.integration.streams.conftest import MakeBroker

ROOT = Path(__file__).parents[3]


@contextmanager
def process(broker_id: int, opens: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A broker's process, and where it is. `opens`: where broker 1 is that it opens a stream to."""
    settings = {"id": broker_id, "opens": opens}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.integration.streams.worker", json.dumps(settings)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        try:
            yield running, json.loads(running.stdout.readline())["address"]
        finally:
            running.kill()
            running.wait(WAIT_SECONDS)


async def ended(stream: PeerStream) -> float:
    """When it was over."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                await stream.receive()
            except StreamClosed:
                return awake()


async def test_the_streams_of_a_killed_process_end_at_once(broker: MakeBroker) -> None:
    one = await broker(1)
    with process(2) as (running, address):
        streams = [await one.streams.open(2, address, purpose, 10) for purpose in Purpose]
        streams[0].send(question(1))
        assert await receive(streams[0], 1) == [question(1)]
        waiting = [asyncio.ensure_future(ended(stream)) for stream in streams]
        await asyncio.sleep(0)
        killed_at = awake()
        running.kill()
        for wait in waiting:
            assert await wait - killed_at < 0.5
        with pytest.raises(PeerUnreachable):
            await one.streams.open(2, address, Purpose.CONTROL, 5)
        assert awake() - killed_at < 4.5


async def test_the_streams_that_a_killed_process_had_opened_end_at_once(broker: MakeBroker) -> None:
    one = await broker(1)
    with process(2, opens=one.address) as (running, _):
        async with asyncio.timeout(WAIT_SECONDS):
            far = await one.came.get()
        waiting = asyncio.ensure_future(ended(far))
        await asyncio.sleep(0)
        killed_at = awake()
        running.kill()
        assert await waiting - killed_at < 0.5


async def test_a_peer_that_stands_still_is_noticed_within_seconds(broker: MakeBroker) -> None:
    """Its kernel still takes what is sent, so that only the lack of an answer tells."""
    one = await broker(1)
    with process(2) as (running, address):
        stream = await one.streams.open(2, address, Purpose.CONTROL, 10)
        running.send_signal(signal.SIGSTOP)
        began = awake()
        stream.send(question(1))
        assert await ended(stream) - began < 4.5
        with pytest.raises(PeerUnreachable):
            await one.streams.open(2, address, Purpose.CONTROL, 0.3)
        running.send_signal(signal.SIGCONT)
        again = await one.streams.open(2, address, Purpose.CONTROL, 10)
        again.send(question(2))
        assert await receive(again, 1) == [question(2)]


async def test_another_start_of_a_broker_is_another_peer(broker: MakeBroker) -> None:
    one = await broker(1)
    seen: list[Peer] = []
    for _ in range(2):
        two = Broker(2)
        await two.start()
        near, _ = await one.pair(two)
        seen.append(near.peer)
        await two.close()
    assert seen[0].broker_id == seen[1].broker_id
    assert seen[0].incarnation != seen[1].incarnation
    await until(lambda: not one.streams._dials)
