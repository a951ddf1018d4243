"""The views of schema pgq for operators, and the views of topics in schema pgq_topic."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from psycopg import sql

from tests.plugins.sessions import Connection, call, rows, value

from .conftest import MakeTopic

Connect = Callable[[], Connection]
BIG = "9" * 40 + "." + "x" * 208


def partition_status(
    conn: Connection, columns: str = "log_start_offset, high_watermark, log_end_offset, records"
) -> Any:
    return rows(conn, f"select {columns} from pgq.partition_status order by topic, partition")


def test_a_new_topic(conn: Connection, wide_topic: str) -> None:
    assert partition_status(conn) == [(0, 0, 0, 0)] * 5
    assert rows(conn, "select topic, state, partitions, records, segments, skew from pgq.topic_status") == [
        ("wide", "ready", 5, 0, 5, None)
    ]
    assert rows(conn, "select topic, partition, base_offset, end_offset, active from pgq.segment_status") == [
        ("wide", p, 0, 4096, True) for p in range(5)
    ]
    assert value(conn, "select config ->> 'max.message.bytes' from pgq.topic_status") == "1048576"


def test_bytes_are_those_on_disk(conn: Connection, topic: str, fill: Callable[..., None]) -> None:
    fill(topic, 3000)
    expected = value(
        conn, "select sum(pg_total_relation_size(relid)) from pg_partition_tree('pgq_log.t1') where isleaf"
    )
    assert expected > 100_000
    assert value(conn, "select bytes from pgq.topic_status") == expected
    assert value(conn, "select bytes from pgq.partition_status") == expected
    assert value(conn, "select sum(bytes) from pgq.segment_status") == expected


def test_positions_and_the_open_producer(
    conn: Connection, connect: Connect, topic: str, fill: Callable[..., None]
) -> None:
    fill(topic, 10)
    call(conn, "delete_records", topic=topic, partition=0, offset=3)
    producer, later = connect(), connect()
    for session in (producer, later):
        session.execute("set application_name = 'billing'")
        session.execute("begin")
    with conn.transaction(force_rollback=True):
        call(conn, "produce", topic=topic, value=b"rolled back")
    call(producer, "produce", topic=topic, value=b"open")
    call(later, "produce", topic=topic, value=b"open, too")
    fill(topic, 5)
    assert partition_status(conn) == [(3, 11, 18, 8)]
    ((producers, pid, application, age, prepared),) = partition_status(
        conn, "producers, producer_pid, producer_application, producer_age, producer_prepared"
    )
    assert (producers, pid, application, prepared) == (2, producer.info.backend_pid, "billing", None)
    assert age.total_seconds() >= 0
    assert value(conn, "select high_watermark from pgq.partition_status") == value(
        conn, "select pgq.high_watermark(%s, 0)", topic
    )
    producer.execute("commit")
    assert partition_status(conn, "high_watermark, producer_pid") == [(12, later.info.backend_pid)]
    later.execute("rollback")
    assert partition_status(conn, "high_watermark, producers, producer_pid") == [(18, 0, None)]


def test_a_prepared_producer_is_named_by_its_gid(conn: Connection, connect: Connect, topic: str) -> None:
    producer = connect()
    producer.execute("begin")
    call(producer, "produce", topic=topic, value=b"v")
    producer.execute("prepare transaction 'payment 7'")
    assert partition_status(conn, "high_watermark, producers, producer_pid, producer_prepared") == [
        (0, 1, None, "payment 7")
    ]
    conn.execute("commit prepared 'payment 7'")
    assert partition_status(conn, "high_watermark, producers, producer_prepared") == [(1, 0, None)]


def test_records_leave_out_what_a_roll_skipped(conn: Connection, topic: str, fill: Callable[..., None]) -> None:
    fill(topic, 10)
    partition_id = value(conn, "select partition_id from pgq.partition")
    conn.execute("select pgq._make_segment(%s, 4096)", [partition_id])
    assert value(conn, "select pgq._roll_segment(%s)", partition_id)
    fill(topic, 5)
    assert partition_status(conn) == [(0, 4101, 4101, 15)]
    call(conn, "delete_records", topic=topic, partition=0, offset=4098)
    assert partition_status(conn) == [(4098, 4101, 4101, 3)]
    assert rows(conn, "select base_offset, active from pgq.segment_status order by 1") == [(0, False), (4096, True)]


def test_skew(conn: Connection, wide_topic: str) -> None:
    for partition, count in enumerate((8, 1, 1, 0, 0)):
        for _ in range(count):
            call(conn, "produce", topic=wide_topic, value=b"v", partition=partition)
    assert float(value(conn, "select skew from pgq.topic_status")) == 4.0


def test_skew_is_of_the_records_that_are_left(conn: Connection, wide_topic: str) -> None:
    for partition, count in enumerate((6, 2, 2, 2, 2)):
        for _ in range(count):
            call(conn, "produce", topic=wide_topic, value=b"v", partition=partition)
    assert float(value(conn, "select skew from pgq.topic_status")) == 2.14  # 6 / 2.8
    call(conn, "delete_records", topic=wide_topic, partition=0, offset=4)
    assert float(value(conn, "select skew from pgq.topic_status")) == 1.0
    for partition in range(1, 5):
        call(conn, "delete_records", topic=wide_topic, partition=partition, offset=-1)
    assert float(value(conn, "select skew from pgq.topic_status")) == 5.0
    call(conn, "delete_records", topic=wide_topic, partition=0, offset=-1)
    assert value(conn, "select skew from pgq.topic_status") is None


def test_topics_in_creation_are_shown(conn: Connection) -> None:
    conn.execute("select pgq.create_topic_step('big', 60)")
    assert rows(conn, "select topic, state, partitions, records from pgq.topic_status") == [("big", "creating", 60, 0)]
    assert partition_status(conn) == []


# views of topics

VALUES = [
    (b"plain text", "plain text", None),
    (b'{"a": [1, null]}', '{"a": [1, null]}', {"a": [1, None]}),
    (b" 12", " 12", 12),
    (b"true", "true", True),
    (b"tale", "tale", None),
    (b"", "", None),
    (b"\xff\xfe", None, None),
    (b"a\x00b", None, None),
    (b'"\\u0000"', '"\\u0000"', None),
    (b'"\\ud800"', '"\\ud800"', None),
    (b"[" * 100_000, "[" * 100_000, None),
    (b"1e999999", "1e999999", None),
    ("naïve ☃".encode(), "naïve ☃", None),
    (None, None, None),
]


def test_values_as_text_and_json(conn: Connection, topic: str) -> None:
    for given, _, _ in VALUES:
        call(conn, "produce", topic=topic, value=given, key=given)
    found = rows(
        conn, 'select value, value_json, value_bytes, key, key_bytes from pgq_topic."orders" order by "offset"'
    )
    assert [(v, j) for v, j, *_ in found] == [(text, parsed) for _, text, parsed in VALUES]
    assert [row[2:] for row in found] == [(given, text, given) for given, text, _ in VALUES]


def test_headers(conn: Connection, topic: str) -> None:
    conn.execute(
        "select pgq.produce('orders', 'v', header_keys => '{a,b,a}',"
        " header_values => array['1', null, '\\xff']::bytea[])"
    )
    call(conn, "produce", topic=topic, value=b"none")
    found = rows(conn, 'select headers from pgq_topic.orders order by "offset"')
    assert found == [([["a", "1"], ["b", None], ["a", "\\xff"]],), (None,)]


def test_records_below_the_log_start_are_not_shown(conn: Connection, topic: str, fill: Callable[..., None]) -> None:
    fill(topic, 10)
    call(conn, "delete_records", topic=topic, partition=0, offset=7)
    assert rows(conn, 'select "offset", value from pgq_topic.orders') == [(7, "7"), (8, "8"), (9, "9")]


@pytest.mark.parametrize(
    "name", ["orders", "a.b-c_D", "9", "select", "x" * 63, "x" * 64, "X" * 249, BIG], ids=lambda name: name[:20]
)
def test_names(conn: Connection, make_topic: MakeTopic, name: str) -> None:
    make_topic(name)
    call(conn, "produce", topic=name, value=b"v")
    ((view,),) = rows(conn, "select viewname from pg_views where schemaname = 'pgq_topic'")
    assert view == (name if len(name) <= 63 else f"{name[:60]}_t1")
    assert rows(conn, sql.SQL("select value from pgq_topic.{}").format(sql.Identifier(view)).as_string()) == [("v",)]
    call(conn, "delete_topic", name=name)
    assert rows(conn, "select viewname from pg_views where schemaname = 'pgq_topic'") == []


def test_names_that_share_their_first_bytes(conn: Connection, make_topic: MakeTopic) -> None:
    for name in ("x" * 64, "x" * 65, "x" * 63):
        make_topic(name)
        call(conn, "produce", topic=name, value=str(len(name)).encode())
    views = rows(conn, "select viewname from pg_views where schemaname = 'pgq_topic'")
    values = [value(conn, f'select value from pgq_topic."{view}"') for (view,) in views]
    assert sorted(values) == ["63", "64", "65"]


def test_a_view_cannot_be_written(conn: Connection, topic: str) -> None:
    for statement in (
        'insert into pgq_topic.orders (partition, "offset") values (0, 0)',
        "delete from pgq_topic.orders",
        "update pgq_topic.orders set value_bytes = 'x'",
    ):
        with pytest.raises(Exception, match="cannot"):
            conn.execute(statement)


def test_the_whole_topic_is_one_query(conn: Connection, wide_topic: str) -> None:
    for n in range(100):
        call(conn, "produce_json", topic=wide_topic, value=json.dumps({"n": n}), key=str(n % 7))
    assert rows(
        conn, "select key, sum((value_json ->> 'n')::int) from pgq_topic.wide group by key order by key limit 1"
    ) == [("0", sum(range(0, 100, 7)))]
