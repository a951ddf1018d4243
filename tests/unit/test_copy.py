"""The bytes of a batch are those that PostgreSQL's binary COPY describes. tests/clients sends them to PostgreSQL."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgq.core import copy
from pgq.core.copy import EPOCH_2000_MS, Row

headers = st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=3).map(tuple)
rows = st.lists(
    st.tuples(
        st.integers(0, 4_000_000_000_000), st.none() | st.binary(max_size=9), st.none() | st.binary(max_size=9), headers
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


def read(data: bytes, *, with_headers: bool) -> list[tuple[int, int, Row]]:
    assert data.startswith(copy.HEADER)
    assert data.endswith(copy.TRAILER)
    reader = Reader(data[len(copy.HEADER) : -len(copy.TRAILER)])
    result = []
    while reader.at < len(reader.data):
        assert reader.take("h") == (7 if with_headers else 5)
        assert reader.take("i") == 4
        partition = reader.take("i")
        assert reader.take("i") == 8
        offset = reader.take("q")
        assert reader.take("i") == 8
        timestamp = reader.take("q") // 1000 + EPOCH_2000_MS
        key, value = reader.field(), reader.field()
        pairs: Any = ()
        if with_headers:
            names, values = reader.array(25), reader.array(17)
            assert (names is None) == (values is None)
            if names is not None and values is not None:
                pairs = tuple((n.decode(), v) for n, v in zip(names, values, strict=True) if n is not None)
        result.append((partition, offset, (timestamp, key, value, pairs)))
    return result


@given(st.integers(0, 999), st.integers(0, 2**62), rows)
def test_round_trip(partition: int, first: int, batch: list[Row]) -> None:
    offsets = range(first, first + len(batch))
    data = b"".join(copy.encode([(partition, offsets, batch)], headers=True))
    assert read(data, with_headers=True) == [
        (partition, offset, row) for offset, row in zip(offsets, batch, strict=True)
    ]


@given(rows)
def test_round_trip_without_headers(batch: list[Row]) -> None:
    bare = [(timestamp, key, value, ()) for timestamp, key, value, _ in batch]
    data = b"".join(copy.encode([(7, range(len(bare)), bare)], headers=False))
    assert read(data, with_headers=False) == [(7, offset, row) for offset, row in enumerate(bare)]


def test_every_row_needs_an_offset() -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        list(copy.encode([(0, [1], [(0, None, None, ())] * 2)], headers=False))


def test_a_large_batch_comes_in_pieces() -> None:
    batch: list[Row] = [(0, None, b"v" * 1000, ())] * 100
    pieces = list(copy.encode([(0, range(100), batch), (1, range(50), batch[:50])], headers=False))
    assert 5 < len(pieces) < 20
    assert max(map(len, pieces)) < 2 * copy.CHUNK_BYTES
    assert [row[:2] for row in read(b"".join(pieces), with_headers=False)] == [
        *((0, offset) for offset in range(100)),
        *((1, offset) for offset in range(50)),
    ]
