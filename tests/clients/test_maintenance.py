"""The service's jobs, run against a real log; and what readers see of them."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

import pgq
from pgq import TopicPartition, errors
from tests.plugins.sessions import Connection, call, eventually, rows, value

from .conftest import Clients

Connect = Callable[[], Connection]
DAY_MS = 86_400_000
LEADERS = "from pg_locks where locktype = 'advisory' and classid::bigint >> 26 = 27"
FAST = {"segments_interval_ms": 20, "retention_interval_ms": 20, "members_interval_ms": 20, "markers_interval_ms": 20}


@pytest.fixture(autouse=True)
def small_segments(watcher: Connection) -> None:
    watcher.execute("update pgq.topic_config set minimum = 1 where key = 'segment.bytes'")


def make(conn: Connection, name: str = "orders", partitions: int = 1, **config: Any) -> None:
    settings = {"segment.bytes": 160_000} | {key.replace("_", "."): given for key, given in config.items()}
    call(conn, "create_topic", name=name, partitions=partitions, config=json.dumps(settings))


def fill(conn: Connection, count: int, *, topic: str = "orders", partition: int = 0, age_ms: int = 0) -> list[int]:
    """Append records of 1,000 random bytes, 50 at a time, see to the segments after each; return the offsets."""
    offsets = []
    for start in range(0, count, 50):
        offsets += [
            offset
            for (offset,) in rows(
                conn,
                "select (pgq.produce(%s, r.value, partition => %s,"
                " \"timestamp\" => clock_timestamp() - %s * interval '1 millisecond')).\"offset\""
                " from (select decode(string_agg(md5(random()::text), ''), 'hex') as value"
                "         from generate_series(1, %s) n, generate_series(1, 63) group by n) r",
                topic, partition, age_ms, min(50, count - start),
            )
        ]  # fmt: skip
        statement = (
            "select pgq.upkeep(partition_id, 200) from pgq.topic join pgq.partition p using (topic_id)"
            " where name = %s and p.partition = %s"
        )
        while value(conn, statement, topic, partition) in ("made", "rolled"):
            pass
    return offsets


def once(dsn: str) -> dict[str, dict[str, int]]:
    """Run all jobs once; none fails."""
    reports = pgq.Maintenance(dsn).run_once()
    assert [(r.error, r.led) for r in reports] == [(None, True)] * len(reports)
    return {r.job: r.result for r in reports}


def segments(conn: Connection) -> list[int]:
    return [base for (base,) in rows(conn, "select base_offset from pgq.segment order by 1")]


def tables(conn: Connection) -> int:
    return int(value(conn, r"select count(*) from pg_class where relkind = 'r' and relname ~ '^t\d+_p\d+_s'"))


def log_start(conn: Connection) -> int:
    return int(value(conn, "select log_start_offset from pgq.partition where partition = 0"))


def test_old_segments_are_dropped_and_the_log_starts_later(dsn: str, conn: Connection) -> None:
    make(conn, retention_ms=DAY_MS)
    old = fill(conn, 500, age_ms=2 * DAY_MS)
    new = fill(conn, 200)
    before = segments(conn)
    assert once(dsn)["retention"]["dropped"] > 2
    after = segments(conn)
    start = log_start(conn)
    assert old[100] < start <= new[0]
    assert after == [base for base in before if base >= start]
    assert tables(conn) == len(after)
    assert (
        value(conn, 'select min("offset") from pgq_topic.orders')
        == start
        == value(conn, "select pgq.log_start_offset('orders', 0)")
    )
    assert rows(conn, "select * from pgq.check_log()") == []
    assert once(dsn)["retention"] == {}


def test_the_active_segment_goes_too(dsn: str, conn: Connection) -> None:
    make(conn, retention_ms=DAY_MS)
    fill(conn, 10, age_ms=2 * DAY_MS)
    assert once(dsn)["retention"] == {"made": 1, "rolled": 1, "moved": 1, "dropped": 1}
    assert value(conn, "select pgq.high_watermark('orders', 0)") == log_start(conn) == 4096
    assert fill(conn, 1) == [4096]
    assert once(dsn)["retention"] == {}


def test_bytes_are_kept_and_no_more_than_a_segment_beyond(dsn: str, conn: Connection) -> None:
    make(conn, retention_bytes=500_000)
    fill(conn, 1500)
    once(dsn)
    sizes = [
        size
        for (size,) in rows(
            conn,
            "select s.bytes from pgq.segment_status s join pgq.partition_status p using (topic)"
            " where s.base_offset < p.log_end_offset order by s.base_offset",
        )
    ]
    assert sum(sizes) - sizes[0] < 500_000 <= sum(sizes)


def test_minus_one_keeps_everything(dsn: str, conn: Connection) -> None:
    make(conn, retention_ms=-1, retention_bytes=-1)
    fill(conn, 300, age_ms=9000 * DAY_MS)
    assert once(dsn)["retention"] == {}
    assert log_start(conn) == 0


def test_a_record_from_the_future_keeps_all_after_it(dsn: str, conn: Connection) -> None:
    make(conn, retention_ms=DAY_MS, **{"message.timestamp.after.max.ms": 3 * DAY_MS})
    fill(conn, 100, age_ms=2 * DAY_MS)
    (future,) = fill(conn, 1, age_ms=-2 * DAY_MS)
    fill(conn, 200, age_ms=2 * DAY_MS)
    once(dsn)
    assert 0 < log_start(conn) <= future
    assert value(conn, 'select count(*) from pgq_topic.orders where "offset" >= %s', future) == 201


def test_segments_end_by_segment_ms(dsn: str, conn: Connection) -> None:
    """By the timestamps of their records: a topic at rest does not roll."""
    make(conn, segment_ms=1000, retention_ms=-1)
    fill(conn, 1, age_ms=10_000)
    assert once(dsn)["retention"] == {}
    conn.execute("select pgq.produce('orders', 'a', \"timestamp\" => clock_timestamp() - interval '9.5 s')")
    assert once(dsn)["retention"] == {}
    conn.execute("select pgq.produce('orders', 'b')")
    assert once(dsn)["retention"] == {"made": 1, "rolled": 1}
    assert fill(conn, 1) == [4096]


def test_what_was_trimmed_is_dropped(dsn: str, conn: Connection) -> None:
    make(conn, partitions=2)
    for partition in (0, 1):
        offsets = fill(conn, 500, partition=partition)
    call(conn, "delete_records", topic="orders", partition=0, offset=offsets[400])
    assert once(dsn)["retention"]["dropped"] >= 2
    assert value(conn, 'select min("offset") from pgq_topic.orders where partition = 0') == offsets[400]
    assert value(conn, 'select min("offset") from pgq_topic.orders where partition = 1') == 0
    assert rows(conn, "select * from pgq.check_log()") == []


async def test_readers_below_the_log_start(clients: Clients, dsn: str, conn: Connection) -> None:
    """At the next call at the latest: the segment that a consumer is in the middle of is gone."""
    make(conn)
    offsets = fill(conn, 500)
    policies = {}
    for policy in ("none", "earliest", "latest"):
        consumer = policies[policy] = clients.consumer(auto_offset_reset=policy, max_poll_records=10)
        await consumer.start()
        await consumer.assign([TopicPartition("orders", 0)])
        await consumer.seek(TopicPartition("orders", 0), 0)
        assert [r.offset for batch in (await consumer.getmany(timeout_ms=5000)).values() for r in batch] == offsets[:10]
    call(conn, "delete_records", topic="orders", partition=0, offset=offsets[420])
    once(dsn)

    async def read_on() -> None:
        while True:
            await policies["none"].getmany(timeout_ms=1000)

    with pytest.raises(errors.OffsetOutOfRangeError):
        await read_on()
    rest: list[int] = []
    while not rest:
        rest += [r.offset for batch in (await policies["earliest"].getmany(timeout_ms=1000)).values() for r in batch]
    assert rest[0] == offsets[420]
    assert await policies["latest"].getmany(timeout_ms=100) == {}
    assert await policies["latest"].position(TopicPartition("orders", 0)) == value(
        conn, "select pgq.high_watermark('orders', 0)"
    )
    for consumer in policies.values():
        await consumer.close()
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("select * from pgq.fetch('orders', 0, 0)")
    assert caught.value.sqlstate == "PQ008"


def test_no_reader_skips_while_the_log_is_deleted_behind_it(dsn: str, conn: Connection, connect: Connect) -> None:
    """Numbers without a gap, or an error that says that there is one."""
    make(conn, retention_bytes=100_000, segment_bytes=32_768)
    ending = threading.Event()

    def produce(session: Connection) -> None:
        number = 0
        while not ending.is_set():
            with session.transaction():
                for _ in range(20):
                    session.execute("select pgq.produce('orders', %s, %s)", [os.urandom(900), str(number).encode()])
                    number += 1

    writer = threading.Thread(target=produce, args=(connect(),))
    writer.start()
    gaps = 0
    try:
        with (
            pgq.Maintenance(dsn, **FAST),
            pgq.Consumer(dsn=dsn, auto_offset_reset="none", max_poll_records=50) as consumer,
        ):
            tp = TopicPartition("orders", 0)
            consumer.assign([tp])
            consumer.seek_to_beginning(tp)
            reader = connect()
            position = read = sql_reads = 0
            expected: int | None = 0
            slow = random.Random(1)
            while read < 6000 or gaps < 3 or sql_reads < 50:
                try:
                    for record in [r for batch in consumer.getmany(timeout_ms=1000).values() for r in batch]:
                        assert expected is None or int(record.key) == expected
                        expected = int(record.key) + 1
                        read += 1
                except errors.OffsetOutOfRangeError:
                    # what was the beginning may be gone, too, before it is read: that is said again
                    gaps += 1
                    consumer.seek_to_beginning(tp)
                    expected = None
                # the same in SQL
                try:
                    found = rows(reader, "select \"offset\", key from pgq.fetch('orders', 0, %s, 20)", position)
                except psycopg.Error as error:
                    assert error.sqlstate == "PQ008"  # noqa: PT017
                    position = value(reader, "select pgq.log_start_offset('orders', 0)")
                    last = None
                else:
                    numbers = [int(key) for _, key in found]
                    if position == 0:
                        last = None
                    for number in numbers:
                        assert last is None or number == last + 1
                        last = number
                    position = found[-1][0] + 1 if found else position
                    sql_reads += 1
                if slow.random() < 0.02:  # falls behind, so that the log start overtakes it
                    start = log_start(reader)
                    eventually(lambda: log_start(reader) > start + 300)  # noqa: B023
    finally:
        ending.set()
        writer.join()
    assert rows(conn, "select * from pgq.check_log()") == []


@contextmanager
def open_transaction(session: Connection, *statements: str) -> Iterator[None]:
    with session.transaction():
        for statement in statements:
            session.execute(statement)
        yield


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param(["declare c cursor for select * from pgq_topic.orders", "fetch 1 from c"], id="a cursor"),
        pytest.param(["select count(*) from pgq.fetch('orders', 0, 0)"], id="a reader"),
        pytest.param(["select pgq.produce('orders', 'x')"], id="a producer"),
        pytest.param(["lock table pgq_log.t1_p0 in access share mode"], id="pg_dump"),
    ],
)
def test_an_open_transaction_delays_dropping_only(
    dsn: str, conn: Connection, connect: Connect, statements: list[str]
) -> None:
    make(conn)
    fill(conn, 500)
    before = set(segments(conn))
    with open_transaction(connect(), *statements):
        call(conn, "delete_records", topic="orders", partition=0, offset=-1)
        assert once(dsn)["retention"] == {"postponed": 1}
        assert before <= set(segments(conn))
        assert value(conn, "select state from pgq._droppable() limit 1") == "attached"
        conn.execute("set lock_timeout = '20ms'")
        fill(conn, 100)
        conn.execute("select * from pgq.fetch('orders', 0, %s)", [log_start(conn)])
    assert once(dsn)["retention"]["dropped"] >= 3
    assert rows(conn, "select * from pgq.check_log()") == []


@contextmanager
def longest_wait(session: Connection) -> Iterator[list[float]]:
    """How long others wait for locks on tables inside, in seconds: the longest one is the list's last."""
    ending = threading.Event()
    found = [0.0]
    waiting = (
        "select coalesce(extract(epoch from max(clock_timestamp() - waitstart)), 0)::float8 from pg_locks"
        " where locktype = 'relation' and not granted"
    )

    def watch() -> None:
        while not ending.is_set():
            found.append(max(found.pop(), value(session, waiting)))
            ending.wait(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        ending.set()
        thread.join()


def test_what_autovacuum_works_on_is_waited_for_last(dsn: str, conn: Connection, connect: Connect) -> None:
    """Longer and longer, until it gives way, which it does for who has waited for deadlock_timeout."""
    make(conn)
    fill(conn, 500)
    call(conn, "delete_records", topic="orders", partition=0, offset=-1)
    droppable = [base for (base,) in rows(conn, "select base_offset from pgq._droppable()")]
    lock = f"lock table pgq_log.t1_p0_s{droppable[1]} in share update exclusive mode"
    with open_transaction(connect(), lock), longest_wait(connect()) as waited:
        assert once(dsn)["retention"] == {"dropped": len(droppable) - 1, "postponed": 1}
    assert set(droppable).intersection(segments(conn)) == {droppable[1]}
    assert 1.0 < waited[-1] < 5.0
    assert once(dsn)["retention"] == {"dropped": 1}


def test_a_held_snapshot_delays_nothing(dsn: str, conn: Connection, connect: Connect) -> None:
    make(conn)
    fill(conn, 500)
    call(conn, "delete_records", topic="orders", partition=0, offset=-1)
    session = connect()
    session.execute("begin isolation level repeatable read; select 1")
    assert once(dsn)["retention"]["dropped"] >= 3


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_an_old_snapshot_appends_though_its_segments_are_gone(
    dsn: str, conn: Connection, connect: Connect, isolation: str
) -> None:
    make(conn)
    fill(conn, 300)
    session = connect()
    session.execute(f"begin isolation level {isolation}")
    seen = {base for (base,) in rows(session, "select base_offset from pgq.segment")}
    offsets = fill(conn, 500)
    call(conn, "delete_records", topic="orders", partition=0, offset=-1)
    assert once(dsn)["retention"]["dropped"] >= 3
    assert not seen.intersection(segments(conn))
    offset = value(session, "select (pgq.produce('orders', 'late')).\"offset\"")
    assert offset > offsets[-1]
    session.execute("commit")
    assert rows(conn, 'select "offset", value from pgq_topic.orders') == [(offset, "late")]
    assert rows(conn, "select * from pgq.check_log()") == []


def test_a_backlog_takes_no_locks_in_proportion(dsn: str, conn: Connection) -> None:
    make(conn, segment_bytes=1)
    for _ in range(40):
        conn.execute("select pgq.produce('orders', 'x', \"timestamp\" => clock_timestamp() - interval '1 hour')")
        while value(conn, "select pgq.upkeep(partition_id, 200) from pgq.partition") in ("made", "rolled"):
            pass
    call(conn, "alter_topic_config", name="orders", config='{"retention.ms": 1}')
    with conn.transaction():
        assert rows(conn, "select due from pgq._retention_due(0)") == [(True,)]
        assert value(conn, "select count(*) from pg_locks where pid = pg_backend_pid()") < 40


def test_an_open_delete_records_is_not_waited_for_long(dsn: str, conn: Connection, connect: Connect) -> None:
    make(conn, retention_ms=DAY_MS)
    fill(conn, 10, age_ms=2 * DAY_MS)
    with open_transaction(connect(), "select pgq.delete_records('orders', 0, 1)"):
        result = once(dsn)["retention"]
        assert result["busy"] == 1
    assert once(dsn)["retention"]["dropped"] == 1


def test_an_interrupted_detach_is_ended_beside_a_held_snapshot(dsn: str, conn: Connection, connect: Connect) -> None:
    """FINALIZE would wait for the snapshot."""
    make(conn)
    fill(conn, 500)
    call(conn, "delete_records", topic="orders", partition=0, offset=-1)
    conn.execute("set statement_timeout = '100ms'")
    with open_transaction(connect(), "select pgq.produce('orders', 'x')"), pytest.raises(psycopg.Error):
        conn.execute("alter table pgq_log.t1_p0 detach partition pgq_log.t1_p0_s0 concurrently")
    conn.execute("reset statement_timeout")
    assert value(conn, "select state from pgq._droppable() limit 1") == "pending"
    assert rows(conn, "select * from pgq.check_log()") == []
    session = connect()
    session.execute("begin isolation level repeatable read; select 1")
    assert once(dsn)["retention"]["dropped"] >= 3
    assert rows(conn, "select * from pgq.check_log()") == []


def test_topics_come_and_go_beside_it(dsn: str, conn: Connection, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "pgq.service")
    with pgq.Maintenance(dsn, **FAST) as maintenance, pgq.Admin(dsn) as admin:
        for n in range(15):
            make(conn, f"t{n}", 3, retention_ms=DAY_MS)
            fill(conn, 50, topic=f"t{n}", age_ms=2 * DAY_MS)
            admin.delete_topic(f"t{n}")
        runs = maintenance.status()[0].runs
        eventually(lambda: maintenance.status()[0].runs > runs + 3)
    assert [s.failures for s in maintenance.status()] == [0] * len(maintenance.status()), caplog.text
    assert tables(conn) == 0
    assert rows(conn, "select * from pgq.check_log()") == []


def test_dead_members_are_removed_where_nobody_notices(dsn: str, conn: Connection, connect: Connect) -> None:
    make(conn)
    session = connect()
    session.execute("select * from pgq.join_group('g', '{orders}', 'range', 10000, null, 'c')")
    assert once(dsn)["members"] == {}
    session.close()
    eventually(lambda: not rows(conn, "select from pgq._group_locks()"))
    assert once(dsn)["members"] == {"groups": 1}
    assert value(conn, "select count(*) from pgq.group_member") == 0


def test_markers_are_forgotten(dsn: str, conn: Connection, watcher: Connection) -> None:
    assert once(dsn)["markers"] == {}
    watcher.execute("update pgq.flush_rotation set rotated_at = rotated_at - interval '2 hours'")
    assert once(dsn)["markers"] == {"rotated": 1}


def test_jobs_are_reported(dsn: str, conn: Connection) -> None:
    once(dsn)
    once(dsn)
    found = rows(conn, "select job, runs, failures, result, error from pgq.job_status order by job")
    assert [(job, runs, failures, error) for job, runs, failures, _, error in found] == [
        (job, 2, 0, None) for job in sorted(s.job for s in pgq.Maintenance(dsn).status())
    ]
    assert value(conn, "select bool_and(succeeded_at > clock_timestamp() - interval '1 minute') from pgq.job_status")


def test_a_failure_is_reported_and_the_others_go_on(dsn: str, conn: Connection, watcher: Connection) -> None:
    watcher.execute("alter function pgq.rotate_flush_markers rename to rotated")
    (failed,) = [r for r in pgq.Maintenance(dsn).run_once() if r.error]
    assert failed.job == "markers"
    assert "rotate_flush_markers" in failed.error
    assert rows(conn, "select job, failures, succeeded_at from pgq.job_status where failures > 0") == [
        ("markers", 1, None)
    ]
    with pgq.Maintenance(dsn, **FAST) as maintenance:
        eventually(lambda: {s.job: s for s in maintenance.status()}["markers"].failures > 3)
        eventually(lambda: any("rotate_flush_markers" in p for p in maintenance.problems(0.0)))
        assert {s.job: s for s in maintenance.status()}["retention"].runs > 0
        watcher.execute("alter function pgq.rotated rename to rotate_flush_markers")
        eventually(lambda: not any("markers" in p for p in maintenance.problems(0.0)))
        assert maintenance.problems() == []


def test_one_instance_leads_and_another_takes_over(dsn: str, conn: Connection) -> None:
    with pgq.Maintenance(dsn, **FAST) as first:
        eventually(lambda: all(s.leads for s in first.status()))
        with pgq.Maintenance(dsn, **FAST) as second:
            assert [r.led for r in pgq.Maintenance(dsn).run_once()] == [False] * len(first.status())
            assert not any(s.leads or s.runs for s in second.status())
            assert second.problems() == []
            first.close()
            eventually(lambda: all(s.leads for s in second.status()))
    assert not any(s.leads for s in second.status())


def test_sessions_that_are_lost_come_back(dsn: str, conn: Connection, watcher: Connection) -> None:
    with pgq.Maintenance(dsn, **FAST) as maintenance:
        for _ in range(3):
            eventually(lambda: all(s.leads for s in maintenance.status()))
            runs = maintenance.status()[0].runs
            watcher.execute(f"select pg_terminate_backend(pid) {LEADERS}")
            eventually(lambda: maintenance.status()[0].runs > runs + 2)  # noqa: B023


def test_wrong_settings_end_it_at_once(dsn: str, conn: Connection, watcher: Connection) -> None:
    for name in ("segments_interval_ms", "retention_interval_ms", "members_interval_ms", "markers_interval_ms"):
        for wrong in (0, -1, "1", True, 1e9):
            with pytest.raises(errors.InvalidRequestError, match=name):
                pgq.Maintenance(dsn, **{name: wrong})
    watcher.execute("do $$ begin create role pgq_nobody login; exception when duplicate_object then null; end $$")
    watcher.execute(
        "grant usage on schema pgq to pgq_nobody; grant execute on function pgq.schema_version to pgq_nobody"
    )
    with pytest.raises(errors.ClusterAuthorizationFailedError, match="pgq_app"):
        pgq.Maintenance(dsn.replace("pgq_app@", "pgq_nobody@")).start()
    maintenance = pgq.Maintenance(dsn)
    maintenance.start()
    with pytest.raises(errors.IllegalStateError):
        maintenance.start()
    maintenance.close()
    maintenance.close()
    with pytest.raises(errors.IllegalStateError):
        maintenance.start()


KILLED = """
import os, sys, time, pgq
while sys.stdin.readline():
    if not (pid := os.fork()):
        pgq.Maintenance(sys.argv[1], segments_interval_ms=1, retention_interval_ms=1, members_interval_ms=1).start()
        print(os.getpid(), flush=True)
        time.sleep(60)
    os.waitpid(pid, 0)
"""
"""A process that is ready to become the service at once, again and again."""


def test_killed_at_any_point_nothing_is_lost_and_the_next_one_repairs(
    dsn: str, conn: Connection, connect: Connect
) -> None:
    """50 times kill -9, beside producers and transactions that are in the way; then all is as it should be."""
    make(conn, retention_bytes=150_000, segment_bytes=16_384, partitions=2)
    ending = threading.Event()
    sent: dict[int, list[int]] = {0: [], 1: []}

    def produce(session: Connection, partition: int) -> None:
        while not ending.is_set():
            with session.transaction():
                offsets = [
                    value(
                        session,
                        "select (pgq.produce('orders', %s, partition => %s)).\"offset\"",
                        os.urandom(1000), partition,
                    )
                    for _ in range(10)
                ]  # fmt: skip
            sent[partition] += offsets

    def disturb(session: Connection) -> None:
        chance = random.Random(2)
        while not ending.is_set():
            with session.transaction():
                session.execute("declare c cursor for select * from pgq_topic.orders; fetch 1 from c")
                ending.wait(chance.random() * 0.3)
            ending.wait(0.1)

    threads = [threading.Thread(target=produce, args=(connect(), p)) for p in (0, 1)]
    threads.append(threading.Thread(target=disturb, args=(connect(),)))
    for thread in threads:
        thread.start()
    chance = random.Random(3)
    starts = []
    try:
        command = [sys.executable, "-c", KILLED, dsn]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as nursery:
            assert nursery.stdin is not None
            assert nursery.stdout is not None
            for _ in range(50):
                nursery.stdin.write("\n")
                pid = int(nursery.stdout.readline())
                time.sleep(chance.random() * 0.15)  # some point of some job
                os.kill(pid, signal.SIGKILL)
                starts.append(log_start(conn))
            nursery.stdin.close()
    finally:
        ending.set()
        for thread in threads:
            thread.join()
    assert starts == sorted(starts)
    assert starts[-1] > starts[0]
    eventually(lambda: value(conn, f"select count(*) {LEADERS}") == 0)

    def repaired() -> bool:
        """Autovacuum may hold a segment, too, for a moment."""
        once(dsn)
        return rows(conn, "select * from pgq._droppable()") == []

    eventually(repaired)
    assert rows(conn, "select * from pgq.check_log()") == []
    assert tables(conn) == len(segments(conn))
    for partition, offsets in sent.items():
        start = value(conn, "select pgq.log_start_offset('orders', %s)", partition)
        there = [
            o for (o,) in rows(conn, 'select "offset" from pgq_topic.orders where partition = %s order by 1', partition)
        ]
        assert there == [o for o in offsets if o >= start]
        assert there
