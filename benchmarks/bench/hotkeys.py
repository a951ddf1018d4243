"""A stream of which half has one key, over 12 partitions: as it is, and with that key spread by compound keys.

Consumers: one a partition, each in a thread, that waits 0.1 ms a record as a call to a service would make it wait. So
not the two cores are measured that all of them share with the server, but the fullest partition.
"""

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from pgq import Consumer, Producer, TopicPartition, compound_key, compound_keys

from .harness import Bench, Figure, Round, compare, partitions_of, timed

PARTITIONS = 12
HOT = b"ad-1"
OTHER_KEYS = 10_000
VALUE = bytes(100)
HANDLING_SECONDS = 0.0001

SKEW = "select skew from pgq.topic_status where topic = %s"

Spread = Callable[[], bytes]


def run(bench: Bench) -> Iterator[Figure]:
    source = random.Random(2013)
    chosen = compound_keys(HOT, PARTITIONS, PARTITIONS)
    ways: dict[str, Spread] = {
        f"compound_key(key, {PARTITIONS})": lambda: compound_key(HOT, PARTITIONS, source.randrange(PARTITIONS)),
        f"compound_keys(key, {PARTITIONS}, {PARTITIONS})": lambda: source.choice(chosen),
    }
    records = 20_000 if bench.quick else 100_000
    keys = [b"ad-%d" % source.randrange(2, OTHER_KEYS) if source.random() < 0.5 else HOT for _ in range(records)]
    with ExitStack() as stack:
        plain = stack.enter_context(bench.topic("bench_plain", PARTITIONS))
        spread = stack.enter_context(bench.topic("bench_spread", PARTITIONS))
        producer = stack.enter_context(Producer(bench.dsn))

        def append(topic: str, sub_key: Spread) -> int:
            for key in keys:
                producer.send(topic, VALUE, sub_key() if key is HOT else key)
            producer.flush()
            return records

        for case, sub_key in ways.items():
            bench.progress(f"hotkeys: append, {case}")
            bench.settle()
            yield figure(
                bench,
                f"append, {case}",
                lambda way=sub_key: timed(lambda: append(spread, way)),
                lambda: timed(lambda: append(plain, lambda: HOT)),
            )

    for case, sub_key in ways.items():
        with (
            bench.topic("bench_plain", PARTITIONS) as plain,
            bench.topic("bench_spread", PARTITIONS) as spread,
            Producer(bench.dsn) as producer,
        ):
            bench.progress(f"hotkeys: a consumer a partition, {case}")
            append(plain, lambda: HOT)
            append(spread, sub_key)
            bench.settle()
            yield figure(
                bench,
                f"{PARTITIONS} consumers, {case}",
                lambda topic=spread: read_all(bench, topic, records),
                lambda topic=plain: read_all(bench, topic, records),
                f"skew {skew(bench, plain)} -> {skew(bench, spread)}; "
                f"{HANDLING_SECONDS * 1000:g} ms of waiting a record",
            )


def figure(bench: Bench, case: str, ours: Callable[[], Round], raw: Callable[[], Round], note: str = "") -> Figure:
    found = compare(bench.rounds, ours, raw)
    return Figure("hotkeys", case, found.ours, found.raw, "records/s", found.ratio, None, bench.rounds, note)


def read_all(bench: Bench, topic: str, records: int) -> Round:
    """All partitions at once, a consumer each, from the first record to the last."""
    with ExitStack() as stack:
        consumers = {
            partition: stack.enter_context(Consumer(dsn=bench.dsn, auto_offset_reset="earliest"))
            for partition in partitions_of(topic, PARTITIONS)
        }
        pool = stack.enter_context(ThreadPoolExecutor(PARTITIONS))
        read_by_each: list[int] = []

        def work() -> int:
            read_by_each.extend(pool.map(read, consumers, consumers.values()))
            return records

        found = timed(work)
    if sum(read_by_each) != records:
        raise RuntimeError(f"hotkeys: {records} records stored, {sum(read_by_each)} read")
    return found


def read(partition: TopicPartition, consumer: Consumer) -> int:
    consumer.assign([partition])
    end = consumer.end_offsets([partition])[partition]
    handled = 0
    while handled < end:
        for found in consumer.getmany(timeout_ms=1000).values():
            time.sleep(len(found) * HANDLING_SECONDS)
            handled += len(found)
    return handled


def skew(bench: Bench, topic: str) -> str:
    with bench.connect() as conn:
        row = conn.execute(SKEW, [topic]).fetchone()
    assert row is not None
    return str(row[0])
