"""pgq.heartbeat tells a member of changes, and has members look after each other."""

from __future__ import annotations

from collections.abc import Callable

from tests.plugins.sessions import Connection, call, rows, value

from .conftest import Join, generation

Terminate = Callable[[int], None]


def test_nothing_changes_by_itself(conn: Connection, join: Join, wide_topic: str) -> None:
    members = [join(wide_topic) for _ in range(3)]
    before = generation(conn)
    for _ in range(2):
        assert [member.heartbeat() for member in members] == [before] * 3


def test_a_stranger_is_no_member(conn: Connection, join: Join, topic: str) -> None:
    member = join(topic)
    assert call(conn, "heartbeat", member_id=member.member_id + 1) == [(None, None, None)]
    member.leave()
    assert member.heartbeat() is None


def test_a_dead_member_is_noticed_by_its_neighbour(
    conn: Connection, join: Join, topic: str, terminate: Terminate
) -> None:
    """Each looks after one other, so all heartbeats of a round find whoever has died."""
    members = sorted((join(topic) for _ in range(4)), key=lambda member: member.member_id)
    before = generation(conn)
    terminate(members[1].pid)
    alive = [members[0], members[2], members[3]]
    assert members[3].heartbeat() == members[0].heartbeat() == before, "not theirs to look after"
    assert members[2].heartbeat() == before + 1
    assert {member.heartbeat() for member in alive} == {before + 1}
    assert rows(conn, "select member_id from pgq.group_member order by 1") == [(m.member_id,) for m in alive]


def test_a_thorough_one_looks_after_all(conn: Connection, join: Join, topic: str, terminate: Terminate) -> None:
    members = sorted((join(topic) for _ in range(4)), key=lambda member: member.member_id)
    before = generation(conn)
    terminate(members[1].pid)
    assert call(members[0].session, "heartbeat", member_id=members[0].member_id, count_claims=True) == [
        (before + 1, 0, None)
    ]


def test_the_last_one_left_is_noticed_around_the_ring(
    conn: Connection, join: Join, topic: str, terminate: Terminate
) -> None:
    first, last = sorted((join(topic) for _ in range(2)), key=lambda member: member.member_id)
    before = generation(conn)
    terminate(last.pid)
    assert first.heartbeat() == before + 1
    assert first.heartbeat() == before + 1, "alone it looks after nobody"


def test_a_static_member_has_its_timeout(conn: Connection, join: Join, topic: str, terminate: Terminate) -> None:
    member, static = join(topic), join(topic, group_instance_id="one")
    before = generation(conn)
    terminate(static.pid)
    assert member.heartbeat() == before
    assert value(conn, "select count(dead_since) from pgq.group_member") == 1
    conn.execute("update pgq.group_member set dead_since = dead_since - interval '46 s' where dead_since is not null")
    assert member.heartbeat() == before + 1
    assert rows(conn, "select member_id from pgq.group_member") == [(member.member_id,)]


def test_topics_that_change(conn: Connection, join: Join, topic: str) -> None:
    member, other = join(topic, "later"), join("elsewhere")
    before = generation(conn)
    call(conn, "add_partitions", name=topic, partitions=3)
    assert other.heartbeat() == before, "it reads other topics"
    assert member.heartbeat() == before + 1
    call(conn, "create_topic", name="later")
    assert member.heartbeat() == before + 2
    call(conn, "delete_topic", name="later")
    assert member.heartbeat() == before + 3
    assert member.heartbeat() == other.heartbeat() == before + 3


def test_claims_are_counted(conn: Connection, join: Join, wide_topic: str) -> None:
    member = join(wide_topic)
    member.claim((wide_topic, 0), (wide_topic, 3))
    arguments = {"member_id": member.member_id, "count_claims": True}
    assert call(member.session, "heartbeat", **arguments) == [(member.generation, 2, None)]
    member.session.execute("select pg_advisory_unlock_all()")
    assert call(member.session, "heartbeat", **arguments)[0][1] == 0


def test_a_heartbeat_waits_for_nobody(conn: Connection, join: Join, topic: str, terminate: Terminate) -> None:
    """Somebody who has the group's row, as one who joins, is about to see the same."""
    member, dead = join(topic), join(topic)
    terminate(dead.pid)
    member.session.execute("set statement_timeout = '5s'")
    with conn.transaction():
        conn.execute("select from pgq.consumer_group for update")
        assert member.heartbeat() == dead.generation
    assert member.heartbeat() == dead.generation + 1


def test_when_the_next_delayed_record_is_due(
    conn: Connection, connect: Callable[[], Connection], join: Join, topic: str
) -> None:
    """A member then calls pgq.deliver_due."""
    member = join(topic)

    def next_due_ms() -> int | None:
        ((_, _, result),) = call(member.session, "heartbeat", member_id=member.member_id)
        return None if result is None else int(result)

    assert next_due_ms() is None
    conn.execute("select pgq.produce_delayed('orders', 'v', now() + interval '1 hour')")
    later = next_due_ms()
    assert later is not None
    assert 3_590_000 < later <= 3_600_000
    slow = connect()
    slow.execute("begin")
    slow.execute("select pgq.produce_delayed('orders', 'v', now())")
    conn.execute("select pgq.produce_delayed('orders', 'v', now())")
    soon = next_due_ms()
    assert soon is not None
    assert soon <= 0
    call(conn, "deliver_due")
    assert next_due_ms() == 500, "a transaction that has sent one is open"
    slow.execute("rollback")
    call(conn, "deliver_due")
    again = next_due_ms()
    assert again is not None
    assert 3_590_000 < again <= later
