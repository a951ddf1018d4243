"""Compression of values: Kafka's codecs, each by the library that Python has for it.

A value is compressed by itself, so that every record stays a row that can be read alone; small ones gain nothing by it.
The codec is stored with the record, under Kafka's number.
"""

from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from pgq import errors

GZIP, LZ4, ZSTD = 1, 3, 4
NUMBERS = {"gzip": GZIP, "lz4": LZ4, "zstd": ZSTD}
"""Source: Kafka, CompressionType. Snappy's 2 is not supported."""

_GZIP_FORMAT = 16 + zlib.MAX_WBITS
_ZSTD_MODULE = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"


class Compressor(NamedTuple):
    """A codec's number and the function that compresses with it."""

    number: int
    compress: Callable[[bytes], bytes]


def compressor(name: str) -> Compressor | None:
    """Return what compresses by a codec of this name; None for "none" and "uncompressed".

    Raises:
        UnsupportedCompressionTypeError: there is no such codec, or its library is not installed.
    """
    if name in ("none", "uncompressed"):
        return None
    if name == "gzip":
        return Compressor(GZIP, _gzip)
    if name == "lz4":
        return Compressor(LZ4, _module("lz4.frame", "lz4").compress)
    if name == "zstd":
        return Compressor(ZSTD, _module(_ZSTD_MODULE, "zstd").compress)
    raise errors.UnsupportedCompressionTypeError(
        f"unknown compression type {name!r}: there are none, gzip, lz4 and zstd"
    )


def decompress(codec: int, data: bytes, most_bytes: int) -> bytes:
    """Return what was compressed, if it is at most so many bytes: what a few bytes say may be gigabytes.

    Raises:
        CorruptRecordError: it is more, or no data of this codec.
        UnsupportedCompressionTypeError: the codec is not known, or its library is not installed.
    """
    decompressor: Any
    if codec == GZIP:
        decompressor = zlib.decompressobj(_GZIP_FORMAT)
    elif codec == LZ4:
        decompressor = _module("lz4.frame", "lz4").LZ4FrameDecompressor()
    elif codec == ZSTD:
        decompressor = _module(_ZSTD_MODULE, "zstd").ZstdDecompressor()
    else:
        raise errors.UnsupportedCompressionTypeError(f"unknown codec {codec}: upgrade pgq-log, or skip the record")
    try:
        result: bytes = decompressor.decompress(data, most_bytes + 1)
    except Exception as error:
        raise errors.CorruptRecordError(f"the value cannot be decompressed: {error}") from error
    if len(result) > most_bytes:
        raise errors.CorruptRecordError(
            f"the value decompresses to more than {most_bytes} bytes: raise max_decompressed_bytes if that is right"
        )
    if not decompressor.eof:
        raise errors.CorruptRecordError("the value cannot be decompressed: it is cut short")
    return result


def _gzip(data: bytes) -> bytes:
    return zlib.compress(data, wbits=_GZIP_FORMAT)


def _module(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise errors.UnsupportedCompressionTypeError(
            f"{extra} needs a library that is not installed: pip install 'pgq-log[{extra}]'"
        ) from error
