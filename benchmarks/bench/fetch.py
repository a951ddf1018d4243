"""Fetch: Consumer.getmany from the first record to the last, against SELECT of the same rows from one bare table.

Ours are ConsumerRecords, fully formed. The raw side reads windows of the same size by offset into the driver's own rows
(psycopg: a binary cursor and fetchall; asyncpg: fetch), with a prepared statement.
"""

import time
from collections.abc import Iterator

from psycopg import sql

from pgq import AsyncConsumer, Consumer, Producer

from .harness import Bench, Comparison, Figure, Round, compare, partitions_of, payload, quiet_gc, size, timed

TARGET = 0.65
CASES = [(1, 100), (1, 1000), (12, 100), (12, 1000)]
WINDOWS = (1_000, 5_000)
COPY_LOG = """
    insert into pgq_bench.bare
    select row_number() over (order by "offset", partition) - 1, "timestamp", key, value from {log} order by 1
"""
SELECT_PSYCOPG = """
    select "offset", "timestamp", key, value from pgq_bench.bare where "offset" >= %s and "offset" < %s
    order by "offset"
"""
SELECT_ASYNCPG = """
    select "offset", "timestamp", key, value from pgq_bench.bare where "offset" >= $1 and "offset" < $2
    order by "offset"
"""


def run(bench: Bench) -> Iterator[Figure]:
    records = 20_000 if bench.quick else 60_000
    for partitions, value_bytes in CASES:
        case = f"{partitions} partition{'s'[: partitions != 1]}, {size(value_bytes)}"
        with bench.topic("bench_fetch", partitions) as topic, bench.bare():
            fill(bench, topic, partitions, records, value_bytes)
            for window in WINDOWS:
                for driver, measure in (("psycopg", with_psycopg), ("asyncpg", with_asyncpg)):
                    bench.progress(f"fetch: {driver}, {case}, windows of {window:,}")
                    found = measure(bench, topic, partitions, records, window)
                    yield Figure(
                        "fetch",
                        f"{driver}, {case}, by {window:,}",
                        found.ours,
                        found.raw,
                        "records/s",
                        found.ratio,
                        TARGET,
                        bench.rounds,
                    )


def fill(bench: Bench, topic: str, partitions: int, records: int, value_bytes: int) -> None:
    """Append evenly over the partitions, copy the rows into the bare table, and leave both in the same state."""
    with Producer(bench.dsn, linger_ms=100) as producer:
        for number, (key, value) in enumerate(payload(records, value_bytes, bench.keys)):
            producer.send(topic, value, key=key, partition=number % partitions)
        producer.flush()
    log = sql.SQL(bench.log_table(topic))
    with bench.connect() as conn:
        conn.execute(sql.SQL(COPY_LOG).format(log=log))
        conn.execute(sql.SQL("vacuum analyze {}").format(log))
        conn.execute("vacuum analyze pgq_bench.bare")
    bench.settle()


def with_psycopg(bench: Bench, topic: str, partitions: int, records: int, window: int) -> Comparison:
    with (
        bench.connect() as conn,
        Consumer(dsn=bench.dsn, auto_offset_reset="earliest") as consumer,
        conn.cursor(binary=True) as cursor,
    ):
        assigned = partitions_of(topic, partitions)
        consumer.assign(assigned)

        def ours() -> Round:
            consumer.seek_to_beginning(*assigned)

            def read_all() -> int:
                read = 0
                while read < records:
                    for found in consumer.getmany(timeout_ms=1000, max_records=window).values():
                        read += len(found)
                return read

            return timed(read_all)

        def select() -> int:
            read = 0
            for first in range(0, records, window):
                read += len(cursor.execute(SELECT_PSYCOPG.encode(), (first, first + window), prepare=True).fetchall())
            return read

        return compare(bench.rounds, ours, lambda: timed(select))


def with_asyncpg(bench: Bench, topic: str, partitions: int, records: int, window: int) -> Comparison:
    assigned = partitions_of(topic, partitions)
    conn = bench.run(bench.connect_asyncpg())
    statement = bench.run(conn.prepare(SELECT_ASYNCPG))
    consumer = AsyncConsumer(dsn=bench.dsn, auto_offset_reset="earliest")
    bench.run(consumer.__aenter__())

    async def ours() -> Round:
        await consumer.seek_to_beginning(*assigned)
        read = 0
        with quiet_gc():
            started = time.perf_counter()
            while read < records:
                for found in (await consumer.getmany(timeout_ms=1000, max_records=window)).values():
                    read += len(found)
            return Round(read / (time.perf_counter() - started))

    async def select() -> Round:
        read = 0
        with quiet_gc():
            started = time.perf_counter()
            for first in range(0, records, window):
                read += len(await statement.fetch(first, first + window))
            return Round(read / (time.perf_counter() - started))

    try:
        bench.run(consumer.assign(assigned))
        return compare(bench.rounds, lambda: bench.run(ours()), lambda: bench.run(select()))
    finally:
        bench.run(consumer.__aexit__(None, None, None))
        bench.run(conn.close())
