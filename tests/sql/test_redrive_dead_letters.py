"""pgq.redrive_dead_letters sends dead letters back to the retry topics of their groups, each once."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.plugins.sessions import Connection, call, eventually, refused, rows, value

from .conftest import START, Bury, log_start, marks, minutes, retried

Connect = Callable[[], Connection]
SETTLING = ("redrive_dead_letters", "purge_dead_letters")
pytestmark = pytest.mark.usefixtures("failure_topics")


def test_redrive(conn: Connection, bury: Bury) -> None:

    bury(0, key=b"k", due=b"17")
    bury(1, key=b"k", redriven=b"1")
    bury(2)
    found = call(conn, "redrive_dead_letters", topic="orders", group_id="billing", execute=True)
    assert found[0] == (
        "orders", "billing", "orders.billing.dlq", 0, 0, 0, 100, START, "ValueError: no amount", "orders.billing.retry"
    )  # fmt: skip
    again = {row[2]: row for row in retried(conn)}
    expected = value(conn, "select pgq.partition_for_key('k', 3)")
    assert [again[v][0] for v in (b"v0", b"v1", b"v2")] == [expected, expected, 2 % 3]
    assert [row[2] for row in retried(conn) if row[1] == b"k"] == [b"v0", b"v1"], "a key's records keep their order"
    headers = again[b"v0"][3]
    assert (headers["pgq.attempt"], headers["pgq.redriven"], headers["source"]) == (b"0", b"1", b"web")
    assert "pgq.due" not in headers
    assert headers["pgq.first_error"] == b"first"
    assert headers["pgq.origin.offset"] == b"100"
    assert again[b"v1"][3]["pgq.redriven"] == b"2"
    assert (minutes(conn), log_start(conn), marks(conn)) == ([], 3, [])


def test_values_go_as_they_are(conn: Connection, bury: Bury) -> None:
    """Compressed ones, and ones that are stored elsewhere, too."""
    bury(0)
    table = value(conn, "select 'pgq_log.t' || topic_id from pgq.topic where name = 'orders.billing.dlq'")
    conn.execute(f"update {table} set codec = 4, value = (select string_agg(sha256(n::text::bytea), '')"
                 " from generate_series(1, 9999) n)")  # fmt: skip
    sent = rows(conn, f"select codec, value, length(value) from {table}")
    call(conn, "redrive_dead_letters", execute=True)
    assert rows(conn, "select codec, value, length(value) from pgq.fetch('orders.billing.retry', 0, 0)") == sent


def test_the_retry_topic_is_gone(conn: Connection, bury: Bury) -> None:
    bury(0)
    bury(1, "payments")
    call(conn, "delete_topic", name="orders.billing.retry")
    for execute in (False, True):
        with refused("PQ001"):
            call(conn, "redrive_dead_letters", execute=execute)
    assert minutes(conn, "redrive_dead_letters", topic="payments", execute=True) == [1]
    assert minutes(conn, "purge_dead_letters", execute=True) == [0]


def test_to_100_partitions_in_a_call(conn: Connection, bury: Bury, make_failure_topics: Callable[..., None]) -> None:
    """As pgq.begin_append has it, which takes locks for each."""
    for number in range(3):
        make_failure_topics("orders", f"g{number}", retry_partitions=40)
        for minute in range(40):
            bury(minute * 3 + number, group_id=f"g{number}")
    planned = minutes(conn, "redrive_dead_letters", most=1000)
    assert planned == list(range(100))
    assert minutes(conn, "redrive_dead_letters", most=1000, execute=True) == planned
    assert minutes(conn, "redrive_dead_letters", most=1000, execute=True) == list(range(100, 120))


def test_a_redriven_record_wakes_who_waits(conn: Connection, connect: Connect, bury: Bury) -> None:
    bury(0)
    session = connect()
    topic_id = value(conn, "select topic_id from pgq.topic where name = 'orders.billing.retry'")
    session.execute(f"listen pgq_{topic_id}")
    session.execute("select pgq._park(array[%s], true)", [topic_id])
    call(conn, "redrive_dead_letters", execute=True)
    seen: list[str] = []

    def notified() -> bool:
        seen.extend(note.channel for note in session.notifies(timeout=0.05, stop_after=1))
        return bool(seen)

    eventually(notified)
    assert seen == [f"pgq_{topic_id}"]


def test_with_failures_of_a_group(conn: Connection) -> None:
    """The whole way: a record fails for good, is sent back, and fails again."""
    call(conn, "produce", topic="orders", value=b"v", key=b"k")
    failure = {"group_id": "billing", "partitions": [0], "due_ats": [None]}
    call(conn, "fail_records", **failure, topics=["orders"], offsets=[0], errors=["one"])
    (row,) = call(conn, "dead_letters")
    assert (row[:7], row[8:12]) == (("orders", "billing", "orders.billing.dlq", 0, 0, 0, 0), (1, 0, "one", "one"))
    call(conn, "redrive_dead_letters", execute=True)
    ((partition, *_, headers),) = retried(conn)
    failure["partitions"] = [partition]
    call(conn, "fail_records", **failure, topics=["orders.billing.retry"], offsets=[0], errors=["two"])
    (row,) = call(conn, "dead_letters")
    assert (row[:7], row[8:12]) == (("orders", "billing", "orders.billing.dlq", 0, 1, 0, 0), (1, 1, "one", "two"))
    assert headers["pgq.attempt"] == b"0"


def test_whoever_waited_looks_again(
    conn: Connection, connect: Connect, wait_until_blocked: Callable[[Connection], None], bury: Bury
) -> None:
    """All that it had found is settled by then; it goes on with what it had not."""
    for minute in range(4):
        bury(minute)
    session, found = connect(), []
    conn.execute("begin")
    assert minutes(conn, "redrive_dead_letters", most=2, execute=True) == [0, 1]
    other = threading.Thread(
        target=lambda: found.append(minutes(session, "redrive_dead_letters", most=2, execute=True))
    )
    other.start()
    wait_until_blocked(session)
    conn.execute("commit")
    other.join()
    assert found == [[2, 3]]
