"""Compaction as the service does it: what remains, beside producers and readers, and after being killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgq import Consumer, Producer, TopicPartition
from pgq.drivers import psycopg as driver
from pgq.service.compaction import Compaction, CompactionJob, compact_partition
from pgq.service.jobs import Retention
from tests.plugins.compacting import NOW, Log, MakeLog, Pass, Record, survivors
from tests.plugins.postgres import APPLICATION
from tests.plugins.sessions import Connection, eventually, rows, value

Connect = Callable[[], Connection]
DAY = timedelta(days=1)


def fill(log: Log, segments: int = 4, records: int = 300, keys: int = 40, size: int = 10) -> dict[int, Record]:
    """Append closed segments of records with incompressible values; return them."""
    result: dict[int, Record] = {}
    chance = random.Random(segments)
    for _ in range(segments):
        batch: list[Record] = [(b"key %d" % chance.randrange(keys), chance.randbytes(size)) for _ in range(records)]
        result |= dict(zip(log.append(batch), batch, strict=True))
        log.end_segment()
    return result


def test_last_record_of_each_key_remains_as_it_was_stored(log: Log) -> None:
    log.append([(b"a", b"1"), (b"b", b"1")], header_keys=["h", "h"], header_values=[b"\x00", None], codec=2)
    log.append([(b"a", b"2"), (b"", b""), (None, b"no key"), (b"c", os.urandom(100_000)), (b"c" * 5000, b"x" * 9000)])
    log.end_segment()
    before = log.contents()
    done = log.compact()
    assert (done.outcome, done.records_before, done.records_after) == ("done", 7, 6)
    assert log.contents() == [row for row in before if row[1] != 0]
    assert log.offsets() == [1, 2, 3, 4, 5, 6]
    assert not log.copies()
    log.segments()


def test_tables_are_as_those_of_new_segments(log: Log) -> None:
    query = """
        select c.relname, pg_get_userbyid(c.relowner), c.relacl::text, c.reloptions,
               array(select pg_get_indexdef(i.indexrelid) from pg_index i where i.indrelid = c.oid order by 1),
               array(select n.conname || pg_get_constraintdef(n.oid) from pg_constraint n
                      where n.conrelid = c.oid order by 1),
               array(select concat(a.attname, a.attstorage, a.attcompression, a.attnotnull, a.atttypid)
                       from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 order by a.attnum)
          from pg_class c where c.oid = %s::regclass
    """
    fill(log, segments=1)
    table = f"{log.tree}_s0"
    before = rows(log.conn, query, table)
    assert log.compact().swaps == 1
    assert rows(log.conn, query, table) == before


def test_member_of_the_owner_compacts_and_the_owner_owns(log: Log, admin: Connection, admin_dsn: str) -> None:
    """Else default privileges would not hold for the new table, and consumers could not read it."""
    records = fill(log, segments=2)
    service = f"service_{secrets.token_hex(4)}"
    admin.execute(f"create role {service} in role {APPLICATION}")
    try:
        done = compact_partition(
            lambda *settings: driver.connect(admin_dsn, f"set role {service}", *settings), log.partition_id
        )
        assert (done.outcome, done.swaps) == ("done", 1)
    finally:
        # with the sessions their temporary tables go, which hold the role
        eventually(lambda: not rows(log.conn, "select from pg_stat_activity where application_name = 'pgq'"))
        admin.execute(f"drop role {service}")
    owner = "select relowner::regrole::text from pg_class where oid = %s::regclass"
    assert value(log.conn, owner, f"{log.tree}_s0") == APPLICATION
    assert log.offsets() == sorted(survivors(records, 1 << 60, [], NOW, DAY))


def test_segments_are_merged_and_space_comes_back_beside_a_snapshot(log: Log, connect: Connect) -> None:
    held = connect()
    held.execute("begin isolation level repeatable read")
    value(held, "select txid_current()")
    records = fill(log, segments=6, size=1000)
    before, bounds = log.bytes(), log.segments()
    done = log.compact()
    assert done.outcome == "done"
    assert done.bytes_after == log.bytes() < before / 3
    assert log.offsets() == sorted(survivors(records, 1 << 60, [], NOW, DAY))
    *_, (open_base, open_end) = bounds
    assert log.segments() == [(0, open_base), (open_base, open_end)]
    assert not log.is_due()


def test_merged_segments_fit_segment_bytes(make_log: MakeLog) -> None:
    log = make_log('{"segment.bytes": 1048576}')
    records = fill(log, segments=8, records=50, keys=1_000_000, size=8000)
    assert log.compact().outcome == "done"
    assert log.offsets() == sorted(survivors(records, 1 << 60, [], NOW, DAY))
    assert len(log.segments()) > 4
    sizes = rows(log.conn, "select bytes from pgq.segment where bytes is not null")
    assert max(size for (size,) in sizes) < 1.25 * 1_048_576


def test_segment_that_keeps_all_is_left_alone(log: Log) -> None:
    fill(log, segments=1, keys=1)
    log.compact()
    oid = value(log.conn, "select %s::regclass::oid", f"{log.tree}_s0")
    assert log.compact().swaps == 0
    assert value(log.conn, "select %s::regclass::oid", f"{log.tree}_s0") == oid


def test_tombstones_stay_for_delete_retention(log: Log) -> None:
    log.append([(b"a", b"1"), (b"b", b"1"), (b"a", None)])
    log.end_segment()
    assert log.is_due()
    log.compact(NOW)
    assert log.offsets() == [1, 2]
    almost = NOW + DAY - timedelta(milliseconds=1)
    assert not log.is_due(almost)
    log.compact(almost)
    assert log.offsets() == [1, 2]
    assert log.is_due(NOW + DAY)
    log.compact(NOW + DAY)
    assert log.offsets() == [1]
    assert not log.is_due(NOW + 100 * DAY)


def test_tombstones_of_an_incomplete_pass_do_not_age(make_log: MakeLog) -> None:
    log = make_log('{"segment.bytes": 1048576}')
    log.append([(b"a", os.urandom(900_000)), (b"b", b"1")])
    log.end_segment()
    log.append([(b"a", None)])
    log.end_segment()
    assert log.compact(NOW, stopping=lambda: True).outcome == "stopped"
    log.compact(NOW + DAY)
    assert log.offsets() == [1, 4096]
    log.compact(NOW + 2 * DAY)
    assert log.offsets() == [1]


def test_partition_that_is_emptied_goes_on(log: Log) -> None:
    log.append([(b"a", None)])
    log.end_segment()
    log.compact(NOW)
    log.compact(NOW + DAY)
    assert log.offsets() == []
    log.append([(b"a", b"1")])
    assert log.offsets() == [4096]
    with Consumer(dsn=log.dsn, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition(log.topic, 0)])
        record = next(iter(consumer))
    assert (record.offset, record.value) == (4096, b"1")


KEYS = st.sampled_from([None, b"a", b"b", b"c", b"d"])
RECORDS = st.lists(st.tuples(KEYS, st.one_of(st.none(), st.binary(max_size=4))), min_size=1, max_size=8)
STEPS = st.lists(
    st.one_of(
        RECORDS,
        st.just("end segment"),
        st.integers(0, 30).map(lambda hours: timedelta(hours=hours)),  # a pass, so much later
    ),
    min_size=3,
    max_size=14,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=STEPS)
def test_histories_leave_what_the_model_says(make_log: MakeLog, steps: list[list[Record] | str | timedelta]) -> None:
    log = make_log()
    records: dict[int, Record] = {}
    closed_to = 0
    passes: list[Pass] = []
    at = NOW
    for step in [*steps, "end segment", timedelta(hours=24), timedelta(hours=24)]:
        if isinstance(step, list):
            records |= dict(zip(log.append(step), step, strict=True))
        elif isinstance(step, str):
            closed_to = log.end_segment()
        else:
            at += step
            left = survivors(records, closed_to, passes, at, DAY)
            outcome = log.compact(at).outcome
            assert outcome == ("done" if closed_to else "nothing")
            records = {offset: record for offset, record in records.items() if offset in left}
            assert log.offsets() == sorted(left)
            assert [(row[1], *row[3:5]) for row in log.contents()] == [(o, *records[o]) for o in sorted(left)]
            log.segments()
            if outcome == "done" and not any(p.clean_to == closed_to for p in passes):
                passes.append(Pass(closed_to, at))
            assert not log.is_due(at)
    log.conn.execute("select pgq.delete_topic(%s)", [log.topic])


class Reader:
    """Reads the partition from the beginning, again and again, until told to stop."""

    def __init__(self, log: Log, stop: threading.Event, limit: int) -> None:
        self.log = log
        self.stop = stop
        self.limit = limit
        self.readings: list[tuple[int, dict[int, Record]]] = []

    def run(self) -> None:
        partition = TopicPartition(self.log.topic, 0)
        with Consumer(dsn=self.log.dsn, auto_offset_reset="earliest", max_poll_records=self.limit) as consumer:
            consumer.assign([partition])
            last_round = False
            while not last_round:
                last_round = self.stop.is_set()
                end = consumer.end_offsets([partition])[partition]
                consumer.seek_to_beginning(partition)
                seen: dict[int, Record] = {}
                before = -1
                deadline = time.monotonic() + 20
                while (consumer.position(partition) or 0) < end:
                    assert time.monotonic() < deadline, f"stalled at {consumer.position(partition)} before {end}"
                    for record in consumer.getmany(timeout_ms=10).get(partition, ()):
                        assert record.offset > before, "twice, or out of order"
                        before = record.offset
                        seen[record.offset] = record.key, record.value
                self.readings.append((end, seen))


@pytest.mark.slow
def test_nobody_misses_anything_beside_producers_and_passes(make_log: MakeLog) -> None:
    log = make_log('{"segment.bytes": 1048576}')
    stop, readers_stop = threading.Event(), threading.Event()
    sent: dict[int, Record] = {}

    def produce(number: int) -> None:
        chance = random.Random(number)
        with Producer(dsn=log.dsn, linger_ms=1) as producer:
            while not stop.is_set():
                batch = [(chance.randbytes(200), b"%d" % chance.randrange(200)) for _ in range(50)]
                places = producer.send_many(log.topic, batch).result(30)
                sent.update({place.offset: (key, content) for place, (content, key) in zip(places, batch, strict=True)})

    def keep_up() -> None:
        with psycopg.connect(log.dsn, autocommit=True) as conn:
            own = Log(conn, log.dsn, log.topic)
            while not stop.is_set():
                own.end_segment()
                stop.wait(0.05)

    passes: list[Compaction] = []

    def compact() -> None:
        while not stop.is_set():
            passes.append(log.compact())

    readers = [Reader(log, readers_stop, limit) for limit in (500, 7, 5000)]
    with ThreadPoolExecutor(10) as pool:
        others = [pool.submit(produce, n) for n in range(3)] + [pool.submit(keep_up), pool.submit(compact)]
        reading = [pool.submit(reader.run) for reader in readers]
        try:
            eventually(
                lambda: (
                    any(future.done() for future in (*others, *reading))
                    or (
                        sum(done.swaps for done in passes) >= 20
                        and sum(done.outcome == "done" for done in passes) >= 10
                        and all(len(reader.readings) >= 5 for reader in readers)
                    )
                ),
                time_limit_s=60,
            )
        finally:
            stop.set()
            readers_stop.set()
        for future in (*others, *reading):
            future.result(30)
    last = {key: offset for offset, (key, _) in sorted(sent.items())}
    for reader in readers:
        for end, seen in reader.readings:
            assert all(sent[offset] == record for offset, record in seen.items() if offset in sent)
            assert {offset for offset in last.values() if offset < end} <= seen.keys()
    log.end_segment()
    log.compact()
    assert log.offsets() == sorted(last.values())


@pytest.mark.slow
def test_retention_beside_compaction_deletes_only_what_is_old(make_log: MakeLog) -> None:
    log = make_log('{"segment.bytes": 1048576, "retention.bytes": 3000000}', policy="compact,delete")
    stop = threading.Event()
    sent: dict[int, Record] = {}
    chance = random.Random(0)
    counts: Counter[str] = Counter()

    def retain() -> None:
        connection = log.connect("set lock_timeout = '200ms'")
        try:
            while not stop.is_set():
                counts.update(Retention().run_to_end(connection, stop.is_set))
                stop.wait(0.5)  # else nothing is left to be compacted
        finally:
            connection.close()

    def compact() -> None:
        while not stop.is_set():
            counts["swaps"] += log.compact().swaps

    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(retain), pool.submit(compact)]
        deadline = time.monotonic() + 60
        try:
            while counts["dropped"] < 8 or counts["swaps"] < 8:
                assert time.monotonic() < deadline, counts
                batch: list[Record] = [(b"%d" % chance.randrange(2000), chance.randbytes(1000)) for _ in range(200)]
                sent |= dict(zip(log.append(batch), batch, strict=True))
                log.end_segment()
        finally:
            stop.set()
        for other in others:
            other.result(60)
    start = value(log.conn, "select pgq.log_start_offset(%s, 0)", log.topic)
    assert start > 0
    last = {key: offset for offset, (key, _) in sorted(sent.items())}
    assert {offset for offset in last.values() if offset >= start} <= set(log.offsets())
    assert rows(log.conn, "select * from pgq.check_log()") == []


def _compact_until_killed(dsn: str, partition_id: int) -> None:
    while True:
        compact_partition(lambda *settings: driver.connect(dsn, *settings), partition_id, at=NOW)


@pytest.mark.slow
def test_killed_at_any_point_nothing_is_lost(make_log: MakeLog) -> None:
    """Each round makes the partition dirty anew; what a killed pass has left never matters, and never stays."""
    log = make_log('{"segment.bytes": 1048576}')
    context = multiprocessing.get_context("spawn")
    records = fill(log, segments=3, records=400, keys=300, size=2000)
    swapped = 0
    for round_ in range(20):
        process = context.Process(target=_compact_until_killed, args=(log.dsn, log.partition_id))
        process.start()
        eventually(
            lambda: value(
                log.conn,
                "select exists (select from pg_locks where locktype = 'advisory' and classid::bigint >> 26 = 28)",
            )
        )
        time.sleep(random.Random(round_).random() * 0.25)  # anywhere in the pass
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        eventually(
            lambda: (
                not value(
                    log.conn,
                    "select exists (select from pg_locks where locktype = 'advisory' and classid::bigint >> 26 = 28)",
                )
            )
        )
        found = log.offsets()
        last = survivors(records, 1 << 60, [], NOW, DAY)
        assert last <= set(found) <= records.keys()
        assert found == sorted(found)
        swapped += len(found) < len(records)
        log.segments()
        records |= fill(log, segments=2, records=400, keys=300, size=2000)
    assert swapped > 3
    assert log.compact().outcome == "done"
    assert log.offsets() == sorted(survivors(records, 1 << 60, [], NOW, DAY))
    assert not log.copies()


@pytest.mark.parametrize("after", range(0, 9, 2))
def test_stopped_in_the_middle_it_leaves_nothing_behind(log: Log, after: int) -> None:
    records = fill(log, segments=2, keys=300, size=4000)
    asked = iter(range(100))
    outcome = log.compact(stopping=lambda: next(asked) >= after).outcome
    assert outcome == "stopped"
    assert not log.copies()
    assert log.offsets() == sorted(records)
    assert log.compact().outcome == "done"


def test_what_a_killed_pass_left_is_dropped_by_the_next(log: Log) -> None:
    fill(log, segments=2)
    log.conn.execute("select pgq._create_compaction_copy(%s, 4096, 69632)", [log.partition_id])
    assert log.copies()
    log.segments()
    log.conn.execute("""select pgq.alter_topic_config(%s, '{"cleanup.policy": "delete"}')""", [log.topic])
    assert log.is_due()
    assert log.compact().outcome == "nothing"
    assert not log.copies()
    assert not log.is_due()


def test_topic_that_is_deleted_takes_the_copies_along(log: Log) -> None:
    fill(log, segments=1)
    log.conn.execute("select pgq._create_compaction_copy(%s, 0, 4096)", [log.partition_id])
    log.conn.execute("select pgq.delete_topic(%s)", [log.topic])
    assert (
        value(
            log.conn, "select count(*) from pg_class where relnamespace = 'pgq_log'::regnamespace and relname like 't%'"
        )
        == 0
    )


def test_cursor_over_the_topic_postpones_it_and_nobody_waits(log: Log, connect: Connect) -> None:
    fill(log, segments=2)
    reader, producer = connect(), connect()
    with reader.transaction():
        reader.execute(f"declare c cursor for select * from {log.tree}")
        began = time.monotonic()
        assert log.compact().outcome == "postponed"
        assert time.monotonic() - began < 5
        producer.execute("set lock_timeout = '1ms'")
        producer.execute("select pgq.produce(%s, 'v', 'k')", [log.topic])
        assert not log.copies()
    assert log.compact().outcome == "done"


def test_lock_that_comes_after_the_look_is_waited_for_in_vain_and_briefly(log: Log, connect: Connect) -> None:
    fill(log, segments=2)
    log.conn.execute("select pgq._create_compaction_copy(%s, 0, 69632)", [log.partition_id])
    log.conn.execute("select pgq._index_compaction_copy(%s)", [f"t{log.topic_id}_p0_s0_compacting"])
    reader = connect()
    swap = "select pgq._swap_compacted(%s, '{0,4096}', 69632, 100)"
    for table in (f"{log.tree}_s0", f"{log.tree}_s4096", log.tree):
        with reader.transaction():
            reader.execute(f"lock table only {table} in access share mode")
            before = log.segments()
            began = time.monotonic()
            assert value(log.conn, swap, log.partition_id) == "busy"
            assert 0.05 < time.monotonic() - began < 2
            assert log.segments() == before
    assert value(log.conn, swap, log.partition_id) == "swapped"


def test_statement_with_an_older_snapshot_finds_the_records(
    log: Log, connect: Connect, wait_until_blocked: Callable[[Connection], None]
) -> None:
    """A function takes its snapshot, then waits for the swap: what it then reads must not look empty."""
    records = fill(log, segments=1)
    left = sorted(survivors(records, 1 << 60, [], NOW, DAY))
    swapping, reader = connect(), connect()
    pass_ = log.prepare_swap()
    query = f'select array(select "offset" from {log.tree}_s0 order by 1)'
    reader.execute(
        "create function pg_temp.old() returns bigint[] language plpgsql as"
        f" $$ declare result bigint[]; begin execute '{query}' into result; return result; end $$"
    )
    assert value(reader, "select pg_temp.old()") == sorted(records)
    with ThreadPoolExecutor(1) as pool:
        with swapping.transaction():
            assert value(swapping, *pass_) == "swapped"
            reading = pool.submit(value, reader, "select pg_temp.old()")
            wait_until_blocked(reader)
        assert reading.result(30) == left


def test_snapshot_from_before_sees_what_remains(log: Log, connect: Connect) -> None:
    """Frozen rows are seen by every snapshot."""
    fill(log, segments=1)
    reader = connect()
    with reader.transaction():
        reader.execute("set transaction isolation level repeatable read")
        value(reader, "select count(*) from pg_class")
        log.compact()
        assert value(reader, f"select count(*) from {log.tree}") == 40


def test_segment_whose_detaching_was_interrupted_is_left_to_retention(log: Log, connect: Connect) -> None:
    records = fill(log, segments=3)
    log.conn.execute("select pgq.delete_records(%s, 0, 4096)", [log.topic])
    reader, retention = connect(), connect()
    with reader.transaction():
        reader.execute(f"select count(*) from {log.tree}")
        retention.execute("set lock_timeout = '10ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            retention.execute(f"alter table {log.tree} detach partition {log.tree}_s0 concurrently")
    done = log.compact()
    assert (done.outcome, done.swaps) == ("done", 1)
    left = survivors({o: r for o, r in records.items() if o >= 4096}, 1 << 60, [], NOW, DAY)
    assert log.offsets() == sorted(left)
    assert value(log.conn, "select pgq._drop_segment(%s, 0)", log.partition_id)
    assert log.segments()[0] == (4096, 1118208)


def test_swap_leaves_a_segment_alone_whose_detaching_was_interrupted(log: Log, connect: Connect) -> None:
    fill(log, segments=2)
    swap = log.prepare_swap()
    reader, other = connect(), connect()
    with reader.transaction():
        reader.execute(f"select count(*) from {log.tree}")
        other.execute("set lock_timeout = '10ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute(f"alter table {log.tree} detach partition {log.tree}_s4096 concurrently")
    assert value(log.conn, *swap) == "changed"


def test_retention_that_is_faster_wins(log: Log) -> None:
    fill(log, segments=3)
    log.conn.execute("select pgq._create_compaction_copy(%s, 0, 69632)", [log.partition_id])
    log.conn.execute("select pgq._index_compaction_copy(%s)", [f"t{log.topic_id}_p0_s0_compacting"])
    log.conn.execute("select pgq.delete_records(%s, 0, 4096)", [log.topic])
    assert value(log.conn, "select pgq._swap_compacted(%s, '{0,4096}', 69632)", log.partition_id) == "changed"
    assert log.compact().outcome == "done"
    assert log.segments()[:2] == [(0, 4096), (4096, 1118208)]


def test_two_at_once(log: Log, connect: Connect) -> None:
    fill(log)
    other = connect()
    assert value(other, "select pgq._begin_compaction(%s)", log.partition_id)
    assert log.compact().outcome == "busy"
    other.execute("select pgq._end_compaction(%s, null, now(), 0)", [log.partition_id])
    assert log.compact().outcome == "done"


def test_job_does_what_is_due(make_log: MakeLog) -> None:
    logs = [make_log() for _ in range(3)]
    fill(logs[0])
    fill(logs[2])
    job = CompactionJob(logs[0].connect)
    connection = logs[0].connect()
    try:
        done = job.run_once(connection, lambda: False)
        assert done["compacted"] == 2
        assert done["removed"] == 2 * (1200 - 40)
        assert not job.run_once(connection, lambda: False)
    finally:
        connection.close()
    assert len(logs[0].offsets()) == 40


def test_appends_never_fail_beside_swaps(make_log: MakeLog) -> None:
    """Each session has an idea of the tree that a swap makes wrong; in every isolation level."""
    log = make_log()
    fill(log, segments=1)
    stop = threading.Event()

    def append(number: int) -> int:
        count = 0
        levels = ("read committed", "repeatable read", "serializable")
        while not stop.is_set():
            with psycopg.connect(log.dsn, autocommit=True) as session:
                session.execute(f"set default_transaction_isolation = '{levels[number % 3]}'")
                for _ in range(20):
                    session.execute("select pgq.produce(%s, 'v', %s)", [log.topic, b"%d" % number])
                    count += 1
        return count

    with ThreadPoolExecutor(7) as pool:
        appending = [pool.submit(append, number) for number in range(6)]
        swaps = 0
        deadline = time.monotonic() + 60
        while swaps < 15:
            assert time.monotonic() < deadline
            log.end_segment()
            swaps += log.compact().swaps
        stop.set()
        assert all(future.result(30) for future in appending)
