"""A producer in a process of its own, made to be killed with -9.

    python -m tests.histories.producer_process sql|client DSN LOG FIRST_VALUE PARTITIONS SEED

It runs until it is killed. A line of JSON goes to LOG before records are handed over ("invoke") and after their
outcome is known ("end"); written to the file at once, so what the kill cuts off is at most the last line.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import sys
import time
from typing import Any

import psycopg

import pgq

from .workload import TOPIC, _choose_filler, _choose_partition, _explained, _lost, encode


class _Log:
    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._serial = itertools.count()

    def _write(self, **entry: Any) -> None:
        os.write(self._file, json.dumps(entry).encode() + b"\n")

    def invoke(self, records: list[tuple[int, int | None]]) -> str:
        transaction = str(next(self._serial))
        places = [(value, -1 if partition is None else partition) for value, partition in records]
        self._write(event="invoke", transaction=transaction, records=places, time=time.monotonic())
        return transaction

    def end(self, transaction: str, outcome: str, places: list[tuple[int, int, int]]) -> None:
        self._write(event="end", transaction=transaction, outcome=outcome, places=places)

    def error(self, error: BaseException) -> None:
        if not _explained(error):
            self._write(event="error", detail=f"{type(error).__name__}: {error}")


def main(kind: str, dsn: str, path: str, first: int, partitions: int, seed: str) -> None:
    """Produce until killed."""
    logging.getLogger("pgq").setLevel(logging.CRITICAL)  # it logs every batch that a fault cost it
    log = _Log(path)
    rng = random.Random(seed)
    values = itertools.count(first)
    run = _run_sql if kind == "sql" else _run_client
    while True:
        try:
            run(log, dsn, rng, values, partitions)
        except Exception as error:
            log.error(error)
            time.sleep(0.05)


def _records(rng: random.Random, values: itertools.count[int], partitions: int) -> list[tuple[int, int | None]]:
    return [(next(values), _choose_partition(rng, partitions)) for _ in range(rng.choice((1, 5, 40)))]


def _run_sql(log: _Log, dsn: str, rng: random.Random, values: itertools.count[int], partitions: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        while True:
            records = _records(rng, values, partitions)
            transaction = log.invoke(records)
            sent = False
            try:
                conn.execute("begin")
                places = conn.execute(
                    'select partition, "offset" from pgq.produce_batch(%s, %b::bytea[], partitions => %b::int[])',
                    (TOPIC, [encode(value, _choose_filler(rng)) for value, _ in records], [p for _, p in records]),
                ).fetchall()
                sent = True
                conn.execute("commit")
            except psycopg.Error as error:
                log.error(error)
                if _lost(conn, error):
                    log.end(transaction, "info" if sent else "fail", [])
                    return
                conn.execute("rollback")
                log.end(transaction, "fail", [])
            else:
                log.end(transaction, "ok", [(value, *place) for (value, _), place in zip(records, places, strict=True)])


def _run_client(log: _Log, dsn: str, rng: random.Random, values: itertools.count[int], partitions: int) -> None:
    with pgq.Producer(dsn, linger_ms=2) as producer:
        while True:
            sent = []
            for record in _records(rng, values, partitions):
                transaction = log.invoke([record])
                value, partition = record
                sent.append(
                    (transaction, value, producer.send(TOPIC, encode(value, _choose_filler(rng)), partition=partition))
                )
            for transaction, value, future in sent:
                try:
                    metadata = future.result(timeout=60)
                except Exception as error:
                    log.error(error)
                    log.end(transaction, "info", [])
                else:
                    log.end(transaction, "ok", [(value, metadata.partition, metadata.offset)])


if __name__ == "__main__":
    _, kind, dsn, path, first, partitions, seed = sys.argv
    main(kind, dsn, path, int(first), int(partitions), seed)
