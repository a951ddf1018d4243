"""pgq.maintenance_due: what is overdue, and only while nobody sees to it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import pgq
from tests.plugins.sessions import Connection, call, eventually, refused, rows, value

MakeTopic = Callable[..., str]
Connect = Callable[[], Connection]


def due(conn: Connection, grace: str = "0") -> list[tuple[Any, ...]]:
    return rows(conn, "select job, topic, partition, finding, since from pgq.maintenance_due(%s)", grace)


def test_nothing_in_a_new_database(conn: Connection, make_topic: MakeTopic) -> None:
    make_topic("orders", 3)
    conn.execute("select pgq.produce('orders', 'x')")
    assert due(conn) == []


def test_old_records_and_segments_below_the_log_start(dsn: str, conn: Connection, make_topic: MakeTopic) -> None:
    make_topic("orders", config='{"retention.ms": 60000}')
    conn.execute("select pgq.produce('orders', 'x', \"timestamp\" => clock_timestamp() - interval '5 minutes')")
    assert due(conn) == [("retention", "orders", 0, "all its records are to be deleted", None)]
    assert due(conn, "1 hour") == []
    assert {r.job: r.result for r in pgq.Maintenance(dsn).run_once()}["retention"]["dropped"] == 1
    assert due(conn) == []
    call(conn, "produce", topic="orders", value=b"x")
    call(conn, "delete_records", topic="orders", partition=0, offset=-1)
    conn.execute("select pgq._roll_segment(partition_id, 200), pgq.upkeep(partition_id) from pgq.partition")
    pgq.Maintenance(dsn)
    assert due(conn, "1 hour") == []  # the job has run within the hour


def test_how_long_the_job_has_not_run(dsn: str, conn: Connection, make_topic: MakeTopic) -> None:
    make_topic("orders", config='{"retention.ms": 0}')
    pgq.Maintenance(dsn).run_once()
    conn.execute("select pgq.produce('orders', 'x', \"timestamp\" => clock_timestamp() - interval '5 hours')")
    assert due(conn, "1 hour") == []
    conn.execute("update pgq.job set succeeded_at = succeeded_at - interval '2 hours'")
    ((job, topic, _, _, since),) = due(conn, "1 hour")
    assert (job, topic) == ("retention", "orders")
    assert timedelta(hours=2) <= since < timedelta(hours=3)


def test_dead_members(conn: Connection, connect: Connect, make_topic: MakeTopic) -> None:
    make_topic("orders")
    session = connect()
    session.execute("select * from pgq.join_group('g', '{orders}', 'range', 10000, null, 'c')")
    assert due(conn) == []
    session.close()
    eventually(lambda: not rows(conn, "select from pgq._group_locks()"))
    assert [row[:4] for row in due(conn)] == [
        ("members", None, None, "group g: sessions that have ended have left 1 member")
    ]
    assert due(conn, "1 hour") == []


def test_delayed_records(conn: Connection, make_topic: MakeTopic) -> None:
    make_topic("orders")
    conn.execute("select pgq.produce_delayed('orders', 'x', clock_timestamp())")
    assert due(conn, "1 hour") == []
    ((job, topic, partition, finding, _),) = due(conn, "0")
    assert (job, topic, partition) == ("delivery", None, None)
    assert finding.startswith("delayed records have been due for ")
    conn.execute("select pgq.deliver_due()")
    assert due(conn, "0") == []


def test_markers(conn: Connection, dsn: str, make_topic: MakeTopic) -> None:
    make_topic("orders")
    with pgq.Producer(dsn) as producer:
        producer.send("orders", b"x").result()
    conn.execute("update pgq.flush_rotation set rotated_at = rotated_at - interval '2 days'")
    ((job, topic, partition, finding, _),) = due(conn)
    assert (job, topic, partition) == ("markers", None, None)
    assert finding.startswith("flushes have been marked since ")


@pytest.mark.parametrize("role", ["pgq_reader", "pgq_admin"])
def test_readers_may_ask(conn: Connection, watcher: Connection, make_topic: MakeTopic, role: str) -> None:
    watcher.execute(
        f"do $$ begin create role {role}; exception when duplicate_object or unique_violation then null; end $$"
    )
    watcher.execute("select pgq._grant_roles()")
    make_topic("orders")
    with watcher.transaction():
        watcher.execute(f"set local role {role}")
        assert value(watcher, "select count(*) from pgq.maintenance_due()") == 0
        assert rows(watcher, "select * from pgq.job_status") == []
    with watcher.transaction(), refused("42501"):
        watcher.execute(f"set local role {role}")
        watcher.execute("select pgq._apply_retention(1)")
