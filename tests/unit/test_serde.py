"""What the application sends becomes bytes, or is refused with an error that says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from pgq import errors
from pgq.serde import deserializer, serializer, size_of, to_bytes, to_headers


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


class Order(BaseModel):
    number: int
    placed: datetime | None = None


def written(kind: Any, value: Any) -> bytes:
    write: Callable[[Any], bytes] | None = serializer("value", kind)
    assert write is not None
    return write(value)


def read(kind: Any, stored: bytes) -> Any:
    make: Callable[[bytes], Any] | None = deserializer("value", kind)
    assert make is not None
    return make(stored)


@pytest.mark.parametrize("value", ["", "ä€𝄞", "a\x00b"])
def test_str_there_and_back(value: str) -> None:
    assert written("str", value) == value.encode()
    assert read("str", value.encode()) == value


@pytest.mark.parametrize("value", [1, 1.5, "ä", True, [], {"a": [1, {"b": None}]}, 10**30, "a\x00b"])
def test_json_there_and_back(value: Any) -> None:
    stored = written("json", value)
    assert json.loads(stored) == value
    assert read("json", stored) == value


def test_json_is_compact_and_utf_8() -> None:
    assert written("json", {"ä": [1, 2]}) == '{"ä":[1,2]}'.encode()


def test_json_of_what_json_does_not_know() -> None:
    order = Order(number=1, placed=datetime(2026, 1, 2, tzinfo=UTC))
    value = {"order": order, "id": UUID(int=1), "price": Decimal("1.50")}
    assert json.loads(written("json", value)) == {
        "order": {"number": 1, "placed": "2026-01-02T00:00:00Z"},
        "id": "00000000-0000-0000-0000-000000000001",
        "price": "1.50",
    }


def test_model_there_and_back() -> None:
    order = Order(number=7)
    assert read(Order, written(Order, order)) == order
    assert read(Order, written(Order, {"number": "7"})) == order


@pytest.mark.parametrize(
    "kind, value",
    [
        ("str", 1),
        ("str", b"bytes"),
        ("str", "\ud800"),
        ("json", float("nan")),
        ("json", {"a": [float("inf")]}),
        ("json", {"a": "\ud800"}),
        ("json", object()),
        ("json", {(1, 2): 3}),
        (Order, {"number": "seven"}),
        (Order, "text"),
    ],
)
def test_what_cannot_be_written_is_refused(kind: Any, value: Any) -> None:
    with pytest.raises(errors.InvalidRecordError, match="the value "):
        written(kind, value)


def test_json_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(errors.InvalidRecordError, match="cannot be JSON"):
        written("json", value)


@pytest.mark.parametrize("make", [serializer, deserializer])
def test_kinds(make: Callable[[str, Any], Any]) -> None:
    def mine(value: Any) -> Any:
        return value

    assert make("key", None) is None
    assert make("key", "bytes") is None
    assert make("key", mine) is mine
    for unknown in ("avro", 1, object()):
        with pytest.raises(errors.InvalidRequestError, match=r'key_(de)?serializer is .*"json"'):
            make("key", unknown)
