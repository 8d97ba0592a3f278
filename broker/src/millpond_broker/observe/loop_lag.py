"""How late the event loop is: what everything that waits on it waits longer.

A loop that is late is one that something blocks: a long computation, a slow file, too much work at once.
"""

from __future__ import annotations

import asyncio
from typing import Final

from millpond_broker.observe.metrics import BrokerMetrics

INTERVAL_SECONDS: Final = 1.0
"""Seldom enough to cost nothing. A blockade shorter than that may go unseen; one that matters comes back."""


async def measure_loop_lag(metrics: BrokerMetrics, interval_seconds: float = INTERVAL_SECONDS) -> None:
    """Measure until cancelled: sleep, and count how much later than asked the loop came back."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + interval_seconds
        await asyncio.sleep(interval_seconds)
        lag = max(0.0, loop.time() - due)
        metrics.loop_lag_last_seconds = lag
        metrics.loop_lag_seconds.observe(lag)
