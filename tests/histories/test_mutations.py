"""The checker proves something only if it catches a broken log: each rule of the log is broken here, one at a time.

Every scene is played twice, with the functions as they are and with one of them changed, and gives an anomaly in the
second case alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .checker import Kind
from .lab import GATE, GATE_SQL, RULES, ByConsumer, BySettle, Edit, Lab, Rule, kinds, lab

if TYPE_CHECKING:
    from pgq.embedded import EmbeddedServer

SKIPPED = {Kind.POLL_SKIP, Kind.LOST_WRITE}

BOTH_PATHS = pytest.mark.parametrize("batch", [False, True], ids=["produce", "produce_batch"])
EVERY_RULE = pytest.mark.parametrize("rule", RULES)
MUTATED = pytest.mark.parametrize("mutated", [False, True], ids=["as it is", "mutated"])


ANYTHING = r"((?:.|\n)*?)"

# (a) the high watermark

NO_WATERMARK = [
    Edit("_watermark_below.sql", r"return next_offset \+ least\(coalesce\(distance, 0\), 0\);", "return next_offset;")
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

PRODUCE_LOCK = (
    r"(pg_catalog\.pg_advisory_xact_lock_shared\(.*?1099511627775\)\) is not null"
    r" and pg_catalog\.set_config\('pgq\.append',"
    r" pg_catalog\.concat\(pg_catalog\.current_setting\('pgq\.append', true\), %\d+\$s\), true\) is not null)"
)
PRODUCE_TAKE = r"(then pg_catalog\.nextval\(%\d+\$s\) end;)"
BATCH_LOCK = r"(locked := (?:.|\n)*?, true\) is not null\);)"
BATCH_TAKE = r"\s+(offsets := array\(select nextval\(part\.sequence\) from generate_series\(1, part\.count\)\);)"


def append_rule(batch: bool, *, lock_first: bool) -> list[Edit]:
    """Put a gate between the lock and the offsets, and change their order or not."""
    if batch:
        steps = rf"\1 {GATE_SQL} \2" if lock_first else rf"\2 {GATE_SQL} \1"
        return [Edit("begin_append.sql", BATCH_LOCK + BATCH_TAKE, steps)]
    if lock_first:
        return [Edit("_define_produce.sql", PRODUCE_LOCK, rf"\1 and {GATE}")]
    return [
        Edit("_define_produce.sql", PRODUCE_LOCK + ANYTHING + PRODUCE_TAKE, rf"true \2 \3 {GATE_SQL} perform \1;"),
    ]


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

MARK = (
    r"(set_config\('pgq\.append', (?:pg_catalog\.)?concat\("
    r"(?:pg_catalog\.)?current_setting\('pgq\.append', true\), [^)]*\)), true\)"
)
MARK_STAYS = {
    batch: Edit(file, MARK, r"\1, false)")
    for batch, file in ((False, "_define_produce.sql"), (True, "begin_append.sql"))
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

LOG_START = r"""
    (select p\.log_start_offset into start_offset from pgq\.partition p where p\.partition_id = \S+;
    if "offset" < start_offset and [^;]*? then
        perform pgq\._raise_offset_out_of_range\([^;]*\);
    end if;)"""
CHECK_FETCH = r"(perform pgq\._check_fetch\(part\.topic_id\);)"
ROWS_FIRST = [Edit("_settle.sql", LOG_START, rf"{GATE_SQL} \1")]
START_FIRST = [
    Edit("_settle.sql", CHECK_FETCH + ANYTHING + LOG_START, rf"\1 \3 {GATE_SQL} \2"),
    Edit("fetch.sql", CHECK_FETCH + ANYTHING + LOG_START, r"\1 \3 \2"),
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

NO_FLUSH = [
    Edit("_flush_wal.sql", r"if pg_current_wal_flush_lsn\(\) < pg_current_wal_insert_lsn\(\) then", "if false then")
]


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
