"""What compaction decides: how far, when it is due, which tombstones go, what is merged."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import psycopg
import pytest

from tests.plugins.compacting import NOW, Log, MakeLog
from tests.plugins.sessions import Connection, call, refused, rows, value

from .conftest import MakeTopic

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def state(log: Log, at: object = NOW) -> tuple[int | None, int, int, bool]:
    """end_offset, clean_to, removable_below, due."""
    ((result),) = rows(
        log.conn,
        "select s.* from pgq.partition p, pgq._compaction_state(p, %s) s where p.partition_id = %s",
        at,
        log.partition_id,
    )
    return result


def note_pass(log: Log, clean_to: int, at: object, tombstones: int = 0) -> None:
    log.conn.execute("select pgq._begin_compaction(%s)", [log.partition_id])
    log.conn.execute("select pgq._end_compaction(%s, %s, %s, %s)", [log.partition_id, clean_to, at, tombstones])


def passes(log: Log) -> list[tuple[int, int]]:
    return rows(log.conn, "select clean_to, tombstones from pgq.compaction order by 1")


def give_bytes(log: Log, *sizes: int) -> list[int]:
    """Make segments of these sizes, as far as the catalog says; return where they end."""
    ends = []
    for size in sizes:
        log.append([(b"k", b"v")])
        ends.append(log.end_segment())
        log.conn.execute(
            "update pgq.segment set bytes = %s where partition_id = %s and end_offset = %s",
            [size, log.partition_id, ends[-1]],
        )
    return ends


def test_segments_that_are_not_closed_are_left_out(log: Log) -> None:
    log.append([(b"k", b"v")])
    assert state(log) == (None, 0, 0, False)
    log.close_segments()
    assert state(log) == (None, 0, 0, False)
    assert state(log) == (None, 0, 0, False)
    end = log.end_segment()
    assert state(log) == (end, 0, 0, True)


def test_open_transaction_keeps_its_segment_from_being_closed(log: Log, connect: Callable[[], Connection]) -> None:
    producer = connect()
    with producer.transaction():
        producer.execute("select from pgq.begin_append(array[%s]::int[], '{0}', '{4096}')", [log.topic_id])
        log.append([(b"k", b"v")])
        log.close_segments()
        assert state(log)[0] is None
    log.close_segments()
    assert state(log)[0] == 4096


@pytest.mark.parametrize("dirty, due", [(100, True), (99, False)])
def test_due_when_half_is_dirty(log: Log, dirty: int, due: bool) -> None:
    clean_to, end = give_bytes(log, 100, dirty)
    note_pass(log, clean_to, NOW)
    assert state(log) == (end, clean_to, 0, due)
    assert log.is_due() is due


def test_segment_that_lies_on_both_sides_is_dirty(log: Log) -> None:
    """A pass that was ended between two groups may have merged a dirty segment with a clean one."""
    (end,) = give_bytes(log, 100)
    note_pass(log, 1000, NOW)
    assert state(log) == (end, 1000, 0, True)


def test_nothing_is_due_where_nothing_is_dirty(log: Log) -> None:
    (end,) = give_bytes(log, 100)
    note_pass(log, end, NOW)
    assert state(log) == (end, end, 0, False)


def test_segments_below_the_log_start_do_not_count(log: Log) -> None:
    first, _, end = give_bytes(log, 1000, 100, 100)
    note_pass(log, first, NOW)
    assert state(log)[3] is False
    call(log.conn, "delete_records", topic=log.topic, partition=0, offset=first)
    assert state(log) == (end, first, 0, True)


def test_young_records_end_it(make_log: MakeLog) -> None:
    log = make_log('{"min.compaction.lag.ms": 3600000}')
    first, second, third = give_bytes(log, 100, 100, 100)
    soon = value(log.conn, "select clock_timestamp()") + HOUR / 2
    assert state(log, soon) == (None, 0, 0, False)
    assert state(log, soon + HOUR)[0] == third
    log.conn.execute(f'update {log.tree} set "timestamp" = %s where "offset" = %s', [soon, first])
    assert state(log, soon + HOUR / 2)[0] == first
    note_pass(log, second, NOW)  # what was compacted once is not young any more
    assert state(log, soon + HOUR / 2)[0] == third


@pytest.mark.parametrize("lag", [9_000_000_000_000_000, 10**15])
def test_longest_lag(make_log: MakeLog, lag: int) -> None:
    log = make_log(f'{{"min.compaction.lag.ms": {lag}, "delete.retention.ms": {lag}}}')
    give_bytes(log, 100)
    assert state(log) == (None, 0, 0, False)


def test_tombstones_are_removable_after_delete_retention(log: Log) -> None:
    first, second = give_bytes(log, 100, 100)
    note_pass(log, first, NOW, tombstones=1)
    note_pass(log, second, NOW + HOUR, tombstones=2)
    assert state(log, NOW + DAY - timedelta(microseconds=1)) == (second, second, 0, False)
    assert state(log, NOW + DAY) == (second, second, first, True)
    assert state(log, NOW + DAY + HOUR) == (second, second, second, True)


def test_pass_without_tombstones_asks_for_no_other(log: Log) -> None:
    (end,) = give_bytes(log, 100)
    note_pass(log, end, NOW)
    assert state(log, NOW + DAY) == (end, end, end, False)


def test_passes_that_no_longer_matter_are_forgotten(log: Log) -> None:
    first, second, third = give_bytes(log, 100, 100, 100)
    note_pass(log, first, NOW, tombstones=1)
    note_pass(log, second, NOW + HOUR, tombstones=2)
    note_pass(log, third, NOW + DAY - HOUR, tombstones=3)
    assert passes(log) == [(first, 1), (second, 2), (third, 3)]
    note_pass(log, third, NOW + DAY + HOUR, tombstones=1)
    assert passes(log) == [(second, 0), (third, 1)]
    assert state(log, NOW + 2 * DAY - HOUR)[2:] == (third, True)
    note_pass(log, third, NOW + 2 * DAY)
    assert passes(log) == [(third, 0)]


def test_topics_that_are_not_compacted_are_not_looked_at(make_log: MakeLog) -> None:
    logs = [make_log(policy=policy) for policy in ("delete", "compact", "delete,compact", "compact,delete")]
    for log in logs:
        give_bytes(log, 100)
    assert rows(logs[0].conn, "select * from pgq._compaction_due(0, %s)", NOW) == [
        (log.partition_id, True) for log in logs[1:]
    ]


def test_a_hundred_are_looked_at_at_once(conn: Connection) -> None:
    for number in range(3):
        call(conn, "create_topic", name=f"t{number}", partitions=50, config='{"cleanup.policy": "compact"}')
    first = rows(conn, "select * from pgq._compaction_due()")
    assert len(first) == 100
    assert len(rows(conn, "select * from pgq._compaction_due(%s)", first[-1][0])) == 50


def plan(log: Log) -> list[tuple[list[int] | None, int, int, int]]:
    """bases, end_offset, records, kept of each group and of all."""
    assert value(log.conn, "select pgq._open_compaction_plan(%s, %s)", log.partition_id, NOW)
    while value(log.conn, "select pgq._read_compaction_step()"):
        pass
    return rows(log.conn, "select bases, end_offset, records, kept from pgq._compaction_plan(%s)", log.partition_id)


def segments(log: Log, *records: list[tuple[bytes | None, bytes | None]]) -> list[int]:
    """Append closed segments; return where each begins, and where the last one ends."""
    result = [0]
    for batch in records:
        log.append(batch)
        result.append(log.end_segment())
    return result


def test_neighbours_are_merged(log: Log) -> None:
    a, b, c, end = segments(log, [(b"a", b"1"), (b"b", b"1")], [(b"a", b"2")], [(b"c", b"1"), (b"b", None)])
    assert plan(log) == [([a, b, c], end, 5, 3), (None, end, 5, 3)]


def test_neighbours_are_merged_up_to_segment_bytes(log: Log) -> None:
    a, b, c, d, end = segments(log, [(b"a", b"1"), (b"a", b"2")], [(b"b", b"1")], [(b"c", b"1")], [(b"d", b"1")])
    for base, size in zip((a, b, c, d), (100, 51, 20, 30), strict=True):
        log.conn.execute("update pgq.segment set bytes = %s::bigint << 20 where base_offset = %s", [size, base])
    assert plan(log) == [([a, b, c], d, 4, 3), (None, end, 5, 4)]  # 50 + 51 + 20; the last one stays


def test_sixteen_are_merged_at_most(log: Log) -> None:
    bases = segments(log, *[[(b"%d" % n, b"v")] for n in range(20)])
    assert [found for found, *_ in plan(log)] == [bases[:16], bases[16:20], None]


def test_segment_that_keeps_all_is_left_alone(log: Log) -> None:
    _, end = segments(log, [(b"a", b"1"), (None, b"1"), (None, None), (b"b", None)])
    assert plan(log) == [(None, end, 4, 4)]


def test_keys_of_any_length_and_of_the_same_beginning(log: Log) -> None:
    long = bytes(3_000)
    records: list[tuple[bytes | None, bytes | None]] = [(long, b"1"), (long + b"\x00", b"1"), (b"", b"1"), (long, b"2")]
    _, end = segments(log, records)
    assert plan(log) == [([0], end, 4, 3), (None, end, 4, 3)]


def test_nothing_to_plan(make_log: MakeLog) -> None:
    for log in (make_log(), make_log(policy="delete")):
        assert value(log.conn, "select pgq._open_compaction_plan(%s)", log.partition_id) is False
    assert value(log.conn, "select pgq._open_compaction_plan(4711)") is False


def test_records_below_the_log_start_do_not_survive(log: Log) -> None:
    _, end = segments(log, [(b"a", b"1"), (b"b", b"1"), (None, b"1"), (b"c", b"1"), (b"d", None)])
    call(log.conn, "delete_records", topic=log.topic, partition=0, offset=3)
    assert plan(log) == [([0], end, 5, 2), (None, end, 5, 2)]
    assert log.compact().records_after == 2
    assert [row[1] for row in log.contents()] == log.offsets() == [3, 4]


def test_log_start_that_moves_during_a_pass(log: Log) -> None:
    """What was counted and what is copied is the same; what was deleted meanwhile goes at the next pass."""
    segments(log, [(b"a", b"1"), (b"b", b"1"), (b"a", b"2"), (b"c", b"1")])
    moved = []

    def delete() -> bool:
        if not moved:
            moved.extend(call(log.conn, "delete_records", topic=log.topic, partition=0, offset=2))
        return False

    assert log.compact(stopping=delete).outcome == "done"
    assert moved == [(2,)]
    assert [row[1] for row in log.contents()] == [1, 2, 3]
    assert log.offsets() == [2, 3]
    assert log.compact().outcome == "done"
    assert [row[1] for row in log.contents()] == [2, 3]


# records without a key


@pytest.fixture(params=["compact", "compact,delete"])
def compacted(request: pytest.FixtureRequest, make_topic: MakeTopic) -> str:
    return make_topic("state", 3, f'{{"cleanup.policy": "{request.param}"}}')


def test_record_without_a_key_is_refused(conn: Connection, compacted: str) -> None:
    with refused("PQ018"):
        call(conn, "produce", topic=compacted, value=b"v")
    with refused("PQ018"):
        call(conn, "produce", topic=compacted, value=b"v", partition=1, header_keys=["h"], header_values=[b"v"])
    with refused("PQ018"):
        call(conn, "produce_json", topic=compacted, value="{}")
    with refused("PQ018"):
        call(conn, "produce_batch", topic=compacted, values=[b"v", b"v"], keys=[b"k", None])
    with refused("PQ018"):
        call(conn, "produce_batch", topic=compacted, values=[b"v"], partitions=[0])
    assert value(conn, "select count(*) from pgq_topic.state") == 0


def test_record_with_a_key_is_taken_and_a_tombstone_too(conn: Connection, compacted: str) -> None:
    call(conn, "produce", topic=compacted, value=b"v", key=b"")
    call(conn, "produce", topic=compacted, value=None, key=b"k")
    call(conn, "produce_json", topic=compacted, value="{}", key="k")
    assert len(call(conn, "produce_batch", topic=compacted, values=[b"v", None], keys=[b"k", b"l"])) == 2


def test_change_of_policy_counts_at_once(conn: Connection, make_topic: MakeTopic) -> None:
    topic = make_topic("orders")
    call(conn, "produce", topic=topic, value=b"v")
    call(conn, "alter_topic_config", name=topic, config='{"cleanup.policy": "compact"}')
    with refused("PQ018"):
        call(conn, "produce", topic=topic, value=b"v")
    call(conn, "alter_topic_config", name=topic, config='{"cleanup.policy": null}')
    call(conn, "produce", topic=topic, value=b"v")


def test_batch_for_several_topics_is_refused_for_the_compacted_one_only(
    conn: Connection, compacted: str, topic: str
) -> None:
    append = (
        "select from pgq._append_records(%s::text[], null, null, null, array[null, %s]::bytea[], '{v,v}',"
        " null, null, null)"
    )
    conn.execute(append, [[topic, compacted], b"k"])
    with pytest.raises(psycopg.Error, match="'state'"):
        conn.execute(append, [[compacted, topic], b"k"])
