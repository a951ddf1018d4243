"""Fetch near the end of a partition with 1,000 segments, against one with 2. A reader must not pay for the past."""

from collections.abc import Callable, Iterator

from pgq import Consumer, Producer, TopicPartition

from .harness import Bench, Figure, compare, payload, timed

TARGET = 0.90
RECORDS = 2_000
WINDOW = 100
PASSES = 20
SEGMENTS = """
    select count(*), partition_id, max(end_offset)
    from pgq.segment join pgq.partition using (partition_id) join pgq.topic using (topic_id)
    where name = %s group by partition_id
"""


def run(bench: Bench) -> Iterator[Figure]:
    many = 100 if bench.quick else 1_000
    with bench.topic("bench_few") as few, bench.topic("bench_many") as lots:
        for topic, segments in ((few, 2), (lots, many)):
            bench.progress(f"segments: making {segments:,}")
            grow(bench, topic, segments)
            with Producer(bench.dsn, linger_ms=100) as producer:
                for key, value in payload(RECORDS, 100, bench.keys):
                    producer.send(topic, value, key=key)
                producer.flush()
            with bench.connect() as conn:
                conn.execute("select pgq.upkeep(partition_id) from pgq.partition join pgq.topic using (topic_id)")
                conn.execute(f"analyze {bench.log_table(topic)}".encode())
        bench.settle()
        with bench.connect() as conn:

            def by_function(topic: str) -> int:
                (end,) = conn.execute("select pgq.log_end_offset(%s, 0)", [topic]).fetchone() or (0,)
                for _ in range(PASSES):
                    read = 0
                    while read < RECORDS:
                        first = end - RECORDS + read
                        read += len(
                            conn.execute(
                                "select * from pgq.fetch(%s, 0, %s, %s)", (topic, first, WINDOW), prepare=True
                            ).fetchall()
                        )
                return PASSES * RECORDS

            yield figure(bench, many, f"pgq.fetch, {WINDOW} a call", by_function, few, lots)

        with Consumer(dsn=bench.dsn) as reader_of_few, Consumer(dsn=bench.dsn) as reader_of_lots:
            consumers = {few: reader_of_few, lots: reader_of_lots}
            ends = {}
            for topic, consumer in consumers.items():
                partition = TopicPartition(topic, 0)
                consumer.assign([partition])
                ends[topic] = consumer.end_offsets([partition])[partition]

            def by_consumer(topic: str) -> int:
                consumer = consumers[topic]
                for _ in range(PASSES):
                    consumer.seek(TopicPartition(topic, 0), ends[topic] - RECORDS)
                    read = 0
                    while read < RECORDS:
                        read += sum(map(len, consumer.getmany(timeout_ms=1000, max_records=WINDOW).values()))
                return PASSES * RECORDS

            yield figure(bench, many, f"Consumer, {WINDOW} a call", by_consumer, few, lots)


def figure(bench: Bench, many: int, case: str, read: Callable[[str], int], few: str, lots: str) -> Figure:
    found = compare(bench.rounds, lambda: timed(lambda: read(lots)), lambda: timed(lambda: read(few)))
    note = "raw = the topic with 2 segments"
    return Figure(
        "segments",
        f"{many:,} segments, {case}",
        found.ours,
        found.raw,
        "records/s",
        found.ratio,
        TARGET,
        bench.rounds,
        note,
    )


def grow(bench: Bench, topic: str, segments: int) -> None:
    """Put one record into each segment and roll, until the partition has enough of them."""
    with bench.connect() as conn:
        made, partition_id, end = 0, 0, 0
        while made < segments:
            conn.execute("select pgq.produce(%s, '\\x00'::bytea)", [topic])
            found = conn.execute(SEGMENTS, [topic]).fetchone()
            assert found is not None
            made, partition_id, end = found
            if made < segments:
                conn.execute("select pgq._make_segment(%s, %s)", [partition_id, end])
                conn.execute("select pgq._roll_segment(%s)", [partition_id])
