"""Brokers that are kept running, by processes that behave like some."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from millpond._local import keeping, restarts
from millpond._local.keeping import Keeper, KeepOptions
from millpond._local.process import BrokerProcess

STANDIN = Path(__file__).with_name("standin.py")


async def test_one_that_is_stopped_as_the_wait_for_a_restart_ends_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one turn of the event loop, whichever comes first: nobody would ask it to stop again."""
    command = (sys.executable, str(STANDIN), "well")
    monkeypatch.setattr(keeping, "BrokerProcess", functools.partial(BrokerProcess, command=command))
    monkeypatch.setattr(restarts, "FIRST_SECONDS", 0.0)
    told: list[str] = []

    def tell(event: str, facts: Mapping[str, Any]) -> None:
        told.append(event)
        if event == "ready":
            os.kill(facts["brokers"][0]["pid"], signal.SIGKILL)
        if event == "broker_ended":
            assert facts["restart_in_seconds"] == 0
            asyncio.get_running_loop().call_soon(keeper.stop)

    keeper = Keeper(KeepOptions(directory=tmp_path, port=0, brokers=1), tell)
    async with asyncio.timeout(30):
        assert await keeper.run()
    assert told == ["starting", "ready", "broker_ended"]
