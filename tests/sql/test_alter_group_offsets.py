"""pgq.alter_group_offsets stores offsets for a group that has no members."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.plugins.sessions import Connection, call, refused, rows, value

from .conftest import Join, committed

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"group_id": ""}, "PQ019"),
    ({"group_id": None}, "PQ019"),
    ({"offsets": [-1]}, "PQ020"),
    ({"offsets": [None]}, "PQ020"),
    ({"offsets": []}, "PQ020"),
    ({"offsets": None}, "PQ020"),
    ({"topics": None}, "PQ020"),
    ({"partitions": None}, "PQ020"),
    ({"metadata": ["a", "b"]}, "PQ020"),
    ({"metadata": ["x" * 4097]}, "PQ020"),
    ({"topics": ["wide", "wide"], "partitions": [0, 0], "offsets": [1, 2]}, "PQ020"),
    ({"topics": ["nope"]}, "PQ001"),
    ({"partitions": [None]}, "PQ002"),
]


@pytest.fixture(autouse=True)
def topics(topic: str, wide_topic: str) -> None:
    """orders and wide."""


def alter(conn: Connection, offsets: dict[tuple[str, int], int], group_id: str | None = "g", **more: Any) -> None:
    arguments = {"topics": [t for t, _ in offsets], "partitions": [p for _, p in offsets]}
    call(conn, "alter_group_offsets", group_id=group_id, **arguments, offsets=list(offsets.values()), **more)


def test_offsets_are_stored_as_they_are(conn: Connection) -> None:
    alter(conn, {("wide", 1): 7, ("orders", 0): 2**63 - 1}, metadata=["note", None])
    assert committed(conn) == {("wide", 1): 7, ("orders", 0): 2**63 - 1}, "the log holds none of them"
    assert [row[3] for row in call(conn, "committed_offsets", group_id="g")] == ["", "note"]
    alter(conn, {("wide", 1): 3})
    assert committed(conn) == {("wide", 1): 3, ("orders", 0): 2**63 - 1}
    alter(conn, {})
    assert value(conn, "select count(*) from pgq.committed_offset") == 2


def test_members_have_to_be_stopped(conn: Connection, join: Join) -> None:
    member = join("wide")
    member.claim(("wide", 0))
    with refused("PQ039"):
        alter(conn, {("orders", 0): 1})
    member.leave()
    alter(conn, {("wide", 0): 1})
    with refused("PQ036"):
        member.commit({("wide", 0): 9})
    assert committed(conn) == {("wide", 0): 1}


def test_commits_after_it_count(conn: Connection, join: Join) -> None:
    """However many there are: old rows are removed now and then, and this one may be where that begins."""
    for number in range(100):
        alter(conn, {("wide", 0): number, ("wide", 1): number})
    member = join("wide")
    member.claim(("wide", 0), ("wide", 1))
    for number in range(300):
        member.commit({("wide", number % 2): number})
    assert committed(conn) == {("wide", 0): 298, ("wide", 1): 299}


def test_nothing_is_changed_if_one_is_refused(conn: Connection) -> None:
    with refused("PQ002"):
        alter(conn, {("wide", 0): 1, ("wide", 5): 1})
    assert rows(conn, "select from pgq.consumer_group") == []


def test_refused(conn: Connection) -> None:
    good = {"group_id": "g", "topics": ["wide"], "partitions": [0], "offsets": [1]}
    for arguments, sqlstate in WRONG:
        with refused(sqlstate):
            call(conn, "alter_group_offsets", **(good | arguments))
    assert committed(conn) == {}


def test_open_commits_of_others_are_not_waited_for(conn: Connection, connect: Callable[[], Connection]) -> None:
    """Of those who are no members: whoever is later counts."""
    application = connect()
    conn.execute("set statement_timeout = '3s'")
    with application.transaction():
        call(application, "commit_offsets", group_id="g", topics=["wide"], partitions=[0], offsets=[1])
        call(application, "commit_offsets", group_id="h", topics=["wide"], partitions=[0], offsets=[1])
    with application.transaction():
        call(application, "commit_offsets", group_id="g", topics=["wide"], partitions=[0], offsets=[2])
        alter(conn, {("wide", 0): 3})
    assert committed(conn) == {("wide", 0): 3}
