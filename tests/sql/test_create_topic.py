"""pgq.create_topic, describe_topic and list_topics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from tests.plugins.sessions import ISOLATION_LEVELS, Connection, call, refused, rows, value

DEFAULTS = {
    "cleanup.policy": "delete",
    "compression.type": "producer",
    "delete.retention.ms": 86400000,
    "max.message.bytes": 1048576,
    "message.timestamp.after.max.ms": 3600000,
    "message.timestamp.type": "CreateTime",
    "min.compaction.lag.ms": 0,
    "min.insync.replicas": 1,
    "retention.bytes": 1073741824,
    "retention.ms": 604800000,
    "segment.bytes": 134217728,
    "segment.ms": 604800000,
}


def describe(conn: Connection, name: str) -> tuple[Any, ...]:
    (row,) = rows(conn, "select name, partitions, config from pgq.describe_topic(%s)", name)
    return row


def test_description_is_returned(conn: Connection) -> None:
    ((topic_id, *rest),) = call(
        conn, "create_topic", name="orders", partitions=3, config=Jsonb({"segment.bytes": 2**20})
    )
    assert rest == ["orders", 3, DEFAULTS | {"segment.bytes": 2**20}]
    assert call(conn, "describe_topic", name="orders") == [(topic_id, *rest)]


def test_one_partition_and_the_defaults_unless_given(conn: Connection) -> None:
    call(conn, "create_topic", name="orders")
    assert describe(conn, "orders") == ("orders", 1, DEFAULTS)


def test_topics_are_listed_by_name(conn: Connection) -> None:
    assert rows(conn, "select * from pgq.list_topics()") == []
    for name in ("b", "A", "a.1", "a", "B", "_", "10", "9"):
        call(conn, "create_topic", name=name)
    names = [name for (name,) in rows(conn, "select name from pgq.list_topics()")]
    assert names == sorted(names)
    assert len(names) == 8


@pytest.mark.parametrize("name", ["a", "a" * 249, "A.b-c_9", "...", "-", "_", "0", "select", "t1", "pg_class"])
def test_legal_name(conn: Connection, name: str) -> None:
    call(conn, "create_topic", name=name)
    assert describe(conn, name)[0] == name


@pytest.mark.parametrize(
    "name",
    [
        None,
        "",
        ".",
        "..",
        "a" * 250,
        "a b",
        " a",
        "a ",
        "a/b",
        "a\\b",
        "a\n",
        "\na",
        "a\tb",
        "ä",
        "名",
        "a'b",
        'a"b',
        "a;b",
        "a:b",
        "%",
        "a\r",
    ],
)
def test_illegal_name_is_refused(conn: Connection, name: str | None) -> None:
    with refused("PQ004"):
        call(conn, "create_topic", name=name)
    assert rows(conn, "select * from pgq.list_topics()") == []


@pytest.mark.parametrize("partitions", [0, -1, 51, 2**31 - 1, None])
def test_impossible_number_of_partitions_is_refused(conn: Connection, partitions: int | None) -> None:
    with refused("PQ005"):
        call(conn, "create_topic", name="orders", partitions=partitions)


def test_fifty_partitions(conn: Connection) -> None:
    call(conn, "create_topic", name="orders", partitions=50)
    assert rows(conn, "select partition from pgq.partition order by 1") == [(p,) for p in range(50)]
    assert call(conn, "produce", topic="orders", value=b"v", partition=49) == [(49, 0)]


BAD_CONFIGS = [
    pytest.param({"retention.seconds": 1}, id="unknown key"),
    pytest.param({"": 1}, id="empty key"),
    pytest.param({"Segment.Bytes": 2**20}, id="key in another case"),
    pytest.param({"max.message.bytes": 0}, id="too small"),
    pytest.param({"max.message.bytes": -1}, id="negative"),
    pytest.param({"max.message.bytes": 104857601}, id="too large"),
    pytest.param({"max.message.bytes": 10**30}, id="far too large"),
    pytest.param({"max.message.bytes": 1.5}, id="fraction"),
    pytest.param({"max.message.bytes": "many"}, id="text"),
    pytest.param({"max.message.bytes": ""}, id="empty text"),
    pytest.param({"max.message.bytes": "1\n"}, id="newline"),
    pytest.param({"max.message.bytes": True}, id="boolean"),
    pytest.param({"max.message.bytes": [1]}, id="array"),
    pytest.param({"max.message.bytes": {"a": 1}}, id="object"),
    pytest.param({"compression.type": "snappy"}, id="unknown word"),
    pytest.param({"compression.type": 1}, id="number for a word"),
    pytest.param({"message.timestamp.type": "createtime"}, id="word in another case"),
    pytest.param({"message.timestamp.type": ["CreateTime"]}, id="array for a word"),
    pytest.param({"segment.bytes": 2**20, "max.message.bytes": False}, id="one of two"),
    pytest.param({"nope": None}, id="unknown key with null"),
    pytest.param([], id="array for the whole"),
    pytest.param(1, id="number for the whole"),
    pytest.param("x", id="text for the whole"),
]


@pytest.mark.parametrize("config", BAD_CONFIGS)
def test_bad_config_is_refused(conn: Connection, config: Any) -> None:
    with refused("PQ006"):
        call(conn, "create_topic", name="orders", config=Jsonb(config))


@pytest.mark.parametrize("config", [None, "null"])
def test_null_config_is_refused(conn: Connection, config: str | None) -> None:
    with refused("PQ006"):
        call(conn, "create_topic", name="orders", config=config)


@pytest.mark.parametrize(
    "config, expected",
    [
        ({}, {}),
        ({"max.message.bytes": None}, {}),
        ({"max.message.bytes": 1}, {"max.message.bytes": 1}),
        ({"max.message.bytes": 104857600}, {"max.message.bytes": 104857600}),
        ({"segment.bytes": 2**20}, {"segment.bytes": 2**20}),
        ({"compression.type": "zstd"}, {"compression.type": "zstd"}),
        ({"message.timestamp.type": "LogAppendTime"}, {"message.timestamp.type": "LogAppendTime"}),
        ({"min.insync.replicas": 3}, {"min.insync.replicas": 3}),
    ],
)
def test_good_config(conn: Connection, config: dict[str, Any], expected: dict[str, Any]) -> None:
    call(conn, "create_topic", name="orders", config=Jsonb(config))
    assert describe(conn, "orders")[2] == DEFAULTS | expected


def test_existing_name_is_refused(conn: Connection, topic: str) -> None:
    call(conn, "produce", topic=topic, value=b"v")
    with refused("PQ003"):
        call(conn, "create_topic", name=topic, partitions=2)
    assert describe(conn, topic) == (topic, 1, DEFAULTS)
    assert value(conn, "select count(*) from pgq.fetch(%s, 0, 0)", topic) == 1


@pytest.mark.parametrize("isolation", ISOLATION_LEVELS)
def test_topic_joins_the_transaction(conn: Connection, connect: Callable[[], Connection], isolation: str) -> None:
    maker = connect()
    maker.execute(f"begin isolation level {isolation}")
    call(maker, "create_topic", name="orders")
    assert call(maker, "produce", topic="orders", value=b"v") == [(0, 0)]
    with refused("PQ001"):
        call(conn, "describe_topic", name="orders")
    maker.execute("rollback")
    with refused("PQ001"):
        call(conn, "describe_topic", name="orders")
    assert (
        value(conn, "select count(*) from pg_class where relnamespace = 'pgq_log'::regnamespace and relname like 't%'")
        == 0
    )
    maker.execute(f"begin isolation level {isolation}")
    call(maker, "create_topic", name="orders")
    call(maker, "produce", topic="orders", value=b"v")
    maker.execute("commit")
    assert value(conn, "select count(*) from pgq.fetch('orders', 0, 0)") == 1


def test_works_with_a_hostile_search_path(conn: Connection) -> None:
    conn.execute("create schema evil")
    conn.execute(
        "create function evil.jsonb_typeof(jsonb) returns text language plpgsql"
        " as $$ begin raise exception 'hijacked'; end $$"
    )
    conn.execute("create table evil.topic (n int)")
    conn.execute("set search_path = evil, pg_catalog")
    call(conn, "create_topic", name="orders")
    assert describe(conn, "orders")[0] == "orders"


@pytest.mark.parametrize("name", ["nope", None, "", "Orders"])
@pytest.mark.usefixtures("topic")
def test_unknown_topic_is_refused(conn: Connection, name: str | None) -> None:
    with refused("PQ001"):
        call(conn, "describe_topic", name=name)
