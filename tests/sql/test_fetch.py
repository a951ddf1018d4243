"""pgq.fetch reads in order and without a skip, or refuses where it could not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.plugins.sessions import Connection, call, refused, rows, value

Fill = Callable[..., None]


def offsets(conn: Connection, topic: str, *args: Any) -> list[int]:
    placeholders = "".join(", %s" for _ in args)
    return [o for (o,) in rows(conn, f'select "offset" from pgq.fetch(%s, 0{placeholders})', topic, *args)]


def roll_back(conn: Connection, topic: str, count: int) -> None:
    """Take offsets that are never filled."""
    with conn.transaction(force_rollback=True):
        for _ in range(count):
            call(conn, "produce", topic=topic, value=b"lost", partition=0)


def test_empty_partition(conn: Connection, topic: str) -> None:
    assert offsets(conn, topic, 0) == []


def test_records_come_in_order_from_the_offset_on(conn: Connection, topic: str, fill: Fill) -> None:
    fill(topic, 10)
    assert offsets(conn, topic, 0) == list(range(10))
    assert offsets(conn, topic, 7) == [7, 8, 9]
    assert offsets(conn, topic, 10) == []


def test_at_most_max_records(conn: Connection, topic: str, fill: Fill) -> None:
    fill(topic, 10)
    assert offsets(conn, topic, 0, 1) == [0]
    assert offsets(conn, topic, 4, 3) == [4, 5, 6]
    fill(topic, 600)
    assert len(offsets(conn, topic, 0)) == 500
    assert len(offsets(conn, topic, 0, 2**31 - 1)) == 610


def test_only_the_partition_is_read(conn: Connection, wide_topic: str) -> None:
    for partition in range(5):
        call(conn, "produce", topic=wide_topic, value=b"%d" % partition, partition=partition)
    for partition in range(5):
        assert rows(conn, "select partition, value from pgq.fetch(%s, %s, 0)", wide_topic, partition) == [
            (partition, b"%d" % partition)
        ]


def test_offsets_rolled_back_are_stepped_over(conn: Connection, topic: str, fill: Fill) -> None:
    roll_back(conn, topic, 3)
    fill(topic, 2)
    roll_back(conn, topic, 4)
    fill(topic, 1)
    roll_back(conn, topic, 2)
    assert offsets(conn, topic, 0) == [3, 4, 9]
    assert offsets(conn, topic, 5) == [9]
    assert offsets(conn, topic, 10) == []
    assert offsets(conn, topic, 12) == []


def test_a_hole_wider_than_the_window_is_stepped_over(conn: Connection, topic: str, fill: Fill) -> None:
    fill(topic, 1)
    roll_back(conn, topic, 50)
    fill(topic, 1)
    assert offsets(conn, topic, 1, 10) == [51]


def test_nothing_but_rolled_back_offsets(conn: Connection, topic: str) -> None:
    roll_back(conn, topic, 5)
    assert offsets(conn, topic, 0) == []
    assert offsets(conn, topic, 5) == []


def test_unbroken_run_beyond_the_watermark_is_read(
    conn: Connection, connect: Callable[[], Connection], topic: str, fill: Fill
) -> None:
    fill(topic, 2)
    open_transaction = connect()
    open_transaction.execute("begin")
    call(open_transaction, "produce", topic=topic, value=b"undecided")
    fill(topic, 2)
    assert value(conn, "select pgq.high_watermark(%s, 0)", topic) == 2
    assert offsets(conn, topic, 0) == [0, 1], "the hole at 2 is not decided"
    assert offsets(conn, topic, 2) == []
    assert offsets(conn, topic, 3) == [3, 4], "nothing lies between"
    open_transaction.execute("rollback")
    assert offsets(conn, topic, 0) == [0, 1, 3, 4]


def test_records_over_several_segments(conn: Connection, topic: str, fill: Fill) -> None:
    fill(topic, 10_000)
    assert value(conn, "select count(*) from pgq.segment") > 1
    assert offsets(conn, topic, 0, 20_000) == list(range(10_000))
    assert offsets(conn, topic, 4090, 12) == list(range(4090, 4102))


@pytest.mark.parametrize("offset", [-1, -(2**63), 4, 1000, 2**40, 2**62, None])
def test_offset_out_of_range_is_refused(conn: Connection, topic: str, fill: Fill, offset: int | None) -> None:
    fill(topic, 3)
    with refused("PQ008"):
        offsets(conn, topic, offset)


def test_greatest_offset_of_all_is_refused(conn: Connection, topic: str) -> None:
    """Offset + max_records is beyond a bigint."""
    with refused("PQ008"):
        offsets(conn, topic, 2**63 - 1)


def test_offset_below_the_log_start_is_refused(conn: Connection, topic: str, fill: Fill) -> None:
    fill(topic, 10)
    conn.execute("select pgq.delete_records(%s, 0, 4)", [topic])
    for offset in (0, 3):
        with refused("PQ008"):
            offsets(conn, topic, offset)
    assert offsets(conn, topic, 4) == [4, 5, 6, 7, 8, 9]


def test_offset_below_the_log_start_is_refused_when_nothing_is_left(conn: Connection, topic: str, fill: Fill) -> None:
    fill(topic, 10)
    conn.execute("select pgq.delete_records(%s, 0, -1)", [topic])
    with refused("PQ008"):
        offsets(conn, topic, 9)
    assert offsets(conn, topic, 10) == []


@pytest.mark.parametrize("max_records", [0, -1, None])
def test_bad_max_records_is_refused(conn: Connection, topic: str, max_records: int | None) -> None:
    with refused("22023"):
        offsets(conn, topic, 0, max_records)


@pytest.mark.parametrize(
    "topic_name, partition, sqlstate",
    [("nope", 0, "PQ001"), (None, 0, "PQ001"), ("Orders", 0, "PQ001")]
    + [("orders", partition, "PQ002") for partition in (-1, 1, None)],
)
def test_unknown_topic_or_partition_is_refused(
    conn: Connection, topic: str, topic_name: str | None, partition: int | None, sqlstate: str
) -> None:
    with refused(sqlstate):
        conn.execute("select * from pgq.fetch(%s, %s, 0)", [topic_name, partition])


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
@pytest.mark.parametrize("by", ["transaction", "session"])
def test_old_snapshot_is_refused(conn: Connection, topic: str, fill: Fill, isolation: str, by: str) -> None:
    fill(topic, 3)
    if by == "session":
        conn.execute(f"set default_transaction_isolation = '{isolation}'")
        with refused("PQ009"):
            offsets(conn, topic, 0)
    else:
        conn.execute(f"begin isolation level {isolation}")
        with refused("PQ009"):
            offsets(conn, topic, 0)


@pytest.mark.parametrize("isolation", ["read committed", "read uncommitted", "read committed read only"])
def test_read_committed_is_accepted(conn: Connection, topic: str, fill: Fill, isolation: str) -> None:
    fill(topic, 3)
    roll_back(conn, topic, 1)
    fill(topic, 1)
    conn.execute(f"begin isolation level {isolation}")
    assert offsets(conn, topic, 0) == [0, 1, 2, 4]
    conn.execute("commit")


def test_each_fetch_of_a_transaction_sees_what_was_committed_meanwhile(
    conn: Connection, connect: Callable[[], Connection], topic: str, fill: Fill
) -> None:
    conn.execute("begin")
    assert offsets(conn, topic, 0) == []
    fill(topic, 2, connect())
    assert offsets(conn, topic, 0) == [0, 1]
    conn.execute("commit")


def test_fetch_after_produce_in_the_transaction_is_refused(conn: Connection, topic: str, wide_topic: str) -> None:
    conn.execute("begin")
    call(conn, "produce", topic=topic, value=b"v")
    assert offsets(conn, wide_topic, 0) == [], "another topic can be read"
    with refused("PQ011"):
        offsets(conn, topic, 0)
    conn.execute("rollback")
    assert offsets(conn, topic, 0) == []


def test_fetch_after_produce_to_another_partition_of_the_topic_is_refused(conn: Connection, wide_topic: str) -> None:
    conn.execute("begin")
    call(conn, "produce", topic=wide_topic, value=b"v", partition=3)
    with refused("PQ011"):
        offsets(conn, wide_topic, 0)


def test_fetch_is_possible_after_the_savepoint_that_produced_was_rolled_back(conn: Connection, topic: str) -> None:
    with conn.transaction():
        with conn.transaction(force_rollback=True):
            call(conn, "produce", topic=topic, value=b"v")
        assert offsets(conn, topic, 0) == []


def test_fetch_works_with_an_empty_search_path(conn: Connection, topic: str, fill: Fill) -> None:
    fill(topic, 2)
    conn.execute("set search_path = ''")
    assert offsets(conn, topic, 0) == [0, 1]


def test_fetch_step_by_step_meets_every_record_once(conn: Connection, topic: str, fill: Fill) -> None:
    for _ in range(5):
        fill(topic, 7)
        roll_back(conn, topic, 3)
    position, seen = 0, []
    while found := offsets(conn, topic, position, 4):
        seen += found
        position = found[-1] + 1
    assert seen == [o for o in range(50) if o % 10 < 7]
