"""pgq.delete_topic removes a topic and everything that belongs to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.plugins.sessions import Connection, call, refused, rows, value

from .conftest import MakeTopic

CATALOG = ("topic", "partition", "segment", "skipped_range", "committed_offset")


def delete(conn: Connection, name: str | None) -> None:
    call(conn, "delete_topic", name=name)


def test_nothing_is_left(conn: Connection, wide_topic: str, fill: Callable[..., None]) -> None:
    fill(wide_topic, 5000)
    conn.execute("select pgq.commit_offsets('g', '{wide}', '{0}', '{7}')")
    delete(conn, wide_topic)
    for table in CATALOG:
        assert value(conn, f"select count(*) from pgq.{table}") == 0
    assert (
        rows(conn, "select relname from pg_class where relnamespace = 'pgq_log'::regnamespace and relname like 't%'")
        == []
    )
    assert rows(conn, "select proname from pg_proc where pronamespace = 'pgq_log'::regnamespace") == []


@pytest.mark.parametrize("function", ["describe_topic", "delete_topic"])
def test_it_is_unknown_afterwards(conn: Connection, topic: str, function: str) -> None:
    delete(conn, topic)
    with refused("PQ001"):
        call(conn, function, name=topic)


def test_it_is_unknown_to_producers_and_readers_with_warm_plans(conn: Connection, topic: str) -> None:
    for _ in range(7):
        call(conn, "produce", topic=topic, value=b"v")
        rows(conn, "select * from pgq.fetch(%s, 0, 0)", topic)
    delete(conn, topic)
    with refused("PQ001"):
        call(conn, "produce", topic=topic, value=b"v")
    with refused("PQ001"):
        rows(conn, "select * from pgq.fetch(%s, 0, 0)", topic)


@pytest.mark.parametrize("partitions", [1, 3])
def test_made_again_it_starts_anew(
    conn: Connection, connect: Callable[[], Connection], make_topic: MakeTopic, partitions: int
) -> None:
    make_topic("orders", 1)
    producer = connect()
    for _ in range(7):
        call(producer, "produce", topic="orders", value=b"old")
    conn.execute("select pgq.commit_offsets('g', '{orders}', '{0}', '{5}')")
    delete(conn, "orders")
    make_topic("orders", partitions)
    assert rows(conn, "select * from pgq.committed_offsets('g')") == []
    assert call(producer, "produce", topic="orders", value=b"new", partition=0) == [(0, 0)]
    assert rows(producer, "select value from pgq.fetch('orders', 0, 0)") == [(b"new",)]
    if partitions == 3:
        assert call(producer, "produce", topic="orders", value=b"new", partition=2) == [(2, 0)]


def test_made_again_in_the_same_transaction(conn: Connection, topic: str) -> None:
    call(conn, "produce", topic=topic, value=b"old")
    with conn.transaction():
        delete(conn, topic)
        call(conn, "create_topic", name=topic)
        assert call(conn, "produce", topic=topic, value=b"new") == [(0, 0)]
    assert rows(conn, "select value from pgq.fetch(%s, 0, 0)", topic) == [(b"new",)]


def test_rolled_back_it_is_still_there(conn: Connection, topic: str) -> None:
    call(conn, "produce", topic=topic, value=b"v")
    with conn.transaction(force_rollback=True):
        delete(conn, topic)
    assert call(conn, "produce", topic=topic, value=b"v") == [(0, 1)]
    assert value(conn, "select count(*) from pgq.fetch(%s, 0, 0)", topic) == 2


def test_other_topics_and_their_committed_offsets_stay(conn: Connection, make_topic: MakeTopic) -> None:
    for name in ("orders", "Orders", "orders2"):
        make_topic(name)
        call(conn, "produce", topic=name, value=b"v")
        conn.execute("select pgq.commit_offsets('g', array[%s], '{0}', '{1}')", [name])
    delete(conn, "orders")
    assert rows(conn, "select topic from pgq.committed_offsets('g')") == [("Orders",), ("orders2",)]
    assert value(conn, "select count(*) from pgq.fetch('Orders', 0, 0)") == 1


@pytest.mark.usefixtures("topic")
@pytest.mark.parametrize("name", ["nope", "Orders", "", "orders; drop table pgq.topic", "o'", None])
def test_unknown_topic_is_refused(conn: Connection, name: str | None) -> None:
    with refused("PQ001"):
        delete(conn, name)


def test_after_producing_in_the_same_transaction(conn: Connection, topic: str) -> None:
    with conn.transaction():
        call(conn, "produce", topic=topic, value=b"v")
        delete(conn, topic)
    assert rows(conn, "select * from pgq.list_topics()") == []
