"""Sessions that need, make and roll segments at the same time do not hurt each other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Barrier

import pytest

from tests.plugins.sessions import ISOLATION_LEVELS, Connection, call, eventually, refused, rows, value

Connect = Callable[[], Connection]


def take_offsets(conn: Connection, count: int) -> None:
    """Use up offsets of the topic's only partition without storing anything."""
    with conn.transaction(force_rollback=True):
        conn.execute("select from pgq.topic t, pgq.begin_append(array[t.topic_id], '{0}', array[%s]::int[])", [count])


def segments(conn: Connection) -> list[tuple[int, int]]:
    result = [(base, end) for base, end in rows(conn, "select base_offset, end_offset from pgq.segment order by 1")]
    assert all(before[1] == after[0] for before, after in pairwise(result))
    return result


@pytest.fixture(autouse=True)
def orders(conn: Connection) -> None:
    """A topic of one partition with small segments."""
    conn.execute("select pgq.create_topic('orders', 1, '{\"segment.bytes\": 1048576}')")


@pytest.fixture
def full_segment(conn: Connection) -> None:
    """A first segment of twice segment.bytes, and the next one made."""
    for _ in range(20):
        conn.execute(
            "select pgq.produce('orders', (select string_agg(sha256((random() || ':' || n)::bytea), '')"
            " from generate_series(1, 3200) n))"
        )
    assert value(conn, "select pgq.upkeep(partition_id) from pgq.partition") == "made"


@pytest.mark.parametrize("isolation", ISOLATION_LEVELS)
def test_ten_sessions_make_a_segment_inline_at_once(conn: Connection, connect: Connect, isolation: str) -> None:
    """All levels: a snapshot that is too old to show the segment must not matter."""
    take_offsets(conn, 4096)
    together = Barrier(10)

    def produce(session: Connection) -> int:
        session.execute(f"set default_transaction_isolation = '{isolation}'")
        together.wait(30)
        ((_, offset),) = call(session, "produce", topic="orders", value=b"v")
        return int(offset)

    with ThreadPoolExecutor(10) as pool:
        offsets = list(pool.map(produce, [connect() for _ in range(10)]))
    assert sorted(offsets) == list(range(4096, 4106))
    assert len(segments(conn)) == 2
    assert value(conn, "select count(*) from pgq.fetch('orders', 0, 4096)") == 10


@pytest.mark.parametrize("isolation", ISOLATION_LEVELS)
def test_ten_sessions_make_a_segment_inline_within_transactions_that_began_before(
    conn: Connection, connect: Connect, isolation: str
) -> None:
    """Every session has its snapshot before the first of them makes the segment."""
    take_offsets(conn, 4095)
    sessions = [connect() for _ in range(10)]
    for session in sessions:
        session.execute(f"begin isolation level {isolation}")
        session.execute("select 1")
    together = Barrier(10)

    def produce(session: Connection) -> None:
        together.wait(30)
        for _ in range(3):
            call(session, "produce", topic="orders", value=b"v")
            call(session, "produce_batch", topic="orders", values=[b"v", b"w"])
        session.execute("commit")

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(produce, sessions))
    assert len(segments(conn)) == 2
    assert value(conn, "select count(*) from pgq.fetch('orders', 0, 4095)") == 90


def test_maker_that_rolls_back_leaves_the_segment_to_the_one_who_waits(
    conn: Connection, connect: Connect, wait_until_blocked: Callable[[Connection], None]
) -> None:
    take_offsets(conn, 4096)
    maker, waiting = connect(), connect()
    maker.execute("begin")
    call(maker, "produce", topic="orders", value=b"lost")
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(call, waiting, "produce", topic="orders", value=b"kept")
        wait_until_blocked(waiting)
        maker.execute("rollback")
        assert result.result(30) == [(0, 4097)]
    assert len(segments(conn)) == 2
    assert rows(conn, "select value from pgq.fetch('orders', 0, 4096)") == [(b"kept",)]


def test_segments_made_ahead_do_not_stop_appends_and_reads(conn: Connection, connect: Connect) -> None:
    take_offsets(conn, 3000)
    call(conn, "produce", topic="orders", value=b"before")
    maker = connect()
    maker.execute("begin")
    assert value(maker, "select pgq.upkeep(partition_id) from pgq.partition") == "made"
    conn.execute("set lock_timeout = '1s'")
    call(conn, "produce", topic="orders", value=b"meanwhile")
    assert value(conn, "select count(*) from pgq.fetch('orders', 0, 3000)") == 2
    maker.execute("commit")


def test_two_upkeeps_at_once_make_one_segment(
    conn: Connection, connect: Connect, wait_until_blocked: Callable[[Connection], None]
) -> None:
    take_offsets(conn, 3000)
    first, second = connect(), connect()
    first.execute("begin")
    first.execute("select pgq.upkeep(partition_id) from pgq.partition")
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(second.execute, "select pgq.upkeep(partition_id) from pgq.partition")
        eventually(lambda: result.done() or second.info.transaction_status == 1)
        first.execute("commit")
        error = result.exception(30)
    assert error is None or getattr(error, "sqlstate", None) == "55P03", "it may give up, and is called again later"
    assert len(segments(conn)) == 2


@pytest.mark.usefixtures("full_segment")
@pytest.mark.parametrize("isolation", ISOLATION_LEVELS)
def test_roll_beside_an_open_transaction_gives_way(conn: Connection, connect: Connect, isolation: str) -> None:
    partition_id = value(conn, "select partition_id from pgq.partition")
    producer = connect()
    producer.execute(f"begin isolation level {isolation}")
    assert call(producer, "produce", topic="orders", value=b"open") == [(0, 20)]
    assert value(conn, "select pgq._roll_segment(%s)", partition_id) is False
    assert value(conn, "select pgq.upkeep(%s)", partition_id) == "busy"
    assert call(conn, "produce", topic="orders", value=b"meanwhile") == [(0, 21)]
    producer.execute("commit")
    assert value(conn, "select pgq._roll_segment(%s)", partition_id) is True
    assert value(conn, "select pgq._roll_segment(%s)", partition_id) is False, "nothing left to do"
    assert call(conn, "produce", topic="orders", value=b"after") == [(0, 4096)]
    assert rows(conn, "select value from pgq.fetch('orders', 0, 20, 10)") == [(b"open",), (b"meanwhile",)]
    assert rows(conn, "select value from pgq.fetch('orders', 0, 22, 10)") == [(b"after",)]


@pytest.mark.usefixtures("full_segment")
def test_roll_waits_as_long_as_it_may(
    conn: Connection, connect: Connect, wait_until_blocked: Callable[[Connection], None]
) -> None:
    producer, roller = connect(), connect()
    producer.execute("begin")
    call(producer, "produce", topic="orders", value=b"open")
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(value, roller, "select pgq.upkeep(partition_id, 30000) from pgq.partition")
        wait_until_blocked(roller)
        producer.execute("commit")
        assert result.result(30) == "rolled"


@pytest.mark.usefixtures("full_segment")
@pytest.mark.parametrize("isolation", ISOLATION_LEVELS)
def test_producer_whose_transaction_began_before_a_roll_goes_on_after_it(
    conn: Connection, connect: Connect, isolation: str
) -> None:
    producer = connect()
    for _ in range(6):
        call(producer, "produce", topic="orders", value=b"warm")
    producer.execute(f"begin isolation level {isolation}")
    producer.execute("select count(*) from pgq.segment")
    assert value(conn, "select pgq.upkeep(partition_id) from pgq.partition") == "rolled"
    assert call(producer, "produce", topic="orders", value=b"v") == [(0, 4096)]
    producer.execute("commit")
    assert rows(conn, "select \"offset\" from pgq.fetch('orders', 0, 26, 10)") == [(4096,)]


@pytest.mark.usefixtures("full_segment")
def test_rolled_back_roll_skips_nothing_twice(conn: Connection, connect: Connect) -> None:
    with conn.transaction(force_rollback=True):
        assert value(conn, "select pgq.upkeep(partition_id) from pgq.partition") == "rolled"
    offsets = [call(conn, "produce", topic="orders", value=b"v")[0][1] for _ in range(3)]
    assert offsets == sorted(set(offsets))
    last = rows(conn, "select \"offset\" from pgq.fetch('orders', 0, 20, 10)")
    assert [o for (o,) in last] == offsets


def test_roll_without_a_next_segment_does_nothing(conn: Connection) -> None:
    call(conn, "produce", topic="orders", value=b"v")
    assert value(conn, "select pgq._roll_segment(partition_id) from pgq.partition") is False
    assert call(conn, "produce", topic="orders", value=b"v") == [(0, 1)]


def test_unknown_partition_cannot_be_rolled(conn: Connection) -> None:
    with refused("P0002"):
        conn.execute("select pgq._roll_segment(4711)")


def test_renewing_the_tree_changes_nothing_and_leaves_no_lock(conn: Connection) -> None:
    """What an append does when the planner does not know its segment; here, because there is no such segment."""
    call(conn, "produce", topic="orders", value=b"v")
    topic_id = value(conn, "select topic_id from pgq.topic")
    conn.execute("begin")
    conn.execute("select pgq._renew_tree(%s, 0, 4096)", [topic_id])
    assert (
        rows(conn, "select mode from pg_locks where mode = 'ShareUpdateExclusiveLock' and pid = pg_backend_pid()") == []
    )
    conn.execute("commit")
    assert value(conn, "select count(*) from pg_attribute where attname = 'value' and attstattarget > 0") == 0
    assert call(conn, "produce", topic="orders", value=b"v") == [(0, 1)]
