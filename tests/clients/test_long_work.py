"""`run` with a handler that takes longer than max_poll_interval_ms: what it does counts, nothing is tried for ever."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from pgq import ConsumerRecord, RetryPolicy, TopicPartition, failure_history
from tests.clients.conftest import Clients, until
from tests.clients.test_groups import fill
from tests.clients.test_worker import QUICK, Gate, MistakeError, committed, dead_letters, working
from tests.plugins.sessions import TIME_LIMIT_S, Connection, value

POLL = {"max_poll_interval_ms": 300, **QUICK}


def members(conn: Connection) -> int:
    return value(conn, "select count(*) from pgq.group_member")


class Stuck:
    """A handler that takes, at its first records, until the member has left its group."""

    def __init__(self, *, fails: bool, times: int = 1000) -> None:
        self.seen: list[tuple[str, int]] = []
        self.gates = [Gate() for _ in range(times)]
        self.fails = fails
        self._lock = threading.Lock()

    def __call__(self, record: ConsumerRecord) -> None:
        with self._lock:
            number = len(self.seen)
            self.seen.append((record.topic, record.offset))
        if number < len(self.gates):
            self.gates[number]()
        if self.fails:
            raise MistakeError("in vain")

    async def let_go(self, conn: Connection, number: int) -> None:
        """Let a call come back when the member has left."""
        await until(self.gates[number].reached.is_set)
        await until(lambda: members(conn) == 0)
        self.gates[number].open()


@pytest.mark.parametrize("blocking", [False, True])
async def test_what_succeeds_late_counts(
    clients: Clients, conn: Connection, tp: TopicPartition, blocking: bool
) -> None:
    fill(conn, tp.topic, 3)
    work = Stuck(fails=False)
    policy = RetryPolicy(max_attempts=2, initial=0.05, blocking=blocking)
    async with working(clients, clients.consumer(tp.topic, **POLL), work, retry=policy):
        for number in range(3):
            await work.let_go(conn, number)
            await until(lambda number=number: committed(conn) == number + 1)
        await until(lambda: members(conn) == 1)
    assert work.seen == [("orders", 0), ("orders", 1), ("orders", 2)]


@pytest.mark.parametrize("blocking", [False, True])
async def test_what_fails_late_becomes_a_dead_letter(
    clients: Clients, conn: Connection, dsn: str, tp: TopicPartition, blocking: bool
) -> None:
    fill(conn, tp.topic, 1)
    work = Stuck(fails=True)
    policy = RetryPolicy(max_attempts=3, initial=0.05, multiplier=1, jitter=0, blocking=blocking)
    async with working(clients, clients.consumer(tp.topic, **POLL), work, retry=policy):
        for number in range(3):
            await work.let_go(conn, number)
        await until(lambda: value(conn, "select count(*) from pgq.dead_letters()") == 1)
    topics = ["orders"] * 3 if blocking else ["orders", "orders.g.retry", "orders.g.retry"]
    assert [topic for topic, _ in work.seen] == topics
    (dead,) = dead_letters(conn, dsn)
    history = failure_history(dead)
    assert history is not None
    assert (history.attempt, history.last_error) == (3, "MistakeError: in vain")


async def test_stopping_commits_what_ended_after_leaving(
    clients: Clients, conn: Connection, tp: TopicPartition
) -> None:
    fill(conn, tp.topic, 2)
    work = Stuck(fails=False)
    async with working(clients, clients.consumer(tp.topic, **POLL), work) as worker:
        await until(work.gates[0].reached.is_set)
        await until(lambda: members(conn) == 0)
        worker.consumer.stop()
        work.gates[0].open()
    assert committed(conn) == 1
    assert work.seen == [("orders", 0)]


@pytest.mark.parametrize("blocking", [False, True])
async def test_an_attempt_counts_when_others_had_the_partition(
    clients: Clients, conn: Connection, dsn: str, tp: TopicPartition, blocking: bool
) -> None:
    fill(conn, tp.topic, 1)
    work = Stuck(fails=True, times=1)
    policy = RetryPolicy(max_attempts=2, initial=0.05, blocking=blocking)
    async with working(clients, clients.consumer(tp.topic, **POLL), work, retry=policy):
        await until(work.gates[0].reached.is_set)
        await until(lambda: members(conn) == 0)
        other = clients.consumer(tp.topic, group_id="g", enable_auto_commit=False, retry=None if blocking else policy)
        assert (await other.getmany(timeout_ms=TIME_LIMIT_S * 1000))[tp][0].offset == 0
        work.gates[0].open()
        await until(lambda: members(conn) == 2)
        await other.close()
        await until(lambda: value(conn, "select count(*) from pgq.dead_letters()") == 1)
    assert work.seen == [("orders", 0), ("orders", 0)]
    (dead,) = dead_letters(conn, dsn)
    history = failure_history(dead)
    assert history is not None
    assert history.attempt == 2


async def test_the_last_attempt_was_made_before_the_partition_was_lost(
    clients: Clients, conn: Connection, dsn: str, tp: TopicPartition
) -> None:
    fill(conn, tp.topic, 1)
    work = Stuck(fails=True, times=1)
    policy = RetryPolicy(max_attempts=1)
    async with working(clients, clients.consumer(tp.topic, **POLL), work, retry=policy):
        await until(work.gates[0].reached.is_set)
        await until(lambda: members(conn) == 0)
        other = clients.consumer(tp.topic, group_id="g", enable_auto_commit=False, retry=policy)
        assert (await other.getmany(timeout_ms=TIME_LIMIT_S * 1000))[tp][0].offset == 0
        work.gates[0].open()
        await until(lambda: members(conn) == 2)
        await other.close()
        await until(lambda: value(conn, "select count(*) from pgq.dead_letters()") == 1)
    assert work.seen == [("orders", 0)], "no attempt more than the policy has"
    (dead,) = dead_letters(conn, dsn)
    history = failure_history(dead)
    assert history is not None
    assert (history.attempt, history.last_error) == (1, "MistakeError: in vain")


@pytest.mark.parametrize("fails", [False, True])
async def test_a_record_is_not_begun_again_while_a_handler_is_at_it(
    clients: Clients, conn: Connection, tp: TopicPartition, fails: bool
) -> None:
    fill(conn, tp.topic, 2)
    work = Stuck(fails=fails, times=2)
    policy = RetryPolicy(max_attempts=1)
    async with working(clients, clients.consumer(tp.topic, **POLL), work, retry=policy, concurrency=2):
        await until(work.gates[1].reached.is_set)
        late = work.seen.index(("orders", 1))
        await work.let_go(conn, 1 - late)
        await until(lambda: committed(conn) == 1)
        await until(lambda: members(conn) == 1)
        fill(conn, tp.topic, 1, 0, 2)
        await until(lambda: len(work.seen) == 3)
        assert work.seen[2] == ("orders", 2), "record 1 has its handler"
        work.gates[late].open()
        await until(lambda: committed(conn) == 3)
    assert sorted(work.seen) == [("orders", 0), ("orders", 1), ("orders", 2)]
    assert value(conn, "select count(*) from pgq.dead_letters()") == (3 if fails else 0)


async def test_offsets_that_are_set_back_meanwhile_count(
    clients: Clients, conn: Connection, tp: TopicPartition
) -> None:
    fill(conn, tp.topic, 3)
    seen: list[int] = []
    gate = Gate()

    def work(record: ConsumerRecord) -> None:
        seen.append(record.offset)
        if len(seen) == 3:
            gate()

    async with working(clients, clients.consumer(tp.topic, **POLL), work):
        await until(gate.reached.is_set)
        await until(lambda: members(conn) == 0 and committed(conn) == 2)
        conn.execute("select pgq.alter_group_offsets('g', '{orders}', '{0}', '{0}')")
        gate.open()
        await until(lambda: committed(conn) == 3)
    assert seen == [0, 1, 2, 0, 1, 2]


async def test_what_the_log_says(
    clients: Clients, conn: Connection, tp: TopicPartition, caplog: pytest.LogCaptureFixture
) -> None:
    fill(conn, tp.topic, 1)
    gate = Gate()

    def work(_record: ConsumerRecord) -> None:
        gate()
        raise MistakeError("two\nlines,\x1b[31m and  red")

    policy = RetryPolicy(max_attempts=2, initial=0.05, blocking=True)
    with caplog.at_level(logging.WARNING, "pgq"):
        async with working(clients, clients.consumer(tp.topic, **POLL), work, retry=policy):
            await until(gate.reached.is_set)
            await until(lambda: members(conn) == 0)
            gate.open()
            await until(lambda: value(conn, "select count(*) from pgq.dead_letters()") == 1)
    first, last = (record for record in caplog.records if "failed, attempt" in record.message)
    assert first.message.endswith("attempt 1: MistakeError: two lines, [31m and red: again when it is read again")
    assert last.message.endswith("attempt 2: MistakeError: two lines, [31m and red: dead letter")
    assert first.exc_info is None
    assert last.exc_info is not None
    assert last.exc_info[0] is MistakeError, "where it was raised is to be found"


async def test_tracebacks_of_all_attempts_at_debug(
    clients: Clients, conn: Connection, tp: TopicPartition, caplog: pytest.LogCaptureFixture
) -> None:
    fill(conn, tp.topic, 1)

    def work(_record: ConsumerRecord) -> None:
        raise MistakeError

    with caplog.at_level(logging.DEBUG, "pgq"):
        async with working(
            clients, clients.consumer(tp.topic, **QUICK), work, retry=RetryPolicy(max_attempts=2, initial=0.01)
        ):
            await until(lambda: value(conn, "select count(*) from pgq.dead_letters()") == 1)
    failed = [record for record in caplog.records if "failed, attempt" in record.message]
    assert [record.exc_info is not None for record in failed] == [True, True]


async def test_in_place_it_waits_as_the_policy_says(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 2)
    work = Stuck(fails=True, times=1)
    times: list[float] = []

    def timed(record: ConsumerRecord) -> None:
        times.append(time.monotonic())
        try:
            work(record)
        finally:
            times.append(time.monotonic())

    policy = RetryPolicy(max_attempts=2, initial=1, jitter=0, blocking=True)
    async with working(clients, clients.consumer(tp.topic, **POLL), timed, retry=policy):
        await work.let_go(conn, 0)
        await until(lambda: value(conn, "select count(*) from pgq.dead_letters()") == 1)
    assert work.seen[:2] == [("orders", 0), ("orders", 0)]
    assert times[2] - times[1] >= 1
