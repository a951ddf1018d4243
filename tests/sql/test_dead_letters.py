"""pgq.dead_letters lists what groups could not process and nobody has settled."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.plugins.sessions import Connection, call, refused, value

from .conftest import START, Bury, log_start, marks, minutes, retried

Connect = Callable[[], Connection]
SETTLING = ("redrive_dead_letters", "purge_dead_letters")
pytestmark = pytest.mark.usefixtures("failure_topics")


def test_a_row(conn: Connection, bury: Bury) -> None:
    bury(3, key=b"k", redriven=b"2")
    (row,) = call(conn, "dead_letters")
    keys = row[15]
    assert row[:15] == (
        "orders", "billing", "orders.billing.dlq", 0, 0, 0, 103, START + timedelta(minutes=3), 5, 2, "first",
        "ValueError: no amount", b"k", b"v3", None,
    )  # fmt: skip
    assert dict(zip(keys, row[16], strict=True))["source"] == b"web"


def test_oldest_first_of_all_topics(conn: Connection, bury: Bury) -> None:
    for minute, topic, group_id in ((4, "orders", "billing"), (2, "payments", "billing"), (9, "payments", "billing"),
                                    (3, "orders", "audit"), (5, "orders", "billing")):  # fmt: skip
        bury(minute, topic, group_id)
    assert minutes(conn) == [2, 3, 4, 5, 9]
    assert minutes(conn, most=3) == [2, 3, 4]
    assert minutes(conn, topic="orders") == [3, 4, 5]
    assert minutes(conn, group_id="billing") == [2, 4, 5, 9]
    assert minutes(conn, topic="orders", group_id="billing", most=1) == [4]
    assert minutes(conn, group_id="billing", topic="payments") == [2, 9]


def test_filters(conn: Connection, bury: Bury) -> None:
    for minute, error in ((0, "TimeoutError"), (1, "no 100% Match_here"), (2, "timeouterror again"), (3, "")):
        bury(minute, error=error)
    assert minutes(conn, error="TIMEOUT") == [0, 2]
    assert minutes(conn, error="0% match_") == [1], "no pattern"
    assert minutes(conn, error="imeout%rror") == []
    assert minutes(conn, error="FIRST") == [0, 1, 2, 3], "the first error counts, too"
    since, until = START + timedelta(minutes=1), START + timedelta(minutes=3)
    assert minutes(conn, since=since) == [1, 2, 3]
    assert minutes(conn, until=until) == [0, 1, 2]
    assert minutes(conn, since=since, until=until, error="timeout") == [2]


def test_all_partitions_of_a_topic_that_has_grown(conn: Connection, bury: Bury) -> None:
    bury(1)
    call(conn, "add_partitions", name="orders.billing.dlq", partitions=3)
    bury(0, partition=2)
    bury(2, partition=1)
    assert [row[3:5] for row in call(conn, "dead_letters")] == [(2, 0), (0, 0), (1, 0)]
    for function in SETTLING:
        assert [row[3:5] for row in call(conn, function)] == [(2, 0), (0, 0), (1, 0)]


def test_headers_that_say_nothing_are_no_obstacle(conn: Connection, bury: Bury) -> None:
    """Somebody may append to a dead letter topic by hand, and headers are any bytes."""
    before = value(conn, "select clock_timestamp() - interval '1 ms'")
    call(conn, "produce", topic="orders.billing.dlq", value=None)
    broken = {
        "origin.partition": b"99999999999",
        "origin.offset": b"-1",
        "attempt": b"many",
        "failed": b"9" * 15,
        "redriven": b"",
        "first_error": b"\xff\x00 bytes",
    }
    bury(1, **broken, last_error=None)
    bury(2, failed=None, attempt=b"9" * 19)
    found = call(conn, "dead_letters")
    assert all(row[7] >= before for row in found), "when they were appended, for want of a better time"
    assert [(row[5], row[6], row[8], row[9]) for row in found] == [
        (None, None, None, 0), (None, None, None, 0), (0, 102, None, 0)
    ]  # fmt: skip
    assert [row[10:12] for row in found] == [
        (None, None), (r"\377\000 bytes", None), ("first", "ValueError: no amount")
    ]  # fmt: skip
    assert len(call(conn, "dead_letters", error="BYTES")) == 1
    assert len(call(conn, "redrive_dead_letters", execute=True)) == 3
    again = [headers["pgq.redriven"] for *_, headers in retried(conn)]
    assert again == [b"1"] * 3


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_only_what_is_below_the_high_watermark(conn: Connection, connect: Connect, bury: Bury, end: str) -> None:
    bury(0)
    producer = connect()
    producer.execute("begin")
    bury(1, connection=producer)
    bury(2)
    assert minutes(conn) == [0]
    assert minutes(conn, "redrive_dead_letters", execute=True) == [0]
    assert log_start(conn) == 1
    producer.execute(end)
    left = [1, 2] if end == "commit" else [2]
    assert minutes(conn) == left
    assert minutes(conn, "purge_dead_letters", execute=True) == left
    assert (log_start(conn), marks(conn)) == (3, [])


def test_nothing_below_the_log_start(conn: Connection, bury: Bury) -> None:
    for minute in range(4):
        bury(minute)
    call(conn, "delete_records", topic="orders.billing.dlq", partition=0, offset=2)
    for function in ("dead_letters", *SETTLING):
        assert minutes(conn, function) == [2, 3]
    call(conn, "delete_topic", name="orders.billing.dlq")
    assert minutes(conn) == []


def test_many_segments(conn: Connection, bury: Bury) -> None:
    for minute in range(30):
        bury(minute, error="odd" if minute % 2 else "even")
        if minute % 5 == 4:
            conn.execute(
                "select pgq._roll_segment(p.partition_id, 200), pgq.upkeep(p.partition_id) from pgq.partition p"
                " join pgq.topic t using (topic_id) where t.name = 'orders.billing.dlq'"
            )
    assert minutes(conn) == list(range(30))
    assert minutes(conn, error="odd", most=4) == [1, 3, 5, 7]
    count = (
        "select count(*) from pg_locks l where l.pid = pg_backend_pid()"
        " and l.relation in (select to_regclass(relation) from pgq.segment_status)"
    )
    with conn.transaction():
        assert minutes(conn, error="nothing like it") == []
        assert value(conn, count) == 0, "what is only looked through keeps no locks"
    assert minutes(conn, "redrive_dead_letters", error="odd", execute=True) == list(range(1, 30, 2))
    assert minutes(conn) == list(range(0, 30, 2))
    assert minutes(conn, "purge_dead_letters", execute=True, most=14) == list(range(0, 28, 2))
    ((last, *_),) = [(row[4],) for row in call(conn, "dead_letters")]
    assert (log_start(conn), marks(conn)) == (last, [(last + 1, "redriven")])


def test_refused(conn: Connection, bury: Bury) -> None:
    bury(0)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"most": 0}, "PQ023"),
        ({"most": None}, "PQ023"),
        ({"most": -1}, "PQ023"),
        ({"topic": "nope"}, "PQ001"),
        ({"topic": "orders.billing.dlq", "group_id": "nope"}, "PQ040"),
        ({"group_id": ""}, "PQ040"),
    ]
    for function in ("dead_letters", *SETTLING):
        for arguments, sqlstate in wrong:
            with refused(sqlstate):
                call(conn, function, **arguments)
        for level in ("repeatable read", "serializable"):
            conn.execute(f"begin isolation level {level}")
            with refused("PQ009"):
                call(conn, function)
            conn.execute("rollback")
    assert minutes(conn, topic="orders.billing.dlq") == [], "a topic, though no origin"


def test_an_origin_that_is_gone(conn: Connection, bury: Bury) -> None:
    bury(0)
    call(conn, "delete_topic", name="orders")
    assert minutes(conn, topic="orders", group_id="billing") == [0]
