"""pgq.delete_group_offsets forgets what a group committed for partitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.plugins.sessions import Connection, call, refused, value

from .conftest import Join, committed

A, B, O = ("wide", 0), ("wide", 1), ("orders", 0)  # noqa: E741


WRONG: list[tuple[Any, Any, str | None, str]] = [
    (["wide"], None, "nope", "PQ040"),
    (["wide"], None, None, "PQ040"),
    (["nope"], None, "g", "PQ001"),
    ([None], None, "g", "PQ001"),
    (["wide"], [5], "g", "PQ002"),
    (["wide"], [0, 1], "g", "PQ023"),
    (None, None, "g", "PQ023"),
]


@pytest.fixture(autouse=True)
def commits(conn: Connection, topic: str, wide_topic: str) -> None:
    for offset in (1, 2):
        call(
            conn,
            "commit_offsets",
            group_id="g",
            topics=["wide", "wide", "orders"],
            partitions=[0, 1, 0],
            offsets=[offset] * 3,
        )


def delete(
    conn: Connection, topics: list[str | None] | None, partitions: Any = None, group_id: str | None = "g"
) -> int:
    arguments = {"group_id": group_id, "topics": topics, "partitions": partitions}
    return int(call(conn, "delete_group_offsets", **arguments)[0][0])


def test_partitions_and_topics(conn: Connection) -> None:
    assert delete(conn, ["wide", "wide"], [1, 3]) == 1
    assert committed(conn) == {A: 2, O: 2}
    assert delete(conn, ["wide"]) == 1
    assert committed(conn) == {O: 2}
    assert delete(conn, ["wide", "orders"], [0, None]) == 1
    assert committed(conn) == {}
    assert delete(conn, ["wide"]) == 0
    assert value(conn, "select count(*) from pgq.consumer_group") == 1


def test_topics_that_living_members_read(conn: Connection, join: Join, terminate: Callable[[int], None]) -> None:
    member = join("wide")
    assert delete(conn, ["orders"]) == 1
    with refused("PQ041"):
        delete(conn, ["orders", "wide"])
    terminate(member.pid)
    assert delete(conn, ["wide"]) == 2


def test_topics_that_a_member_has_yet_to_give_back(conn: Connection, join: Join) -> None:
    member = join("wide")
    member.claim(A)
    call(member.session, "change_subscription", member_id=member.member_id, topics=["orders"])
    with refused("PQ041"):
        delete(conn, ["wide"], [3])
    member.release(A)
    assert delete(conn, ["wide"]) == 2


def test_what_a_member_commits_late_is_refused(conn: Connection, join: Join) -> None:
    member = join("wide")
    member.claim(A, B)
    member.leave()
    delete(conn, ["wide"], [0])
    with refused("PQ036"):
        member.commit({A: 9})
    member.commit({B: 9})
    assert committed(conn) == {B: 9, O: 2}
    again = join("wide")
    again.claim(A)
    assert again.epochs[A] == 3, "epochs do not go back"


def test_refused(conn: Connection) -> None:
    for topics, partitions, group_id, sqlstate in WRONG:
        with refused(sqlstate):
            delete(conn, topics, partitions, group_id)
    assert committed(conn) == {A: 2, B: 2, O: 2}
