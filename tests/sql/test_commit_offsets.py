"""pgq.commit_offsets stores how far a group has come, and pgq.committed_offsets tells it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.plugins.sessions import ISOLATION_LEVELS, Connection, call, refused, rows, value


def commit(conn: Connection, offsets: dict[tuple[str, int], int], group: str | None = "g", **more: Any) -> None:
    call(
        conn,
        "commit_offsets",
        group_id=group,
        topics=[topic for topic, _ in offsets],
        partitions=[partition for _, partition in offsets],
        offsets=list(offsets.values()),
        **more,
    )


def committed(conn: Connection, group: str = "g") -> dict[tuple[str, int], int]:
    return {
        (topic, partition): offset
        for topic, partition, offset in rows(
            conn, 'select topic, partition, "offset" from pgq.committed_offsets(%s)', group
        )
    }


@pytest.fixture(autouse=True)
def topics(topic: str, wide_topic: str) -> tuple[str, str]:
    return topic, wide_topic


def test_nothing_is_committed_at_first(conn: Connection) -> None:
    assert committed(conn) == {}


def test_the_newest_commit_counts(conn: Connection) -> None:
    commit(conn, {("orders", 0): 5, ("wide", 1): 7})
    commit(conn, {("wide", 1): 8})
    commit(conn, {("orders", 0): 3})
    assert committed(conn) == {("orders", 0): 3, ("wide", 1): 8}


def test_groups_are_apart(conn: Connection) -> None:
    for number, group in enumerate(["g", "G", "ü", " ", "a" * 249, "it's", "x/y\n"]):
        commit(conn, {("orders", 0): number}, group)
    for number, group in enumerate(["g", "G", "ü", " ", "a" * 249, "it's", "x/y\n"]):
        assert committed(conn, group) == {("orders", 0): number}


def test_only_the_partitions_asked_for_are_returned(conn: Connection) -> None:
    commit(conn, {("wide", 1): 1, ("wide", 2): 2, ("orders", 0): 3})
    query = "select topic, partition from pgq.committed_offsets('g', %s::text[], %s::int[])"
    assert rows(conn, query, ["wide", "orders"], [2, 0]) == [("orders", 0), ("wide", 2)]
    assert rows(conn, query, ["wide", "nope"], [4, 0]) == []
    assert rows(conn, query, [], []) == []


def test_metadata(conn: Connection) -> None:
    commit(conn, {("wide", 0): 1, ("wide", 1): 2, ("wide", 2): 3}, metadata=["x" * 4096, None, "it's"])
    assert rows(conn, "select metadata from pgq.committed_offsets('g')") == [("x" * 4096,), ("",), ("it's",)]


def test_nothing_to_commit(conn: Connection) -> None:
    commit(conn, {})
    assert committed(conn) == {}


def test_many_commits_leave_few_rows(conn: Connection) -> None:
    for number in range(300):
        commit(conn, {("wide", number % 2): number})
    assert committed(conn) == {("wide", 0): 298, ("wide", 1): 299}
    assert value(conn, "select count(*) from pgq.committed_offset") <= 2 * 130


@pytest.mark.parametrize("isolation", ISOLATION_LEVELS)
def test_commit_joins_the_transaction(conn: Connection, connect: Callable[[], Connection], isolation: str) -> None:
    commit(conn, {("orders", 0): 1})
    worker = connect()
    for end, expected in (("rollback", 1), ("commit", 2)):
        worker.execute(f"begin isolation level {isolation}")
        commit(worker, {("orders", 0): 2})
        call(worker, "produce", topic="wide", value=b"result")
        assert committed(worker) == {("orders", 0): 2}
        assert committed(conn) == {("orders", 0): 1}
        worker.execute(end)
        assert committed(conn) == {("orders", 0): expected}


def test_offset_is_not_compared_with_the_log(conn: Connection) -> None:
    commit(conn, {("orders", 0): 2**63 - 1})
    assert committed(conn) == {("orders", 0): 2**63 - 1}


@pytest.mark.parametrize("group", ["", "a" * 250, None])
def test_bad_group_id_is_refused(conn: Connection, group: str | None) -> None:
    with refused("PQ019"):
        commit(conn, {("orders", 0): 1}, group)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"offsets": [-1]}, id="negative"),
        pytest.param({"offsets": [None]}, id="null offset"),
        pytest.param({"offsets": [1, 2]}, id="more offsets"),
        pytest.param({"offsets": []}, id="fewer offsets"),
        pytest.param({"offsets": None}, id="no offsets"),
        pytest.param({"partitions": [0, 0]}, id="more partitions"),
        pytest.param({"partitions": None}, id="no partitions"),
        pytest.param({"topics": None}, id="no topics"),
        pytest.param({"metadata": ["a", "b"]}, id="more metadata"),
        pytest.param({"metadata": ["x" * 4097]}, id="metadata too long"),
        pytest.param({"metadata": ["ü" * 2049]}, id="metadata too long in bytes"),
    ],
)
def test_bad_commit_is_refused(conn: Connection, arguments: dict[str, Any]) -> None:
    good = {"group_id": "g", "topics": ["orders"], "partitions": [0], "offsets": [1]}
    with refused("PQ020"):
        call(conn, "commit_offsets", **(good | arguments))
    assert committed(conn) == {}


@pytest.mark.parametrize(
    "topic_name, partition, sqlstate",
    [
        ("nope", 0, "PQ001"),
        (None, 0, "PQ001"),
        ("orders", 1, "PQ002"),
        ("orders", -1, "PQ002"),
        ("orders", None, "PQ002"),
    ],
)
def test_unknown_topic_or_partition_is_refused(
    conn: Connection, topic_name: str | None, partition: int | None, sqlstate: str
) -> None:
    with refused(sqlstate):
        conn.execute(
            "select pgq.commit_offsets('g', array['wide', %s::text], array[0, %s::int], '{1,1}')",
            [topic_name, partition],
        )
    assert committed(conn) == {}, "all or nothing"
