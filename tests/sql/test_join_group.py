"""pgq.join_group makes a session a member of a group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.plugins.sessions import Connection, call, eventually, refused, rows, value

from .conftest import Join, generation

Connect = Callable[[], Connection]
Terminate = Callable[[int], None]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"group_id": ""}, "PQ019"),
    ({"group_id": "x" * 250}, "PQ019"),
    ({"group_id": None}, "PQ019"),
    ({"session_timeout_ms": 999}, "PQ023"),
    ({"session_timeout_ms": 1_800_001}, "PQ023"),
    ({"session_timeout_ms": None}, "PQ023"),
    ({"group_instance_id": ""}, "PQ023"),
    ({"group_instance_id": "x" * 250}, "PQ023"),
    ({"assignor": ""}, "PQ023"),
    ({"assignor": None}, "PQ023"),
    ({"topics": None}, "PQ023"),
    ({"topics": ["orders", None]}, "PQ023"),
]


def names(conn: Connection) -> list[Any]:
    return [row[0] for row in rows(conn, "select member_id from pgq.group_member order by joined_at")]


def test_a_member_is_written_down(conn: Connection, join: Join, topic: str) -> None:
    member = join(topic, session_timeout_ms=5000, client_id="billing-1", group_instance_id="one", assignor="sticky")
    assert rows(
        conn,
        "select member_id, group_instance_id, client_id, topics, session_timeout_ms, pid, dead_since"
        " from pgq.group_member",
    ) == [(member.member_id, "one", "billing-1", [topic], 5000, member.pid, None)]
    assert rows(conn, "select name, assignor, generation from pgq.consumer_group") == [
        ("g", "sticky", member.generation)
    ]
    assert 0 <= member.member_id < 2**53, "JSON has it exactly"


def test_every_join_raises_the_generation_and_wakes_the_others(conn: Connection, join: Join, topic: str) -> None:
    first = join(topic)
    first.session.execute(f"listen {first.channel}")
    second = join(topic)
    assert second.member_id != first.member_id
    assert second.channel == first.channel
    assert second.generation == generation(conn) == first.generation + 1
    assert [n.channel for n in first.session.notifies(timeout=10, stop_after=1)] == [first.channel]
    other = join(topic, group_id="other")
    assert other.channel != first.channel
    assert generation(conn) == second.generation, "groups are apart"


def test_the_server_ends_a_session_that_falls_silent(conn: Connection, join: Join, topic: str) -> None:
    member = join(topic, session_timeout_ms=1000)
    for setting, expected in {
        "idle_session_timeout": "1s",
        "idle_in_transaction_session_timeout": "1s",
        "client_connection_check_interval": "1s",
    }.items():
        assert value(member.session, f"show {setting}") == expected
    alive = "select exists (select from pg_stat_activity where pid = %s)"
    assert value(conn, alive, member.pid)
    eventually(lambda: not value(conn, alive, member.pid), time_limit_s=5)


def test_members_that_died_are_removed(conn: Connection, join: Join, topic: str, terminate: Terminate) -> None:
    dead, alive = join(topic), join(topic)
    terminate(dead.pid)
    assert names(conn) == [dead.member_id, alive.member_id]
    new = join(topic)
    assert names(conn) == [alive.member_id, new.member_id]


def test_a_static_member_takes_its_place_again(conn: Connection, join: Join, topic: str, terminate: Terminate) -> None:
    other, static = join(topic), join(topic, group_instance_id="one")
    terminate(static.pid)
    back = join(topic, group_instance_id="one")
    assert names(conn) == [other.member_id, back.member_id]
    assert back.generation == static.generation, "nobody has to work out anything anew"
    changed = join(topic, "more", group_instance_id="one")
    assert changed.generation == back.generation + 1
    assert back.heartbeat() is None, "who had the place before is no member any more"


def test_a_dead_static_member_is_kept_for_its_timeout(
    conn: Connection, join: Join, topic: str, terminate: Terminate
) -> None:
    static = join(topic, group_instance_id="one")
    terminate(static.pid)
    second = join(topic)
    assert names(conn) == [static.member_id, second.member_id]
    assert value(conn, "select dead_since is not null from pgq.group_member where member_id = %s", static.member_id)
    conn.execute("update pgq.group_member set dead_since = dead_since - interval '46 s' where dead_since is not null")
    third = join(topic)
    assert names(conn) == [second.member_id, third.member_id]


def test_assignors_must_agree(conn: Connection, join: Join, connect: Connect, topic: str) -> None:
    member = join(topic)
    with refused("PQ037"):
        join(topic, assignor="sticky")
    assert generation(conn) == member.generation
    member.leave()
    join(topic, assignor="sticky")
    assert value(conn, "select assignor from pgq.consumer_group") == "sticky"


def test_topics_need_not_exist(conn: Connection, join: Join) -> None:
    assert join("later").generation == 1
    assert join().generation == 2


def test_a_join_that_is_rolled_back_leaves_no_member(conn: Connection, connect: Connect, topic: str) -> None:
    session = connect()
    with session.transaction(force_rollback=True):
        call(session, "join_group", group_id="g", topics=[topic])
    assert rows(conn, "select from pgq.group_member") == []


def test_nobody_waits_for_an_open_commit(conn: Connection, join: Join, connect: Connect, topic: str) -> None:
    """A transaction of the application may take its time: others come and go meanwhile."""
    busy, going, application = join(topic), join(topic), connect()
    busy.heartbeat()
    busy.claim((topic, 0))
    for session in (conn, going.session):
        session.execute("set statement_timeout = '3s'")
    with application.transaction():
        busy.commit({(topic, 0): 1}, application)
        going.leave()
        come = join(topic, session=going.session)
        assert come.generation == generation(conn) == busy.generation + 2
        call(conn, "create_topic", name="more")
        call(going.session, "change_subscription", member_id=come.member_id, topics=[topic, "more"])
        call(conn, "add_partitions", name="more", partitions=2)
        assert come.heartbeat() == busy.generation + 4


def test_refused(conn: Connection, topic: str) -> None:
    for arguments, sqlstate in WRONG:
        with refused(sqlstate):
            call(conn, "join_group", **({"group_id": "g", "topics": [topic]} | arguments))
    assert rows(conn, "select from pgq.group_member") == []
