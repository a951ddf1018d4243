"""pgq.restart_offsets sets what is behind past the last record, and touches nothing else."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.plugins.sessions import Connection, call, refused, rows, value

Connect = Callable[[], Connection]


def restart(conn: Connection) -> list[tuple[object, ...]]:
    return call(conn, "restart_offsets")


def test_nothing_is_behind(conn: Connection, wide_topic: str, fill: Callable[..., None]) -> None:
    fill(wide_topic, 10)
    conn.execute("select pgq.commit_offsets('g', '{wide}', '{0}', '{10}')")
    before = rows(conn, "select partition_id, pg_sequence_last_value(sequence) from pgq.partition order by 1")
    assert restart(conn) == []
    assert rows(conn, "select partition_id, pg_sequence_last_value(sequence) from pgq.partition order by 1") == before


def test_what_is_behind_goes_past_the_last_record(conn: Connection, wide_topic: str, fill: Callable[..., None]) -> None:
    fill(wide_topic, 10)
    call(conn, "produce", topic=wide_topic, value=b"v", partition=3)
    conn.execute("select setval('pgq_log.t1_p0_offset', 0, false), setval('pgq_log.t1_p3_offset', 0, false)")
    assert restart(conn) == [
        (wide_topic, 0, "pgq_log.t1_p0_offset", 0, 10),
        (wide_topic, 3, "pgq_log.t1_p3_offset", 0, 1),
    ]
    assert restart(conn) == []
    assert call(conn, "produce", topic=wide_topic, value=b"v", partition=0) == [(0, 10)]
    assert call(conn, "produce", topic=wide_topic, value=b"v", partition=3) == [(3, 1)]


@pytest.mark.parametrize("next_offset", [500, 10, 4])
def test_a_sequence_set_and_not_called_since_does_not_go_back(
    conn: Connection, topic: str, fill: Callable[..., None], next_offset: int
) -> None:
    """What is common after a copy by hand: setval(..., false) is not seen by pg_sequence_last_value."""
    fill(topic, 10)
    conn.execute("select setval('pgq_log.t1_p0_offset', %s, false)", [next_offset])
    expected = max(next_offset, 10)
    assert restart(conn) == [(topic, 0, "pgq_log.t1_p0_offset", next_offset, expected)]
    assert call(conn, "produce", topic=topic, value=b"v") == [(0, expected)]
    assert value(conn, "select pgq.high_watermark('orders', 0)") == expected + 1


def test_it_waits_for_those_who_have_taken_offsets(
    conn: Connection, connect: Connect, wait_until_blocked: Callable[[Connection], None], topic: str
) -> None:
    conn.execute("update pgq.partition set log_start_offset = 100")
    producer, mender = connect(), connect()
    with ThreadPoolExecutor(1) as pool:
        with producer.transaction():
            producer.execute("select nextval('pgq_log.t1_p0_offset')")
            restarted = pool.submit(restart, mender)
            wait_until_blocked(mender)
            producer.execute("select setval('pgq_log.t1_p0_offset', 5000)")
        assert restarted.result(30) == []
    assert value(conn, "select pg_sequence_last_value('pgq_log.t1_p0_offset')") == 5000


def test_it_does_not_wait_for_ever(conn: Connection, connect: Connect, topic: str) -> None:
    conn.execute("update pgq.partition set log_start_offset = 100")
    conn.execute("alter function pgq.restart_offsets() set lock_timeout = '20ms'")
    producer = connect()
    with producer.transaction():
        producer.execute("select nextval('pgq_log.t1_p0_offset')")
        with refused("55P03"):
            restart(conn)
    assert restart(conn) == [(topic, 0, "pgq_log.t1_p0_offset", 1, 100)]


def test_groups_do_not_go_back(conn: Connection, topic: str, fill: Callable[..., None]) -> None:
    fill(topic, 10)
    for offset in range(1, 9):
        conn.execute("select pgq.commit_offsets('g', '{orders}', '{0}', array[%s]::bigint[])", [offset])
    conn.execute("alter table pgq.committed_offset alter column serial restart")
    assert restart(conn) == [(None, None, "pgq.committed_offset_serial_seq", 1, 9)]
    conn.execute("select pgq.commit_offsets('g', '{orders}', '{0}', '{10}')")
    assert value(conn, "select \"offset\" from pgq.committed_offsets('g')") == 10


def test_new_topics_and_partitions_get_numbers_of_their_own(conn: Connection, wide_topic: str) -> None:
    conn.execute("alter table pgq.topic alter column topic_id restart")
    conn.execute("alter table pgq.partition alter column partition_id restart")
    assert restart(conn) == [
        (None, None, "pgq.partition_partition_id_seq", 1, 6),
        (None, None, "pgq.topic_topic_id_seq", 1, 2),
    ]
    call(conn, "create_topic", name="orders", partitions=2)
    assert rows(conn, "select * from pgq.check_log()") == []
