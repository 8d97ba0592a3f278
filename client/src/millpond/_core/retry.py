"""How long to wait before the next attempt, and until when to make any."""

from __future__ import annotations

from typing import NamedTuple


class Backoff(NamedTuple):
    """Exponential and capped, times in seconds. Deterministic: whoever waits brings the jitter."""

    first_s: float = 0.05
    factor: float = 2.0
    max_s: float = 1.0

    def delay_s(self, failures: int, jitter: float) -> float:
        """Seconds to wait after that many failures in a row (from 1), for a `jitter` in [0, 1).

        Between half of the full delay and all of it: clients that failed together come back apart.
        """
        assert failures >= 1, "a first attempt waits for nothing"
        assert 0.0 <= jitter < 1.0, "a fraction"
        # Past the exponent that reaches any cap, a power would only overflow.
        full = min(self.max_s, self.first_s * self.factor ** min(failures - 1, 64))
        return full * (0.5 + jitter / 2)


class Deadline(NamedTuple):
    """The instant by which a call has ended; `timeout` is what its caller asked for, for the message."""

    at: float
    timeout: float

    @classmethod
    def after(cls, now: float, timeout: float) -> Deadline:
        """`timeout` seconds from now; one in the past has expired."""
        return cls(now + timeout, timeout)

    def left_s(self, now: float) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self.at - now)

    def expired(self, now: float) -> bool:
        """Whether it is over."""
        return now >= self.at
