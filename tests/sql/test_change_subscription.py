"""pgq.change_subscription lets a member read other topics."""

from __future__ import annotations

from tests.plugins.sessions import Connection, call, refused, rows

from .conftest import Join, generation


def change(conn: Connection, member_id: int, topics: list[str | None] | None) -> None:
    call(conn, "change_subscription", member_id=member_id, topics=topics)


def test_the_group_works_out_the_assignment_anew(conn: Connection, join: Join, topic: str, wide_topic: str) -> None:
    first, second = join(topic), join(topic)
    before = generation(conn)
    second.session.execute(f"listen {second.channel}")
    change(first.session, first.member_id, [wide_topic, topic])
    assert len(list(second.session.notifies(timeout=10, stop_after=1))) == 1
    assert second.heartbeat() == first.heartbeat() == before + 1, "its own heartbeat finds nothing more to change"
    found = rows(conn, "select topics from pgq.group_member where member_id = %s", first.member_id)
    assert found == [([wide_topic, topic],)]


def test_what_it_read_before_concerns_it_no_more(conn: Connection, join: Join, topic: str, wide_topic: str) -> None:
    member = join(topic)
    change(member.session, member.member_id, [wide_topic])
    before = generation(conn)
    call(conn, "add_partitions", name=topic, partitions=2)
    assert member.heartbeat() == before
    call(conn, "add_partitions", name=wide_topic, partitions=6)
    assert member.heartbeat() == before + 1


def test_nothing_at_all(conn: Connection, join: Join, topic: str) -> None:
    member = join(topic)
    change(member.session, member.member_id, [])
    assert rows(conn, "select topics from pgq.group_member") == [([],)]


def test_no_topics(join: Join, topic: str) -> None:
    member = join(topic)
    for topics in (None, [topic, None]):
        with refused("PQ023"):
            change(member.session, member.member_id, topics)


def test_somebody_who_is_no_member(conn: Connection, join: Join, topic: str) -> None:
    member = join(topic)
    member.leave()
    with refused("PQ035"):
        change(member.session, member.member_id, [topic])


def test_another_session_cannot_change_it(conn: Connection, join: Join, topic: str, wide_topic: str) -> None:
    member, other = join(topic), join(topic)
    before = generation(conn)
    for session in (conn, other.session):
        with refused("PQ035"):
            change(session, member.member_id, [wide_topic])
    assert generation(conn) == before
    assert rows(conn, "select topics from pgq.group_member") == [([topic],), ([topic],)]
