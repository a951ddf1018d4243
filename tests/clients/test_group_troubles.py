"""What goes wrong in the middle of a group's calls: nothing is lost or taken for done, nobody waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import pgq
from pgq import AsyncConsumer, ConsumerRebalanceListener, TopicPartition, errors
from pgq.core import statements
from tests.plugins.sessions import Connection, eventually, rows, value

from .conftest import Clients, read, until
from .test_groups import MistakeError, fill, polling, settled

OPTIONS: dict[str, Any] = {"group_id": "g", "auto_offset_reset": "earliest"}


@pytest.fixture
def wide(conn: Connection) -> str:
    conn.execute("select pgq.create_topic('wide', 6)")
    return "wide"


def end_sessions(conn: Connection) -> None:
    conn.execute("select pg_terminate_backend(pid) from pgq.group_member")
    eventually(lambda: value(conn, "select count(*) from pgq._group_locks()") == 0)


def committed(conn: Connection) -> dict[int, int]:
    return dict(rows(conn, "select partition, \"offset\" from pgq.committed_offsets('g')"))


class Interference:
    """Comes between a consumer and one of its statements, once."""

    def __init__(self, consumer: AsyncConsumer, statement: str, action: Callable[[], Any], *, after: bool) -> None:
        self._run = consumer._run
        self._statement = statement
        self._action = action
        self._after = after
        self.done = False
        consumer._run = self.run  # type: ignore[method-assign]
        assert consumer._membership is not None
        consumer._membership._run = self.run

    async def run(self, session: Any, statement: str, *args: Any) -> Any:
        mine = statement == self._statement and not self.done
        if mine and not self._after:
            await self._act()
        found = await self._run(session, statement, *args)
        if mine and self._after:
            await self._act()
        return found

    async def _act(self) -> None:
        self.done = True
        self._action()
        await asyncio.sleep(0)


def cancel() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "name", ["JOIN_GROUP", "GROUP_ASSIGNMENT", "CLAIM_PARTITIONS", "KEEP_PARTITIONS", "CHANGE_SUBSCRIPTION", "PARK"]
)
async def test_a_call_that_is_cancelled_leaves_nothing_stuck(
    dsn: str, conn: Connection, wide: str, name: str, *, after: bool
) -> None:
    """Two members, of which one joins, gives up half, and changes its topics; then each partition is read by one."""
    conn.execute("select pgq.create_topic('other')")
    one, two = (AsyncConsumer(wide, dsn=dsn, **OPTIONS) for _ in range(2))
    found = Interference(one, getattr(statements, name), cancel, after=after)

    async def polled(consumer: AsyncConsumer) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.create_task(consumer.getmany(timeout_ms=100))

    for _ in range(3):
        await polled(one)
    await two.start()
    for _ in range(3):
        await polled(one)
    one.subscribe([wide, "other"])
    for _ in range(3):
        await polled(one)
    assert found.done
    async with polling(one, two) as pollers:
        await until(lambda: len(one.assignment()) + len(two.assignment()) == 7)
        for partition in range(6):
            fill(conn, wide, 1, partition)
        fill(conn, "other", 1)
        await until(lambda: sum(len(p.records) for p in pollers) == 7)
        await until(lambda: value(conn, "select count(*) from pgq._group_locks() where partition_id is not null") == 7)


@pytest.mark.parametrize("name", ["HEARTBEAT", "GROUP_ASSIGNMENT", "CLAIM_PARTITIONS", "JOIN_GROUP"])
async def test_a_session_that_ends_in_the_middle_of_a_call(dsn: str, conn: Connection, wide: str, name: str) -> None:
    """The statements after it do not run on another session as if it were the same."""
    for partition in range(6):
        fill(conn, wide, 2, partition)
    consumer = AsyncConsumer(wide, dsn=dsn, **OPTIONS)
    found = Interference(consumer, getattr(statements, name), lambda: end_sessions(conn), after=False)
    async with polling(consumer) as (poller,):
        await until(lambda: len(poller.numbers) == 6 and found.done)
        await until(lambda: len({(r.partition, r.offset) for r in poller.records}) == 12)
        assert all(isinstance(e, errors.BrokerNotAvailableError) for e in poller.errors)


async def test_what_was_read_and_not_delivered_is_not_committed(dsn: str, conn: Connection, wide: str) -> None:
    """The session ends while a poll is half done; the worker notices before the poll ends."""
    fill(conn, wide, 5, 0)
    fill(conn, wide, 5, 1)
    consumer = AsyncConsumer(wide, dsn=dsn, **OPTIONS)
    await consumer.start()
    assert consumer._membership is not None
    membership, read_all = consumer._membership, consumer._read_all

    async def read_and_lose(*args: Any) -> None:
        await read_all(*args)
        end_sessions(conn)
        membership.lose("its connection was lost", with_session=True)

    consumer._read_all = read_and_lose  # type: ignore[method-assign]
    with contextlib.suppress(errors.BrokerNotAvailableError):
        assert await consumer.getmany() == {}
    consumer._read_all = read_all  # type: ignore[method-assign]
    assert len(await read(consumer, 10)) == 10
    assert max(committed(conn).values(), default=0) == 0
    await consumer.close()


async def test_what_is_in_hand_is_not_committed_either(dsn: str, conn: Connection, topic: str) -> None:
    """Records that iteration has read wait for more, with fetch_min_bytes, while a first offset is committed."""
    conn.execute("select pgq.create_topic('other')")
    options = {"dsn": dsn, "group_id": "g", "auto_offset_reset": "latest", "fetch_min_bytes": 100}
    async with AsyncConsumer(topic, **options, fetch_max_wait_ms=50, auto_commit_interval_ms=60_000) as consumer:
        await consumer.getmany()
        fill(conn, topic, 5)
        assert (await consumer.getone()).offset == 0
        consumer.subscribe([topic, "other"])
        following = asyncio.create_task(consumer.getmany(timeout_ms=10_000))
        names = "select count(*) from pgq.committed_offsets('g') where topic = 'other'"
        await until(lambda: value(conn, names) == 1 or following.done())
        offset = value(
            conn, "select coalesce(max(\"offset\"), 0) from pgq.committed_offsets('g') where topic = 'orders'"
        )
        assert offset <= 1
        assert sum(map(len, (await following).values())) == 4


async def test_a_topic_made_anew_is_read_from_its_beginning(clients: Clients, conn: Connection, topic: str) -> None:
    fill(conn, topic, 5)
    async with polling(clients.consumer(topic, group_id="g")) as (poller,):
        await until(lambda: len(poller.records) == 5)
        conn.execute("select pgq.delete_topic('orders')")
        conn.execute("select pgq.create_topic('orders')")
        fill(conn, topic, 3, 0, 10)
        await until(lambda: len(poller.records) == 8)
        assert [r.value for r in poller.records[5:]] == [b"10", b"11", b"12"]
    async with polling(clients.consumer(topic, metadata_max_age_ms=50)) as (poller,):
        await until(lambda: len(poller.records) == 3)
        conn.execute("select pgq.delete_topic('orders')")
        conn.execute("select pgq.create_topic('orders')")
        fill(conn, topic, 1, 0, 20)
        await until(lambda: [r.value for r in poller.records[3:]] == [b"20"])


async def test_a_deleted_topic_stops_no_other(clients: Clients, conn: Connection, wide: str, topic: str) -> None:
    consumer = clients.consumer(wide, topic, group_id="g", auto_commit_interval_ms=0)
    async with polling(consumer) as (poller,):
        fill(conn, topic, 2)
        await until(lambda: len(poller.records) == 2)
        conn.execute("select pgq.delete_topic('orders')")
        fill(conn, wide, 2)
        await until(lambda: len(poller.records) == 4)
        end_sessions(conn)
        fill(conn, wide, 2, 1)
        await until(lambda: len({(r.topic, r.partition, r.offset) for r in poller.records}) == 6)
        assert all(isinstance(e, errors.BrokerNotAvailableError) for e in poller.errors)
    assert committed(conn)[1] == 2


async def test_iteration_goes_on_where_a_topic_of_a_pattern_is_deleted(clients: Clients, conn: Connection) -> None:
    conn.execute("select pgq.create_topic('orders-a'), pgq.create_topic('orders-b')")
    for name in ("orders-a", "orders-b"):
        fill(conn, name, 20)
    consumer = clients.consumer(group_id="g", max_poll_records=5)
    consumer.subscribe(pattern="orders-")
    async with consumer:
        first = await consumer.getone()
        conn.execute("select pgq.delete_topic(%s)", ["orders-b" if first.topic == "orders-a" else "orders-a"])
        seen = 1
        while seen < 20:
            seen += (await consumer.getone()).topic == first.topic


async def test_a_position_by_policy_survives_a_lost_session(clients: Clients, conn: Connection, topic: str) -> None:
    """Nothing was committed yet, and nothing is skipped."""
    fill(conn, topic, 3)
    options = {"group_id": "g", "auto_offset_reset": "latest", "enable_auto_commit": False}
    async with clients.consumer(topic, **options) as consumer:
        assert await consumer.getmany() == {}
        end_sessions(conn)
        fill(conn, topic, 2, 0, 3)
        assert [r.offset for r in await read(consumer, 2)] == [3, 4]


async def test_assigning_after_unsubscribing(clients: Clients, conn: Connection, wide: str, topic: str) -> None:
    fill(conn, topic, 3)
    consumer = clients.consumer(wide, group_id="g")
    async with consumer, polling(clients.consumer(wide, group_id="g")) as others:
        consumer.unsubscribe()
        await consumer.assign([TopicPartition(topic, 0)])
        await until(settled(others, 6))
        assert [r.offset for r in await read(consumer, 3)] == [0, 1, 2]
        consumer.subscribe([wide])
        while len(consumer.assignment()) != 3:
            await consumer.getmany(timeout_ms=20)
        assert await consumer.committed(TopicPartition(topic, 0)) == 3


async def test_unsubscribing_after_the_claims_went_void(clients: Clients, conn: Connection, wide: str) -> None:
    async with clients.consumer(wide, group_id="g", enable_auto_commit=False) as consumer:
        conn.execute("update pgq.partition_owner set epoch = epoch + 1")
        with pytest.raises(errors.CommitFailedError):
            await consumer.commit(dict.fromkeys(consumer.assignment(), 1))
        consumer.unsubscribe()
        await consumer.assign([])
        async with polling(clients.consumer(wide, group_id="g")) as others:
            await until(settled(others, 6))


async def test_an_older_static_member_does_not_fence_the_newer(clients: Clients, conn: Connection, wide: str) -> None:
    options = {"group_id": "g", "group_instance_id": "reader-1"}
    async with clients.consumer(wide, **options) as older, clients.consumer(wide, **options) as newer:
        async with polling(older) as (poller,):
            await until(lambda: any(isinstance(e, errors.FencedInstanceIdError) for e in poller.errors))
        await newer.getmany(timeout_ms=100)
        assert len(newer.assignment()) == 6


async def test_a_listener_that_fails_holds_nobody_up(clients: Clients, conn: Connection, wide: str) -> None:
    class Failing(ConsumerRebalanceListener):
        def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
            raise MistakeError

    consumer = clients.consumer(group_id="g")
    consumer.subscribe([wide], listener=Failing())
    async with consumer:
        while len(consumer.assignment()) < 6:
            await consumer.getmany(timeout_ms=20)
        async with polling(clients.consumer(wide, group_id="g")) as others:

            async def poll() -> None:
                while True:
                    await consumer.getmany(timeout_ms=100)

            with pytest.raises(MistakeError):
                await poll()
            await until(lambda: len(others[0].numbers) == 3)
        with pytest.raises(MistakeError):
            await consumer.close()


# transactions


async def test_a_transaction_in_which_partitions_change_hands_is_rolled_back(
    clients: Clients, dsn: str, conn: Connection, wide: str
) -> None:
    for partition in range(6):
        fill(conn, wide, 3, partition)
    conn.execute("create table seen (partition int, number bigint)")
    async with AsyncConsumer(wide, dsn=dsn, **OPTIONS, enable_auto_commit=False) as consumer:

        async def work() -> None:
            async with consumer.transaction() as connection:
                await read(consumer, 18)
                await connection.execute("insert into seen values (0, 0)")
                async with polling(clients.consumer(wide, group_id="g")) as others:
                    while len(consumer.assignment()) == 6:
                        await consumer.getmany(timeout_ms=20)
                    await until(lambda: len(others[0].records) == 9)

        with pytest.raises(errors.CommitFailedError, match="wide-"):
            await work()
        assert value(conn, "select count(*) from seen") == 0
        async with consumer.transaction():
            assert len(await read(consumer, 9)) == 9
    assert sum(committed(conn).values()) == 18


@pytest.mark.parametrize("statement", ["BEGIN", "ROLLBACK"])
async def test_a_transaction_that_is_cancelled_while_it_begins_or_ends(
    dsn: str, conn: Connection, topic: str, statement: str
) -> None:
    fill(conn, topic, 3)
    conn.execute("create table seen (number bigint)")
    async with AsyncConsumer(topic, dsn=dsn, **OPTIONS, enable_auto_commit=False) as consumer:

        async def work(*, fails: bool) -> None:
            batches = await consumer.getmany(timeout_ms=1000)
            async with consumer.transaction() as connection:
                await connection.executemany(
                    "insert into seen values ($1)", [(r.offset,) for batch in batches.values() for r in batch]
                )
                if fails:
                    raise MistakeError

        with pytest.raises(MistakeError):
            await work(fails=True)
        raw = consumer._transactions.connection.raw
        execute = raw.execute

        async def cancelled(query: str, *args: Any, **more: Any) -> Any:
            if query.startswith(statement):
                cancel()
            return await execute(query, *args, **more)

        raw_class = type(raw)
        original = raw_class.execute
        raw_class.execute = lambda self, query, *args, **more: cancelled(query, *args, **more)
        try:
            with pytest.raises((asyncio.CancelledError, MistakeError)):
                await asyncio.create_task(work(fails=True))
        finally:
            raw_class.execute = original
        await work(fails=False)
        assert rows(conn, "select number from seen order by 1") == [(0,), (1,), (2,)]
    assert committed(conn) == {0: 3}


def test_the_connection_of_transactions_is_made_anew(dsn: str, conn: Connection, topic: str) -> None:
    fill(conn, topic, 4)
    with pgq.Consumer(topic, dsn=dsn, **OPTIONS, enable_auto_commit=False, max_poll_records=2) as consumer:
        for expected in (2, 4):
            assert consumer.getmany(timeout_ms=1000)
            with consumer.transaction():
                pass
            assert committed(conn) == {0: expected}
            conn.execute("select pg_terminate_backend(%s)", [consumer._transactions.connection.raw.info.backend_pid])


# the application's own mistakes


@pytest.mark.parametrize("iterating", [True, False])
async def test_records_before_one_that_cannot_be_deserialized_come_first(
    clients: Clients, conn: Connection, wide: str, *, iterating: bool
) -> None:
    fill(conn, wide, 3, 0)
    conn.execute("select pgq.produce('wide', 'poison', partition => 0)")
    fill(conn, wide, 3, 0, 4)
    async with clients.consumer(wide, group_id="g", value_deserializer=json.loads) as consumer:
        values = []

        async def read_on() -> None:
            while True:
                if iterating:
                    values.append((await consumer.getone()).value)
                else:
                    values.extend(r.value for r in await read(consumer, 1))

        with pytest.raises(ValueError, match="Expecting value") as caught:
            await read_on()
        assert values == [0, 1, 2]
        assert caught.value.__notes__ == ["pgq: offset 3 of wide-0; seek to 4 to skip it"]
        await consumer.seek(TopicPartition(wide, 0), 4)
        assert [r.value for r in await read(consumer, 3)] == [4, 5, 6]


async def test_a_consumer_that_cannot_start_leaves_nothing_behind(clients: Clients, conn: Connection) -> None:
    tasks = len(asyncio.all_tasks())
    for _ in range(2):
        with pytest.raises(errors.UnknownTopicError):
            async with clients.consumer("nope", group_id="g"):
                pass
    assert len(asyncio.all_tasks()) == tasks


INTERRUPTED = """
import signal, sys, pgq
consumer = pgq.Consumer("orders", dsn=sys.argv[1], group_id="g", auto_offset_reset="earliest", max_poll_records=1)
numbers, left, position = set(), 40, 0
signal.signal(signal.SIGALRM, signal.default_int_handler)
while position < 40:
    try:
        # the last one is taken back if it has not come yet
        signal.setitimer(signal.ITIMER_REAL, 0.0005 * (left % 13) + 0.0001 if left else 0)
        left -= left > 0
        numbers.update(r.offset for batch in consumer.getmany(timeout_ms=100).values() for r in batch)
        if not left:
            signal.setitimer(signal.ITIMER_REAL, 0)
            position = consumer.position(pgq.TopicPartition("orders", 0))
    except KeyboardInterrupt:
        pass
    except pgq.errors.PgqError as error:
        print(error, file=sys.stderr)
consumer.close()
print(len(numbers), *sorted(set(range(40)) - numbers))
"""


def test_interrupts_do_not_spoil_a_sync_consumer(dsn: str, conn: Connection, topic: str) -> None:
    """Ctrl-C comes at any moment of a call, is caught, and the consumer is used on.

    One that comes while the call returns takes its record from the application, as it would with any call.
    """
    fill(conn, topic, 40)
    command = [sys.executable, "-c", INTERRUPTED, dsn]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) >= 36, done.stdout + done.stderr
