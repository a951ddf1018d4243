"""Whoever looks at all partitions keeps no lock for each of them: the lock table is shared by all sessions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.plugins.sessions import Connection, call, rows, value

from .conftest import MakeTopic


@pytest.fixture
def many(conn: Connection, make_topic: MakeTopic) -> None:
    """More partitions than a chunk; one that is trimmed, one that is compacted, and a group."""
    for topic in ("orders", "returns", "refunds"):
        make_topic(topic, 40, '{"retention.ms": 1}')
    make_topic("state", 3, '{"cleanup.policy": "compact", "min.compaction.lag.ms": 1}')
    conn.execute(
        "select pgq.produce(t, 'x', partition => p)"
        " from generate_series(0, 39) p, unnest('{orders,returns,refunds}'::text[]) t"
    )
    call(conn, "delete_records", topic="orders", partition=7, offset=-1)
    conn.execute("select pgq.reset_offsets('g', 'to-earliest', topics => '{orders,refunds}', execute => true)")


@pytest.mark.parametrize(
    "look",
    [
        "pgq._metrics()",
        "pgq.maintenance_due('0')",
        "pgq._oversized_segments()",
        "pgq.partition_status",
        "pgq.segment_status",
        "pgq.topic_status",
        "pgq.group_partition_status",
        "pgq.check_log()",
        "pgq._plan_trim('orders', null, 'by-duration', '1h')",
    ],
)
@pytest.mark.usefixtures("many")
def test_no_lock_for_each_partition(connect: Callable[[], Connection], look: str) -> None:
    session = connect()
    with session.transaction():
        session.execute(f"select * from {look}")
        assert rows(
            session,
            "select relation::regclass::text, mode from pg_locks join pg_class c on c.oid = relation"
            " where pid = pg_backend_pid() and c.relnamespace = 'pgq_log'::regnamespace",
        ) == []  # fmt: skip


@pytest.mark.usefixtures("many")
def test_next_offsets_are_those_of_the_sequences(conn: Connection) -> None:
    """None was called for most of topic state."""
    conn.execute("select pgq.produce('state', 'x', key => 'k')")
    found = rows(
        conn,
        "select w.next_offset, pgq._next_offset(p.sequence), pgq._peek_offset(p.sequence)"
        " from pgq._partition_progress() w join pgq.partition p using (partition_id)",
    )
    assert len(found) == 123
    assert all(len(set(row)) == 1 for row in found)
    assert sum(row[0] for row in found) == 121


def test_a_sequence_that_is_gone_hides_its_partition_only(conn: Connection, make_topic: MakeTopic) -> None:
    make_topic("orders", 3)
    conn.execute("drop sequence pgq_log.t1_p1_offset")
    assert rows(conn, "select partition from pgq.partition_status order by 1") == [(0,), (2,)]
    assert value(conn, "select count(*) from pgq.maintenance_due('0')") == 0
