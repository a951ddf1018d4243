"""pgq.high_watermark, log_end_offset and log_start_offset tell how far a partition reaches."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.plugins.sessions import ISOLATION_LEVELS, Connection, call, refused, value

FUNCTIONS = ("high_watermark", "log_end_offset", "log_start_offset")


def ends(conn: Connection, topic: str, partition: int = 0) -> tuple[int, int, int]:
    """Log start, high watermark and log end."""
    return tuple(
        value(conn, f"select pgq.{name}(%s, %s)", topic, partition)
        for name in ("log_start_offset", "high_watermark", "log_end_offset")
    )  # type: ignore[return-value]


def test_empty_partition(conn: Connection, topic: str) -> None:
    assert ends(conn, topic) == (0, 0, 0)


def test_committed_records(conn: Connection, wide_topic: str, fill: Callable[..., None]) -> None:
    fill(wide_topic, 3)
    assert ends(conn, wide_topic) == (0, 3, 3)
    assert ends(conn, wide_topic, 1) == (0, 0, 0)


def test_rolled_back_offsets_count(conn: Connection, topic: str) -> None:
    with conn.transaction(force_rollback=True):
        call(conn, "produce", topic=topic, value=b"v")
    assert ends(conn, topic) == (0, 1, 1)


@pytest.mark.parametrize("isolation", ISOLATION_LEVELS)
def test_open_transaction_holds_the_watermark(
    conn: Connection, connect: Callable[[], Connection], topic: str, fill: Callable[..., None], isolation: str
) -> None:
    fill(topic, 2)
    producer = connect()
    producer.execute(f"begin isolation level {isolation}")
    call(producer, "produce", topic=topic, value=b"v")
    fill(topic, 3)
    assert ends(conn, topic) == (0, 2, 6)
    assert ends(producer, topic) == (0, 2, 6), "the transaction's own records are not decided either"
    producer.execute("commit")
    assert ends(conn, topic) == (0, 6, 6)


@pytest.mark.parametrize("isolation", ISOLATION_LEVELS)
def test_is_fresh_in_every_isolation_level(
    conn: Connection, connect: Callable[[], Connection], topic: str, fill: Callable[..., None], isolation: str
) -> None:
    reader = connect()
    reader.execute(f"begin isolation level {isolation}")
    assert ends(reader, topic) == (0, 0, 0)
    fill(topic, 2)
    assert ends(reader, topic) == (0, 2, 2)


def test_log_start_is_where_records_were_deleted_to(conn: Connection, topic: str, fill: Callable[..., None]) -> None:
    fill(topic, 5)
    conn.execute("select pgq.delete_records(%s, 0, 3)", [topic])
    assert ends(conn, topic) == (3, 5, 5)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    "topic_name, partition, sqlstate",
    [
        ("nope", 0, "PQ001"),
        (None, 0, "PQ001"),
        ("orders", -1, "PQ002"),
        ("orders", 1, "PQ002"),
        ("orders", None, "PQ002"),
    ],
)
def test_unknown_topic_or_partition_is_refused(
    conn: Connection, topic: str, function: str, topic_name: str | None, partition: int | None, sqlstate: str
) -> None:
    with refused(sqlstate):
        call(conn, function, topic=topic_name, partition=partition)
