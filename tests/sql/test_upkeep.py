"""pgq.upkeep makes segments ahead and rolls full ones; an append that finds none makes its own."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from tests.plugins.sessions import Connection, call, rows, value

from .conftest import MakeTopic

Fill = Callable[..., None]

MEBIBYTE = 1_048_576


def upkeep(conn: Connection) -> str:
    result: str = value(conn, "select pgq.upkeep(min(partition_id)) from pgq.partition")
    return result


def segments(conn: Connection) -> list[tuple[int, int]]:
    """The segments of the only partition, which lie end to end."""
    result = [(base, end) for base, end in rows(conn, "select base_offset, end_offset from pgq.segment order by 1")]
    assert result[0][0] == 0
    assert all(before[1] == after[0] for before, after in pairwise(result))
    return result


def append(conn: Connection, count: int, size: int = 1) -> None:
    """Append incompressible records to the only partition, the fast way."""
    topic_id = value(conn, "select topic_id from pgq.topic")
    chunks = -(-size // 32)
    with conn.transaction():
        offsets = value(
            conn, "select offsets from pgq.begin_append(array[%s]::int[], '{0}', array[%s]::int[])", topic_id, count
        )
        conn.execute(
            f'insert into pgq_log.t{topic_id} (partition, "offset", "timestamp", value)'
            " select 0, o, now(), (select substr(string_agg(sha256((o || ':' || i)::bytea), ''), 1, %s)"
            "                        from generate_series(1, %s) i)"
            "   from unnest(%s::bigint[]) o",
            [size, chunks, offsets],
        )


def test_new_partition_has_one_segment_and_nothing_is_due(conn: Connection, topic: str) -> None:
    assert segments(conn) == [(0, 4096)]
    assert upkeep(conn) == "done"
    assert segments(conn) == [(0, 4096)]


@pytest.mark.parametrize("count, result", [(2048, "done"), (2049, "made")])
def test_segment_is_made_when_the_last_is_half_used(conn: Connection, topic: str, count: int, result: str) -> None:
    append(conn, count)
    assert upkeep(conn) == result
    assert upkeep(conn) == "done"
    assert len(segments(conn)) == (2 if result == "made" else 1)


def test_segments_made_ahead_are_used(conn: Connection, topic: str, fill: Fill) -> None:
    append(conn, 4000)
    assert upkeep(conn) == "made"
    before = segments(conn)
    fill(topic, 200)
    assert segments(conn) == before
    assert value(conn, "select max(\"offset\") from pgq.fetch('orders', 0, 4090)") == 4199


def test_segment_is_made_inline_when_upkeep_never_ran(conn: Connection, topic: str, fill: Fill) -> None:
    fill(topic, 4096)
    assert len(segments(conn)) == 1
    fill(topic, 1)
    assert len(segments(conn)) == 2
    assert value(conn, "select count(*) from pgq.fetch('orders', 0, 0, 5000)") == 4097


def test_segment_made_inline_is_undone_with_its_transaction(conn: Connection, topic: str, fill: Fill) -> None:
    fill(topic, 4096)
    with conn.transaction(force_rollback=True):
        call(conn, "produce", topic=topic, value=b"lost")
    assert len(segments(conn)) == 1
    assert call(conn, "produce", topic=topic, value=b"kept") == [(0, 4097)]
    assert len(segments(conn)) == 2


def test_segment_made_inline_is_undone_with_its_savepoint(conn: Connection, topic: str, fill: Fill) -> None:
    fill(topic, 4095)
    with conn.transaction():
        call(conn, "produce", topic=topic, value=b"the last of its segment")
        with conn.transaction(force_rollback=True):
            call(conn, "produce", topic=topic, value=b"lost")
            assert len(segments(conn)) == 2
        assert len(segments(conn)) == 1
        assert call(conn, "produce", topic=topic, value=b"kept") == [(0, 4097)]
    assert rows(conn, "select value from pgq.fetch('orders', 0, 4096)") == [(b"kept",)]


def test_width_grows_sixteenfold_up_to_a_mebi(conn: Connection, topic: str) -> None:
    append(conn, 3000)
    upkeep(conn)
    append(conn, 40_000)
    upkeep(conn)
    assert [end - base for base, end in segments(conn)] == [4096, 65_536, 1_048_576]


@pytest.mark.parametrize(
    "count, size, segment_bytes, narrowest, widest",
    [
        pytest.param(2100, 1000, MEBIBYTE, 700, 1100, id="as many as fill segment.bytes"),
        pytest.param(2100, 1000, 8 * MEBIBYTE, 5600, 8800, id="in proportion"),
        pytest.param(2100, 1, MEBIBYTE, 65_536, 65_536, id="16 times the one before while it is small"),
        pytest.param(30, 100_000, MEBIBYTE, 64, 64, id="64 at least"),
    ],
)
def test_width_follows_the_size_of_records(
    conn: Connection, make_topic: MakeTopic, count: int, size: int, segment_bytes: int, narrowest: int, widest: int
) -> None:
    make_topic("orders", config=f'{{"segment.bytes": {segment_bytes}}}')
    append(conn, count, size)
    assert upkeep(conn) == "made"
    base, end = segments(conn)[1]
    assert narrowest <= end - base <= widest


@pytest.fixture
def full_segment(conn: Connection, make_topic: MakeTopic) -> None:
    """A first segment that holds twice segment.bytes in its first 20 offsets."""
    make_topic("orders", config=f'{{"segment.bytes": {MEBIBYTE}}}')
    append(conn, 20, 100_000)


@pytest.mark.usefixtures("full_segment")
def test_full_segment_is_rolled(conn: Connection) -> None:
    assert [upkeep(conn) for _ in range(3)] == ["made", "rolled", "done"]
    (_, boundary), _ = segments(conn)
    assert boundary == 4096
    assert call(conn, "produce", topic="orders", value=b"next") == [(0, boundary)]
    assert rows(conn, "select from_offset, to_offset from pgq.skipped_range") == [(20, boundary)]


@pytest.mark.usefixtures("full_segment")
def test_readers_step_over_the_range_that_a_roll_skipped(conn: Connection) -> None:
    upkeep(conn)
    upkeep(conn)
    assert value(conn, "select pgq.high_watermark('orders', 0)") == 4096
    assert rows(conn, "select * from pgq.fetch('orders', 0, 20)") == []
    call(conn, "produce", topic="orders", value=b"next")
    for position in (20, 21, 4000, 4095, 4096):
        assert rows(conn, "select value from pgq.fetch('orders', 0, %s, 10)", position) == [(b"next",)]
    assert len(rows(conn, "select from pgq.fetch('orders', 0, 0, 5000)")) == 21


@pytest.mark.usefixtures("full_segment")
def test_rolls_go_on(conn: Connection) -> None:
    count = 20
    for _ in range(4):
        while upkeep(conn) != "done":
            pass
        append(conn, 20, 100_000)
        count += 20
    assert len(segments(conn)) >= 5
    assert value(conn, "select count(*) from pgq.skipped_range") >= 3
    assert value(conn, "select count(*) from pgq.fetch('orders', 0, 0, 100000)") == count


@pytest.mark.usefixtures("full_segment")
def test_rolled_segment_takes_no_more(conn: Connection) -> None:
    while upkeep(conn) != "done":
        pass
    size = "select pg_total_relation_size(('pgq_log.t' || topic_id || '_p0_s0')::regclass) from pgq.topic"
    before = value(conn, size)
    append(conn, 3, 100_000)
    assert value(conn, size) == before


def test_unknown_partition_has_nothing_due(conn: Connection) -> None:
    assert value(conn, "select pgq.upkeep(4711)") == "done"
    assert value(conn, "select pgq.upkeep(null)") == "done"


def test_session_settings_survive(conn: Connection, topic: str) -> None:
    conn.execute("set lock_timeout = '7s'")
    append(conn, 3000)
    assert upkeep(conn) == "made"
    append(conn, 70_000)
    assert value(conn, "show lock_timeout") == "7s"


@pytest.mark.parametrize("partition", range(5))
def test_partitions_are_kept_up_apart(conn: Connection, wide_topic: str, partition: int) -> None:
    call(conn, "produce_batch", topic=wide_topic, values=[b"v"] * 3000, partitions=[partition] * 3000)
    made = rows(conn, "select partition, pgq.upkeep(partition_id) from pgq.partition order by 1")
    assert made == [(p, "made" if p == partition else "done") for p in range(5)]


def test_active_segment_that_nobody_ends_is_oversized(conn: Connection, make_topic: MakeTopic) -> None:
    make_topic("orders", config='{"segment.bytes": 1048576}')
    oversized = "select topic, partition, bytes >= 2 * segment_bytes, segment_bytes from pgq._oversized_segments()"
    append(conn, 15, 100_000)
    assert rows(conn, oversized) == []
    append(conn, 15, 100_000)
    assert rows(conn, oversized) == [("orders", 0, True, MEBIBYTE)]
    assert (upkeep(conn), upkeep(conn)) == ("made", "rolled")
    assert rows(conn, oversized) == []
