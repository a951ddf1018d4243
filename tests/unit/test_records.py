"""Which rows of a window may be delivered, and in what form."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from pgq.core.records import decode, deliverable
from pgq.types import ConsumerRecord


@st.composite
def windows(draw: st.DrawFn) -> tuple[list[tuple[int]], int, int]:
    """The rows of a window, the reader's position, and a high watermark."""
    position = draw(st.integers(0, 20))
    offsets = draw(st.sets(st.integers(position, position + 20)))
    return [(offset,) for offset in sorted(offsets)], position, draw(st.integers(0, 45))


def model(offsets: set[int], position: int, decided: int) -> int:
    """The rule, offset by offset: stop at the first that is missing and not decided."""
    delivered = 0
    for offset in range(position, max(offsets, default=position) + 1):
        if offset in offsets:
            delivered += 1
        elif offset >= decided:
            break
    return delivered


@given(windows())
def test_deliverable_agrees_with_the_rule(window: tuple[list[tuple[int]], int, int]) -> None:
    rows, position, decided = window
    assert deliverable(rows, position, decided) == model({offset for (offset,) in rows}, position, decided)


def test_nothing_is_delivered_of_nothing() -> None:
    assert deliverable([], 5, 100) == 0
    assert decode("t", 0, [], None, None, 100) == []


def test_decode() -> None:
    rows = [
        (4, 1000, b"k", b'{"a": 1}', ["h", "h", "n"], [b"1", b"2", None], None),
        (6, 2000, None, None, None, None, None),
        (7, 3000, b"", b"[]", [], [], None),
    ]
    assert decode("t", 3, rows, bytes.decode, json.loads, 100) == [
        ConsumerRecord("t", 3, 4, 1000, 0, "k", {"a": 1}, (("h", b"1"), ("h", b"2"), ("n", None))),
        ConsumerRecord("t", 3, 6, 2000, 0, None, None, ()),
        ConsumerRecord("t", 3, 7, 3000, 0, "", [], ()),
    ]


def test_decode_without_deserializers_keeps_the_bytes() -> None:
    (record,) = decode("t", 0, [(0, 0, b"k", b"v", None, None, None)], None, None, 100)
    assert isinstance(record, ConsumerRecord)
    assert (record.key, record.value, record.headers) == (b"k", b"v", ())
