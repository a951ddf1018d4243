"""pgq.delete_records moves the log start, never back and never past the high watermark."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import pgq
from tests.plugins.sessions import Connection, call, refused, rows, value

Connect = Callable[[], Connection]


def delete(conn: Connection, offset: int | None, topic: str | None = "orders", partition: int | None = 0) -> int:
    result: int = value(conn, "select pgq.delete_records(%s, %s, %s)", topic, partition, offset)
    return result


@pytest.fixture(autouse=True)
def ten_records(topic: str, fill: Callable[..., None]) -> None:
    fill(topic, 10)


def test_log_start_moves(conn: Connection) -> None:
    assert delete(conn, 4) == 4
    assert value(conn, "select pgq.log_start_offset('orders', 0)") == 4
    assert rows(conn, "select \"offset\" from pgq.fetch('orders', 0, 4)") == [(o,) for o in range(4, 10)]


def test_log_start_never_goes_back(conn: Connection) -> None:
    delete(conn, 4)
    assert delete(conn, 2) == 4
    assert delete(conn, 0) == 4


def test_up_to_the_high_watermark(conn: Connection, connect: Callable[[], Connection]) -> None:
    producer = connect()
    producer.execute("begin")
    call(producer, "produce", topic="orders", value=b"v")
    call(conn, "produce", topic="orders", value=b"v")
    with refused("PQ008"):
        delete(conn, 11)
    assert delete(conn, -1) == 10
    producer.execute("commit")
    assert delete(conn, -1) == 12


def test_offsets_go_on_when_everything_was_deleted(conn: Connection) -> None:
    delete(conn, -1)
    assert call(conn, "produce", topic="orders", value=b"v") == [(0, 10)]
    assert rows(conn, "select \"offset\" from pgq.fetch('orders', 0, 10)") == [(10,)]


def test_joins_the_transaction(conn: Connection) -> None:
    with conn.transaction(force_rollback=True):
        delete(conn, 4)
    assert value(conn, "select pgq.log_start_offset('orders', 0)") == 0


@pytest.mark.parametrize("offset", [11, 2**62, -2, -(2**63), None])
def test_offset_out_of_range_is_refused(conn: Connection, offset: int | None) -> None:
    with refused("PQ008"):
        delete(conn, offset)


@pytest.mark.parametrize(
    "topic_name, partition, sqlstate",
    [
        ("nope", 0, "PQ001"),
        (None, 0, "PQ001"),
        ("orders", 1, "PQ002"),
        ("orders", -1, "PQ002"),
        ("orders", None, "PQ002"),
    ],
)
def test_unknown_topic_or_partition_is_refused(
    conn: Connection, topic_name: str | None, partition: int | None, sqlstate: str
) -> None:
    with refused(sqlstate):
        delete(conn, 1, topic_name, partition)


# space


def append_bytes(conn: Connection, count: int) -> None:
    """Append records of some 100,000 bytes, which nothing makes shorter."""
    conn.execute(
        "select pgq.produce('orders', r.value, key => 'k') from"
        " (select decode(string_agg(md5(random()::text), ''), 'hex') as value"
        "    from generate_series(1, %s) n, generate_series(1, 6250) group by n) r",
        [count],
    )


def status(conn: Connection) -> tuple[int, int, int, int]:
    """The log start, the high watermark, how many records and segments."""
    ((result),) = rows(conn, "select log_start_offset, high_watermark, records, segments from pgq.partition_status")
    assert rows(conn, "select * from pgq.check_log()") == []
    return result


def size(conn: Connection) -> int:
    result: int = value(conn, "select bytes from pgq.partition_status")
    return result


@pytest.fixture(params=["delete", "compact", "compact,delete"])
def policy(request: pytest.FixtureRequest, conn: Connection) -> None:
    call(conn, "alter_topic_config", name="orders", config=f'{{"cleanup.policy": "{request.param}"}}')


@pytest.mark.usefixtures("policy")
def test_space_of_an_active_segment_comes_back(conn: Connection, dsn: str) -> None:
    append_bytes(conn, 15)
    assert size(conn) > 1_500_000
    assert delete(conn, -1) == 25
    pgq.Maintenance(dsn).run_once()
    assert status(conn) == (4096, 4096, 0, 1)
    assert size(conn) < 100_000
    pgq.Maintenance(dsn).run_once()
    assert status(conn) == (4096, 4096, 0, 1)
    assert call(conn, "produce", topic="orders", value=b"v", key=b"k") == [(0, 4096)]


@pytest.mark.usefixtures("policy")
def test_little_is_not_worth_a_roll(conn: Connection, dsn: str) -> None:
    append_bytes(conn, 5)
    delete(conn, -1)
    pgq.Maintenance(dsn).run_once()
    assert status(conn) == (15, 15, 0, 1)


@pytest.mark.usefixtures("policy")
def test_a_segment_with_a_record_stays(conn: Connection, dsn: str) -> None:
    append_bytes(conn, 15)
    delete(conn, 24)
    pgq.Maintenance(dsn).run_once()
    assert status(conn) == (24, 25, 1, 1)
    conn.execute("select pgq._make_segment(1, 4096), pgq._roll_segment(1, 1000)")
    pgq.Maintenance(dsn).run_once()
    assert status(conn)[:3] == (24, 4096, 1)


@pytest.mark.usefixtures("policy")
def test_a_segment_that_is_rolled_later_goes(conn: Connection, dsn: str) -> None:
    delete(conn, -1)
    conn.execute("select pgq._make_segment(1, 4096), pgq._roll_segment(1, 1000)")
    call(conn, "produce", topic="orders", value=b"v", key=b"k")
    pgq.Maintenance(dsn).run_once()
    assert status(conn) == (4096, 4097, 1, 1)


def test_the_log_start_stays_below_what_is_not_decided(conn: Connection, connect: Connect, dsn: str) -> None:
    """Its lock says that it may fill offset 10, although the roll has skipped that."""
    producer = connect()
    producer.execute("begin")
    value(producer, "select pg_advisory_xact_lock_shared(pgq._append_key(1, 10))")
    delete(conn, -1)
    conn.execute("select pgq._make_segment(1, 4096), pgq._roll_segment(1, 1000)")
    pgq.Maintenance(dsn).run_once()
    assert status(conn)[:2] == (10, 10)
    assert call(producer, "produce", topic="orders", value=b"v") == [(0, 4096)]
    producer.execute("commit")
    pgq.Maintenance(dsn).run_once()
    assert status(conn)[:2] == (4096, 4097)


def test_records_that_were_rolled_back_keep_nothing(conn: Connection, dsn: str) -> None:
    delete(conn, -1)
    with conn.transaction(force_rollback=True):
        append_bytes(conn, 15)
    pgq.Maintenance(dsn).run_once()
    assert status(conn) == (4096, 4096, 0, 1)


# whoever has read everything has not fallen behind


def fetched(conn: Connection, offset: int) -> list[int]:
    return [found for (found,) in rows(conn, "select \"offset\" from pgq.fetch('orders', 0, %s)", offset)]


def test_a_reader_goes_on_from_where_the_log_ended(conn: Connection, dsn: str) -> None:
    with conn.transaction(force_rollback=True):
        append_bytes(conn, 15)  # offsets 10 to 24
    delete(conn, 10)
    pgq.Maintenance(dsn).run_once()
    assert status(conn)[:2] == (4096, 4096)
    for position in (10, 17, 25, 4095, 4096):
        assert fetched(conn, position) == []
        assert rows(conn, "select * from pgq._settle(1, %s)", position) == [(4096, 4096)]
    call(conn, "produce", topic="orders", value=b"v")
    assert [fetched(conn, position) for position in (10, 4095, 4096)] == [[4096]] * 3
    with refused("PQ008"):
        fetched(conn, 9)
    with refused("PQ008"):
        conn.execute("select * from pgq._settle(1, 9)")
    delete(conn, -1)
    with refused("PQ008"):
        fetched(conn, 4095)


def test_a_reader_goes_on_after_retention_has_emptied_the_log(conn: Connection, dsn: str) -> None:
    call(conn, "alter_topic_config", name="orders", config='{"retention.ms": 0}')
    conn.execute("select pg_sleep(0.01)")
    pgq.Maintenance(dsn).run_once()
    assert status(conn) == (4096, 4096, 0, 1)
    assert fetched(conn, 10) == []
    with refused("PQ008"):
        fetched(conn, 9)
