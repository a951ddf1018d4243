"""What `run` costs over iteration: 200,000 records of 100 B, the only member of a group, a handler that does nothing.

Both commit by themselves. Timed from the first record to the last; the cost is counted in CPU time of the process,
which neighbours on the machine disturb less.
"""

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, NamedTuple

from pgq import AsyncConsumer, Consumer

from .consume import PARTITIONS, member
from .fetch import fill
from .harness import Bench, Figure, quiet_gc

MOST_MICROSECONDS = 15.0
OPTIONS: dict[str, Any] = {"group_id": "bench", "auto_offset_reset": "earliest"}


class Taken(NamedTuple):
    """Seconds between two moments."""

    wall: float
    cpu: float


class Clock:
    """Called for each record: says when the last has come, and keeps the times of the first and the last."""

    def __init__(self, records: int) -> None:
        self._left = iter(range(records - 1, -1, -1))  # whose next() is safe in threads
        self._records = records
        self._first = self._last = (0.0, 0.0)

    def __call__(self) -> bool:
        left = next(self._left)
        if left == self._records - 1:
            self._first = time.perf_counter(), time.process_time()
        if left:
            return False
        self._last = time.perf_counter(), time.process_time()
        return True

    @property
    def taken(self) -> Taken:
        return Taken(self._last[0] - self._first[0], self._last[1] - self._first[1])


def run(bench: Bench) -> Iterator[Figure]:
    records = 40_000 if bench.quick else 200_000
    with bench.topic("bench_worker", PARTITIONS) as topic, bench.bare():
        fill(bench, topic, PARTITIONS, records, 100)

        def in_async(concurrency: int) -> Taken:
            found: Taken = bench.run(running(bench, topic, records, concurrency))
            return found

        def by_iteration() -> Taken:
            found: Taken = bench.run(iterating(bench, topic, records))
            return found

        cases: tuple[tuple[str, Callable[[], Taken], Callable[[], Taken], float | None], ...] = (
            ("async, concurrency 1", lambda: in_async(1), by_iteration, MOST_MICROSECONDS),
            ("async, concurrency 4", lambda: in_async(4), by_iteration, None),
            (
                "sync, concurrency 1",
                lambda: running_sync(bench, topic, records, 1),
                lambda: iterating_sync(bench, topic, records),
                None,
            ),
            (
                "sync, concurrency 4",
                lambda: running_sync(bench, topic, records, 4),
                lambda: iterating_sync(bench, topic, records),
                None,
            ),
        )
        for case, ours, theirs, limit in cases:
            bench.progress(f"worker: {case}")
            ours(), theirs()
            pairs: list[tuple[Taken, Taken]] = []
            for number in range(bench.rounds):
                if number % 2:
                    raw = theirs()
                    pairs.append((ours(), raw))
                else:
                    mine = ours()
                    pairs.append((mine, theirs()))
            more = median((mine.cpu - raw.cpu) / records * 1e6 for mine, raw in pairs)
            yield Figure(
                "worker",
                f"run, {case}",
                records / median(mine.wall for mine, _ in pairs),
                records / median(raw.wall for _, raw in pairs),
                "records/s",
                None if limit is None else limit / max(more, 0.1),
                None if limit is None else 1.0,
                bench.rounds,
                f"{more:.1f} us of CPU a record more than iteration"
                + ("" if limit is None else f"; {limit:.0f} at most"),
            )


async def running(bench: Bench, topic: str, records: int, concurrency: int) -> Taken:
    consumer = await member(bench, topic)
    await consumer.seek_to_beginning()
    clock = Clock(records)

    async def handler(_record: Any) -> None:
        if clock():
            consumer.stop()

    with quiet_gc():
        await consumer.run(handler, concurrency=concurrency)
    return clock.taken


async def iterating(bench: Bench, topic: str, records: int) -> Taken:
    consumer: AsyncConsumer = await member(bench, topic)
    await consumer.seek_to_beginning()
    clock = Clock(records)
    with quiet_gc():
        async for _ in consumer:
            if clock():
                break
    await consumer.close()
    return clock.taken


def sync_member(bench: Bench, topic: str) -> Consumer:
    consumer = Consumer(topic, dsn=bench.dsn, **OPTIONS)
    consumer.start()
    while len(consumer.assignment()) < PARTITIONS:
        consumer.getmany(timeout_ms=10)
    consumer.seek_to_beginning()
    return consumer


def running_sync(bench: Bench, topic: str, records: int, concurrency: int) -> Taken:
    consumer = sync_member(bench, topic)
    clock = Clock(records)

    def handler(_record: Any) -> None:
        if clock():
            consumer.stop()

    with quiet_gc():
        consumer.run(handler, concurrency=concurrency)
    return clock.taken


def iterating_sync(bench: Bench, topic: str, records: int) -> Taken:
    clock = Clock(records)
    with sync_member(bench, topic) as consumer, quiet_gc():
        for _ in consumer:
            if clock():
                break
    return clock.taken
