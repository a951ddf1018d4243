"""docs/sql.md: each of its ten queries runs, and answers its question."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import pgq
from tests.plugins.sessions import Connection, call, rows, value

Connect = Callable[[], Connection]
PAGE = Path(pgq.__file__).parents[1] / "docs" / "sql.md"


def questions() -> dict[int, str]:
    """The query below each numbered heading."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"^## (\d+)\. .*?^```sql\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return {int(number): query for number, query in found}


@pytest.fixture
def orders(conn: Connection) -> dict[int, int]:
    """A topic with 30 records of 3 customers, and a group that has processed some; records by partition."""
    call(conn, "create_topic", name="orders", partitions=3)
    call(conn, "create_topic", name="empty", partitions=2)
    sizes = dict.fromkeys(range(3), 0)
    started = value(conn, "select clock_timestamp() - interval '1 second'")
    for number in range(30):
        ((partition, _),) = call(
            conn,
            "produce_json",
            topic="orders",
            value=json.dumps({"amount": number}),
            key=f"customer-{7 + number % 3}",
            timestamp=started + timedelta(milliseconds=number),  # left out, several have the same
        )
        sizes[partition] += 1
    conn.execute("select pgq.commit_offsets('billing', '{orders,orders}', '{0,1}', '{1,2}')")
    return sizes


def ask(conn: Connection, number: int) -> list[tuple[Any, ...]]:
    return rows(conn, questions()[number].replace("%", "%%"))


def test_there_are_ten() -> None:
    assert list(questions()) == list(range(1, 11))


def test_topics(conn: Connection, orders: dict[int, int]) -> None:
    found = ask(conn, 1)
    assert [row[:3] for row in found] == [("orders", 3, 30), ("empty", 2, 0)]
    assert float(found[0][4]) == pytest.approx(max(orders.values()) / 10, abs=0.01)


def test_latest_records(conn: Connection, orders: dict[int, int]) -> None:
    assert sorted(json.loads(row[4])["amount"] for row in ask(conn, 2)) == [25, 26, 27, 28, 29]


def test_one_key(conn: Connection, orders: dict[int, int]) -> None:
    assert [json.loads(row[2])["amount"] for row in ask(conn, 3)] == [27, 24, 21, 18, 15]


def test_one_record(conn: Connection, orders: dict[int, int]) -> None:
    found = ask(conn, 4)
    assert [row[:2] for row in found] == ([(1, 2)] if orders[1] > 2 else [])


def test_between_two_times(conn: Connection, orders: dict[int, int]) -> None:
    call(conn, "produce", topic="orders", value=b'{"amount": 1000}', partition=0, timestamp="2020-01-01")
    found = ask(conn, 5)
    assert {row[0]: row[1] for row in found} == {p: n for p, n in orders.items() if n}
    assert sum(row[2] for row in found) == sum(range(30))


def test_growth(conn: Connection, orders: dict[int, int]) -> None:
    assert sum(row[1] for row in ask(conn, 6)) == 30


def test_hot_partition(conn: Connection, orders: dict[int, int]) -> None:
    found = ask(conn, 7)
    assert {row[0]: row[1] for row in found} == orders
    assert [row[1] for row in found] == sorted(orders.values(), reverse=True)
    assert float(found[0][2]) == pytest.approx(max(orders.values()) / 10, abs=0.01)


def test_who_holds_readers_up(conn: Connection, connect: Connect, orders: dict[int, int]) -> None:
    assert ask(conn, 8) == []
    producer = connect()
    producer.execute("set application_name = 'slow'")
    producer.execute("begin")
    call(producer, "produce", topic="orders", value=b"v", partition=2)
    call(conn, "produce", topic="orders", value=b"v", partition=2)
    ((topic, partition, waiting, pid, application, age, prepared),) = ask(conn, 8)
    assert (topic, partition, waiting) == ("orders", 2, 2)
    assert (pid, application, prepared) == (producer.info.backend_pid, "slow", None)
    assert age is not None
    producer.execute("rollback")
    assert ask(conn, 8) == []


def test_lag(conn: Connection, orders: dict[int, int]) -> None:
    found = ask(conn, 9)
    offsets = {row[1]: row[2:5] for row in found}
    assert offsets == {p: (p + 1, orders[p], max(0, orders[p] - p - 1)) for p in (0, 1)}
    assert {row[1]: (row[5] > timedelta(0), row[6]) for row in found} == {p: (offsets[p][2] > 0, None) for p in (0, 1)}


def test_disk(conn: Connection, orders: dict[int, int]) -> None:
    found = ask(conn, 10)
    assert len(found) == 5
    for *_, active, _size, relation in found:
        assert active
        assert value(conn, "select pg_total_relation_size(%s)", relation) > 0
