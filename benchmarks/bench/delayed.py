"""Release delayed records, out of a million that wait and out of few; the same beside a held snapshot.

Those that are due stand in the tables of four hours that are over, so that these go when they are empty.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from statistics import median
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from pgq import schema

from .harness import Bench, Figure, payload

LIMIT = 20_000
FEW = 10_000
BATCH = 1000
HOURS = 4
WAITING = """
    select count(*), coalesce(sum(c.bytes), 0)::bigint
      from pgq._delay_buckets() b, pg_total_relation_size(b.bucket::regclass) c (bytes)
     where b.hour_ends_at <= now()
"""
LATER = """
    select count(*) from pgq._delay_records(
        array_fill('bench_delayed'::text, array[cardinality(%(values)s::bytea[])]), null, null, null,
        %(keys)s::bytea[], %(values)s::bytea[], null, null, null,
        array(select now() + interval '2 days' + random() * interval '10 hours' from unnest(%(values)s::bytea[])))
"""


def run(bench: Bench) -> Iterator[Figure]:
    many = 100_000 if bench.quick else 1_000_000
    due = many // 5
    few = replace(bench, dsn=make_conninfo(bench.dsn, dbname="bench_delayed"))
    with bench.connect() as conn:
        conn.execute("drop database if exists bench_delayed")
        conn.execute("create database bench_delayed")
    schema.upgrade(few.dsn)
    with bench.topic("bench_delayed", 4) as topic, bench.connect() as conn, few.topic(topic, 4), few.connect() as other:
        inserting = fill(bench, conn, many - due)
        yield Figure("delayed", f"keep {many - due:,}, {BATCH:,} a call", inserting, None, "records/s", None, None, 1)
        for case, held in (("", False), (" beside a held snapshot", True)):
            with bench.connect() as holder:
                if held:
                    holder.execute("begin isolation level repeatable read")
                    holder.execute("select count(*) from pgq.topic")
                put(conn, topic, due)
                tables, size = conn.execute(WAITING).fetchall()[0]
                bench.progress(f"delayed: releasing {due:,} records")
                rates: list[float] = []
                ratios: list[float] = []
                of_few: list[float] = []
                for _ in range(due // FEW):
                    put(other, topic, FEW)
                    of_few.append(release(other, FEW))
                    rates.append(release(conn, FEW))
                    ratios.append(rates[-1] / of_few[-1])
                left, size_left = conn.execute(WAITING).fetchall()[0]
                note = (
                    f"slowest {FEW:,}: {min(rates):,.0f}/s; tables of past hours: {tables} of {size / 1e6:.0f} MB"
                    f" before, {left} of {size_left / 1e6:.0f} MB after"
                )
                rate = due / sum(FEW / one for one in rates)
                what = f"release {due:,} of {many:,}{case}"
                yield Figure("delayed", what, rate, LIMIT, "records/s", rate / LIMIT, 1.0, 1, note)
                yield Figure(
                    "delayed", f"{what}, against {FEW:,} of {FEW:,}", median(rates), median(of_few), "records/s",
                    median(ratios), 0.9, len(ratios),
                )  # fmt: skip
        drop(conn)
    with bench.connect() as conn:
        conn.execute("drop database bench_delayed")


def put(conn: psycopg.Connection[Any], topic: str, records: int) -> None:
    """Put records into the tables of past hours, evenly."""
    row = conn.execute("select topic_id from pgq.topic where name = %s", [topic]).fetchone()
    assert row is not None
    for hour in range(HOURS):
        start = f"date_trunc('hour', now()) - interval '{HOURS - hour} hours'"
        ((name,),) = conn.execute(f"select pgq._delay_name({start})".encode()).fetchall()
        bucket = f"pgq_log.{name}_0"
        key = "primary key (due_at, serial)"
        conn.execute(f"create table if not exists {bucket} (like pgq_log.delayed including defaults, {key})".encode())
        conn.execute(
            f"""
            insert into {bucket} (due_at, serial, topic_id, partition, key, value)
            select {start} + n * interval '30 us', nextval('pgq_log.delayed_serial'), {row[0]}, n % 4,
                   ('customer-' || n % 10000)::bytea, decode(left(string_agg(md5(n::text || m), ''), 200), 'hex')
              from generate_series(1, {records // HOURS}) n, generate_series(1, 7) m group by n order by n
            """.encode()
        )
    conn.execute("update pgq.delivery set search_from = 'epoch', search_serial = 0")


def fill(bench: Bench, conn: psycopg.Connection[Any], records: int) -> float:
    """Keep records for later, as clients do, in transactions of a thousand; return the rate."""
    bench.progress(f"delayed: {records:,} records for later")
    pairs = payload(BATCH, 100, bench.keys)
    batch = {"keys": [key for key, _ in pairs], "values": [value for _, value in pairs]}
    started = time.perf_counter()
    for _ in range(records // BATCH):
        conn.execute(LATER.encode(), batch)
    return records / (time.perf_counter() - started)


def release(conn: psycopg.Connection[Any], records: int) -> float:
    """Deliver so many, a thousand a call; return the rate."""
    done = 0
    started = time.perf_counter()
    while done < records:
        row = conn.execute("select delivered from pgq.deliver_due(%s)", [BATCH]).fetchone()
        assert row is not None
        assert row[0] > 0
        done += row[0]
    return done / (time.perf_counter() - started)


def drop(conn: psycopg.Connection[Any]) -> None:
    """Leave nothing that waits."""
    for (bucket,) in conn.execute("select bucket from pgq._delay_buckets()").fetchall():
        conn.execute(f"drop table {bucket}".encode())
