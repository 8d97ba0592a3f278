"""When a broker that ended is started again: sooner at first, then later and later, and not for ever.

A decision without a clock of its own, one object for each broker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FIRST_SECONDS: Final = 0.5
"""Before the first start. A process that was killed is back before anybody has looked for it."""
LONGEST_SECONDS: Final = 30.0
"""Between two starts: it doubles up to here, so that one that cannot run does not keep the machine busy."""
STEADY_SECONDS: Final = 60.0
"""Who was ready so long runs: its next end is a first one again."""
STARTS_MAX: Final = 10
"""Starts in a row that came to nothing. What has not helped by then, minutes later, a person must see."""


@dataclass
class Restarts:
    """Of one broker. `after` is asked at each of its ends."""

    enabled: bool = True
    _in_a_row: int = 0

    def after(self, ready_seconds: float) -> float | None:
        """How long to wait before it is started again, given how long it had been ready; None: not again."""
        assert ready_seconds >= 0, "a length of time"
        if not self.enabled:
            return None
        if ready_seconds >= STEADY_SECONDS:
            self._in_a_row = 0
        if self._in_a_row == STARTS_MAX:
            return None
        self._in_a_row += 1
        return min(LONGEST_SECONDS, FIRST_SECONDS * (1 << self._in_a_row - 1))
