"""A worker in a process of its own, made to be killed, stopped and resumed: it calls `run` of a consumer.

    python -m tests.histories.worker_process '{"client": "sync", "dsn": …, "log": …, …}'

The fields of `Options` say how it works. A line of JSON goes to the log, at once, before and after each call of the
handler, which fails as `Options` say. It runs until it is told to stop, which `run` sees to, or killed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import pgq
from pgq import errors

TOPIC, GROUP = "history", "workers"
HOPELESS = 97
"""Records of which every so many-th always fails."""


@dataclass(frozen=True)
class Options:
    """How a worker works, and how it fails."""

    client: str
    """sync or async."""
    dsn: str
    log: str
    seed: str
    policy: dict[str, Any]
    concurrency: int = 4
    strategy: str = "range"
    fails: float = 0.3
    """Which share of the calls fails by chance."""

    def to_json(self) -> str:
        """Return what the command takes."""
        return json.dumps(asdict(self))


class _ChosenError(Exception):
    """A call is to fail."""


class _Call(NamedTuple):
    number: int
    place: tuple[str, int, int]
    """Topic, partition, offset."""
    attempt: int
    takes_s: float


class Work(pgq.ConsumerRebalanceListener):
    """The handler, and what it writes down."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.policy = pgq.RetryPolicy(**options.policy)
        self.stopping = False
        self.consumer: Any = None
        self._claims: Counter[tuple[str, int]] = Counter()
        self._failed: Counter[tuple[str, int, int]] = Counter()
        """How often records failed since `run` was called. It counts as well what could not be stored."""
        self._random = random.Random(options.seed)
        self._calls = itertools.count()
        self._file = os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def log(self, op: str, **entry: Any) -> None:
        os.write(self._file, json.dumps({"op": op} | entry).encode() + b"\n")

    def stop(self, *_: object) -> None:
        """Note that SIGTERM has come: the signal handler of the application, which `run` calls after its own."""
        self.stopping = True
        if self.consumer is not None:
            self.consumer.stop()  # the signal may have come before `run` had its own

    def on_partitions_assigned(self, assigned: set[pgq.TopicPartition]) -> None:
        self._claims.update(assigned)

    def begin(self, record: pgq.ConsumerRecord) -> _Call:
        """Write down that a call has begun."""
        headers = {name: (value or b"").decode() for name, value in record.headers}
        claim = self._claims[record.topic, record.partition]
        place = (record.topic, record.partition, record.offset)
        attempt = int(headers.get("pgq.attempt", 0)) + self._failed[place] + 1
        takes_s = self._random.random() * (0.06 if self._random.random() < 0.03 else 0.004)
        call = _Call(next(self._calls), place, attempt, takes_s)
        self.log(
            "begin",
            call=call.number,
            at=place,
            of=origin(record.topic, record.partition, record.offset, headers),
            claim=claim,
            key=None if record.key is None else record.key.decode(),
            value=content(record.value, headers),
            attempt=attempt,
            due=int(headers["pgq.due"]) if "pgq.due" in headers else None,
            mono=time.monotonic(),
            wall=time.time(),
        )
        return call

    def end(self, record: pgq.ConsumerRecord, call: _Call) -> None:
        """Choose how a call ends, write it down, and end it so."""
        chance = self._random.random() / self.options.fails if self.options.fails else 1.0
        error: Exception | None = None
        outcome, wait_s = "done", 0.0
        if int(record.value.split()[0]) % HOPELESS == 0 or chance < 0.9:
            outcome, wait_s, error = "failed", self.policy.delay_s(call.attempt, 0.0), _ChosenError("by chance")
        elif chance < 0.97:
            wait_s = 0.05 + self._random.random() * 0.3
            outcome, error = "later", pgq.RetryLater(wait_s, "by chance")
        elif chance < 1:
            outcome, error = "rejected", pgq.Reject("by chance")
        if error is not None:
            self._failed[call.place] += 1
        else:
            self._failed.pop(call.place, None)  # if that cannot be stored, it is processed anew
        self.log("end", call=call.number, outcome=outcome, wait=wait_s, mono=time.monotonic(), wall=time.time())
        if error is not None:
            raise error

    def handle(self, record: pgq.ConsumerRecord) -> None:
        call = self.begin(record)
        time.sleep(call.takes_s)
        self.end(record, call)

    async def handle_async(self, record: pgq.ConsumerRecord) -> None:
        call = self.begin(record)
        await asyncio.sleep(call.takes_s)
        self.end(record, call)

    def run(self) -> None:
        """Work until told to stop; begin anew after an error that may pass."""
        options: dict[str, Any] = {
            "dsn": self.options.dsn,
            "group_id": GROUP,
            "auto_offset_reset": "earliest",
            "auto_commit_interval_ms": 100,
            "session_timeout_ms": 1500,
            "max_poll_records": 50,
            "partition_assignment_strategy": self.options.strategy,
        }
        while not self.stopping:
            self.log("run")
            self._failed.clear()
            try:
                if self.options.client == "async":
                    asyncio.run(self._run_async(options))
                else:
                    consumer = self.consumer = pgq.Consumer(**options)
                    consumer.subscribe([TOPIC], listener=self)
                    consumer.run(self.handle, retry=self.policy, concurrency=self.options.concurrency)
                self.log("returned")
                return
            except errors.PgqError as error:
                if not error.retriable and not isinstance(error, errors.DatabaseError):
                    raise
                self.log("error", error=type(error).__name__, message=str(error)[:200])
                time.sleep(0.1)

    async def _run_async(self, options: dict[str, Any]) -> None:
        consumer = self.consumer = pgq.AsyncConsumer(**options)
        consumer.subscribe([TOPIC], listener=self)
        await consumer.run(self.handle_async, retry=self.policy, concurrency=self.options.concurrency)


def origin(topic: str, partition: int, offset: int, headers: dict[str, str]) -> tuple[str, int, int]:
    """Return where a record was first."""
    if "pgq.origin.topic" not in headers:
        return topic, partition, offset
    return headers["pgq.origin.topic"], int(headers["pgq.origin.partition"]), int(headers["pgq.origin.offset"])


def content(value: bytes | None, headers: dict[str, str]) -> str:
    """Return what must stay as it was sent: the value and the producer's own header, in short."""
    text = (value or b"").decode()
    return f"{text[:20]} {len(text)} {headers.get('trace')}"


def main(text: str) -> None:
    """Work until told to stop."""
    logging.basicConfig(level=logging.CRITICAL)
    work = Work(Options(**json.loads(text)))
    signal.signal(signal.SIGTERM, work.stop)
    work.run()


if __name__ == "__main__":
    main(sys.argv[1])
