"""Drop ten million records while somebody produces to the same partition: how long the service works, and who notices.

Also beside a cursor that is open over the topic: then nothing is dropped before it is closed, and still nobody waits.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import quantiles
from typing import Any

from pgq import Maintenance

from .harness import Bench, Figure

WORK_S = 1.0
P99_S = 0.050
BATCH = 250_000
FILL = """
    do $$
    declare
        offsets bigint[] := (select a.offsets from pgq.begin_append(array[{topic_id}], '{0}', array[{batch}]) a);
    begin
        insert into pgq_log.t{topic_id} (partition, "offset", "timestamp", value)
        select 0, o, clock_timestamp(), decode(md5(o::text) || md5(o::text || 'x') || md5(o::text || 'y'), 'hex')
          from unnest(offsets) o;
    end
    $$
"""


def run(bench: Bench) -> Iterator[Figure]:
    records = 500_000 if bench.quick else 10_000_000
    name = f"drop {records:,} records"
    with bench.topic("bench_retention", 1, {"retention.ms": -1, "retention.bytes": -1}) as topic:
        idle = fill(bench, topic, records)
        with producing(bench, topic) as before:
            time.sleep(3.0)
        with bench.connect() as other:
            other.execute("begin")
            other.execute(f'declare c cursor for select * from pgq_topic."{topic}"'.encode())
            other.execute("fetch 1 from c")
            trim(bench, topic)
            maintenance = Maintenance(bench.dsn)
            with producing(bench, topic) as beside_cursor:
                for _ in range(3 if bench.quick else 10):
                    maintain(maintenance)
                    time.sleep(0.5)
            other.execute("rollback")
        with producing(bench, topic) as meanwhile:
            time.sleep(0.2)
            seconds, dropped, runs = drop_all(bench)
            time.sleep(0.2)
        assert dropped > 1
        with bench.connect() as conn:
            ((dead,),) = conn.execute(
                "select coalesce(sum(n_dead_tup), 0) from pg_stat_user_tables where schemaname = 'pgq_log'"
            ).fetchall()
    note = f"{dropped} segments of {idle}, in {runs} runs of the job; {dead} dead rows in the log"
    yield Figure("retention", f"{name}: work", 1000 * seconds, 1000 * WORK_S, "ms", WORK_S / seconds, 1.0, 1, note)
    for case, found in (("work", meanwhile), ("an open cursor, ten runs of the job", beside_cursor)):
        p99, most = tail(found)
        yield Figure(
            "retention",
            f"p99 of pgq.produce during {case}",
            1000 * p99,
            1000 * P99_S,
            "ms",
            P99_S / p99,
            1.0,
            len(found),
            f"most {1000 * most:.0f} ms; {1000 * tail(before)[0]:.1f} ms before",
        )


def fill(bench: Bench, topic: str, records: int) -> int:
    """Append server-side; return how many segments that took."""
    bench.progress(f"retention: appending {records:,} records")
    with bench.connect() as conn:
        ((topic_id, partition_id),) = conn.execute(
            "select topic_id, partition_id from pgq.topic join pgq.partition using (topic_id) where name = %s", [topic]
        ).fetchall()
        for _ in range(records // BATCH):
            conn.execute(FILL.replace("{topic_id}", str(topic_id)).replace("{batch}", str(BATCH)).encode())
            while conn.execute("select pgq.upkeep(%s, 200)", [partition_id]).fetchall()[0][0] in ("made", "rolled"):
                pass
        ((segments,),) = conn.execute(
            "select count(*) from pgq.segment where partition_id = %s", [partition_id]
        ).fetchall()
    bench.settle()
    return int(segments)


def trim(bench: Bench, topic: str) -> None:
    with bench.connect() as conn:
        conn.execute("select pgq.delete_records(%s, 0, -1)", [topic])


def maintain(maintenance: Maintenance) -> tuple[float, dict[str, int]]:
    (report,) = [r for r in maintenance.run_once() if r.job == "retention"]
    assert report.error is None, report
    return report.seconds, report.result


def drop_all(bench: Bench) -> tuple[float, int, int]:
    """Run the job as often as it takes, a moment apart as the service does; return how long that worked in all."""
    maintenance = Maintenance(bench.dsn)
    seconds, dropped, runs = 0.0, 0, 0
    while True:
        took, result = maintain(maintenance)
        seconds, dropped, runs = seconds + took, dropped + result.get("dropped", 0), runs + 1
        if not result.get("postponed"):
            return seconds, dropped, runs
        time.sleep(0.1)


@contextmanager
def producing(bench: Bench, topic: str) -> Iterator[list[float]]:
    """Append a record a transaction without a pause, and collect how long each took."""
    times: list[float] = []
    ending = threading.Event()

    def produce() -> None:
        with bench.connect() as conn:
            while not ending.is_set():
                started = time.perf_counter()
                conn.execute("select pgq.produce(%s, %s)", [topic, b"x" * 100])
                times.append(time.perf_counter() - started)

    thread: Any = threading.Thread(target=produce)
    thread.start()
    try:
        yield times
    finally:
        ending.set()
        thread.join()


def tail(times: list[float]) -> tuple[float, float]:
    return quantiles(times, n=100)[98], max(times)
