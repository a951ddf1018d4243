"""A reader beside 64 producers: does it keep up, and how far behind is it?

Each producer appends one record a transaction; 1 % roll back and 1 % hold their transaction open for 20 ms, so that the
log is full of holes that the reader must decide. One Consumer reads. Lag is what is committed or still open above the
consumer's position: log end offset - position, sampled beside the run.
"""

import tempfile
import threading
import time
from collections.abc import Iterator
from statistics import median

from pgq import Consumer, TopicPartition

from . import pgbench
from .harness import Bench, Figure

TARGET = 0.97
SAMPLE_SECONDS = 0.05
PRODUCE = f"select * from pgq.produce('bench_tail', '{'a' * 100}'::bytea);"
SCRIPTS = {
    f"{PRODUCE}\n": 98,
    f"begin;\n{PRODUCE}\nrollback;\n": 1,
    f"begin;\n{PRODUCE}\n\\sleep 20 ms\ncommit;\n": 1,
}


def run(bench: Bench) -> Iterator[Figure]:
    seconds = 3 if bench.quick else 10
    bench.progress("tail: 64 producers, 1 % rolled back, 1 % held 20 ms, one reader")
    with bench.topic("bench_tail") as topic:
        bench.settle()
        yield measure(bench, topic, seconds)


def measure(bench: Bench, topic: str, seconds: int) -> Figure:
    partition = TopicPartition(topic, 0)
    offsets: list[int] = []
    delays_ms: list[float] = []
    lags: list[int] = []
    running = threading.Event()
    running.set()

    def sample() -> None:
        with bench.connect() as conn:
            while running.is_set():
                position = offsets[-1] + 1 if offsets else 0
                (end,) = conn.execute("select pgq.log_end_offset(%s, 0)", [topic], prepare=True).fetchone() or (0,)
                lags.append(max(0, end - position))
                running_for_a_while.wait(SAMPLE_SECONDS)

    running_for_a_while = threading.Event()
    with tempfile.TemporaryDirectory() as folder, Consumer(dsn=bench.dsn, auto_offset_reset="earliest") as consumer:
        consumer.assign([partition])
        sampler = threading.Thread(target=sample, name="lag")
        producers = pgbench.start(bench, SCRIPTS, mode="prepared", seconds=seconds, folder=folder)
        sampler.start()
        first = last = 0.0
        read_meanwhile = 0
        try:
            while producers.poll() is None:
                for records in consumer.getmany(timeout_ms=50, max_records=5_000).values():
                    last = time.time()
                    first = first or last
                    offsets.extend(record.offset for record in records)
                    delays_ms.append(last * 1000 - records[0].timestamp)
            read_meanwhile = len(offsets)
        finally:
            running.clear()
            running_for_a_while.set()
            sampler.join()
            pgbench.finish(producers)
        stored = bench.count(bench.log_table(topic))
        behind = stored - read_meanwhile
        drain = time.perf_counter()
        while len(offsets) < stored:
            for records in consumer.getmany(timeout_ms=1000, max_records=5_000).values():
                offsets.extend(record.offset for record in records)
        drain = time.perf_counter() - drain
    if offsets != sorted(set(offsets)) or len(offsets) != stored:
        raise RuntimeError(f"tail: {stored} records stored, {len(offsets)} read, {len(set(offsets))} different ones")
    elapsed = last - first
    note = (
        f"lag: median {median(lags):,.0f}, most {max(lags):,}, at the end {behind:,} (read in {drain * 1000:.0f} ms); "
        f"oldest record of a poll: median {median(delays_ms):.0f} ms old, most {max(delays_ms):.0f} ms"
    )
    produced, read = stored / elapsed, read_meanwhile / elapsed
    case = f"{pgbench.CLIENTS} producers, 1 reader, {seconds} s"
    return Figure("tail", case, read, produced, "records/s", read / produced, TARGET, 1, note)
