"""The checker proves something only if it catches a broken log: each rule of the log is broken here, one at a time.

Every scene is played twice, with the functions as they are and with one of them changed, and gives an anomaly in the
second case alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .checker import Kind
from .lab import GATE_SQL, RULES, ByConsumer, BySettle, Edit, Lab, Rule, kinds, lab

if TYPE_CHECKING:
    from pgq.embedded import EmbeddedServer

SKIPPED = {Kind.POLL_SKIP, Kind.LOST_WRITE}

BOTH_PATHS = pytest.mark.parametrize("batch", [False, True], ids=["produce", "produce_batch"])
EVERY_RULE = pytest.mark.parametrize("rule", RULES)
MUTATED = pytest.mark.parametrize("mutated", [False, True], ids=["as it is", "mutated"])


# (a) the high watermark

NO_WATERMARK = [
    Edit("_high_watermark.sql", "return next_offset + least(coalesce(distance, 0), 0);", "return next_offset;")
]


@MUTATED
@EVERY_RULE
@BOTH_PATHS
def test_no_watermark(dsn: str, batch: bool, rule: type[Rule], mutated: bool) -> None:
    """A reader that steps over any hole misses the record of a transaction that was open."""
    with lab(dsn, NO_WATERMARK if mutated else ()) as scene:
        slow, fast, reader = scene.producer(batch=batch), scene.producer(), scene.reader(rule)
        slow.begin()
        slow.produce()
        fast.produce()
        assert reader.poll() == ([1] if mutated else [])
        slow.commit()
        reader.drain()
        assert kinds(scene.judge()) == (SKIPPED if mutated else set())


# (b) the APPEND lock comes before the offsets

PRODUCE_RULE = """
    "offset" := case when strpos(current_setting('pgq.append', true), %7$s) > 0
                       or pg_advisory_xact_lock_shared(%8$s |
                            ((coalesce(pg_sequence_last_value(%9$s), -1) + 1) & 1099511627775)) is not null
                      and set_config('pgq.append', concat(current_setting('pgq.append', true), %7$s), true) is not null
                     then nextval(%9$s) end;"""
PRODUCE_LOCK = """
    if coalesce(strpos(current_setting('pgq.append', true), %7$s), 0) = 0 then
        perform pg_advisory_xact_lock_shared(%8$s | ((coalesce(pg_sequence_last_value(%9$s), -1) + 1) & 1099511627775));
        perform set_config('pgq.append', concat(current_setting('pgq.append', true), %7$s), true);
    end if;"""
PRODUCE_TAKE = """
    "offset" := nextval(%9$s);"""

BATCH_LOCK = """
        if coalesce(strpos(current_setting('pgq.append', true), mark), 0) = 0 then
            perform pg_advisory_xact_lock_shared(pgq._append_key(part.partition_id,
                                                 coalesce(pg_sequence_last_value(part.sequence), -1) + 1));
            perform set_config('pgq.append', concat(current_setting('pgq.append', true), mark), true);
        end if;"""
BATCH_TAKE = """
        offsets := array(select nextval(part.sequence) from generate_series(1, part.count));"""


def append_rule(batch: bool, *, lock_first: bool) -> list[Edit]:
    """Write the append rule as two statements with a gate between them."""
    if batch:
        steps = (BATCH_LOCK, BATCH_TAKE) if lock_first else (BATCH_TAKE, BATCH_LOCK)
        return [Edit("begin_append.sql", BATCH_LOCK + BATCH_TAKE, GATE_SQL.join(steps))]
    steps = (PRODUCE_LOCK, PRODUCE_TAKE) if lock_first else (PRODUCE_TAKE, PRODUCE_LOCK)
    return [Edit("_define_produce.sql", PRODUCE_RULE, GATE_SQL.join(steps))]


@MUTATED
@EVERY_RULE
@BOTH_PATHS
def test_lock_after_the_offsets(dsn: str, batch: bool, rule: type[Rule], mutated: bool) -> None:
    """An offset that was taken without a lock looks as if it would never be filled."""
    with lab(dsn, append_rule(batch, lock_first=not mutated)) as scene:
        slow, fast, reader = scene.producer(batch=batch), scene.producer(batch=not batch), scene.reader(rule)
        slow.begin()
        scene.gate.close()
        producing = scene.beside(slow.produce)
        scene.gate.wait_for_somebody(producing)
        fast.produce()
        reader.poll()
        scene.gate.open()
        producing.result()
        slow.commit()
        reader.drain()
        assert kinds(scene.judge()) == (SKIPPED if mutated else set())


# (c) "once a transaction" is remembered in a setting that is local to it

MARK_STAYS = {
    False: Edit(
        "_define_produce.sql",
        "set_config('pgq.append', concat(current_setting('pgq.append', true), %7$s), true)",
        "set_config('pgq.append', concat(current_setting('pgq.append', true), %7$s), false)",
    ),
    True: Edit(
        "begin_append.sql",
        "set_config('pgq.append', concat(current_setting('pgq.append', true), mark), true)",
        "set_config('pgq.append', concat(current_setting('pgq.append', true), mark), false)",
    ),
}


@MUTATED
@EVERY_RULE
@BOTH_PATHS
def test_mark_outlives_the_transaction(dsn: str, batch: bool, rule: type[Rule], mutated: bool) -> None:
    """A second transaction of the session believes that it holds the lock of the first."""
    with lab(dsn, [MARK_STAYS[batch]] if mutated else ()) as scene:
        slow, fast, reader = scene.producer(batch=batch), scene.producer(batch=not batch), scene.reader(rule)
        slow.produce()
        slow.begin()
        slow.produce()
        fast.produce()
        reader.drain()
        slow.commit()
        reader.drain()
        assert kinds(scene.judge()) == (SKIPPED if mutated else set())


# (d) rows first, log start second


FETCH_START = """
    -- after the rows and with a later snapshot
    select p.log_start_offset into start_offset from pgq.partition p where p.partition_id = part.partition_id;
    if "offset" < start_offset then
        perform pgq._raise_offset_out_of_range(part.partition_id, "offset", start_offset,
                                               coalesce(pg_sequence_last_value(part.sequence), -1) + 1);
    end if;"""
SETTLE_START = """
    select p.log_start_offset into start_offset from pgq.partition p where p.partition_id = _settle.partition_id;
    if "offset" < start_offset then
        perform pgq._raise_offset_out_of_range(partition_id, "offset", start_offset, high_watermark);
    end if;"""
CHECK_FETCH = "perform pgq._check_fetch(part.topic_id);"
ROWS_FIRST = [Edit("_settle.sql", SETTLE_START, GATE_SQL + SETTLE_START)]
START_FIRST = [
    Edit("_settle.sql", SETTLE_START, ""),
    Edit("_settle.sql", CHECK_FETCH, CHECK_FETCH + SETTLE_START + GATE_SQL),
    Edit("fetch.sql", FETCH_START, ""),
    Edit("fetch.sql", CHECK_FETCH, CHECK_FETCH + FETCH_START),
]


def leave_a_hole_and_ten_records(scene: Lab) -> None:
    """Offset 0 is rolled back, so that a reader has to settle; 1 to 10 hold records."""
    producer = scene.producer(batch=True)
    producer.begin()
    producer.produce()
    producer.rollback()
    producer.produce(10)


@MUTATED
@EVERY_RULE
def test_log_start_before_the_rows(dsn: str, rule: type[Rule], mutated: bool) -> None:
    """Records deleted between the two reads look like rolled-back ones, and the reader is not told."""
    with lab(dsn, START_FIRST if mutated else ROWS_FIRST) as scene:
        reader = scene.reader(rule)
        leave_a_hole_and_ten_records(scene)
        scene.gate.close()
        polling = scene.beside(reader.poll)
        scene.gate.wait_for_somebody(polling)
        scene.delete_records(6)
        scene.gate.open()
        assert polling.result() == [6, 7, 8, 9, 10]
        assert kinds(scene.judge()) == (SKIPPED if mutated else set())


# (e) WAL is flushed before a hole is stepped over

NO_FLUSH = [Edit("_flush_wal.sql", "if pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn() then", "if false then")]


@MUTATED
@pytest.mark.parametrize("rule", [BySettle, ByConsumer])
def test_hole_stepped_over_before_it_is_flushed(
    own_dsn: str, own_server: EmbeddedServer, rule: type[Rule], mutated: bool
) -> None:
    """A crash sets the sequence back over what nobody flushed, and a reader beyond it misses what comes there."""
    with lab(own_dsn, NO_FLUSH if mutated else (), own_server) as scene:
        producer, reader = scene.producer(batch=True), scene.reader(rule)
        producer.produce()
        scene.stop_wal_writer()
        producer.begin()
        producer.produce(200)
        producer.rollback()
        reader.drain()
        assert reader.position == 201
        scene.crash()
        producer.reconnect()
        reader.reconnect()
        producer.produce(300)
        reader.drain()
        assert kinds(scene.judge()) == (SKIPPED if mutated else set())
