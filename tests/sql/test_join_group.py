"""pgq.join_group makes a session a member of a group."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.plugins.sessions import Connection, call, eventually, refused, rows, value

from .conftest import Join, committed, generation

Connect = Callable[[], Connection]
Terminate = Callable[[int], None]
PARTITIONS = [("wide", partition) for partition in range(5)]


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


def test_a_static_member_that_still_lives_is_ended(conn: Connection, join: Join, wide_topic: str) -> None:
    """Its process is stopped, or its host is gone: the one that takes its place has the partitions at once."""
    stopped = join(wide_topic, group_instance_id="one")
    assert stopped.claim(*PARTITIONS) == PARTITIONS
    replacement = join(wide_topic, group_instance_id="one")
    assert replacement.generation == stopped.generation, "nobody else has to work out anything anew"
    assert replacement.claim(*PARTITIONS) == PARTITIONS
    with pytest.raises(psycopg.errors.AdminShutdown):
        stopped.heartbeat()
    # it goes on, and is not to end the one that has its place
    with refused("PQ038"):
        join(wide_topic, group_instance_id="one", previous_member_id=stopped.member_id)
    with refused("PQ036"):
        stopped.commit({PARTITIONS[0]: 1}, conn)
    replacement.commit(dict.fromkeys(PARTITIONS, 1))


def test_a_static_member_in_the_middle_of_a_transaction_is_ended(conn: Connection, join: Join, wide_topic: str) -> None:
    stopped = join(wide_topic, group_instance_id="one")
    stopped.claim(PARTITIONS[0])
    stopped.session.execute("begin")
    stopped.commit({PARTITIONS[0]: 7})
    replacement = join(wide_topic, group_instance_id="one")
    assert replacement.claim(PARTITIONS[0]) == PARTITIONS[:1]
    assert rows(conn, "select from pgq.committed_offset") == []


def test_what_may_not_be_ended_is_left(conn: Connection, watcher: Connection, join: Join, wide_topic: str) -> None:
    """A superuser's session: it is no member any more, and holds its claims until it notices."""
    stopped = join(wide_topic, session=watcher, group_instance_id="one")
    stopped.claim(PARTITIONS[0])
    replacement = join(wide_topic, group_instance_id="one")
    assert replacement.claim(*PARTITIONS[:2]) == PARTITIONS[1:2]
    assert stopped.heartbeat() is None
    stopped.leave()
    assert replacement.claim(PARTITIONS[0]) == PARTITIONS[:1]


def test_only_the_member_itself_is_ended(
    conn: Connection, join: Join, connect: Connect, topic: str, terminate: Terminate
) -> None:
    """By now its pid is that of another session, or of another member."""
    static, stranger, other = join(topic, group_instance_id="one"), connect(), join(topic)
    terminate(static.pid)
    for pid in (stranger.info.backend_pid, other.pid):
        conn.execute("update pgq.group_member set pid = %s where group_instance_id = 'one'", [pid])
        again = join(topic, group_instance_id="one")
        terminate(again.pid)
    assert value(stranger, "select 1") == 1
    assert other.heartbeat() is not None


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


# a member whose session was lost


def test_a_member_whose_session_was_lost_is_the_same_again(
    conn: Connection, join: Join, wide_topic: str, terminate: Terminate
) -> None:
    first, second = join(wide_topic), join(wide_topic)
    first.heartbeat()
    first.claim(*PARTITIONS[:2])
    first.commit({PARTITIONS[0]: 1})
    terminate(first.pid)
    back = join(wide_topic, previous_member_id=first.member_id, client_id="again")
    assert back.member_id == first.member_id
    assert back.generation == first.generation, "nobody has to work out anything anew"
    assert second.heartbeat() == first.generation
    found = rows(conn, "select pid, client_id, alive from pgq.member_status where member_id = %s", first.member_id)
    assert found == [(back.pid, "again", True)]
    # what it held went with its session
    assert back.claim(PARTITIONS[0]) == PARTITIONS[:1]
    assert back.epochs == {PARTITIONS[0]: 2}
    with refused("PQ036"):
        first.commit({PARTITIONS[0]: 9}, conn)
    back.commit({PARTITIONS[0]: 2})
    first.epochs[PARTITIONS[0]] = 0
    with refused("PQ036"):
        first.commit({PARTITIONS[0]: 9}, conn)
    assert committed(conn) == {PARTITIONS[0]: 2}


def test_one_that_has_been_removed_has_its_name_again(
    conn: Connection, join: Join, wide_topic: str, terminate: Terminate
) -> None:
    lost, other = join(wide_topic), join(wide_topic)
    terminate(lost.pid)
    assert other.heartbeat() == other.generation == lost.generation + 2
    back = join(wide_topic, previous_member_id=lost.member_id)
    assert (back.member_id, back.generation) == (lost.member_id, other.generation + 1)


def test_one_that_reads_something_else_by_now(
    conn: Connection, join: Join, topic: str, wide_topic: str, terminate: Terminate
) -> None:
    member = join(topic)
    terminate(member.pid)
    other = join(topic, wide_topic, previous_member_id=member.member_id)
    assert (other.member_id, other.generation) == (member.member_id, member.generation + 1)
    terminate(other.pid)
    call(conn, "add_partitions", name=topic, partitions=2)
    grown = join(topic, wide_topic, previous_member_id=member.member_id)
    assert (grown.member_id, grown.generation) == (member.member_id, other.generation + 1)


def test_a_static_member_whose_topic_has_grown_meanwhile(
    conn: Connection, join: Join, topic: str, terminate: Terminate
) -> None:
    static = join(topic, group_instance_id="one")
    terminate(static.pid)
    call(conn, "add_partitions", name=topic, partitions=2)
    assert join(topic, group_instance_id="one").generation == static.generation + 1


def test_somebody_elses_id_is_not_to_be_had(conn: Connection, join: Join, topic: str, terminate: Terminate) -> None:
    alive, elsewhere, static = join(topic), join(topic, group_id="other"), join(topic, group_instance_id="one")
    left = {"g": generation(conn), "other": generation(conn, "other")}
    terminate(elsewhere.pid)
    terminate(static.pid)
    for taken in (alive.member_id, elsewhere.member_id, static.member_id, -1, 2**52, 2**60, alive.member_id + 2**52):
        assert join(topic, previous_member_id=taken).member_id not in (taken, alive.member_id)
    assert alive.heartbeat() is not None
    assert generation(conn, "other") == left["other"]
    kept = {elsewhere.member_id, static.member_id, alive.member_id}
    assert kept <= set(names(conn))
    held = "select count(*) from pgq._group_locks() where member_id = any (%s)"
    assert value(conn, held, [elsewhere.member_id, static.member_id]) == 0, "they stay dead"


def test_of_two_who_say_they_are_the_same_one_is(
    conn: Connection, join: Join, topic: str, terminate: Terminate
) -> None:
    lost = join(topic)
    terminate(lost.pid)
    first, second = (join(topic, previous_member_id=lost.member_id) for _ in range(2))
    assert first.member_id == lost.member_id != second.member_id
    assert first.heartbeat() == second.heartbeat() == second.generation


def test_a_member_of_a_group_that_was_deleted(conn: Connection, join: Join, topic: str, terminate: Terminate) -> None:
    lost = join(topic)
    terminate(lost.pid)
    call(conn, "delete_group", group_id="g")
    back = join(topic, previous_member_id=lost.member_id)
    assert (back.member_id, back.generation) == (lost.member_id, 1)


def test_a_session_that_joins_anew_may_be_the_same(conn: Connection, join: Join, topic: str) -> None:
    """A call was interrupted, so that the client does not know that it has joined."""
    first = join(topic)
    again = join(topic, session=first.session, previous_member_id=first.member_id)
    assert again.member_id == first.member_id
    assert names(conn) == [first.member_id]
    again.leave()
    assert rows(conn, "select from pgq._group_locks()") == []


def test_those_that_were_lost_at_once_wait_for_each_other(
    conn: Connection, join: Join, connect: Connect, topic: str, terminate: Terminate
) -> None:
    """As after a failover: the first that is back does not remove the others."""
    lost = [join(topic) for _ in range(5)]
    for member in lost:
        terminate(member.pid)
    with ThreadPoolExecutor(5) as pool:
        back = list(
            pool.map(
                lambda m: join(topic, session=m[0], previous_member_id=m[1].member_id), [(connect(), m) for m in lost]
            )
        )
    assert [member.member_id for member in back] == [member.member_id for member in lost]
    assert {member.generation for member in back} == {lost[-1].generation} == {generation(conn)}


def test_one_that_is_interrupted_stays_dead(conn: Connection, join: Join, topic: str, terminate: Terminate) -> None:
    lost, dead, other = join(topic), join(topic), join(topic)
    terminate(lost.pid)
    terminate(dead.pid)  # for which a join waits
    conn.execute("set statement_timeout = '100ms'")
    with refused("57014"):
        join(topic, session=conn, previous_member_id=lost.member_id)
    conn.execute("reset statement_timeout")
    assert value(conn, "select count(*) from pgq._group_locks()") == 1
    other.heartbeat()
    assert names(conn) == [other.member_id]


def test_one_that_is_refused_stays_dead(conn: Connection, join: Join, topic: str, terminate: Terminate) -> None:
    lost, other = join(topic), join(topic)
    terminate(lost.pid)
    with refused("PQ037"):
        join(topic, previous_member_id=lost.member_id, assignor="sticky")
    assert other.heartbeat() == other.generation
    assert names(conn) == [other.member_id]


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
