"""What the application sends becomes bytes, or is refused with an error that says why."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pgq import errors
from pgq.serde import size_of, to_bytes, to_headers


@pytest.mark.parametrize("given", [b"", b"v", bytearray(b"v"), memoryview(b"v")])
def test_bytes_stay_bytes(given: Any) -> None:
    result = to_bytes("value", given, None)
    assert type(result) is bytes
    assert result == bytes(given)


def test_none_passes_every_serializer_by() -> None:
    assert to_bytes("key", None, None) is None
    assert to_bytes("key", None, lambda _: b"never") is None


def test_serializer_is_applied() -> None:
    assert to_bytes("value", {"a": [1]}, lambda v: json.dumps(v).encode()) == b'{"a": [1]}'


@pytest.mark.parametrize("given", ["text", 1, 1.5, [], {}, object()])
def test_other_types_are_refused(given: Any) -> None:
    with pytest.raises(errors.InvalidRecordError, match=f"the key is a {type(given).__name__}.*key_serializer"):
        to_bytes("key", given, None)


def test_serializer_must_return_bytes() -> None:
    with pytest.raises(errors.InvalidRecordError, match="the value is a str"):
        to_bytes("value", 1, str)


def test_headers_keep_order_duplicates_and_none() -> None:
    given = [("b", b"1"), ("a", None), ("b", bytearray(b"2")), ("", b""), ("ü", memoryview(b"3"))]
    assert to_headers(given) == (("b", b"1"), ("a", None), ("b", b"2"), ("", b""), ("ü", b"3"))
    assert to_headers({"x": b"1", "y": None}) == (("x", b"1"), ("y", None))
    assert to_headers(pair for pair in [("a", b"b")]) == (("a", b"b"),)


@pytest.mark.parametrize("given", [None, [], (), {}])
def test_no_headers(given: Any) -> None:
    assert to_headers(given) == ()


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(("key", "text"), id="value is text"),
        pytest.param(("key", 1), id="value is a number"),
        pytest.param((b"key", b"value"), id="key is bytes"),
        pytest.param((None, b"value"), id="no key"),
        pytest.param(("key",), id="no pair"),
        pytest.param(("key", b"value", b"more"), id="three"),
        pytest.param(("a\x00b", b""), id="NUL in the key"),
        pytest.param(("\ud800", b""), id="a lone surrogate in the key"),
        pytest.param(None, id="none"),
    ],
)
def test_bad_headers_are_refused(header: Any) -> None:
    with pytest.raises(errors.InvalidRecordError, match="bad header"):
        to_headers([("good", b""), header])


def test_size_counts_bytes_of_key_value_and_headers() -> None:
    assert size_of(None, None, ()) == 0
    assert size_of(b"kk", b"vvv", (("ü", b"4444"), ("n", None))) == 2 + 3 + 2 + 4 + 1
