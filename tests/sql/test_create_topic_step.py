"""pgq.create_topic_step, add_partitions_step and delete_topic_step: large topics, a part a transaction."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import psycopg
import pytest

from tests.plugins.sessions import Connection, call, refused, rows, value

Connect = Callable[[], Connection]


def step(conn: Connection, function: str, *args: object) -> int:
    result: int = value(conn, f"select pgq.{function}({', '.join(['%s'] * len(args))})", *args)
    return result


def state(conn: Connection, name: str = "big") -> tuple[str, int, int] | None:
    """State, partitions to be used, partitions that there are."""
    found = rows(
        conn,
        "select t.state, t.partitions, (select count(*) from pgq.partition p where p.topic_id = t.topic_id)"
        " from pgq.topic t where t.name = %s",
        name,
    )
    return found[0] if found else None


def create(conn: Connection, partitions: int) -> None:
    while step(conn, "create_topic_step", "big", partitions):
        pass


def test_a_topic_can_be_used_when_its_last_partition_is_made(conn: Connection) -> None:
    assert step(conn, "create_topic_step", "big", 60) == 35
    assert state(conn) == ("creating", 60, 25)
    for function in ("describe_topic", "produce"):
        with refused("PQ001"):
            call(
                conn, function, **({"name": "big"} if function == "describe_topic" else {"topic": "big", "value": b""})
            )
    assert rows(conn, "select * from pgq.list_topics()") == []
    assert step(conn, "create_topic_step", "big", 60) == 10
    assert step(conn, "create_topic_step", "big", 60) == 0
    assert state(conn) == ("ready", 60, 60)
    assert call(conn, "produce", topic="big", value=b"v", partition=59) == [(59, 0)]
    with refused("PQ003"):
        step(conn, "create_topic_step", "big", 60)


def test_configuration_and_names_are_checked_by_the_first_step(conn: Connection) -> None:
    for args, expected in (
        (("no spaces", 60), "PQ004"),
        (("big", 0), "PQ005"),
        (("big", 1001), "PQ005"),
        (("big", None), "PQ005"),
        (("big", 60, '{"nope": 1}'), "PQ006"),
    ):
        with refused(expected):
            step(conn, "create_topic_step", *args)
    assert state(conn) is None


def test_another_number_of_partitions_is_refused_while_it_is_made(conn: Connection) -> None:
    step(conn, "create_topic_step", "big", 60)
    with refused("PQ003"):
        step(conn, "create_topic_step", "big", 61)
    with refused("PQ003"):
        call(conn, "create_topic", name="big")
    assert state(conn) == ("creating", 60, 25)


def test_an_unfinished_topic_can_be_deleted(conn: Connection) -> None:
    step(conn, "create_topic_step", "big", 60)
    call(conn, "delete_topic", name="big")
    assert state(conn) is None
    call(conn, "create_topic", name="big")


def test_a_step_that_is_rolled_back_is_done_again(conn: Connection) -> None:
    step(conn, "create_topic_step", "big", 60)
    with conn.transaction(force_rollback=True):
        step(conn, "create_topic_step", "big", 60)
    assert state(conn) == ("creating", 60, 25)
    create(conn, 60)
    assert state(conn) == ("ready", 60, 60)


def test_many_make_one_topic_together(conn: Connection, connect: Connect) -> None:
    together = Barrier(4)

    def work(session: Connection) -> list[int]:
        together.wait(30)
        seen: list[int] = []
        while not seen or seen[-1]:
            try:
                seen.append(step(session, "create_topic_step", "big", 100))
            except psycopg.Error as error:
                if error.sqlstate != "PQ003":
                    raise
                break  # the others have finished it
        return seen

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(work, [connect() for _ in range(4)]))
    assert sorted(left for seen in outcomes for left in seen) == [0, 25, 50, 75]
    assert state(conn) == ("ready", 100, 100)


def test_partitions_are_added_at_once_at_the_end(conn: Connection) -> None:
    create(conn, 30)
    assert step(conn, "add_partitions_step", "big", 90) == 35
    assert state(conn) == ("ready", 30, 55)
    with refused("PQ002"):
        call(conn, "produce", topic="big", value=b"v", partition=30)
    with refused("PQ002"):
        call(conn, "fetch", topic="big", partition=30, offset=0)
    assert value(conn, "select cardinality(partition_ids) from pgq._topic_metadata('big')") == 30
    assert value(conn, "select count(*) from pgq.partition_status") == 30
    while step(conn, "add_partitions_step", "big", 90):
        pass
    assert state(conn) == ("ready", 90, 90)
    assert call(conn, "produce", topic="big", value=b"v", partition=89) == [(89, 0)]
    assert value(conn, "select cardinality(partition_ids) from pgq._topic_metadata('big')") == 90


def test_adding_fewer_than_an_interrupted_caller_wanted(conn: Connection) -> None:
    create(conn, 30)
    step(conn, "add_partitions_step", "big", 90)
    assert step(conn, "add_partitions_step", "big", 40) == 0
    assert state(conn) == ("ready", 40, 55)
    with refused("PQ002"):
        call(conn, "produce", topic="big", value=b"v", partition=40)
    call(conn, "add_partitions", name="big", partitions=56)
    assert state(conn) == ("ready", 56, 56)


@pytest.mark.parametrize("partitions", [30, 29, 0, -1, 1001, None])
@pytest.mark.parametrize("function", ["add_partitions_step", "add_partitions"])
def test_a_topic_only_grows(conn: Connection, function: str, partitions: int | None) -> None:
    create(conn, 30)
    with refused("PQ005"):
        step(conn, function, "big", partitions)
    assert state(conn) == ("ready", 30, 30)


def test_add_partitions_to_a_small_topic(conn: Connection) -> None:
    call(conn, "create_topic", name="big")
    call(conn, "produce", topic="big", value=b"v")
    assert call(conn, "add_partitions", name="big", partitions=3)[0][2] == 3
    assert [call(conn, "produce", topic="big", value=b"v", partition=p)[0][1] for p in range(3)] == [1, 0, 0]
    with refused("PQ005"):
        call(conn, "add_partitions", name="big", partitions=54)
    with refused("PQ001"):
        call(conn, "add_partitions", name="none", partitions=3)
    assert value(conn, 'select count(*) from pgq_topic."big"') == 4


def test_delete_in_steps(conn: Connection) -> None:
    create(conn, 60)
    call(conn, "produce", topic="big", value=b"v", partition=0)
    conn.execute("select pgq.commit_offsets('g', '{big}', '{0}', '{1}')")
    with refused("PQ005"):
        call(conn, "delete_topic", name="big")
    assert state(conn) == ("ready", 60, 60)
    assert step(conn, "delete_topic_step", "big") == 60
    assert state(conn) == ("deleting", 60, 60)
    with refused("PQ001"):
        call(conn, "produce", topic="big", value=b"v")
    with refused("PQ003"):
        step(conn, "create_topic_step", "big", 60)
    assert [step(conn, "delete_topic_step", "big") for _ in range(3)] == [35, 10, 0]
    assert state(conn) is None
    for table in ("partition", "segment", "committed_offset"):
        assert value(conn, f"select count(*) from pgq.{table}") == 0
    assert (
        rows(
            conn,
            "select relname from pg_class where relnamespace in ('pgq_log'::regnamespace, 'pgq_topic'::regnamespace)"
            " and relname not like 'delayed%'",
        )
        == []
    )
    with refused("PQ001"):
        step(conn, "delete_topic_step", "big")


def test_a_partition_of_many_segments_is_deleted_in_steps(conn: Connection) -> None:
    call(conn, "create_topic", name="big")
    conn.execute(
        "do $$ declare base bigint := 4096; begin for n in 1 .. 120 loop"
        " base := pgq._make_segment((select partition_id from pgq.partition), base); end loop; end $$"
    )
    lefts = [step(conn, "delete_topic_step", "big")]
    while lefts[-1]:
        lefts.append(step(conn, "delete_topic_step", "big"))
    assert lefts == [121, 71, 21, 0]


def test_delete_step_does_not_wait_for_ever(conn: Connection, connect: Connect) -> None:
    call(conn, "create_topic", name="big")
    producer = connect()
    producer.execute("begin")
    call(producer, "produce", topic="big", value=b"v")
    assert step(conn, "delete_topic_step", "big") == 1
    with refused("55P03"):
        step(conn, "delete_topic_step", "big")
    with refused("PQ001"):
        call(connect(), "produce", topic="big", value=b"v")
    producer.execute("commit")
    assert step(conn, "delete_topic_step", "big") == 0
