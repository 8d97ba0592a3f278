"""One simulated file: what the page cache shows, what the platter has, and the writes between the
two.

A file is a list of pending changes on top of a durable image. A write is kept sector by sector,
each as the whole sector that the cache held at that time; a change of length is an entry of its
own. A crash takes the durable image and replays a part of that list:

- each sector write is there or not, whatever happened to the others;
- changes of length happen in order, up to one of them, and the last one that happened, if it is a
  growth, may have got only part of the way (which is how a final write is torn between two
  sectors);
- a length that grew over sectors which were lost shows zeros.

A sync replays all of it. A sync that failed forgets the sector writes it covered: the cache still
shows them, and nothing will ever write them. Writing a sector again snapshots all of it from the
cache, so that bytes which were lost before come along.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

SECTOR_BYTES: Final = 512
"""What a disk writes whole or not at all."""


@dataclass
class SectorWrite:
    """One sector as the cache held it after a write. `on_disk`: it survived a sync that failed."""

    sector: int
    content: bytes
    on_disk: bool = False


@dataclass(frozen=True)
class Resize:
    """The length that a truncation, or a write past the end, left."""

    size: int


class Pages:
    """Content of one file. `failed_syncs` counts those syncs of it, for handles to compare."""

    def __init__(self) -> None:
        self.cached = bytearray()
        self.durable = bytearray()
        self.failed_syncs = 0
        self._pending: list[SectorWrite | Resize] = []

    def write(self, position: int, data: bytes) -> None:
        """Change the cached view; a gap before `position` reads as zeros."""
        if not data:
            return
        end = position + len(data)
        if end > len(self.cached):
            self.resize(end)
        self.cached[position:end] = data
        for sector in range(position // SECTOR_BYTES, (end - 1) // SECTOR_BYTES + 1):
            start = sector * SECTOR_BYTES
            content = bytes(self.cached[start : start + SECTOR_BYTES])
            self._pending.append(SectorWrite(sector, content.ljust(SECTOR_BYTES, b"\0")))

    def resize(self, size: int) -> None:
        """Cut the cached view or let it grow by zeros."""
        if size != len(self.cached):
            _resize(self.cached, size)
            self._pending.append(Resize(size))

    def settle(self) -> None:
        """All pending changes reach the disk."""
        for change in self._pending:
            _apply(self.durable, change)
        self._pending.clear()

    def lose_writes(self, written: Callable[[], bool]) -> None:
        """A sync failed: each sector it covered is clean now, whether it was `written` or is lost.

        Changes of length stay pending: they are metadata, which the next sync tries again.
        """
        self.failed_syncs += 1
        kept: list[SectorWrite | Resize] = []
        for change in self._pending:
            if isinstance(change, SectorWrite) and not change.on_disk:
                change.on_disk = written()
            if isinstance(change, Resize) or change.on_disk:
                kept.append(change)
        self._pending = kept

    def evict(self) -> None:
        """Drop every clean page: what a failed sync lost shows its old content from now on."""
        image = bytearray(self.durable)
        for change in self._pending:
            _apply(image, change)
        self.cached = image

    def crash(self, random: Random) -> None:
        """Power loss: part of what was pending happened, the rest never did."""
        writes = sum(isinstance(change, SectorWrite) for change in self._pending)
        resizes = len(self._pending) - writes
        survives = iter(survivors(random, writes))
        resizes_left = random.choice((0, resizes, random.randint(0, resizes)))
        for change in self._pending:
            if isinstance(change, SectorWrite):
                if next(survives) or change.on_disk:
                    _apply(self.durable, change)
            elif resizes_left:
                resizes_left -= 1
                size = change.size
                if size > len(self.durable) and not resizes_left and random.random() < 0.5:
                    size = random.randint(len(self.durable) + 1, size)
                _resize(self.durable, size)
        self._pending.clear()
        self.cached = bytearray(self.durable)

    def flip_bit(self, index: int) -> None:
        """Turn one bit over wherever it is held: on disk, in the cache, and in pending writes."""
        byte, mask = index >> 3, 1 << (index & 7)
        for image in (self.cached, self.durable):
            if byte < len(image):
                image[byte] ^= mask
        sector, within = divmod(byte, SECTOR_BYTES)
        for change in self._pending:
            if isinstance(change, SectorWrite) and change.sector == sector:
                content = bytearray(change.content)
                content[within] ^= mask
                change.content = bytes(content)

    def cut(self, size: int) -> None:
        """Somebody else truncates the file, durably."""
        self.resize(min(size, len(self.cached)))
        self.settle()


def survivors(random: Random, count: int) -> list[bool]:
    """Which of `count` independent changes a crash leaves: none, all, the first few, or any."""
    match random.randrange(4):
        case 0:
            return [False] * count
        case 1:
            return [True] * count
        case 2:
            first_lost = random.randint(0, count)
            return [index < first_lost for index in range(count)]
        case _:
            return [random.random() < 0.5 for _ in range(count)]


def _resize(image: bytearray, size: int) -> None:
    if size <= len(image):
        del image[size:]
    else:
        image.extend(bytes(size - len(image)))


def _apply(image: bytearray, change: SectorWrite | Resize) -> None:
    """Let one change happen to an image; what lies past the end of the image does not happen."""
    if isinstance(change, Resize):
        _resize(image, change.size)
        return
    start = change.sector * SECTOR_BYTES
    room = max(0, min(SECTOR_BYTES, len(image) - start))
    image[start : start + room] = change.content[:room]
