"""pgq.delete_records moves the log start, never back and never past the high watermark."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.plugins.sessions import Connection, call, refused, rows, value


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
