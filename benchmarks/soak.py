"""Full speed into a small log for a quarter of an hour, beside a snapshot held all the time: does it stay small?

    python benchmarks/soak.py                     15 minutes, then soak.csv and the chart docs/images/soak.png
    python benchmarks/soak.py --seconds 120 --partitions 1 --chart /tmp/soak.png

One process produces without a pause, one consumes as a group, one runs the service; this one holds a REPEATABLE READ
transaction open and looks at the disk once a second. For two thirds of the time records have 100 bytes, then for a
sixth a mebibyte, then 100 bytes again. Exit status 1 if a partition takes more than 1.25 x retention.bytes and two
segments, if a rate of the last minute is below 0.9 of the first minute's, or if anything of the service failed.
The chart takes matplotlib.
"""

import argparse
import csv
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import psycopg

import pgq
from pgq import schema
from pgq.embedded import EmbeddedServer

RETENTION = 256 << 20
SEGMENT = 32 << 20
"""As pgq chooses it: an eighth."""
SMALL, LARGE = 100, (1 << 20) - 100
ROUND = 1.25
FLAT = 0.9
SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "4GB"}
SIZES = """
    select max(bytes), sum(bytes), max(largest), sum(segments)::int8
      from (select p.partition_id, sum(s.bytes) as bytes, max(s.bytes) as largest, count(*) as segments
              from pgq.partition p
             cross join lateral (select pgq._partition_bytes(s.partition_id, s.base_offset) as bytes
                                   from pgq.segment s where s.partition_id = p.partition_id) s
             group by p.partition_id) p
"""
COLUMNS = (
    "second",
    "size",
    "produced",
    "consumed",
    "largest_partition",
    "all_partitions",
    "largest_segment",
    "segments",
    "catalog",
)


def produce(dsn: str, size: Any, counter: Any, ending: Any) -> None:
    with pgq.Producer(dsn, compression_type="uncompressed") as producer:
        while not ending.is_set():
            count = 5000 if size.value == SMALL else 16
            values = [(os.urandom(size.value), None) for _ in range(64 if size.value == SMALL else 4)]
            producer.send_many("soak", [values[n % len(values)] for n in range(count)]).result(120)
            counter.value += count


def consume(dsn: str, counter: Any, ending: Any) -> None:
    options = {"dsn": dsn, "group_id": "soak", "auto_offset_reset": "earliest", "max_poll_records": 5000}
    with pgq.Consumer("soak", **options) as consumer:
        while not ending.is_set():
            counter.value += sum(map(len, consumer.getmany(timeout_ms=200).values()))


def serve(dsn: str, failures: Any, ending: Any) -> None:
    with pgq.Maintenance(dsn) as maintenance:
        ending.wait()
        failures.value = sum(status.failures for status in maintenance.status())


def run(dsn: str, seconds: int, partitions: int) -> tuple[list[dict[str, float]], int]:
    with pgq.Admin(dsn) as admin:
        admin.create_topic("soak", partitions, {"retention.bytes": RETENTION})
    context = multiprocessing.get_context("spawn")
    ending = context.Event()
    size, produced, consumed, failures = (context.Value("q", n) for n in (SMALL, 0, 0, 0))
    processes = [
        context.Process(target=produce, args=(dsn, size, produced, ending)),
        context.Process(target=consume, args=(dsn, consumed, ending)),
        context.Process(target=serve, args=(dsn, failures, ending)),
    ]
    samples: list[dict[str, float]] = []
    with psycopg.connect(dsn) as snapshot, psycopg.connect(dsn, autocommit=True) as conn:
        snapshot.execute("set transaction isolation level repeatable read")
        snapshot.execute("select count(*) from pgq.topic")
        for process in processes:
            process.start()
        began = time.monotonic()
        before = (0, 0)
        for second in range(seconds):
            time.sleep(max(0.0, began + second + 1 - time.monotonic()))
            size.value = LARGE if seconds * 4 <= second * 6 < seconds * 5 else SMALL
            ((largest, total, largest_segment, segments),) = conn.execute(SIZES).fetchall()
            ((catalog,),) = conn.execute(
                "select sum(pg_total_relation_size(oid)) from pg_class"
                " where relnamespace = 'pgq'::regnamespace and relkind = 'r'"
            ).fetchall()
            now = (produced.value, consumed.value)
            row = (
                second,
                size.value,
                now[0] - before[0],
                now[1] - before[1],
                largest,
                total,
                largest_segment,
                segments,
                catalog,
            )
            samples.append(dict(zip(COLUMNS, map(float, row), strict=True)))
            before = now
            if second % 15 == 0:
                print(*(f"{name} {value:,.0f}" for name, value in samples[-1].items()), sep="  ", flush=True)
        ending.set()
        for process in processes:
            process.join(60)
    return samples, failures.value + sum(process.exitcode != 0 for process in processes)


def judge(samples: list[dict[str, float]], failures: int) -> list[str]:
    problems = [f"{failures} failures"] if failures else []
    bound = ROUND * RETENTION + 2 * SEGMENT
    largest = max(sample["largest_partition"] for sample in samples)
    times = f"{largest / RETENTION:.2f} x retention.bytes; bound {bound / 2**20:.0f} MiB"
    print(f"largest partition: {largest / 2**20:.1f} MiB, {times}")
    if largest > bound:
        problems.append("a partition was larger than 1.25 x retention.bytes and two segments")
    minute = min(60, len(samples) // 6)
    for name in ("produced", "consumed"):
        first, last = (median(s[name] for s in part) for part in (samples[5 : 5 + minute], samples[-minute:]))
        print(f"{name}: {first:,.0f}/s in the first minute, {last:,.0f}/s in the last: {last / first:.2f}")
        if last < FLAT * first:
            problems.append(f"{name}: the last minute was slower than {FLAT} of the first")
    return problems


def chart(samples: list[dict[str, float]], partitions: int, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    minutes = [sample["second"] / 60 for sample in samples]
    figure, (disk, rate) = plt.subplots(2, 1, sharex=True, figsize=(9, 6), layout="constrained")
    disk.plot(minutes, [s["largest_partition"] / 2**20 for s in samples], label=f"largest of {partitions} partitions")
    disk.axhline(RETENTION / 2**20, color="grey", linestyle=":", label="retention.bytes")
    disk.axhline((ROUND * RETENTION + 2 * SEGMENT) / 2**20, color="red", linestyle=":", label="1.25 x and 2 segments")
    disk.set_ylabel("MiB on disk")
    disk.set_ylim(bottom=0)
    disk.legend(loc="lower right")
    for name in ("produced", "consumed"):
        rate.plot(minutes, [max(1.0, s[name]) for s in samples], label=name, linewidth=0.8)
    rate.set_yscale("log")
    rate.set_ylabel("records/s")
    rate.set_xlabel("minutes, with a snapshot held open all the time")
    rate.legend(loc="lower right")
    large = [s["second"] / 60 for s in samples if s["size"] != SMALL]
    for axes in (disk, rate):
        if large:
            axes.axvspan(large[0], large[-1], alpha=0.15, label="1 MiB records")
    disk.set_title("Records of 100 B at full speed, of 1 MiB where shaded; retention.bytes = 256 MiB")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=900)
    parser.add_argument("--partitions", type=int, default=4, help="which share the rate")
    parser.add_argument("--chart", type=Path, default=Path("docs/images/soak.png"))
    parser.add_argument("--csv", type=Path, help="write the samples, too")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="pgq-soak-") as folder,
        EmbeddedServer(Path(folder) / "data", settings=SETTINGS) as server,
    ):
        schema.upgrade(server.dsn())
        samples, failures = run(server.dsn(), options.seconds, options.partitions)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(samples)
    chart(samples, options.partitions, options.chart)
    problems = judge(samples, failures)
    print(*problems or ["all held"], sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
