"""Sparse index of one segment: sorted keys to values, in memory and in an append-only file of blocks.

Two are kept for each segment: offsets (relative offset to position) and times (rule 36: an entry (T, O)
says that T is the greatest timestamp before offset O). An index is a cache. A block carries a checksum,
seeded with the segment's base offset, and how far into the segment it covers; whatever does not add up is
rebuilt from the segment. Nothing here is synced but on request: losing an index costs a scan.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from typing import Final

from crc32c import crc32c

from millpond_broker.storage.files import File

OFFSET_KEY: Final = "I"
TIME_KEY: Final = "q"
_VALUE: Final = "I"
_BLOCK: Final = struct.Struct("<IQ")  # entries, position covered
_CHECKSUM: Final = struct.Struct("<I")
_SWAP: Final = sys.byteorder == "big"


class SparseIndex:
    """Strictly increasing keys, increasing values.

    `covered` is the position in the segment up to which every batch was offered to this index; it only
    grows, except by `truncate`. `_flushed` counts the entries that are in the file.
    """

    def __init__(self, key_code: str, base_offset: int) -> None:
        self._keys = array(key_code)
        self._values = array(_VALUE)
        self._seed = crc32c(b"%s%d" % (key_code.encode(), base_offset))
        self._flushed = 0
        self._file_size = 0
        self._file_covered = 0
        self.covered = 0

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: int, value: int) -> None:
        """Append an entry, unless its key does not grow."""
        if not self._keys or key > self._keys[-1]:
            self._keys.append(key)
            self._values.append(value)

    def floor(self, key: int) -> tuple[int, int]:
        """The last entry whose key is at most `key`, as (key, value); (0, 0) if there is none."""
        at = bisect_right(self._keys, key)
        return (self._keys[at - 1], self._values[at - 1]) if at else (0, 0)

    def below(self, key: int) -> int:
        """Value of the last entry whose key is less than `key`; 0 if there is none."""
        at = bisect_left(self._keys, key)
        return self._values[at - 1] if at else 0

    def last_key(self) -> int | None:
        """The greatest key."""
        return self._keys[-1] if self._keys else None

    def last_value(self) -> int:
        """The value of the greatest key; 0 if there is none."""
        return self._values[-1] if self._values else 0

    def forget_file(self) -> None:
        """The index file is gone: the next flush writes everything."""
        self._flushed = self._file_size = self._file_covered = 0

    def keep_values_up_to(self, value: int, covered: int) -> None:
        """Forget entries whose value is above `value`; the next batch to be offered is at `covered`.
        The next flush replaces the file.
        """
        kept = bisect_right(self._values, value)
        del self._keys[kept:], self._values[kept:]
        self.covered = covered
        self.forget_file()

    def flush(self, file: File) -> None:
        """Append what the file lacks as one block. Durable after the file's `sync`. Raises OSError."""
        if self._flushed == len(self._keys) and self._file_covered == self.covered:
            return
        keys, values = self._keys[self._flushed :], self._values[self._flushed :]
        if _SWAP:
            keys.byteswap()
            values.byteswap()
        if not self._file_size:
            file.truncate(0)  # blocks of another life of this segment must not follow ours
        block = _BLOCK.pack(len(keys), self.covered) + keys.tobytes() + values.tobytes()
        block += _CHECKSUM.pack(crc32c(block, self._seed))
        written = file.write_at(self._file_size, (block,))
        if written == len(block):
            self._file_size += written
            self._flushed = len(self._keys)
            self._file_covered = self.covered

    def load(self, file: File) -> None:
        """Take the blocks of `file` up to the first that is not sound. Call it on an empty index."""
        assert not self._keys, "an index is loaded once"
        data = file.read_at(0, file.size())
        at = 0
        while (end := self._load_block(data, at)) is not None:
            at = end
        self._file_size = at
        self._flushed = len(self._keys)
        self._file_covered = self.covered

    def _load_block(self, data: bytes, at: int) -> int | None:
        """Add the block at `at`; where the next begins, or None if there is no sound one."""
        if at + _BLOCK.size + _CHECKSUM.size > len(data):
            return None
        count, covered = _BLOCK.unpack_from(data, at)
        keys_at = at + _BLOCK.size
        values_at = keys_at + count * self._keys.itemsize
        end: int = values_at + count * self._values.itemsize
        if end + _CHECKSUM.size > len(data):
            return None
        if _CHECKSUM.unpack_from(data, end)[0] != crc32c(data[at:end], self._seed):
            return None
        keys, values = array(self._keys.typecode), array(_VALUE)
        keys.frombytes(data[keys_at:values_at])
        values.frombytes(data[values_at:end])
        if _SWAP:
            keys.byteswap()
            values.byteswap()
        if keys and self._keys and keys[0] <= self._keys[-1]:
            return None  # a block of another life of this segment
        self._keys.extend(keys)
        self._values.extend(values)
        self.covered = covered
        return end + _CHECKSUM.size
