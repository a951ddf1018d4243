"""pgq.check_log finds each kind of damage, and nothing else; what it says to do mends it. A sound log gives no row."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Any

import pytest

from tests.plugins.sessions import Connection, call, rows, value

from .conftest import MakeTopic

Connect = Callable[[], Connection]


ATTACHED, LISTED = "for values from ('69632') to ('1118208')", "for values from (69632) to (70000)"

NOT_CALLED = "it was set and not called since, so that readers take it for 0"


@dataclass(frozen=True)
class Damage:
    """What is done to the topic orders, and what is said of it. `remedy` tells how what is said mends it."""

    name: str
    sql: str
    found: tuple[str, ...]
    partition: int | None = 0
    topic: str | None = "orders"
    remedy: str = "none"  # "sql": it is a statement; "restart": pgq.restart_offsets; "define": an upgrade


DAMAGES = [
    # sequences
    Damage(
        "sequence set back",
        "select setval('pgq_log.t1_p0_offset', 100)",
        ("the sequence pgq_log.t1_p0_offset gives offset 101 next, but the last record is at 4199",),
        remedy="restart",
    ),
    Damage(
        "sequence that was set and not called",
        "select setval('pgq_log.t1_p0_offset', 4200, false)",
        (f"the sequence pgq_log.t1_p0_offset gives offset 4200 next, but {NOT_CALLED}",),
        remedy="restart",
    ),
    Damage(
        "sequence that was never called",
        "alter sequence pgq_log.t1_p0_offset restart",
        ("the sequence pgq_log.t1_p0_offset gives offset 0 next, but the last record is at 4199",),
        remedy="restart",
    ),
    Damage(
        "sequence that gives the last record's offset again",
        "select setval('pgq_log.t1_p0_offset', 4198)",
        ("the sequence pgq_log.t1_p0_offset gives offset 4199 next, but the last record is at 4199",),
        remedy="restart",
    ),
    Damage(
        "sequence behind the log start",
        "update pgq.partition set log_start_offset = 10 where partition = 1",
        ("the sequence pgq_log.t1_p1_offset gives offset 0 next, but the log starts at 10",),
        partition=1,
        remedy="restart",
    ),
    Damage(
        "sequence behind a roll",
        "insert into pgq.skipped_range values (2, 5, 4096)",
        ("the sequence pgq_log.t1_p1_offset gives offset 0 next, but a roll skipped to 4096",),
        partition=1,
        remedy="restart",
    ),
    Damage(
        "sequence behind a committed offset",
        "select pgq.commit_offsets('g', '{orders}', '{1}', '{7}')",
        ("the sequence pgq_log.t1_p1_offset gives offset 0 next, but a group has committed 7",),
        partition=1,
        remedy="restart",
    ),
    Damage(
        "sequence that keeps a cache",
        "alter sequence pgq_log.t1_p0_offset cache 20",
        ("the sequence pgq_log.t1_p0_offset has cache 20",),
        remedy="sql",
    ),
    Damage(
        "sequence that takes large steps and begins again",
        "alter sequence pgq_log.t1_p0_offset increment 2 cycle",
        ("the sequence pgq_log.t1_p0_offset has increment 2, cycle",),
        remedy="sql",
    ),
    Damage(
        "sequence that ends",
        "alter sequence pgq_log.t1_p0_offset as int",
        ("the sequence pgq_log.t1_p0_offset has maxvalue 2147483647",),
        remedy="sql",
    ),
    Damage(
        "no sequence",
        "drop sequence pgq_log.t1_p0_offset",
        ("the sequence pgq_log.t1_p0_offset is missing",),
        remedy="sql",
    ),
    Damage(
        "another sequence",
        "update pgq.partition set sequence = 'pgq_log.t1_p1_offset' where partition = 0",
        ("pgq.partition names another sequence than pgq_log.t1_p0_offset",),
        remedy="sql",
    ),
    Damage(
        "a number of the catalog to be given again",
        "select setval('pgq.partition_partition_id_seq', 1)",
        ("the sequence pgq.partition_partition_id_seq gives 2 next, but pgq.partition.partition_id holds 2",),
        topic=None,
        partition=None,
        remedy="restart",
    ),
    Damage(
        "a serial number of commits to be given again",
        "select pgq.commit_offsets('g', '{orders,orders}', '{0,0}', '{1,2}');"
        " alter table pgq.committed_offset alter column serial restart",
        ("the sequence pgq.committed_offset_serial_seq gives 1 next, but pgq.committed_offset.serial holds 2",),
        topic=None,
        partition=None,
        remedy="restart",
    ),
    # segments
    Damage("no segment", "drop table pgq_log.t1_p0_s69632", ("the segment pgq_log.t1_p0_s69632 is missing",)),
    Damage(
        "a segment that is not attached",
        "alter table pgq_log.t1_p0 detach partition pgq_log.t1_p0_s4096",
        ("the segment pgq_log.t1_p0_s4096 is not attached",),
        remedy="sql",
    ),
    Damage(
        "a segment that the catalog does not list",
        "delete from pgq.segment where base_offset = 4096",
        ("pgq.segment does not list the attached table pgq_log.t1_p0_s4096, so nobody reads its records",),
        remedy="sql",
    ),
    Damage(
        "the only segment, which the catalog does not list",
        "delete from pgq.segment where partition_id = 2",
        ("pgq.segment does not list the attached table pgq_log.t1_p1_s0, so nobody reads its records",),
        partition=1,
        remedy="sql",
    ),
    Damage(
        "no segment at all",
        "delete from pgq.segment where partition_id = 2; drop table pgq_log.t1_p1_s0",
        ("it has no segment",),
        partition=1,
    ),
    Damage(
        "a gap between segments",
        "delete from pgq.segment where base_offset = 4096; drop table pgq_log.t1_p0_s4096",
        ("a segment ends at 4096, and the next one begins at 69632",),
    ),
    Damage(
        "a range that the catalog does not know",
        "update pgq.segment set end_offset = 70000 where base_offset = 69632",
        (f"the segment pgq_log.t1_p0_s69632 is attached {ATTACHED}, and pgq.segment says {LISTED}",),
    ),
    Damage(
        "no primary key",
        "alter table pgq_log.t1_p0_s0 drop constraint t1_p0_s0_pkey",
        ("the segment pgq_log.t1_p0_s0 has no primary key",),
        remedy="sql",
    ),
    # partitions
    Damage("no partition table", "drop table pgq_log.t1_p1", ("the table pgq_log.t1_p1 is missing",), partition=1),
    Damage(
        "a partition that is not attached",
        "alter table pgq_log.t1 detach partition pgq_log.t1_p1",
        ("the table pgq_log.t1_p1 is not attached",),
        partition=1,
        remedy="sql",
    ),
    Damage(
        "a partition attached as another",
        "alter table pgq_log.t1 detach partition pgq_log.t1_p1;"
        " alter table pgq_log.t1 attach partition pgq_log.t1_p1 for values in (7)",
        ("the table pgq_log.t1_p1 is attached for values in (7)",),
        partition=1,
    ),
    # topics
    Damage("no view", "drop view pgq_topic.orders", ("the view pgq_topic.orders is missing",), None, remedy="define"),
    Damage(
        "no procedure",
        "do $$ begin execute format('drop procedure %s', pgq._produce_procedure('orders')); end $$",
        ("the procedure pgq_log.produce_{md5} is missing",),
        None,
        remedy="define",
    ),
    Damage(
        "no table and no view",
        "drop table pgq_log.t1 cascade",
        ("the table pgq_log.t1 is missing", "the view pgq_topic.orders is missing"),
        None,
    ),
    Damage(
        "no trigger",
        "drop trigger append_rule on pgq_log.t1",
        ("the table pgq_log.t1 has no working trigger append_rule",),
        None,
        remedy="sql",
    ),
    Damage(
        "a trigger that is off",
        "alter table pgq_log.t1 disable trigger append_rule",
        ("the table pgq_log.t1 has no working trigger append_rule",),
        None,
        remedy="sql",
    ),
    Damage(
        "a creation that was not finished",
        "select pgq.create_topic_step('big', 30)",
        ("it is still in state creating",),
        None,
        "big",
    ),
    Damage(
        "a deletion that was not finished",
        "select pgq.delete_topic_step('orders')",
        ("it is still in state deleting",),
        None,
    ),
    Damage(
        "more partitions, not finished",
        "select pgq.add_partitions_step('orders', 40)",
        ("it has 27 partitions, of which 2 are in use",),
        None,
    ),
    # what belongs to nobody
    Damage(
        "a tree of no topic",
        "create table pgq_log.t9 (partition int) partition by list (partition);"
        " create table pgq_log.t9_p0 partition of pgq_log.t9 for values in (0)",
        ("the table pgq_log.t9 belongs to no topic",),
        None,
        None,
    ),
    Damage(
        "a sequence of no topic",
        "create sequence pgq_log.t9_p0_offset",
        ("the sequence pgq_log.t9_p0_offset belongs to no topic",),
        None,
        None,
    ),
    Damage(
        "a procedure of no topic",
        "create procedure pgq_log.produce_0() language sql as ''",
        ("the procedure pgq_log.produce_0 belongs to no topic",),
        None,
        None,
    ),
]


@pytest.fixture
def orders(conn: Connection, make_topic: MakeTopic) -> str:
    """Topic 1 with partition 0 in three segments, of which the last is empty, and partition 1 without a record."""
    make_topic("orders", 2)
    call(conn, "produce_batch", topic="orders", values=[b"v"] * 4200, partitions=[0] * 4200)
    conn.execute("select pgq._make_segment(1, 69632)")
    assert rows(conn, "select base_offset, end_offset from pgq.segment where partition_id = 1 order by 1") == [
        (0, 4096),
        (4096, 69632),
        (69632, 1118208),
    ]
    return "orders"


def problems(conn: Connection) -> list[tuple[Any, ...]]:
    return rows(conn, "select topic, partition, problem from pgq.check_log()")


def test_a_sound_log_gives_no_row(conn: Connection, orders: str) -> None:
    assert problems(conn) == []
    call(conn, "produce", topic=orders, value=b"v", partition=1)
    call(conn, "delete_records", topic=orders, partition=0, offset=4200)
    conn.execute("select pgq.commit_offsets('g', '{orders}', '{0}', '{4200}')")
    with conn.transaction(force_rollback=True):
        call(conn, "produce", topic=orders, value=b"v", partition=1)
    assert problems(conn) == []
    call(conn, "delete_topic", name=orders)
    assert problems(conn) == []


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_damage_is_found_and_nothing_else(conn: Connection, orders: str, damage: Damage) -> None:
    conn.execute(damage.sql)
    md5 = value(conn, "select md5('orders')")
    expected = [(damage.topic, damage.partition, problem.format(md5=md5)) for problem in damage.found]
    assert problems(conn) == expected
    remedies = [remedy for (remedy,) in rows(conn, "select remedy from pgq.check_log()")]
    assert all(remedies)
    match damage.remedy:
        case "sql":
            (remedy,) = remedies
            conn.execute(remedy.removeprefix("with the producers stopped: ").replace("then pgq.", "select pgq."))
        case "restart":
            assert "pgq.restart_offsets()" in remedies[0]
            conn.execute("select pgq.restart_offsets()")
        case "define":
            assert "pgq db upgrade" in remedies[0]
            conn.execute("select pgq._define_topic(1)")
        case _:
            return
    assert problems(conn) == []
    for partition in (0, 1):
        ((_, offset),) = call(conn, "produce", topic=orders, value=b"mended", partition=partition)
        assert rows(
            conn, 'select value from pgq.fetch(%s, %s, %s) where "offset" = %s', orders, partition, offset, offset
        )
    assert problems(conn) == []


def test_rows_of_the_catalog_that_are_gone(conn: Connection, orders: str) -> None:
    conn.execute("delete from pgq.segment where partition_id = 2; delete from pgq.partition where partition_id = 2")
    assert problems(conn) == [
        (orders, 1, "pgq.partition has no row of it"),
        (None, None, "the sequence pgq_log.t1_p1_offset belongs to no topic"),
        (None, None, "the table pgq_log.t1_p1 belongs to no topic"),
    ]


def test_several_problems_at_once(conn: Connection, orders: str) -> None:
    conn.execute("drop view pgq_topic.orders; alter sequence pgq_log.t1_p1_offset cache 5")
    conn.execute("select setval('pgq_log.t1_p0_offset', 7)")
    assert [row[:2] for row in problems(conn)] == [(orders, None), (orders, 1), (orders, 0)]


def test_an_offset_committed_far_ahead_is_the_groups_own_affair(conn: Connection, orders: str) -> None:
    conn.execute("select pgq.commit_offsets('g', '{orders}', '{1}', array[10::bigint ^ 15]::bigint[])")
    assert problems(conn) == []
    assert call(conn, "restart_offsets") == []


def test_only_the_newest_commit_of_a_group_counts(conn: Connection, orders: str) -> None:
    for offset in (40, 0):
        conn.execute("select pgq.commit_offsets('g', '{orders}', '{1}', array[%s]::bigint[])", [offset])
    assert problems(conn) == []


def test_segments_below_the_log_start_may_be_on_their_way_out(conn: Connection, orders: str) -> None:
    call(conn, "delete_records", topic=orders, partition=0, offset=4096)
    conn.execute("alter table pgq_log.t1_p0 detach partition pgq_log.t1_p0_s0")
    assert problems(conn) == []
    conn.execute("drop table pgq_log.t1_p0_s0")
    assert problems(conn) == []
    conn.execute("delete from pgq.segment where base_offset = 0 and partition_id = 1")
    assert problems(conn) == []


def test_segments_below_the_log_start_go_in_any_order(conn: Connection, orders: str) -> None:
    """One that is in use is left for later, and the next one is dropped before it."""
    conn.execute("select pgq._make_segment(1, 1118208), setval('pgq_log.t1_p0_offset', 69700)")
    conn.execute("update pgq.partition set log_start_offset = 69632 where partition_id = 1")
    conn.execute("alter table pgq_log.t1_p0 detach partition pgq_log.t1_p0_s4096")
    assert value(conn, "select pgq._drop_segment(1, 4096)") is True
    assert problems(conn) == []
    # what is missing at the log start is missed
    conn.execute("update pgq.partition set log_start_offset = 69631 where partition_id = 1")
    assert [row[:2] for row in problems(conn)] == [(orders, 0)]


def test_it_keeps_no_lock_on_the_log(conn: Connection, orders: str) -> None:
    with conn.transaction():
        assert problems(conn) == []
        locked = rows(
            conn,
            "select distinct c.relname from pg_locks l join pg_class c on c.oid = l.relation"
            " where l.pid = pg_backend_pid() and c.relnamespace = 'pgq_log'::regnamespace",
        )
        assert locked == []


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_a_busy_log_is_sound(conn: Connection, connect: Connect, make_topic: MakeTopic, isolation: str) -> None:
    make_topic("orders", 2)
    stop = Event()

    def produce() -> int:
        session, count = connect(), 0
        while not stop.is_set():
            with session.transaction(force_rollback=count % 5 == 4):
                call(session, "produce_batch", topic="orders", values=[b"v"] * 300, partitions=[count % 2] * 300)
            session.execute("select pgq.upkeep(partition_id) from pgq.partition where partition_id <= 2")
            count += 1
        return count

    def create_and_delete() -> int:
        session, count = connect(), 0
        while not stop.is_set():
            call(session, "create_topic", name="fleeting", partitions=3)
            call(session, "produce", topic="fleeting", value=b"v")
            call(session, "delete_topic", name="fleeting")
            count += 1
        return count

    with ThreadPoolExecutor(3) as pool:
        tasks = [pool.submit(produce), pool.submit(produce), pool.submit(create_and_delete)]
        try:
            looks = 0
            while looks < 20 or value(conn, "select count(*) from pgq.segment where partition_id <= 2") < 4:
                assert not any(task.done() for task in tasks), [task.exception() for task in tasks if task.done()]
                with conn.transaction():
                    conn.execute(f"set transaction isolation level {isolation}")
                    assert problems(conn) == []
                looks += 1
        finally:
            stop.set()
        assert all(task.result(60) > 0 for task in tasks)
    assert problems(conn) == []
