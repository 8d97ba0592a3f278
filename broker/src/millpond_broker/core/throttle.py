"""A rate of bytes that is not exceeded for long: what catches up leaves room for what is up to date."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final


@dataclass(slots=True)
class Throttle:
    """Whoever is told to wait for 0 ms may take once, whatever its size; what was too much is waited for by
    the next. `now_ms`: of a clock that only goes forward.
    """

    bytes_per_second: Final[int]
    # From when on the next may take.
    _free_at_ms: float = field(default=0.0)

    def __post_init__(self) -> None:
        assert self.bytes_per_second > 0, "a rate of nothing would wait for ever"

    def wait_ms(self, now_ms: float) -> float:
        """For how long nobody may take."""
        return max(0.0, self._free_at_ms - now_ms)

    def took(self, size_bytes: int, now_ms: float) -> None:
        """So many bytes were taken."""
        self._free_at_ms = max(self._free_at_ms, now_ms) + size_bytes * 1000 / self.bytes_per_second
