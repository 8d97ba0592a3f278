"""Objects of the synchronous client that a `with` block closes."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Closing:
    """Objects that `with` closes."""

    def close(self, timeout: float | None = None) -> None:
        """Release everything. Closing twice is closing once."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
