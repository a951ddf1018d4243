"""pgq._commit_with_failures: offsets and failures in one, and no failure twice."""

import pytest

from tests.plugins.sessions import Connection, rows, value
from tests.sql.conftest import MakeTopic


@pytest.fixture
def topic(conn: Connection, make_topic: MakeTopic) -> str:
    make_topic("orders")
    for number in range(5):
        conn.execute("select pgq.produce('orders', %s::bytea)", [str(number).encode()])
    return "orders"


def commit(conn: Connection, end: int, failed: list[int], *, replayed: bool = False) -> tuple[int, int]:
    n = len(failed)
    ((moved, repeated),) = rows(
        conn,
        "select * from pgq._commit_with_failures('g', '{orders}', '{0}', array[%s::int8], null, null, null,"
        " %s::text[], %s::int[], %s::int8[], %s::timestamptz[], %s::text[], %s::int[], %s::bool[])",
        end,
        ["orders"] * n,
        [0] * n,
        failed,
        [None] * n,
        ["error"] * n,
        [1] * n,
        [replayed] * n,
    )
    return moved, repeated


def dead(conn: Connection) -> list[bytes]:
    return [v for (v,) in rows(conn, "select value from pgq.fetch('orders.g.dlq', 0, 0)")]


def committed(conn: Connection) -> int:
    return int(value(conn, "select \"offset\" from pgq.committed_offsets('g')"))


def test_once_however_often_it_is_committed(conn: Connection, topic: str) -> None:
    assert commit(conn, 2, [1]) == (1, 0)
    assert commit(conn, 2, [1]) == (0, 1)
    assert commit(conn, 4, [1, 3]) == (1, 1)
    assert dead(conn) == [b"1", b"3"]
    assert committed(conn) == 4


def test_again_if_the_first_was_rolled_back(conn: Connection, topic: str) -> None:
    with conn.transaction(force_rollback=True):
        assert commit(conn, 2, [1]) == (1, 0)
    assert commit(conn, 3, [1]) == (1, 0)
    assert dead(conn) == [b"1"]


def test_what_is_read_once_more_may_fail_once_more(conn: Connection, topic: str) -> None:
    commit(conn, 5, [1])
    assert commit(conn, 3, [1, 2], replayed=True) == (2, 0)
    assert dead(conn) == [b"1", b"1", b"2"]
    assert committed(conn) == 3


def test_in_the_order_of_the_offsets(conn: Connection, topic: str) -> None:
    assert commit(conn, 5, [0, 1, 2, 3, 4]) == (5, 0)
    assert dead(conn) == [b"0", b"1", b"2", b"3", b"4"]


def test_what_is_gone(conn: Connection, topic: str) -> None:
    """It is counted as neither: whoever asks for it is told how many are missing."""
    assert commit(conn, 5, [3, 77]) == (1, 0)
