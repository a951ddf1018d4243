"""What waking readers costs the producers: one record a transaction, 64 connections, one partition, two readers.

The readers either park when they have found nothing, so that appends notify them, or look again every few milliseconds
with parking switched off (pgq.notify). Two cases: producers at full speed, and at 200 transactions a second, where the
readers park after nearly every record; the second tells the latency from commit to receipt.
"""

import tempfile
import threading
import time
from collections.abc import Iterator
from statistics import median, quantiles

from . import pgbench
from .harness import Bench, Figure, Round, compare

TARGET = 0.90
READERS = 2
PRODUCE = "select * from pgq.produce('bench_park', '{}'::bytea);\n"
READ = 'select "offset", clock_timestamp() - "timestamp" from pgq.fetch(\'bench_park\', 0, %s, 1000)'
IDLE_FIRST_S, IDLE_LAST_S = 0.001, 0.01
PARKED_S = 1.0
"""How long a parked reader sleeps before it looks again by itself."""


class Reader:
    """Reads the topic on a connection of its own, and counts."""

    def __init__(self, bench: Bench, topic_id: int, *, parks: bool) -> None:
        self._bench = bench
        self._topic_id = topic_id
        self._parks = parks
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.latencies_ms: list[float] = []
        self.parked = 0
        self.late = 0
        """How often it looked by itself and found something: a wake-up that did not come."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        with self._bench.connect() as conn:
            conn.execute(f"listen pgq_{self._topic_id}".encode())
            position = conn.execute("select pgq.log_end_offset('bench_park', 0)").fetchone()[0]  # type: ignore[index]
            idle_s = IDLE_FIRST_S
            overslept = False
            while not self._stopping.is_set():
                rows = conn.execute(READ, [position], prepare=True).fetchall()
                if rows:
                    position = rows[-1][0] + 1
                    self.latencies_ms += [age.total_seconds() * 1000 for _, age in rows]
                    self.late += overslept
                    idle_s = IDLE_FIRST_S
                    overslept = False
                    continue
                overslept = False
                held, busy = [], True
                if self._parks:
                    held, busy = conn.execute(
                        "select held, busy from pgq._park(%s)", [[self._topic_id]], prepare=True
                    ).fetchone()  # type: ignore[misc]
                if busy:
                    self._stopping.wait(idle_s)
                    idle_s = min(2 * idle_s, IDLE_LAST_S)
                    continue
                notified = bool(conn.execute(READ, [position], prepare=True).fetchall())
                if not notified:
                    self.parked += 1
                    notified = bool(list(conn.notifies(timeout=PARKED_S, stop_after=1)))
                    overslept = not notified
                conn.execute("select pgq._unpark(%s, %s)", [held, notified], prepare=True)


def run(bench: Bench) -> Iterator[Figure]:
    seconds = 3 if bench.quick else 6
    seen: dict[bool, list[Reader]] = {True: [], False: []}

    def side(script: str, *, parks: bool, clients: int) -> Round:
        with bench.connect() as conn:
            conn.execute(f"alter role current_user set pgq.notify = {'on' if parks else 'off'}".encode())
            (topic_id,) = conn.execute("select topic_id from pgq.topic where name = 'bench_park'").fetchone() or (0,)
        readers = [Reader(bench, topic_id, parks=parks) for _ in range(READERS)]
        for reader in readers:
            reader.start()
        time.sleep(0.2)
        try:
            with tempfile.TemporaryDirectory() as folder:
                producers = pgbench.start(
                    bench, {script: 1}, mode="prepared", seconds=seconds, folder=folder, clients=clients
                )
                return Round(pgbench.finish(producers))
        finally:
            for reader in readers:
                reader.stop()
            seen[parks] += readers

    full = PRODUCE.format("a" * 100)
    gentle = f"{full}\\sleep 10 ms\n"
    for case, script, clients in (
        ("64 connections at full speed", full, pgbench.CLIENTS),
        ("2 connections, 10 ms between records", gentle, 2),
    ):
        bench.progress(f"park: {case}")
        seen[True].clear()
        seen[False].clear()
        with bench.topic("bench_park"):
            bench.settle()
            found = compare(
                bench.rounds,
                lambda: side(script, parks=True, clients=clients),  # noqa: B023
                lambda: side(script, parks=False, clients=clients),  # noqa: B023
            )
        times = []
        for name, readers in (("parked", seen[True]), ("polling", seen[False])):
            latencies = quantiles([ms for reader in readers for ms in reader.latencies_ms], n=100)
            times.append(f"{name} {latencies[49]:.1f}/{latencies[98]:.1f}")
        parked, late = median(r.parked for r in seen[True]), sum(r.late for r in seen[True])
        note = f"parked {parked:.0f} times, late {late}; ms to receipt, p50/p99: {', '.join(times)}"
        yield Figure("park", case, found.ours, found.raw, "transactions/s", found.ratio, TARGET, bench.rounds, note)
    with bench.connect() as conn:
        conn.execute("alter role current_user reset pgq.notify")
