"""Topics of up to 1,000 partitions: made, given more and deleted beside sessions at work, also by callers that die."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

import psycopg
import pytest

from pgq import Admin, Consumer, Producer, TopicPartition
from pgq.errors import RequestTimedOutError, UnknownTopicError
from tests.plugins.sessions import Connection, call, refused, rows, value

Connect = Callable[[], Connection]


class Beside:
    """Sessions of an application that has nothing to do with the topic, and how long their transactions took."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.seconds: list[float] = []
        self.errors: list[str] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(work,)) for work in (self._produce, self._own_tables)
        ]

    def _work(self, work: Callable[[Connection], None]) -> None:
        try:
            with psycopg.connect(self.dsn, autocommit=True) as session:
                while not self._stop.is_set():
                    started = time.monotonic()
                    work(session)
                    self.seconds.append(time.monotonic() - started)
        except psycopg.Error as error:
            self.errors.append(repr(error))

    def _produce(self, session: Connection) -> None:
        call(session, "produce", topic="orders", value=b"v")
        rows(session, "select * from pgq.fetch('orders', 0, 0, 10)")

    def _own_tables(self, session: Connection) -> None:
        """Two hundred tables in one transaction: it fails when somebody uses up the lock table."""
        with session.transaction():
            for number in range(200):
                session.execute(f"select from application_{number}")

    def __enter__(self) -> Self:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            call(conn, "create_topic", name="orders")
            for number in range(200):
                conn.execute(f"create table application_{number} (id int primary key)")
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_a_thousand_partitions_hurt_nobody(dsn: str, conn: Connection) -> None:
    steps: list[tuple[int, int]] = []
    with Beside(dsn) as beside, Admin(dsn) as admin:
        admin.create_topic("big", 400, progress=lambda done, total: steps.append((done, total)))
        assert steps == [(done, 400) for done in range(25, 401, 25)]
        admin.add_partitions("big", 1000)
        with Producer(dsn, linger_ms=1000) as producer:
            for partition in range(1000):
                producer.send("big", b"%d" % partition, partition=partition)
        with Consumer("big", dsn=dsn, auto_offset_reset="earliest") as consumer:
            seen: list[bytes] = []
            while len(seen) < 1000:
                for batch in consumer.getmany(timeout_ms=10_000, max_records=1000).values():
                    seen.extend(record.value for record in batch)
        assert sorted(seen, key=int) == [b"%d" % partition for partition in range(1000)]
        assert value(conn, "select sum(records) from pgq.partition_status where topic = 'big'") == 1000
        assert value(conn, "select records from pgq.topic_status where topic = 'big'") == 1000
        admin.delete_topic("big")
    assert beside.errors == []
    assert len(beside.seconds) > 100
    # nobody stood still; how fast they were is a matter for benchmarks
    assert max(beside.seconds) < 5
    assert rows(conn, "select relname from pg_class where relname like 't2\\_%'") == []


TO_ALL_FROM = """
    select from pgq.produce_batch('big', array_fill('v'::bytea, array[%s::int]),
                                  partitions => array(select generate_series(%s, 100)))
"""


def test_more_than_a_hundred_partitions_in_one_append_are_refused(dsn: str, conn: Connection) -> None:
    with Admin(dsn) as admin:
        admin.create_topic("big", 101)
    with refused("PQ023"):
        conn.execute(TO_ALL_FROM, [101, 0])
    assert value(conn, "select count(*) from pgq_topic.big") == 0
    conn.execute(TO_ALL_FROM, [100, 1])
    assert value(conn, "select count(*) from pgq_topic.big") == 100


SLOW = """
import sys
from pgq import Admin
with Admin(sys.argv[1]) as admin:
    getattr(admin, sys.argv[2])("big", *map(int, sys.argv[3:]), progress=lambda done, total: print(done, flush=True))
"""


@contextmanager
def killed_in_the_middle(dsn: str, *args: str) -> Iterator[int]:
    """Start a call of Admin in a process of its own and kill it after its second step; give how much was done."""
    with subprocess.Popen([sys.executable, "-c", SLOW, dsn, *args], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        done = int(process.stdout.readline())
        process.kill()
    yield done


def test_killed_callers_are_followed_by_others(dsn: str, conn: Connection) -> None:
    partitions = "select count(*) from pgq.partition"
    with killed_in_the_middle(dsn, "create_topic", "300"), Admin(dsn) as admin:
        assert 50 <= value(conn, partitions) < 300
        with pytest.raises(UnknownTopicError, match="being created"):
            admin.describe_topic("big")
        assert admin.create_topic("big", 300).partitions == 300
    with killed_in_the_middle(dsn, "add_partitions", "600"), Admin(dsn) as admin:
        assert 350 <= value(conn, partitions) < 600
        assert admin.describe_topic("big").partitions == 300
        call(conn, "produce", topic="big", value=b"v", partition=299)
        assert admin.add_partitions("big", 600).partitions == 600
    with killed_in_the_middle(dsn, "delete_topic"), Admin(dsn) as admin:
        assert 0 < value(conn, partitions) < 600
        with pytest.raises(UnknownTopicError, match="being deleted"):
            admin.describe_topic("big")
        admin.delete_topic("big")
        with pytest.raises(UnknownTopicError):
            admin.delete_topic("big")
    assert value(conn, partitions) == 0


def test_delete_says_who_is_in_the_way(dsn: str, conn: Connection, connect: Connect) -> None:
    call(conn, "create_topic", name="big", partitions=3)
    producer = connect()
    producer.execute("begin")
    call(producer, "produce", topic="big", value=b"v")
    with Admin(dsn) as admin:
        with pytest.raises(RequestTimedOutError, match="still used"):
            admin.delete_topic("big", timeout_ms=50)
        with pytest.raises(UnknownTopicError):
            call_by_client(dsn)
        producer.execute("commit")
        admin.delete_topic("big")
    assert rows(conn, "select name from pgq.topic") == []


def call_by_client(dsn: str) -> None:
    with Consumer(dsn=dsn) as consumer:
        consumer.assign([TopicPartition("big", 0)])


def test_producers_go_on_while_their_topic_grows(dsn: str) -> None:
    """A session that knows the topic as it was reaches its partitions all the while, and the new ones then."""
    with Admin(dsn) as admin, Producer(dsn, linger_ms=0, metadata_max_age_ms=0) as producer:
        admin.create_topic("big", 2)
        stop = threading.Event()
        sent: list[object] = []

        def work() -> None:
            while not stop.is_set():
                sent.append(producer.send("big", b"v", key=b"%d" % len(sent)))
                producer.flush()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            admin.add_partitions("big", 100)
            before = len(sent)
            while thread.is_alive() and len(sent) < before + 300:
                stop.wait(0.01)
        finally:
            stop.set()
            thread.join()
        used = {future.result().partition for future in sent}  # type: ignore[attr-defined]
        assert max(used) >= 50


def test_views_and_consumers_beside_topics_that_come_and_go(dsn: str, conn: Connection) -> None:
    """They wait for sequences that are being dropped, and look again instead of failing."""
    stop = threading.Event()
    failures: list[str] = []

    def guarded(work: Callable[[Connection], object]) -> None:
        try:
            with psycopg.connect(dsn, autocommit=True) as session:
                while not stop.is_set():
                    work(session)
        except psycopg.Error as error:
            failures.append(repr(error))

    def look(session: Connection) -> None:
        for view in ("topic_status", "partition_status", "segment_status"):
            rows(session, f"select * from pgq.{view}")

    def consume(session: Connection) -> None:
        ids = [id_ for (id_,) in rows(session, "select partition_id from pgq.partition order by random()")]
        assert len(rows(session, "select * from pgq._partition_offsets(%s)", ids)) == len(ids)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (look, look, consume, consume)]
    for thread in threads:
        thread.start()
    try:
        with Admin(dsn) as admin:
            for number in range(15):
                admin.create_topic(f"t{number}", 20)
                admin.delete_topic(f"t{number}")
                call(conn, "create_topic", name=f"s{number}", partitions=10)
                call(conn, "delete_topic", name=f"s{number}")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
