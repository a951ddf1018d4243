"""pgq.group_status, pgq.member_status and pgq.group_partition_status: what an operator sees of consumer groups."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.plugins.sessions import Connection, call, rows, value

from .conftest import Join, MakeTopic

Connect = Callable[[], Connection]
Terminate = Callable[[int], None]
A, B, C = ("wide", 0), ("wide", 1), ("wide", 2)


def groups(conn: Connection, columns: str = "group_id, state, members, partitions") -> list[tuple[Any, ...]]:
    return rows(conn, f"select {columns} from pgq.group_status order by group_id")


def partitions(conn: Connection, columns: str) -> dict[tuple[str, int], tuple[Any, ...]]:
    found = rows(conn, f"select topic, partition, {columns} from pgq.group_partition_status where group_id = 'g'")
    assert len({row[:2] for row in found}) == len(found), "a row a partition"
    return {(topic, partition): tuple(rest) for topic, partition, *rest in found}


def commit(conn: Connection, offsets: dict[tuple[str, int], int], group_id: str = "g") -> None:
    arguments = {"topics": [t for t, _ in offsets], "partitions": [p for _, p in offsets]}
    call(conn, "commit_offsets", group_id=group_id, **arguments, offsets=list(offsets.values()))


@pytest.fixture
def wide(make_topic: MakeTopic) -> str:
    return make_topic("wide", 3)


# pgq.group_status


def test_states(conn: Connection, join: Join, terminate: Terminate, wide: str) -> None:
    commit(conn, {A: 0}, "idle")
    first = join(wide)
    assert groups(conn) == [("g", "Rebalancing", 1, 0), ("idle", "Empty", 0, 0)]
    first.claim(A, B)
    assert groups(conn)[0] == ("g", "Rebalancing", 1, 2)
    first.claim(C)
    assert groups(conn)[0] == ("g", "Stable", 1, 3)
    second = join(wide, "nope", group_instance_id="one")
    assert groups(conn)[0] == ("g", "Stable", 2, 3)
    second.heartbeat()
    first.release(C)
    assert groups(conn)[0] == ("g", "Rebalancing", 2, 2)
    second.claim(C)
    assert groups(conn)[0] == ("g", "Stable", 2, 3)
    terminate(second.pid)
    assert groups(conn)[0] == ("g", "Rebalancing", 1, 2), "nobody has noticed yet, but the lock table knows"
    call(conn, "add_partitions", name=wide, partitions=4)
    first.heartbeat()
    first.claim(C)
    assert groups(conn)[0] == ("g", "Rebalancing", 1, 3)
    first.claim(("wide", 3))
    assert groups(conn)[0] == ("g", "Stable", 1, 4)
    first.leave()
    assert groups(conn)[0] == ("g", "Empty", 0, 0)
    assert groups(conn, "assignor, generation") == [
        ("range", value(conn, "select max(generation) from pgq.consumer_group")),
        (None, 0),
    ]


def test_what_is_held_by_one_who_is_no_member_is_not_stable(
    conn: Connection, watcher: Connection, join: Join, topic: str
) -> None:
    fenced = join(topic, session=watcher, group_instance_id="one")  # which the other may not end
    fenced.claim((topic, 0))
    join(topic, group_instance_id="one")
    assert groups(conn) == [("g", "Rebalancing", 1, 0)]
    assert partitions(conn, "pid, member_id, epoch, claimed_at") == {(topic, 0): (fenced.pid, None, None, None)}
    fenced.leave()
    assert partitions(conn, "pid, member_id") == {(topic, 0): (None, None)}


def test_lag_of_a_group(conn: Connection, topic: str, wide: str, fill: Callable[..., None]) -> None:
    fill(topic, 10)
    fill(wide, 5)
    commit(conn, {(topic, 0): 4, A: 2, B: 0})
    call(conn, "join_group", group_id="new", topics=[wide])
    assert groups(conn, "group_id, lag") == [("g", 9), ("new", None)]
    ages = {partition: age for partition, (age,) in partitions(conn, "time_lag").items()}
    assert ages[B] == timedelta(0)
    assert min(ages[topic, 0], ages[A]) > timedelta(0)
    older = "select time_lag >= %s from pgq.group_status where group_id = 'g'"
    assert value(conn, older, max(ages.values())), "the longest of all"


# pgq.member_status


def test_members(conn: Connection, join: Join, terminate: Terminate, topic: str, wide: str) -> None:
    one = join(wide, topic, client_id="billing", session_timeout_ms=9000)
    two = join(wide, group_instance_id="reader-2")
    elsewhere = join(topic, group_id="other")
    assert one.heartbeat() is not None
    one.claim((topic, 0), C, A)
    elsewhere.claim((topic, 0))
    query = (
        "select group_id, member_id, group_instance_id, client_id, pid, alive, session_timeout_ms, topics, partitions,"
        " assignment from pgq.member_status order by joined_at"
    )
    held = {"orders": [0], "wide": [0, 2]}
    assert rows(conn, query) == [
        ("g", one.member_id, None, "billing", one.pid, True, 9000, [wide, topic], 3, held),
        ("g", two.member_id, "reader-2", "", two.pid, True, 45000, [wide], 0, {}),
        ("other", elsewhere.member_id, None, "", elsewhere.pid, True, 45000, [topic], 1, {"orders": [0]}),
    ]
    assert value(conn, "select count(*) from pgq.member_status where client_addr = inet_client_addr()") == 3
    terminate(one.pid)
    terminate(two.pid)
    dead = "select member_id, partitions, dead_since is not null from pgq.member_status where not alive"
    assert sorted(rows(conn, dead)) == sorted([(one.member_id, 0, False), (two.member_id, 0, False)])
    join(wide)
    assert rows(conn, dead) == [(two.member_id, 0, True)]


def test_whether_a_member_lives_is_not_disturbed_by_looking(conn: Connection, join: Join, wide: str) -> None:
    """Who looks whether a member lives takes its lock, shared; that is not the member."""
    member = join(wide)
    member.leave()
    with conn.transaction():
        conn.execute("select pgq._is_alive(%s)", [member.member_id])
        conn.execute("select pg_advisory_xact_lock_shared(pgq._claim_key(1, 1))")
        assert rows(conn, "select * from pgq._group_locks()") == []
    assert rows(conn, "select * from pgq.member_status") == []


# pgq.group_partition_status


def test_which_partitions_are_shown(conn: Connection, join: Join, topic: str, make_topic: MakeTopic) -> None:
    """Those with an offset, those that are held, those of topics that are read."""
    for name in ("committed", "held", "unread"):
        make_topic(name, 2)
    commit(conn, {("committed", 1): 5})
    member = join("held")
    member.claim(("held", 0))
    call(member.session, "change_subscription", member_id=member.member_id, topics=[topic])
    assert set(partitions(conn, "1")) == {("committed", 1), ("held", 0), ("orders", 0)}
    assert rows(conn, "select from pgq.group_partition_status where group_id <> 'g'") == []


def test_offsets_and_lag(conn: Connection, connect: Connect, wide: str, fill: Callable[..., None]) -> None:
    fill(wide, 10)
    call(conn, "delete_records", topic=wide, partition=0, offset=3)
    producer = connect()
    with producer.transaction():
        fill(wide, 4, producer)
        for committed, lag in ((0, 7), (3, 7), (6, 4), (10, 0), (12, 0)):
            commit(conn, {A: committed})
            columns = "committed_offset, log_start_offset, high_watermark, log_end_offset, lag"
            assert partitions(conn, columns) == {A: (committed, 3, 10, 14, lag)}
    assert partitions(conn, "lag") == {A: (2,)}
    call(conn, "commit_offsets", group_id="g", topics=[wide], partitions=[0], offsets=[14], metadata=["note"])
    ((metadata, recent),) = partitions(conn, "metadata, committed_at > now() - interval '1 min'").values()
    assert (metadata, recent) == ("note", True)


def test_the_newest_of_many_commits_counts(conn: Connection, wide: str) -> None:
    for number in range(10):
        commit(conn, {A: number, C: 2 * number})
    assert partitions(conn, "committed_offset") == {A: (9,), C: (18,)}


def test_lag_leaves_out_what_a_roll_skipped(conn: Connection, topic: str, fill: Callable[..., None]) -> None:
    fill(topic, 10)
    conn.execute("select pgq._make_segment(1, 4096)")
    assert value(conn, "select pgq._roll_segment(1)")
    fill(topic, 5)
    for committed, lag in ((0, 15), (4, 11), (10, 5), (2000, 5), (4096, 5), (4098, 3)):
        commit(conn, {(topic, 0): committed})
        assert partitions(conn, "high_watermark, lag") == {(topic, 0): (4101, lag)}


def test_without_a_committed_offset_there_is_no_lag(
    conn: Connection, join: Join, topic: str, fill: Callable[..., None]
) -> None:
    fill(topic, 3)
    join(topic)
    assert partitions(conn, "committed_offset, lag, time_lag, high_watermark") == {(topic, 0): (None, None, None, 3)}


def test_time_lag(conn: Connection, topic: str, fill: Callable[..., None]) -> None:
    def time_lag() -> timedelta:
        return partitions(conn, "time_lag")[topic, 0][0]

    def produce(minutes: int) -> None:
        timestamp = value(conn, "select clock_timestamp() - %s * interval '1 minute'", minutes)
        call(conn, "produce", topic=topic, value=b"v", timestamp=timestamp)

    for minutes in (60, 50, 5, 40):
        produce(minutes)
    for committed, minutes in ((0, 60), (1, 50), (2, 5), (3, 40)):
        commit(conn, {(topic, 0): committed})
        assert timedelta(minutes=minutes) < time_lag() < timedelta(minutes=minutes + 1)
    commit(conn, {(topic, 0): 4})
    assert time_lag() == timedelta(0)
    with conn.transaction(force_rollback=True):
        produce(30)
    assert (partitions(conn, "lag")[topic, 0], time_lag()) == ((1,), timedelta(0)), "an offset without a record"
    produce(-30)
    assert time_lag() == timedelta(0), "of the future"
    produce(20)
    call(conn, "delete_records", topic=topic, partition=0, offset=6)
    assert timedelta(minutes=20) < time_lag() < timedelta(minutes=21), "what can be read no more does not count"


def test_time_lag_reads_the_segment_that_has_the_record(
    conn: Connection, topic: str, fill: Callable[..., None]
) -> None:
    fill(topic, 10)
    conn.execute("select pgq._make_segment(1, 4096)")
    assert value(conn, "select pgq._roll_segment(1)")
    timestamp = value(conn, "select clock_timestamp() - interval '7 min'")
    call(conn, "produce", topic=topic, value=b"v", timestamp=timestamp)
    commit(conn, {(topic, 0): 10})
    assert timedelta(minutes=7) < partitions(conn, "time_lag")[topic, 0][0] < timedelta(minutes=8)


def test_time_lag_is_computed_only_if_it_is_selected(conn: Connection, topic: str) -> None:
    conn.execute("drop table pgq_log.t1_p0_s0")  # whoever reads it fails
    commit(conn, {(topic, 0): 0})
    conn.execute("select nextval('pgq_log.t1_p0_offset')")
    columns = "committed_offset, lag, high_watermark, member_id, pid, epoch"
    assert partitions(conn, columns) == {(topic, 0): (0, 1, 1, None, None, None)}
    assert groups(conn, "group_id, state, lag") == [("g", "Empty", 1)]
    for query in ("select time_lag from pgq.group_partition_status", "select time_lag from pgq.group_status"):
        with pytest.raises(psycopg.errors.UndefinedTable):
            conn.execute(query)


def test_who_holds_a_partition(conn: Connection, join: Join, terminate: Terminate, wide: str) -> None:
    one, two = join(wide, client_id="one"), join(wide, client_id="two", group_instance_id="static")
    one.heartbeat()
    one.claim(A)
    two.claim(B)
    query = (
        "member_id, client_id, group_instance_id, pid, epoch, claimed_at is not null, client_addr = inet_client_addr()"
    )
    nobody = (None, None, None, None, None, False, None)
    first = (one.member_id, "one", None, one.pid, 1, True, True)
    second = (two.member_id, "two", "static", two.pid, 1, True, True)
    assert partitions(conn, query) == {A: first, B: second, C: nobody}
    one.release(A)
    two.claim(A)
    assert partitions(conn, query) == {A: (*second[:4], 2, *second[5:]), B: second, C: nobody}
    terminate(two.pid)
    assert partitions(conn, query) == {A: nobody, B: nobody, C: nobody}


def test_a_claim_that_is_about_to_be_taken(conn: Connection, join: Join, terminate: Terminate, wide: str) -> None:
    """Whose it was before does not have it any more, and whose it becomes does not have it yet."""
    before = join(wide, group_instance_id="one")
    before.claim(A)
    terminate(before.pid)
    member = join(wide)
    held = "select member_id from pgq.member_status where partitions > 0"
    with member.session.transaction():
        member.claim(A)
        assert partitions(conn, "pid, member_id, epoch")[A] == (member.pid, None, None)
        assert rows(conn, held) == []
    assert partitions(conn, "pid, member_id, epoch")[A] == (member.pid, member.member_id, 2)
    assert rows(conn, held) == [(member.member_id,)]


def test_other_databases_are_left_out(conn: Connection, admin: Connection, join: Join, wide: str) -> None:
    """Their members have other locks of the same numbers."""
    member = join(wide)
    member.leave()
    key = value(conn, "select pgq._claim_key(1, 1)")
    admin.execute("select pg_advisory_lock(%s)", [key])
    try:
        assert rows(conn, "select * from pgq._group_locks()") == []
    finally:
        admin.execute("select pg_advisory_unlock(%s)", [key])


def test_beside_topics_that_come_and_go(conn: Connection, connect: Connect, join: Join, wide: str) -> None:
    other = connect()
    member = join(wide, "brief")
    member.claim(A, B, C)
    commit_to = {"group_id": "g", "topics": ["brief"], "partitions": [0], "offsets": [0]}
    ended = threading.Event()
    failures: list[BaseException] = []

    def come_and_go() -> None:
        try:
            for _ in range(12):
                call(other, "create_topic", name="brief", partitions=8)
                call(other, "commit_offsets", **commit_to)
                call(other, "produce", topic="brief", value=b"v", partition=0)
                call(other, "delete_topic", name="brief")
        except BaseException as error:
            failures.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    seen = set()
    try:
        while not ended.is_set():
            found = partitions(conn, "lag, time_lag")
            assert set(found) >= {A, B, C}
            seen.add(len(found))
            assert [row[0] for row in groups(conn, "group_id, state, lag, time_lag")] == ["g"]
    finally:
        thread.join()
    assert failures == []
    assert max(seen) > 3, "the other topic was seen, too"


def test_a_segment_that_goes_while_it_is_waited_for(
    conn: Connection, connect: Connect, topic: str, wait_until_blocked: Callable[[Connection], None]
) -> None:
    reader, found = connect(), []
    thread = threading.Thread(target=lambda: found.extend(rows(reader, "select * from pgq._first_record(1, 0, 10)")))
    with conn.transaction():
        call(conn, "delete_topic", name=topic)
        thread.start()
        wait_until_blocked(reader)
    thread.join()
    assert found == [(None, None)]


def test_no_lock_of_a_segment_is_kept(conn: Connection, wide: str, fill: Callable[..., None]) -> None:
    fill(wide, 5)
    commit(conn, {A: 0})
    count = (
        "select count(*) from pg_locks l where l.pid = pg_backend_pid()"
        " and l.relation in (select to_regclass(relation) from pgq.segment_status)"
    )
    with conn.transaction():
        assert partitions(conn, "time_lag")[A][0] > timedelta(0)
        assert value(conn, count) == 0
