"""Objects that are opened by `await` or `async with`: clients, producers, consumers."""

from __future__ import annotations

from collections.abc import Generator
from types import TracebackType
from typing import Any, Self


class Openable:
    """Awaiting it opens it and gives it back; so does entering it, and leaving closes it.

    Opening twice is opening once. A failed or cancelled opening closes what it had begun. A subclass
    writes `_open` and `close`, the second of which works at any moment, and more than once.
    """

    __opened = False

    async def _open(self) -> None:
        raise NotImplementedError

    async def close(self, timeout: float | None = None) -> None:
        """Release everything, within `timeout` seconds if given. Closing twice is closing once."""
        raise NotImplementedError

    async def _opened(self) -> Self:
        if not self.__opened:
            self.__opened = True
            try:
                await self._open()
            except BaseException:  # cancelled, too: nothing half open is left
                self.__opened = False
                await self.close()
                raise
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self._opened().__await__()

    async def __aenter__(self) -> Self:
        return await self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
