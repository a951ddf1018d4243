"""Who has found nothing parks, and appends notify from then on; a wake-up may be spared, and never lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.plugins.sessions import Connection, rows, value

from .conftest import MakeTopic

Append = Callable[[Connection], None]


def sql(statement: str) -> Append:
    def append(conn: Connection) -> None:
        conn.execute(statement)

    return append


def copy_in(conn: Connection) -> None:
    """As the clients: offsets, then rows."""
    conn.execute("""
        with topic as (select topic_id from pgq.topic where name = 'orders'),
        taken as materialized (select a.* from topic, pgq.begin_append(array[topic_id], '{0}', '{1}') a)
        select from taken""")


APPENDS = {
    "produce": sql("select pgq.produce('orders', 'v')"),
    "produce, not plain": sql("select pgq.produce('orders', 'v', \"timestamp\" => now())"),
    "produce_json": sql("select pgq.produce_json('orders', '{}')"),
    "produce_batch": sql("select pgq.produce_batch('orders', '{a,b}')"),
    "begin_append": copy_in,
}


@pytest.fixture(params=APPENDS)
def append(request: pytest.FixtureRequest) -> Append:
    return APPENDS[request.param]


@pytest.fixture
def topic_id(conn: Connection, topic: str) -> int:
    result: int = value(conn, "select topic_id from pgq.topic where name = %s", topic)
    return result


@pytest.fixture
def reader(connect: Callable[[], Connection], topic_id: int) -> Connection:
    session = connect()
    session.execute(f"listen pgq_{topic_id}")
    session.execute("listen marker")
    return session


def park(reader: Connection, topic_id: int) -> tuple[list[int], bool]:
    ((held, busy),) = rows(reader, "select * from pgq._park(%s)", [topic_id])
    return held, busy


def unpark(reader: Connection, topic_id: int, *, notified: bool) -> None:
    reader.execute("select pgq._unpark(%s, %s)", [[topic_id], notified])


def notified(reader: Connection, conn: Connection) -> bool:
    """Whether there was a notification up to now: they come in the order of the commits, the marker's last."""
    conn.execute("notify marker")
    channels = []
    for notification in reader.notifies(timeout=30):
        if notification.channel == "marker":
            return bool(channels)
        channels.append(notification.channel)
    pytest.fail("no notification came at all")


def test_nobody_parked_nobody_notified(reader: Connection, conn: Connection, append: Append) -> None:
    append(conn)
    assert not notified(reader, conn)


def test_an_append_notifies_when_it_commits(
    reader: Connection, conn: Connection, connect: Callable[[], Connection], topic_id: int, append: Append
) -> None:
    producer = connect()
    assert park(reader, topic_id) == ([topic_id], False)
    with producer.transaction(force_rollback=True):
        append(producer)
    assert not notified(reader, conn)
    with producer.transaction():
        append(producer)
        assert not notified(reader, conn)
    assert notified(reader, conn)
    append(producer)
    assert notified(reader, conn)
    unpark(reader, topic_id, notified=True)
    append(producer)
    assert not notified(reader, conn)


def test_an_append_that_is_open_is_waited_for(
    reader: Connection, conn: Connection, connect: Callable[[], Connection], topic_id: int, append: Append
) -> None:
    """It has seen that nobody is parked, and will not notify."""
    producer = connect()
    with producer.transaction():
        append(producer)
        assert park(reader, topic_id) == ([], True)
    assert park(reader, topic_id) == ([topic_id], False)


def test_undone_by_a_savepoint(
    reader: Connection, conn: Connection, connect: Callable[[], Connection], topic_id: int, append: Append
) -> None:
    producer = connect()
    park(reader, topic_id)
    with producer.transaction():
        with producer.transaction(force_rollback=True):
            append(producer)
        append(producer)
    assert notified(reader, conn)


def test_it_is_notified_also_when_it_left_before_the_commit(
    reader: Connection, conn: Connection, connect: Callable[[], Connection], topic_id: int
) -> None:
    producer = connect()
    park(reader, topic_id)
    with producer.transaction():
        APPENDS["produce"](producer)
        unpark(reader, topic_id, notified=True)
    assert notified(reader, conn)


def test_one_holds_the_lock_for_all(
    reader: Connection, conn: Connection, connect: Callable[[], Connection], topic_id: int
) -> None:
    other = connect()
    assert park(other, topic_id) == ([topic_id], False)
    assert park(reader, topic_id) == ([], False)
    APPENDS["produce"](conn)
    assert notified(reader, conn)
    unpark(other, topic_id, notified=False)
    assert notified(reader, conn)  # so that it parks itself
    assert park(reader, topic_id) == ([topic_id], False)


def test_several_topics_are_parked_at_or_none(
    reader: Connection, conn: Connection, connect: Callable[[], Connection], topic_id: int, make_topic: MakeTopic
) -> None:
    make_topic("more", 3)
    more = value(conn, "select topic_id from pgq.topic where name = 'more'")
    producer = connect()
    with producer.transaction():
        producer.execute("select pgq.produce('more', 'v', partition => 2)")
        assert rows(reader, "select * from pgq._park(%s)", [topic_id, more]) == [([], True)]
        assert park(producer, topic_id) == ([topic_id], False)
        unpark(producer, topic_id, notified=True)
    assert rows(reader, "select * from pgq._park(%s)", [topic_id, more]) == [([topic_id, more], False)]


def test_the_switch(reader: Connection, conn: Connection, connect: Callable[[], Connection], topic_id: int) -> None:
    """PREPARE TRANSACTION is refused after a NOTIFY."""
    producer = connect()
    producer.execute("set pgq.notify = off")
    park(reader, topic_id)
    with producer.transaction():
        APPENDS["produce"](producer)
    assert not notified(reader, conn)
    producer.execute("set pgq.notify = on")
    APPENDS["produce"](producer)
    assert notified(reader, conn)


def test_the_session_that_ends_is_parked_no_more(
    reader: Connection, conn: Connection, connect: Callable[[], Connection], topic_id: int
) -> None:
    other = connect()
    park(other, topic_id)
    other.close()
    while park(reader, topic_id) == ([], False):  # until the server has seen it
        pass
    assert park(reader, topic_id) == ([topic_id], False)


def test_no_wake_up_is_lost(
    reader: Connection, conn: Connection, connect: Callable[[], Connection], topic_id: int
) -> None:
    """A reader that only ever sleeps when it is parked, and never looks again by itself, beside four who append."""
    wanted = 4 * 200
    barrier = threading.Barrier(5)
    pause = threading.Event()

    def produce(producer: Connection) -> None:
        barrier.wait()
        for number in range(200):
            with producer.transaction():
                producer.execute("select pgq.produce('orders', 'v')")
                producer.execute("select pg_sleep(%s)", [0.001 * (number % 7 == 0)])
            pause.wait(0.001 * (number * 31 % 11))

    with ThreadPoolExecutor() as pool:
        producing = [pool.submit(produce, connect()) for _ in range(4)]
        barrier.wait()
        offset = parked = 0
        read = "select coalesce(max(\"offset\") + 1, %s) from pgq.fetch('orders', 0, %s, 1000)"
        while offset < wanted:
            before, offset = offset, value(reader, read, offset, offset)
            if offset > before:
                continue
            held, busy = park(reader, topic_id)
            if busy:
                continue
            offset = value(reader, read, offset, offset)
            if offset == before:
                parked += 1
                assert list(reader.notifies(timeout=30, stop_after=1)), "a wake-up was lost"
            reader.execute("select pgq._unpark(%s, true)", [held])
        for done in producing:
            done.result()
    assert parked > 20
