"""pgq.fail_records moves what a group could not process out of its way, in the transaction that commits beyond it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pgq.core.partitioner import partition_for_key
from tests.plugins.sessions import Connection, call, eventually, refused, rows, value

from .conftest import MakeTopic, committed

ORIGIN = ("pgq.origin.topic", "pgq.origin.partition", "pgq.origin.offset", "pgq.origin.timestamp")


def fail(
    conn: Connection,
    offset: int = 0,
    *,
    topic: str = "orders",
    due: str | None = None,
    error: str | None = "failed",
    partition: int = 0,
    attempts: int | None = None,
    group_id: str = "g",
) -> int:
    due_at = value(conn, f"select {due}") if due else None
    arguments: dict[str, Any] = {
        "group_id": group_id,
        "topics": [topic],
        "partitions": [partition],
        "offsets": [offset],
        "errors": [error],
    }
    more = {} if attempts is None else {"attempts": [attempts]}
    return int(call(conn, "fail_records", due_ats=[due_at], **arguments, **more)[0][0])


def dead_letter(conn: Connection, offset: int = 0, topic: str = "orders.g.dlq") -> dict[str, Any]:
    """Headers of one record, in order, as text."""
    found = rows(
        conn,
        "select h.key, convert_from(h.value, 'UTF8') from pgq.fetch(%s, 0, %s, 1) r,"
        " unnest(r.header_keys, r.header_values) h (key, value) where h.key like 'pgq.%%'",
        topic,
        offset,
    )
    return dict(found)


def retry_now(conn: Connection, topic: str = "orders.g.retry") -> int:
    """Let what waits be due, deliver it, and return the offset of the last record of the retry topic."""
    eventually(lambda: call(conn, "deliver_due")[0][0] > 0)
    return int(value(conn, 'select max("offset") from pgq.fetch(%s, 0, 0)', topic))


@pytest.fixture(autouse=True)
def three_records(topic: str, conn: Connection) -> None:
    call(
        conn,
        "produce",
        topic="orders",
        key=b"k",
        value=b"v",
        header_keys=["a", "a", "b"],
        header_values=[b"1", None, b"\x00\xff"],
        timestamp="2024-01-01 00:00:00.123+00",
    )
    call(conn, "produce", topic="orders", value=None)
    call(conn, "produce", topic="orders", value=b"w")


def test_to_the_dead_letter_topic(conn: Connection) -> None:
    before = int(value(conn, "select extract(epoch from clock_timestamp()) * 1000"))
    assert fail(conn, error="broken: ä") == 1
    record = rows(
        conn,
        'select partition, "offset", key, value, codec, header_keys[1:3], header_values[1:3]'
        " from pgq.fetch('orders.g.dlq', 0, 0)",
    )
    assert record == [(0, 0, b"k", b"v", None, ["a", "a", "b"], [b"1", None, b"\x00\xff"])]
    found = dict(
        rows(
            conn,
            "select h.key, convert_from(h.value, 'UTF8') from pgq.fetch('orders.g.dlq', 0, 0) r,"
            " unnest(r.header_keys[4:], r.header_values[4:]) h (key, value)",
        )
    )
    assert int(found.pop("pgq.failed")) >= before
    assert found == {
        "pgq.group": "g",
        "pgq.origin.topic": "orders",
        "pgq.origin.partition": "0",
        "pgq.origin.offset": "0",
        "pgq.origin.timestamp": "1704067200123",
        "pgq.attempt": "1",
        "pgq.first_error": "broken: ä",
        "pgq.last_error": "broken: ä",
    }
    assert rows(conn, "select * from pgq.delayed_records") == []


def test_to_the_retry_topic_when_it_is_due(conn: Connection) -> None:
    assert fail(conn, due="now() + interval '1 hour'") == 1
    assert rows(conn, "select topic, key, value from pgq.delayed_records") == [("orders.g.retry", b"k", b"v")]
    assert value(
        conn,
        "select convert_from(header_values[array_position(header_keys, 'pgq.due')], 'UTF8')::bigint ="
        " (extract(epoch from due_at) * 1000)::bigint from pgq.delayed_records",
    )
    assert value(conn, "select pgq.log_end_offset('orders.g.retry', 0)") == 0


def test_a_time_that_has_passed_is_now(conn: Connection) -> None:
    fail(conn, due="'epoch'")
    assert retry_now(conn) == 0


@pytest.mark.parametrize("offset, expected", [(1, (None, None)), (2, (None, b"w"))])
@pytest.mark.parametrize("due", [None, "now()"])
def test_nulls_are_kept(
    conn: Connection, offset: int, expected: tuple[bytes | None, bytes | None], due: str | None
) -> None:
    fail(conn, offset, due=due)
    topic = "orders.g.dlq"
    if due:
        retry_now(conn)
        topic = "orders.g.retry"
    assert rows(conn, "select key, value from pgq.fetch(%s, 0, 0)", topic) == [expected]


@pytest.mark.parametrize("due", [None, "now()"])
def test_codec_is_kept(conn: Connection, due: str | None) -> None:
    """The value is not unpacked on its way."""
    with conn.transaction():
        conn.execute("select pgq.begin_append('{1}', '{0}', '{1}')")
        conn.execute(
            'insert into pgq_log.t1 (partition, "offset", "timestamp", value, codec)'
            " values (0, 3, now(), 'packed', 4)"
        )
    fail(conn, 3, due=due)
    if due:
        retry_now(conn)
    topic = "orders.g.retry" if due else "orders.g.dlq"
    assert rows(conn, "select value, codec from pgq.fetch(%s, 0, 0)", topic) == [(b"packed", 4)]


def test_origin_and_first_error_stay_over_several_failures(conn: Connection) -> None:
    fail(conn, due="now()", error="first")
    for attempt in range(2, 5):
        offset = retry_now(conn)
        fail(conn, offset, topic="orders.g.retry", due="now()", error=f"error {attempt}")
    fail(conn, retry_now(conn), topic="orders.g.retry", error="last")
    found = dead_letter(conn)
    assert [found[name] for name in ORIGIN] == ["orders", "0", "0", "1704067200123"]
    assert (found["pgq.attempt"], found["pgq.first_error"], found["pgq.last_error"]) == ("5", "first", "last")
    assert "pgq.due" not in found
    keys = value(conn, "select header_keys from pgq.fetch('orders.g.dlq', 0, 0)")
    assert keys[:3] == ["a", "a", "b"]
    assert len(keys) == len(set(keys)) + 1


def test_attempts_given(conn: Connection) -> None:
    fail(conn, due="now()", attempts=7)
    offset = retry_now(conn)
    fail(conn, offset, topic="orders.g.retry")
    assert dead_letter(conn)["pgq.attempt"] == "8"
    fail(conn, offset, topic="orders.g.retry", attempts=12)
    assert dead_letter(conn, 1)["pgq.attempt"] == "12"


@pytest.mark.parametrize("said", ["x", "-1", "99999999999", "1.5", ""])
def test_a_count_that_is_none_begins_again(conn: Connection, said: str) -> None:
    fail(conn, due="now()")
    retry_now(conn)
    conn.execute(
        "select pgq.produce('orders.g.retry', 'v', header_keys => '{pgq.origin.topic,pgq.attempt}',"
        " header_values => array['orders', %s]::bytea[])",
        [said],
    )
    fail(conn, 1, topic="orders.g.retry")
    assert dead_letter(conn)["pgq.attempt"] == "1"


def test_a_record_that_somebody_put_into_the_retry_topic_himself(conn: Connection) -> None:
    """It has no headers of ours; it goes where the others of the topic go."""
    call(conn, "create_retry_topics", group_id="g", topics=["orders"])
    call(conn, "produce", topic="orders.g.retry", value=b"own")
    fail(conn, topic="orders.g.retry", due="now()")
    offset = retry_now(conn)
    assert offset == 1
    fail(conn, offset, topic="orders.g.retry")
    found = dead_letter(conn)
    assert [found[name] for name in ORIGIN[:3]] == ["orders.g.retry", "0", "0"]
    assert found["pgq.attempt"] == "2"


def test_headers_of_ours_from_elsewhere_are_not_believed(conn: Connection) -> None:
    """A producer that copies a dead letter to an ordinary topic, or forges one."""
    conn.execute(
        "select pgq.produce('orders', 'v', header_keys => '{pgq.origin.topic,pgq.attempt,pgq.first_error}',"
        " header_values => '{payments,42,old}')"
    )
    fail(conn, 3)
    found = dead_letter(conn)
    assert (found["pgq.origin.topic"], found["pgq.origin.offset"]) == ("orders", "3")
    assert (found["pgq.attempt"], found["pgq.first_error"]) == ("1", "failed")


def test_a_forged_origin_leads_nowhere_else(conn: Connection, make_topic: MakeTopic) -> None:
    make_topic("payments")
    call(conn, "create_retry_topics", group_id="g", topics=["orders"])
    conn.execute(
        "select pgq.produce('orders.g.retry', 'v', header_keys => '{pgq.origin.topic}', header_values => '{payments}')"
    )
    fail(conn, topic="orders.g.retry")
    assert value(conn, "select pgq.log_end_offset('orders.g.dlq', 0)") == 1
    assert value(conn, "select count(*) from pgq.topic where name like 'payments.%%'") == 0


def test_a_key_decides_the_partition(conn: Connection, make_topic: MakeTopic) -> None:
    make_topic("wide", 5)
    for number in range(10):
        call(conn, "produce", topic="wide", value=b"v", key=b"%d" % number, partition=0)
        fail(conn, number, topic="wide", due="now() + interval '1 hour'")
    assert dict(rows(conn, "select key, partition from pgq.delayed_records")) == {
        b"%d" % number: partition_for_key(b"%d" % number, 5) for number in range(10)
    }


@pytest.mark.parametrize(
    "error, kept",
    [
        ("x" * 5000, "x" * 1000),
        ("\U0001f600" * 1500, "\U0001f600" * 1000),
        (None, ""),
        ("", ""),
        ('a\nb\t"c" \'\\ {} \x01\x7f%s ä\u2028', 'a\nb\t"c" \'\\ {} \x01\x7f%s ä\u2028'),
        ("\\u0000", "\\u0000"),
    ],
)
@pytest.mark.parametrize("due", [None, "now()"])
def test_any_text_of_an_error(conn: Connection, error: str | None, kept: str, due: str | None) -> None:
    fail(conn, 2, error=error, due=due)
    found = dead_letter(conn, topic="orders.g.retry" if due and retry_now(conn) == 0 else "orders.g.dlq")
    assert found["pgq.first_error"] == found["pgq.last_error"] == kept


def test_a_first_error_that_is_no_text(conn: Connection) -> None:
    """Headers are bytes; what cannot be read as text is escaped."""
    call(conn, "create_retry_topics", group_id="g", topics=["orders"])
    conn.execute(
        "select pgq.produce('orders.g.retry', 'v', header_keys => '{pgq.origin.topic,pgq.first_error}',"
        " header_values => array['orders', '\\xff00']::bytea[])"
    )
    fail(conn, topic="orders.g.retry", error="new")
    assert dead_letter(conn)["pgq.first_error"] == "\\377\\000"


def test_with_the_commit_of_the_offsets_or_not_at_all(conn: Connection) -> None:
    with conn.transaction(force_rollback=True):
        fail(conn)
        fail(conn, 1, due="now()")
        call(conn, "commit_offsets", group_id="g", topics=["orders"], partitions=[0], offsets=[2])
    assert committed(conn) == {}
    assert rows(conn, "select name from pgq.topic") == [("orders",)]
    assert call(conn, "deliver_due") == [(0, None)]
    with conn.transaction():
        fail(conn)
        fail(conn, 1, due="now()")
        call(conn, "commit_offsets", group_id="g", topics=["orders"], partitions=[0], offsets=[2])
    assert committed(conn) == {("orders", 0): 2}
    assert retry_now(conn) == 0
    assert value(conn, "select count(*) from pgq.fetch('orders.g.dlq', 0, 0)") == 1
    assert rows(conn, "select * from pgq.check_log()") == []


def test_many_at_once(conn: Connection, make_topic: MakeTopic) -> None:
    make_topic("wide", 3)
    call(
        conn,
        "produce_batch",
        topic="wide",
        values=[b"%d" % n for n in range(60)],
        partitions=[n % 3 for n in range(60)],
    )
    arrays = {
        "topics": ["wide"] * 60,
        "partitions": [n % 3 for n in range(60)],
        "offsets": [n // 3 for n in range(60)],
        "errors": [None] * 60,
        "due_ats": [None if n % 2 else value(conn, "select now()") for n in range(60)],
    }
    assert call(conn, "fail_records", group_id="g", **arrays) == [(60,)]
    assert value(conn, "select count(*) from pgq.fetch('wide.g.dlq', 0, 0)") == 30
    assert call(conn, "deliver_due") == [(30, None)]


def test_what_is_gone_is_not_counted(conn: Connection) -> None:
    """By compaction, or by retention with its segment; and an offset that was rolled back."""
    conn.execute('delete from pgq_log.t1 where "offset" = 1')
    assert [fail(conn, offset) for offset in (0, 1, 2, 3, 10**15)] == [1, 0, 1, 0, 0]
    assert value(conn, "select count(*) from pgq.fetch('orders.g.dlq', 0, 0)") == 2


def test_segment_dropped_meanwhile(conn: Connection) -> None:
    call(conn, "produce_batch", topic="orders", values=[b"v"] * 5000)
    conn.execute("select pgq.delete_records('orders', 0, 4096)")
    conn.execute("alter table pgq_log.t1_p0 detach partition pgq_log.t1_p0_s0")
    assert value(conn, "select pgq._drop_segment(partition_id, 0) from pgq.partition where topic_id = 1")
    assert [fail(conn, offset) for offset in (0, 4096)] == [0, 1]


@pytest.mark.parametrize("of_whom", ["g", "other"])
@pytest.mark.parametrize("kind", ["dlq", "retry"])
def test_topics_of_failures_of_others_and_dead_letters(conn: Connection, of_whom: str, kind: str) -> None:
    """A group that reads them has topics for its own failures there."""
    call(conn, "create_retry_topics", group_id=of_whom, topics=["orders"])
    call(conn, "produce", topic=f"orders.{of_whom}.{kind}", value=b"v")
    for due in (None, "now()"):
        assert fail(conn, topic=f"orders.{of_whom}.{kind}", due=due) == 1
    own = "orders" if (of_whom, kind) == ("g", "retry") else f"orders.{of_whom}.{kind}"
    assert value(conn, "select count(*) from pgq.fetch(%s, 0, 0)", f"{own}.g.dlq") == 1
    assert rows(conn, "select distinct topic from pgq.delayed_records") == [(f"{own}.g.retry",)]


def test_origin_and_dead_letter_topic_deleted_meanwhile(conn: Connection) -> None:
    fail(conn, due="now()")
    offset = retry_now(conn)
    conn.execute("select pgq.delete_topic('orders')")
    conn.execute("select pgq.delete_topic('orders.g.dlq')")
    assert fail(conn, offset, topic="orders.g.retry") == 1
    assert value(conn, "select count(*) from pgq.fetch('orders.g.dlq', 0, 0)") == 1


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_isolation(conn: Connection, isolation: str) -> None:
    """Records that are younger than the snapshot would be taken for deleted ones."""
    with conn.transaction(force_rollback=True), refused("PQ009"):
        conn.execute(f"set transaction isolation level {isolation}")
        fail(conn)


def test_many_hours(conn: Connection) -> None:
    with refused("PQ023"):
        conn.execute(
            "select pgq.fail_records('g', array_fill('orders'::text, array[101]), array_fill(0, array[101]),"
            " array_fill(0::int8, array[101]),"
            " array(select now() + n * interval '1 hour' from generate_series(1, 101) n),"
            " array_fill(''::text, array[101]))"
        )


def test_origin_deleted_meanwhile(conn: Connection) -> None:
    fail(conn, due="now()")
    offset = retry_now(conn)
    conn.execute("select pgq.delete_topic('orders')")
    assert fail(conn, offset, topic="orders.g.retry") == 1


def test_a_topic_that_was_deleted_is_made_again(conn: Connection) -> None:
    fail(conn)
    conn.execute("select pgq.delete_topic('orders.g.dlq')")
    assert fail(conn) == 1
    assert value(conn, "select count(*) from pgq.fetch('orders.g.dlq', 0, 0)") == 1


@pytest.mark.parametrize(
    "arguments, sqlstate",
    [
        pytest.param({"topics": ["nope"]}, "PQ001", id="unknown topic"),
        pytest.param({"topics": [None]}, "PQ001", id="no topic"),
        pytest.param({"partitions": [1]}, "PQ002", id="unknown partition"),
        pytest.param({"partitions": [None]}, "PQ002", id="no partition"),
        pytest.param({"group_id": ""}, "PQ019", id="no group"),
        pytest.param({"group_id": "a b"}, "PQ019", id="illegal in a name"),
        pytest.param({"group_id": "grüße"}, "PQ019", id="not ASCII"),
        pytest.param({"group_id": "g" * 249}, "PQ004", id="too long together"),
        pytest.param({"due_ats": ["infinity"]}, "PQ017", id="never"),
        pytest.param({"due_ats": ["2200-01-01"]}, "PQ017", id="too late"),
        pytest.param({"topics": []}, "PQ023", id="fewer topics"),
        pytest.param({"topics": None}, "PQ023", id="no topics"),
        pytest.param({"partitions": [0, 0]}, "PQ023", id="more partitions"),
        pytest.param({"offsets": None}, "PQ023", id="no offsets"),
        pytest.param({"due_ats": []}, "PQ023", id="fewer times"),
        pytest.param({"due_ats": None}, "PQ023", id="no times"),
        pytest.param({"errors": ["a", "b"]}, "PQ023", id="more errors"),
        pytest.param({"attempts": [1, 2]}, "PQ023", id="more attempts"),
        pytest.param({"attempts": []}, "PQ023", id="fewer attempts"),
        pytest.param({"attempts": [-5]}, "PQ023", id="attempts below 0"),
        pytest.param({"attempts": [0]}, "PQ023", id="no attempt"),
    ],
)
def test_what_is_refused(conn: Connection, arguments: dict[str, Any], sqlstate: str) -> None:
    base = {
        "group_id": "g",
        "topics": ["orders"],
        "partitions": [0],
        "offsets": [0],
        "due_ats": [None],
        "errors": ["e"],
    }
    with refused(sqlstate):
        call(conn, "fail_records", **(base | arguments))
    assert rows(conn, "select name from pgq.topic") == [("orders",)]


def test_nothing_to_do(conn: Connection) -> None:
    base: dict[str, Any] = {key: [] for key in ("topics", "partitions", "offsets", "due_ats", "errors")}
    assert call(conn, "fail_records", group_id="g", **base) == [(0,)]


def test_an_offset_that_is_null(conn: Connection) -> None:
    assert value(conn, "select pgq.fail_records('g', '{orders}', '{0}', '{null}', '{null}', '{e}')") == 0


def test_waits_for_nobody_who_appends(conn: Connection, connect: Callable[[], Connection]) -> None:
    call(conn, "create_retry_topics", group_id="g", topics=["orders"])
    one, two = connect(), connect()
    for session in (one, two):
        session.execute("set lock_timeout = '1s'")
        session.execute("begin")
        fail(session)
        fail(session, 1, due="now()")
    one.execute("rollback")
    two.execute("commit")
    assert value(conn, "select count(*) from pgq.fetch('orders.g.dlq', 0, 0)") == 1
