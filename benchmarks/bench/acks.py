"""What acks cost: a leader and two followers on this machine, of which a commit with acks=all waits for one.

One batch after another is sent and awaited, so the rate is the inverse of the latency. Ratios are to acks=1.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

from pgq import Admin, Producer, schema
from pgq.embedded_cluster import EmbeddedCluster

from .harness import Bench, Figure, payload

TARGET = 0.80
ALL: tuple[int | str, ...] = (1, 0, "all")


def run(bench: Bench) -> Iterator[Figure]:
    with (
        tempfile.TemporaryDirectory(prefix="pgq-bench-") as folder,
        EmbeddedCluster(Path(folder) / "cluster", bin_dir=bench.bin_dir, settings={"max_wal_size": "8GB"}) as cluster,
    ):
        Path(folder).chmod(0o711)
        dsn = cluster.dsn()
        schema.upgrade(dsn)
        for records in (1, 100, 1000):
            bench.progress(f"acks: batches of {records}")
            with Admin(dsn) as admin:
                admin.create_topic("bench_acks", partitions=12)
            batch = [(value, key) for key, value in payload(records, 100, bench.keys)]
            with Producer(dsn, linger_ms=0) as producer:
                producer.send_many("bench_acks", batch).result()
                rates: dict[int | str, list[float]] = {acks: [] for acks in ALL}
                latencies: dict[int | str, list[float]] = {acks: [] for acks in ALL}
                for number in range(bench.rounds):
                    for acks in ALL if number % 2 else ALL[::-1]:
                        took = []
                        for _ in range(50 if bench.quick else 200):
                            started = time.perf_counter()
                            producer.send_many("bench_acks", batch, acks=acks).result()
                            took.append(time.perf_counter() - started)
                        latencies[acks] += took
                        rates[acks].append(records * len(took) / sum(took))
            for acks in ALL:
                yield Figure(
                    "acks",
                    f"acks={acks}, batches of {records}",
                    median(rates[acks]),
                    median(rates[1]),
                    "records/s",
                    median(a / b for a, b in zip(rates[acks], rates[1], strict=True)),
                    TARGET if acks == "all" and records == 1000 else None,
                    bench.rounds,
                    latency(latencies[acks]),
                )
            with Admin(dsn) as admin:
                admin.delete_topic("bench_acks")


def latency(seconds: list[float]) -> str:
    return f"latency p50 {median(seconds) * 1000:.2f} ms, p99 {quantiles(seconds, n=100)[98] * 1000:.2f} ms"
