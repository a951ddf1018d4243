"""Batched append to a big topic, against the same to a small one: 1 million records against 100,000.

With --long 20 million against 1 million.
"""

from collections.abc import Iterator

from pgq import Producer

from .harness import Bench, Figure, compare, payload, timed

TARGET = 0.90
FLUSH = 1_000
STEP = 100_000
BEGIN_APPEND = """
    select a.partition_id, a.offsets
    from pgq.topic t, pgq.begin_append(array[t.topic_id], array[0], array[%s::int]) a
    where t.name = %s
"""
INSERT = """
    insert into {log} (partition, "offset", "timestamp", key, value)
    select 0, o, date_trunc('milliseconds', now()), null, decode(repeat(md5(o::text), 6), 'hex') || '\\x00000000'
    from unnest(%s::bigint[]) o
"""


def run(bench: Bench) -> Iterator[Figure]:
    small, big = (1_000_000, 20_000_000) if bench.long else (100_000, 1_000_000)
    flushes = 10 if bench.quick else 50
    batch = payload(FLUSH, 100, bench.keys)
    with bench.topic("bench_small") as young, bench.topic("bench_big") as old:
        for topic, records in ((young, small), (old, big)):
            fill(bench, topic, records)
        bench.settle()
        with Producer(bench.dsn, linger_ms=60_000, batch_size=64 * 1_048_576) as producer:

            def append(topic: str) -> int:
                for _ in range(flushes):
                    for key, value in batch:
                        producer.send(topic, value, key=key)
                    producer.flush()
                return flushes * FLUSH

            bench.progress("growth: appending")
            found = compare(bench.rounds, lambda: timed(lambda: append(old)), lambda: timed(lambda: append(young)))
    case = f"{big:,} records, 1 partition, 100 B"
    note = f"raw = the topic with {small:,} records"
    yield Figure("growth", case, found.ours, found.raw, "records/s", found.ratio, TARGET, bench.rounds, note)


def fill(bench: Bench, topic: str, records: int) -> None:
    """Fill by the append rule, on the server, and let upkeep make the segments ahead."""
    insert = INSERT.format(log=bench.log_table(topic)).encode()
    with bench.connect() as conn:
        for done in range(0, records, STEP):
            bench.progress(f"growth: {topic} holds {done:,} of {records:,}")
            with conn.transaction():
                found = conn.execute(BEGIN_APPEND, [STEP, topic]).fetchone()
                assert found is not None
                conn.execute(insert, [found[1]])
            while True:
                row = conn.execute("select pgq.upkeep(%s)", [found[0]]).fetchone()
                if row is None or row[0] not in ("made", "rolled"):
                    break
