"""Batched append: 1,000 records a flush through a producer, against binary COPY of the same rows into one bare table.

Both commit once per 1,000. Ours is end to end: the calls of send, offsets, encoding, COPY, commit. The raw side is the
driver's own fastest way (psycopg: write_row of a binary COPY with its types set; asyncpg: copy_records_to_table) with
offsets it counts itself, outside any explicit transaction, so one COPY is one transaction.
"""

import asyncio
import time
from collections.abc import Iterator
from itertools import count

from pgq import AsyncProducer, Producer

from .harness import COPY_BARE, Bench, Comparison, Figure, Round, compare, now, payload, quiet_gc, size, timed

TARGET = 0.60
FLUSH = 1_000
CASES = [(1, 100), (1, 1000), (12, 100), (12, 1000)]
TYPES = ["int8", "timestamptz", "bytea", "bytea"]
# Only flush() may start a flush, so that every one holds 1,000 records, as the raw side's.
LINGER_MS = 60_000
BATCH_SIZE = 64 * 1_048_576


def run(bench: Bench) -> Iterator[Figure]:
    flushes = 10 if bench.quick else 30
    for partitions, value_bytes in CASES:
        batch = payload(FLUSH, value_bytes, bench.keys)
        case = f"{partitions} partition{'s'[: partitions != 1]}, {size(value_bytes)}"
        for driver, measure in (("psycopg", with_psycopg), ("asyncpg", with_asyncpg)):
            bench.progress(f"append: {driver}, {case}")
            with bench.topic("bench_append", partitions) as topic, bench.bare():
                bench.settle()
                yield measure(bench, topic, batch, flushes, f"{driver}, {case}")
    yield from streaming(bench)


def figure(bench: Bench, case: str, found: Comparison, appended: int, topic: str) -> Figure:
    stored = bench.count(bench.log_table(topic))
    if stored != appended:
        raise RuntimeError(f"append, {case}: {appended} records sent, {stored} stored")
    note = "" if found.send_share is None else f"{found.send_share:.0%} of the time in send"
    return Figure("append", case, found.ours, found.raw, "records/s", found.ratio, TARGET, bench.rounds, note)


def with_psycopg(bench: Bench, topic: str, batch: list[tuple[bytes | None, bytes]], flushes: int, case: str) -> Figure:
    offsets = count()
    appended = 0
    with bench.connect() as conn, Producer(bench.dsn, linger_ms=LINGER_MS, batch_size=BATCH_SIZE) as producer:

        def ours() -> Round:
            nonlocal appended
            in_send = 0.0
            with quiet_gc():
                started = time.perf_counter()
                for _ in range(flushes):
                    before = time.perf_counter()
                    for key, value in batch:
                        producer.send(topic, value, key=key)
                    in_send += time.perf_counter() - before
                    producer.flush()
                seconds = time.perf_counter() - started
            appended += flushes * FLUSH
            return Round(flushes * FLUSH / seconds, in_send / seconds)

        def copy() -> int:
            for _ in range(flushes):
                timestamp = now()
                with conn.cursor() as cursor, cursor.copy(COPY_BARE.encode()) as copying:
                    copying.set_types(TYPES)
                    for key, value in batch:
                        copying.write_row((next(offsets), timestamp, key, value))
            return flushes * FLUSH

        found = compare(bench.rounds, ours, lambda: timed(copy))
    return figure(bench, case, found, appended, topic)


def with_asyncpg(bench: Bench, topic: str, batch: list[tuple[bytes | None, bytes]], flushes: int, case: str) -> Figure:
    offsets = count()
    appended = 0
    conn = bench.run(bench.connect_asyncpg())
    producer = AsyncProducer(bench.dsn, linger_ms=LINGER_MS, batch_size=BATCH_SIZE)
    bench.run(producer.__aenter__())

    async def send_all() -> Round:
        nonlocal appended
        in_send = 0.0
        with quiet_gc():
            started = time.perf_counter()
            for _ in range(flushes):
                before = time.perf_counter()
                for key, value in batch:
                    await producer.send(topic, value, key=key)
                in_send += time.perf_counter() - before
                await producer.flush()
            seconds = time.perf_counter() - started
        appended += flushes * FLUSH
        return Round(flushes * FLUSH / seconds, in_send / seconds)

    async def copy_all() -> Round:
        with quiet_gc():
            started = time.perf_counter()
            for _ in range(flushes):
                timestamp = now()
                await conn.copy_records_to_table(
                    "bare",
                    schema_name="pgq_bench",
                    columns=["offset", "timestamp", "key", "value"],
                    records=[(next(offsets), timestamp, key, value) for key, value in batch],
                )
            return Round(flushes * FLUSH / (time.perf_counter() - started))

    try:
        found = compare(bench.rounds, lambda: bench.run(send_all()), lambda: bench.run(copy_all()))
    finally:
        bench.run(producer.__aexit__(None, None, None))
        bench.run(conn.close())
    return figure(bench, case, found, appended, topic)


def streaming(bench: Bench) -> Iterator[Figure]:
    """The producer with its default options, fed without a pause: sending and flushing overlap. No target."""
    records = 20_000 if bench.quick else 60_000
    batch = payload(FLUSH, 100, bench.keys)

    def sync_round(topic: str) -> Round:
        with Producer(bench.dsn) as producer:
            producer.send(topic, b"warm").result()

            def send_all() -> int:
                for _ in range(records // FLUSH):
                    for key, value in batch:
                        producer.send(topic, value, key=key)
                producer.flush()
                return records

            return timed(send_all)

    async def async_round(topic: str) -> Round:
        async with AsyncProducer(bench.dsn) as producer:
            await (await producer.send(topic, b"warm"))
            with quiet_gc():
                started = time.perf_counter()
                for _ in range(records // FLUSH):
                    for key, value in batch:
                        await producer.send(topic, value, key=key)
                    await asyncio.sleep(0)
                await producer.flush()
                return Round(records / (time.perf_counter() - started))

    for driver in ("psycopg", "asyncpg"):
        case = f"{driver}, 12 partitions, 100 B, streaming"
        bench.progress(f"append: {case}")
        with bench.topic("bench_append", 12) as topic:
            rates = sorted(
                (sync_round(topic) if driver == "psycopg" else bench.run(async_round(topic))).rate
                for _ in range(bench.rounds)
            )
            yield Figure(
                "append", case, rates[len(rates) // 2], None, "records/s", None, None, bench.rounds, "default options"
            )
