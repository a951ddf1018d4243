"""pgq._delayed_counts says how many records of each topic wait, however many there are."""

from __future__ import annotations

import pytest

from tests.plugins.sessions import Connection, rows, value

from .conftest import MakeTopic


def counts(conn: Connection) -> dict[str, int]:
    return dict(rows(conn, "select t.name, c.records from pgq._delayed_counts() c join pgq.topic t using (topic_id)"))


def delay(conn: Connection, topic: str, number: int, hours: int = 1, size: int = 1) -> None:
    conn.execute(
        "select count(pgq.produce_delayed(%s, convert_to(repeat('v', %s), 'UTF8'),"
        " now() + (1 + mod(n, %s)) * interval '1 hour')) from generate_series(1, %s) n",
        [topic, size, hours, number],
    )


def test_exact_while_they_are_few(conn: Connection, make_topic: MakeTopic) -> None:
    make_topic("a")
    make_topic("b")
    assert counts(conn) == {}
    delay(conn, "a", 100, hours=10)
    delay(conn, "b", 5)
    assert counts(conn) == {"a": 100, "b": 5}
    conn.execute("select pgq.cancel_delayed(delayed_id) from pgq.delayed_records")
    assert counts(conn) == {}


def test_an_estimate_when_they_are_many(conn: Connection, make_topic: MakeTopic) -> None:
    make_topic("a")
    make_topic("b")
    delay(conn, "a", 12_000, hours=5, size=1_500)
    delay(conn, "b", 3_000, hours=5, size=1_500)
    size = value(conn, "select sum(pg_relation_size(to_regclass(bucket))) from pgq._delay_buckets()")
    assert size > 20_000_000
    found = counts(conn)
    assert found["a"] == pytest.approx(12_000, rel=0.1)
    assert found["b"] == pytest.approx(3_000, rel=0.1)
    assert counts(conn) == found, "the same pages each time"


def test_locks_are_given_back(conn: Connection, make_topic: MakeTopic) -> None:
    make_topic("a")
    delay(conn, "a", 60, hours=20)
    with conn.transaction():
        assert counts(conn) == {"a": 60}
        held = "select count(*) from pg_locks where pid = pg_backend_pid() and relation::regclass::text like %s"
        assert value(conn, held, "%delayed_0%") == 0


def test_in_a_transaction_that_only_reads(conn: Connection, make_topic: MakeTopic) -> None:
    make_topic("a")
    delay(conn, "a", 2)
    with conn.transaction():
        conn.execute("set transaction read only")
        assert counts(conn) == {"a": 2}


def test_many_hours(conn: Connection, make_topic: MakeTopic) -> None:
    """Each has a table of its own; what most of the records stand in is looked at in any case."""
    make_topic("a")
    make_topic("b")
    delay(conn, "a", 2_000)
    for first in range(0, 600, 50):  # a transaction for the locks of some
        conn.execute(
            "select count(pgq.produce_delayed('b', 'v'::bytea, now() + n * interval '1 hour'))"
            " from generate_series(%s::int, %s::int) n",
            [first + 10, first + 59],
        )
    found = counts(conn)
    assert found["a"] == 2_000
    assert found["b"] == pytest.approx(600, rel=0.02)
