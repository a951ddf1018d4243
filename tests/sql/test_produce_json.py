"""pgq.produce_json appends a record whose value is JSON, key and headers text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from pgq.core.partitioner import partition_for_key
from tests.plugins.sessions import Connection, call, refused, rows

NESTED = {"a": [1, 2.5, None, True, {"ü": "\u2603 'quoted' \\ \"x\""}], "b": ""}


@pytest.mark.parametrize("given", [NESTED, {}, [], [1], "text", 1, True, None])
def test_value_is_stored_as_json_text(conn: Connection, topic: str, given: Any) -> None:
    assert call(conn, "produce_json", topic=topic, value=Jsonb(given)) == [(0, 0)]
    ((stored,),) = rows(conn, "select value from pgq.fetch(%s, 0, 0)", topic)
    assert json.loads(stored) == given


def test_sql_null_is_a_null_value(conn: Connection, topic: str) -> None:
    call(conn, "produce_json", topic=topic, value=None, key="k")
    assert rows(conn, "select key, value, header_keys from pgq.fetch(%s, 0, 0)", topic) == [(b"k", None, None)]


@pytest.mark.parametrize(
    "headers, stored",
    [
        (None, {}),
        (Jsonb({}), {}),
        (Jsonb({"a": "1", "b": None, "": ""}), {"a": b"1", "b": None, "": b""}),
        (Jsonb({"n": 1, "o": {"x": [1]}, "ü": "ß"}), {"n": b"1", "o": b'{"x": [1]}', "ü": "ß".encode()}),
    ],
)
def test_headers(conn: Connection, topic: str, headers: Any, stored: dict[str, bytes | None]) -> None:
    call(conn, "produce_json", topic=topic, value=Jsonb(1), headers=headers)
    ((keys, values),) = rows(conn, "select header_keys, header_values from pgq.fetch(%s, 0, 0)", topic)
    if stored:
        assert dict(zip(keys, values, strict=True)) == stored
    else:
        assert (keys, values) == (None, None)


@pytest.mark.parametrize("headers", [["a"], "a", 1, [["a", "b"]]])
def test_headers_must_be_an_object(conn: Connection, topic: str, headers: Any) -> None:
    """By the SQLSTATE that pgq.produce promises."""
    with refused("PQ018"):
        call(conn, "produce_json", topic=topic, value=Jsonb(1), headers=Jsonb(headers))


def test_partition_key_and_timestamp(conn: Connection, wide_topic: str) -> None:
    assert call(conn, "produce_json", topic=wide_topic, value=Jsonb(1), key="ü") == [
        (partition_for_key("ü".encode(), 5), 0)
    ]
    assert (
        call(
            conn, "produce_json", topic=wide_topic, value=Jsonb(1), partition=3, timestamp="2024-01-01 00:00:00.0009+00"
        )[0][0]
        == 3
    )
    assert rows(conn, "select \"timestamp\" = '2024-01-01 00:00:00+00' from pgq.fetch(%s, 3, 0)", wide_topic)[-1] == (
        True,
    )


@pytest.mark.parametrize(
    "arguments, sqlstate",
    [
        ({"topic": "nope"}, "PQ001"),
        ({"topic": None}, "PQ001"),
        ({"partition": 5}, "PQ002"),
        ({"partition": -1}, "PQ002"),
        ({"value": Jsonb("x" * 1_048_576)}, "PQ007"),
        ({"timestamp": "infinity"}, "PQ017"),
        ({"timestamp": "1960-01-01"}, "PQ017"),
    ],
)
def test_what_is_refused(conn: Connection, wide_topic: str, arguments: dict[str, Any], sqlstate: str) -> None:
    with refused(sqlstate):
        call(conn, "produce_json", **({"topic": wide_topic, "value": Jsonb(1)} | arguments))


def test_size_is_that_of_the_text(conn: Connection, topic: str) -> None:
    call(conn, "produce_json", topic=topic, value=Jsonb("x" * 1_048_574))
    with refused("PQ007"):
        call(conn, "produce_json", topic=topic, value=Jsonb("x" * 1_048_575))
