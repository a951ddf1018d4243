"""Delayed records under many sessions: each that was committed and not cancelled is appended once, none too early."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest

from tests.plugins.sessions import Connection, call, eventually, rows, value

Connect = Callable[[], Connection]


def send(conn: Connection, payload: bytes = b"v", due: str = "now()") -> str:
    return str(value(conn, f"select pgq.produce_delayed('orders', %s, {due})", payload))


def deliver(conn: Connection, most: int = 1000) -> tuple[int, int | None]:
    ((delivered, next_due_ms),) = call(conn, "deliver_due", most=most)
    return delivered, next_due_ms


@pytest.fixture(autouse=True)
def orders(conn: Connection) -> None:
    """A topic of three partitions."""
    conn.execute("select pgq.create_topic('orders', 3)")


# a cancellation and a delivery of the same record


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_cancelled_first(conn: Connection, connect: Connect, end: str) -> None:
    delayed_id = send(conn)
    canceller = connect()
    canceller.execute("begin")
    assert value(canceller, "select pgq.cancel_delayed(%s)", delayed_id)
    conn.execute("set statement_timeout = '10s'")
    assert deliver(conn)[0] == 0, "it does not wait"
    canceller.execute(end)
    assert deliver(conn)[0] == (0 if end == "commit" else 1)


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_delivered_first(
    conn: Connection, connect: Connect, wait_until_blocked: Callable[[Connection], None], end: str
) -> None:
    delayed_id = send(conn)
    deliverer, canceller = connect(), connect()
    deliverer.execute("begin")
    assert deliver(deliverer)[0] == 1
    with ThreadPoolExecutor(1) as pool:
        cancelled = pool.submit(value, canceller, "select pgq.cancel_delayed(%s)", delayed_id)
        wait_until_blocked(canceller)
        deliverer.execute(end)
        assert cancelled.result() is (end == "rollback")
    assert deliver(conn) == (0, None)
    counts = "select sum((select count(*) from pgq.fetch('orders', p, 0))) from generate_series(0, 2) p"
    assert value(conn, counts) == (1 if end == "commit" else 0)


def test_two_cancel(conn: Connection, connect: Connect, wait_until_blocked: Callable[[Connection], None]) -> None:
    delayed_id = send(conn)
    first, second = connect(), connect()
    first.execute("begin")
    assert value(first, "select pgq.cancel_delayed(%s)", delayed_id)
    with ThreadPoolExecutor(1) as pool:
        cancelled = pool.submit(value, second, "select pgq.cancel_delayed(%s)", delayed_id)
        wait_until_blocked(second)
        first.execute("commit")
        assert cancelled.result() is False


# anything at once


class Load:
    """Sessions that send, cancel and deliver, and what must come of it."""

    def __init__(self, dsn: str, seconds: float) -> None:
        self.dsn = dsn
        self.deadline = time.monotonic() + seconds
        self.ended = threading.Event()
        self.expected: dict[bytes, int] = {}
        """When what was sent and stayed is due, in ms since 1970."""
        self.pause = threading.Event()

    def producer(self, number: int) -> None:
        """Send and cancel, in transactions of all kinds."""
        choose = random.Random(number)
        count = 0
        mine: dict[str, bytes] = {}
        """What was sent and committed, and not cancelled yet."""

        def one(conn: Connection, sent: dict[str, bytes]) -> None:
            nonlocal count
            count += 1
            payload = b"%d-%d" % (number, count)
            delay_ms = choose.choice([0, 0, 1, 5, 50, 300, 900, 1500])
            # several at the same millisecond, as where all is due at nine o'clock
            due = f"date_bin('10 ms', clock_timestamp(), 'epoch') + interval '{delay_ms} ms'"
            sent[send(conn, payload, due)] = payload

        with psycopg.connect(self.dsn, autocommit=True) as conn:
            while time.monotonic() < self.deadline:
                what = choose.random()
                sent: dict[str, bytes] = {}
                cancelled: list[str] = []
                if what < 0.3:
                    one(conn, sent)
                elif what < 0.45 and mine:
                    delayed_id = choose.choice(list(mine))
                    if value(conn, "select pgq.cancel_delayed(%s)", delayed_id):
                        cancelled.append(delayed_id)
                else:
                    rolled_back = choose.random() < 0.25
                    with conn.transaction(force_rollback=rolled_back):
                        for _ in range(choose.randint(1, 4)):
                            kind = choose.random()
                            if kind < 0.5:
                                one(conn, sent)
                            elif kind < 0.7:
                                with conn.transaction(force_rollback=True):
                                    one(conn, {})
                            elif kind < 0.8:
                                with conn.transaction():
                                    one(conn, sent)
                            elif mine:
                                delayed_id = choose.choice(list(mine))
                                if value(conn, "select pgq.cancel_delayed(%s)", delayed_id):
                                    cancelled.append(delayed_id)
                            self.pause.wait(choose.choice([0, 0, 0.005, 0.03, 0.15]))
                    if rolled_back:
                        sent, cancelled = {}, []
                mine |= sent
                for delayed_id in cancelled:
                    mine.pop(delayed_id)
        self.expected |= {payload: int(delayed_id.split("-")[0]) for delayed_id, payload in mine.items()}

    def deliverer(self, number: int) -> None:
        """Deliver again and again; now and then roll it back."""
        choose = random.Random(1000 + number)
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            while not self.ended.is_set():
                with conn.transaction(force_rollback=choose.random() < 0.1):
                    deliver(conn, choose.choice([1, 3, 1000]))

    def run(self, producers: int = 5, deliverers: int = 2) -> None:
        """Do all that, to its end."""
        with ThreadPoolExecutor(producers + deliverers) as pool:
            delivering = [pool.submit(self.deliverer, number) for number in range(deliverers)]
            try:
                for producing in [pool.submit(self.producer, number) for number in range(producers)]:
                    producing.result()
            finally:
                self.ended.set()
            for done in delivering:
                done.result()


def check(conn: Connection, expected: dict[bytes, int]) -> None:
    """Deliver the rest; then each is there, once, and not before its time."""
    eventually(lambda: deliver(conn) == (0, None))
    found = [
        row
        for partition in range(3)
        for row in rows(
            conn,
            "select value, (extract(epoch from \"timestamp\") * 1000)::bigint from pgq.fetch('orders', %s, 0, 1000000)",
            partition,
        )
    ]
    times = Counter(payload for payload, _ in found)
    assert {payload for payload, n in times.items() if n > 1} == set(), "doubled"
    assert expected.keys() - times.keys() == set(), "lost"
    assert times.keys() - expected.keys() == set(), "cancelled, or rolled back"
    assert [payload for payload, at in found if at < expected[payload]] == [], "too early"
    assert value(conn, "select count(*) from pgq._delayed_records()") == 0
    assert value(conn, "select count(*) from pgq.delivery") == 1
    assert rows(conn, "select * from pgq.check_log()") == []


def change(watcher: Connection, function: str, right: str, wrong: str) -> None:
    """Change a function of the database."""
    text = value(watcher, "select pg_get_functiondef(oid) from pg_proc where proname = %s", function)
    assert re.search(right, text), (function, right)
    watcher.execute(re.sub(right, lambda found: found.expand(wrong), text))


def let_an_hour_last_a_second(watcher: Connection) -> None:
    """So that tables are made and dropped all the time, and several of an hour."""
    base = int(time.time()) - 1000
    watcher.execute("update pgq.delivery set search_from = now()")
    change(watcher, "_delay_name", r"extract\(epoch from due_at\) / 3600", rf"extract(epoch from due_at) - {base}")
    change(watcher, "_delay_bucket", r"extract\(epoch from due_at\) / 3600", rf"extract(epoch from due_at) - {base}")
    change(watcher, "_delay_buckets", r"\+ 1\) \* 3600", rf"+ 1 + {base})")
    change(watcher, "_delay_records", "date_trunc\\('hour', ", "date_trunc('second', ")
    change(watcher, "_delay_records", "interval '1 hour'", "interval '1 second'")


@pytest.mark.parametrize("hours_of_a_second", [False, True])
def test_anything_at_once(conn: Connection, dsn: str, watcher: Connection, hours_of_a_second: bool) -> None:
    if hours_of_a_second:
        let_an_hour_last_a_second(watcher)
    load = Load(dsn, 6)
    load.run()
    assert len(load.expected) > 100
    check(conn, load.expected)
    if hours_of_a_second:
        # as if nothing were due for so long
        back = "update pgq.delivery set search_from = search_from - interval '2 minutes'"
        conn.execute(back)
        eventually(lambda: deliver(conn) == (0, None) and conn.execute(back) is not None and gone(conn))


def gone(conn: Connection) -> bool:
    """Whether all tables have been dropped."""
    return rows(conn, "select bucket from pgq._delay_buckets()") == []


MUTATIONS = [
    pytest.param(
        "_begin_delay",
        r"perform pg_advisory_xact_lock_shared\(pgq._delay_key\(clock_timestamp\(\)\)\);",
        "null;",
        id="no DELAY lock",
    ),
    pytest.param("_begin_delay", "'begun', true", "'begun', false", id="the mark outlives the transaction"),
    pytest.param(
        "_delay_key", r"floor(\(extract\(epoch from \"at\"\) \* 1000\))", r"\1", id="the lock's time rounded up"
    ),
    pytest.param("deliver_due", r"open_keys := array\(.*\);", "open_keys := '{}';", id="nobody is open"),
    pytest.param(
        "deliver_due",
        r"(until := date_trunc\([^;]*;)(\s*)(open_keys := [^;]*;)",
        r"\3 perform pg_sleep(0.02); \1",
        id="the clock after the locks",
    ),
    pytest.param(
        "deliver_due",
        r"k <> all \(open_keys\)",
        "k = any (open_keys)",
        id="those that have ended are forgotten",
    ),
    pytest.param(
        "_deliver",
        r"r.nth = %s and r.topic_id = \$1 and d.due_at = r.due_at and d.serial = r.serial",
        "r.nth = %s and r.topic_id = $1 and d.due_at = r.due_at",
        id="all of the same time are removed",
    ),
    pytest.param(
        "_deliver", r"delete from %s d using unnest\(\$2", "delete from %s d using unnest($2", id="nothing is changed"
    ),
    pytest.param(
        "deliver_due",
        r"if not pg_try_advisory_xact_lock\(",
        "if pg_try_advisory_xact_lock(1) is null and pg_try_advisory_xact_lock(",
        id="two deliver at once",
    ),
    pytest.param("deliver_due", r"\(d.due_at, d.serial\) <= \(\$3, \$4\)", "true", id="what is not due yet"),
    pytest.param(
        "deliver_due", r"search_from := first.due_at;", "search_from := until;", id="what did not fit is passed over"
    ),
    pytest.param(
        "deliver_due", r"search_serial := first.serial;", "search_serial := first.serial + 1;", id="one is passed over"
    ),
]


@pytest.mark.parametrize("function, right, wrong", MUTATIONS)
def test_the_check_catches(
    conn: Connection, dsn: str, watcher: Connection, function: str, right: str, wrong: str, request: Any
) -> None:
    """Each rule that this relies on, broken."""
    change(watcher, function, right, wrong)
    load = Load(dsn, 5)
    with does_fail("nothing is changed" not in request.node.name):
        load.run()
        check_soon(conn, load.expected)


@contextmanager
def does_fail(failing: bool) -> Iterator[None]:
    """The block fails: by an assertion, or what PostgreSQL says."""
    if not failing:
        yield
        return
    with pytest.raises((AssertionError, psycopg.Error)):
        yield


def check_soon(conn: Connection, expected: dict[bytes, int]) -> None:
    """As `check`, without waiting long for what never comes."""
    eventually(lambda: deliver(conn) == (0, None), 5)
    check(conn, expected)


# kill -9

CLIENT = """
import sys, psycopg
with psycopg.connect(sys.argv[1], autocommit=True) as conn:
    conn.execute(sys.argv[2])
    print(conn.execute(sys.argv[3]).fetchone(), flush=True)
    sys.stdin.read()
"""


@contextmanager
def client(dsn: str, begin: str, statement: str) -> Iterator[Callable[[], None]]:
    """A process that has run a statement in a transaction, or not; gives a function that kills it."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLIENT, dsn, begin, statement], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin
    assert process.stdout

    def kill() -> None:
        process.send_signal(signal.SIGKILL)
        process.wait(30)

    try:
        assert process.stdout.readline()
        yield kill
    finally:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
        process.stdin.close()
        process.stdout.close()


def test_killed_in_the_middle_of_a_delivery(conn: Connection, dsn: str) -> None:
    for number in range(50):
        send(conn, b"%d" % number)
    with client(dsn, "begin", "select delivered from pgq.deliver_due(20)") as kill:
        assert deliver(conn)[0] == 0, "the other one has begun"
        kill()
    delivered = 0

    def all_of_them() -> bool:
        nonlocal delivered
        delivered += deliver(conn, 7)[0]
        return delivered == 50

    eventually(all_of_them)
    check(conn, {b"%d" % number: 0 for number in range(50)})


LOOP = """
import sys, psycopg
with psycopg.connect(sys.argv[1], autocommit=True) as conn:
    while True:
        print(conn.execute("select delivered from pgq.deliver_due(5)").fetchone()[0], flush=True)
"""


def test_deliverers_killed_one_after_the_other(conn: Connection, dsn: str) -> None:
    """Anywhere; what has been committed stays, the rest is done by the next one."""
    expected = {b"%d" % number: 0 for number in range(2000)}
    for payload in expected:
        send(conn, payload)
    choose = random.Random(7)
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", LOOP, dsn], stdout=subprocess.PIPE)
        assert process.stdout
        for _ in range(choose.randint(1, 40)):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        process.stdout.close()
    check(conn, expected)


@pytest.mark.parametrize("committed", [False, True])
def test_killed_in_the_middle_of_a_failure(conn: Connection, dsn: str, committed: bool) -> None:
    """The record is in one place: where it was, with no offset beyond it; or moved, and the offset is beyond it."""
    conn.execute("select pgq.produce('orders', 'v', partition => 0) from generate_series(1, 2)")
    statement = (
        "with failed as materialized (select pgq.fail_records('g', '{orders,orders}', '{0,0}', '{0,1}',"
        " array[now(), null], '{a,b}') as moved)"
        " select moved, pgq.commit_offsets('g', '{orders}', '{0}', '{2}') from failed"
    )
    with client(dsn, "select 1" if committed else "begin", statement) as kill:
        kill()
    gone = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    eventually(lambda: value(conn, gone + " and state <> 'idle' and usename = current_user") == 0)
    offsets = rows(conn, "select \"offset\" from pgq.committed_offsets('g')")
    assert offsets == ([(2,)] if committed else [])
    assert deliver(conn) == (1 if committed else 0, None)
    topics = {name for (name,) in rows(conn, "select name from pgq.topic")}
    assert topics == ({"orders", "orders.g.retry", "orders.g.dlq"} if committed else {"orders"})
    if committed:
        for topic in ("orders.g.dlq", "orders.g.retry"):
            counts = "select sum((select count(*) from pgq.fetch(t.name, p.partition, 0))) from pgq.topic t"
            assert value(conn, counts + " join pgq.partition p using (topic_id) where t.name = %s", topic) == 1
