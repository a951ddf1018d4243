"""What the service costs: `pgq serve` on 10 and on 1,000 partitions where nothing happens, of which a group reads 100.

idle: CPU of the service and of its sessions in the server, as a share of one core. The target is 2 %.
pass: all jobs once, when nothing is due. The target is 5 s.
scrape: from the request of /metrics to the end of its answer. No target.
Rates are the inverse of what was measured, so that more is better.
"""

import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from pgq import Admin, Maintenance, Producer

from .harness import Bench, Figure, partitions_of

IDLE_TARGET = 0.02
PASS_TARGET_S = 5.0
COMMAND = (sys.executable, "-c", "from pgq.cli import app; app()", "serve", "--port", "0", "--dsn")


def run(bench: Bench) -> Iterator[Figure]:
    for partitions in (10, 1000):
        with bench.topic("bench_service", partitions) as topic:
            fill(bench, topic, partitions)
            try:
                yield whole_pass(bench, partitions)
                yield from serving(bench, partitions)
            finally:
                with Admin(bench.dsn) as admin:
                    admin.delete_consumer_groups(["bench"])


def fill(bench: Bench, topic: str, partitions: int) -> None:
    bench.progress(f"service: filling {partitions} partitions")
    with Producer(bench.dsn) as producer:
        for tp in partitions_of(topic, partitions):
            producer.send(topic, b"x" * 100, partition=tp.partition)
    with Admin(bench.dsn) as admin:
        admin.alter_consumer_group_offsets("bench", dict.fromkeys(partitions_of(topic, min(partitions, 100)), 0))
    bench.settle()


def whole_pass(bench: Bench, partitions: int) -> Figure:
    bench.progress(f"service: a pass over {partitions} partitions")
    times = []
    for _ in range(bench.rounds + 1):
        started = time.perf_counter()
        reports = Maintenance(bench.dsn).run_once()
        times.append(time.perf_counter() - started)
        if not all(report.led and report.error is None for report in reports):
            raise RuntimeError(f"service: {reports}")
    first, *later = times
    seconds = median(later)
    return Figure(
        "service",
        f"all jobs once, {partitions:,} partitions",
        60 / seconds,
        60 / PASS_TARGET_S,
        "1/min",
        PASS_TARGET_S / max(times),
        1.0,
        len(later),
        f"median {seconds:.2f} s, the first {first:.2f} s",
    )


def serving(bench: Bench, partitions: int) -> Iterator[Figure]:
    bench.progress(f"service: idle with {partitions} partitions")
    seconds = 20.0 if bench.quick else 60.0
    with subprocess.Popen(
        [*COMMAND, bench.dsn], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            while len(re.findall(r"^pgq_job_last_success_timestamp_seconds\{", text := scrape(url), re.MULTILINE)) < 4:
                time.sleep(0.1)
            pids = [process.pid, *sessions(bench)]
            before = cpu_seconds(pids)
            started = time.perf_counter()
            time.sleep(seconds)
            share = (cpu_seconds(pids) - before) / (time.perf_counter() - started)
            times = []
            for _ in range(10):
                started = time.perf_counter()
                text = scrape(url)
                times.append(time.perf_counter() - started)
        finally:
            process.terminate()
    if "\npgq_up 1.0\n" not in text or text.count("\npgq_topic_partition_size_bytes{") != partitions:
        raise RuntimeError("service: /metrics is not whole")
    share = max(share, 0.01 / seconds)  # what the clock can tell
    yield Figure(
        "service",
        f"idle, {partitions:,} partitions",
        1 / share,
        1 / IDLE_TARGET,
        "1/core",
        IDLE_TARGET / share,
        1.0,
        1,
        f"{share:.2%} of a core",
    )
    yield Figure(
        "service",
        f"scrape, {partitions:,} partitions",
        1 / median(times),
        None,
        "1/s",
        None,
        None,
        len(times),
        f"median {median(times) * 1000:.0f} ms, most {max(times) * 1000:.0f} ms, {len(text) / 1e6:.2f} MB",
    )


def scrape(url: str) -> str:
    with urllib.request.urlopen(url) as answer:
        return str(answer.read().decode())


def sessions(bench: Bench) -> list[int]:
    with bench.connect() as conn:
        found = conn.execute("select pid from pg_stat_activity where application_name = 'pgq'").fetchall()
    return [pid for (pid,) in found]


def cpu_seconds(pids: list[int]) -> float:
    """Seconds of CPU of processes of this machine."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / 100
