"""Digests of a broker's images, by which it is compared with the controller (DESIGN §7)."""

from __future__ import annotations

from typing import Final

from millpond_broker.core.image import MetadataImage, digest
from millpond_broker.runtime.ports import Clock

DIGEST_SHARE: Final = 50
"""A digest that took a while is made again after so many times that while: 2 % of the loop's time."""


class Digests:
    """Digests of this broker's images, the latest kept. None at all while they would take too much time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: tuple[MetadataImage | None, bytes] = (None, b"")
        self._next_at = float("-inf")

    def of(self, image: MetadataImage) -> bytes:
        """Empty: there is none now."""
        if image is self._known[0]:
            return self._known[1]
        started = self._clock.monotonic()
        if started < self._next_at:
            return b""
        self._known = image, digest(image)
        now = self._clock.monotonic()
        self._next_at = now + DIGEST_SHARE * (now - started)
        return self._known[1]
