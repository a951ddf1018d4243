"""Make a history: producers and readers of every kind, rollbacks, terminations, crashes; then judge it.

Seeded: what each producer does, and when it is disturbed, follows from `Settings.seed`; how the sessions interleave
does not. Needs a server of its own, since it is killed, with max_prepared_transactions set, and a database that holds
the schema pgq.

Producers, one thread each unless said otherwise, partitions explicit, by key or left to pgq:
    sql      pgq.produce and pgq.produce_batch: autocommit and transactions of all isolation levels, some held open;
             savepoints rolled back or released, also around the first append of the transaction; PREPARE TRANSACTION,
             ended by the same or another session
    client   Producer, its own connections
    joined   Producer with connection=, in a transaction of ours
    aclient  AsyncProducer, its own connections and with connection=
    child    `producer_process`, a process that is killed with -9
The clients' own connections append idempotently, in batches of various sizes, compressed or not, and begin flushes
again that a termination or a crash has interrupted. Some SQL producers commit with synchronous_commit = off. Readers of
all partitions: Consumer, AsyncConsumer, plain pgq.fetch.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import pathlib
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import asyncpg
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import pgq
from pgq.core.compression import GZIP, LZ4, ZSTD, decompress

from .checker import Crash, Event, Outcome, Poll, Report, Seek, Send, Truth, check

TOPIC = "history"
UNREADABLE = 10**18
APPLICATION = "history producer"
_MAGIC = {b"\x1f\x8b": GZIP, b"\x04\x22\x4d\x18": LZ4, b"\x28\xb5\x2f\xfd": ZSTD}
ISOLATION_LEVELS = ("read committed", "repeatable read", "serializable")

# what a producer may meet here: serialization failure, deadlock, lock not available, termination, crash, start-up
EXPECTED_SQLSTATES = {"40001", "40P01", "55P03", "57P01", "57P02", "57P03", "08000", "08003", "08006", "08001"}


class Server(Protocol):
    """The part of pgq.embedded.EmbeddedServer that is used here."""

    def dsn(self, database: str = ...) -> str: ...
    def kill(self) -> None: ...
    def start(self) -> None: ...


@dataclass(frozen=True)
class Settings:
    """One run. `seconds`: how long producers work. `crashes`: how often the server is killed within that time."""

    seed: int
    seconds: float = 8.0
    crashes: int = 1
    partitions: int = 4
    sql: int = 6
    asynchronous_sql: int = 2
    client: int = 2
    joined: int = 2
    aclient: int = 2
    children: int = 2
    segment_bytes: int = 65_536
    segment_width: int = 512
    drain_seconds: float = 60.0
    terminate_every_seconds: float = 0.2
    readers: tuple[str, ...] = ("consumer", "aconsumer", "sql")


@dataclass
class Result:
    """What a run gave. `stalled`: readers that did not come to the end; `unexpected`: errors no fault explains."""

    report: Report
    events: list[Event]
    truth: Truth
    stalled: list[str]
    errors: Counter[str]
    unexpected: list[str]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.report.anomalies or self.stalled or self.unexpected)

    def summary(self) -> str:
        """Say it in one line."""
        parts = [self.report.summary()]
        if self.stalled:
            parts.append(f"stalled: {', '.join(self.stalled)}")
        if self.unexpected:
            parts.append(f"unexpected errors {len(self.unexpected)}, first: {self.unexpected[0]}")
        return "; ".join(parts)


def encode(number: int, filler: int = 0) -> bytes:
    """Write a history's value as a record's value of some size."""
    return b"%d:" % number + b"x" * filler


def decode(value: bytes | memoryview | None) -> int:
    """Read back what `encode` wrote; `UNREADABLE` for anything else, which the checker then reports as a phantom."""
    data = bytes(value or b"")
    for magic, codec in _MAGIC.items():
        if data.startswith(magic):  # SQL gives compressed values as they are
            data = decompress(codec, data, 2**24)
    try:
        return int(data.partition(b":")[0])
    except ValueError:
        return UNREADABLE


def client_options(rng: random.Random) -> dict[str, Any]:
    """Choose how a client sends: batches of whatever size, compressed or not."""
    return {
        "linger_ms": rng.choice((0, 2, 5)),
        "batch_size": rng.choice((1_000, 1_048_576)),
        "compression_type": rng.choice(("none", "gzip", "lz4", "zstd")),
        "acks": rng.choice((1, "all")),
    }


@dataclass
class _Record:
    value: int
    partition: int
    invoked: float
    offset: int | None = None
    outcome: Outcome | None = None


class Attempt:
    """One transaction of a producer as it is being made; `end` files it."""

    def __init__(self, log: History, process: str, *, asynchronous: bool = False) -> None:
        self.name = f"{process} transaction {next(log.serial)}"
        self.process = process
        self._log = log
        self._asynchronous = asynchronous
        self._records: list[_Record] = []

    def sending(self, value: int, partition: int | None = None) -> _Record:
        """Note a record before it is handed over."""
        record = _Record(value, -1 if partition is None else partition, time.monotonic())
        self._records.append(record)
        return record

    def mark(self) -> int:
        """Where a savepoint stands."""
        return len(self._records)

    def rolled_back(self, mark: int) -> None:
        """ROLLBACK TO the savepoint at `mark` has been confirmed."""
        for record in self._records[mark:]:
            record.outcome = Outcome.FAIL

    def end(self, outcome: Outcome) -> None:
        """File all records, those that have none yet with this outcome."""
        for record in self._records:
            known = record.outcome or outcome
            self._log.add(
                Send(
                    self.process,
                    self.name,
                    record.partition,
                    record.value,
                    known,
                    record.offset if known is Outcome.OK else None,
                    record.invoked,
                    self._asynchronous,
                )
            )
        self._records = []


class History:
    """Collects events from all threads."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self.serial = itertools.count()

    def add(self, event: Event) -> None:
        """Append one (list.append is atomic)."""
        self._events.append(event)

    def events(self) -> list[Event]:
        """Return all, sends in the order in which they were invoked."""
        sends = sorted((e for e in self._events if isinstance(e, Send)), key=lambda e: e.invoked)
        return [*sends, *(e for e in self._events if not isinstance(e, Send))]


@dataclass
class _Prepared:
    gid: str
    attempt: Attempt
    commit: bool
    due: float
    tried: bool = False


@dataclass
class Run:
    """What all threads of a run share."""

    server: Server
    dsn: str
    settings: Settings
    history: History = field(default_factory=History)
    producing: threading.Event = field(default_factory=threading.Event)
    drain: threading.Event = field(default_factory=threading.Event)
    give_up: threading.Event = field(default_factory=threading.Event)
    target: dict[int, int] = field(default_factory=dict)
    prepared: queue.SimpleQueue[_Prepared] = field(default_factory=queue.SimpleQueue)
    in_doubt: list[_Prepared] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)

    def saw(self, who: str, error: BaseException, *, from_pgq: bool = False) -> None:
        """Count an error; remember it when no fault explains it, or when a client of pgq lets it through raw."""
        state = _sqlstate(error)
        self.errors[f"{type(error).__name__} {state or '-'}"] += 1
        if not _explained(error) or (from_pgq and not isinstance(error, pgq.errors.PgqError)):
            self.unexpected.append(
                f"{who}: {type(error).__module__}.{type(error).__name__} {state}: {str(error).strip()[:300]}"
            )

    def random(self, name: str) -> random.Random:
        """Return the source of one thread's decisions."""
        return random.Random(f"{self.settings.seed}/{name}")

    def producer_dsn(self, name: str, *, asynchronous: bool = False) -> str:
        """Return the DSN of a producer that may be terminated."""
        return _producer_dsn(self.dsn, name, asynchronous=asynchronous)


def _producer_dsn(dsn: str, name: str, *, asynchronous: bool) -> str:
    options = "-c synchronous_commit=" + ("off" if asynchronous else "on")
    return make_conninfo(dsn, application_name=f"{APPLICATION} {name}", options=options, connect_timeout="5")


def _chain(error: BaseException) -> Iterator[BaseException]:
    while True:
        yield error
        following = error.__cause__ or error.__context__
        if following is None:
            return
        error = following


def _sqlstate(error: BaseException) -> str | None:
    """Return the server's SQLSTATE; those of pgq's own Python errors say nothing of the server."""
    for one in _chain(error):
        state = getattr(one, "sqlstate", None)
        if state and not isinstance(one, pgq.errors.PgqError):
            return str(state)
    return None


def _explained(error: BaseException) -> bool:
    """Whether a lost or refused connection, or a conflict between transactions, is behind it."""
    state = _sqlstate(error)
    if state is not None:
        return state in EXPECTED_SQLSTATES
    for one in _chain(error):
        if isinstance(one, (psycopg.OperationalError, psycopg.InterfaceError, asyncpg.InterfaceError, OSError)):
            return True
        if isinstance(one, asyncpg.InternalClientError) and "another operation (2)" in str(one):
            return True  # so says asyncpg between the FATAL message and the end of the connection
    return False


# producers


def _connect(run: Run, dsn: str) -> psycopg.Connection[tuple[Any, ...]] | None:
    """Connect, again and again while the server is down; None when it is time to stop."""
    while run.producing.is_set():
        try:
            return psycopg.connect(dsn, autocommit=True)
        except psycopg.OperationalError as error:
            run.errors[f"connect {type(error).__name__}"] += 1
            time.sleep(0.05)
    return None


def _lost(conn: psycopg.Connection[Any], error: psycopg.Error) -> bool:
    return conn.closed or _sqlstate(error) is None or str(_sqlstate(error)).startswith(("57P", "08"))


class SqlProducer:
    """A producer that speaks SQL, with every kind of transaction."""

    def __init__(self, run: Run, index: int, *, asynchronous: bool = False) -> None:
        self.run = run
        self.name = f"sql {index}"
        self.rng = run.random(self.name)
        self.asynchronous = asynchronous
        self.dsn = run.producer_dsn(self.name, asynchronous=asynchronous)
        self.values = itertools.count(index * 1_000_000_000)
        self.conn: psycopg.Connection[Any] | None = None

    def __call__(self) -> None:
        while self.run.producing.is_set():
            if self.conn is None or self.conn.closed:
                self.conn = _connect(self.run, self.dsn)
            if self.conn is not None:
                if self.rng.random() < 0.3:
                    self._autocommit(self.conn)
                else:
                    self._transaction(self.conn)
        if self.conn is not None:
            self.conn.close()

    def _attempt(self) -> Attempt:
        return Attempt(self.run.history, self.name, asynchronous=self.asynchronous)

    def _autocommit(self, conn: psycopg.Connection[Any]) -> None:
        attempt = self._attempt()
        try:
            self._append(conn, attempt)
        except psycopg.Error as error:
            self.run.saw(self.name, error)
            lost = _lost(conn, error)
            attempt.end(Outcome.INFO if lost else Outcome.FAIL)
            if lost:
                conn.close()
        else:
            attempt.end(Outcome.OK)

    def _transaction(self, conn: psycopg.Connection[Any]) -> None:
        attempt = self._attempt()
        rng = self.rng
        ending = rng.choices(("commit", "rollback", "prepare"), (75, 13, 12))[0]
        gid = attempt.name
        sent = False
        try:
            conn.execute(f"begin isolation level {rng.choice(ISOLATION_LEVELS)}")
            for _ in range(rng.randint(1, 4)):
                if rng.random() < 0.4:
                    self._savepoint(conn, attempt, depth=1)
                else:
                    self._append(conn, attempt)
                if rng.random() < 0.05:
                    time.sleep(rng.random() * 0.5)
            sent = ending != "rollback"
            if ending == "prepare":
                conn.execute(f"prepare transaction '{gid}'")
                self._end_prepared(conn, attempt, gid)
                return
            tag = conn.execute(ending).statusmessage
            attempt.end(Outcome.OK if tag == "COMMIT" else Outcome.FAIL)
        except psycopg.Error as error:
            self.run.saw(self.name, error)
            if not _lost(conn, error):
                with contextlib.suppress(psycopg.Error):
                    conn.execute("rollback")
                attempt.end(Outcome.FAIL)
                return
            conn.close()
            if sent and ending == "prepare":
                self.run.prepared.put(_Prepared(gid, attempt, rng.random() < 0.5, time.monotonic()))
            else:
                attempt.end(Outcome.INFO if sent else Outcome.FAIL)

    def _end_prepared(self, conn: psycopg.Connection[Any], attempt: Attempt, gid: str) -> None:
        prepared = _Prepared(gid, attempt, self.rng.random() < 0.7, time.monotonic() + self.rng.random() * 0.3)
        if self.rng.random() < 0.5 or not _resolve(self.run, conn, prepared):
            self.run.prepared.put(prepared)

    def _savepoint(self, conn: psycopg.Connection[Any], attempt: Attempt, depth: int) -> None:
        rng = self.rng
        mark = attempt.mark()
        conn.execute(f"savepoint s{depth}")
        for _ in range(rng.randint(1, 2)):
            if depth < 3 and rng.random() < 0.25:
                self._savepoint(conn, attempt, depth + 1)
            else:
                self._append(conn, attempt)
        if rng.random() < 0.6:
            conn.execute(f"rollback to s{depth}")
            attempt.rolled_back(mark)
            if rng.random() < 0.5:
                self._append(conn, attempt)
        if rng.random() < 0.7:
            conn.execute(f"release s{depth}")

    def _append(self, conn: psycopg.Connection[Any], attempt: Attempt) -> None:
        rng = self.rng
        if rng.random() < 0.5:
            partition = _choose_partition(rng, self.run.settings.partitions)
            record = attempt.sending(next(self.values), partition)
            key = _choose_key(rng)
            row = conn.execute(
                'select partition, "offset" from pgq.produce(%s, %b, key => %b, partition => %s)',
                (TOPIC, encode(record.value, _choose_filler(rng)), key, partition),
            ).fetchone()
            assert row is not None
            record.partition, record.offset = row
            return
        size = rng.choice((1, 2, 5, 20, 60))
        partitions = [_choose_partition(rng, self.run.settings.partitions) for _ in range(size)]
        if rng.random() < 0.5:
            partitions = [partitions[0]] * size
        records = [attempt.sending(next(self.values), partition) for partition in partitions]
        rows = conn.execute(
            'select partition, "offset" from pgq.produce_batch(%s, %b::bytea[], %b::bytea[], %b::int[])',
            (
                TOPIC,
                [encode(record.value, _choose_filler(rng)) for record in records],
                [_choose_key(rng) for _ in records],
                partitions,
            ),
        ).fetchall()
        for record, row in zip(records, rows, strict=True):
            record.partition, record.offset = row


def _choose_partition(rng: random.Random, partitions: int) -> int | None:
    return None if rng.random() < 0.3 else rng.randrange(partitions)


def _choose_key(rng: random.Random) -> bytes | None:
    return None if rng.random() < 0.5 else b"key %d" % rng.randrange(100)


def _choose_filler(rng: random.Random) -> int:
    return rng.choice((0, 0, 20, 100, 100, 700))


def _resolve(run: Run, conn: psycopg.Connection[Any], prepared: _Prepared) -> bool:
    """End a prepared transaction and file its records; False when it is still open or not known to be ended."""
    verb = "commit" if prepared.commit else "rollback"
    already = prepared.tried
    prepared.tried = True
    try:
        conn.execute(f"{verb} prepared '{prepared.gid}'")
    except psycopg.errors.UndefinedObject:
        # never prepared, or ended by an earlier try of which the outcome did not arrive
        if already or not run.producing.is_set():
            prepared.attempt.end(Outcome.INFO if already and prepared.commit else Outcome.FAIL)
            return True
        prepared.tried = False
        return False
    except psycopg.Error as error:
        run.saw("prepared", error)
        prepared.tried = already or _lost(conn, error)
        if _lost(conn, error):
            conn.close()
        return False
    prepared.attempt.end(Outcome.OK if prepared.commit else Outcome.FAIL)
    return True


def end_prepared(run: Run) -> None:
    """Thread: end, after a while, transactions that others prepared; what cannot be ended stays in `run.in_doubt`."""
    conn: psycopg.Connection[Any] | None = None
    waiting: list[_Prepared] = []
    while run.producing.is_set():
        with contextlib.suppress(queue.Empty):
            waiting.append(run.prepared.get(timeout=0.02))
        now = time.monotonic()
        for prepared in [p for p in waiting if p.due <= now]:
            if conn is None or conn.closed:
                conn = _connect(run, run.dsn)
            if conn is None:
                break
            waiting.remove(prepared)
            if not _resolve(run, conn, prepared):
                prepared.due = now + 0.2
                waiting.append(prepared)
    run.in_doubt.extend(waiting)
    if conn is not None:
        conn.close()


class ClientProducer:
    """Producer, sync: with its own connections, or joining a transaction of ours by connection=."""

    def __init__(self, run: Run, index: int, *, joined: bool, asynchronous: bool = False) -> None:
        self.run = run
        self.joined = joined
        self.name = f"{'joined' if joined else 'client'} {index}"
        self.rng = run.random(self.name)
        self.asynchronous = asynchronous
        self.dsn = run.producer_dsn(self.name, asynchronous=asynchronous)
        self.values = itertools.count(index * 1_000_000_000)

    def __call__(self) -> None:
        while self.run.producing.is_set():
            try:
                self._produce()
            except Exception as error:
                self.run.saw(self.name, error)
                time.sleep(0.05)

    def _produce(self) -> None:
        with pgq.Producer(self.dsn, **client_options(self.rng)) as producer:
            conn = _connect(self.run, self.dsn) if self.joined else None
            for _ in range(self.rng.randint(5, 200)):
                if not self.run.producing.is_set():
                    break
                if not self.joined:
                    self._flush(producer)
                elif conn is not None and not self._join(producer, conn):
                    break
            if conn is not None:
                conn.close()

    def _send(self, producer: Any, attempt: Attempt, **options: Any) -> tuple[_Record, Any]:
        partition = _choose_partition(self.rng, self.run.settings.partitions)
        record = attempt.sending(next(self.values), partition)
        value = encode(record.value, _choose_filler(self.rng))
        return record, producer.send(TOPIC, value, key=_choose_key(self.rng), partition=partition, **options)

    def _flush(self, producer: Any) -> None:
        """Send some records and wait for each: one attempt a record, since the producer decides on the transactions."""
        sent = []
        for _ in range(self.rng.choice((1, 3, 20, 150))):
            attempt = Attempt(self.run.history, self.name, asynchronous=self.asynchronous)
            sent.append((attempt, *self._send(producer, attempt)))
        if self.rng.random() < 0.5:
            with contextlib.suppress(pgq.errors.PgqError):  # the futures tell
                producer.flush()
        for attempt, record, future in sent:
            try:
                metadata = future.result(timeout=60)
            except Exception as error:
                self.run.saw(self.name, error, from_pgq=True)
                attempt.end(Outcome.INFO)
            else:
                record.partition, record.offset = metadata.partition, metadata.offset
                attempt.end(Outcome.OK)

    def _join(self, producer: Any, conn: psycopg.Connection[Any]) -> bool:
        """One transaction of ours; False when the connection is lost."""
        attempt = Attempt(self.run.history, self.name, asynchronous=self.asynchronous)
        rng = self.rng
        ending = rng.choices(("commit", "rollback"), (85, 15))[0]
        sent = False
        try:
            conn.execute(f"begin isolation level {rng.choice(ISOLATION_LEVELS)}")
            for _ in range(rng.randint(1, 3)):
                mark = attempt.mark()
                savepoint = rng.random() < 0.4
                if savepoint:
                    conn.execute("savepoint s")
                futures = [self._send(producer, attempt, connection=conn) for _ in range(rng.choice((1, 4, 30)))]
                for record, future in futures:
                    metadata = future.result(timeout=30)
                    record.partition, record.offset = metadata.partition, metadata.offset
                if savepoint and rng.random() < 0.6:
                    conn.execute("rollback to s")
                    attempt.rolled_back(mark)
                if rng.random() < 0.03:
                    time.sleep(rng.random() * 0.5)
            sent = ending == "commit"
            tag = conn.execute(ending).statusmessage
            attempt.end(Outcome.OK if tag == "COMMIT" else Outcome.FAIL)
        except Exception as error:
            self.run.saw(self.name, error)
            if conn.closed or _sqlstate(error) is None or str(_sqlstate(error)).startswith(("57P", "08")):
                conn.close()
                attempt.end(Outcome.INFO if sent else Outcome.FAIL)
                return False
            with contextlib.suppress(psycopg.Error):
                conn.execute("rollback")
            attempt.end(Outcome.FAIL)
        return True


class AsyncClientProducer:
    """AsyncProducer in a loop of its own: its own connections, and now and then a transaction of ours on asyncpg."""

    def __init__(self, run: Run, index: int, *, asynchronous: bool = False) -> None:
        self.run = run
        self.name = f"aclient {index}"
        self.rng = run.random(self.name)
        self.asynchronous = asynchronous
        self.dsn = run.producer_dsn(self.name, asynchronous=asynchronous)
        self.values = itertools.count(index * 1_000_000_000)

    def __call__(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        while self.run.producing.is_set():
            try:
                await self._produce()
            except Exception as error:
                self.run.saw(self.name, error)
                await asyncio.sleep(0.05)

    async def _produce(self) -> None:
        async with pgq.AsyncProducer(self.dsn, **client_options(self.rng)) as producer:
            conn = await _asyncpg_connect(self.dsn)
            try:
                for _ in range(self.rng.randint(5, 200)):
                    if not self.run.producing.is_set():
                        break
                    if self.rng.random() < 0.7:
                        await self._flush(producer)
                    elif not await self._join(producer, conn):
                        break
            finally:
                conn.terminate()

    async def _send(self, producer: Any, attempt: Attempt, **options: Any) -> tuple[_Record, Any]:
        partition = _choose_partition(self.rng, self.run.settings.partitions)
        record = attempt.sending(next(self.values), partition)
        value = encode(record.value, _choose_filler(self.rng))
        return record, await producer.send(TOPIC, value, key=_choose_key(self.rng), partition=partition, **options)

    async def _flush(self, producer: Any) -> None:
        sent = []
        for _ in range(self.rng.choice((1, 3, 20, 150))):
            attempt = Attempt(self.run.history, self.name, asynchronous=self.asynchronous)
            try:
                sent.append((attempt, *await self._send(producer, attempt)))
            except Exception as error:
                self.run.saw(self.name, error, from_pgq=True)
                attempt.end(Outcome.INFO)
        for attempt, record, future in sent:
            try:
                metadata = await asyncio.wait_for(future, 60)
            except Exception as error:
                self.run.saw(self.name, error, from_pgq=True)
                attempt.end(Outcome.INFO)
            else:
                record.partition, record.offset = metadata.partition, metadata.offset
                attempt.end(Outcome.OK)

    async def _join(self, producer: Any, conn: Any) -> bool:
        attempt = Attempt(self.run.history, self.name, asynchronous=self.asynchronous)
        rng = self.rng
        ending = rng.choices(("commit", "rollback"), (85, 15))[0]
        sent = False
        try:
            await conn.execute(f"begin isolation level {rng.choice(ISOLATION_LEVELS)}")
            for _ in range(rng.randint(1, 3)):
                mark = attempt.mark()
                savepoint = rng.random() < 0.4
                if savepoint:
                    await conn.execute("savepoint s")
                for _ in range(rng.choice((1, 4, 30))):
                    record, future = await self._send(producer, attempt, connection=conn)
                    metadata = await future
                    record.partition, record.offset = metadata.partition, metadata.offset
                if savepoint and rng.random() < 0.6:
                    await conn.execute("rollback to s")
                    attempt.rolled_back(mark)
                if rng.random() < 0.03:
                    await asyncio.sleep(rng.random() * 0.5)
            sent = ending == "commit"
            tag = await conn.execute(ending)
            attempt.end(Outcome.OK if tag == "COMMIT" else Outcome.FAIL)
        except Exception as error:
            self.run.saw(self.name, error)
            if conn.is_closed() or _sqlstate(error) is None or str(_sqlstate(error)).startswith(("57P", "08")):
                attempt.end(Outcome.INFO if sent else Outcome.FAIL)
                return False
            with contextlib.suppress(Exception):
                await conn.execute("rollback")
            attempt.end(Outcome.FAIL)
        return True


async def _asyncpg_connect(dsn: str) -> Any:
    given = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
    options = given.get("options", "")
    return await asyncpg.connect(
        host=given.get("host"),
        port=int(given.get("port") or 5432),
        user=given.get("user"),
        password=given.get("password"),
        database=given.get("dbname"),
        server_settings={
            "application_name": given.get("application_name", ""),
            "synchronous_commit": "off" if "=off" in options else "on",
        },
        timeout=5,
    )


class ChildProducer:
    """Thread: keeps one `producer_process` alive, killing it with -9 every now and then, and files what it logged."""

    def __init__(self, run: Run, index: int, directory: pathlib.Path, kind: str) -> None:
        self.run = run
        self.index = index
        self.kind = kind
        self.name = f"child {index}"
        self.rng = run.random(self.name)
        self.directory = directory

    def __call__(self) -> None:
        for life in itertools.count():
            if not self.run.producing.is_set():
                return
            log = self.directory / f"{self.index}-{life}.jsonl"
            process = self._start(log, life)
            due = time.monotonic() + 0.5 + self.rng.random() * 2.0
            while self.run.producing.is_set() and process.poll() is None and time.monotonic() < due:
                time.sleep(0.02)
            if process.poll() is not None:
                self.run.unexpected.append(f"{self.name} ended by itself: {process.returncode}")
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            process.wait()
            self._file(log, life)

    def _start(self, log: pathlib.Path, life: int) -> subprocess.Popen[bytes]:
        package = (__package__ or "").split(".")
        root = pathlib.Path(__file__).resolve().parents[len(package)]
        checkout = pathlib.Path(__file__).resolve().parents[2]
        path = os.pathsep.join([str(root), str(checkout), os.environ.get("PYTHONPATH", "")])
        dsn = self.run.producer_dsn(self.name)
        first = self.index * 1_000_000_000 + life * 10_000_000
        command = [sys.executable, "-m", f"{__package__}.producer_process", self.kind, dsn, str(log)]
        command += [str(first), str(self.run.settings.partitions), f"{self.run.settings.seed}/{self.name}/{life}"]
        return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL)

    def _file(self, log: pathlib.Path, life: int) -> None:
        """Turn the child's lines into sends: those invoked and without an outcome are not known."""
        open_attempts: dict[str, Attempt] = {}
        records: dict[int, _Record] = {}
        for line in log.read_text().splitlines() if log.exists() else ():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the line that was being written when the process was killed
            if entry["event"] == "invoke":
                attempt = Attempt(self.run.history, f"{self.name} life {life}")
                open_attempts[entry["transaction"]] = attempt
                for value, partition in entry["records"]:
                    records[value] = attempt.sending(value, partition)
                    records[value].invoked = entry["time"]
            elif entry["event"] == "end":
                for value, partition, offset in entry["places"]:
                    records[value].partition, records[value].offset = partition, offset
                open_attempts.pop(entry["transaction"]).end(Outcome(entry["outcome"]))
            else:
                self.run.unexpected.append(f"{self.name}: {entry['detail']}")
        for attempt in open_attempts.values():
            attempt.end(Outcome.INFO)


# readers


class Reader:
    """Reads all partitions from the start to the target, over crashes, with its positions in memory."""

    def __init__(self, run: Run, kind: str, index: int) -> None:
        self.run = run
        self.name = f"{kind} reader {index}"
        self.rng = run.random(self.name)
        self.positions = dict.fromkeys(range(run.settings.partitions), 0)
        for partition in self.positions:
            run.history.add(Seek(self.name, partition, 0))

    def __call__(self) -> None:
        while not self.done() and not self.run.give_up.is_set():
            try:
                self.read()
            except Exception as error:
                self.run.saw(self.name, error)
                time.sleep(0.05)

    def read(self) -> None:
        """Connect and read until done or until an error."""
        raise NotImplementedError

    def done(self) -> bool:
        """Whether every partition is read up to the target."""
        return self.run.drain.is_set() and all(
            self.positions[partition] >= target for partition, target in self.run.target.items()
        )

    def polled(self, partition: int, records: Sequence[tuple[int, int]], position: int | None = None) -> None:
        """Note one partition's share of a poll."""
        after = position if position is not None else records[-1][0] + 1 if records else self.positions[partition]
        if records or after != self.positions[partition]:
            self.run.history.add(Poll(self.name, partition, records, position))
            self.positions[partition] = after


class SqlReader(Reader):
    """pgq.fetch in autocommit."""

    def read(self) -> None:
        with psycopg.connect(self.run.dsn, autocommit=True, connect_timeout=5) as conn:
            while not self.done() and not self.run.give_up.is_set():
                found = 0
                for partition in self.rng.sample(sorted(self.positions), len(self.positions)):
                    rows = conn.execute(
                        'select "offset", value from pgq.fetch(%s, %s, %s, %s)',
                        (TOPIC, partition, self.positions[partition], self.rng.choice((1, 10, 100, 500, 5000))),
                        binary=True,
                    ).fetchall()
                    found += len(rows)
                    self.polled(partition, [(offset, decode(value)) for offset, value in rows])
                if not found:
                    time.sleep(self.rng.random() * 0.01)


class ConsumerReader(Reader):
    """Consumer, sync. One for all its life: after an error it is asked again."""

    def read(self) -> None:
        tps = {partition: pgq.TopicPartition(TOPIC, partition) for partition in self.positions}
        with pgq.Consumer(dsn=self.run.dsn, auto_offset_reset="none") as consumer:
            consumer.assign(list(tps.values()))
            for partition, tp in tps.items():
                consumer.seek(tp, self.positions[partition])
            while not self.done() and not self.run.give_up.is_set():
                timeout_ms, max_records = self.rng.choice((0, 5, 20)), self.rng.choice((1, 50, 500, None))
                try:
                    batch = consumer.getmany(timeout_ms=timeout_ms, max_records=max_records)
                except pgq.errors.PgqError as error:
                    self.run.saw(self.name, error)
                    time.sleep(0.02)
                    continue
                for partition, tp in tps.items():
                    records = [(record.offset, decode(record.value)) for record in batch.get(tp, ())]
                    self.polled(partition, records, consumer.position(tp))


class AsyncConsumerReader(Reader):
    """AsyncConsumer in a loop of its own."""

    def read(self) -> None:
        asyncio.run(self._read())

    async def _read(self) -> None:
        tps = {partition: pgq.TopicPartition(TOPIC, partition) for partition in self.positions}
        async with pgq.AsyncConsumer(dsn=self.run.dsn, auto_offset_reset="none") as consumer:
            await consumer.assign(list(tps.values()))
            for partition, tp in tps.items():
                await consumer.seek(tp, self.positions[partition])
            while not self.done() and not self.run.give_up.is_set():
                timeout_ms, max_records = self.rng.choice((0, 5, 20)), self.rng.choice((1, 50, 500, None))
                try:
                    batch = await consumer.getmany(timeout_ms=timeout_ms, max_records=max_records)
                except pgq.errors.PgqError as error:
                    self.run.saw(self.name, error)
                    await asyncio.sleep(0.02)
                    continue
                for partition, tp in tps.items():
                    records = [(record.offset, decode(record.value)) for record in batch.get(tp, ())]
                    self.polled(partition, records, await consumer.position(tp))


READERS: dict[str, type[Reader]] = {"sql": SqlReader, "consumer": ConsumerReader, "aconsumer": AsyncConsumerReader}


# disturbances


def terminate(run: Run) -> None:
    """Thread: end random producers' backends."""
    rng = run.random("terminate")
    _repeat(
        run,
        lambda conn: conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
            " and application_name like %s order by random() limit 1",
            (APPLICATION + "%",),
        ),
        lambda: rng.random() * 2 * run.settings.terminate_every_seconds,
    )


def keep_segments(run: Run) -> None:
    """Thread: upkeep and rolls of every partition but the first, whose segments are thus all made inline."""
    rng = run.random("segments")

    def step(conn: psycopg.Connection[Any]) -> None:
        ids = conn.execute(
            "select partition_id from pgq.partition join pgq.topic using (topic_id) where name = %s and partition > 0",
            (TOPIC,),
        ).fetchall()
        for (partition_id,) in ids:
            if rng.random() < 0.7:
                conn.execute("select pgq.upkeep(%s, %s)", (partition_id, rng.choice((10, 100, 300))))
            else:
                conn.execute("select pgq._roll_segment(%s, %s)", (partition_id, rng.choice((10, 100, 300))))

    _repeat(run, step, lambda: rng.random() * 0.1)


def _repeat(run: Run, step: Callable[[psycopg.Connection[Any]], object], pause: Callable[[], float]) -> None:
    conn: psycopg.Connection[Any] | None = None
    while run.producing.is_set():
        if conn is None or conn.closed:
            conn = _connect(run, run.dsn)
        if conn is not None:
            try:
                step(conn)
            except psycopg.Error as error:
                run.saw("nemesis", error)
                if _lost(conn, error):
                    conn.close()
            time.sleep(pause())
    if conn is not None:
        conn.close()


def crash(run: Run) -> None:
    """Kill the server and start it again. The time noted is that of the restart, when no old backend is left."""
    run.server.kill()
    run.server.start()
    run.history.add(Crash(time.monotonic()))


# the run


def execute(server: Server, database: str, settings: Settings) -> Result:
    """Make one history, in a new topic of a database that holds the schema pgq, and judge it."""
    run = Run(server, server.dsn(database), settings)
    with psycopg.connect(run.dsn, autocommit=True) as conn:
        if conn.execute("select 1 from pgq.list_topics() where name = %s", (TOPIC,)).fetchone():
            conn.execute("select pgq.delete_topic(%s)", (TOPIC,))
        _narrow_segments(conn, settings)
        config = json.dumps({"segment.bytes": settings.segment_bytes})
        conn.execute("select pgq.create_topic(%s, %s, %s)", (TOPIC, settings.partitions, config))
    with tempfile.TemporaryDirectory() as directory:
        run.producing.set()
        producers = [threading.Thread(target=p, name=p.name) for p in _producers(run, pathlib.Path(directory))]
        others = [
            threading.Thread(target=f, args=(run,), name=f.__name__) for f in (end_prepared, terminate, keep_segments)
        ]
        readers = [READERS[kind](run, kind, i) for i, kind in enumerate(settings.readers)]
        reader_threads = [threading.Thread(target=reader, name=reader.name) for reader in readers]
        for thread in (*reader_threads, *producers, *others):
            thread.start()
        try:
            _disturb(run)
        finally:
            run.producing.clear()
            for thread in (*producers, *others):
                thread.join()
            _finish(run)
            deadline = time.monotonic() + settings.drain_seconds
            for thread in reader_threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            run.give_up.set()
            for thread in reader_threads:
                thread.join()
    stalled = [f"{reader.name} at {reader.positions} of {run.target}" for reader in readers if not reader.done()]
    truth = read_truth(run.dsn)
    events = run.history.events()
    return Result(check(events, truth), events, truth, stalled, run.errors, run.unexpected)


def _narrow_segments(conn: psycopg.Connection[Any], settings: Settings) -> None:
    """Have far narrower and smaller segments made than a topic would have, so that there are many."""
    conn.execute("update pgq.topic_config set minimum = 1 where key = 'segment.bytes'")
    conn.execute(
        "create or replace function pgq._segment_width(partition_id int, base bigint) returns bigint language sql"
        f" as 'select {settings.segment_width:d}::bigint'"
    )


def _append_last(run: Run, conn: psycopg.Connection[Any], partition: int) -> int:
    attempt = Attempt(run.history, "last")
    record = attempt.sending(partition, partition)
    statement = 'select "offset" from pgq.produce(%s, %b, partition => %s)'
    (record.offset,) = _one(conn, statement, (TOPIC, encode(record.value), partition))
    attempt.end(Outcome.OK)
    assert record.offset is not None
    return record.offset


def _one(conn: psycopg.Connection[Any], statement: str, parameters: Sequence[object] = ()) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = conn.execute(statement, parameters).fetchone()
    assert row is not None
    return row


def _producers(run: Run, directory: pathlib.Path) -> Iterable[Any]:
    settings = run.settings
    index = itertools.count(1)
    for _ in range(settings.sql):
        yield SqlProducer(run, next(index))
    for _ in range(settings.asynchronous_sql):
        yield SqlProducer(run, next(index), asynchronous=True)
    for _ in range(settings.client):
        yield ClientProducer(run, next(index), joined=False)
    for _ in range(settings.joined):
        yield ClientProducer(run, next(index), joined=True)
    for _ in range(settings.aclient):
        yield AsyncClientProducer(run, next(index))
    for number in range(settings.children):
        yield ChildProducer(run, next(index), directory, ("sql", "client")[number % 2 if settings.client else 0])


def _disturb(run: Run) -> None:
    """Let the producers work, with the crashes spread over the time."""
    rng = run.random("crash")
    share = run.settings.seconds / (run.settings.crashes + 1)
    started = time.monotonic()
    for number in range(run.settings.crashes):
        due = started + share * (number + 0.7 + rng.random() * 0.6)
        time.sleep(max(0.0, due - time.monotonic()))
        crash(run)
    time.sleep(max(0.0, started + run.settings.seconds - time.monotonic()))


def _finish(run: Run) -> None:
    """End what is prepared, append a last record to each partition and tell the readers how far to read."""
    deadline = time.monotonic() + 30
    with psycopg.connect(run.dsn, autocommit=True) as conn:
        left = "select count(*) from pg_stat_activity where datname = current_database() and application_name like %s"
        while _one(conn, left, (APPLICATION + "%",)) != (0,):
            if time.monotonic() > deadline:
                run.unexpected.append("producers' backends did not end")
                break
            time.sleep(0.02)
        while not run.prepared.empty():
            run.in_doubt.append(run.prepared.get())
        for prepared in run.in_doubt:
            while not _resolve(run, conn, prepared):
                pass
        for partition in range(run.settings.partitions):
            last = _append_last(run, conn, partition)
            run.target[partition] = last + 1
            (high_watermark,) = _one(conn, "select pgq.high_watermark(%s, %s)", (TOPIC, partition))
            if high_watermark != last + 1:
                run.unexpected.append(
                    f"the high watermark of {partition} is {high_watermark} after a last offset of {last}"
                )
    run.drain.set()


def read_truth(dsn: str) -> Truth:
    """Read the log tables themselves."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        (topic_id,) = conn.execute("select topic_id from pgq.topic where name = %s", (TOPIC,)).fetchone() or (None,)
        rows = conn.execute(
            f'select partition, "offset", value from pgq_log.t{topic_id} order by 1, 2',
            binary=True,
        ).fetchall()
        starts = conn.execute(
            "select partition, log_start_offset from pgq.partition where topic_id = %s", (topic_id,)
        ).fetchall()
    return Truth([(partition, offset, decode(value)) for partition, offset, value in rows], dict(starts))
