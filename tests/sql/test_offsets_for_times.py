"""pgq.offsets_for_times finds the first record of a time or later."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.plugins.sessions import Connection, call, refused, value


def at(second: int) -> str:
    return f"2024-01-01 00:00:{second:02d}+00"


def search(conn: Connection, timestamp: str | None, topic: str = "orders", partition: int | None = 0) -> int | None:
    result: int | None = value(conn, "select pgq.offsets_for_times(%s, %s, %s)", topic, partition, timestamp)
    return result


@pytest.fixture
def seconds(conn: Connection, topic: str) -> None:
    """Records at the seconds 10, 20, 20, 15, 30."""
    for second in (10, 20, 20, 15, 30):
        call(conn, "produce", topic=topic, value=b"v", timestamp=at(second))


@pytest.mark.usefixtures("seconds")
@pytest.mark.parametrize(
    "timestamp, offset",
    [
        ("-infinity", 0),
        (at(0), 0),
        (at(10), 0),
        (at(11), 1),
        (at(15), 1),
        (at(20), 1),
        (at(21), 4),
        (at(30), 4),
        ("2024-01-01 00:00:30.000001+00", None),
        ("infinity", None),
        (None, None),
    ],
)
def test_first_record_of_that_time_or_later(conn: Connection, timestamp: str | None, offset: int | None) -> None:
    assert search(conn, timestamp) == offset


@pytest.mark.usefixtures("topic")
def test_empty_partition_has_none(conn: Connection) -> None:
    assert search(conn, at(0)) is None


@pytest.mark.usefixtures("seconds")
def test_deleted_records_are_not_found(conn: Connection) -> None:
    conn.execute("select pgq.delete_records('orders', 0, 2)")
    assert search(conn, at(0)) == 2
    conn.execute("select pgq.delete_records('orders', 0, -1)")
    assert search(conn, at(0)) is None


@pytest.mark.usefixtures("seconds")
def test_records_beyond_the_watermark_are_not_found(conn: Connection, connect: Callable[[], Connection]) -> None:
    producer = connect()
    producer.execute("begin")
    call(producer, "produce", topic="orders", value=b"v", timestamp=at(40))
    call(conn, "produce", topic="orders", value=b"v", timestamp=at(50))
    assert search(conn, at(31)) is None
    producer.execute("rollback")
    assert search(conn, at(31)) == 6


def test_over_several_segments(conn: Connection, topic: str) -> None:
    conn.execute(
        "select from generate_series(0, 9999) n, pgq.produce(%s, 'v', \"timestamp\" => to_timestamp(n))", [topic]
    )
    for second in (0, 4095, 4096, 9999):
        assert value(conn, "select pgq.offsets_for_times(%s, 0, to_timestamp(%s))", topic, second) == second
    assert value(conn, "select pgq.offsets_for_times(%s, 0, to_timestamp(10000))", topic) is None


@pytest.mark.usefixtures("topic")
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
    conn: Connection, topic_name: str, partition: int | None, sqlstate: str
) -> None:
    with refused(sqlstate):
        search(conn, at(0), topic_name, partition)
