"""The bytes that all produce streams have unanswered, and the streams that wait for them to fall."""

from __future__ import annotations

import asyncio

import pytest

from millpond_broker.runtime.produce import Backlog, ProduceLimits


@pytest.fixture
def full() -> Backlog:
    backlog = Backlog(ProduceLimits(stream_bytes_max=10, total_bytes_max=10))
    backlog.add(10)
    return backlog


async def test_streams_that_wait_go_on_once_there_is_room(full: Backlog) -> None:
    waiting = [asyncio.ensure_future(full.room()) for _ in range(3)]
    await asyncio.sleep(0)
    assert full.waiting == 3
    full.remove(1)
    await asyncio.gather(*waiting)
    assert full.waiting == 0


async def test_a_stream_that_is_gone_waits_no_more(full: Backlog) -> None:
    """While a disk stalls clients come, are not read on, and leave again: as often as they like."""
    for _ in range(100):
        waiting = asyncio.ensure_future(full.room())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert full.waiting == 0


async def test_room_that_somebody_else_took_is_waited_for_again(full: Backlog) -> None:
    waiting = asyncio.ensure_future(full.room())
    await asyncio.sleep(0)
    full.remove(10)
    full.add(10)
    await asyncio.sleep(0)
    assert not waiting.done()
    full.remove(10)
    await waiting
