"""Codecs: one block in, exactly the declared bytes out, and no more memory than those need."""

import tracemalloc
import zlib

import pytest

from millpond.wire.compression import Codec, codec_named, compress, decompress
from millpond.wire.errors import CorruptBatch, UnsupportedFormat

INSTALLED = [Codec.NONE, Codec.GZIP, Codec.LZ4, Codec.ZSTD]
PACKING = [Codec.GZIP, Codec.LZ4, Codec.ZSTD]
OVERHEAD_BYTES = 1 << 20
"""What a codec may need beside the result: copies of a small block, and its own state."""


def peak_bytes(codec: Codec, block: bytes, size_bytes: int) -> int:
    """The most that was allocated at once while a block was refused."""
    decompress(codec, compress(codec, b"warm"), 4)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptBatch):
            decompress(codec, block, size_bytes)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("codec", INSTALLED)
@pytest.mark.parametrize("data", [b"", b"a", b"abc" * 50_000, bytes(range(256)) * 40])
def test_what_was_compressed_comes_back(codec: Codec, data: bytes) -> None:
    block = compress(codec, data)
    assert decompress(codec, block, len(data)) == data
    assert decompress(codec, memoryview(block), len(data)) == data


@pytest.mark.parametrize("codec", INSTALLED)
def test_equal_input_gives_equal_blocks(codec: Codec) -> None:
    assert compress(codec, b"abc" * 100) == compress(codec, b"abc" * 100)


@pytest.mark.parametrize("codec", INSTALLED)
@pytest.mark.parametrize("data", [b"", b"abc" * 100])
@pytest.mark.parametrize("error", [-1, 1, 50])
def test_any_other_declared_size_is_corrupt(codec: Codec, data: bytes, error: int) -> None:
    block = compress(codec, data)
    if len(data) + error >= 0:
        with pytest.raises(CorruptBatch):
            decompress(codec, block, len(data) + error)


@pytest.mark.parametrize("codec", INSTALLED)
@pytest.mark.parametrize("data", [b"", b"abc" * 100])
def test_a_block_that_goes_on_behind_its_end_is_corrupt(codec: Codec, data: bytes) -> None:
    block = compress(codec, data)
    for more in (b"\0", b"more", compress(codec, b"second block")):
        with pytest.raises(CorruptBatch):
            decompress(codec, block + more, len(data))


@pytest.mark.parametrize("codec", PACKING)
def test_a_block_cut_anywhere_is_corrupt(codec: Codec) -> None:
    data = b"abc" * 100
    block = compress(codec, data)
    for size in range(len(block)):
        with pytest.raises(CorruptBatch):
            decompress(codec, block[:size], len(data))


@pytest.mark.parametrize("codec", PACKING)
def test_what_is_no_block_of_the_codec_is_corrupt(codec: Codec) -> None:
    for block in (b"", b"\0" * 40, b"no block at all", bytes(range(200))):
        with pytest.raises(CorruptBatch):
            decompress(codec, block, 100)


@pytest.mark.parametrize("codec", PACKING)
@pytest.mark.parametrize("declared", [0, 1, 1000])
def test_a_bomb_that_declares_little_is_not_unpacked(codec: Codec, declared: int) -> None:
    bomb = compress(codec, bytes(50 << 20))
    assert peak_bytes(codec, bomb, declared) < OVERHEAD_BYTES


@pytest.mark.parametrize("codec", PACKING)
def test_a_bomb_inside_a_bomb_is_not_unpacked_either(codec: Codec) -> None:
    bomb = compress(codec, compress(codec, bytes(50 << 20)))
    assert peak_bytes(codec, bomb, 1000) < OVERHEAD_BYTES


@pytest.mark.parametrize("codec", PACKING)
def test_a_small_block_that_declares_much_costs_no_more_than_it_declares(codec: Codec) -> None:
    declared = 8 << 20
    assert peak_bytes(codec, compress(codec, b"small"), declared) < 2 * declared + OVERHEAD_BYTES


def test_a_zstd_frame_that_lies_about_its_own_size_is_corrupt() -> None:
    bomb = bytearray(compress(Codec.ZSTD, bytes(1 << 20)))
    # Behind 4 bytes of magic, 1 of description and 1 of window stands the size, little-endian.
    assert int.from_bytes(bomb[6:10], "little") == 1 << 20, "the layout this test relies on"
    bomb[6:10] = (1000).to_bytes(4, "little")
    assert peak_bytes(Codec.ZSTD, bytes(bomb), 1000) < OVERHEAD_BYTES
    bomb[6:10] = (0xFFFF_FFF0).to_bytes(4, "little")
    assert peak_bytes(Codec.ZSTD, bytes(bomb), 1000) < OVERHEAD_BYTES


def test_a_zstd_frame_that_is_to_be_skipped_is_corrupt_whatever_follows_it() -> None:
    skippable = bytes.fromhex("502a4d18") + (4).to_bytes(4, "little") + b"skip"
    for block in (skippable, skippable + compress(Codec.ZSTD, b"abc")):
        for size in (0, 3):
            with pytest.raises(CorruptBatch):
                decompress(Codec.ZSTD, block, size)


def test_a_gzip_block_of_another_encoder_is_read() -> None:
    compressor = zlib.compressobj(level=9, wbits=31)
    block = compressor.compress(b"abc" * 100) + compressor.flush()
    assert decompress(Codec.GZIP, block, 300) == b"abc" * 100


def test_snappy_is_refused_by_name() -> None:
    for call in (
        lambda: compress(Codec.SNAPPY, b"data"),
        lambda: decompress(Codec.SNAPPY, b"data", 4),
        lambda: codec_named("snappy"),
    ):
        with pytest.raises(UnsupportedFormat, match="snappy"):
            call()


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        (None, Codec.NONE),
        ("none", Codec.NONE),
        ("gzip", Codec.GZIP),
        ("lz4", Codec.LZ4),
        ("ZSTD", Codec.ZSTD),
    ],
)
def test_a_codec_is_known_by_its_name(name: str | None, codec: Codec) -> None:
    assert codec_named(name) is codec


@pytest.mark.parametrize("name", ["", "brotli", "0"])
def test_an_unknown_name_is_refused_with_the_choices(name: str) -> None:
    with pytest.raises(ValueError, match="choose none, gzip, lz4 or zstd"):
        codec_named(name)


def test_the_numbers_of_the_codecs_are_those_of_kafka() -> None:
    assert {codec.name: codec.value for codec in Codec} == {
        "NONE": 0,
        "GZIP": 1,
        "SNAPPY": 2,
        "LZ4": 3,
        "ZSTD": 4,
    }
