"""Compression of a batch body: one block, its uncompressed size known and bounded before allocation."""

from __future__ import annotations

import enum
import zlib
from collections.abc import Callable
from types import MappingProxyType
from typing import Final

from millpond.wire.errors import CorruptBatch, UnsupportedFormat


class Codec(enum.IntEnum):
    """Kafka's codec numbers, as bits 0 to 2 of the attributes hold them."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


_GZIP_WBITS: Final = 31  # zlib's way to ask for the gzip wrapper with the largest window


def codec_named(name: str | None) -> Codec:
    """The codec of a user's word: none, gzip, lz4 or zstd; None is none.

    Raises UnsupportedFormat for snappy, which needs a library this project does not install, and
    ValueError for anything else.
    """
    if name is None:
        return Codec.NONE
    try:
        codec = Codec[name.upper()]
    except KeyError:
        raise ValueError(f"unknown compression {name!r}; choose none, gzip, lz4 or zstd") from None
    if codec is Codec.SNAPPY:
        raise UnsupportedFormat(what="snappy compression is not installed; use lz4 or zstd")
    return codec


def compress(codec: Codec, data: bytes) -> bytes:
    """`data` as one block of `codec`. Raises UnsupportedFormat for a codec that is not installed."""
    return _pair(codec)[0](data)


def decompress(codec: Codec, block: bytes | memoryview, size_bytes: int) -> bytes:
    """The `size_bytes` bytes that `block` holds, never allocating more than twice that on the way.

    Raises CorruptBatch when the block is damaged or holds any other number of bytes, and
    UnsupportedFormat for a codec that is not installed. The caller has bounded `size_bytes`.
    """
    data = _pair(codec)[1](block, size_bytes)
    if len(data) != size_bytes:
        raise CorruptBatch(reason=f"the body declares {size_bytes} bytes and holds {len(data)}")
    return data


def _none_decompress(block: bytes | memoryview, size_bytes: int) -> bytes:
    if len(block) != size_bytes:
        raise CorruptBatch(reason=f"the body declares {size_bytes} bytes and holds {len(block)}")
    return bytes(block)


def _gzip_compress(data: bytes) -> bytes:
    # No file name and no time: equal input gives equal bytes.
    compressor = zlib.compressobj(wbits=_GZIP_WBITS)
    return compressor.compress(data) + compressor.flush()


def _gzip_decompress(block: bytes | memoryview, size_bytes: int) -> bytes:
    decompressor = zlib.decompressobj(wbits=_GZIP_WBITS)
    try:
        # One byte more than declared: an oversized block shows without being unpacked.
        data = decompressor.decompress(block, size_bytes + 1)
        if len(data) <= size_bytes:
            data += decompressor.decompress(decompressor.unconsumed_tail, 1)
    except zlib.error as error:
        raise CorruptBatch(reason=f"gzip: {error}") from None
    if not decompressor.eof or decompressor.unused_data:
        raise CorruptBatch(reason="gzip: the block does not end where the body does")
    return data


def _lz4_compress(data: bytes) -> bytes:
    import lz4.frame  # noqa: PLC0415 - the SDK imports a codec's library when it is first used

    return bytes(lz4.frame.compress(data))


def _lz4_decompress(block: bytes | memoryview, size_bytes: int) -> bytes:
    import lz4.frame  # noqa: PLC0415 - the SDK imports a codec's library when it is first used

    decompressor = lz4.frame.LZ4FrameDecompressor()
    try:
        data = bytes(decompressor.decompress(bytes(block), size_bytes + 1))
        if not decompressor.eof and len(data) <= size_bytes:
            data += decompressor.decompress(b"", 1)
    except (RuntimeError, EOFError) as error:
        raise CorruptBatch(reason=f"lz4: {error}") from None
    if not decompressor.eof or decompressor.unused_data:
        raise CorruptBatch(reason="lz4: the block does not end where the body does")
    return data


def _zstd_compress(data: bytes) -> bytes:
    import zstandard  # noqa: PLC0415 - the SDK imports a codec's library when it is first used

    return bytes(zstandard.ZstdCompressor(level=1).compress(data))


def _zstd_decompress(block: bytes | memoryview, size_bytes: int) -> bytes:
    import zstandard  # noqa: PLC0415 - the SDK imports a codec's library when it is first used

    try:
        # The library allocates what the frame says, whatever limit it is given: hold that to ours first.
        # The encoder always writes the size, so a frame without one (-1) is not ours.
        if zstandard.frame_content_size(block) != size_bytes:
            raise CorruptBatch(reason="zstd: the frame's size is not the body's")
        # The library looks neither behind an empty frame nor at what a skippable one skips.
        if not size_bytes and bytes(block) != _zstd_compress(b""):
            raise CorruptBatch(reason="zstd: the block does not end where the body does")
        decompressor = zstandard.ZstdDecompressor()
        return bytes(decompressor.decompress(block, size_bytes, allow_extra_data=False))
    except zstandard.ZstdError as error:
        raise CorruptBatch(reason=f"zstd: {error}") from None


_Compress = Callable[[bytes], bytes]
_Decompress = Callable[[bytes | memoryview, int], bytes]

_CODECS: Final = MappingProxyType[Codec, tuple[_Compress, _Decompress]](
    {
        Codec.NONE: (bytes, _none_decompress),
        Codec.GZIP: (_gzip_compress, _gzip_decompress),
        Codec.LZ4: (_lz4_compress, _lz4_decompress),
        Codec.ZSTD: (_zstd_compress, _zstd_decompress),
    }
)


def _pair(codec: Codec) -> tuple[_Compress, _Decompress]:
    if codec not in _CODECS:
        raise UnsupportedFormat(what=f"{codec.name.lower()} compression is not installed")
    return _CODECS[codec]
