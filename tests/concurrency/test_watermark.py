"""The high watermark stops at what is undecided, for as long as it is, and stops nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.plugins.postgres import Server, drop_database
from tests.plugins.sessions import Connection, append_locks, call, refused, rows, value

Connect = Callable[[], Connection]


def produce(conn: Connection, partition: int = 0, payload: bytes = b"v") -> int:
    ((_, offset),) = call(conn, "produce", topic="orders", value=payload, partition=partition)
    return int(offset)


def watermark(conn: Connection, partition: int = 0) -> int:
    return int(value(conn, "select pgq.high_watermark('orders', %s)", partition))


def fetch(conn: Connection, offset: int = 0, partition: int = 0) -> list[int]:
    return [o for (o,) in rows(conn, "select \"offset\" from pgq.fetch('orders', %s, %s)", partition, offset)]


@pytest.fixture(autouse=True)
def orders(conn: Connection) -> None:
    """A topic of three partitions."""
    conn.execute("select pgq.create_topic('orders', 3)")


def test_watermark_passes_rolled_back_offsets_without_waiting_for_later_producers(
    conn: Connection, connect: Connect
) -> None:
    first, later = connect(), connect()
    first.execute("begin")
    produce(first)
    produce(first)
    later.execute("begin")
    produce(later)
    assert watermark(conn) == 0
    first.execute("rollback")
    assert watermark(conn) == 2, "the later producer's lock begins at 2"
    produce(conn)
    assert fetch(conn) == []
    later.execute("commit")
    assert fetch(conn) == [2, 3]


def test_watermark_is_that_of_the_earliest_open_transaction(conn: Connection, connect: Connect) -> None:
    sessions = [connect() for _ in range(5)]
    for session in sessions:
        session.execute("begin")
        produce(session)
    for number in (1, 3, 0, 2, 4):
        sessions[number].execute("commit" if number % 2 else "rollback")
        still_open = [i for i, s in enumerate(sessions) if s.info.transaction_status != 0]
        assert watermark(conn) == min(still_open, default=5)
    assert fetch(conn) == [1, 3]


def test_unbroken_run_before_the_open_transaction_is_read(conn: Connection, connect: Connect) -> None:
    produce(conn)
    producer = connect()
    producer.execute("begin")
    produce(producer)
    produce(conn)
    assert fetch(conn) == [0]
    producer.execute("commit")
    assert fetch(conn) == [0, 1, 2]


def test_open_transaction_stalls_the_readers_of_its_partitions_only(conn: Connection, connect: Connect) -> None:
    conn.execute("select pgq.create_topic('other')")
    conn.execute("set lock_timeout = '1s'; set statement_timeout = '10s'")
    stalling = connect()
    stalling.execute("begin")
    produce(stalling, partition=1)
    for _ in range(3):
        for partition in range(3):
            produce(conn, partition)
        call(conn, "produce", topic="other", value=b"v")
        conn.execute("select pgq.produce_batch('orders', '{a,b,c}', partitions => '{0,1,2}')")
    assert [watermark(conn, partition) for partition in range(3)] == [6, 0, 6]
    assert [len(fetch(conn, partition=partition)) for partition in range(3)] == [6, 0, 6]
    assert value(conn, "select count(*) from pgq.fetch('other', 0, 0)") == 3
    stalling.execute("commit")
    assert len(fetch(conn, partition=1)) == 7


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param(["create table unrelated (n int)", "insert into unrelated values (1)"], id="own table"),
        pytest.param(["select pg_current_xact_id()"], id="transaction id alone"),
        pytest.param(["select pgq.create_topic('more', 2)"], id="creates a topic"),
        pytest.param(["select pgq.commit_offsets('g', '{orders}', '{0}', '{1}')"], id="commits offsets"),
        pytest.param(["select count(*) from pgq_log.t1"], id="reads the log"),
        pytest.param(["select pg_advisory_lock(1), pg_advisory_lock(23, 1)"], id="advisory locks of its own"),
    ],
)
@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
def test_unrelated_transaction_stalls_nobody(
    conn: Connection, connect: Connect, isolation: str, statements: list[str]
) -> None:
    unrelated = connect()
    unrelated.execute(f"begin isolation level {isolation}")
    for statement in statements:
        unrelated.execute(statement)
    produce(conn)
    with conn.transaction(force_rollback=True):
        produce(conn)
    produce(conn)
    assert watermark(conn) == 3
    assert fetch(conn) == [0, 2]


def test_savepoint_rolled_back_with_the_first_append_inside(conn: Connection, connect: Connect) -> None:
    producer = connect()
    with producer.transaction():
        with producer.transaction(force_rollback=True):
            produce(producer, payload=b"lost")
            assert append_locks(conn) == 1
        assert append_locks(conn) == 0
        assert watermark(conn) == 1
        assert produce(producer, payload=b"kept") == 1
        assert append_locks(conn) == 1
        produce(conn)
        assert watermark(conn) == 1
        assert fetch(conn) == []
    assert fetch(conn) == [1, 2]


def test_savepoint_rolled_back_after_the_first_append_keeps_the_lock(conn: Connection, connect: Connect) -> None:
    producer = connect()
    with producer.transaction():
        produce(producer)
        with producer.transaction(force_rollback=True):
            produce(producer)
            produce(producer, partition=2)
        assert append_locks(conn) == 1
        assert (watermark(conn), watermark(conn, 2)) == (0, 1)
    assert fetch(conn) == [0]


def test_savepoint_released_keeps_the_lock(conn: Connection, connect: Connect) -> None:
    producer = connect()
    with producer.transaction():
        with producer.transaction():
            produce(producer)
        assert watermark(conn) == 0
        with producer.transaction(force_rollback=True):
            pass
        assert watermark(conn) == 0
    assert fetch(conn) == [0]


def test_exception_block_of_plpgsql_is_a_savepoint(conn: Connection, connect: Connect) -> None:
    producer = connect()
    with producer.transaction():
        producer.execute(
            "do $$ begin perform pgq.produce('orders', 'lost', partition => 0); raise 'undo';"
            " exception when raise_exception then null; end $$"
        )
        assert append_locks(conn) == 0
        produce(producer)
        assert watermark(conn) == 1
    assert fetch(conn) == [1]


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_prepared_transaction_holds_the_watermark_until_another_session_ends_it(
    conn: Connection, connect: Connect, end: str
) -> None:
    gid = f"{conn.info.dbname}_{end}"
    first = psycopg.connect(conn.info.dsn, autocommit=True)
    with first:
        first.execute("begin")
        produce(first)
        first.execute(f"prepare transaction '{gid}'")
        produce(conn)
        assert watermark(conn) == 0
    assert first.closed
    assert watermark(conn) == 0, "without its session"
    assert fetch(conn) == []
    connect().execute(f"{end} prepared '{gid}'")
    assert watermark(conn) == 2
    assert fetch(conn) == ([0, 1] if end == "commit" else [1])


def test_locks_of_a_terminated_session_are_released(
    conn: Connection, connect: Connect, terminate: Callable[[int], None]
) -> None:
    producer = connect()
    producer.execute("begin")
    produce(producer)
    produce(conn)
    assert watermark(conn) == 0
    terminate(producer.info.backend_pid)
    assert append_locks(conn) == 0
    assert watermark(conn) == 2
    assert fetch(conn) == [1]
    with pytest.raises(psycopg.OperationalError):
        producer.execute("commit")


def test_failed_transaction_keeps_its_place_until_it_is_rolled_back(conn: Connection, connect: Connect) -> None:
    producer = connect()
    producer.execute("begin")
    produce(producer)
    with refused("22012"):
        producer.execute("select 1 / 0")
    produce(conn)
    assert watermark(conn) in (0, 2), "PostgreSQL releases the locks of a failed transaction at once, or at its end"
    producer.execute("rollback")
    assert fetch(conn) == [1]


def test_append_lock_is_taken_once_a_transaction_and_partition(conn: Connection, connect: Connect) -> None:
    producer = connect()
    for _ in range(2):
        producer.execute("begin")
        for partition in (0, 2, 0, 0, 2):
            produce(producer, partition)
        producer.execute("select pgq.produce_batch('orders', '{a,b,c}', partitions => '{0,2,0}')")
        assert append_locks(conn) == 2
        producer.execute("commit")
        assert append_locks(conn) == 0
    assert len(fetch(conn)) == 10


def test_every_producer_holds_a_lock_of_its_own(conn: Connection, connect: Connect) -> None:
    producers = [connect() for _ in range(10)]
    for producer in producers:
        producer.execute("begin")
        produce(producer)
    assert append_locks(conn) == 10
    for producer in producers:
        producer.execute("commit")
    assert fetch(conn) == list(range(10))


@contextmanager
def another_database(server: Server, admin: Connection, template: str, name: str) -> Iterator[Connection]:
    admin.execute(f"create database {name} template {template} owner pgq_app")
    try:
        with psycopg.connect(server.dsn(name, user="pgq_app"), autocommit=True) as connection:
            yield connection
    finally:
        drop_database(server, admin, name)


def test_lock_by_the_same_key_in_another_database_does_not_stall(
    conn: Connection, connect: Connect, server: Server, admin: Any, template: str, database: str
) -> None:
    with another_database(server, admin, template, f"{database}_b") as other:
        other.execute("select pgq.create_topic('orders', 3)")
        other.execute("begin")
        assert produce(other) == 0
        key = "select classid, objid from pg_locks where locktype = 'advisory' and classid::bigint >> 26 = 23"
        ((held),) = rows(other, key)
        produce(conn)
        assert watermark(conn) == 1
        assert fetch(conn) == [0]
        producer = connect()
        producer.execute("begin")
        call(producer, "produce", topic="orders", value=b"v", partition=1)
        assert held in rows(conn, key), "the same partition and base are locked over there"
        assert (watermark(conn), watermark(conn, 1)) == (1, 0)
        other.execute("rollback")


def test_locks_of_applications_are_not_taken_for_append_locks(conn: Connection, connect: Connect) -> None:
    partition_id = value(conn, "select min(partition_id) from pgq.partition")
    other = connect()
    other.execute("select pg_advisory_lock(%s)", [partition_id << 40])
    other.execute("select pg_advisory_lock(%s, 0)", [(23 << 26 | partition_id << 8) - 2**32 * (23 >> 5)])
    other.execute("select pg_advisory_lock(22::bigint << 58 | %s)", [partition_id << 40])
    produce(conn)
    assert watermark(conn) == 1


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_watermark_falls_back_for_no_producer_that_starts_later(
    conn: Connection, connect: Connect, isolation: str
) -> None:
    for number in range(3):
        produce(conn)
        producer = connect()
        producer.execute(f"begin isolation level {isolation}")
        producer.execute("select count(*) from pgq.partition")
        assert watermark(conn) == number + 1
        if number == 1:
            produce(producer)
            assert watermark(conn) == 2
            producer.execute("rollback")
            assert watermark(conn) == 3
            break
