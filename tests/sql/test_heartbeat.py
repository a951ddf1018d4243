"""pgq.heartbeat tells a member of changes, and has members look after each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tests.plugins.sessions import Connection, call, eventually, rows, value

from .conftest import Join, Member, generation

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


def beats_until_alone(member: Member, conn: Connection) -> float:
    """Beat twice as often as a client until the other member is removed; return after how many seconds it was."""
    started = time.monotonic()

    def alone() -> bool:
        member.heartbeat()
        time.sleep(0.25)
        return bool(value(conn, "select count(*) from pgq.group_member") == 1)

    eventually(alone)
    return time.monotonic() - started


def test_a_silent_static_member_has_its_timeout_once(conn: Connection, join: Join, topic: str) -> None:
    """The server ends its session after it, and its place is not kept for another one."""
    member = join(topic)
    join(topic, group_instance_id="one", session_timeout_ms=3000)
    assert 2.9 < beats_until_alone(member, conn) < 5


def test_those_behind_a_silent_one_are_looked_after_as_well(conn: Connection, join: Join, topic: str) -> None:
    """Whoever would notice is silent itself."""
    member = join(topic)
    for number in range(4):
        join(topic, group_instance_id=f"s{number}", session_timeout_ms=3000)
    assert 2.9 < beats_until_alone(member, conn) < 6


def test_a_static_member_that_goes_has_its_timeout_from_then_on(
    conn: Connection, join: Join, topic: str, terminate: Terminate
) -> None:
    member, static = join(topic), join(topic, group_instance_id="one", session_timeout_ms=2000)
    ended = time.monotonic() + 1.5
    while time.monotonic() < ended:  # as long as it lives it may be noticed, but is not silent
        static.heartbeat()
        member.heartbeat()
        time.sleep(0.1)
    terminate(static.pid)
    assert 1.9 < beats_until_alone(member, conn) < 4


def test_a_static_member_that_goes_on_is_not_silent_any_more(
    conn: Connection, join: Join, topic: str, terminate: Terminate
) -> None:
    member, static = join(topic), join(topic, group_instance_id="one", session_timeout_ms=3000)
    before = generation(conn)

    def noted() -> bool:
        member.heartbeat()
        return bool(value(conn, "select count(dead_since) from pgq.group_member") == 1)

    eventually(noted)
    assert rows(conn, "select alive, dead_since from pgq.member_status where group_instance_id = 'one'") == [
        (True, None)
    ], "that is no death yet"
    assert static.heartbeat() == before
    assert not noted()
    assert member.heartbeat() == before, "nobody has to work out anything anew"
    terminate(static.pid)
    assert 2.9 < beats_until_alone(member, conn) < 5


def test_a_static_member_shows_its_heartbeats_by_one_lock(conn: Connection, join: Join, topic: str) -> None:
    static, other = join(topic, group_instance_id="one", session_timeout_ms=1000), join(topic)
    held = "select count(*) from pg_locks where locktype = 'advisory' and classid::bigint >> 26 = 31 and pid = %s"
    for _ in range(10):
        static.heartbeat()
        assert value(conn, held, static.pid) == 1
        time.sleep(0.08)  # beats are an eighth of a second
    with static.session.transaction(force_rollback=True):
        time.sleep(0.15)
        static.heartbeat()
    static.heartbeat()
    assert value(conn, held, static.pid) == 1
    call(conn, "heartbeat", member_id=static.member_id)
    other.heartbeat()
    assert value(conn, held.replace("= %s", "<> %s"), static.pid) == 0, "nobody does it for another"
    static.leave()
    assert value(conn, held, static.pid) == 0


def test_a_member_that_comes_back_at_once_is_not_removed(
    conn: Connection, join: Join, topic: str, terminate: Terminate
) -> None:
    lost, other = join(topic), join(topic)
    before = generation(conn)
    terminate(lost.pid)
    found: list[int | None] = []
    beating = threading.Thread(target=lambda: found.append(other.heartbeat()))
    beating.start()
    eventually(
        lambda: bool(value(conn, "select wait_event = 'PgSleep' from pg_stat_activity where pid = %s", other.pid))
    )
    back = join(topic, previous_member_id=lost.member_id)
    beating.join()
    assert found == [before]
    assert (back.member_id, back.generation) == (lost.member_id, before)


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
