"""A topic of one partition that tests of compaction fill, cut into segments and compact; and what must remain of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest

from pgq.core import copy, statements
from pgq.drivers import psycopg as driver
from pgq.service.compaction import Compaction, compact_partition
from tests.plugins.sessions import Connection, rows, value

NOW = datetime(2030, 1, 1, tzinfo=UTC)
"""Later than any test: a pass is made at a time that the test chooses."""

Record = tuple[bytes | None, bytes | None]
"""key, value"""


class Pass(NamedTuple):
    """What is remembered of a completed pass."""

    clean_to: int
    at: datetime


def survivors(
    records: dict[int, Record], closed_to: int, passes: Sequence[Pass], at: datetime, delete_retention: Any
) -> set[int]:
    """Return the offsets that a pass must leave: the model, written down without regard to how it is done."""
    last: dict[bytes, int] = {}
    for offset, (key, _) in records.items():
        if key is not None and offset < closed_to:
            last[key] = max(offset, last.get(key, 0))
    removable_below = max((p.clean_to for p in passes if p.at <= at - delete_retention), default=0)
    return {
        offset
        for offset, (key, content) in records.items()
        if offset >= closed_to
        or key is None
        or (offset == last[key] and not (content is None and offset < removable_below))
    }


class Log:
    """The only partition of a topic."""

    def __init__(self, conn: Connection, dsn: str, topic: str) -> None:
        self.conn = conn
        self.dsn = dsn
        self.topic = topic
        self.partition_id, self.topic_id = rows(
            conn,
            "select partition_id, topic_id from pgq.partition join pgq.topic using (topic_id) where name = %s",
            topic,
        )[0]
        self.tree = f"pgq_log.t{self.topic_id}_p0"

    def append(self, records: Iterable[Record], **columns: Any) -> list[int]:
        """Append records by the append rule, which does not ask for keys; return their offsets."""
        pairs = list(records)
        names = "".join(f", {name}" for name in columns)
        with self.conn.transaction():
            offsets: list[int] = value(
                self.conn,
                "select offsets from pgq.begin_append(array[%s]::int[], '{0}', array[%s]::int[])",
                self.topic_id,
                len(pairs),
            )
            with self.conn.cursor() as cursor:
                cursor.executemany(
                    f'insert into pgq_log.t{self.topic_id} (partition, "offset", "timestamp", key, value{names})'
                    f" values (0, %s, now(), %s, %s{', %s' * len(columns)})",
                    [(offset, *pair, *columns.values()) for offset, pair in zip(offsets, pairs, strict=True)],
                )
        return offsets

    def end_segment(self) -> int:
        """Roll the active segment and have it closed; return where it ended."""
        query = "select max(base_offset), max(end_offset) from pgq.segment where partition_id = %s"
        ((base, end),) = rows(self.conn, query, self.partition_id)
        if value(self.conn, "select pgq._next_offset(%s)", f"{self.tree}_offset") > base:
            self.conn.execute("select pgq._make_segment(%s, %s)", [self.partition_id, end])
        self.conn.execute("select pgq._roll_segment(%s, 1000)", [self.partition_id])
        self.close_segments()
        return int(value(self.conn, "select pgq._next_offset(%s)", f"{self.tree}_offset"))

    def close_segments(self) -> None:
        """Let retention note the size of segments that are complete."""
        self.conn.execute("select count(*) from pgq._retention_due(%s)", [self.partition_id - 1])

    def compact(self, at: datetime = NOW, **more: Any) -> Compaction:
        """Make a pass, as the service does."""
        return compact_partition(self.connect, self.partition_id, at=at, **more)

    def prepare_swap(self) -> tuple[str, int]:
        """Do what a pass does before it puts the first copy in its place; return the statement that does that."""
        writing, reading = self.connect(), self.connect()
        try:
            reading.fetch(statements.OPEN_COMPACTION_PLAN, self.partition_id, NOW)
            while reading.fetch(statements.READ_COMPACTION_STEP) != [(0,)]:
                pass
            (bases, end_offset, removable_below, *_), *_ = reading.fetch(statements.COMPACTION_PLAN, self.partition_id)
            ((survivors,),) = reading.fetch(statements.COMPACTION_SURVIVORS, self.partition_id, bases, removable_below)
            writing.execute("begin")
            ((name,),) = writing.fetch(statements.CREATE_COMPACTION_COPY, self.partition_id, bases[0], end_offset)
            columns = copy.COLUMNS + copy.HEADER_COLUMNS + copy.CODEC_COLUMNS
            writing.copy_in(name, columns, reading.copy_out(survivors), freeze=True)
            writing.fetch(statements.INDEX_COMPACTION_COPY, name)
            writing.execute("commit")
        finally:
            writing.close()
            reading.close()
        listed = ",".join(map(str, bases))
        return f"select pgq._swap_compacted(%s, '{{{listed}}}', {end_offset}, 100)", self.partition_id

    def connect(self, *settings: str) -> Any:
        return driver.connect(self.dsn, *settings)

    def is_due(self, at: datetime = NOW) -> bool:
        """Whether a pass is due."""
        return (self.partition_id, True) in rows(self.conn, "select * from pgq._compaction_due(0, %s)", at)

    def contents(self) -> list[tuple[Any, ...]]:
        """All records as they are stored, seen through the tree."""
        return rows(self.conn, f'select * from {self.tree} order by "offset"')

    def offsets(self) -> list[int]:
        """The offsets that pgq.fetch returns, from the log start on."""
        start = value(self.conn, "select pgq.log_start_offset(%s, 0)", self.topic)
        query = 'select "offset" from pgq.fetch(%s, 0, %s, 1000)'
        result: list[int] = []
        while found := [offset for (offset,) in rows(self.conn, query, self.topic, start)]:
            result += found
            start = found[-1] + 1
        return result

    def segments(self) -> list[tuple[int, int]]:
        """Where segments begin and end; they lie end to end, and are as the tables are."""
        query = "select base_offset, end_offset from pgq.segment where partition_id = %s order by 1"
        result = rows(self.conn, query, self.partition_id)
        assert all(before[1] == after[0] for before, after in itertools.pairwise(result))
        assert rows(self.conn, "select * from pgq.check_log()") == []
        return result

    def bytes(self) -> int:
        return int(value(self.conn, "select pgq._partition_bytes(%s)", self.partition_id))

    def copies(self) -> list[Any]:
        """Copies that are not in place."""
        return rows(self.conn, "select name from pgq._compaction_copies()")


MakeLog = Callable[..., Log]


@pytest.fixture
def make_log(conn: Connection, dsn: str) -> MakeLog:
    """Create a compacted topic of one partition."""
    numbers = itertools.count()

    def make_log(config: str = "{}", policy: str = "compact") -> Log:
        topic = f"state{next(numbers)}"
        conn.execute(
            "select pgq.create_topic(%s, 1, jsonb_build_object('cleanup.policy', %s::text) || %s::jsonb)",
            [topic, policy, config],
        )
        return Log(conn, dsn, topic)

    return make_log


@pytest.fixture
def log(make_log: MakeLog) -> Log:
    """A compacted topic of one partition."""
    return make_log()
