"""pgq.begin_append takes offsets by the append rule; the rows then go straight into the topic's table."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.plugins.sessions import ISOLATION_LEVELS, Connection, append_locks, refused, rows, value


def begin_append(conn: Connection, wanted: dict[tuple[int, int], int]) -> dict[tuple[int, int], list[int]]:
    result = rows(
        conn,
        "select topic_id, partition, offsets from pgq.begin_append(%s::int[], %s::int[], %s::int[])",
        [topic_id for topic_id, _ in wanted],
        [partition for _, partition in wanted],
        list(wanted.values()),
    )
    return {(topic_id, partition): offsets for topic_id, partition, offsets in result}


def insert(conn: Connection, topic_id: int, partition: int, offsets: list[int]) -> None:
    conn.execute(
        f'insert into pgq_log.t{topic_id} (partition, "offset", "timestamp", value)'
        " select %s, o, now(), o::text::bytea from unnest(%s::bigint[]) o",
        [partition, offsets],
    )


@pytest.fixture
def orders(conn: Connection, topic: str) -> int:
    result: int = value(conn, "select topic_id from pgq.topic where name = %s", topic)
    return result


@pytest.fixture
def wide(conn: Connection, wide_topic: str) -> int:
    result: int = value(conn, "select topic_id from pgq.topic where name = %s", wide_topic)
    return result


def test_offsets_are_the_next_ones(conn: Connection, orders: int, wide: int) -> None:
    with conn.transaction():
        taken = begin_append(conn, {(orders, 0): 3, (wide, 4): 2, (wide, 1): 1})
        assert taken == {(orders, 0): [0, 1, 2], (wide, 4): [0, 1], (wide, 1): [0]}
        assert begin_append(conn, {(orders, 0): 2}) == {(orders, 0): [3, 4]}
        insert(conn, orders, 0, [0, 1, 2, 3, 4])
        insert(conn, wide, 4, [0, 1])
        insert(conn, wide, 1, [0])
    assert value(conn, "select count(*) from pgq.fetch('orders', 0, 0)") == 5
    assert rows(conn, "select value from pgq.fetch('wide', 4, 0)") == [(b"0",), (b"1",)]


def test_partitions_come_in_one_order_for_all(conn: Connection, wide: int) -> None:
    with conn.transaction():
        taken = begin_append(conn, {(wide, partition): 1 for partition in (3, 0, 4, 1, 2)})
    assert [partition for _, partition in taken] == [0, 1, 2, 3, 4]


def test_lock_is_taken_once_a_transaction_and_partition(conn: Connection, wide: int) -> None:
    with conn.transaction():
        for _ in range(5):
            begin_append(conn, {(wide, 0): 2, (wide, 1): 1})
            conn.execute("select pgq.produce('wide', 'v', partition => 1)")
            conn.execute("select pgq.produce_batch('wide', '{v,w}', partitions => '{0,1}')")
        assert append_locks(conn) == 2
    assert append_locks(conn) == 0


@pytest.mark.parametrize("isolation", ISOLATION_LEVELS)
def test_offsets_always_have_a_segment_to_go_to(conn: Connection, orders: int, isolation: str) -> None:
    conn.execute(f"set default_transaction_isolation = '{isolation}'")
    with conn.transaction():
        offsets = begin_append(conn, {(orders, 0): 10_000})[orders, 0]
        insert(conn, orders, 0, offsets)
    conn.execute("set default_transaction_isolation = 'read committed'")
    assert offsets == list(range(10_000))
    assert value(conn, "select count(*) from pgq.fetch('orders', 0, 0, 20000)") == 10_000


def test_upkeep_is_due_when_the_last_segment_is_half_used(conn: Connection, orders: int) -> None:
    query = "select upkeep_due from pgq.begin_append(%s::int[], '{0}', %s::int[])"
    assert value(conn, query, [orders], [2048]) is False
    assert value(conn, query, [orders], [1]) is True


def test_copy_is_possible_after_it(conn: Connection, orders: int) -> None:
    with conn.transaction():
        begin_append(conn, {(orders, 0): 2})
        with (
            conn.cursor() as cursor,
            cursor.copy(f'copy pgq_log.t{orders} (partition, "offset", "timestamp") from stdin') as copy,
        ):
            copy.write_row((0, 0, "2024-01-01"))
            copy.write_row((0, 1, "2024-01-01"))
    assert value(conn, "select count(*) from pgq.fetch('orders', 0, 0)") == 2


def test_after_rollback_to_a_savepoint_the_lock_is_taken_again(
    conn: Connection, connect: Callable[[], Connection], orders: int
) -> None:
    reader = connect()
    with conn.transaction():
        with conn.transaction(force_rollback=True):
            assert begin_append(conn, {(orders, 0): 2}) == {(orders, 0): [0, 1]}
        assert append_locks(reader) == 0
        assert value(reader, "select pgq.high_watermark('orders', 0)") == 2
        assert begin_append(conn, {(orders, 0): 1}) == {(orders, 0): [2]}
        assert append_locks(reader) == 1
        assert value(reader, "select pgq.high_watermark('orders', 0)") == 2
        insert(conn, orders, 0, [2])
    assert rows(conn, "select \"offset\" from pgq.fetch('orders', 0, 0)") == [(2,)]


def test_insert_after_the_savepoint_that_appended_was_rolled_back_is_refused(conn: Connection, orders: int) -> None:
    with refused("PQ012"), conn.transaction():
        with conn.transaction(force_rollback=True):
            begin_append(conn, {(orders, 0): 1})
        insert(conn, orders, 0, [0])


@pytest.mark.parametrize("partition", [-1, 1, None])
def test_unknown_partition_is_refused(conn: Connection, orders: int, wide: int, partition: int | None) -> None:
    with refused("PQ002"):
        rows(conn, "select * from pgq.begin_append(%s::int[], array[0, %s::int], '{1,1}')", [wide, orders], partition)


def test_topic_deleted_meanwhile_is_refused(conn: Connection, orders: int) -> None:
    conn.execute("select pgq.delete_topic('orders')")
    with refused("PQ002"):
        begin_append(conn, {(orders, 0): 1})
