"""pgq.group_assignment gives every member the same to work out the assignment from."""

from __future__ import annotations

from typing import Any

from tests.plugins.sessions import Connection, call, value

from .conftest import Join, MakeTopic, Member


def assignment(member: Member) -> Any:
    return call(member.session, "group_assignment", member_id=member.member_id)[0]


def test_members_and_topics(conn: Connection, join: Join, make_topic: MakeTopic) -> None:
    make_topic("wide", 3)
    make_topic("orders")
    make_topic("unread")
    one = join("wide", "later", assignor="sticky")
    two = join("wide", "orders", assignor="sticky", group_instance_id="reader-2")
    ids = {t: value(conn, "select topic_id from pgq.topic where name = %s", t) for t in ("wide", "orders")}
    generation, assignor, members, topics = assignment(one)
    assert (generation, assignor) == (two.generation, "sticky")
    assert members == sorted(
        [
            [one.member_id, str(one.member_id), ["wide", "later"]],
            [two.member_id, "reader-2", ["wide", "orders"]],
        ]
    )
    assert topics == {"wide": [ids["wide"], [1, 2, 3]], "orders": [ids["orders"], [4]]}
    assert assignment(two) == assignment(one)


def test_topics_that_cannot_be_used_are_left_out(conn: Connection, join: Join, topic: str) -> None:
    member = join(topic, "half")
    conn.execute("select pgq.create_topic_step('half', 60)")
    assert list(assignment(member)[3]) == [topic]
    none = join("half", group_id="other")
    assert assignment(none)[3] is None


def test_partitions_that_are_still_being_added_are_left_out(conn: Connection, join: Join, topic: str) -> None:
    member = join(topic)
    assert value(conn, "select pgq.add_partitions_step('orders', 40)") > 0
    assert assignment(member)[3] == {"orders": [1, [1]]}


def test_somebody_who_is_no_member(conn: Connection, join: Join, topic: str) -> None:
    member = join(topic)
    member.leave()
    assert assignment(member) == (None, None, None, None)
