"""From send to receipt: one producer in a process of its own, 1,000 records/s of 100 B, one member of a group.

The producer sends by a timetable and writes into each record when it was due, whether or not it got to it in time, so
that a stall counts for every record that it delays (no coordinated omission). Both clocks are the machine's monotonic
one. A leader alone, and a leader with two followers of which a commit with acks=all waits for one.

What this process has imported and made until then is frozen: Python's collector of cycles walks over everything that is
alive, and of the benchmarks' 90,000 objects that takes 50 ms, in the middle of a poll.
"""

import asyncio
import gc
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles

from pgq import Admin, AsyncConsumer, AsyncProducer, schema
from pgq.embedded_cluster import EmbeddedCluster

from .harness import Bench, Figure

RATE = 1_000
PARTITIONS = 6
P50_MS, P99_MS = 3.0, 15.0
CASES: tuple[tuple[str, int | str], ...] = (
    ("one server", 1),
    ("one server", 0),
    ("three servers", 1),
    ("three servers", "all"),
)


def run(bench: Bench) -> Iterator[Figure]:
    seconds = 5 if bench.quick else 20
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgq-bench-")))
        dsns = {"one server": bench.dsn}
        for servers, acks in CASES:
            if servers not in dsns:
                cluster = stack.enter_context(EmbeddedCluster(folder / "cluster", bin_dir=bench.bin_dir))
                folder.chmod(0o711)
                dsns[servers] = cluster.dsn()
                schema.upgrade(cluster.dsn())
            bench.progress(f"latency: {servers}, acks={acks}")
            with Admin(dsns[servers]) as admin:
                admin.create_topic("bench_latency", partitions=PARTITIONS)
            delays_ms = bench.run(measure(dsns[servers], acks, seconds))
            with Admin(dsns[servers]) as admin:
                admin.delete_topic("bench_latency")
            p50, p99 = median(delays_ms), quantiles(delays_ms, n=100)[98]
            yield Figure(
                "latency",
                f"{servers}, acks={acks}, {RATE:,} records/s for {seconds} s",
                1000 / p50,
                1000 / P50_MS,
                "1/s",
                min(P50_MS / p50, P99_MS / p99),
                1.0,
                1,
                f"p50 {p50:.2f} ms ({P50_MS:.0f} wanted), p99 {p99:.2f} ({P99_MS:.0f}), most {max(delays_ms):.1f}",
            )


async def measure(dsn: str, acks: int | str, seconds: int) -> list[float]:
    """Return what each record took from when it was due to be sent to when the application had it, in ms."""
    count = RATE * seconds
    delays_ms: list[float] = []
    async with AsyncConsumer("bench_latency", dsn=dsn, group_id="bench", auto_offset_reset="earliest") as consumer:
        while len(consumer.assignment()) < PARTITIONS:
            await consumer.getmany(timeout_ms=10)
        producer = multiprocessing.get_context("spawn").Process(target=produce, args=(dsn, acks, count))
        producer.start()
        gc.collect()
        gc.freeze()
        try:
            while len(delays_ms) < count:
                for records in (await consumer.getmany(timeout_ms=1000)).values():
                    now_ns = time.monotonic_ns()
                    delays_ms += [(now_ns - int(record.value[:20])) / 1e6 for record in records]
        finally:
            gc.unfreeze()
        await asyncio.to_thread(producer.join)
    return delays_ms[RATE:]  # without the first second: connections, plans, caches


def produce(dsn: str, acks: int | str, count: int) -> None:
    """Send by the timetable, in a process of its own."""

    async def send_all() -> None:
        async with AsyncProducer(dsn, acks=acks, linger_ms=0) as producer:
            await producer.partitions_for("bench_latency")
            started_ns = time.monotonic_ns() + 100_000_000
            for number in range(count):
                due_ns = started_ns + number * 1_000_000_000 // RATE
                left_s = (due_ns - time.monotonic_ns()) / 1e9
                if left_s > 0:
                    await asyncio.sleep(left_s)
                await producer.send("bench_latency", b"%020d" % due_ns + b"x" * 80, partition=number % PARTITIONS)
            await producer.flush()

    asyncio.run(send_all())
