"""pgq.produce_batch appends many records at once, all or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from pgq.core.partitioner import partition_for_key
from tests.plugins.sessions import ISOLATION_LEVELS, Connection, call, refused, rows, value

from .conftest import MakeTopic


def test_offsets_come_in_the_order_given(conn: Connection, wide_topic: str) -> None:
    partitions = [3, 1, 3, 0, 1, 3]
    values = [b"%d" % i for i in range(6)]
    result = call(conn, "produce_batch", topic=wide_topic, values=values, partitions=partitions)
    assert result == [(3, 0), (1, 0), (3, 1), (0, 0), (1, 1), (3, 2)]
    for given, (partition, offset) in zip(values, result, strict=True):
        assert rows(conn, "select value from pgq.fetch(%s, %s, %s, 1)", wide_topic, partition, offset) == [(given,)]


def test_records_are_kept_as_given(conn: Connection, topic: str) -> None:
    call(
        conn,
        "produce_batch",
        topic=topic,
        values=[b"v", None, b"", bytes(range(256))],
        keys=[b"k", b"", None, b"it's"],
        partitions=[0, None, 0, None],
        timestamps=["2024-01-01 00:00:00.0009+00", "1970-01-01 00:00:00+00", None, None],
        headers=[Jsonb({"a": "1", "b": None}), None, Jsonb({}), Jsonb({"n": 2})],
    )
    conn.execute("set timezone = 'UTC'")
    assert rows(conn, "select key, value, header_keys, header_values from pgq.fetch(%s, 0, 0)", topic) == [
        (b"k", b"v", ["a", "b"], [b"1", None]),
        (b"", None, None, None),
        (None, b"", None, None),
        (b"it's", bytes(range(256)), ["n"], [b"2"]),
    ]
    assert rows(conn, 'select "timestamp"::text from pgq.fetch(%s, 0, 0, 2)', topic) == [
        ("2024-01-01 00:00:00+00",),
        ("1970-01-01 00:00:00+00",),
    ]
    assert value(
        conn, "select bool_and(now() - \"timestamp\" < interval '1 minute') from pgq.fetch(%s, 0, 2, 2)", topic
    )


def test_keys_decide_and_records_without_one_are_spread(conn: Connection, wide_topic: str) -> None:
    keys = [b"%d" % i for i in range(100)]
    chosen = call(conn, "produce_batch", topic=wide_topic, values=[b"v"] * 100, keys=keys)
    assert [p for p, _ in chosen] == [partition_for_key(key, 5) for key in keys]
    assert {p for p, _ in call(conn, "produce_batch", topic=wide_topic, values=[b"v"] * 200)} == set(range(5))


@pytest.mark.parametrize("values", [[], None])
def test_empty_batch(conn: Connection, topic: str, values: list[bytes] | None) -> None:
    assert call(conn, "produce_batch", topic=topic, values=values) == []
    assert value(conn, "select pgq.log_end_offset(%s, 0)", topic) == 0


@pytest.mark.parametrize("isolation", ISOLATION_LEVELS)
@pytest.mark.parametrize("partitions", [1, 3])
def test_batch_wider_than_a_segment(conn: Connection, make_topic: MakeTopic, partitions: int, isolation: str) -> None:
    topic = make_topic("orders", partitions)
    conn.execute(f"set default_transaction_isolation = '{isolation}'")
    given = [b"%d" % i for i in range(5000 * partitions)]
    where = [i % partitions for i in range(5000 * partitions)]
    assert call(conn, "produce_batch", topic=topic, values=given, partitions=where) == [
        (i % partitions, i // partitions) for i in range(5000 * partitions)
    ]
    conn.execute("set default_transaction_isolation = 'read committed'")
    for partition in range(partitions):
        read = rows(conn, "select value from pgq.fetch(%s, %s, 0, 10000)", topic, partition)
        assert [v for (v,) in read] == given[partition::partitions]


@pytest.mark.parametrize("end", ["rollback", "commit"])
def test_batch_joins_the_transaction(
    conn: Connection, connect: Callable[[], Connection], wide_topic: str, end: str
) -> None:
    writer = connect()
    writer.execute("begin")
    call(writer, "produce_batch", topic=wide_topic, values=[b"v"] * 3, partitions=[0, 0, 1])
    call(writer, "produce_batch", topic=wide_topic, values=[b"v"] * 2, partitions=[0, 2])
    assert value(conn, "select pgq.high_watermark(%s, 0)", wide_topic) == 0
    writer.execute(end)
    assert value(conn, "select pgq.high_watermark(%s, 0)", wide_topic) == 3
    assert value(conn, "select count(*) from pgq.fetch(%s, 0, 0)", wide_topic) == (3 if end == "commit" else 0)


@pytest.mark.parametrize(
    "arguments, sqlstate",
    [
        pytest.param({"topic": "nope"}, "PQ001", id="unknown topic"),
        pytest.param({"topic": None}, "PQ001", id="no topic"),
        pytest.param({"partitions": [0, 5]}, "PQ002", id="partition too large"),
        pytest.param({"partitions": [0, -1]}, "PQ002", id="negative partition"),
        pytest.param({"values": [b"v", bytes(1_048_577)]}, "PQ007", id="value too large"),
        pytest.param({"values": [b"v", bytes(1_048_576)], "keys": [None, b"k"]}, "PQ007", id="with its key"),
        pytest.param(
            {"values": [b"v", bytes(1_048_576)], "headers": [None, Jsonb({"h": None})]}, "PQ007", id="with its headers"
        ),
        pytest.param({"timestamps": ["2024-01-01", "infinity"]}, "PQ017", id="infinite timestamp"),
        pytest.param({"timestamps": ["2024-01-01", "-infinity"]}, "PQ017", id="minus infinite timestamp"),
        pytest.param({"timestamps": ["2024-01-01", "1969-12-31 12:00:00+00"]}, "PQ017", id="timestamp before 1970"),
        pytest.param({"keys": [b"k"]}, "PQ018", id="fewer keys"),
        pytest.param({"keys": []}, "PQ018", id="no key at all"),
        pytest.param({"keys": [b"k"] * 3}, "PQ018", id="more keys"),
        pytest.param({"partitions": [0]}, "PQ018", id="fewer partitions"),
        pytest.param({"timestamps": ["2024-01-01"]}, "PQ018", id="fewer timestamps"),
        pytest.param({"headers": [Jsonb({})]}, "PQ018", id="fewer headers"),
        pytest.param({"values": [], "keys": [b"k"]}, "PQ018", id="keys without values"),
    ],
)
def test_what_is_refused(conn: Connection, wide_topic: str, arguments: dict[str, Any], sqlstate: str) -> None:
    with refused(sqlstate):
        call(conn, "produce_batch", **({"topic": wide_topic, "values": [b"v", b"w"]} | arguments))
    assert value(conn, "select sum(pgq.log_end_offset(%s, p)) from generate_series(0, 4) p", wide_topic) == 0


@pytest.mark.parametrize("headers", [["a"], "a", 1])
def test_headers_must_be_objects(conn: Connection, topic: str, headers: Any) -> None:
    """By the SQLSTATE that pgq.produce_batch promises."""
    with refused("PQ018"):
        call(conn, "produce_batch", topic=topic, values=[b"v"], headers=[Jsonb(headers)])


def test_a_record_that_only_looks_too_large_hides_none_that_is(conn: Connection, make_topic: MakeTopic) -> None:
    """The JSON text of the first record's headers is over the limit, its record is not."""
    topic = make_topic("small", config='{"max.message.bytes": 20}')
    with refused("PQ007"):
        call(
            conn,
            "produce_batch",
            topic=topic,
            values=[b"123456789012", bytes(21)],
            headers=[Jsonb({"a": "b"}), None],
        )


def test_a_record_that_only_looks_too_large_is_accepted(conn: Connection, make_topic: MakeTopic) -> None:
    topic = make_topic("small", config='{"max.message.bytes": 20}')
    assert call(conn, "produce_batch", topic=topic, values=[bytes(18)], headers=[Jsonb({"a": "b"})]) == [(0, 0)]
    with refused("PQ007"):
        call(conn, "produce_batch", topic=topic, values=[bytes(19)], headers=[Jsonb({"a": "b"})])


def test_arrays_that_do_not_begin_at_one(conn: Connection, topic: str) -> None:
    """PostgreSQL's arrays may begin anywhere; taken by subscript from 1 on, elements would be lost."""
    call(conn, "produce_batch", topic=topic, values="[0:1]={a,b}", keys="[5:6]={k,l}")
    assert rows(conn, "select key, value from pgq.fetch(%s, 0, 0)", topic) == [(b"k", b"a"), (b"l", b"b")]


@pytest.mark.parametrize("arguments", [{"values": "{{a,b},{c,d}}"}, {"values": "{a,b}", "keys": "{{k},{l}}"}])
def test_nested_arrays_are_refused(conn: Connection, topic: str, arguments: dict[str, str]) -> None:
    """Taken by one subscript their elements are nulls."""
    with refused("PQ018"):
        call(conn, "produce_batch", topic=topic, **arguments)


def test_works_with_a_hostile_search_path(conn: Connection, wide_topic: str) -> None:
    conn.execute("create schema evil")
    conn.execute(
        "create function evil.cardinality(anyarray) returns int language plpgsql"
        " as $$ begin raise exception 'hijacked'; end $$"
    )
    for search_path in ("evil, pg_catalog", "''"):
        conn.execute(f"set search_path = {search_path}")
        call(conn, "produce_batch", topic=wide_topic, values=[b"v"], keys=[b"k"])
