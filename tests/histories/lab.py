"""Scenes for a few sessions, played step by step, and mutations of the SQL functions to play them with.

A `Lab` notes what its producers and readers see, as `workload` does, and has it judged by the checker. Where a scene
needs a session to stand still in the middle of a function, a gate is written into the function's text.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg

import pgq
from pgq.core.positions import REREADS
from pgq.schema.files import function_files

from .checker import Crash, Kind, Outcome, Poll, Report, Seek, check
from .workload import TOPIC, Attempt, History, decode, encode, read_truth

GATE_KEY = 23_071_985
GATE = f"pg_advisory_xact_lock_shared({GATE_KEY}) is not null"
GATE_SQL = f"perform {GATE};"


@dataclass(frozen=True)
class Edit:
    """A change of one function's source: every match of the regular expression `pattern` by `replacement`.

    A space in the pattern matches any white space, so that the functions may be laid out anew.
    """

    file: str
    pattern: str
    replacement: str
    count: int = 1

    def apply(self, source: str) -> str:
        """Return the changed source; raise if there is not exactly as much to change as expected."""
        changed, found = re.subn(re.sub(r"\s+", r"\\s+", self.pattern.strip()), self.replacement, source)
        if found != self.count or changed == source:
            raise AssertionError(
                f"{self.file} has {found} places, not {self.count}, that read {self.pattern!r}: adapt the edit to it"
            )
        return changed


def install(conn: psycopg.Connection[Any], edits: Sequence[Edit]) -> None:
    """Replace functions by edited ones."""
    sources = {path.name: path for path in function_files()}
    for name in dict.fromkeys(edit.file for edit in edits):
        source = sources[name].read_text(encoding="utf-8")
        for edit in edits:
            if edit.file == name:
                source = edit.apply(source)
        conn.execute(source.encode())


class _Gate:
    """Holds every session that comes to GATE in a changed function, until opened."""

    def __init__(self, dsn: str) -> None:
        self._conn = psycopg.connect(dsn, autocommit=True)

    def close(self) -> None:
        """Let nobody through."""
        self._conn.execute("select pg_advisory_lock(%s)", (GATE_KEY,))

    def open(self) -> None:
        """Let everybody through."""
        self._conn.execute("select pg_advisory_unlock_all()")

    def wait_for_somebody(self, meanwhile: Future[Any]) -> None:
        """Return when a session stands at the gate; raise if `meanwhile`, which should come there, ends first."""
        waiting = "select exists (select from pg_locks where locktype = 'advisory' and objid = %s and not granted)"
        wait_until(lambda: meanwhile.done() or self._conn.execute(waiting, (GATE_KEY,)).fetchone() == (True,))
        if meanwhile.done():
            meanwhile.result()
            raise AssertionError("nobody came to the gate")

    def disconnect(self) -> None:
        """Open, and end the gate's session."""
        self._conn.close()


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Return as soon as a condition holds that can only be looked at; raise after the time given."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("the condition did not come about")
        threading.Event().wait(0.002)


class KillableServer(Protocol):
    """A server that may be killed."""

    def kill(self) -> None: ...
    def start(self) -> None: ...


class Producer:
    """One session that appends, by `pgq.produce` or, `batch`, by `pgq.produce_batch`."""

    def __init__(self, lab: Lab, *, batch: bool, settings: str = "") -> None:
        self._lab = lab
        self._batch = batch
        self._settings = settings
        self._process = f"producer {next(lab.serial)}"
        self._attempt: Attempt | None = None
        self._asynchronous = "synchronous_commit=off" in settings
        self._conn = lab.connect(settings)

    def reconnect(self) -> None:
        """Connect again after a crash."""
        self._conn.close()
        self._conn = self._lab.connect(self._settings)

    def begin(self) -> None:
        """Open a transaction."""
        self._conn.execute("begin")
        self._attempt = self._new_attempt()

    def produce(self, count: int = 1) -> None:
        """Append records to partition 0: in the open transaction, else in one of their own."""
        attempt = self._attempt or self._new_attempt()
        records = [attempt.sending(next(self._lab.serial), 0) for _ in range(count)]
        if self._batch:
            rows = self._conn.execute(
                'select "offset" from pgq.produce_batch(%s, %b::bytea[], partitions => %b::int[])',
                (TOPIC, [encode(record.value) for record in records], [0] * count),
            ).fetchall()
            for record, (offset,) in zip(records, rows, strict=True):
                record.offset = offset
        else:
            for record in records:
                row = self._conn.execute(
                    'select "offset" from pgq.produce(%s, %b, partition => 0)', (TOPIC, encode(record.value))
                ).fetchone()
                assert row is not None
                record.offset = row[0]
        if self._attempt is None:
            attempt.end(Outcome.OK)

    def savepoint(self) -> int:
        """Set a savepoint; give its return value to `rollback_to`."""
        self._conn.execute("savepoint s")
        assert self._attempt is not None
        return self._attempt.mark()

    def rollback_to(self, mark: int) -> None:
        """Roll back to the savepoint."""
        self._conn.execute("rollback to s")
        assert self._attempt is not None
        self._attempt.rolled_back(mark)

    def commit(self) -> None:
        """Commit the open transaction."""
        self._end("commit", Outcome.OK)

    def rollback(self) -> None:
        """Roll the open transaction back."""
        self._end("rollback", Outcome.FAIL)

    def _end(self, statement: str, outcome: Outcome) -> None:
        assert self._attempt is not None
        self._conn.execute(statement)
        self._attempt.end(outcome)
        self._attempt = None

    def _new_attempt(self) -> Attempt:
        return Attempt(self._lab.history, self._process, asynchronous=self._asynchronous)


class Reader:
    """Reads partition 0, keeping its position in memory over crashes. `rule` is the way it reads."""

    def __init__(self, lab: Lab, rule: type[Rule]) -> None:
        self._lab = lab
        self._rule = rule(lab)
        self.name = f"reader {next(lab.serial)}"
        self.position = 0
        lab.history.add(Seek(self.name, 0, 0))

    def reconnect(self) -> None:
        """Connect again after a crash."""
        self._rule.reconnect()

    def poll(self) -> list[int]:
        """Read once; return the offsets. Told that its position is out of range, it goes to the log start."""
        try:
            records, position = self._rule.poll(self.position)
        except (psycopg.Error, pgq.errors.PgqError) as error:
            if error.sqlstate != "PQ008":
                raise
            with psycopg.connect(self._lab.dsn) as conn:
                row = conn.execute("select pgq.log_start_offset(%s, 0)", (TOPIC,)).fetchone()
            assert row is not None
            self.position = row[0]
            self._lab.history.add(Seek(self.name, 0, self.position))
            return self.poll()
        self._lab.history.add(Poll(self.name, 0, records, position))
        self.position = position
        return [offset for offset, _ in records]

    def drain(self) -> None:
        """Poll until there is nothing more."""
        while self.poll():
            pass


class Rule:
    """A way to read: from a position the records there, as (offset, value), and the position after them."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._conn = lab.connect()

    def reconnect(self) -> None:
        """Connect again."""
        self._conn.close()
        self._conn = self._lab.connect()

    def poll(self, position: int) -> tuple[list[tuple[int, int]], int]:
        """Read once."""
        raise NotImplementedError


class ByFetch(Rule):
    """pgq.fetch, as any language would use it."""

    def poll(self, position: int) -> tuple[list[tuple[int, int]], int]:
        rows = self._conn.execute(
            'select "offset", value from pgq.fetch(%s, 0, %s)', (TOPIC, position), binary=True
        ).fetchall()
        records = [(offset, decode(value)) for offset, value in rows]
        return records, records[-1][0] + 1 if records else position


class BySettle(Rule):
    """The clients' rule written out: a window; where its first row is missing settle, and read the window again; flush.

    A row that settling saw may be gone by then, deleted: then once more, so that the log start is looked at again.
    """

    def poll(self, position: int) -> tuple[list[tuple[int, int]], int]:
        conn = self._conn
        ids = conn.execute(
            "select topic_id, partition_id from pgq.topic join pgq.partition using (topic_id)"
            " where name = %s and partition = 0",
            (TOPIC,),
        ).fetchone()
        assert ids is not None
        window = f'select "offset", value from pgq_log.t{ids[0]}_p0 where "offset" >= %s and "offset" < %s order by 1'
        low, decided = position, position
        rows: list[Any] = conn.execute(window, (low, low + 500), binary=True).fetchall()
        while not rows or rows[0][0] != low:
            settled = conn.execute(
                "select next_offset, high_watermark from pgq._settle(%s, %s)", (ids[1], position)
            ).fetchone()
            assert settled is not None
            low, decided = settled
            rows = conn.execute(window, (low, low + 500), binary=True).fetchall()
            if low >= decided:
                break
        records: list[tuple[int, int]] = []
        expected = low
        for offset, value in rows:
            if offset > decided and offset != expected:
                break
            records.append((offset, decode(value)))
            expected = offset + 1
        if records:
            conn.execute("select pgq._flush_reads(%s, false)", (ids[1],))
        return records, max(expected, low)


class ByConsumer(Rule):
    """The client. It re-reads a hole before it asks for the watermark: so several calls until something happens."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self._tp = pgq.TopicPartition(TOPIC, 0)
        self._consumer = pgq.Consumer(dsn=lab.dsn, auto_offset_reset="none")
        lab.closing(self._consumer.close)
        self._consumer.assign([self._tp])
        self._consumer.seek(self._tp, 0)

    def reconnect(self) -> None:
        """Let the consumer find out that its connection is gone; it keeps its positions."""
        with contextlib.suppress(pgq.errors.BrokerNotAvailableError):
            self._consumer.getmany(max_records=1)
            raise AssertionError("the consumer did not notice that it was disconnected")

    def poll(self, position: int) -> tuple[list[tuple[int, int]], int]:
        if self._consumer.position(self._tp) < position:
            self._consumer.seek(self._tp, position)
        for _ in range(REREADS + 2):
            found = self._consumer.getmany().get(self._tp, [])
            records = [(record.offset, decode(record.value)) for record in found]
            after = self._consumer.position(self._tp)
            if records or after != position:
                break
        return records, after


RULES: tuple[type[Rule], ...] = (ByFetch, BySettle, ByConsumer)


class Lab:
    """A topic of one partition and the history of what happens to it."""

    def __init__(self, dsn: str, edits: Sequence[Edit] = (), server: KillableServer | None = None) -> None:
        self.dsn = dsn
        self.history = History()
        self.serial = itertools.count(1)
        self._server = server
        self._stack = contextlib.ExitStack()
        self._pool = ThreadPoolExecutor()
        self._conns: list[psycopg.Connection[Any]] = []
        self._stopped: int | None = None
        with psycopg.connect(dsn, autocommit=True) as conn:
            install(conn, edits)
            conn.execute("select pgq.create_topic(%s)", (TOPIC,))
        self.gate = _Gate(dsn)

    def connect(self, settings: str = "") -> psycopg.Connection[Any]:
        """Connect in autocommit mode; closed with the lab."""
        conn = psycopg.connect(self.dsn, autocommit=True, options=settings)
        self._conns.append(conn)
        return conn

    def producer(self, *, batch: bool = False, settings: str = "") -> Producer:
        """Add a producer."""
        return Producer(self, batch=batch, settings=settings)

    def closing(self, close: Callable[[], object]) -> None:
        """Call this when the lab is closed."""
        self._stack.callback(close)

    def reader(self, rule: type[Rule] = ByFetch) -> Reader:
        """Add a reader at offset 0."""
        return Reader(self, rule)

    def beside(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run something that will wait at the gate."""
        return self._pool.submit(function, *arguments)

    def stop_wal_writer(self) -> None:
        """From here to the next crash nothing but synchronous commits flushes the WAL."""
        with psycopg.connect(self.dsn) as conn:
            row = conn.execute("select pid from pg_stat_activity where backend_type = 'walwriter'").fetchone()
        assert row is not None
        os.kill(row[0], signal.SIGSTOP)
        self._stopped = row[0]

    def crash(self) -> None:
        """Kill the server and start it again."""
        assert self._server is not None
        self._server.kill()
        self._stopped = None
        self._server.start()
        self.history.add(Crash(time.monotonic()))

    def delete_records(self, offset: int) -> None:
        """Move the log start and take the records before it away, as dropping their segments does."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute("select pgq.delete_records(%s, 0, %s)", (TOPIC, offset))
            row = conn.execute("select topic_id from pgq.topic where name = %s", (TOPIC,)).fetchone()
            assert row is not None
            conn.execute(f'delete from pgq_log.t{row[0]}_p0 where "offset" < %s', (offset,))

    def judge(self) -> Report:
        """Have the history so far judged against the log tables."""
        return check(self.history.events(), read_truth(self.dsn))

    def close(self) -> None:
        """Let everybody go."""
        if self._stopped is not None:
            os.kill(self._stopped, signal.SIGCONT)
        self.gate.disconnect()
        self._pool.shutdown()
        self._stack.close()
        for conn in self._conns:
            conn.close()


@contextlib.contextmanager
def lab(dsn: str, edits: Sequence[Edit] = (), server: KillableServer | None = None) -> Iterator[Lab]:
    """Open a lab in an empty database of its own."""
    scene = Lab(dsn, edits, server)
    try:
        yield scene
    finally:
        scene.close()


def kinds(report: Report) -> set[Kind]:
    """Return which anomalies there are."""
    return {anomaly.kind for anomaly in report.anomalies}
