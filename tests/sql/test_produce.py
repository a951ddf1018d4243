"""pgq.produce appends one record, in the caller's transaction, or says why not."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgq.core.partitioner import partition_for_key
from tests.plugins.sessions import ISOLATION_LEVELS, Connection, call, eventually, refused, rows, value

from .conftest import MakeTopic

MEBIBYTE = 1_048_576


def only_record(conn: Connection, topic: str, partition: int = 0) -> dict[str, Any]:
    cursor = conn.execute("select * from pgq.fetch(%s, %s, 0)", [topic, partition])
    assert cursor.description
    (row,) = cursor.fetchall()
    return dict(zip([column.name for column in cursor.description], row, strict=True))


def test_offsets_count_from_zero(conn: Connection, topic: str) -> None:
    assert [call(conn, "produce", topic=topic, value=b"v") for _ in range(3)] == [[(0, 0)], [(0, 1)], [(0, 2)]]


@pytest.mark.parametrize(
    "record",
    [
        pytest.param({"value": b"v", "key": b"k"}, id="plain"),
        pytest.param({"value": None, "key": b"k"}, id="null value"),
        pytest.param({"value": b"", "key": b""}, id="empty value and key"),
        pytest.param({"value": None}, id="all null"),
        pytest.param({"value": bytes(range(256)), "key": bytes(range(256))}, id="all bytes"),
        pytest.param({"value": b"'; drop table x; --", "key": b'it\'s "quoted" \\ $$ %s'}, id="quotes"),
        pytest.param(
            {
                "value": b"v",
                "header_keys": ["b", "a", "b", "", "ü'\""],
                "header_values": [b"1", None, b"2", b"", b"\0"],
            },
            id="headers",
        ),
    ],
)
def test_record_is_kept_as_given(conn: Connection, topic: str, record: dict[str, Any]) -> None:
    call(conn, "produce", topic=topic, **record)
    stored = only_record(conn, topic)
    assert (
        stored | {"timestamp": None}
        == {
            "partition": 0,
            "offset": 0,
            "timestamp": None,
            "key": None,
            "header_keys": None,
            "header_values": None,
            "codec": None,
        }
        | record
    )


def test_timestamp_is_now_unless_given(conn: Connection, topic: str) -> None:
    before = value(conn, "select date_trunc('milliseconds', clock_timestamp())")
    call(conn, "produce", topic=topic, value=b"v")
    assert before <= only_record(conn, topic)["timestamp"] <= value(conn, "select clock_timestamp()")


@pytest.mark.parametrize(
    "given, stored",
    [
        ("1970-01-01 00:00:00+00", datetime(1970, 1, 1, tzinfo=UTC)),
        ("2024-02-29 12:34:56.789999+00", datetime(2024, 2, 29, 12, 34, 56, 789000, tzinfo=UTC)),
        ("2024-02-29 12:34:56.7890001+02", datetime(2024, 2, 29, 10, 34, 56, 789000, tzinfo=UTC)),
        ("9999-12-31 23:59:59.999+00", datetime.max.replace(microsecond=999000, tzinfo=UTC)),
    ],
)
def test_timestamp_is_kept_to_the_millisecond(conn: Connection, topic: str, given: str, stored: datetime) -> None:
    conn.execute("set timezone = 'UTC'")
    conn.execute(
        f"select pgq.alter_topic_config('{topic}', '{{\"message.timestamp.after.max.ms\": 9000000000000000}}')"
    )
    call(conn, "produce", topic=topic, value=b"v", timestamp=given)
    assert only_record(conn, topic)["timestamp"] == stored


def test_timestamp_too_far_ahead_is_refused(conn: Connection, topic: str) -> None:
    now = value(conn, "select clock_timestamp()")
    for given in ({"timestamp": now + timedelta(minutes=59)}, {"timestamp": now - timedelta(days=9)}):
        call(conn, "produce", topic=topic, value=b"v", **given)
    with refused("PQ017"):
        call(conn, "produce", topic=topic, value=b"v", timestamp=now + timedelta(minutes=61))
    call(conn, "alter_topic_config", name=topic, config='{"message.timestamp.after.max.ms": 0}')
    with refused("PQ017"):
        call(conn, "produce", topic=topic, value=b"v", timestamp=now + timedelta(minutes=1))
    call(conn, "produce", topic=topic, value=b"v")


def test_log_append_time(conn: Connection, topic: str) -> None:
    call(conn, "alter_topic_config", name=topic, config='{"message.timestamp.type": "LogAppendTime"}')
    before = value(conn, "select date_trunc('milliseconds', clock_timestamp())")
    call(conn, "produce", topic=topic, value=b"v", timestamp="1999-01-01")
    assert before <= only_record(conn, topic)["timestamp"] <= value(conn, "select clock_timestamp()")


@pytest.mark.parametrize(
    "timestamp", ["infinity", "-infinity", "1969-12-31 23:59:59.999999+00", "4713-01-01 00:00:00+00 BC"]
)
def test_timestamp_out_of_range_is_refused(conn: Connection, topic: str, timestamp: str) -> None:
    with refused("PQ017"):
        call(conn, "produce", topic=topic, value=b"v", timestamp=timestamp)


@pytest.mark.parametrize(
    "header_keys, header_values",
    [
        pytest.param("{a,b}", "{1}", id="fewer values"),
        pytest.param("{a}", "{1,2}", id="fewer keys"),
        pytest.param("{a}", None, id="no values"),
        pytest.param(None, "{1}", id="no keys"),
        pytest.param("{a,NULL}", "{1,2}", id="null key"),
        pytest.param("{{a,b},{c,d}}", "{{1,2},{3,4}}", id="2-dimensional"),
        pytest.param("{{a},{b}}", "{1,2}", id="2-dimensional keys"),
        pytest.param("{a,b}", "{{1},{2}}", id="2-dimensional values"),
        pytest.param("{{a,NULL}}", "{{1,2}}", id="2-dimensional with a null key"),
    ],
)
def test_bad_headers_are_refused(
    conn: Connection, topic: str, header_keys: str | None, header_values: str | None
) -> None:
    with refused("PQ018"):
        call(conn, "produce", topic=topic, value=b"v", header_keys=header_keys, header_values=header_values)


def test_record_of_the_largest_size_is_accepted(conn: Connection, topic: str) -> None:
    largest = random.Random(1).randbytes(MEBIBYTE)
    call(conn, "produce", topic=topic, value=largest)
    assert only_record(conn, topic)["value"] == largest


@pytest.mark.parametrize(
    "record",
    [
        pytest.param({"value": bytes(MEBIBYTE + 1)}, id="value"),
        pytest.param({"value": bytes(MEBIBYTE), "key": b"k"}, id="key"),
        pytest.param({"value": bytes(MEBIBYTE), "header_keys": ["h"], "header_values": [None]}, id="header key"),
        pytest.param({"value": bytes(MEBIBYTE), "header_keys": [""], "header_values": [b"v"]}, id="header value"),
        pytest.param({"value": None, "key": bytes(MEBIBYTE + 1)}, id="key alone"),
    ],
)
def test_record_one_byte_over_is_refused(conn: Connection, topic: str, record: dict[str, Any]) -> None:
    with refused("PQ007"):
        call(conn, "produce", topic=topic, **record)


@pytest.mark.parametrize("extra, fits", [(0, True), (1, False)])
def test_size_counts_key_value_and_headers_in_bytes(
    conn: Connection, make_topic: MakeTopic, extra: int, fits: bool
) -> None:
    topic = make_topic("small", config='{"max.message.bytes": 11}')
    record = {"value": b"12" + bytes(extra), "key": b"345", "header_keys": ["ü", "n"], "header_values": [b"123", None]}
    if fits:
        call(conn, "produce", topic=topic, **record)
    else:
        with refused("PQ007"):
            call(conn, "produce", topic=topic, **record)


@pytest.mark.parametrize("topic", ["nope", "", "ORDERS", "orders ", "orders'", 'o"o', "x" * 300, None])
def test_unknown_topic_is_refused(conn: Connection, make_topic: MakeTopic, topic: str | None) -> None:
    make_topic("orders")
    with refused("PQ001"):
        call(conn, "produce", topic=topic, value=b"v")


@pytest.mark.parametrize("partition", [-1, 5, 2**31 - 1, -(2**31)])
def test_unknown_partition_is_refused(conn: Connection, wide_topic: str, partition: int) -> None:
    with refused("PQ002"):
        call(conn, "produce", topic=wide_topic, value=b"v", partition=partition)


@pytest.mark.parametrize("partition", [-1, 1])
def test_unknown_partition_of_a_topic_with_one_is_refused(conn: Connection, topic: str, partition: int) -> None:
    with refused("PQ002"):
        call(conn, "produce", topic=topic, value=b"v", partition=partition)


def test_a_refused_record_takes_no_offset(conn: Connection, topic: str) -> None:
    for record in ({"value": bytes(MEBIBYTE + 1)}, {"value": b"v", "timestamp": "infinity"}):
        with refused("PQ007" if len(record) == 1 else "PQ017"):
            call(conn, "produce", topic=topic, **record)
    assert call(conn, "produce", topic=topic, value=b"v") == [(0, 0)]


def test_key_decides_the_partition(conn: Connection, wide_topic: str) -> None:
    for key in (b"", b"21", b"foobar", b"abc", b"\x00\xff"):
        ((partition, _),) = call(conn, "produce", topic=wide_topic, value=b"v", key=key)
        assert partition == partition_for_key(key, 5)


def test_partition_given_overrides_the_key(conn: Connection, wide_topic: str) -> None:
    for partition in range(5):
        assert call(conn, "produce", topic=wide_topic, value=b"v", key=b"k", partition=partition) == [(partition, 0)]


def test_records_without_a_key_are_spread(conn: Connection, wide_topic: str) -> None:
    used = {call(conn, "produce", topic=wide_topic, value=b"v")[0][0] for _ in range(200)}
    assert used == set(range(5))


def test_topics_whose_names_differ_by_case(conn: Connection, make_topic: MakeTopic) -> None:
    for name in ("orders", "Orders", "ORDERS"):
        make_topic(name)
        call(conn, "produce", topic=name, value=name.encode())
    for name in ("orders", "Orders", "ORDERS"):
        assert only_record(conn, name)["value"] == name.encode()


@pytest.mark.parametrize("name", ["a" * 249, "a.b-c_D.9", "-", "_", "...", "select"])
def test_every_legal_name_can_be_produced_to(conn: Connection, make_topic: MakeTopic, name: str) -> None:
    make_topic(name)
    make_topic(name[:-1] + "b")
    call(conn, "produce", topic=name, value=b"v")
    assert only_record(conn, name)["value"] == b"v"


@pytest.mark.parametrize("isolation", ISOLATION_LEVELS)
def test_record_joins_the_transaction(conn: Connection, connect: Any, topic: str, isolation: str) -> None:
    conn.execute("create table account (balance int)")
    writer = connect()
    for end in ("rollback", "commit"):
        writer.execute(f"begin isolation level {isolation}")
        writer.execute("insert into account values (1)")
        call(writer, "produce", topic=topic, value=end.encode())
        call(writer, "produce", topic=topic, value=end.encode())
        assert rows(conn, "select value from pgq.fetch(%s, 0, 0)", topic) == []
        writer.execute(end)
    assert rows(conn, 'select value, "offset" from pgq.fetch(%s, 0, 0)', topic) == [(b"commit", 2), (b"commit", 3)]
    assert value(conn, "select count(*) from account") == 1


@pytest.mark.parametrize("isolation", ISOLATION_LEVELS)
def test_topic_made_after_the_snapshot_can_be_produced_to_in_a_later_transaction(
    conn: Connection, connect: Any, make_topic: MakeTopic, isolation: str
) -> None:
    session = connect()
    session.execute(f"begin isolation level {isolation}")
    session.execute("select count(*) from pgq.topic")
    make_topic("orders")
    session.execute("commit")
    session.execute(f"begin isolation level {isolation}")
    assert call(session, "produce", topic="orders", value=b"v") == [(0, 0)]
    session.execute("commit")


def test_savepoint_rolled_back_takes_its_records_along(conn: Connection, topic: str) -> None:
    with conn.transaction():
        call(conn, "produce", topic=topic, value=b"kept")
        with conn.transaction(force_rollback=True):
            call(conn, "produce", topic=topic, value=b"lost")
        call(conn, "produce", topic=topic, value=b"kept, too")
    assert rows(conn, "select value from pgq.fetch(%s, 0, 0)", topic) == [(b"kept",), (b"kept, too",)]


def test_works_with_an_empty_search_path(conn: Connection, wide_topic: str) -> None:
    conn.execute("set search_path = ''")
    call(conn, "produce", topic=wide_topic, value=b"v", key=b"k", header_keys=["h"], header_values=[b"1"])
    call(conn, "produce", topic=wide_topic, value=b"v", partition=1, timestamp="2024-01-01")
    with refused("PQ002"):
        call(conn, "produce", topic=wide_topic, value=b"v", partition=9)


HOSTILE = {
    "md5": "function md5(text) returns text",
    "strpos": "function strpos(text, text) returns int",
    "nextval": "function nextval(regclass) returns bigint",
    "lock": "function pg_advisory_xact_lock_shared(bigint) returns void",
    "set_config": "function set_config(text, text, boolean) returns text",
    "octet_length": "function octet_length(bytea) returns int",
    "date_trunc": "function date_trunc(text, timestamptz) returns timestamptz",
    "clock_timestamp": "function clock_timestamp() returns timestamptz",
    "pg_sequence_last_value": "function pg_sequence_last_value(regclass) returns bigint",
    "random": "function random() returns double precision",
}


@pytest.mark.parametrize("header", HOSTILE.values(), ids=list(HOSTILE))
@pytest.mark.parametrize("search_path", ["evil", "evil, public", "evil, pg_catalog"])
def test_works_with_a_hostile_search_path(conn: Connection, wide_topic: str, header: str, search_path: str) -> None:
    """With "evil, pg_catalog" only names in full are safe."""
    conn.execute("create schema evil")
    conn.execute(
        f"create {header.replace('function ', 'function evil.')} language plpgsql"
        " as $$ begin raise exception 'hijacked'; end $$"
    )
    conn.execute(f"set search_path = {search_path}")
    call(conn, "produce", topic=wide_topic, value=b"v")
    call(conn, "produce", topic=wide_topic, value=b"v", key=b"k", header_keys=["h"], header_values=[b"1"])


def test_works_with_an_operator_of_the_same_name_in_the_search_path(conn: Connection, wide_topic: str) -> None:
    conn.execute("create schema evil")
    conn.execute(
        "create function evil.hijack(text, text) returns text language plpgsql"
        " as $$ begin raise exception 'hijacked'; end $$"
    )
    conn.execute("create operator evil.|| (function = evil.hijack, leftarg = text, rightarg = text)")
    conn.execute("set search_path = evil, pg_catalog")
    call(conn, "produce", topic=wide_topic, value=b"v")


@pytest.mark.parametrize("sequence_name", ["t1_p0_offset", "pgq_log.t1_p0_offset"])
def test_temporary_objects_do_not_stand_in_for_the_log(conn: Connection, topic: str, sequence_name: str) -> None:
    conn.execute(f'create temporary sequence "{sequence_name}"')
    conn.execute("create temporary table partition (n int)")
    call(conn, "produce", topic=topic, value=b"v")
    assert only_record(conn, topic)["offset"] == 0


@pytest.mark.parametrize(
    "statement",
    [
        """insert into pgq_log.t{id} (partition, "offset", "timestamp") values (0, 0, now())""",
        """insert into pgq_log.t{id} (partition, "offset", "timestamp")
           select 0, n, now() from generate_series(1, 3) n""",
        """insert into pgq_log.t{id} select * from pgq_log.t{id}""",
    ],
)
def test_direct_insert_is_refused(conn: Connection, topic: str, statement: str) -> None:
    with refused("PQ012"):
        conn.execute(statement.format(id=value(conn, "select topic_id from pgq.topic")))
    assert value(conn, "select count(*) from pgq.fetch(%s, 0, 0)", topic) == 0


def test_direct_copy_is_refused(conn: Connection, topic: str) -> None:
    topic_id = value(conn, "select topic_id from pgq.topic where name = %s", topic)
    with (
        refused("PQ012"),
        conn.cursor() as cursor,
        cursor.copy(f'copy pgq_log.t{topic_id} (partition, "offset", "timestamp") from stdin') as copy,
    ):
        copy.write_row((0, 0, "2024-01-01"))


def test_direct_insert_is_refused_after_a_transaction_that_produced(conn: Connection, topic: str) -> None:
    call(conn, "produce", topic=topic, value=b"v")
    with refused("PQ012"):
        conn.execute('insert into pgq_log.t1 (partition, "offset", "timestamp") values (0, 1, now())')


def test_produce_is_the_same_from_plpgsql_and_in_one_statement_for_many(conn: Connection, wide_topic: str) -> None:
    conn.execute(
        "do $$ declare md record; begin for n in 1 .. 10 loop"
        " select * into md from pgq.produce('wide', 'v', partition => 1); end loop;"
        ' assert md.partition = 1 and md."offset" = 9; end $$'
    )
    result = rows(
        conn, "select p.* from generate_series(1, 5) n, pgq.produce('wide', n::text::bytea, partition => 1) p"
    )
    assert result == [(1, offset) for offset in range(10, 15)]


def test_timestamps_are_not_those_of_the_transactions_start(conn: Connection, topic: str) -> None:
    with conn.transaction():
        started = value(conn, "select now()")
        eventually(lambda: bool(value(conn, "select clock_timestamp() > now() + interval '10 ms'")))
        call(conn, "produce", topic=topic, value=b"v")
    assert only_record(conn, topic)["timestamp"] >= started + timedelta(milliseconds=9)
