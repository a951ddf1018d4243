"""pgq.create_retry_topics makes the topics for what a group cannot process, where they are missing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import psycopg
import pytest

from tests.plugins.sessions import Connection, refused, rows, value

from .conftest import MakeTopic


def create(conn: Connection, topics: list[str] | None, group_id: str | None = "g") -> list[str]:
    return [name for (name,) in rows(conn, "select pgq.create_retry_topics(%s, %s)", group_id, topics)]


def registered(conn: Connection) -> list[tuple[str, str, str, str]]:
    return rows(
        conn,
        "select t.name, f.kind, f.group_id, f.origin from pgq.failure_topic f"
        " join pgq.topic t using (topic_id) order by 1",
    )


def config(conn: Connection, topic: str) -> dict[str, str]:
    return dict(value(conn, "select config from pgq.topic where name = %s", topic))


def test_both_topics_are_made(conn: Connection, topic: str) -> None:
    assert create(conn, ["orders"]) == ["orders.g.retry"]
    assert registered(conn) == [
        ("orders.g.dlq", "dead letter", "g", "orders"),
        ("orders.g.retry", "retry", "g", "orders"),
    ]
    for name in ("orders.g.retry", "orders.g.dlq"):
        conn.execute("select pgq.produce(%s, 'v')", [name])
    assert rows(conn, "select * from pgq.check_log()") == []


def test_again_it_writes_nothing(conn: Connection, topic: str) -> None:
    create(conn, ["orders"])
    with conn.transaction():
        assert create(conn, ["orders"]) == ["orders.g.retry"]
        assert value(conn, "select pg_current_xact_id_if_assigned()") is None


def test_names_come_in_the_order_of_the_topics(conn: Connection, make_topic: MakeTopic) -> None:
    for name in "cab":
        make_topic(name)
    assert create(conn, ["b", "c", "a"]) == ["b.g.retry", "c.g.retry", "a.g.retry"]
    assert create(conn, []) == create(conn, None) == []


@pytest.mark.parametrize("partitions, of_retry", [(1, 1), (5, 5), (12, 12), (30, 12)])
def test_partitions(conn: Connection, make_topic: MakeTopic, partitions: int, of_retry: int) -> None:
    make_topic("orders", partitions)
    create(conn, ["orders"])
    counts = "select partitions from pgq.topic where name = %s"
    assert value(conn, counts, "orders.g.retry") == of_retry
    assert value(conn, counts, "orders.g.dlq") == 1


def test_the_groups_own_retry_topics_get_none(conn: Connection, topic: str) -> None:
    create(conn, ["orders"])
    assert create(conn, ["orders.g.retry", "orders"]) == ["orders.g.retry"]
    assert create(conn, ["orders.g.retry", "orders.g.dlq"], "other") == [
        "orders.g.retry.other.retry",
        "orders.g.dlq.other.retry",
    ]
    assert len(registered(conn)) == 6


def test_a_topic_a_group(conn: Connection, topic: str) -> None:
    assert [create(conn, ["orders"], group_id) for group_id in ("a", "b")] == [["orders.a.retry"], ["orders.b.retry"]]


def test_configs(conn: Connection, make_topic: MakeTopic) -> None:
    """Large records fit in; retries are kept as the topic's records are, dead letters for ever; none is compacted."""
    make_topic("orders", config='{"max.message.bytes": 5000000, "cleanup.policy": "compact", "retention.ms": 60000}')
    create(conn, ["orders"])
    assert {key: str(v) for key, v in config(conn, "orders.g.retry").items()} == {
        "max.message.bytes": "5000000",
        "retention.ms": "60000",
    }
    assert {key: str(v) for key, v in config(conn, "orders.g.dlq").items()} == {
        "max.message.bytes": "5000000",
        "retention.ms": "-1",
        "retention.bytes": "-1",
    }


def test_a_topic_of_the_applications_is_not_taken(conn: Connection, make_topic: MakeTopic) -> None:
    """It may be compacted, or anything else."""
    make_topic("orders", 3)
    make_topic("orders.g.retry", 2, '{"retention.ms": 1000}')
    with refused("PQ004"):
        create(conn, ["orders"])
    assert registered(conn) == []


def test_one_that_was_deleted_is_made_again(conn: Connection, topic: str) -> None:
    create(conn, ["orders"])
    conn.execute("select pgq.delete_topic('orders.g.retry')")
    assert [name for name, *_ in registered(conn)] == ["orders.g.dlq"]
    create(conn, ["orders"])
    assert len(registered(conn)) == 2


@pytest.mark.parametrize("first", [0, 1])
def test_names_that_come_to_the_same_are_refused(conn: Connection, make_topic: MakeTopic, first: int) -> None:
    """Records of one topic would be tried again by the group of another."""
    make_topic("a")
    make_topic("a.b")
    both = [("c", "a.b"), ("b.c", "a")]
    group_id, origin = both[first]
    assert create(conn, [origin], group_id) == ["a.b.c.retry"]
    group_id, origin = both[1 - first]
    with pytest.raises(psycopg.Error) as refusal:
        create(conn, [origin], group_id)
    assert refusal.value.sqlstate == "PQ004"
    owner_group, owner_topic = both[first]
    assert refusal.value.diag.message_hint == (
        f"It has what group '{owner_group}' could not process of topic '{owner_topic}': name the group otherwise."
    )
    assert create(conn, [both[first][1]], both[first][0]) == ["a.b.c.retry"]


@pytest.mark.parametrize(
    "group_id, topics, sqlstate",
    [
        ("g", ["nope"], "PQ001"),
        ("g", ["orders", None], "PQ001"),
        ("", ["orders"], "PQ019"),
        (None, ["orders"], "PQ019"),
        ("g" * 250, ["orders"], "PQ019"),
        ("a b", ["orders"], "PQ019"),
        ("gruppe-ä", ["orders"], "PQ019"),
        ("a/b", ["orders"], "PQ019"),
        ("g'; drop schema pgq; --", ["orders"], "PQ019"),
        ("g" * 240, ["orders"], "PQ004"),
    ],
)
def test_what_is_refused(conn: Connection, topic: str, group_id: str | None, topics: list[str], sqlstate: str) -> None:
    with refused(sqlstate):
        create(conn, topics, group_id)
    assert registered(conn) == []


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
def test_joins_the_transaction(conn: Connection, topic: str, isolation: str) -> None:
    with conn.transaction(force_rollback=True):
        conn.execute(f"set transaction isolation level {isolation}")
        create(conn, ["orders"])
        assert len(registered(conn)) == 2
    assert registered(conn) == []
    assert rows(conn, "select name from pgq.topic") == [("orders",)]


def test_two_at_once(conn: Connection, connect: Callable[[], Connection], make_topic: MakeTopic) -> None:
    for number in range(10):
        make_topic(f"t{number}")
    barrier = Barrier(2)
    sessions = [connect(), connect()]

    def run(session: Connection) -> None:
        for number in range(10):
            barrier.wait(30)
            assert create(session, [f"t{number}"]) == [f"t{number}.g.retry"]

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(run, session) for session in sessions]:
            done.result()
    assert len(registered(conn)) == 20
    assert rows(conn, "select * from pgq.check_log()") == []


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_waits_for_who_is_making_them(
    conn: Connection,
    connect: Callable[[], Connection],
    topic: str,
    wait_until_blocked: Callable[[Connection], None],
    end: str,
) -> None:
    first, second = connect(), connect()
    first.execute("begin")
    create(first, ["orders"])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(create, second, ["orders"])
        wait_until_blocked(second)
        first.execute(end)
        assert waiting.result() == ["orders.g.retry"]
    assert len(registered(conn)) == 2
