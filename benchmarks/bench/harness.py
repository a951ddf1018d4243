"""What every benchmark shares: the place it runs in, payloads, interleaved rounds, medians.

A ratio is the median of the ratios of single rounds. In each round both sides do the same work right after one another,
in alternating order, so that noise of the machine that lasts longer than a round cancels out.
"""

import asyncio
import gc
import random
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, LiteralString

import asyncpg
import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgq import Admin, TopicPartition

SCHEMA = "pgq_bench"
COPY_BARE = 'copy pgq_bench.bare ("offset", "timestamp", key, value) from stdin (format binary)'
CREATE_BARE: LiteralString = """
    create table pgq_bench.bare ("offset" bigint primary key, "timestamp" timestamptz not null, key bytea, value bytea)
"""


@dataclass(frozen=True)
class Figure:
    """One line of the result: medians over the rounds, and the median of their ratios."""

    benchmark: str
    case: str
    ours: float
    raw: float | None
    unit: str
    ratio: float | None
    target: float | None
    rounds: int
    note: str = ""

    @property
    def met(self) -> bool | None:
        return None if self.ratio is None or self.target is None else self.ratio >= self.target


@dataclass(frozen=True)
class Round:
    """One round of one side: a rate, and the share of the time spent in `send` where there is one."""

    rate: float
    send_share: float | None = None


@dataclass
class Bench:
    """Where and how long the benchmarks run."""

    dsn: str
    bin_dir: Path
    rounds: int = 7
    quick: bool = False
    long: bool = False
    keys: int = 10_000
    progress: Callable[[str], None] = print
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run asynchronous work on the one loop that all asynchronous clients of the run belong to."""
        return self.loop.run_until_complete(work)

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.dsn, autocommit=True)

    async def connect_asyncpg(self) -> asyncpg.Connection:
        return await asyncpg.connect(**asyncpg_parameters(self.dsn))

    @contextmanager
    def topic(self, name: str, partitions: int = 1, config: dict[str, Any] | None = None) -> Iterator[str]:
        """A topic for the length of a case."""
        with Admin(self.dsn) as admin:
            if name in {topic.name for topic in admin.list_topics()}:
                admin.delete_topic(name)
            admin.create_topic(name, partitions=partitions, config=config)
        try:
            yield name
        finally:
            with Admin(self.dsn) as admin:
                admin.delete_topic(name)

    @contextmanager
    def bare(self, create: LiteralString = CREATE_BARE) -> Iterator[None]:
        """The table pgq_bench.bare for the length of a case."""
        with self.connect() as conn:
            conn.execute("create schema if not exists pgq_bench")
            conn.execute("drop table if exists pgq_bench.bare")
            conn.execute(create)
        try:
            yield
        finally:
            with self.connect() as conn:
                conn.execute("drop table pgq_bench.bare")

    def log_table(self, topic: str) -> str:
        """The root of the topic's table tree, for filling and checking."""
        with self.connect() as conn:
            row = conn.execute("select topic_id from pgq.topic where name = %s", [topic]).fetchone()
        assert row is not None
        return f"pgq_log.t{row[0]}"

    def count(self, table: str) -> int:
        with self.connect() as conn:
            row = conn.execute(f"select count(*) from {table}".encode()).fetchone()
        assert row is not None
        return int(row[0])

    def settle(self) -> None:
        """Start a case with a clean slate: what the last one left to write is written."""
        with self.connect() as conn:
            conn.execute("checkpoint")


def asyncpg_parameters(dsn: str) -> dict[str, Any]:
    """Translate a libpq DSN for asyncpg."""
    names = {"host": "host", "port": "port", "user": "user", "password": "password", "dbname": "database"}
    found = conninfo_to_dict(dsn)
    return {theirs: found[ours] for ours, theirs in names.items() if found.get(ours) is not None}


def payload(records: int, value_bytes: int, keys: int) -> list[tuple[bytes | None, bytes]]:
    """Make (key, value) pairs, the same at every run. Random bytes, so that nothing compresses; keys 0 means no key."""
    source = random.Random(2013)
    return [
        (b"customer-%08d" % source.randrange(keys) if keys else None, source.randbytes(value_bytes))
        for _ in range(records)
    ]


def now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def quiet_gc() -> Iterator[None]:
    """Start a measured stretch with an empty young generation. The collector stays on, as in an application."""
    gc.collect()
    yield


def timed(work: Callable[[], int]) -> Round:
    """Run work, which returns how many records it handled."""
    with quiet_gc():
        started = time.perf_counter()
        records = work()
        return Round(records / (time.perf_counter() - started))


@dataclass(frozen=True)
class Comparison:
    ours: float
    raw: float
    ratio: float
    send_share: float | None


def compare(rounds: int, ours: Callable[[], Round], raw: Callable[[], Round], *, warm_up: bool = True) -> Comparison:
    """Run both sides by turns, and take medians."""
    if warm_up:
        ours(), raw()
    pairs: list[tuple[Round, Round]] = []
    for number in range(rounds):
        if number % 2:
            theirs = raw()
            pairs.append((ours(), theirs))
        else:
            mine = ours()
            pairs.append((mine, raw()))
    shares = [mine.send_share for mine, _ in pairs if mine.send_share is not None]
    return Comparison(
        ours=median(mine.rate for mine, _ in pairs),
        raw=median(theirs.rate for _, theirs in pairs),
        ratio=median(mine.rate / theirs.rate for mine, theirs in pairs),
        send_share=median(shares) if shares else None,
    )


def size(value_bytes: int) -> str:
    return f"{value_bytes // 1000} kB" if value_bytes >= 1000 else f"{value_bytes} B"


def partitions_of(topic: str, partitions: int) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for number in range(partitions)]
