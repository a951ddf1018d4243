"""pgq.produce_delayed keeps a record until its time; the views show it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from pgq.core.partitioner import partition_for_key
from tests.plugins.sessions import ISOLATION_LEVELS, Connection, call, refused, rows, value

from .conftest import MakeTopic

HOUR = "date_trunc('hour', now()) + interval '1 day'"


def send(conn: Connection, topic: str = "orders", due: str = HOUR, **more: Any) -> str:
    arguments: dict[str, Any] = {"topic": topic, "value": b"v", "deliver_at": value(conn, f"select {due}"), **more}
    return str(call(conn, "produce_delayed", **arguments)[0][0])


def delay_locks(conn: Connection) -> int:
    """How many DELAY locks are held."""
    return int(value(conn, "select count(*) from pgq._delay_times()"))


def buckets(conn: Connection) -> list[str]:
    return [name for (name,) in rows(conn, "select bucket from pgq._delay_buckets()")]


def test_record_waits_as_it_was_given(conn: Connection, topic: str) -> None:
    more = {"key": b"k", "header_keys": ["a", "a", "b"], "header_values": [b"1", None, b"\x00"]}
    delayed_id = send(conn, topic, f"{HOUR} + interval '1.2345678 s'", timestamp="2024-01-01 00:00:00.0009+00", **more)
    assert re.fullmatch(r"\d{13}-\d+", delayed_id)
    found = rows(
        conn,
        "select topic, partition, delayed_id, key, value, key_text, value_text, header_keys, header_values, codec"
        " from pgq.delayed_records",
    )
    headers = (["a", "a", "b"], [b"1", None, b"\x00"])
    assert found == [("orders", 0, delayed_id, b"k", b"v", "k", "v", *headers, None)]
    exact = f"select due_at = {HOUR} + interval '1.234 s', now() - created_at < interval '1 minute'"
    assert rows(conn, exact + " from pgq.delayed_records") == [(True, True)]
    assert value(conn, f"select '{delayed_id}' like (extract(epoch from due_at) * 1000)::bigint || '-%%'"
                       " from pgq.delayed_records") is True  # fmt: skip
    assert rows(conn, "select topic, records, bytes from pgq.delayed_status") == [("orders", 1, 2)]
    assert value(conn, "select pgq.log_end_offset('orders', 0)") == 0


@pytest.mark.parametrize("given", [{"value": None}, {"value": None, "key": b"k"}, {"value": b"", "key": b""}])
def test_nulls_are_kept(conn: Connection, topic: str, given: dict[str, Any]) -> None:
    send(conn, topic, **given)
    found = rows(conn, "select key, value, header_keys, header_values from pgq.delayed_records")
    assert found == [(given.get("key"), given["value"], None, None)]


def test_partition_is_chosen_at_once(conn: Connection, wide_topic: str) -> None:
    for number in range(20):
        send(conn, wide_topic, key=b"%d" % number)
    send(conn, wide_topic, key=b"7", partition=partition_for_key(b"7", 5) - 1)
    found = rows(conn, "select key, partition from pgq.delayed_records order by created_at limit 20")
    assert found == [(b"%d" % number, partition_for_key(b"%d" % number, 5)) for number in range(20)]
    assert {row[0] for row in rows(conn, "select partition from pgq.delayed_records where key = '7'")} == {
        partition_for_key(b"7", 5),
        partition_for_key(b"7", 5) - 1,
    }


@pytest.mark.parametrize("due", ["now() - interval '1 day'", "'epoch'", "'-infinity'", "clock_timestamp()"])
def test_the_past_is_now(conn: Connection, topic: str, due: str) -> None:
    before = value(conn, "select date_trunc('milliseconds', clock_timestamp())")
    send(conn, topic, due)
    assert before <= value(conn, "select due_at from pgq.delayed_records") <= value(conn, "select clock_timestamp()")


@pytest.mark.parametrize(
    "arguments, sqlstate",
    [
        pytest.param({"topic": "nope"}, "PQ001", id="unknown topic"),
        pytest.param({"topic": None}, "PQ001", id="no topic"),
        pytest.param({"partition": 1}, "PQ002", id="partition too large"),
        pytest.param({"partition": -1}, "PQ002", id="negative partition"),
        pytest.param({"value": bytes(1_048_577)}, "PQ007", id="too large"),
        pytest.param({"value": bytes(1_048_576), "key": b"k"}, "PQ007", id="with its key"),
        pytest.param({"deliver_at": None}, "PQ017", id="no time"),
        pytest.param({"deliver_at": "infinity"}, "PQ017", id="never"),
        pytest.param({"deliver_at": "2200-01-01"}, "PQ017", id="too late"),
        pytest.param({"timestamp": "1969-12-31 12:00:00+00"}, "PQ017", id="timestamp before 1970"),
        pytest.param({"timestamp": "infinity"}, "PQ017", id="infinite timestamp"),
        pytest.param({"header_keys": ["a"]}, "PQ018", id="keys without values"),
        pytest.param({"header_values": [b"a"]}, "PQ018", id="values without keys"),
        pytest.param({"header_keys": ["a"], "header_values": [b"a", b"b"]}, "PQ018", id="more values than keys"),
        pytest.param({"header_keys": [None], "header_values": [b"a"]}, "PQ018", id="a header without a name"),
    ],
)
def test_what_is_refused(conn: Connection, topic: str, arguments: dict[str, Any], sqlstate: str) -> None:
    given = {"topic": topic, "value": b"v", "deliver_at": value(conn, f"select {HOUR}")}
    with refused(sqlstate):
        call(conn, "produce_delayed", **(given | arguments))
    assert buckets(conn) == []


def test_a_compacted_topic_wants_keys(conn: Connection, make_topic: MakeTopic) -> None:
    topic = make_topic("latest", config='{"cleanup.policy": "compact"}')
    with refused("PQ018"):
        send(conn, topic)
    send(conn, topic, key=b"k", value=None)


@pytest.mark.parametrize("isolation", ISOLATION_LEVELS)
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_joins_the_transaction(
    conn: Connection, connect: Callable[[], Connection], topic: str, isolation: str, end: str
) -> None:
    producer = connect()
    producer.execute(f"begin isolation level {isolation}")
    value(producer, "select count(*) from pgq.topic")
    conn.execute("select pgq.produce_delayed('orders', 'other', now() + interval '3 days')")
    delayed_id = send(producer)
    assert rows(conn, "select value from pgq.delayed_records") == [(b"other",)]
    producer.execute(end)
    found = rows(conn, "select delayed_id from pgq.delayed_records where value = 'v'")
    assert found == ([(delayed_id,)] if end == "commit" else [])


def test_one_lock_a_transaction(conn: Connection, connect: Callable[[], Connection], topic: str) -> None:
    producer = connect()
    for _ in range(2):
        producer.execute("begin")
        for _ in range(3):
            send(producer)
        assert delay_locks(conn) == 1
        producer.execute("commit")
        assert delay_locks(conn) == 0


def test_the_lock_names_a_time_at_or_before_the_records(conn: Connection, topic: str) -> None:
    """Rounded up, it would name the next millisecond, half of the time."""
    for _ in range(50):
        with conn.transaction(force_rollback=True):
            send(conn, due="now()")
            assert value(
                conn, 'select min(d.due_at) - min(t."at") from pgq.delayed_records d, pgq._delay_times() t'
            ) >= value(conn, "select interval '0'")


def test_after_a_rollback_to_a_savepoint_the_lock_is_taken_again(
    conn: Connection, connect: Callable[[], Connection], topic: str
) -> None:
    producer = connect()
    with producer.transaction():
        with producer.transaction(force_rollback=True):
            send(producer, value=b"lost")
            assert delay_locks(conn) == 1
        assert delay_locks(conn) == 0
        send(producer, value=b"kept")
        assert delay_locks(conn) == 1
        with producer.transaction(force_rollback=True):
            send(producer, value=b"lost")
        assert delay_locks(conn) == 1
    assert rows(conn, "select value from pgq.delayed_records") == [(b"kept",)]


def test_a_table_an_hour(conn: Connection, topic: str) -> None:
    for minutes in (0, 30, 59, 60, 61, 60 * 24 * 400):
        send(conn, due=f"{HOUR} + {minutes} * interval '1 minute'")
    counts = [value(conn, f"select count(*) from {bucket}") for bucket in buckets(conn)]
    assert counts == [3, 2, 1]
    assert value(conn, "select count(*) from only pgq_log.delayed") == 0


def test_who_makes_the_table_makes_nobody_wait(conn: Connection, connect: Callable[[], Connection], topic: str) -> None:
    first, second = connect(), connect()
    conn.execute("set lock_timeout = '1s'; set statement_timeout = '10s'")
    first.execute("begin")
    send(first, value=b"1")
    second.execute("begin")
    send(second, value=b"2")
    send(conn, value=b"3")
    second.execute("rollback")
    send(conn, value=b"4")
    assert [name[-2:] for name in buckets(conn)] == ["_1", "_2"]
    first.execute("commit")
    send(conn, value=b"5")
    assert [name[-2:] for name in buckets(conn)] == ["_0", "_1", "_2"]
    assert sorted(rows(conn, "select value from pgq.delayed_records")) == [(b"1",), (b"3",), (b"4",), (b"5",)]


def test_a_batch_in_the_order_given(conn: Connection, wide_topic: str) -> None:
    """What flushes and outboxes call."""
    hours = [5, 1, 3, 1, 2]
    found = rows(
        conn,
        "select d.delayed_id, d.partition, d.due_at from pgq._delay_records(array_fill('wide'::text, '{5}'),"
        " '{4,3,2,1,0}', null, array_fill(null::timestamptz, '{5}'), array_fill(null::bytea, '{5}'),"
        f" '{{a,b,c,d,e}}', '{{2}}', '{{h}}', '{{x}}', array(select {HOUR} + h * interval '1 hour'"
        " from unnest(%s::int[]) h)) d",
        hours,
    )
    assert [partition for _, partition, _ in found] == [4, 3, 2, 1, 0]
    kept = rows(conn, "select delayed_id, partition, due_at, value, header_keys from pgq.delayed_records")
    assert sorted(kept) == sorted(
        (*row, b"%c" % letter, ["h"] if letter == ord("b") else None)
        for row, letter in zip(found, b"abcde", strict=True)
    )


def test_views_of_nothing(conn: Connection) -> None:
    assert rows(conn, "select * from pgq.delayed_records") == rows(conn, "select * from pgq.delayed_status") == []


def test_the_log_is_well_with_records_that_wait(conn: Connection, topic: str) -> None:
    for hours in range(3):
        send(conn, due=f"{HOUR} + {hours} * interval '1 hour'")
    assert rows(conn, "select * from pgq.check_log()") == []


def test_works_with_a_hostile_search_path(conn: Connection, topic: str) -> None:
    conn.execute("create schema evil")
    conn.execute(
        "create function evil.cardinality(anyarray) returns int language plpgsql"
        " as $$ begin raise exception 'hijacked'; end $$"
    )
    for search_path in ("evil, pg_catalog", "''"):
        conn.execute(f"set search_path = {search_path}")
        assert value(conn, "select pgq.cancel_delayed(pgq.produce_delayed('orders', 'v', pg_catalog.now()))")
