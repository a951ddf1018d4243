"""The bytes of a batch are those that PostgreSQL's binary COPY describes. tests/clients sends them to PostgreSQL."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgq.core import copy
from pgq.core.copy import EPOCH_2000_MS, Row

pairs = st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=3).map(tuple)
rows = st.lists(
    st.tuples(
        st.integers(0, 4_000_000_000_000),
        st.none() | st.binary(max_size=9),
        st.none() | st.binary(max_size=9),
        pairs,
        st.sampled_from([0, 1, 3, 4]),
    ),
    max_size=5,
)


class Reader:
    """Reads binary COPY as PostgreSQL's documentation describes it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, form: str) -> Any:
        (result,) = struct.unpack_from("!" + form, self.data, self.at)
        self.at += struct.calcsize("!" + form)
        return result

    def field(self) -> bytes | None:
        length = self.take("i")
        return None if length == -1 else self.take(f"{length}s")

    def array(self, oid: int) -> list[bytes | None] | None:
        length = self.take("i")
        if length == -1:
            return None
        end = self.at + length
        assert self.take("i") == 1
        has_null = self.take("i")
        assert self.take("i") == oid
        count = self.take("i")
        assert self.take("i") == 1
        elements = [self.field() for _ in range(count)]
        assert self.at == end
        assert has_null == (None in elements)
        return elements


def read(data: bytes, *, headers: bool, codecs: bool) -> list[tuple[int, int, Row]]:
    assert data.startswith(copy.HEADER)
    assert data.endswith(copy.TRAILER)
    reader = Reader(data[len(copy.HEADER) : -len(copy.TRAILER)])
    result = []
    while reader.at < len(reader.data):
        assert reader.take("h") == 5 + 2 * headers + codecs
        assert reader.take("i") == 4
        partition = reader.take("i")
        assert reader.take("i") == 8
        offset = reader.take("q")
        assert reader.take("i") == 8
        timestamp = reader.take("q") // 1000 + EPOCH_2000_MS
        key, value = reader.field(), reader.field()
        pairs: Any = ()
        if headers:
            names, values = reader.array(25), reader.array(17)
            assert (names is None) == (values is None)
            if names is not None and values is not None:
                pairs = tuple((n.decode(), v) for n, v in zip(names, values, strict=True) if n is not None)
        codec = 0
        if codecs and reader.take("i") != -1:
            codec = reader.take("h")
        result.append((partition, offset, (timestamp, key, value, pairs, codec)))
    return result


@given(st.integers(0, 999), st.integers(0, 2**62), rows, st.booleans(), st.booleans())
def test_round_trip(partition: int, first: int, batch: list[Row], headers: bool, codecs: bool) -> None:
    batch = [(*row[:3], row[3] if headers else (), row[4] if codecs else 0) for row in batch]
    offsets = range(first, first + len(batch))
    data = b"".join(copy.encode([(partition, offsets, batch)], headers=headers, codecs=codecs))
    assert read(data, headers=headers, codecs=codecs) == [
        (partition, offset, row) for offset, row in zip(offsets, batch, strict=True)
    ]


def test_every_row_needs_an_offset() -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        list(copy.encode([(0, [1], [(0, None, None, (), 0)] * 2)], headers=False, codecs=False))


def test_a_large_batch_comes_in_pieces() -> None:
    batch: list[Row] = [(0, None, b"v" * 1000, (), 0)] * 100
    pieces = list(copy.encode([(0, range(100), batch), (1, range(50), batch[:50])], headers=False, codecs=False))
    assert 5 < len(pieces) < 20
    assert max(map(len, pieces)) < 2 * copy.CHUNK_BYTES
    assert [row[:2] for row in read(b"".join(pieces), headers=False, codecs=False)] == [
        *((0, offset) for offset in range(100)),
        *((1, offset) for offset in range(50)),
    ]
