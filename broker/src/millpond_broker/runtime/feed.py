"""Metadata for those who follow it: the latest image, and a wait for a newer one."""

from __future__ import annotations

import asyncio

from millpond.wire.errors import MillpondError
from millpond_broker.core.image import MetadataImage


class Feed:
    """The latest image. One for the broker; any number of waiters, each of which sees the latest only."""

    def __init__(self, image: MetadataImage) -> None:
        self.image = image
        self._error: MillpondError | None = None
        self._changed = asyncio.Event()

    def publish(self, image: MetadataImage) -> None:
        """There is a newer one."""
        self.image = image
        self._notify()

    def fail(self, error: MillpondError) -> None:
        """There will be none: waiters are told why."""
        self._error = error
        self._notify()

    def _notify(self) -> None:
        # Each event is used once: whoever waits holds the one that this change sets.
        self._changed.set()
        self._changed = asyncio.Event()

    async def newer_than(self, known: MetadataImage | None) -> MetadataImage:
        """The latest image once it is another than `known`. Raises what the feed failed with."""
        while True:
            if self._error is not None:
                raise self._error
            if known is None or self.image.version > known.version:
                return self.image
            await self._changed.wait()
