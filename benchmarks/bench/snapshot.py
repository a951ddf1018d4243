"""Produce, consume and commit while somebody holds an old snapshot: nothing may get slower as it grows older.

Cycles of the same work: flushes of 1,000 records, reading them as a member of a group, commits of 12 partitions.
First without, then with a REPEATABLE READ transaction open elsewhere, which keeps vacuum from removing anything. `raw`
are the medians before, `pgq` those of the last minute of ten (`--long`; else of the last seconds of twenty).
"""

import time
from collections.abc import Iterator
from statistics import median
from typing import Any

from pgq import Consumer, Producer

from .harness import Bench, Figure, payload, quiet_gc

TARGET = 0.90
PARTITIONS = 12
FLUSHES, COMMITS = 10, 100
KINDS = ("produce", "consume", "commit")


def run(bench: Bench) -> Iterator[Figure]:
    before_s, held_s, last_s = (60.0, 600.0, 60.0) if bench.long else (5.0, 20.0, 5.0)
    batch = [(value, key) for key, value in payload(1000, 100, bench.keys)]
    with (
        bench.topic("bench_snapshot", PARTITIONS) as topic,
        Producer(bench.dsn, linger_ms=0) as producer,
        Consumer(topic, dsn=bench.dsn, group_id="bench", enable_auto_commit=False) as consumer,
        bench.connect() as other,
    ):
        while len(consumer.assignment()) < PARTITIONS:
            consumer.getmany(timeout_ms=10)
        consumer.getmany(timeout_ms=10)

        def repeat(seconds: float, doing: str) -> list[tuple[float, ...]]:
            bench.progress(f"snapshot: {doing}")
            rates = []
            started = time.perf_counter()
            while time.perf_counter() - started < seconds:
                rates.append(cycle(producer, consumer, topic, batch))
            return rates

        repeat(before_s / 4, "warming up")
        before = repeat(before_s, "before")
        other.execute("begin isolation level repeatable read")
        other.execute("select count(*) from pgq.topic")
        repeat(held_s - last_s, f"a snapshot is held for {held_s - last_s:.0f} s")
        after = repeat(last_s, "the last seconds of that")
        other.execute("rollback")
    for number, kind in enumerate(KINDS):
        was, now = (median(rates[number] for rates in found) for found in (before, after))
        yield Figure(
            "snapshot",
            f"{kind}, snapshot held {held_s:.0f} s",
            now,
            was,
            "commits/s" if kind == "commit" else "records/s",
            now / was,
            TARGET,
            len(after),
            f"{len(before)} cycles before",
        )


def cycle(producer: Producer, consumer: Consumer, topic: str, batch: list[Any]) -> tuple[float, ...]:
    """Return records/s produced, records/s consumed, commits/s."""
    count = FLUSHES * len(batch)
    with quiet_gc():
        started = time.perf_counter()
        for _ in range(FLUSHES):
            producer.send_many(topic, batch).result()
        produced = time.perf_counter()
        read = 0
        while read < count:
            read += sum(map(len, consumer.getmany(timeout_ms=1000).values()))
        consumed = time.perf_counter()
        for number in range(COMMITS):
            consumer.commit(dict.fromkeys(consumer.assignment(), number))
        committed = time.perf_counter()
    return count / (produced - started), count / (consumed - produced), COMMITS / (committed - consumed)
