"""pgq.cancel_delayed takes back a record that waits, once, with the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.plugins.sessions import Connection, call, refused, rows, value


def send(conn: Connection, due: str = "now() + interval '1 day'") -> str:
    return str(value(conn, f"select pgq.produce_delayed('orders', 'v', {due})"))


def cancel(conn: Connection, delayed_id: str | None) -> bool:
    return bool(call(conn, "cancel_delayed", delayed_id=delayed_id)[0][0])


@pytest.fixture(autouse=True)
def orders(topic: str) -> None:
    """A topic."""


def test_once(conn: Connection) -> None:
    kept, taken_back = send(conn), send(conn)
    assert cancel(conn, taken_back)
    assert not cancel(conn, taken_back)
    assert rows(conn, "select delayed_id from pgq.delayed_records") == [(kept,)]


def test_it_is_not_delivered(conn: Connection) -> None:
    assert cancel(conn, send(conn, "now()"))
    assert call(conn, "deliver_due") == [(0, None)]


def test_after_its_delivery(conn: Connection) -> None:
    delayed_id = send(conn, "now()")
    assert call(conn, "deliver_due") == [(1, None)]
    assert not cancel(conn, delayed_id)
    assert value(conn, "select count(*) from pgq.fetch('orders', 0, 0)") == 1


def test_in_any_table_of_its_hour(conn: Connection, connect: Callable[[], Connection]) -> None:
    makers = [connect() for _ in range(3)]
    sent = []
    for maker in makers:
        maker.execute("begin")
        sent.append(send(maker))
    for maker in makers:
        maker.execute("commit")
    assert [cancel(conn, delayed_id) for delayed_id in sent] == [True] * 3


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
def test_rolled_back(conn: Connection, connect: Callable[[], Connection], isolation: str) -> None:
    delayed_id = send(conn, "now()")
    other = connect()
    other.execute(f"begin isolation level {isolation}")
    assert cancel(other, delayed_id)
    assert not cancel(other, delayed_id)
    assert rows(conn, "select delayed_id from pgq.delayed_records") == [(delayed_id,)]
    assert call(conn, "deliver_due") == [(0, 0)]
    other.execute("rollback")
    assert call(conn, "deliver_due") == [(1, None)]


def test_in_the_transaction_that_sent_it(conn: Connection) -> None:
    with conn.transaction():
        assert cancel(conn, send(conn))
    assert rows(conn, "select * from pgq.delayed_records") == []


def test_repeatable_read_refuses_what_was_delivered_meanwhile(
    conn: Connection, connect: Callable[[], Connection]
) -> None:
    delayed_id = send(conn, "now()")
    other = connect()
    other.execute("begin isolation level repeatable read")
    value(other, "select count(*) from pgq.delayed_records")
    call(conn, "deliver_due")
    with refused("40001"):
        cancel(other, delayed_id)


@pytest.mark.parametrize(
    "delayed_id",
    [None, "", "1", "1-", "-1", "1-2-3", " 1-2", "1-2 ", "x-y", "1.5-2", "1" * 16 + "-1", "1-" + "1" * 19, "１-２"],
)
def test_no_delayed_id(conn: Connection, delayed_id: str | None) -> None:
    with refused("PQ044"):
        cancel(conn, delayed_id)


@pytest.mark.parametrize("delayed_id", ["0-1", "1-1", "999999999999999-999999999999999999"])
def test_unknown(conn: Connection, delayed_id: str) -> None:
    send(conn)
    assert not cancel(conn, delayed_id)
