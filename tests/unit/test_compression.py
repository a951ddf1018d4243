"""What is compressed comes back, at most as long as allowed; what is no such is refused."""

from __future__ import annotations

import gzip
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgq import errors
from pgq.core.compression import NUMBERS, ZSTD, Compressor, compressor, decompress


def make(name: str) -> Compressor:
    result = compressor(name)
    assert result is not None
    return result


@pytest.mark.parametrize("name", NUMBERS)
@given(data=st.binary(min_size=1, max_size=2000))
def test_round_trip(name: str, data: bytes) -> None:
    codec = make(name)
    assert codec.number == NUMBERS[name]
    assert decompress(codec.number, codec.compress(data), len(data)) == data


@pytest.mark.parametrize("name", ["none", "uncompressed"])
def test_none(name: str) -> None:
    assert compressor(name) is None


def test_gzip_is_what_everybody_reads() -> None:
    assert gzip.decompress(make("gzip").compress(b"hello" * 10)) == b"hello" * 10


@pytest.mark.parametrize("name", NUMBERS)
def test_a_bomb_is_refused_before_it_goes_off(name: str) -> None:
    codec = make(name)
    bomb = codec.compress(bytes(10_000_000))
    assert len(bomb) < 100_000
    with pytest.raises(errors.CorruptRecordError, match="more than 9999999 bytes"):
        decompress(codec.number, bomb, 9_999_999)
    assert len(decompress(codec.number, bomb, 10_000_000)) == 10_000_000


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_damaged_data_is_refused(name: str, damage: str) -> None:
    codec = make(name)
    data = codec.compress(b"hello" * 100)
    damaged = {"cut": data[:-5], "other": b"plain text, not compressed", "empty": b""}[damage]
    with pytest.raises(errors.CorruptRecordError):
        decompress(codec.number, damaged, 10_000)


def test_unknown_codecs_are_refused() -> None:
    with pytest.raises(errors.UnsupportedCompressionTypeError, match="snappy"):
        compressor("snappy")
    with pytest.raises(errors.UnsupportedCompressionTypeError, match="2"):
        decompress(2, b"", 10)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(errors.UnsupportedCompressionTypeError, match=r"pgq-log\[zstd\]"):
        compressor("zstd")
    with pytest.raises(errors.UnsupportedCompressionTypeError, match=r"pgq-log\[zstd\]"):
        decompress(ZSTD, b"", 10)
