"""pgq.leave_group ends a membership while the session goes on."""

from __future__ import annotations

from tests.plugins.sessions import Connection, call, rows, value

from .conftest import Join, generation

A, B = ("wide", 0), ("wide", 1)


def test_the_others_have_its_partitions_at_once(conn: Connection, join: Join, wide_topic: str) -> None:
    first, second = join(wide_topic), join(wide_topic)
    first.heartbeat()
    first.claim(A, B)
    before = generation(conn)
    second.session.execute(f"listen {second.channel}")
    first.leave()
    assert rows(conn, "select member_id from pgq.group_member") == [(second.member_id,)]
    assert len(list(second.session.notifies(timeout=10, stop_after=1))) == 1
    assert second.heartbeat() == before + 1
    assert second.claim(A, B) == [A, B]
    assert value(conn, "select count(*) from pgq._group_locks() where pid = %s", first.pid) == 0


def test_a_session_may_join_again(conn: Connection, join: Join, wide_topic: str) -> None:
    first = join(wide_topic)
    first.leave()
    again = join(wide_topic, session=first.session)
    assert again.member_id != first.member_id
    assert again.claim(A) == [A]


def test_leaving_twice_changes_nothing(conn: Connection, join: Join, wide_topic: str) -> None:
    first, second = join(wide_topic), join(wide_topic)
    first.leave()
    before = generation(conn)
    first.leave()
    call(conn, "leave_group", member_id=12345)
    assert generation(conn) == before
    assert second.heartbeat() == before


def test_another_session_cannot_leave_for_it(conn: Connection, join: Join, wide_topic: str) -> None:
    first = join(wide_topic)
    first.claim(A)
    call(conn, "leave_group", member_id=first.member_id)
    assert first.heartbeat() == first.generation
    first.commit({A: 1})


def test_a_static_member_leaves_for_good(conn: Connection, join: Join, wide_topic: str) -> None:
    join(wide_topic, group_instance_id="one").leave()
    assert rows(conn, "select from pgq.group_member") == []


TIMEOUTS = (
    "select name, setting from pg_settings"
    " where name in ('idle_session_timeout', 'idle_in_transaction_session_timeout', 'tcp_keepalives_idle',"
    " 'tcp_keepalives_interval', 'tcp_keepalives_count', 'tcp_user_timeout',"
    " 'client_connection_check_interval') order by name"
)


def test_the_session_is_not_ended_any_more_for_being_silent(conn: Connection, join: Join, topic: str) -> None:
    """It has the timeouts again that it had before, be they the server's or its own, however often it has joined."""
    conn.execute("set idle_in_transaction_session_timeout = '7min'")
    before = rows(conn, TIMEOUTS)
    for _ in range(2):
        join(topic, session=conn, session_timeout_ms=5000)
        member = join(topic, session=conn, session_timeout_ms=6000)
        assert value(conn, "show idle_session_timeout") == "6s"
        member.leave()
        assert rows(conn, TIMEOUTS) == before


def test_one_that_is_rolled_back_leaves_the_timeouts(join: Join, topic: str) -> None:
    member = join(topic, session_timeout_ms=5000)
    with member.session.transaction(force_rollback=True):
        member.leave()
    assert value(member.session, "show idle_session_timeout") == "5s"


def test_another_sessions_member_changes_nothing(conn: Connection, join: Join, topic: str) -> None:
    first, second = join(topic, session_timeout_ms=5000), join(topic)
    call(first.session, "leave_group", member_id=second.member_id)
    assert value(first.session, "show idle_session_timeout") == "5s"
