"""pgq.keep_partitions gives back everything that a session holds but what is named."""

from __future__ import annotations

from tests.plugins.sessions import Connection, call, rows

from .conftest import Join, Member, Partition

A, B, C = ("wide", 0), ("wide", 1), ("wide", 2)


def keep(member: Member, *kept: Partition, session: Connection | None = None) -> None:
    arrays = {"topics": [t for t, _ in kept], "partitions": [p for _, p in kept]}
    call(session or member.session, "keep_partitions", member_id=member.member_id, **arrays)


def held(conn: Connection) -> list[int]:
    return [
        row[0] for row in rows(conn, "select partition_id from pgq._group_locks() where partition_id > 0 order by 1")
    ]


def test_the_others_are_given_back(conn: Connection, join: Join, wide_topic: str) -> None:
    first, second = join(wide_topic), join(wide_topic)
    first.heartbeat()
    first.claim(A, B, C)
    second.session.execute(f"listen {second.channel}")
    keep(first, B, ("wide", 3), ("nope", 0))
    assert held(conn) == [2], "what was not held is not claimed"
    assert len(list(second.session.notifies(timeout=10, stop_after=1))) == 1
    assert second.claim(A, B, C) == [A, C]
    first.commit({B: 1})
    keep(first)
    assert held(conn) == [1, 3]


def test_those_of_deleted_topics_go(conn: Connection, join: Join, topic: str, wide_topic: str) -> None:
    member = join(topic, wide_topic)
    member.claim((topic, 0), A)
    call(conn, "delete_topic", name=topic)
    keep(member, (topic, 0), A)
    assert held(conn) == [2]


def test_another_session_cannot_give_them_back(conn: Connection, join: Join, wide_topic: str) -> None:
    member = join(wide_topic)
    member.claim(A)
    keep(member, session=conn)
    assert held(conn) == [1]
