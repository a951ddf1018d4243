"""A member of a group in a process of its own, made to be killed, stopped and resumed.

    python -m tests.histories.member_process MODE DSN LOG SEED

MODE: auto (offsets committed by themselves), iterate (likewise, record by record), manual (commit after each poll),
exact (consume, write, produce and commit in one transaction; some of the transactions fail), own (likewise, on a
connection of the application's own). SEED is "run/member": the run says how partitions are shared out, and some members
are static. A line of JSON goes to LOG, at once, before records are worked on. It runs until it is killed; at SIGTERM it
closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import sys
import time
from typing import Any

import psycopg

import pgq
from pgq import errors

TOPIC, RESULTS, GROUP = "history", "results", "history"
OPTIONS: dict[str, Any] = {
    "group_id": GROUP,
    "auto_offset_reset": "earliest",
    "session_timeout_ms": 1500,
    "max_poll_records": 50,
}


STRATEGIES = ("range", "roundrobin", "sticky")


class _TermError(BaseException):
    """SIGTERM has come."""


class _ChosenError(Exception):
    """A transaction is to fail."""


class Member:
    """What all modes have in common."""

    def __init__(self, dsn: str, path: str, seed: str) -> None:
        self.dsn = dsn
        self.random = random.Random(seed)
        run, _, number = seed.partition("/")
        self.options = OPTIONS | {"partition_assignment_strategy": STRATEGIES[int(run) % len(STRATEGIES)]}
        if self.random.random() < 0.3:
            self.options["group_instance_id"] = f"member-{number}"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def log(self, **entry: Any) -> None:
        os.write(self._file, json.dumps(entry).encode() + b"\n")

    def got(self, records: list[pgq.ConsumerRecord]) -> None:
        self.log(op="got", records=[(r.partition, r.offset) for r in records])

    def failed(self, error: BaseException) -> None:
        self.log(op="error", error=type(error).__name__, message=str(error)[:200])

    def work(self) -> None:
        """Take as long as an application may."""
        if self.random.random() < 0.1:
            time.sleep(self.random.random() * 0.2)

    def auto(self) -> None:
        with pgq.Consumer(TOPIC, dsn=self.dsn, auto_commit_interval_ms=100, **self.options) as consumer:
            while True:
                with contextlib.suppress(errors.BrokerNotAvailableError, errors.RequestTimedOutError):
                    for batch in consumer.getmany(timeout_ms=200).values():
                        self.got(batch)
                        self.work()

    def iterate(self) -> None:
        with pgq.Consumer(TOPIC, dsn=self.dsn, auto_commit_interval_ms=100, **self.options) as consumer:
            for record in consumer:
                self.got([record])
                if self.random.random() < 0.01:
                    self.work()

    async def manual(self) -> None:
        async with pgq.AsyncConsumer(TOPIC, dsn=self.dsn, enable_auto_commit=False, **self.options) as consumer:
            while True:
                try:
                    batches = await consumer.getmany(timeout_ms=200)
                    for batch in batches.values():
                        self.got(batch)
                        self.work()
                    await asyncio.sleep(0)
                    await consumer.commit()
                except (errors.BrokerNotAvailableError, errors.RequestTimedOutError, errors.CommitFailedError) as error:
                    self.failed(error)

    async def exact(self) -> None:
        async with (
            pgq.AsyncProducer(self.dsn) as producer,
            pgq.AsyncConsumer(TOPIC, dsn=self.dsn, enable_auto_commit=False, **self.options) as consumer,
        ):
            while True:
                try:
                    batches = await consumer.getmany(timeout_ms=200)
                    if not batches:
                        continue
                    async with consumer.transaction() as connection:
                        for batch in batches.values():
                            self.got(batch)
                            await connection.executemany(
                                'insert into done (partition, "offset") values ($1, $2)',
                                [(r.partition, r.offset) for r in batch],
                            )
                            for r in batch:
                                await producer.send(RESULTS, b"%d:%d" % (r.partition, r.offset), connection=connection)
                        if self.random.random() < 0.05:
                            await asyncio.sleep(self.random.random())
                        if self.random.random() < 0.05:
                            raise _ChosenError
                except _ChosenError:
                    pass
                except (errors.PgqError, OSError) as error:
                    self.failed(error)
                except Exception as error:
                    if not type(error).__module__.startswith("asyncpg"):
                        raise
                    self.failed(error)  # the application's own statements meet the faults, too

    def own(self) -> None:
        """As the how-to page says: commit the offsets last, and go back after whatever failed."""
        with (
            pgq.Producer(self.dsn) as producer,
            pgq.Consumer(TOPIC, dsn=self.dsn, enable_auto_commit=False, **self.options) as consumer,
        ):
            while True:
                try:
                    batches = consumer.getmany(timeout_ms=200)
                    if not batches:
                        continue
                    with psycopg.connect(self.dsn) as connection, connection.cursor() as cursor:
                        for batch in batches.values():
                            self.got(batch)
                            cursor.executemany(
                                'insert into done (partition, "offset") values (%s, %s)',
                                [(r.partition, r.offset) for r in batch],
                            )
                            for r in batch:
                                producer.send(RESULTS, b"%d:%d" % (r.partition, r.offset), connection=connection)
                        if self.random.random() < 0.05:
                            time.sleep(self.random.random())
                        if self.random.random() < 0.5:
                            consumer.commit({tp: batch[-1].offset + 1 for tp, batch in batches.items()}, connection)
                        else:
                            consumer.commit(connection=connection)
                        if self.random.random() < 0.05:
                            raise _ChosenError
                except (_ChosenError, errors.PgqError, psycopg.Error) as error:
                    self.failed(error)
                    self.go_back(consumer)

    def go_back(self, consumer: pgq.Consumer) -> None:
        """Read again what the group has not committed."""
        while True:
            try:
                consumer.seek_to_committed()
            except (errors.BrokerNotAvailableError, errors.RequestTimedOutError, errors.NotLeaderError):
                time.sleep(0.05)
            else:
                return


def _terminate(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _TermError


def main(mode: str, dsn: str, path: str, seed: str) -> None:
    """Consume until killed."""
    logging.basicConfig(level=logging.CRITICAL)
    member = Member(dsn, path, seed)
    run: Any = getattr(member, mode)
    while True:
        try:
            if asyncio.iscoroutinefunction(run):
                with asyncio.Runner() as runner:
                    task = runner.get_loop().create_task(run())
                    runner.get_loop().add_signal_handler(signal.SIGTERM, task.cancel)
                    runner.get_loop().run_until_complete(task)
            else:
                signal.signal(signal.SIGTERM, _terminate)
                run()
        except (_TermError, asyncio.CancelledError):
            return
        except (errors.BrokerNotAvailableError, errors.RequestTimedOutError, errors.NotLeaderError) as error:
            member.failed(error)  # the server was away when it started
            time.sleep(0.1)
        except errors.DatabaseError as error:
            member.failed(error)
            time.sleep(0.1)


if __name__ == "__main__":
    main(*sys.argv[1:])
