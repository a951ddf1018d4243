"""Retention by Kafka's rules: a log that does anything at all, and a pure model that says where it must start.

The clock is the test's: the functions of the database are given the time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.plugins.sessions import Connection, rows, value

HOUR_MS = 3_600_000
START_MS = 1_577_836_800_000  # 2020: nothing is in the future for the server's own clock
SEGMENT_BYTES = 98_304
MUCH_BYTES = 81_920
"""What an active segment of which all is deleted has to hold, for this to be given back; an empty one has 48 KiB."""


@dataclass(frozen=True)
class Segment:
    """One segment as the rules see it."""

    base: int
    end: int
    size: int
    largest_ms: int | None
    last_offset: int | None


def log_start_after_retention(
    segments: list[Segment],
    *,
    log_start: int,
    high_watermark: int,
    next_offset: int,
    retention_ms: int,
    retention_bytes: int,
    now_ms: int,
) -> int:
    """Where the log starts after a run: the three passes of Kafka's UnifiedLog.deleteOldSegments in turn.

    The first of them is more than there: a segment does not end with its last record, but beyond what was skipped.
    """
    left = [s for s in segments if s.base < next_offset]

    def is_decided(segment: Segment) -> bool:
        return high_watermark >= min(segment.end, next_offset)

    while left and left[0].end <= log_start:
        left.pop(0)
    if left and left[0].base < log_start and is_decided(left[0]) and (left[0].last_offset or 0) < log_start:
        is_closed = left[0].end <= high_watermark
        if is_closed or left[0].size >= MUCH_BYTES:
            log_start = left.pop(0).end
    surplus = sum(s.size for s in left) - retention_bytes
    while left and retention_bytes >= 0 and surplus - left[0].size >= 0 and is_decided(left[0]):
        surplus -= left[0].size
        log_start = left.pop(0).end
    while left and retention_ms >= 0 and is_decided(left[0]):
        largest_ms = left[0].largest_ms
        if largest_ms is not None and now_ms - largest_ms <= retention_ms:
            break
        log_start = left.pop(0).end
    return log_start


class Log(RuleBasedStateMachine):
    """A topic of one partition."""

    conn: Connection
    """The test's session."""
    connect: Callable[[], Connection]
    names = count()

    @initialize(
        retention_ms=st.sampled_from([-1, 0, HOUR_MS, 24 * HOUR_MS]),
        retention_bytes=st.sampled_from([-1, 0, SEGMENT_BYTES, 4 * SEGMENT_BYTES]),
    )
    def create(self, retention_ms: int, retention_bytes: int) -> None:
        self.topic = f"model-{next(self.names)}"
        self.now_ms = START_MS
        self.records: dict[int, int] = {}
        self.log_start = self.least_position = 0
        self.open: Connection | None = None
        self.retention_ms = retention_ms
        self.retention_bytes = retention_bytes
        config = {"segment.bytes": SEGMENT_BYTES, "retention.ms": retention_ms, "retention.bytes": retention_bytes}
        self.conn.execute("select pgq.create_topic(%s, 1, %s)", [self.topic, json.dumps(config)])
        self.topic_id, self.partition_id = rows(
            self.conn,
            "select topic_id, partition_id from pgq.topic join pgq.partition using (topic_id) where name = %s",
            self.topic,
        )[0]

    def teardown(self) -> None:
        if self.open is not None:
            self.open.rollback()

    @property
    def now(self) -> str:
        return f"'epoch'::timestamptz + {self.now_ms} * interval '1 millisecond'"

    @rule(
        batch=st.integers(1, 30),
        size=st.sampled_from([10, 1900, 1900]),
        age_ms=st.sampled_from([0, 0, 0, HOUR_MS, 30 * HOUR_MS, -2 * HOUR_MS]),
        upkeep=st.booleans(),
    )
    def append(self, batch: int, size: int, age_ms: int, upkeep: bool) -> None:
        """Now; or late; or with a timestamp from the future, which keeps all after it."""
        timestamp_ms = self.now_ms - age_ms
        for (offset,) in rows(
            self.conn,
            "select (pgq.produce(%s, convert_to(repeat(md5(random()::text), %s / 32 + 1), 'UTF8'), \"timestamp\" =>"
            " 'epoch'::timestamptz + %s * interval '1 millisecond')).\"offset\" from generate_series(1, %s)",
            self.topic, size, timestamp_ms, batch,
        ):  # fmt: skip
            self.records[offset] = timestamp_ms
        if upkeep:
            self.see_to_segments()

    @rule(batch=st.integers(1, 20))
    def append_and_roll_back(self, batch: int) -> None:
        with self.conn.transaction(force_rollback=True):
            self.conn.execute("select pgq.produce(%s, 'x') from generate_series(1, %s)", [self.topic, batch])

    @rule()
    def upkeep(self) -> None:
        self.see_to_segments()

    def see_to_segments(self) -> None:
        while value(self.conn, "select pgq.upkeep(%s)", self.partition_id) in ("made", "rolled"):
            pass

    @rule(hours=st.sampled_from([0.1, 1, 5, 25]))
    def pass_time(self, hours: float) -> None:
        self.now_ms += int(hours * HOUR_MS)

    @rule(
        retention_ms=st.sampled_from([-1, 0, 1, HOUR_MS, 24 * HOUR_MS, 9_000_000_000_000_000]),
        retention_bytes=st.sampled_from([-1, 0, 1, SEGMENT_BYTES, 3 * SEGMENT_BYTES, 10**15]),
    )
    def alter(self, retention_ms: int, retention_bytes: int) -> None:
        self.retention_ms, self.retention_bytes = retention_ms, retention_bytes
        config = {"retention.ms": retention_ms, "retention.bytes": retention_bytes}
        self.conn.execute("select pgq.alter_topic_config(%s, %s)", [self.topic, json.dumps(config)])

    @rule(share=st.floats(0, 1))
    def delete_records(self, share: float) -> None:
        high_watermark = value(self.conn, "select pgq.high_watermark(%s, 0)", self.topic)
        offset = self.log_start + int(share * (high_watermark - self.log_start))
        self.log_start = value(self.conn, "select pgq.delete_records(%s, 0, %s)", self.topic, offset)
        assert self.log_start == offset
        # what was deleted by hand may have been any record's
        self.least_position = max(self.least_position, offset)

    @precondition(lambda self: self.open is None)
    @rule()
    def leave_a_transaction_open(self) -> None:
        """It may still fill its offset: nothing from there on goes."""
        self.open = self.connect()
        self.open.autocommit = False
        self.open_offset, self.open_ms = value(
            self.open, "select (pgq.produce(%s, 'open', \"timestamp\" => " + self.now + ')).\"offset\"', self.topic
        ), self.now_ms  # fmt: skip

    @precondition(lambda self: self.open is not None)
    @rule(commit=st.booleans())
    def end_the_transaction(self, commit: bool) -> None:
        assert self.open is not None
        if commit:
            self.open.commit()
            self.records[self.open_offset] = self.open_ms
        else:
            self.open.rollback()
        self.open.close()
        self.open = None

    @rule()
    def retain(self) -> None:
        """One run of the job."""
        found = rows(
            self.conn,
            "select s.base_offset, s.end_offset,"
            " coalesce(s.bytes, pg_total_relation_size(pgq._segment_name(%s, 0, s.base_offset)::regclass))"
            " from pgq.segment s where s.partition_id = %s order by 1",
            self.topic_id, self.partition_id,
        )  # fmt: skip
        segments = [
            Segment(
                base,
                end,
                size,
                max((ms for o, ms in self.records.items() if base <= o < end), default=None),
                max((o for o in self.records if base <= o < end), default=None),
            )
            for base, end, size in found
        ]
        high_watermark = value(self.conn, "select pgq.high_watermark(%s, 0)", self.topic)
        next_offset = value(self.conn, "select pgq.log_end_offset(%s, 0)", self.topic)
        expected = log_start_after_retention(
            segments,
            log_start=self.log_start,
            high_watermark=high_watermark,
            next_offset=next_offset,
            retention_ms=self.retention_ms,
            retention_bytes=self.retention_bytes,
            now_ms=self.now_ms,
        )
        note(f"{segments=} {high_watermark=} {next_offset=} {expected=}")
        due = value(self.conn, f"select due from pgq._retention_due(%s, {self.now})", self.partition_id - 1)
        assert due == (expected > self.log_start)
        while value(self.conn, f"select pgq._apply_retention(%s, {self.now})", self.partition_id) not in (
            "done",
            "busy",
        ):
            pass
        assert value(self.conn, "select pgq.log_start_offset(%s, 0)", self.topic) == expected
        if expected > self.log_start:
            read_to = max((o + 1 for o in self.records if o < expected), default=0)
            self.least_position = max(self.least_position, read_to)
        self.log_start = expected

    @rule()
    def drop(self) -> None:
        """Whole segments below the log start, and no others; while nobody holds them."""
        listed = "select base_offset, end_offset from pgq.segment where partition_id = %s order by 1"
        before = rows(self.conn, listed, self.partition_id)
        found = [row[1:] for row in rows(self.conn, "select * from pgq._droppable()") if row[0] == self.partition_id]
        assert [row[0] for row in found] == [base for base, end in before if end <= self.log_start]
        for base, tree, leaf, state, holders in found:
            assert (state, holders != []) == ("attached", self.open is not None)
            if not holders:
                self.conn.execute(f"alter table {tree} detach partition {leaf} concurrently")
                assert value(self.conn, "select pgq._drop_segment(%s, %s)", self.partition_id, base)
        if self.open is None:
            assert rows(self.conn, listed, self.partition_id) == [s for s in before if s[1] > self.log_start]

    @invariant()
    def exactly_the_records_from_the_log_start_on_are_there(self) -> None:
        seen = dict(
            rows(
                self.conn,
                f'select "offset", (extract(epoch from "timestamp") * 1000)::int8 from pgq_topic."{self.topic}"',
            )
        )
        assert seen == {o: ms for o, ms in self.records.items() if o >= self.log_start}

    @invariant()
    def whoever_has_read_all_that_was_deleted_has_not_fallen_behind(self) -> None:
        found = value(self.conn, "select pgq._least_position(%s, %s)", self.partition_id, self.log_start)
        assert found <= self.least_position
        assert not any(found <= o < self.log_start for o in self.records)


def run(conn: Connection, connect: Callable[[], Connection], examples: int, without: tuple[str, ...] = ()) -> None:
    """Do so many series of steps.

    Args:
        without: rules that are left out.
    """
    made = type("LogHere", (Log,), {"conn": conn, "connect": staticmethod(connect)} | dict.fromkeys(without))
    run_state_machine_as_test(
        made,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            derandomize=bool(without),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        ),
    )


@pytest.fixture(autouse=True)
def small_segments(watcher: Connection) -> None:
    watcher.execute("update pgq.topic_config set minimum = 1 where key = 'segment.bytes'")
    text = value(watcher, "select pg_get_functiondef('pgq._expired'::regproc)")
    assert text.count(">= 1048576") == 1
    watcher.execute(text.replace(">= 1048576", f">= {MUCH_BYTES}"))


def test_retention_does_what_the_model_says(conn: Connection, connect: Callable[[], Connection]) -> None:
    run(conn, connect, 60)
    assert rows(conn, "select * from pgq.check_log()") == []


FEW = ("append_and_roll_back", "leave_a_transaction_open", "delete_records", "alter", "drop", "upkeep")
"""Rules that are rather in the way of histories in which old and young records mix."""


@pytest.mark.parametrize(
    "function, right, wrong, without",
    [
        pytest.param(
            "_expired", "(total >= keep_bytes)", "(total > keep_bytes)", ("upkeep",), id="a byte less is kept"
        ),
        pytest.param(
            "_expired",
            "total := total - coalesce",
            "total := total - 0 * coalesce",
            ("upkeep",),
            id="the segment counts",
        ),
        pytest.param(
            "_expired",
            "roll_first := true;\n            exit",
            "roll_first := false;\n            exit",
            ("upkeep",),
            id="the active one is exempt",
        ),
        pytest.param(
            "_expired", "exit when since is null or", "continue when since is null or", FEW, id="not only a prefix"
        ),
        pytest.param(
            "_expired", "exit when high_watermark <", "exit when false and 1 <", ("upkeep",), id="beyond the watermark"
        ),
        pytest.param("_is_younger", "if not result then", "if false then", FEW, id="only the last record's timestamp"),
        pytest.param(
            "_expired",
            "pgq._last_offset(segment.leaf, log_start) is null",
            "false",
            ("upkeep", "leave_a_transaction_open"),
            id="what was skipped is not passed over",
        ),
        pytest.param(
            "_expired",
            "pgq._last_offset(segment.leaf, log_start) is null",
            "true",
            ("upkeep",),
            id="records are passed over",
        ),
        pytest.param(
            "_least_position", "r.to_offset >=", "r.to_offset <", ("upkeep",), id="readers in a gap have fallen behind"
        ),
        pytest.param(
            "_drop_segment",
            "r.to_offset < log_start",
            "true",
            ("upkeep", "leave_a_transaction_open"),
            id="the gap is forgotten",
        ),
        pytest.param(
            "_droppable", "s.end_offset <= p.log", "s.base_offset <= p.log", ("upkeep",), id="segments that are begun"
        ),
    ],
)
def test_the_model_catches(
    conn: Connection,
    connect: Callable[[], Connection],
    watcher: Connection,
    function: str,
    right: str,
    wrong: str,
    without: tuple[str, ...],
) -> None:
    text = value(watcher, "select pg_get_functiondef(oid) from pg_proc where proname = %s", function)
    assert text.count(right) == 1
    watcher.execute(text.replace(right, wrong))
    with pytest.raises((AssertionError, psycopg.Error, ExceptionGroup)):
        run(conn, connect, 500, without)
