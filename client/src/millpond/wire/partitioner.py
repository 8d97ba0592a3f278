"""Which partition a key belongs to: the one mapping that every client must agree on."""

from __future__ import annotations

import mmh3


def partition_for(key: bytes, partitions: int) -> int:
    """The partition of `key` among `partitions`: murmur3 x86 32 with seed 0, unsigned, modulo."""
    return mmh3.hash(key, seed=0, signed=False) % partitions
