"""The mapping of keys to partitions, which must be the same in every client there will ever be."""

import pytest

from millpond.wire.partitioner import partition_for

WIDE = 1 << 40
"""More partitions than there are hashes: the partition is the hash itself."""


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        # Published values of MurmurHash3 x86 32 with seed 0.
        (b"", 0),
        (b"foo", 4138058784),
        (b"test", 0xBA6BD213),
        (b"Hello, world!", 0xC0363E43),
        (b"The quick brown fox jumps over the lazy dog", 0x2E4FF723),
    ],
)
def test_the_hash_is_murmur3_x86_32_with_seed_0_and_unsigned(key: bytes, hashed: int) -> None:
    assert partition_for(key, WIDE) == hashed


@pytest.mark.parametrize("partitions", [1, 2, 3, 12, 1000])
def test_the_partition_is_the_hash_modulo_their_number(partitions: int) -> None:
    assert partition_for(b"foo", partitions) == 4138058784 % partitions


def murmur3(key: bytes) -> int:
    """The published algorithm, word for word, as a second opinion."""

    def rotated(word: int, bits: int) -> int:
        return (word << bits | word >> (32 - bits)) & 0xFFFF_FFFF

    def mixed(word: int) -> int:
        return rotated(word * 0xCC9E2D51 & 0xFFFF_FFFF, 15) * 0x1B873593 & 0xFFFF_FFFF

    state, whole = 0, len(key) - len(key) % 4
    for at in range(0, whole, 4):
        state ^= mixed(int.from_bytes(key[at : at + 4], "little"))
        state = (rotated(state, 13) * 5 + 0xE6546B64) & 0xFFFF_FFFF
    state ^= mixed(int.from_bytes(key[whole:], "little")) ^ len(key)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        state = (state ^ state >> shift) * factor & 0xFFFF_FFFF
    return state


def test_keys_of_every_length_and_byte_agree_with_the_published_algorithm() -> None:
    for size in range(40):
        for first in (0, 127, 128, 255):
            key = bytes((first + 37 * index) & 0xFF for index in range(size))
            assert partition_for(key, WIDE) == murmur3(key)


def test_keys_that_count_up_spread_over_all_partitions() -> None:
    counts = [0] * 12
    for number in range(12_000):
        counts[partition_for(f"user-{number}".encode(), 12)] += 1
    assert min(counts) > 850
    assert max(counts) < 1150
