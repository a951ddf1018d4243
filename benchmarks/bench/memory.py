"""The producer's memory: over 10 million sends, and while the server is stopped. Peaks are of the whole process, in MB.

The first figure compares the last tenth of the sends with the second: 1.00 is flat. The second compares what the
process grew by with buffer_memory, in a process of its own.
"""

import asyncio
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from pgq import AsyncProducer, Producer, errors, schema
from pgq.embedded import EmbeddedServer

from .harness import Bench, Figure, payload

BUFFER = 32 * 1_048_576
PAGE_MB = resource.getpagesize() / 1e6


def run(bench: Bench) -> Iterator[Figure]:
    sends = 1_000_000 if bench.quick else 10_000_000
    bench.progress(f"memory: {sends:,} sends")
    with bench.topic("bench_memory", 12) as topic:
        early, late, rate = bench.run(many(bench.dsn, topic, sends))
    note = f"{rate:,.0f} records/s; ours: at the end, raw: after a fifth"
    yield Figure("memory", f"{sends:,} sends, asyncpg", late, early, "MB", early / late, 0.95, 1, note)
    bench.progress("memory: stopped server")
    with (
        tempfile.TemporaryDirectory(prefix="pgq-bench-") as folder,
        EmbeddedServer(Path(folder) / "data", bin_dir=bench.bin_dir) as server,
    ):
        context = multiprocessing.get_context("spawn")
        mine, theirs = context.Pipe()
        process = context.Process(target=fill, args=(server.dsn(), theirs), daemon=True)
        process.start()
        mine.recv()
        server.pause()
        mine.send("go")
        grown, buffered = mine.recv()
        server.resume()
        appended = mine.recv()
        process.join()
    note = (
        f"server stopped, buffer_memory 32 MiB; {buffered:,} records were taken, {appended:,} appended when it went on"
    )
    yield Figure("memory", "growth / buffer_memory", grown, BUFFER / 1e6, "MB", BUFFER / 1e6 / grown, None, 1, note)


def rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_MB


async def many(dsn: str, topic: str, sends: int) -> tuple[float, float, float]:
    """Return the peak memory in the second tenth and in the last, and the rate."""
    batch = payload(1_000, 100, 10_000)
    peaks = [0.0] * 10
    async with AsyncProducer(dsn, acks=1) as producer:
        started = time.perf_counter()
        for number in range(sends // 1_000):
            for key, value in batch:
                await producer.send(topic, value, key=key)
            await asyncio.sleep(0)
            tenth = number * 10_000 // sends
            peaks[tenth] = max(peaks[tenth], rss_mb())
        await producer.flush()
        rate = sends / (time.perf_counter() - started)
    return peaks[1], peaks[9], rate


def fill(dsn: str, pipe: Connection) -> None:
    """Send until the buffer is full and stays so; then say by how much the process grew."""
    schema.upgrade(dsn)
    from pgq import Admin

    with Admin(dsn) as admin:
        admin.create_topic("bench_memory")
    with Producer(dsn, buffer_memory=BUFFER, max_block_ms=1_000) as producer:
        producer.send_and_wait("bench_memory", b"first")
        pipe.send("ready")
        pipe.recv()
        before = rss_mb()
        taken = 0
        try:
            while True:
                producer.send("bench_memory", b"%0100d" % taken)
                taken += 1
        except errors.BufferFullError:
            pass
        pipe.send((rss_mb() - before, taken))
        producer.flush()
        pipe.send(int(producer.metrics()["records_sent_total"]) - 1)
