"""What groups cost: members that come all at once, members that wait, groups beside producers.

take over: a member in a process of its own is killed, or stopped; seconds until another has its partitions. The target
is 1 s, and 1 s more than session_timeout_ms.
settle: 90 members join a group on 100 partitions at the same time; seconds until each partition is held, evenly.
idle: statements a second of a member that waits on a quiet topic, by the server's count of transactions.
ten groups: what producers of one topic append beside ten groups that read it, against the same without any group. The
clients share the machine's cores with the producers, so the share of CPU that is left to producers and server is the
measure: ours is the rate beside the groups, raw the rate without, times that share.
commit: a commit of 12 partitions by a member, beside the same INSERT of 12 rows in a bare table.
"""

import asyncio
import gc
import multiprocessing
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, LiteralString

from pgq import AsyncConsumer, Consumer, Producer

from .harness import Bench, Figure, compare, payload, timed

SETTLE_TARGET_S = 10.0
IDLE_TARGET = 4.0
MEMBERS, PARTITIONS, GROUPS = 90, 100, 10
MEMBER = """
import sys, pgq
consumer = pgq.Consumer(sys.argv[1], dsn=sys.argv[2], group_id="bench", session_timeout_ms=1000)
while True:
    consumer.getmany(timeout_ms=20)
"""
CREATE: LiteralString = """
    create table pgq_bench.bare (a int, b int, c bigserial, d bigint, e text, f timestamptz, primary key (a, b, c))
"""
INSERT = b"""
    insert into pgq_bench.bare
    select 1, i, nextval('pgq_bench.bare_c_seq'), %s, '', now() from generate_series(1, 12) i
"""


def run(bench: Bench) -> Iterator[Figure]:
    for name, number, least_s in (("killed", signal.SIGKILL, 0.0), ("stopped", signal.SIGSTOP, 1.0)):
        yield take_over(bench, name, number, least_s)
    yield from settle(bench)
    yield idle(bench)
    yield ten_groups(bench)
    yield commit(bench)


def take_over(bench: Bench, name: str, number: int, least_s: float) -> Figure:
    bench.progress(f"groups: a member is {name}")
    times = []
    with (
        bench.topic("bench_groups", 12) as topic,
        Consumer(topic, dsn=bench.dsn, group_id="bench", session_timeout_ms=1000) as consumer,
    ):
        for _ in range(3 if bench.quick else 20):
            command = [sys.executable, "-c", MEMBER, topic, bench.dsn]
            with subprocess.Popen(command) as member:
                while len(consumer.assignment()) != 6:
                    consumer.getmany(timeout_ms=20)
                member.send_signal(number)
                started = time.perf_counter()
                while len(consumer.assignment()) != 12:
                    consumer.getmany(timeout_ms=20)
                times.append(time.perf_counter() - started - least_s)
                member.kill()
    rate, target = 1 / median(times), 1.0
    note = f"{least_s:.0f} s and median {median(times):.2f} s, most {max(times):.2f} s"
    return Figure("groups", f"a member is {name}", rate, target, "1/s", target / max(times), 1.0, len(times), note)


def settle(bench: Bench) -> Iterator[Figure]:
    for strategy in ("range", "sticky"):
        bench.progress(f"groups: {MEMBERS} members on {PARTITIONS} partitions, {strategy}")
        with bench.topic("bench_groups", PARTITIONS) as topic:
            seconds = [bench.run(join_all(bench, topic, strategy)) for _ in range(3 if bench.quick else bench.rounds)]
        yield Figure(
            "groups",
            f"{MEMBERS} members settle on {PARTITIONS} partitions, {strategy}",
            60 / median(seconds),
            60 / SETTLE_TARGET_S,
            "1/min",
            SETTLE_TARGET_S / median(seconds),
            1.0,
            len(seconds),
            f"median {median(seconds):.1f} s, most {max(seconds):.1f} s",
        )


async def join_all(bench: Bench, topic: str, strategy: str) -> float:
    consumers = [
        AsyncConsumer(topic, dsn=bench.dsn, group_id="bench", partition_assignment_strategy=strategy)
        for _ in range(MEMBERS)
    ]
    ending = asyncio.Event()

    async def poll(consumer: AsyncConsumer) -> None:
        while not ending.is_set():
            await consumer.getmany(timeout_ms=1000)

    started = time.perf_counter()
    tasks = [asyncio.create_task(poll(consumer)) for consumer in consumers]
    while True:
        await asyncio.sleep(0.02)
        sizes = [len(consumer.assignment()) for consumer in consumers]
        if sum(sizes) == PARTITIONS and min(sizes) > 0 and max(sizes) <= 2:
            break
        if time.perf_counter() - started > 60:
            raise RuntimeError(f"groups: not settled after 60 s: {sizes}")
    seconds = time.perf_counter() - started
    ending.set()
    await asyncio.gather(*tasks)
    await asyncio.gather(*(consumer.close() for consumer in consumers))
    return seconds


def idle(bench: Bench) -> Figure:
    seconds = 5 if bench.quick else 20
    bench.progress("groups: an idle member")

    def transactions() -> int:
        with bench.connect() as conn:
            conn.execute("select pg_stat_clear_snapshot()")
            row = conn.execute(
                "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()"
            ).fetchone()
        assert row is not None
        return int(row[0])

    with bench.topic("bench_groups", 12) as topic, Consumer(topic, dsn=bench.dsn, group_id="bench") as consumer:
        consumer.getmany(timeout_ms=2000)
        before = transactions()
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            consumer.getmany(timeout_ms=1000)
        time.sleep(1.1)  # a session reports what it did once a second
        elapsed = time.perf_counter() - started
        rate = (transactions() - before - 4) / elapsed  # less our own two looks
    note = f"{rate:.2f} statements/s; wanted {IDLE_TARGET:.0f} at most"
    return Figure("groups", "idle member, 12 partitions", rate, IDLE_TARGET, "1/s", IDLE_TARGET / rate, 1.0, 1, note)


def ten_groups(bench: Bench) -> Figure:
    seconds = 3.0 if bench.quick else 6.0
    batch = [(value, key) for key, value in payload(1000, 100, bench.keys)]
    rates: dict[bool, list[float]] = {True: [], False: []}
    shares: list[float] = []
    bench.progress(f"groups: producers beside {GROUPS} groups")
    for number in range(bench.rounds):
        for beside in (True, False) if number % 2 else (False, True):
            with bench.topic("bench_groups", 12) as topic:
                rate, share = produce(bench, topic, batch, seconds, groups=GROUPS if beside else 0)
                rates[beside].append(rate)
                if beside:
                    shares.append(share)
    ratio = median(a / b for a, b in zip(rates[True], rates[False], strict=True))
    fair = median(rates[False]) * median(shares)
    return Figure(
        "groups",
        f"producer beside {GROUPS} groups",
        median(rates[True]),
        fair,
        "records/s",
        median(rates[True]) / fair,
        1.0,
        bench.rounds,
        f"{ratio:.2f} of without groups; groups and their sessions took {1 - median(shares):.0%} of the CPU",
    )


def produce(bench: Bench, topic: str, batch: list[Any], seconds: float, *, groups: int) -> tuple[float, float]:
    """Return the rate, and the share of the CPU that the groups' clients and their sessions left."""
    context = multiprocessing.get_context("spawn")
    ready, ending = context.Semaphore(0), context.Event()
    beginning = context.Event()
    used = context.Array("d", groups or 1)
    members = [
        context.Process(target=read_all, args=(bench.dsn, topic, number, ready, beginning, ending, used))
        for number in range(groups)
    ]
    for member in members:
        member.start()
    for _ in members:
        ready.acquire()
    with Producer(bench.dsn) as producer:
        producer.send_many(topic, batch).result()
        gc.collect()
        beginning.set()
        sent = 0
        started = time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds:
            producer.send_many(topic, batch)
            sent += len(batch)
        producer.flush()
        elapsed = time.perf_counter() - started
    ending.set()
    for member in members:
        member.join()
    cores = multiprocessing.cpu_count()
    return sent / elapsed, max(0.0, 1 - sum(used) / (elapsed * cores))


def read_all(dsn: str, topic: str, number: int, ready: Any, beginning: Any, ending: Any, used: Any) -> None:
    """Read as a group of one, in a process of its own; note the seconds of CPU that it and its session took."""
    with Consumer(topic, dsn=dsn, group_id=f"bench-{number}") as consumer:
        while len(consumer.assignment()) < 12:
            consumer.getmany(timeout_ms=10)
        connection = consumer._raw_connection
        pid = connection.raw.info.backend_pid
        ready.release()
        beginning.wait()
        before = cpu_seconds(pid)
        while not ending.is_set():
            consumer.getmany(timeout_ms=50)
        used[number] = cpu_seconds(pid) - before


def cpu_seconds(pid: int) -> float:
    """Seconds of CPU of this process and of that one, which is on this machine."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    own = resource.getrusage(resource.RUSAGE_SELF)
    return ticks / 100 + own.ru_utime + own.ru_stime


def commit(bench: Bench) -> Figure:
    commits = 200 if bench.quick else 1000
    bench.progress("groups: commits")
    with (
        bench.topic("bench_groups", 12) as topic,
        bench.bare(CREATE),
        bench.connect() as conn,
        Consumer(topic, dsn=bench.dsn, group_id="bench", enable_auto_commit=False) as consumer,
    ):
        while len(consumer.assignment()) < 12:
            consumer.getmany(timeout_ms=10)
        offset = 0

        def ours() -> int:
            nonlocal offset
            for _ in range(commits):
                offset += 1
                consumer.commit(dict.fromkeys(consumer.assignment(), offset))
            return commits

        def raw() -> int:
            for _ in range(commits):
                conn.execute(INSERT, [offset], prepare=True)
            return commits

        found = compare(bench.rounds, lambda: timed(ours), lambda: timed(raw))
    return Figure(
        "groups", "commit of 12 partitions", found.ours, found.raw, "commits/s", found.ratio, None, bench.rounds
    )
