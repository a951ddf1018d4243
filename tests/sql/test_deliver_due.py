"""pgq.deliver_due appends records when they are due, once, and gives their space back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins.sessions import Connection, call, eventually, refused, rows, value

from .conftest import MakeTopic

PAST = "date_trunc('hour', now()) - interval '26 hours'"
"""The beginning of an hour that is over."""


def send(conn: Connection, topic: str = "orders", due: str = "now()", **more: Any) -> str:
    arguments: dict[str, Any] = {"topic": topic, "value": b"v", "deliver_at": value(conn, f"select {due}"), **more}
    return str(call(conn, "produce_delayed", **arguments)[0][0])


def deliver(conn: Connection, most: int = 1000) -> tuple[int, int | None]:
    """Append what is due once; return how many, and how long until the next is due."""
    ((delivered, next_due_ms),) = call(conn, "deliver_due", most=most)
    return delivered, next_due_ms


def values(conn: Connection, topic: str = "orders", partition: int = 0) -> list[bytes]:
    return [v for (v,) in rows(conn, "select value from pgq.fetch(%s, %s, 0, 10000)", topic, partition)]


def buckets(conn: Connection) -> list[str]:
    return [name for (name,) in rows(conn, "select bucket from pgq._delay_buckets()")]


def put(conn: Connection, dues: str, *, number: int = 0, topic: str = "orders") -> None:
    """Put records into the table of their hour by hand, as if they had been sent before it: the dues are a query of
    times within one hour, and the values tell their order there."""
    bucket = value(conn, f"select format('pgq_log.%s_%s', pgq._delay_name(min(d)), {number}) from ({dues}) t (d)")
    conn.execute(
        f"create table if not exists {bucket} (like pgq_log.delayed including defaults, primary key (due_at, serial))"
    )
    conn.execute(
        f"insert into {bucket} (due_at, serial, topic_id, partition, value)"
        " select d, nextval('pgq_log.delayed_serial'), (select topic_id from pgq.topic where name = %s), 0,"
        f" to_char(d at time zone 'UTC', 'HH24:MI:SS.MS')::bytea from ({dues}) t (d)",
        [topic],
    )


@pytest.mark.parametrize("most", [None, 0, -1])
def test_how_many_are_at_least_one(conn: Connection, topic: str, most: int | None) -> None:
    send(conn)
    with refused("PQ023"):
        call(conn, "deliver_due", most=most)
    assert deliver(conn)[0] == 1


def forget(conn: Connection) -> None:
    """As if nothing had been looked for yet."""
    conn.execute("update pgq.delivery set search_from = 'epoch', search_serial = 0")


# once, and not before its time


def test_nothing_waits(conn: Connection) -> None:
    assert deliver(conn) == (0, None)


def test_a_record_that_is_due(conn: Connection, topic: str) -> None:
    send(conn, key=b"k", value=b"now", header_keys=["a", "a"], header_values=[b"1", None])
    assert deliver(conn) == (1, None)
    assert rows(conn, "select key, value, header_keys, header_values, codec from pgq.fetch('orders', 0, 0)") == [
        (b"k", b"now", ["a", "a"], [b"1", None], None)
    ]
    assert deliver(conn) == (0, None)
    assert len(values(conn)) == 1


def test_not_before_its_time(conn: Connection, topic: str) -> None:
    delayed_id = send(conn, due="clock_timestamp() + interval '300 ms'")
    first, next_due_ms = deliver(conn)
    assert first == 0
    assert next_due_ms is not None
    assert 0 <= next_due_ms <= 300
    eventually(lambda: deliver(conn)[0] == 1)
    appended_at = value(conn, "select \"timestamp\" from pgq.fetch('orders', 0, 0)")
    assert appended_at.timestamp() * 1000 >= int(delayed_id.split("-")[0])


def test_timestamp_of_the_delivery_unless_one_was_given(conn: Connection, topic: str) -> None:
    delayed_id = send(conn, due="clock_timestamp() + interval '50 ms'")
    send(conn, timestamp="2024-01-01 00:00:00.0009+00")
    eventually(lambda: len(values(conn)) + deliver(conn)[0] >= 2)
    conn.execute("set timezone = 'UTC'")
    given, own = rows(conn, 'select "timestamp"::text, "timestamp" from pgq.fetch(\'orders\', 0, 0)')
    assert given[0] == "2024-01-01 00:00:00+00"
    assert own[1].timestamp() * 1000 >= int(delayed_id.split("-")[0])


def test_log_append_time(conn: Connection, make_topic: MakeTopic) -> None:
    make_topic("orders", config='{"message.timestamp.type": "LogAppendTime"}')
    before = value(conn, "select date_trunc('milliseconds', clock_timestamp())")
    send(conn, timestamp="2024-01-01")
    deliver(conn)
    assert value(conn, "select \"timestamp\" from pgq.fetch('orders', 0, 0)") >= before


def test_in_the_order_of_their_times(conn: Connection, topic: str) -> None:
    put(conn, f"select {PAST} + interval '1 hour 1 s' union all select {PAST} + interval '1 hour'")
    put(conn, f"select {PAST} + n * interval '7 s' from unnest(array[5, 1, 4, 2, 3]) n")
    assert [deliver(conn, 3) for _ in range(3)] == [(3, 0), (3, 0), (1, None)]
    assert [v[3:8] for v in values(conn)] == [b"00:07", b"00:14", b"00:21", b"00:28", b"00:35", b"00:00", b"00:01"]


def test_records_of_one_time_in_the_order_in_which_they_were_sent(conn: Connection, topic: str) -> None:
    due = value(conn, "select clock_timestamp() + interval '100 ms'")
    for number in range(50):
        call(conn, "produce_delayed", topic="orders", value=b"%02d" % number, deliver_at=due)
    eventually(lambda: deliver(conn, 7)[0] >= 0 and len(values(conn)) == 50)
    assert values(conn) == [b"%02d" % number for number in range(50)]


@pytest.mark.parametrize("most", [1, 2, 1000])
def test_several_tables_of_one_hour(conn: Connection, topic: str, most: int) -> None:
    """They are one to deliver from: in the order of their times, and what is not taken at once is not passed over."""
    put(conn, f"select {PAST} + n * interval '1 s' from unnest(array[1, 4, 7]) n", number=0)
    put(conn, f"select {PAST} + n * interval '1 s' from unnest(array[2, 5, 8]) n", number=1)
    put(conn, f"select {PAST} + n * interval '1 s' from unnest(array[0, 3, 6]) n", number=10)
    while deliver(conn, most)[0]:
        pass
    assert len(values(conn)) == 9
    assert values(conn) == sorted(values(conn))
    assert buckets(conn) == []


def test_the_next_of_several_tables_of_one_hour(conn: Connection, topic: str) -> None:
    put(conn, "select date_trunc('hour', now()) + interval '3 days 50 minutes'", number=0)
    put(conn, "select date_trunc('hour', now()) + interval '3 days 10 minutes'", number=1)
    expected = value(
        conn, "select extract(epoch from date_trunc('hour', now()) + interval '3 days 10 minutes' - now()) * 1000"
    )
    for next_due_ms in (deliver(conn)[1], value(conn, "select pgq._next_due_ms()")):
        assert next_due_ms is not None
        assert abs(next_due_ms - int(expected)) < 60_000


def test_all_that_is_due_in_any_number_of_calls(conn: Connection, topic: str) -> None:
    @settings(max_examples=40, deadline=None, database=None)
    @given(
        tables=st.dictionaries(
            st.tuples(st.integers(0, 2), st.integers(0, 2)),
            st.lists(st.integers(0, 3_599_999), min_size=1, max_size=12),
            min_size=1,
            max_size=6,
        ),
        limits=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    )
    def check(tables: dict[tuple[int, int], list[int]], limits: list[int]) -> None:
        conn.execute("select pgq.delete_records('orders', 0, -1)")
        start = value(conn, "select pgq.log_end_offset('orders', 0)")
        forget(conn)
        for (hour, number), dues in tables.items():
            times = ", ".join(f"({PAST} + interval '{hour} hours' + interval '{due} ms')" for due in dues)
            put(conn, f"values {times}", number=number)
        calls = 0
        while deliver(conn, limits[calls % len(limits)])[0]:
            calls += 1
        found = [v for (v,) in rows(conn, "select value from pgq.fetch('orders', 0, %s, 10000)", start)]
        first_hour = int(value(conn, f"select extract(hour from ({PAST}) at time zone 'UTC')"))
        wanted = sorted((hour, due) for (hour, _), dues in tables.items() for due in dues)
        assert found == [
            b"%02d:%02d:%02d.%03d" % ((first_hour + hour) % 24, due // 60_000, due // 1000 % 60, due % 1000)
            for hour, due in wanted
        ]
        assert buckets(conn) == []

    check()


# limits


@pytest.mark.parametrize("most", [1, 10, 250])
def test_most(conn: Connection, topic: str, most: int) -> None:
    put(conn, f"select {PAST} + n * interval '1 ms' from generate_series(1, 250) n")
    assert deliver(conn, most) == (most, 0 if most < 250 else None)
    assert len(values(conn)) == most


def test_sixteen_mebibytes(conn: Connection, make_topic: MakeTopic) -> None:
    """Headers count, too."""
    make_topic("orders", config=json.dumps({"max.message.bytes": 20_000_000}))
    bucket = value(conn, f"select 'pgq_log.' || pgq._delay_name({PAST}) || '_0'")
    put(conn, f"select {PAST} + n * interval '1 ms' from generate_series(1, 40) n")
    half = "(select string_agg(sha512((random()::text)::bytea), '') from generate_series(1, 7800))"
    conn.execute(f"update {bucket} set value = {half}, header_keys = '{{h}}', header_values = array[{half}]")
    assert deliver(conn) == (17, 0), "a megabyte each"
    assert deliver(conn) == (17, 0)
    assert deliver(conn) == (6, None)
    assert len(values(conn)) == 40


def test_one_record_larger_than_that(conn: Connection, make_topic: MakeTopic) -> None:
    make_topic("orders", config=json.dumps({"max.message.bytes": 20_000_000}))
    for _ in range(2):
        send(conn, value=bytes(17_000_000))
    assert deliver(conn) == (1, 0)
    assert deliver(conn) == (1, None)


def test_250_partitions(conn: Connection) -> None:
    """A hundred a call, those due first before the others."""
    while value(conn, "select pgq.create_topic_step('orders', 250)"):
        pass
    conn.execute(
        "select pgq.produce_delayed('orders', round::text::bytea, now() + (250 * round - p) * interval '1 us',"
        " partition => p) from generate_series(0, 249) p, generate_series(1, 2) round"
    )
    found = [deliver(conn) for _ in range(4)]
    assert [delivered for delivered, _ in found] == [200, 200, 100, 0]
    assert [next_due_ms for _, next_due_ms in found] == [0, 0, None, None]
    for partition in range(250):
        assert values(conn, partition=partition) == [b"1", b"2"]


# what has become of the topic meanwhile


@pytest.mark.parametrize("again", [False, True])
def test_topic_deleted_meanwhile(conn: Connection, topic: str, make_topic: MakeTopic, again: bool) -> None:
    make_topic("other")
    send(conn)
    send(conn, "other")
    conn.execute("select pgq.delete_topic('orders')")
    if again:
        make_topic("orders")
    assert rows(conn, "select topic from pgq.delayed_records") == [("other",)]
    assert deliver(conn) == (2, None)
    assert len(values(conn, "other")) == 1
    if again:
        assert values(conn) == []


def test_topic_that_is_being_deleted_is_not_in_the_way(conn: Connection, topic: str, make_topic: MakeTopic) -> None:
    """Nobody may ever go on with it."""
    make_topic("other")
    for _ in range(5):
        send(conn)
    send(conn, "other")
    assert value(conn, "select pgq.delete_topic_step('orders')") > 0
    while deliver(conn, 3)[0]:
        pass
    assert len(values(conn, "other")) == 1
    assert rows(conn, "select * from pgq.delayed_status") == []


def test_topic_deleted_while_this_delivers(
    conn: Connection, connect: Callable[[], Connection], topic: str, make_topic: MakeTopic
) -> None:
    make_topic("other")
    send(conn)
    send(conn, "other")
    deleter = connect()
    deleter.execute("begin")
    deleter.execute("select pgq.delete_topic('orders')")
    with psycopg.connect(conn.info.dsn, autocommit=True) as third:
        third.execute("set lock_timeout = '100ms'")
        with refused("55P03"):
            deliver(third)
    deleter.execute("commit")
    while deliver(conn)[0]:
        pass
    assert len(values(conn, "other")) == 1
    assert rows(conn, "select * from pgq._delayed_records()") == []


def test_partitions_added_meanwhile(conn: Connection, topic: str) -> None:
    send(conn, key=b"k")
    conn.execute("select pgq.add_partitions('orders', 3)")
    send(conn, partition=2)
    assert deliver(conn) == (2, None)
    assert (len(values(conn)), len(values(conn, partition=2))) == (1, 1)


def test_compacted_topic(conn: Connection, make_topic: MakeTopic) -> None:
    make_topic("orders", config='{"cleanup.policy": "compact"}')
    send(conn, key=b"k", value=b"v")
    send(conn, key=b"k", value=None)
    assert deliver(conn) == (2, None)
    assert rows(conn, "select key, value from pgq.fetch('orders', 0, 0)") == [(b"k", b"v"), (b"k", None)]


def test_topic_compacted_meanwhile(conn: Connection, topic: str) -> None:
    """A record without a key is kept there for ever, as one that was in the log before."""
    send(conn)
    conn.execute("""select pgq.alter_topic_config('orders', '{"cleanup.policy": "compact"}')""")
    assert deliver(conn) == (1, None)


# transactions that are open


def test_others_are_delivered_while_one_is_open_and_its_own_once_it_ends(
    conn: Connection, connect: Callable[[], Connection], topic: str
) -> None:
    slow = connect()
    slow.execute("begin")
    send(slow, value=b"slow")
    for number in range(5):
        send(conn, value=b"%d" % number)
        delivered, next_due_ms = deliver(conn)
        assert delivered == 1
        assert next_due_ms is not None
        assert 0 < next_due_ms <= 500
    assert value(conn, "select pgq._next_due_ms()") in range(1, 501)
    slow.execute("commit")
    assert deliver(conn) == (1, None)
    assert sorted(values(conn)) == [b"0", b"1", b"2", b"3", b"4", b"slow"]
    assert deliver(conn) == (0, None)


def test_each_of_two_that_are_open(conn: Connection, connect: Callable[[], Connection], topic: str) -> None:
    one, two = connect(), connect()
    for session in (one, two):
        session.execute("begin")
        send(session)
    deliver(conn)
    two.execute("commit")
    assert deliver(conn)[0] == 1
    one.execute("rollback")
    three = connect()
    three.execute("begin")
    send(three)
    assert deliver(conn)[0] == 0
    three.execute("commit")
    assert deliver(conn) == (1, None)


def test_one_of_the_very_time_at_which_the_search_stands(
    conn: Connection, connect: Callable[[], Connection], topic: str
) -> None:
    send(conn)
    deliver(conn)  # the table of this hour is there
    slow, cancelling = connect(), connect()
    slow.execute("begin; select pgq._begin_delay()")
    at = value(conn, 'select max("at") from pgq._delay_times()')
    bucket = value(conn, "select pgq._delay_bucket(%s)", at)
    insert = (
        f"insert into {bucket} (due_at, serial, topic_id, partition, value)"
        " select %s, %s, topic_id, 0, %s from pgq.topic"
    )
    conn.execute(insert, [at, 1000, b"held"])
    cancelling.execute("begin")
    cancelling.execute(f"delete from {bucket} where serial = 1000")
    deliver(conn)  # stands at what is being cancelled
    assert rows(conn, "select search_from, search_serial from pgq.delivery") == [(at, 1000)]
    slow.execute(insert, [at, 1, b"slow"])
    slow.execute("commit")
    assert deliver(conn)[0] == 1
    assert values(conn)[-1] == b"slow"


def test_one_that_sends_at_once_and_again_much_later(
    conn: Connection, connect: Callable[[], Connection], topic: str
) -> None:
    slow = connect()
    slow.execute("begin")
    send(slow)
    for _ in range(3):
        send(conn)
        deliver(conn)
        send(slow)
    slow.execute("commit")
    assert deliver(conn) == (4, None)


def test_savepoints(conn: Connection, connect: Callable[[], Connection], topic: str) -> None:
    slow = connect()
    with slow.transaction():
        with slow.transaction(force_rollback=True):
            send(slow, value=b"lost")
        send(slow, value=b"kept")
        send(conn, value=b"other")
        assert deliver(conn)[0] == 1
        with slow.transaction(force_rollback=True):
            send(slow, value=b"lost")
        assert deliver(conn)[0] == 0
    assert deliver(conn) == (1, None)
    assert values(conn) == [b"other", b"kept"]


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_prepared_transaction(conn: Connection, connect: Callable[[], Connection], topic: str, end: str) -> None:
    gid = f"{conn.info.dbname}_{end}"
    with psycopg.connect(conn.info.dsn, autocommit=True) as first:
        first.execute("begin")
        send(first)
        first.execute(f"prepare transaction '{gid}'")
    send(conn)
    assert deliver(conn)[0] == 1
    assert deliver(conn)[0] == 0
    connect().execute(f"{end} prepared '{gid}'")
    assert deliver(conn)[0] == (1 if end == "commit" else 0)


def test_session_that_was_terminated(
    conn: Connection, connect: Callable[[], Connection], topic: str, terminate: Callable[[int], None]
) -> None:
    slow = connect()
    slow.execute("begin")
    send(slow)
    send(conn)
    assert deliver(conn) == (1, 500)
    terminate(slow.info.backend_pid)
    assert deliver(conn) == (0, None)


def test_advisory_locks_of_applications_are_not_taken_for_such(
    conn: Connection, connect: Callable[[], Connection], topic: str
) -> None:
    other = connect()
    other.execute("select pg_advisory_lock(1), pg_advisory_lock(23, 1), pg_advisory_lock((30::bigint << 58) | 1)")
    send(conn)
    assert deliver(conn) == (1, None)


def test_clock_set_back(conn: Connection, topic: str) -> None:
    """What is sent after it, and due before the place that was reached, is not passed over."""
    conn.execute("update pgq.delivery set search_from = clock_timestamp() + interval '10 minutes', search_serial = 7")
    send(conn)
    assert deliver(conn) == (1, None)


# who may


def test_more_than_a_batch_that_is_being_cancelled_is_passed_over(
    conn: Connection, connect: Callable[[], Connection], topic: str
) -> None:
    for number in range(2):
        put(conn, f"select {PAST} + n * interval '1 s' from generate_series(1, 6) n", number=number)
    canceller = connect()
    canceller.execute("begin")
    for delayed_id in rows(conn, "select delayed_id from pgq.delayed_records order by due_at limit 8"):
        assert value(canceller, "select pgq.cancel_delayed(%s)", *delayed_id)
    assert deliver(conn, 3)[0] == 3
    assert deliver(conn, 3)[0] == 1
    assert deliver(conn, 3) == (0, 0)
    canceller.execute("rollback")
    assert [deliver(conn, 5)[0] for _ in range(3)] == [5, 3, 0]


def test_two_at_once(conn: Connection, connect: Callable[[], Connection], topic: str) -> None:
    send(conn)
    first = connect()
    first.execute("begin")
    assert deliver(first) == (1, None)
    send(conn)
    assert deliver(conn) == (0, 250)
    first.execute("rollback")
    assert deliver(conn) == (2, None)


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
@pytest.mark.parametrize("waiting", [False, True])
def test_isolation(conn: Connection, topic: str, isolation: str, waiting: bool) -> None:
    """An old snapshot would pass over what others have sent."""
    if waiting:
        send(conn)
    conn.execute(f"begin isolation level {isolation}")
    with refused("PQ009"):
        deliver(conn)


def test_read_only(conn: Connection, topic: str) -> None:
    send(conn)
    conn.execute("begin read only")
    with refused("25006"):
        deliver(conn)


# space


def test_tables_of_past_hours_are_dropped(conn: Connection, topic: str) -> None:
    put(conn, f"select {PAST}")
    put(conn, f"select {PAST} + interval '1 hour'")
    send(conn)
    send(conn, due="now() + interval '1 day'")
    assert len(buckets(conn)) == 4
    assert deliver(conn, 2)[0] == 2
    assert len(buckets(conn)) in (2, 3)
    deliver(conn)
    assert len(buckets(conn)) == 2
    assert value(conn, "select count(*) from pg_class where relname like 'delayed_0%'") == 4, "two, and their keys"


def test_the_last_table_is_dropped_when_its_hour_is_over(conn: Connection, topic: str) -> None:
    """Though nothing is delivered any more."""
    put(conn, f"select {PAST}")
    conn.execute(f"delete from {buckets(conn)[0]}")
    assert deliver(conn) == (0, None)
    assert buckets(conn) == []


def test_a_table_with_what_is_not_due_stays(conn: Connection, topic: str) -> None:
    send(conn, due="now() + interval '1 day'")
    deliver(conn)
    assert len(buckets(conn)) == 1


def test_a_table_that_somebody_reads_stays_and_keeps_nobody(
    conn: Connection, connect: Callable[[], Connection], topic: str
) -> None:
    put(conn, f"select {PAST}")
    reader = connect()
    reader.execute("begin")
    assert len(rows(reader, "select * from pgq.delayed_records")) == 1
    assert deliver(conn) == (1, None)
    assert len(buckets(conn)) == 1
    assert rows(reader, "select * from pgq.delayed_records") == []
    reader.execute("commit")
    send(conn)
    deliver(conn)
    assert [name for name in buckets(conn) if name < value(conn, "select 'pgq_log.' || pgq._delay_name(now())")] == []


def test_an_open_transaction_keeps_the_table_of_its_hour(
    conn: Connection, connect: Callable[[], Connection], topic: str
) -> None:
    """Its lock says that it may still put records into it."""
    put(conn, f"select {PAST} + interval '59 minutes'")
    slow = connect()
    slow.execute("begin")
    slow.execute(f"select pg_advisory_xact_lock_shared(pgq._delay_key({PAST} + interval '1 minute'))")
    deliver(conn)
    assert len(buckets(conn)) == 1
    slow.execute(
        f"insert into {buckets(conn)[0]} (due_at, serial, topic_id, partition, value)"
        f" values ({PAST} + interval '2 minutes', 999, 1, 0, 'late')"
    )
    assert deliver(conn)[0] == 0
    slow.execute("commit")
    assert deliver(conn)[0] == 1
    assert values(conn)[-1] == b"late"
    send(conn)
    deliver(conn)
    assert value(conn, f"select to_regclass('pgq_log.' || pgq._delay_name({PAST}) || '_0')") is None


def test_records_left_in_a_past_hour_are_found(conn: Connection, topic: str) -> None:
    conn.execute("update pgq.delivery set search_from = now() - interval '1 hour'")
    put(conn, f"select {PAST}")
    send(conn)
    assert deliver(conn)[0] == 1
    assert len(buckets(conn)) == 2
    assert deliver(conn)[0] == 1
    assert len(values(conn)) == 2


def test_a_table_whose_maker_was_rolled_back(conn: Connection, connect: Callable[[], Connection], topic: str) -> None:
    maker = connect()
    maker.execute("begin")
    send(maker)
    send(conn)
    maker.execute("rollback")
    assert deliver(conn) == (1, None)
    send(conn)
    assert deliver(conn) == (1, None)


def test_place_is_kept_in_one_row(conn: Connection, topic: str) -> None:
    for _ in range(5):
        send(conn)
        deliver(conn)
    assert value(conn, "select count(*) from pgq.delivery") == 1


def test_nothing_is_written_while_nothing_is_due(conn: Connection, topic: str) -> None:
    send(conn, due="now() + interval '1 hour'")
    deliver(conn)
    place = rows(conn, "select * from pgq.delivery")
    for _ in range(3):
        deliver(conn)
    assert rows(conn, "select * from pgq.delivery") == place


def test_many_tables(conn: Connection, topic: str) -> None:
    """One an hour of ten days: a call takes no more locks for that."""
    conn.execute(
        f"""
        do $$
        declare
            bucket text;
        begin
            for hour in 1 .. 240 loop
                bucket := 'pgq_log.' || pgq._delay_name({PAST} - hour * interval '1 hour') || '_0';
                execute format('create table %s (like pgq_log.delayed including defaults,'
                               ' primary key (due_at, serial))',
                               bucket);
                execute format('insert into %s (due_at, serial, topic_id, partition, value)'
                               ' values ($1, nextval(''pgq_log.delayed_serial''), 1, 0, $2)', bucket)
                    using {PAST} - hour * interval '1 hour', lpad((1000 - hour)::text, 4, '0')::bytea;
            end loop;
        end
        $$
        """
    )
    with conn.transaction():
        assert deliver(conn, 100) == (50, 0)
        held = "select count(distinct relation) from pg_locks where pid = pg_backend_pid() and locktype = 'relation'"
        assert value(conn, held) < 350
    while deliver(conn, 100)[0]:
        pass
    assert len(values(conn)) == 240
    assert values(conn) == sorted(values(conn))
    for _ in range(10):
        send(conn)
        deliver(conn)
    assert len(buckets(conn)) <= 2, "tables of this hour"


# by the primary key


def entries_read(conn: Connection, most: int) -> tuple[int, int]:
    """Deliver; return how many entries of the keys of delay tables it has read, and rows of whole tables."""
    counts = (
        "select sum(pg_stat_get_xact_tuples_returned(i.indexrelid))::int,"
        " sum(pg_stat_get_xact_tuples_returned(i.indrelid))::int from pg_index i join pg_class c on c.oid = i.indrelid"
        " where c.relname ~ '^delayed_[0-9]'"
    )
    with conn.transaction():
        (before,) = rows(conn, counts)
        assert deliver(conn, most)[0] == most
        (after,) = rows(conn, counts)
    return after[0] - before[0], after[1] - before[1]


@pytest.mark.parametrize("tables", [1, 3])
def test_costs_do_not_grow_with_what_waits(conn: Connection, topic: str, tables: int) -> None:
    """Though nobody has counted the tables for the planner."""
    for number in range(tables):
        put(conn, f"select {PAST} + n * interval '0.1 ms' from generate_series(1, 20000) n", number=number)
    for _ in range(3):
        entries, by_table = entries_read(conn, 10)
        assert entries <= 40 * (1 + tables)
        assert by_table == 0


def test_what_was_delivered_is_not_looked_at_again(
    conn: Connection, connect: Callable[[], Connection], topic: str
) -> None:
    """Though a snapshot keeps the dead rows, and all were due at the same time."""
    put(conn, f"select {PAST} from generate_series(1, 3000)")
    holder = connect()
    holder.execute("begin isolation level repeatable read")
    value(holder, "select count(*) from pgq.topic")
    for _ in range(25):
        assert entries_read(conn, 100)[0] <= 400
