"""`run` calls a handler for every record: order, what is committed, failures, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

import pgq
from pgq import (
    ConsumerRecord,
    OffsetAndMetadata,
    Reject,
    RetryLater,
    RetryPolicy,
    TopicPartition,
    errors,
    failure_history,
)
from pgq.aio.failures import Failure, in_parts
from pgq.core import statements
from pgq.telemetry import CONSUMER_METRICS
from tests.clients.conftest import Awaitable, Clients, read, until
from tests.clients.test_groups import fill
from tests.plugins.proxy import Proxy
from tests.plugins.sessions import TIME_LIMIT_S, Connection, eventually, rows, value

Work = Callable[[ConsumerRecord], Any]
SOON = RetryPolicy(max_attempts=3, initial=0.05, jitter=0)
QUICK = {"group_id": "g", "auto_commit_interval_ms": 0}


class MistakeError(Exception):
    """The application's."""


@pytest.fixture
def wide(conn: Connection) -> str:
    conn.execute("select pgq.create_topic('wide', 6)")
    return "wide"


def committed(conn: Connection, topic: str = "orders", partition: int = 0) -> int | None:
    found = rows(
        conn,
        "select \"offset\" from pgq.committed_offsets('g') where topic = %s and partition = %s",
        topic,
        partition,
    )
    return found[0][0] if found else None


def dead_letters(conn: Connection, dsn: str, topic: str = "orders") -> list[ConsumerRecord]:
    """What is in the group's dead letter topic."""
    name = f"{topic}.g.dlq"
    tp = TopicPartition(name, 0)
    end = value(conn, "select pgq.high_watermark(%s, 0)", name)
    with pgq.Consumer(dsn=dsn) as consumer:
        consumer.assign([tp])
        consumer.seek_to_beginning()
        found: list[ConsumerRecord] = []
        while consumer.position(tp) < end:  # offsets of transactions that were cut off hold no record
            for batch in consumer.getmany(timeout_ms=100).values():
                found += batch
        return found


def unwrapped(consumer: Any) -> Any:
    return consumer.client if isinstance(consumer, Awaitable) else consumer


class Working:
    """A consumer that runs beside the test. The work is done in a thread, in both worlds."""

    def __init__(self, clients: Clients, consumer: Any, work: Work, **options: Any) -> None:
        self.consumer = consumer
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(32))

        async def handler(record: ConsumerRecord) -> None:
            await asyncio.to_thread(work, record)

        self.task = asyncio.create_task(consumer.run(handler if clients.world == "async" else work, **options))

    async def stop(self) -> None:
        self.consumer.stop()
        await asyncio.wait_for(self.task, TIME_LIMIT_S)


@contextlib.asynccontextmanager
async def working(clients: Clients, consumer: Any, work: Work, **options: Any) -> AsyncIterator[Working]:
    worker = Working(clients, consumer, work, **options)
    try:
        yield worker
    finally:
        await worker.stop()


class Gate:
    """Where a handler waits until the test lets it go on."""

    def __init__(self) -> None:
        self.reached, self._opened = threading.Event(), threading.Event()
        self.open = self._opened.set

    def __call__(self, _record: ConsumerRecord | None = None) -> None:
        self.reached.set()
        assert self._opened.wait(TIME_LIMIT_S)


# processing


async def test_records_are_processed_in_order_and_committed(
    clients: Clients, conn: Connection, tp: TopicPartition
) -> None:
    fill(conn, tp.topic, 1200)
    seen: list[int] = []
    consumer = clients.consumer(tp.topic, group_id="g")
    async with working(clients, consumer, lambda record: seen.append(record.offset)):
        await until(lambda: len(seen) == 1200)
        fill(conn, tp.topic, 5, 0, 1200)
        await until(lambda: len(seen) == 1205)
    assert seen == list(range(1205))
    assert committed(conn) == 1205, "the end commits"
    assert value(conn, "select count(*) from pgq.group_member") == 0
    metrics = consumer.metrics()
    assert metrics.keys() == {metric.name for metric in CONSUMER_METRICS}
    assert metrics["records_processed_total"] == 1205
    assert metrics["records_in_flight"] == metrics["records_failed_total"] == 0
    assert 0 < metrics["handler_seconds_max"] <= metrics["handler_seconds_total"]
    assert metrics["commits_total"] >= 1


async def test_a_plain_function_in_the_async_client(dsn: str, conn: Connection, topic: str) -> None:
    fill(conn, topic, 10)
    seen: list[int] = []
    consumer = pgq.AsyncConsumer(topic, dsn=dsn, group_id="g", auto_offset_reset="earliest")

    def handler(record: ConsumerRecord) -> None:
        seen.append(record.offset)
        if len(seen) == 10:
            consumer.stop()

    await asyncio.wait_for(consumer.run(handler), TIME_LIMIT_S)
    assert seen == list(range(10))
    assert committed(conn) == 10


async def test_records_of_a_key_are_in_order_and_others_at_the_same_time(
    clients: Clients, conn: Connection, wide: str
) -> None:
    conn.execute(
        "select pgq.produce('wide', convert_to(i::text, 'utf8'), key => convert_to('k' || i %% 7, 'utf8'))"
        " from generate_series(1, 200) i",
        [],
    )
    lock = threading.Lock()
    busy: set[Any] = set()
    seen: dict[Any, list[int]] = {}
    together = threading.Event()

    def work(record: ConsumerRecord) -> None:
        with lock:
            assert record.key not in busy, "two of a key at a time"
            busy.add(record.key)
            if len(busy) == 4:
                together.set()
        assert together.wait(TIME_LIMIT_S)
        with lock:
            busy.remove(record.key)
            seen.setdefault(record.key, []).append(int(record.value))

    async with working(clients, clients.consumer(wide, group_id="g"), work, concurrency=4, retry=None):
        await until(lambda: sum(map(len, seen.values())) == 200)
    assert all(numbers == sorted(numbers) for numbers in seen.values())
    assert value(conn, "select sum(\"offset\") from pgq.committed_offsets('g')") == 200


async def test_keys_that_cannot_be_compared_keep_the_order_of_their_partition(dsn: str, conn: Connection) -> None:
    conn.execute("select pgq.create_topic('orders')")
    conn.execute("select pgq.produce('orders', 'x', key => '{\"a\": 1}') from generate_series(1, 20) i")
    seen: list[int] = []

    class Key:
        def __init__(self, _raw: bytes) -> None:
            pass

    for group, deserializer in (("a", "json"), ("b", Key)):
        consumer = pgq.AsyncConsumer(
            "orders", dsn=dsn, group_id=group, auto_offset_reset="earliest", key_deserializer=deserializer
        )
        running = 0

        async def handler(record: ConsumerRecord, consumer: Any = consumer) -> None:
            nonlocal running
            running += 1
            assert running == 1
            await asyncio.sleep(0)
            running -= 1
            seen.append(record.offset)
            if len(seen) == 20:
                consumer.stop()

        await asyncio.wait_for(consumer.run(handler, concurrency=4, retry=None), TIME_LIMIT_S)
        assert seen == list(range(20))
        seen.clear()


async def test_nothing_behind_an_undone_record_is_committed(
    clients: Clients, conn: Connection, tp: TopicPartition
) -> None:
    fill(conn, tp.topic, 20)
    gate, done = Gate(), []

    def work(record: ConsumerRecord) -> None:
        if record.offset == 5:
            gate()
        done.append(record.offset)

    async with working(clients, clients.consumer(tp.topic, **QUICK), work, concurrency=2) as worker:
        await until(lambda: len(done) == 19)
        await until(lambda: committed(conn) == 5)
        assert worker.consumer.metrics()["records_in_flight"] == 1
        fill(conn, tp.topic, 5, 0, 20)
        await until(lambda: len(done) == 24)
        assert committed(conn) == 5
        gate.open()
        await until(lambda: committed(conn) == 25)


# the end


async def test_stop_lets_what_has_begun_end(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 20)
    gate = Gate()
    worker = Working(clients, clients.consumer(tp.topic, group_id="g"), gate)
    await until(gate.reached.is_set)
    worker.consumer.stop()
    assert not (await asyncio.wait([worker.task], timeout=0.5))[0]
    assert value(conn, "select count(*) from pgq.group_member") == 1
    gate.open()
    await asyncio.wait_for(worker.task, TIME_LIMIT_S)
    assert committed(conn) == 1
    assert value(conn, "select count(*) from pgq.group_member") == 0
    with pytest.raises(errors.IllegalStateError, match="closed"):
        await worker.consumer.run(print)


async def test_run_within_a_block(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    """The consumer is a member already, and reads the retry topics from `run` on. Leaving the block stops it."""
    fill(conn, tp.topic, 3)
    seen: list[tuple[str, bytes]] = []

    def work(record: ConsumerRecord) -> None:
        seen.append((record.topic, record.value))
        if record.topic == "orders" and record.value == b"1":
            raise MistakeError

    consumer = clients.consumer(tp.topic, **QUICK)
    async with consumer:
        assert len(await read(consumer, 3)) == 3
        await consumer.seek(tp, 0)
        worker = Working(clients, consumer, work, retry=SOON)
        await until(lambda: len(seen) == 4)
    await asyncio.wait_for(worker.task, TIME_LIMIT_S)
    assert seen == [("orders", b"0"), ("orders", b"1"), ("orders", b"2"), ("orders.g.retry", b"1")]
    assert committed(conn) == 3


async def test_stop_before_run(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 3)
    consumer = clients.consumer(tp.topic, group_id="g")
    consumer.stop()
    await consumer.run(print)
    assert committed(conn) is None


async def test_cancelling_is_graceful(dsn: str, conn: Connection, topic: str) -> None:
    fill(conn, topic, 20)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def handler(_record: ConsumerRecord) -> None:
        begun.set()
        await go_on.wait()

    consumer = pgq.AsyncConsumer(topic, dsn=dsn, group_id="g", auto_offset_reset="earliest")
    task = asyncio.create_task(consumer.run(handler, concurrency=2))
    await begun.wait()
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert committed(conn) == 2


async def test_without_retries_the_first_exception_ends_it(
    clients: Clients, conn: Connection, tp: TopicPartition
) -> None:
    fill(conn, tp.topic, 20)
    seen: list[int] = []

    def work(record: ConsumerRecord) -> None:
        seen.append(record.offset)
        if record.offset == 7:
            raise MistakeError("no luck")

    worker = Working(clients, clients.consumer(tp.topic, group_id="g"), work, retry=None)
    with pytest.raises(MistakeError, match="no luck"):
        await asyncio.wait_for(worker.task, TIME_LIMIT_S)
    assert seen == list(range(8))
    assert committed(conn) == 7
    assert value(conn, "select count(*) from pgq.topic") == 1, "no topics for failures"


PROGRAM = """
import asyncio, sys
import pgq

def work(record):
    print(record.offset, flush=True)
    sys.stdin.readline()

async def handler(record):
    await asyncio.to_thread(work, record)

options = dict(dsn=sys.argv[2], group_id="g", auto_offset_reset="earliest", auto_commit_interval_ms=0)
if sys.argv[1] == "sync":
    pgq.Consumer("orders", **options).run(work)
else:
    asyncio.run(pgq.AsyncConsumer("orders", **options).run(handler))
print("ended", flush=True)
"""


@contextlib.contextmanager
def program(world: str, dsn: str) -> Iterator[Any]:
    """A worker in a process of its own: prints the offset of each record that it begins, and waits for a line."""
    command = [sys.executable, "-c", PROGRAM, world, dsn]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("world", ["sync", "async"])
def test_signals_end_it_gracefully(dsn: str, conn: Connection, topic: str, world: str, number: int) -> None:
    fill(conn, topic, 5)
    with program(world, dsn) as process:
        assert process.stdout.readline() == "0\n"
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "1\n"
        process.send_signal(number)
        process.stdin.close()  # whatever has begun goes on
        lines = process.stdout.read().split()
        assert process.wait(TIME_LIMIT_S) == 0
    assert lines[-1] == "ended"
    assert lines[:-1] == ["2", "3", "4"][: len(lines) - 1], "some may have begun before the signal arrived"
    assert committed(conn) == 2 + len(lines[:-1])


STUCK = """
import asyncio, sys, threading
import pgq

def work(record):
    print("begun", flush=True)
    threading.Event().wait()

async def handler(record):
    print("begun", flush=True)
    await asyncio.Event().wait()

options = dict(dsn=sys.argv[2], group_id="g", auto_offset_reset="earliest")
if sys.argv[1] == "sync":
    pgq.Consumer("orders", **options).run(work)
else:
    asyncio.run(pgq.AsyncConsumer("orders", **options).run(handler))
"""


@pytest.mark.parametrize("world", ["sync", "async"])
def test_a_second_ctrl_c_does_not_wait(dsn: str, conn: Connection, topic: str, world: str) -> None:
    fill(conn, topic, 1)
    command = [sys.executable, "-c", STUCK, world, dsn]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"

        for _ in range(20):
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)  # not more often: a process that is ending may not bear it
                break
        assert process.returncode is not None
        assert process.stderr is not None
        assert "KeyboardInterrupt" in process.stderr.read()
    assert not committed(conn)
    eventually(lambda: value(conn, "select count(*) from pg_stat_activity where application_name = 'pgq'") == 0)


@pytest.mark.parametrize("world", ["sync", "async"])
def test_a_process_that_is_killed_loses_nothing(dsn: str, conn: Connection, topic: str, world: str) -> None:
    fill(conn, topic, 5)
    with program(world, dsn) as process:
        for offset in range(3):
            assert process.stdout.readline() == f"{offset}\n"
            if offset < 2:
                process.stdin.write("\n")
                process.stdin.flush()
        process.send_signal(signal.SIGKILL)
        process.wait()
    with program(world, dsn) as process:
        first = int(process.stdout.readline())
        assert first <= 2, "what was in the works comes again"
        for offset in range(first + 1, 5):
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == f"{offset}\n"
        process.stdin.write("\n")
        process.stdin.flush()
        eventually(lambda: committed(conn) == 5)


# failures


async def test_what_fails_is_tried_again_later(
    clients: Clients, conn: Connection, dsn: str, tp: TopicPartition
) -> None:
    conn.execute(
        "select pgq.produce('orders', convert_to(i::text, 'utf8'), key => 'k', header_keys => array['h'],"
        " header_values => array['v'::bytea]) from generate_series(0, 9) i"
    )
    seen: list[tuple[str, bytes, int]] = []

    def work(record: ConsumerRecord) -> None:
        history = failure_history(record)
        seen.append((record.topic, record.value, 0 if history is None else history.attempt))
        if record.value in (b"3", b"5") and (history is None or history.attempt < 2 or record.value == b"5"):
            raise MistakeError(f"attempt {1 + (history.attempt if history else 0)}")

    consumer = clients.consumer(tp.topic, group_id="g")
    retried = "orders.g.retry"
    started = time.monotonic()
    async with working(clients, consumer, work, retry=SOON):
        await until(lambda: len(seen) == 14)
        assert time.monotonic() - started < 4, "who is to be tried again soon is committed soon"
        assert consumer.subscription() == {"orders"}
        assert retried in {tp.topic for tp in consumer.assignment()}
    assert (committed(conn), committed(conn, retried)) == (10, 4)
    assert [v for t, v, _ in seen if t == "orders"] == [b"%d" % n for n in range(10)], "the partition goes on"
    for number in (b"3", b"5"):
        assert [(t, n) for t, v, n in seen if v == number] == [("orders", 0), (retried, 1), (retried, 2)]
    (dead,) = dead_letters(conn, dsn)
    assert (dead.key, dead.value, dead.headers[0]) == (b"k", b"5", ("h", b"v"))
    history = failure_history(dead)
    assert history is not None
    assert history[:4] == ("g", "orders", 0, 5)
    assert (history.attempt, history.due, history.redriven) == (3, None, 0)
    assert (history.first_error, history.last_error) == ("MistakeError: attempt 1", "MistakeError: attempt 3")
    metrics = consumer.metrics()
    assert metrics["records_processed_total"] == 9
    assert metrics["records_failed_total"] == 5
    assert metrics["records_retried_total"] == 4
    assert metrics["records_dead_lettered_total"] == 1


async def test_a_handlers_verdict(clients: Clients, conn: Connection, dsn: str, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 4)
    again = threading.Event()

    def work(record: ConsumerRecord) -> None:
        history = failure_history(record)
        if record.value == b"1":
            raise Reject("not ours")
        if record.value == b"2":
            if history is not None:
                again.set()
                return
            raise RetryLater(0.01, "the other system is away")

    policy = RetryPolicy(initial=3000, max_attempts=5)
    async with working(clients, clients.consumer(tp.topic, **QUICK), work, retry=policy):
        await until(again.is_set)
        await until(lambda: value(conn, "select pgq.high_watermark('orders.g.dlq', 0)") == 1)
    (dead,) = dead_letters(conn, dsn)
    history = failure_history(dead)
    assert history is not None
    assert (dead.value, history.attempt, history.last_error) == (b"1", 1, "Reject: not ours")


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_blocking_keeps_the_order_and_other_partitions_go_on(
    clients: Clients, conn: Connection, wide: str, concurrency: int
) -> None:
    for partition in (0, 1):
        fill(conn, wide, 10, partition)
    seen: dict[int, list[int]] = {0: [], 1: []}
    tries = 0
    others = threading.Event()

    def work(record: ConsumerRecord) -> None:
        nonlocal tries
        if record.partition == 0 and record.offset in (4, 6):
            tries += 1
            if record.offset == 6 or tries < 3 or not others.is_set():
                raise MistakeError
        seen[record.partition].append(record.offset)
        if len(seen[1]) == 10:
            others.set()

    policy = RetryPolicy(max_attempts=1000, initial=0.02, multiplier=1, jitter=0, blocking=True)
    consumer = clients.consumer(wide, **QUICK)
    async with working(clients, consumer, work, retry=policy, concurrency=concurrency):
        await until(lambda: len(seen[1]) == 10 and tries > 12)
    assert seen[1] == list(range(10)) if concurrency == 1 else sorted(seen[1]) == list(range(10))
    if concurrency == 1:
        assert seen[0] == [0, 1, 2, 3, 4, 5]
        assert committed(conn, wide, 0) == 6
    assert set(seen[0]) >= {0, 1, 2, 3, 4, 5}
    assert committed(conn, wide, 0) == 6
    assert value(conn, "select count(*) from pgq.delayed_records") == 0, "nothing goes to the retry topic"


async def test_blocking_ends_with_a_dead_letter(clients: Clients, conn: Connection, dsn: str, topic: str) -> None:
    fill(conn, topic, 5)
    seen: list[int] = []

    def work(record: ConsumerRecord) -> None:
        seen.append(record.offset)
        if record.offset == 2:
            raise MistakeError

    policy = RetryPolicy(max_attempts=3, initial=0.01, blocking=True)
    async with working(clients, clients.consumer(topic, **QUICK), work, retry=policy):
        await until(lambda: committed(conn) == 5)
    assert seen == [0, 1, 2, 2, 2, 3, 4]
    (dead,) = dead_letters(conn, dsn)
    history = failure_history(dead)
    assert history is not None
    assert (dead.value, history.attempt) == (b"2", 3)


async def test_a_record_that_cannot_be_deserialized_has_failed(
    clients: Clients, conn: Connection, dsn: str, topic: str
) -> None:
    for text in ('{"n": 1}', "no json", '{"n": 2}'):
        conn.execute("select pgq.produce('orders', %s::bytea, key => %s::bytea)", [text.encode(), text.encode()])
    for policy in (None, SOON):
        seen: list[int] = []
        consumer = clients.consumer(topic, key_deserializer="json", value_deserializer="json", **QUICK)
        worker = Working(clients, consumer, lambda record, seen=seen: seen.append(record.value["n"]), retry=policy)
        if policy is None:
            with pytest.raises(ValueError, match="line 1"):
                await asyncio.wait_for(worker.task, TIME_LIMIT_S)
            assert (seen, committed(conn)) == ([1], 1)
        else:
            await until(lambda: committed(conn) == 3)
            await until(lambda: rows(conn, 'select from pgq_topic."orders.g.dlq"') != [])
            await worker.stop()
            assert (seen, committed(conn)) == ([2], 3)
    (dead,) = dead_letters(conn, dsn)
    history = failure_history(dead)
    assert history is not None
    assert (dead.value, history.attempt) == (b"no json", 3)


async def test_failures_noted_in_a_loop_of_ones_own(
    clients: Clients, conn: Connection, dsn: str, tp: TopicPartition
) -> None:
    fill(conn, tp.topic, 4)
    options: dict[str, Any] = {"group_id": "g", "enable_auto_commit": False, "retry": SOON}
    async with clients.consumer(tp.topic, **options) as consumer:
        records = await read(consumer, 4)
        consumer.retry(records[1], error="busy")
        consumer.dead_letter(records[2], error=MistakeError("spam"))
        consumer.retry(records[3], delay_ms=3_600_000)
        await consumer.commit({tp: 3})
        assert (
            value(conn, "select count(*) from pgq.delayed_records")
            + value(conn, "select pgq.high_watermark('orders.g.retry', 0)")
            == 1
        ), "one a failure whose offset was committed"
        (again,) = await read(consumer, 1)
        assert (again.topic, again.value, failure_history(again).last_error) == ("orders.g.retry", b"1", "busy")
        consumer.retry(again, error="busy again")
        await consumer.seek(TopicPartition(again.topic, again.partition), again.offset)
        assert await read(consumer, 1) == [again], "and the note is dropped"
        await consumer.commit()
        assert value(conn, "select count(*) from pgq.delayed_records") == 1
        with pytest.raises(errors.IllegalStateError, match="committed already"):
            consumer.retry(records[0])
    (dead,) = dead_letters(conn, dsn)
    assert (dead.value, failure_history(dead).last_error) == (b"2", "MistakeError: spam")


async def test_failures_are_part_of_a_transaction(
    clients: Clients, conn: Connection, tp: TopicPartition, dsn: str
) -> None:
    fill(conn, tp.topic, 3)
    options: dict[str, Any] = {"group_id": "g", "enable_auto_commit": False, "retry": SOON}
    waiting = "select (select count(*) from pgq.delayed_records) + pgq.high_watermark('orders.g.retry', 0)"
    consumer = clients.consumer(tp.topic, **options)
    client = unwrapped(consumer)

    @contextlib.asynccontextmanager
    async def transaction() -> AsyncIterator[Any]:
        block = client.transaction()
        if client is consumer:
            async with block as connection:
                yield connection
        else:
            with block as connection:
                yield connection

    async with consumer:
        for fails in (True, False):
            records = await read(consumer, 3)
            with contextlib.suppress(MistakeError):
                async with transaction():
                    consumer.retry(records[1])
                    if fails:
                        raise MistakeError
            assert value(conn, waiting) == (0 if fails else 1)
            assert not client._failures
        assert committed(conn) == 3


async def test_failures_on_a_connection_of_ones_own(
    clients_and_application: tuple[Clients, Callable[[], Any]], conn: Connection, tp: TopicPartition
) -> None:
    clients, application = clients_and_application
    fill(conn, tp.topic, 3)
    options: dict[str, Any] = {"group_id": "g", "enable_auto_commit": False, "retry": SOON}
    async with clients.consumer(tp.topic, **options) as consumer, application() as app:
        records = await read(consumer, 3)
        for end in ("rollback", "commit"):
            consumer.dead_letter(records[1], "spam")
            await app.execute("begin")
            await consumer.commit(connection=app.raw)
            await app.execute(end)
            found = value(conn, 'select count(*) from pgq_topic."orders.g.dlq"')
            assert (found, committed(conn)) == ((1, 3) if end == "commit" else (0, None))


async def test_notes_that_are_refused(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 1)
    for options, error in (
        ({}, errors.InvalidGroupIdError),
        ({"group_id": "g"}, errors.IllegalStateError),
    ):
        async with clients.consumer(tp.topic, **options) as consumer:
            (record,) = await read(consumer, 1)
            for note in (consumer.retry, consumer.dead_letter):
                with pytest.raises(error):
                    note(record)
    async with clients.consumer(tp.topic, group_id="h", retry=SOON) as consumer:
        (record,) = await read(consumer, 1)
        with pytest.raises(errors.IllegalStateError, match="not assigned"):
            consumer.retry(record._replace(partition=5))
        with pytest.raises(errors.InvalidRequestError, match="delay_ms"):
            consumer.retry(record, delay_ms=-1)
    with pytest.raises(errors.InvalidGroupIdError):
        clients.consumer(tp.topic, retry=SOON)
    with pytest.raises(errors.InvalidRequestError):
        clients.consumer(tp.topic, group_id="g", retry=3)


async def test_arguments_that_are_refused(clients: Clients, topic: str) -> None:
    consumer = clients.consumer(topic, group_id="g")
    for arguments, options in (((3,), {}), ((print,), {"concurrency": 0}), ((print,), {"retry": 3})):
        with pytest.raises(errors.InvalidRequestError):
            await consumer.run(*arguments, **options)
    if clients.world == "sync":

        async def handler(_record: ConsumerRecord) -> None: ...

        with pytest.raises(errors.InvalidRequestError, match="AsyncConsumer"):
            await consumer.run(handler)
    await consumer.close()
    nobody = clients.consumer(topic)
    with pytest.raises(errors.InvalidGroupIdError):
        await nobody.run(print)
    await nobody.close()


async def test_what_failed_is_read_from_the_beginning_whatever_the_policy(
    clients: Clients, conn: Connection, tp: TopicPartition
) -> None:
    """Two runs, with "latest": records came to the retry topic while nobody was there."""
    gate = Gate()

    def fail(_record: ConsumerRecord) -> None:
        gate.reached.set()
        raise MistakeError

    options: dict[str, Any] = {**QUICK, "auto_offset_reset": "latest"}
    async with working(clients, clients.consumer(tp.topic, **options), fail, retry=SOON):
        await until(lambda: committed(conn) == 0)
        fill(conn, tp.topic, 1)
        await until(gate.reached.is_set)
    conn.execute("select pgq.delete_group_offsets('g', array['orders.g.retry'], array[0])")
    conn.execute("select count(pgq.produce('orders.g.retry', 'by hand'))")
    seen: list[bytes] = []
    async with working(clients, clients.consumer(tp.topic, **options), lambda r: seen.append(r.value), retry=SOON):
        await until(lambda: {b"0", b"by hand"} <= set(seen))


async def test_patterns_do_not_match_retry_topics(clients: Clients, conn: Connection, topic: str) -> None:
    conn.execute("select pgq.create_retry_topics('g', array['orders'])")
    consumer = clients.consumer(group_id="another")
    consumer.subscribe(pattern="orders")
    async with consumer:
        await consumer.getmany(timeout_ms=10)
        assert {tp.topic for tp in consumer.assignment()} == {"orders"}
        assert consumer.subscription() == {"orders"}


# the group


async def test_partitions_change_hands_without_a_loss_or_a_repetition(
    clients: Clients, conn: Connection, wide: str
) -> None:
    for partition in range(6):
        fill(conn, wide, 50, partition)
    seen: list[tuple[int, int]] = []
    joined = threading.Event()

    def work(record: ConsumerRecord) -> None:
        assert len(seen) < 20 or joined.wait(TIME_LIMIT_S)
        seen.append((record.partition, record.offset))

    def member() -> Any:
        return clients.consumer(wide, group_id="g", max_poll_records=20)

    one = member()
    async with working(clients, one, work, concurrency=2, retry=None):
        await until(lambda: len(seen) >= 20)
        other = member()
        async with working(clients, other, work, concurrency=2, retry=None):
            await until(lambda: value(conn, "select count(*) from pgq.group_member") == 2)
            joined.set()
            await until(lambda: len(one.assignment()) == len(other.assignment()) == 3)
            for partition in range(6):
                fill(conn, wide, 10, partition, 50)
            await until(lambda: len(set(seen)) > 150)
        await until(lambda: len(set(seen)) == 360)
    assert len(seen) == 360, "each record once: who gives partitions up ends and commits what has begun"
    assert value(conn, "select sum(\"offset\") from pgq.committed_offsets('g')") == 360


async def test_who_gives_partitions_up_ends_what_has_begun_and_goes_on_with_the_rest(
    clients: Clients, conn: Connection, wide: str
) -> None:
    """Six handlers wait, one a partition. Those of the partitions that go are let go on last."""
    produce = "select pgq.produce('wide', 'x', key => convert_to(p::text, 'utf8'), partition => p)"
    conn.execute(f"{produce} from generate_series(0, 5) p, generate_series(1, 3)")
    gates = [Gate() for _ in range(6)]
    seen: list[tuple[int, int]] = []

    def work(record: ConsumerRecord) -> None:
        gates[record.partition]()
        seen.append((record.partition, record.offset))

    one, other = (clients.consumer(wide, group_id="g") for _ in range(2))
    membership = unwrapped(one)._membership
    async with working(clients, one, work, concurrency=6, retry=None):
        await until(lambda: all(gate.reached.is_set() for gate in gates))
        async with working(clients, other, lambda r: seen.append((r.partition, r.offset)), retry=None):
            await until(lambda: len(membership.target) == 3)
            kept = {tp.partition for tp in membership.target}
            for partition in kept:
                gates[partition].open()
            await until(lambda: {(p, 2) for p in kept} <= set(seen))
            conn.execute(f"{produce} from generate_series(0, 5) p")
            await until(lambda: {(p, 3) for p in kept} <= set(seen))
            assert not other.assignment()
            for partition in sorted(set(range(6)) - kept):
                gates[partition].open()
                await until(lambda partition=partition: TopicPartition(wide, partition) in other.assignment())
            await until(lambda: len(set(seen)) == 24)
    assert [one for one in seen if seen.count(one) > 1] == []


async def test_partitions_that_stay_after_all_are_read_on(clients: Clients, conn: Connection, wide: str) -> None:
    """Another member comes, and goes before what has begun has ended."""
    for partition in range(6):
        fill(conn, wide, 5, partition)
    gate = Gate()
    seen: list[tuple[int, int]] = []

    def work(record: ConsumerRecord) -> None:
        gate()
        seen.append((record.partition, record.offset))

    one, other = (clients.consumer(wide, group_id="g") for _ in range(2))
    runner = unwrapped(one)
    async with working(clients, one, work, concurrency=30, retry=None):
        await until(lambda: one.metrics()["records_in_flight"] == 30)
        async with other:
            await until(lambda: any(track.given_up_at for track in runner._runner._tracks.values()))
        await until(lambda: len(runner._membership.target) == 6)
        gate.open()
        await until(lambda: len(seen) == 30)
        for partition in range(6):
            fill(conn, wide, 1, partition, 5)
        await until(lambda: len(seen) == 36)
    assert len(set(seen)) == 36
    assert value(conn, "select sum(\"offset\") from pgq.committed_offsets('g')") == 36


async def test_signals_are_the_applications_too(dsn: str, topic: str) -> None:
    heard: list[int] = []

    def mine(number: int, _frame: Any) -> None:
        heard.append(number)

    before = signal.signal(signal.SIGTERM, mine)
    try:
        consumer = pgq.AsyncConsumer(topic, dsn=dsn, group_id="g")
        task = asyncio.create_task(consumer.run(lambda _: None))
        await until(lambda: signal.getsignal(signal.SIGTERM) is not mine)
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(task, TIME_LIMIT_S)
        assert heard == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_a_handler_that_is_stuck_loses_its_partitions(
    clients: Clients, conn: Connection, tp: TopicPartition
) -> None:
    fill(conn, tp.topic, 5)
    gate, seen, late = Gate(), [], []

    def stuck(record: ConsumerRecord) -> None:
        gate()
        late.append(record.offset)

    first = clients.consumer(tp.topic, max_poll_interval_ms=700, **QUICK)
    async with working(clients, first, stuck):
        await until(gate.reached.is_set)
        async with working(clients, clients.consumer(tp.topic, **QUICK), lambda r: seen.append(r.offset)):
            await until(lambda: len(seen) == 5)
            assert value(conn, "select count(*) from pgq.group_member") == 1, "it does not join again meanwhile"
            await until(lambda: committed(conn) == 5)
            gate.open()
            await until(lambda: value(conn, "select count(*) from pgq.group_member") == 2)
        fill(conn, tp.topic, 1, 0, 5)
        await until(lambda: 5 in late)
    assert late == [0, 5], "what was not begun is the other's"
    assert committed(conn) == 6


async def test_a_lost_session_costs_nothing_but_repetitions(
    clients: Clients, conn: Connection, wide: str, terminate: Callable[[int], None]
) -> None:
    for partition in range(6):
        fill(conn, wide, 50, partition)
    seen: list[tuple[int, int]] = []
    ended = {50: threading.Event(), 150: threading.Event()}

    def work(record: ConsumerRecord) -> None:
        for count, event in ended.items():
            assert len(seen) < count or event.wait(TIME_LIMIT_S)
        seen.append((record.partition, record.offset))

    async with working(clients, clients.consumer(wide, **QUICK), work, concurrency=2, retry=None):
        for count, event in ended.items():
            await until(lambda count=count: len(seen) >= count)
            terminate(value(conn, "select pid from pgq.group_member"))
            event.set()
        await until(lambda: len(set(seen)) == 300)
        await until(lambda: value(conn, "select sum(\"offset\") from pgq.committed_offsets('g')") == 300)


@pytest.mark.parametrize("kills", [False, True])
async def test_every_record_has_an_end_whatever_happens(
    clients: Clients, conn: Connection, dsn: str, wide: str, watcher: Connection, kills: bool
) -> None:
    """Handlers fail at random, members come and go, sessions end: each record is processed, or a dead letter; without
    sessions that end exactly once.
    """
    count = 600
    chance = random.Random(7)
    conn.execute(
        "select pgq.produce('wide', convert_to(i::text, 'utf8'), key => convert_to((i %% 40)::text, 'utf8'))"
        " from generate_series(1, %s) i",
        [count],
    )
    done: list[bytes] = []

    def work(record: ConsumerRecord) -> None:
        if chance.random() < 0.3:
            raise MistakeError
        done.append(record.value)

    def ended() -> set[int]:
        dead = rows(conn, 'select value_bytes from pgq_topic."wide.g.dlq"')
        return {int(number) for number in done} | {int(number) for (number,) in dead}

    def member() -> Any:
        return clients.consumer(wide, group_id="g", max_poll_records=20, auto_commit_interval_ms=20)

    policy = RetryPolicy(max_attempts=3, initial=0.02, jitter=0.5)
    options: dict[str, Any] = {"retry": policy, "concurrency": 3}
    async with working(clients, member(), work, **options) as first:
        for _ in range(4):
            before = len(done)
            async with working(clients, member(), work, **options):
                await until(lambda before=before: len(done) > before + 20 or len(done) > count * 0.8)
                if kills:
                    watcher.execute("select pg_terminate_backend(pid) from pgq.group_member order by random() limit 1")
                await until(lambda: len(first.consumer.assignment()) > 0)
        await until(lambda: ended() == set(range(1, count + 1)))
    everything = done + [record.value for record in dead_letters(conn, dsn, wide)]
    assert {int(number) for number in everything} == set(range(1, count + 1))
    assert kills or len(everything) == count
    assert kills or value(conn, "select count(*) from pgq.delayed_records") == 0


async def test_a_server_that_is_away_is_waited_for(
    clients: Clients, conn: Connection, topic: str, proxy: Proxy, dsn: str
) -> None:
    seen: list[int] = []
    through = make_conninfo(proxy.dsn(dsn), connect_timeout=1)
    consumer = clients.consumer(topic, dsn=through, session_timeout_ms=1000, **QUICK)
    async with working(clients, consumer, lambda record: seen.append(record.offset), retry=None):
        fill(conn, topic, 2)
        await until(lambda: len(seen) == 2)
        session = unwrapped(consumer)._raw_connection
        proxy.open.clear()
        fill(conn, topic, 2, 0, 2)
        await until(lambda: session.closed)  # given up: no answer came
        proxy.open.set()
        await until(lambda: set(seen) == {0, 1, 2, 3})


async def test_assigned_partitions_can_be_run_as_well(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 5)
    seen: list[int] = []
    consumer = clients.consumer(**QUICK, retry=SOON)
    await consumer.assign([tp])
    with pytest.raises(errors.IllegalStateError, match=r"orders\.g\.retry, of which no partition is assigned"):
        await consumer.run(print)
    async with working(clients, consumer, lambda record: seen.append(record.offset), retry=RetryPolicy(blocking=True)):
        await until(lambda: committed(conn) == 5)
    assert seen == list(range(5))


async def test_assigned_partitions_with_those_of_the_retry_topics(
    clients: Clients, conn: Connection, dsn: str, tp: TopicPartition
) -> None:
    fill(conn, tp.topic, 1)
    conn.execute("select pgq.create_retry_topics('g', array['orders'])")
    seen: list[str] = []

    def work(record: ConsumerRecord) -> None:
        seen.append(record.topic)
        raise MistakeError

    consumer = clients.consumer(**QUICK)
    await consumer.assign([tp, TopicPartition("orders.g.retry", 0)])
    async with working(clients, consumer, work, retry=SOON):
        await until(lambda: rows(conn, 'select from pgq_topic."orders.g.dlq"') != [])
    assert seen == ["orders", "orders.g.retry", "orders.g.retry"]
    assert len(dead_letters(conn, dsn)) == 1


# notes that are stored once, and not lost


def moved(conn: Connection, topic: str = "orders") -> int:
    return value(conn, f'select count(*) from pgq_topic."{topic}.g.dlq"')


async def test_a_note_goes_with_the_transaction_that_takes_place(
    clients_and_application: tuple[Clients, Callable[[], Any]], conn: Connection, tp: TopicPartition
) -> None:
    """The application rolls back, and begins its block again: the note is still there. Then it is stored once."""
    clients, application = clients_and_application
    fill(conn, tp.topic, 3)
    options: dict[str, Any] = {"group_id": "g", "enable_auto_commit": False, "retry": SOON}
    async with clients.consumer(tp.topic, **options) as consumer, application() as app:
        records = await read(consumer, 3)
        consumer.dead_letter(records[1], "spam")
        for end, count in (("rollback", 0), ("commit", 1), ("commit", 1)):
            await app.execute("begin")
            await consumer.commit(connection=app.raw)
            await app.execute(end)
            assert moved(conn) == count
        assert not unwrapped(consumer)._failures, "it is known by now"
        await consumer.commit()
        assert (moved(conn), committed(conn)) == (1, 3)


async def test_two_commits_in_one_transaction_of_the_applications(
    clients_and_application: tuple[Clients, Callable[[], Any]], conn: Connection, tp: TopicPartition
) -> None:
    clients, application = clients_and_application
    fill(conn, tp.topic, 3)
    options: dict[str, Any] = {"group_id": "g", "enable_auto_commit": False, "retry": SOON}
    async with clients.consumer(tp.topic, **options) as consumer, application() as app:
        records = await read(consumer, 3)
        await app.execute("begin")
        for number in (0, 2):
            consumer.dead_letter(records[number])
            await consumer.commit({tp: number + 1}, connection=app.raw)
        await app.execute("commit")
        await consumer.commit()
    assert moved(conn) == 2


async def test_a_commit_whose_answer_is_lost_stores_once(
    clients: Clients, conn: Connection, tp: TopicPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(conn, tp.topic, 3)
    options: dict[str, Any] = {"group_id": "g", "enable_auto_commit": False, "retry": SOON}
    async with clients.consumer(tp.topic, **options) as consumer:
        client = unwrapped(consumer)
        records = await read(consumer, 3)
        consumer.dead_letter(records[1])
        fetch = client._fetch
        if clients.world == "async":

            async def lose(statement: str, *args: Any) -> Any:
                await fetch(statement, *args)
                raise errors.BrokerNotAvailableError("the answer was lost")
        else:

            def lose(statement: str, *args: Any) -> Any:
                fetch(statement, *args)
                raise errors.BrokerNotAvailableError("the answer was lost")

        with monkeypatch.context() as patch:
            patch.setattr(client, "_fetch", lose)
            with pytest.raises(errors.BrokerNotAvailableError):
                await consumer.commit()
        assert (moved(conn), committed(conn)) == (1, 3)
        await consumer.commit()
        assert moved(conn) == 1
        assert not client._failures


async def test_what_fails_in_a_replay_is_noted_as_well(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 3)
    options: dict[str, Any] = {"group_id": "g", "enable_auto_commit": False, "retry": SOON}
    async with clients.consumer(tp.topic, **options) as consumer:
        await read(consumer, 3)
        await consumer.commit()
        await consumer.seek(tp, 0)
        records = await read(consumer, 3)
        consumer.dead_letter(records[1])
        await consumer.commit()
        assert (moved(conn), committed(conn)) == (1, 3), "although the offset was committed before"
        await consumer.commit()
        assert moved(conn) == 1


async def test_repeatable_read_by_default(clients: Clients, conn: Connection, dsn: str, tp: TopicPartition) -> None:
    """A snapshot taken before a record came would not have it to copy."""
    conn.execute(
        f"alter database {value(conn, 'select quote_ident(current_database())')}"
        " set default_transaction_isolation = 'repeatable read'"
    )
    options: dict[str, Any] = {"group_id": "g", "enable_auto_commit": False, "retry": SOON}
    async with clients.consumer(tp.topic, **options) as consumer:
        client = unwrapped(consumer)
        fill(conn, tp.topic, 2)
        records = await read(consumer, 1)
        if client is consumer:
            async with client.transaction() as connection:
                assert await connection.fetchval("show transaction_isolation") == "read committed"
                consumer.dead_letter(records[0])
        else:
            with client.transaction() as connection:
                assert connection.execute("show transaction_isolation").fetchone() == ("read committed",)
                consumer.dead_letter(records[0])
    assert moved(conn) == 1


async def test_what_was_removed_meanwhile_cannot_be_moved(
    clients: Clients, conn: Connection, tp: TopicPartition, caplog: pytest.LogCaptureFixture
) -> None:
    fill(conn, tp.topic, 2)
    options: dict[str, Any] = {"group_id": "g", "enable_auto_commit": False, "retry": SOON}
    async with clients.consumer(tp.topic, **options) as consumer:
        for record in await read(consumer, 2):
            consumer.dead_letter(record)
        conn.execute('delete from pgq_log.t1 where "offset" = 0')
        await consumer.commit()
    assert moved(conn) == 1
    assert "1 of 2 records that failed were not moved" in caplog.text


def test_a_large_commit_is_divided() -> None:
    one, two = TopicPartition("a", 0), TopicPartition("a", 1)
    given = {
        one: OffsetAndMetadata(2000, "m"),
        two: OffsetAndMetadata(10),
        TopicPartition("b", 0): OffsetAndMetadata(3),
    }
    now = time.monotonic()

    def note(delay_ms: int | None) -> Failure:
        return Failure(delay_ms, None, 1, now, replayed=False)

    notes = [(one, offset, note(None)) for offset in range(600)] + [(two, 4, note(1000))]
    parts = list(in_parts(given, notes))
    assert [(offsets, len(part)) for offsets, part in parts] == [
        ({one: OffsetAndMetadata(500, "m")}, 500),
        (given, 101),
    ]
    notes = [(one, hour, note(hour * 3_600_000)) for hour in range(120)]
    parts = list(in_parts({one: OffsetAndMetadata(120)}, notes))
    assert [(offsets[one].offset, len(part)) for offsets, part in parts] == [(50, 50), (100, 50), (120, 20)]
    notes = [(one, n, note(None)) for n in range(500)] + [(two, 0, note(None))]
    parts = list(in_parts(given, notes))
    assert parts[0][0] == {one: given[one]}
    assert [offsets.keys() & {two} for offsets, _ in parts] == [set(), {two}]


# what is held in memory


async def test_failures_behind_an_undone_record_take_room(
    clients: Clients, conn: Connection, tp: TopicPartition
) -> None:
    fill(conn, tp.topic, 400)
    gate, seen = Gate(), []

    def work(record: ConsumerRecord) -> None:
        if record.offset == 0:
            gate()
        else:
            seen.append(record.offset)
            raise Reject

    consumer = clients.consumer(tp.topic, max_poll_records=40, **QUICK)
    async with working(clients, consumer, work, concurrency=2):
        await until(lambda: len(seen) >= 39)
        assert not (await asyncio.wait([asyncio.create_task(until(lambda: len(seen) > 80))], timeout=0.5))[0]
        gate.open()
        await until(lambda: committed(conn) == 400)
    assert sorted(seen) == list(range(1, 400))
    assert moved(conn) == 399


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_blocked_partition_leaves_room_for_others(
    clients: Clients, conn: Connection, wide: str, concurrency: int
) -> None:
    for partition in (0, 1):
        fill(conn, wide, 200, partition)
    seen: dict[int, list[int]] = {0: [], 1: []}

    def work(record: ConsumerRecord) -> None:
        if record.partition == 0 and record.offset == 3 and len(seen[1]) < 200:
            raise MistakeError
        seen[record.partition].append(record.offset)

    policy = RetryPolicy(max_attempts=100_000, initial=0.02, multiplier=1, blocking=True)
    consumer = clients.consumer(wide, max_poll_records=20, **QUICK)
    async with working(clients, consumer, work, retry=policy, concurrency=concurrency):
        await until(lambda: len(seen[1]) == 200)
        await until(lambda: committed(conn, wide, 0) == 200)
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(200)), "each once"
    if concurrency == 1:
        assert seen[0] == list(range(200))


async def test_what_is_appended_to_a_blocked_partition_is_not_looked_at_all_the_time(
    clients: Clients, conn: Connection, wide: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(conn, wide, 1)
    failed = threading.Event()

    def work(_record: ConsumerRecord) -> None:
        failed.set()
        raise MistakeError

    consumer = clients.consumer(wide, group_id="g")
    client = unwrapped(consumer)
    fetch, count = client._fetch, 0

    def counted(statement: str, *args: Any) -> Any:
        nonlocal count
        count += 1
        return fetch(statement, *args)

    monkeypatch.setattr(client, "_fetch", counted)
    async with working(clients, consumer, work, retry=RetryPolicy(initial=60, blocking=True)):
        await until(failed.is_set)
        before, started = count, time.monotonic()
        while time.monotonic() - started < 1.5:
            await asyncio.to_thread(fill, conn, wide, 1)
        assert (count - before) / (time.monotonic() - started) < 120


# handlers that do nothing, or odd things


async def test_handlers_that_do_nothing(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 1)

    def generates(_record: ConsumerRecord) -> Iterator[None]:
        yield

    async def generates_too(_record: ConsumerRecord) -> AsyncIterator[None]:
        yield

    class Generates:
        def __call__(self, _record: ConsumerRecord) -> Iterator[None]:
            yield

    async def nothing(_record: ConsumerRecord) -> None: ...

    consumer = clients.consumer(tp.topic, **QUICK)
    for handler in (generates, generates_too, Generates()):
        with pytest.raises(errors.InvalidRequestError, match="generator function"):
            await consumer.run(handler)
    await consumer.close()
    hidden: list[Work] = [lambda record: generates(record), lambda record: generates_too(record)]
    if clients.world == "sync":
        hidden.append(lambda record: nothing(record))
    for handler in hidden:
        with pytest.raises(errors.InvalidRequestError, match="returned"):
            await asyncio.wait_for(clients.consumer(tp.topic, **QUICK).run(handler), TIME_LIMIT_S)
        assert committed(conn) in (None, 0)


async def test_what_run_decides_alone(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 1)
    gate = Gate()
    consumer = clients.consumer(tp.topic, **QUICK)

    async def called(name: str, *arguments: Any) -> None:
        result = getattr(consumer, name)(*arguments)
        if asyncio.iscoroutine(result):
            await result

    async with working(clients, consumer, gate):
        await until(gate.reached.is_set)
        for name, *arguments in (
            ("seek", tp, 0),
            ("seek_to_beginning",),
            ("seek_to_end",),
            ("seek_to_committed",),
            ("assign", [tp]),
            ("getmany",),
            ("getone",),
            ("__anext__",),
            ("subscribe", ["other"]),
            ("unsubscribe",),
            ("pause", tp),
            ("resume", tp),
        ):
            with pytest.raises(errors.IllegalStateError, match=r"while run\(\) is at work"):
                await called(name, *arguments)
        assert await consumer.position(tp) == 1
        gate.open()
        await until(lambda: committed(conn) == 1)


async def test_values_that_cannot_be_decompressed_have_failed(
    clients: Clients, conn: Connection, dsn: str, tp: TopicPartition
) -> None:
    with pgq.Producer(dsn=dsn, compression_type="gzip") as producer:
        for count in (10, 100_000, 10):
            producer.send(tp.topic, b"x" * count).result(TIME_LIMIT_S)
    seen: list[int] = []
    options: dict[str, Any] = {**QUICK, "max_decompressed_bytes": 1000, "value_deserializer": "str"}
    consumer = clients.consumer(tp.topic, **options)
    async with working(clients, consumer, lambda r: seen.append(r.offset), retry=RetryPolicy(max_attempts=1)):
        await until(lambda: committed(conn) == 3)
    assert seen == [0, 2]
    (dead,) = rows(conn, "select last_error from pgq.dead_letters()")
    assert dead[0].startswith("CorruptRecordError")


async def test_an_exception_that_cannot_be_printed(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    fill(conn, tp.topic, 2)

    def work(_record: ConsumerRecord) -> None:
        raise MuteError

    async with working(clients, clients.consumer(tp.topic, **QUICK), work, retry=RetryPolicy(max_attempts=1)):
        await until(lambda: committed(conn) == 2)
    assert rows(conn, "select distinct last_error from pgq.dead_letters()") == [("MuteError",)]


async def test_headers_of_the_applications_do_not_count(
    clients: Clients, conn: Connection, dsn: str, tp: TopicPartition
) -> None:
    """Copied from a dead letter, with one that is no number."""
    headers = [("pgq.group", b"g"), ("pgq.origin.topic", b"orders"), ("pgq.attempt", b"3"), ("pgq.redriven", b"x")]
    with pgq.Producer(dsn=dsn) as producer:
        producer.send(tp.topic, b"a", headers=headers).result(TIME_LIMIT_S)
    seen: list[str] = []

    def work(record: ConsumerRecord) -> None:
        seen.append(record.topic)
        raise MistakeError

    async with working(clients, clients.consumer(tp.topic, **QUICK), work, retry=SOON):
        await until(lambda: rows(conn, "select from pgq.dead_letters()") != [])
    assert seen == ["orders", "orders.g.retry", "orders.g.retry"]


async def test_dead_letters_can_be_worked_on_like_any_topic(
    clients: Clients, conn: Connection, tp: TopicPartition
) -> None:
    fill(conn, tp.topic, 2)
    conn.execute("select pgq.create_retry_topics('billing', array['orders'])")
    conn.execute("select pgq.fail_records('billing', '{orders,orders}', '{0,0}', '{0,1}', '{null,null}', '{e,e}')")
    letters = "orders.billing.dlq"
    seen: list[tuple[str, bytes]] = []

    def work(record: ConsumerRecord) -> None:
        seen.append((record.topic, record.value))
        if record.value == b"0":
            raise MistakeError

    async with working(clients, clients.consumer(letters, **QUICK), work, retry=SOON):
        await until(lambda: rows(conn, "select from pgq.dead_letters() where group_id = 'g'") != [])
    retried = f"{letters}.g.retry"
    assert [topic for topic, v in seen if v == b"0"] == [letters, retried, retried]
    assert committed(conn, letters) == 2


async def test_names_that_are_too_long_for_retry_topics(
    clients: Clients, conn: Connection, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    long = "orders" + "x" * 240
    conn.execute("select pgq.create_topic(%s)", [long])
    fill(conn, topic, 1)
    seen: list[str] = []
    consumer = clients.consumer(metadata_max_age_ms=50, **QUICK)
    consumer.subscribe(pattern="orders")
    async with working(clients, consumer, lambda record: seen.append(record.topic), retry=SOON):
        await until(lambda: committed(conn) == 1)
        assert {tp.topic for tp in consumer.assignment()} == {"orders", "orders.g.retry"}
    assert caplog.text.count(f"does not read {long}") == 1
    named = clients.consumer(topic, group_id="g/h")
    with pytest.raises(errors.InvalidGroupIdError, match="retry=None"):
        await asyncio.wait_for(named.run(print), TIME_LIMIT_S)


async def test_delivery_that_fails_does_not_keep_from_reading(
    clients: Clients,
    conn: Connection,
    tp: TopicPartition,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    consumer = clients.consumer(tp.topic, **QUICK)
    client = unwrapped(consumer)
    fetch, tries, seen = client._due._fetch, [], []

    def failing(statement: str, *args: Any) -> Any:
        if statement == statements.DELIVER_DUE:
            tries.append(time.monotonic())
            raise errors.DatabaseError("a table is broken")
        return fetch(statement, *args)

    monkeypatch.setattr(client._due, "_fetch", failing)
    async with working(clients, consumer, lambda record: seen.append(record.offset)):
        await until(lambda: len(tries) == 1)
        fill(conn, tp.topic, 3)
        conn.execute("select pgq.produce_delayed('orders', 'x', clock_timestamp())")
        await until(lambda: seen == [0, 1, 2])
        await until(lambda: len(tries) == 3)
    assert tries[1] - tries[0] >= 1
    assert tries[2] - tries[1] >= 2
    assert caplog.text.count("delayed records cannot be delivered") == 1


# the end, with several at a time


async def test_stop_leaves_nothing_that_is_done_uncommitted(
    clients: Clients, conn: Connection, tp: TopicPartition
) -> None:
    """Offset 1 waits for 0, of the same key, while all others are done."""
    conn.execute("select pgq.produce('orders', 'x', key => 'a') from generate_series(0, 1)")
    conn.execute("select pgq.produce('orders', 'x', key => 'b') from generate_series(2, 30)")
    gate, seen = Gate(), []

    def work(record: ConsumerRecord) -> None:
        if record.offset == 0:
            gate()
        seen.append(record.offset)

    worker = Working(clients, clients.consumer(tp.topic, group_id="g"), work, concurrency=2)
    await until(lambda: len(seen) == 29)
    worker.consumer.stop()
    gate.open()
    await asyncio.wait_for(worker.task, TIME_LIMIT_S)
    assert (sorted(seen), committed(conn)) == (list(range(31)), 31)


async def test_partitions_change_hands_with_all_that_is_done(clients: Clients, conn: Connection, wide: str) -> None:
    for partition in range(6):
        conn.execute(
            "select pgq.produce('wide', 'x', key => case when i < 2 then 'a' else 'b' end::bytea, partition => %s)"
            " from generate_series(0, 20) i",
            [partition],
        )
    gate = Gate()
    seen: list[tuple[int, int]] = []

    def work(record: ConsumerRecord) -> None:
        if record.offset == 0:
            gate()
        seen.append((record.partition, record.offset))

    one, other = (clients.consumer(wide, group_id="g") for _ in range(2))
    async with working(clients, one, work, concurrency=8, retry=None):
        await until(lambda: len(seen) == 6 * 19)
        async with working(clients, other, work, concurrency=8, retry=None):
            await until(lambda: len(unwrapped(one)._membership.target) == 3)
            gate.open()
            await until(lambda: len(other.assignment()) == 3)
    assert len(seen) == len(set(seen)) == 6 * 21


async def test_a_task_of_the_handlers_own_that_is_cancelled(dsn: str, conn: Connection, topic: str) -> None:
    fill(conn, topic, 2)

    async def handler(record: ConsumerRecord) -> None:
        if record.offset == 0:
            task = asyncio.create_task(asyncio.sleep(60))
            task.cancel()
            await task

    consumer = pgq.AsyncConsumer(topic, dsn=dsn, auto_offset_reset="earliest", **QUICK)  # type: ignore[arg-type]
    task = asyncio.create_task(consumer.run(handler, retry=RetryPolicy(max_attempts=1)))
    await until(lambda: committed(conn) == 2)
    consumer.stop()
    await asyncio.wait_for(task, TIME_LIMIT_S)
    assert rows(conn, "select last_error from pgq.dead_letters()") == [("CancelledError",)]


async def test_an_interrupt_within_a_handler_is_raised_once(
    clients: Clients, conn: Connection, tp: TopicPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    if clients.world == "async":
        pytest.skip("the event loop raises it itself")
    fill(conn, tp.topic, 1)
    printed: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", printed.append)

    def work(_record: ConsumerRecord) -> None:
        raise SystemExit(3)

    consumer = unwrapped(clients.consumer(tp.topic, **QUICK))
    with pytest.raises(SystemExit):
        consumer.run(work)
    assert not printed
    assert committed(conn) in (None, 0)


async def test_a_signal_that_is_ignored_stays_so(dsn: str, topic: str) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        consumer = pgq.AsyncConsumer(topic, dsn=dsn, group_id="g")
        task = asyncio.create_task(consumer.run(lambda _: None))
        await until(lambda: signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(task, TIME_LIMIT_S)
    finally:
        signal.signal(signal.SIGINT, before)
