"""Members of a group share out its partitions, give them up and take them over, and commit for what is theirs."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import pgq
from pgq import ConsumerRebalanceListener, TopicPartition, errors
from tests.clients.conftest import Awaitable, Clients, read, until
from tests.plugins.proxy import Proxy
from tests.plugins.sessions import Connection, eventually, rows, value

STRATEGIES = ("range", "roundrobin", "sticky")


@pytest.fixture
def wide(conn: Connection) -> str:
    conn.execute("select pgq.create_topic('wide', 6)")
    return "wide"


def fill(conn: Connection, topic: str, count: int, partition: int = 0, first: int = 0) -> None:
    conn.execute(
        "select count(pgq.produce(%s, convert_to(i::text, 'utf8'), partition => %s))"
        " from generate_series(%s::int, %s::int) i",
        [topic, partition, first, first + count - 1],
    )


class Poller:
    """A member that polls all the time, beside the test."""

    def __init__(self, consumer: Any) -> None:
        self.consumer = consumer
        self.records: list[Any] = []
        self.errors: list[BaseException] = []
        self._end = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self._end.is_set():
            try:
                for batch in (await self.consumer.getmany(timeout_ms=20)).values():
                    self.records += batch
            except errors.PgqError as error:
                self.errors.append(error)
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self._end.set()
        await self._task

    @property
    def numbers(self) -> set[int]:
        return {tp.partition for tp in self.consumer.assignment()}


@contextlib.asynccontextmanager
async def polling(*consumers: Any) -> AsyncIterator[list[Poller]]:
    pollers = [Poller(consumer) for consumer in consumers]
    try:
        yield pollers
    finally:
        for poller in pollers:
            await poller.stop()
        for poller in pollers:
            await poller.consumer.close()


def settled(pollers: list[Poller], partitions: int) -> Callable[[], bool]:
    """Whether every partition is read by one of them, and all have as many, give or take one."""

    def check() -> bool:
        numbers = [number for poller in pollers for number in poller.numbers]
        sizes = [len(poller.numbers) for poller in pollers]
        return sorted(numbers) == list(range(partitions)) and max(sizes) - min(sizes) <= 1

    return check


class Heard(ConsumerRebalanceListener):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[int]]] = []

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self.calls.append(("revoked", sorted(tp.partition for tp in revoked)))

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self.calls.append(("assigned", sorted(tp.partition for tp in assigned)))

    def on_partitions_lost(self, lost: set[TopicPartition]) -> None:
        self.calls.append(("lost", sorted(tp.partition for tp in lost)))


# sharing


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_members_share_partitions_and_take_over(
    clients: Clients, conn: Connection, wide: str, strategy: str
) -> None:
    def member() -> Any:
        return clients.consumer(wide, group_id="g", partition_assignment_strategy=strategy)

    async with polling(member()) as first:
        await until(settled(first, 6))
        async with polling(member(), member()) as others:
            await until(settled(first + others, 6))
            for partition in range(6):
                fill(conn, wide, 10, partition)
            await until(lambda: sum(len(p.records) for p in first + others) == 60)
            for poller in first + others:
                assert {r.partition for r in poller.records} == poller.numbers
        started = time.monotonic()
        await until(settled(first, 6))
        assert time.monotonic() - started < 5, "who leaves frees its partitions at once"
        for partition in range(6):
            fill(conn, wide, 10, partition, 10)
        await until(lambda: sum(len(p.records) for p in first + others) == 120)
    found = [(r.partition, r.offset) for poller in first + others for r in poller.records]
    assert sorted(found) == [(p, o) for p in range(6) for o in range(20)], "each record once"


async def test_groups_are_apart(clients: Clients, conn: Connection, wide: str) -> None:
    fill(conn, wide, 5, 2)
    async with clients.consumer(wide, group_id="a") as a, clients.consumer(wide, group_id="b") as b:
        assert len(await read(a, 5)) == len(await read(b, 5)) == 5


async def test_more_members_than_partitions(clients: Clients, conn: Connection, topic: str) -> None:
    one, two = (clients.consumer(topic, group_id="g") for _ in range(2))
    async with polling(one, two) as pollers:
        await until(lambda: sorted(len(p.numbers) for p in pollers) == [0, 1])
        fill(conn, topic, 3)
        await until(lambda: sum(len(p.records) for p in pollers) == 3)
        owner = pollers[0] if pollers[0].numbers else pollers[1]
        await owner.stop()
        await owner.consumer.close()
        other = pollers[1] if owner is pollers[0] else pollers[0]
        await until(lambda: other.numbers == {0})


async def test_only_what_must_move_moves(clients: Clients, conn: Connection, wide: str) -> None:
    heard = Heard()
    one = clients.consumer(group_id="g", partition_assignment_strategy="sticky")
    one.subscribe([wide], listener=heard)
    async with polling(one) as pollers:
        await until(settled(pollers, 6))
        async with polling(clients.consumer(wide, group_id="g", partition_assignment_strategy="sticky")) as others:
            await until(settled(pollers + others, 6))
        await until(settled(pollers, 6))
    calls = heard.calls
    assert calls[0] == ("assigned", [0, 1, 2, 3, 4, 5])
    assert [kind for kind, _ in calls] == ["assigned", "revoked", "assigned", "revoked"], calls
    assert len(calls[1][1]) == 3
    assert calls[2] == ("assigned", calls[1][1])
    assert calls[3] == ("revoked", [0, 1, 2, 3, 4, 5])


async def test_assignors_that_differ_are_refused(clients: Clients, wide: str) -> None:
    async with clients.consumer(wide, group_id="g"):
        other = clients.consumer(wide, group_id="g", partition_assignment_strategy="sticky")
        with pytest.raises(errors.InconsistentGroupProtocolError, match="range"):
            await other.start()
        await other.close()
    async with clients.consumer(wide, group_id="g", partition_assignment_strategy="sticky") as consumer:
        assert len(consumer.assignment()) == 6, "an empty group may change"


async def test_members_may_read_different_topics(clients: Clients, conn: Connection, wide: str, topic: str) -> None:
    one, two = clients.consumer(wide, topic, group_id="g"), clients.consumer(wide, group_id="g")
    async with polling(one, two) as pollers:
        await until(
            lambda: (
                {tp.topic for tp in one.assignment()} == {wide, topic}
                and {tp.topic for tp in two.assignment()} == {wide}
                and len(one.assignment()) + len(two.assignment()) == 7
            )
        )
        fill(conn, topic, 3)
        await until(lambda: len(pollers[0].records) == 3)


# subscriptions


async def test_new_partitions_are_found(clients: Clients, conn: Connection, topic: str) -> None:
    async with polling(*(clients.consumer(topic, group_id="g") for _ in range(2))) as pollers:
        await until(settled(pollers, 1))
        conn.execute("select pgq.add_partitions(%s, 4)", [topic])
        await until(settled(pollers, 4))
        fill(conn, topic, 3, 3)
        await until(lambda: sum(len(p.records) for p in pollers) == 3)


@pytest.mark.parametrize("group_id", ["g", None])
async def test_a_pattern_finds_topics_made_later(clients: Clients, conn: Connection, group_id: str | None) -> None:
    conn.execute("select pgq.create_topic('orders-eu'), pgq.create_topic('payments')")
    consumer = clients.consumer(group_id=group_id, metadata_max_age_ms=50)
    consumer.subscribe(pattern="orders-")
    async with polling(consumer) as (poller,):
        await until(lambda: consumer.assignment() == {TopicPartition("orders-eu", 0)})
        conn.execute("select pgq.create_topic('orders-us', 2)")
        await until(lambda: len(consumer.assignment()) == 3)
        fill(conn, "orders-us", 2, 1)
        await until(lambda: len(poller.records) == 2)
        assert consumer.subscription() == {"orders-eu", "orders-us"}
        conn.execute("select pgq.delete_topic('orders-eu')")
        await until(lambda: {tp.topic for tp in consumer.assignment()} == {"orders-us"})


async def test_new_partitions_are_found_without_a_group(clients: Clients, conn: Connection, topic: str) -> None:
    async with polling(clients.consumer(topic, metadata_max_age_ms=50)) as (poller,):
        await until(lambda: poller.numbers == {0})
        conn.execute("select pgq.add_partitions(%s, 3)", [topic])
        await until(lambda: poller.numbers == {0, 1, 2})


async def test_subscribing_to_something_else(clients: Clients, conn: Connection, wide: str, topic: str) -> None:
    heard = Heard()
    consumer = clients.consumer(wide, group_id="g")
    async with polling(consumer) as (poller,):
        await until(lambda: len(poller.numbers) == 6)
        consumer.subscribe([topic], listener=heard)
        await until(lambda: consumer.assignment() == {TopicPartition(topic, 0)})
        assert heard.calls == [("revoked", [0, 1, 2, 3, 4, 5]), ("assigned", [0])]
        consumer.unsubscribe()
        await until(lambda: not consumer.assignment() and bool(poller.errors))
        assert isinstance(poller.errors[0], errors.IllegalStateError)
        await until(lambda: value(conn, "select count(*) from pgq.group_member") == 0)
        consumer.subscribe(pattern=re.compile("wi.e"))
        await until(lambda: len(poller.numbers) == 6)
    for wrong in ({}, {"topics": ["a"], "pattern": "b"}):
        with pytest.raises(errors.IllegalStateError):
            consumer.subscribe(**wrong)


# commits


async def test_offsets_are_committed_by_themselves(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 10)
    committed = "select max(\"offset\") from pgq.committed_offsets('g')"
    async with clients.consumer(tp.topic, group_id="g", auto_commit_interval_ms=0, max_poll_records=4) as consumer:
        assert len(await read(consumer, 4)) == 4
        assert value(conn, committed) is None, "what was just delivered may not be done yet"
        assert len(await read(consumer, 4)) == 4
        assert value(conn, committed) == 4, "the offsets of the poll before"
        assert (await consumer.getone()).offset == 8
        assert (await consumer.getone()).offset == 9
    assert value(conn, committed) == 10, "closing commits what was delivered"


async def test_records_in_the_buffer_are_not_committed(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 10)
    async with clients.consumer(tp.topic, group_id="g") as consumer:
        for offset in range(3):
            assert (await consumer.getone()).offset == offset
    assert value(conn, "select max(\"offset\") from pgq.committed_offsets('g')") == 3


@pytest.mark.parametrize("iterating", [True, False])
async def test_what_fails_is_delivered_again(
    clients: Clients, conn: Connection, tp: TopicPartition, *, iterating: bool
) -> None:
    fill(conn, tp.topic, 10)

    async def fail() -> None:
        async with clients.consumer(tp.topic, group_id="g", max_poll_records=2) as consumer:
            for _ in range(4):
                await (consumer.getone() if iterating else read(consumer, 2))
            raise MistakeError

    with pytest.raises(MistakeError):
        await fail()
    async with clients.consumer(tp.topic, group_id="g") as consumer:
        assert (await consumer.getone()).offset == (3 if iterating else 6)


async def test_nothing_is_committed_by_itself_if_not_wanted(
    clients: Clients, conn: Connection, tp: TopicPartition
) -> None:
    fill(conn, tp.topic, 10)
    options = {"group_id": "g", "enable_auto_commit": False, "auto_commit_interval_ms": 0}
    async with clients.consumer(tp.topic, **options) as consumer:
        await read(consumer, 10)
        await consumer.getmany()
    async with clients.consumer(tp.topic, **options) as consumer:
        await read(consumer, 10)
        await consumer.commit({tp: 4})
    async with clients.consumer(tp.topic, **options) as consumer:
        assert (await consumer.getone()).offset == 4


async def test_partitions_change_hands_with_their_offsets(clients: Clients, conn: Connection, wide: str) -> None:
    for partition in range(6):
        fill(conn, wide, 10, partition)
    one = clients.consumer(wide, group_id="g")
    async with polling(one) as first:
        await until(lambda: len(first[0].records) == 60)
        async with polling(clients.consumer(wide, group_id="g")) as second:
            await until(settled(first + second, 6))
            fill(conn, wide, 1, next(iter(second[0].numbers)), 10)
            await until(lambda: len(second[0].records) == 1)
            assert second[0].records[0].offset == 10


async def test_a_commit_for_another_members_partitions_names_them(
    clients: Clients, conn: Connection, wide: str
) -> None:
    one, two = (clients.consumer(wide, group_id="g", enable_auto_commit=False) for _ in range(2))
    async with polling(one, two) as pollers:
        await until(settled(pollers, 6))
        await pollers[0].stop()
        theirs, mine = min(two.assignment()), min(one.assignment())
        with pytest.raises(errors.CommitFailedError, match=f"wide-{theirs.partition} "):
            await one.commit({mine: 1, theirs: 1})
        assert await one.committed(mine) is None
        await one.commit({mine: 1})
        assert await one.committed(mine) == 1
        standalone = clients.consumer(group_id="g")
        await standalone.assign([theirs])
        with pytest.raises(errors.UnknownMemberIdError):
            await standalone.commit({theirs: 5})
        await standalone.close()


async def test_an_assigned_consumer_commits_without_being_a_member(
    clients: Clients, conn: Connection, tp: TopicPartition
) -> None:
    fill(conn, tp.topic, 5)
    async with clients.consumer(group_id="g", auto_commit_interval_ms=0) as consumer:
        await consumer.assign([tp])
        await read(consumer, 5)
        await consumer.getmany()
        assert await consumer.committed(tp) == 5
        assert value(conn, "select count(*) from pgq.group_member") == 0


async def test_who_takes_over_begins_where_the_group_began(clients: Clients, conn: Connection, topic: str) -> None:
    """ "latest" is found once for a group, not by each member that comes before anything was committed."""
    options = {"group_id": "g", "auto_offset_reset": "latest"}
    fill(conn, topic, 3)
    async with clients.consumer(topic, **options) as one:
        assert await one.getmany() == {}
        async with polling(clients.consumer(topic, **options)) as (other,):
            fill(conn, topic, 2, 0, 3)
            conn.execute("select pg_terminate_backend(pid) from pgq.group_member order by joined_at limit 1")
            await until(lambda: len(other.records) == 2)
            assert [r.offset for r in other.records] == [3, 4]


async def test_partitions_added_under_a_group_are_read_from_their_beginning(
    clients: Clients, conn: Connection, topic: str
) -> None:
    """Though it reads what is latest: nobody told it before the first record was there."""
    fill(conn, topic, 3)
    options = {"group_id": "g", "auto_offset_reset": "latest"}
    async with clients.consumer(topic, **options) as consumer:
        await consumer.getmany()
    conn.execute("select pgq.add_partitions(%s, 2)", [topic])
    fill(conn, topic, 2, 1)
    async with clients.consumer(topic, **options) as consumer:
        assert [(r.partition, r.offset) for r in await read(consumer, 2)] == [(1, 0), (1, 1)]
    async with clients.consumer(topic, **(options | {"group_id": "another"})) as consumer:
        assert await consumer.getmany(timeout_ms=50) == {}


# lost sessions


async def test_a_lost_session_is_joined_anew(
    clients: Clients, conn: Connection, wide: str, terminate: Callable[[int], None]
) -> None:
    heard = Heard()
    consumer = clients.consumer(group_id="g", auto_commit_interval_ms=0)
    consumer.subscribe([wide], listener=heard)
    fill(conn, wide, 10, 1)
    async with polling(consumer) as (poller,):
        await until(lambda: len(poller.records) == 10)
        await until(lambda: value(conn, "select max(\"offset\") from pgq.committed_offsets('g')") == 10)
        terminate(value(conn, "select pid from pgq.group_member"))
        await until(lambda: heard.calls[1:] == [("lost", [0, 1, 2, 3, 4, 5]), ("assigned", [0, 1, 2, 3, 4, 5])])
        fill(conn, wide, 3, 1, 10)
        await until(lambda: len(poller.records) == 13)
        assert len({r.offset for r in poller.records}) == 13
        assert poller.errors == [] or all(isinstance(e, errors.BrokerNotAvailableError) for e in poller.errors)


async def test_iteration_goes_on_after_a_lost_session(
    clients: Clients, conn: Connection, tp: TopicPartition, terminate: Callable[[int], None]
) -> None:
    async with clients.consumer(tp.topic, group_id="g") as consumer:
        terminate(value(conn, "select pid from pgq.group_member"))
        following = asyncio.create_task(consumer.getone())
        fill(conn, tp.topic, 1)
        assert (await asyncio.wait_for(following, 10)).offset == 0


async def test_after_another_member_has_taken_over_nothing_is_committed(
    clients: Clients, conn: Connection, tp: TopicPartition, terminate: Callable[[int], None]
) -> None:
    fill(conn, tp.topic, 5)
    options = {"group_id": "g", "enable_auto_commit": False}
    async with clients.consumer(tp.topic, **options) as consumer:
        await read(consumer, 5)
        terminate(value(conn, "select pid from pgq.group_member"))
        async with polling(clients.consumer(tp.topic, **options)) as (other,):
            await until(lambda: len(other.records) == 5)
            for _ in range(2):
                with pytest.raises((errors.CommitFailedError, errors.BrokerNotAvailableError)):
                    await consumer.commit()
            with pytest.raises(errors.CommitFailedError):
                await consumer.commit({tp: 5})
        assert await consumer.committed(tp) is None
        assert [r.offset for r in await read(consumer, 5)] == list(range(5))
        await consumer.commit()
        assert await consumer.committed(tp) == 5


async def test_a_dead_members_partitions_are_read_within_a_second(
    clients: Clients, conn: Connection, wide: str, watcher: Connection
) -> None:
    async with polling(*(clients.consumer(wide, group_id="g") for _ in range(3))) as pollers:
        await until(settled(pollers, 6))
        victim = pollers[1]
        await victim.stop()
        pid = victim.consumer._membership
        member_id = (
            pid if not isinstance(victim.consumer, Awaitable) else victim.consumer.client._membership
        ).member_id
        session = value(conn, "select pid from pgq.group_member where member_id = %s", member_id)
        started = time.monotonic()
        watcher.execute("select pg_terminate_backend(%s)", [session])
        await until(settled([pollers[0], pollers[2]], 6))
        assert time.monotonic() - started < 5


async def test_a_member_that_polls_too_late_loses_its_partitions(clients: Clients, conn: Connection, wide: str) -> None:
    heard = Heard()
    late = clients.consumer(group_id="g", max_poll_interval_ms=700, enable_auto_commit=False)
    late.subscribe([wide], listener=heard)
    fill(conn, wide, 3)
    async with polling(clients.consumer(wide, group_id="g")) as others:
        await late.start()
        for _ in range(200):
            await late.getmany(timeout_ms=20)
            if len(late.assignment()) == 3:
                break
        started = time.monotonic()
        await until(settled(others, 6))
        assert 0.5 < time.monotonic() - started < 6
        with pytest.raises(errors.CommitFailedError, match="max_poll_interval_ms"):
            await late.commit({min(late.assignment()): 1})
        await late.getmany()
        assert ("lost", [0, 1, 2]) in heard.calls or ("lost", [3, 4, 5]) in heard.calls
        await late.close()


async def test_a_member_that_is_slow_keeps_its_partitions(clients: Clients, conn: Connection, topic: str) -> None:
    async with clients.consumer(topic, group_id="g", session_timeout_ms=1000) as consumer:
        member = value(conn, "select member_id from pgq.group_member")
        await asyncio.sleep(2)  # the application is busy; its session is not idle
        assert value(conn, "select member_id from pgq.group_member") == member
        fill(conn, topic, 1)
        await read(consumer, 1)
        await consumer.commit()


async def test_a_black_hole_frees_the_partitions(
    clients: Clients, conn: Connection, wide: str, proxy: Proxy, dsn: str
) -> None:
    options = {"group_id": "g", "session_timeout_ms": 1000}
    async with polling(clients.consumer(wide, **options)) as others:
        await until(settled(others, 6))
        async with polling(clients.consumer(wide, dsn=proxy.dsn(dsn), **options)) as lost:
            await until(settled(others + lost, 6))
            proxy.open.clear()
            started = time.monotonic()
            await until(settled(others, 6))
            assert time.monotonic() - started < 6
            proxy.open.set()
            await until(settled(others + lost, 6))


@pytest.mark.parametrize("after", [False, True], ids=["before the statement", "after the statement"])
async def test_calls_may_be_cancelled_anywhere(dsn: str, conn: Connection, wide: str, *, after: bool) -> None:
    """A call is cancelled at its first statement, the next at its second, and so on: nothing is lost, nothing stuck."""
    other = pgq.AsyncConsumer(wide, dsn=dsn, group_id="g", auto_offset_reset="earliest")
    consumer = pgq.AsyncConsumer(wide, dsn=dsn, group_id="g", auto_offset_reset="earliest", auto_commit_interval_ms=0)
    run = consumer._run
    left: list[int] = []
    task: asyncio.Task[Any] | None = None

    async def cancelled_run(session: Any, statement: str, *args: Any) -> Any:
        mine = asyncio.current_task() is task
        if mine and not after:
            count_down()
            await asyncio.sleep(0)
        found = await run(session, statement, *args)
        if mine and after:
            count_down()
            await asyncio.sleep(0)
        return found

    def count_down() -> None:
        if left:
            left[0] -= 1
            if left[0] == 0:
                assert task is not None
                task.cancel()

    consumer._run = consumer._membership._run = cancelled_run
    numbers: list[tuple[int, int]] = []
    sent = 0
    async with polling(other) as (poller,):
        for nth in range(1, 30):
            if nth % 3 == 0:
                consumer.subscribe([wide])  # so that it tells the group, too
            if nth % 7 == 0:
                conn.execute("select pg_terminate_backend(pid) from pgq.group_member order by random() limit 1")
            fill(conn, wide, 2, nth % 6, 100)
            sent += 2
            left[:] = [nth % 20 + 1]
            task = asyncio.create_task(consumer.getmany(timeout_ms=200))
            with contextlib.suppress(asyncio.CancelledError, errors.BrokerNotAvailableError):
                numbers += [(r.partition, r.offset) for batch in (await task).values() for r in batch]
        task = None
        async with polling(consumer) as (second,):
            await until(settled([poller, second], 6))
            fill(conn, wide, 1, 0)
            found = lambda: {(r.partition, r.offset) for r in poller.records + second.records} | set(numbers)  # noqa: E731
            await until(lambda: len(found()) == sent + 1)
        await until(settled([poller], 6))
        assert value(conn, "select count(*) from pgq.group_member") == 1
        held = "select count(*) from pg_locks where locktype = 'advisory' and classid::bigint >> 26 = 26"
        assert value(conn, held) == 6


# static members


async def test_a_static_member_comes_back_to_its_partitions(clients: Clients, conn: Connection, wide: str) -> None:
    heard = Heard()
    other = clients.consumer(group_id="g")
    other.subscribe([wide], listener=heard)
    options = {"group_id": "g", "group_instance_id": "reader-1"}
    async with polling(other) as others:
        async with polling(clients.consumer(wide, **options)) as static:
            await until(settled(others + static, 6))
            before, calls = static[0].numbers, list(heard.calls)
        generation = value(conn, "select generation from pgq.consumer_group")
        async with polling(clients.consumer(wide, **options)) as static:
            await until(lambda: static[0].numbers == before)
            assert heard.calls == calls
            assert value(conn, "select generation from pgq.consumer_group") == generation


async def test_a_static_member_that_stays_away_is_removed(clients: Clients, conn: Connection, wide: str) -> None:
    async with polling(clients.consumer(wide, group_id="g")) as others:
        static = clients.consumer(wide, group_id="g", group_instance_id="s", session_timeout_ms=1000)
        async with polling(static) as pollers:
            await until(settled(others + pollers, 6))
        started = time.monotonic()
        await until(settled(others, 6))
        assert 0.5 < time.monotonic() - started < 6


@pytest.mark.parametrize("strategy", ["range", "sticky"])
async def test_a_lost_session_moves_nobodys_partitions(
    clients: Clients, conn: Connection, terminate: Callable[[int], None], strategy: str
) -> None:
    """Whoever has lost it joins again as the same member; the others keep what they have all the time."""
    conn.execute("select pgq.create_topic('wide', 12)")
    heard = [Heard() for _ in range(4)]
    consumers = []
    for listener in heard:
        consumer = clients.consumer(group_id="g", partition_assignment_strategy=strategy)
        consumer.subscribe(["wide"], listener=listener)
        consumers.append(consumer)
    async with polling(*consumers) as pollers:
        await until(settled(pollers, 12))
        before = [poller.numbers for poller in pollers]
        told = [list(listener.calls) for listener in heard]
        generation = value(conn, "select generation from pgq.consumer_group")
        victim = consumers[1] if not isinstance(consumers[1], Awaitable) else consumers[1].client
        member_id = victim._membership.member_id

        async def lose_session(times: int) -> None:
            terminate(value(conn, "select pid from pgq.group_member where member_id = %s", member_id))
            await until(
                lambda: (
                    sum(len(numbers) for kind, numbers in heard[1].calls if kind == "lost") == 3 * times
                    and pollers[1].numbers == before[1]
                )
            )

        for times in range(1, 7):
            await lose_session(times)
        for nth in (0, 2, 3):
            assert (heard[nth].calls, pollers[nth].numbers) == (told[nth], before[nth])
        assert victim._membership.member_id == member_id
        assert value(conn, "select generation from pgq.consumer_group") == generation
        for partition in range(12):
            fill(conn, "wide", 1, partition)
        await until(lambda: sum(len(p.records) for p in pollers) == 12)


async def test_a_second_static_member_fences_the_first(clients: Clients, conn: Connection, wide: str) -> None:
    options = {"group_id": "g", "group_instance_id": "reader-1"}
    async with polling(clients.consumer(wide, **options)) as first:
        await until(settled(first, 6))
        async with polling(clients.consumer(wide, **options)) as second:
            await until(settled(second, 6))
            await until(lambda: any(isinstance(e, errors.FencedInstanceIdError) for e in first[0].errors))
            assert first[0].numbers == set()


# transactions


@pytest.fixture
def table(conn: Connection) -> Iterator[str]:
    conn.execute("create table seen (partition int, number bigint)")
    yield "seen"
    conn.execute("drop table seen")


def run(connection: Any, sql: str) -> Any:
    """Run on the driver's own connection, of whichever world."""
    return connection.execute(sql)


class MistakeError(Exception):
    """The application's."""


async def test_consumed_written_and_produced_in_one_transaction(
    dsn: str, conn: Connection, wide: str, table: str
) -> None:
    """Half of the transactions fail; every record has its row and its result once."""
    conn.execute("select pgq.create_topic('results')")
    for partition in range(6):
        fill(conn, wide, 20, partition)
    done = 0
    async with (
        pgq.AsyncProducer(dsn) as producer,
        pgq.AsyncConsumer(
            wide, dsn=dsn, group_id="g", auto_offset_reset="earliest", enable_auto_commit=False, max_poll_records=7
        ) as consumer,
    ):
        attempt = 0
        while done < 120:
            attempt += 1
            with contextlib.suppress(MistakeError):
                batches = await consumer.getmany(timeout_ms=1000)
                async with consumer.transaction() as connection:
                    for batch in batches.values():
                        for record in batch:
                            await connection.execute(
                                "insert into seen values ($1, $2)", record.partition, record.offset
                            )
                            await producer.send("results", record.value, connection=connection)
                    if attempt % 2:
                        raise MistakeError
                    count = sum(map(len, batches.values()))
                done += count
    assert rows(conn, "select partition, number from seen order by 1, 2") == [
        (p, o) for p in range(6) for o in range(20)
    ]
    assert value(conn, "select count(*) from pgq_topic.results") == 120
    assert value(conn, "select sum(\"offset\") from pgq.committed_offsets('g')") == 120


def test_a_transaction_of_the_sync_client(dsn: str, conn: Connection, topic: str, table: str) -> None:
    fill(conn, topic, 5)
    with pgq.Consumer(topic, dsn=dsn, group_id="g", auto_offset_reset="earliest", enable_auto_commit=False) as consumer:
        for fails in (True, False):
            batches = consumer.getmany(timeout_ms=1000)
            assert [r.offset for batch in batches.values() for r in batch] == list(range(5))
            with contextlib.suppress(MistakeError), consumer.transaction() as connection:
                connection.execute("insert into seen values (0, 1)")
                if fails:
                    raise MistakeError
    assert rows(conn, "select * from seen") == [(0, 1)]
    assert value(conn, "select max(\"offset\") from pgq.committed_offsets('g')") == 5


async def test_partitions_stay_while_a_transaction_commits_for_them(
    clients: Clients, conn: Connection, topic: str, dsn: str, connect: Callable[[], Connection]
) -> None:
    """The owner's session dies while its transaction is open: whoever takes over waits for it, and starts after it."""
    fill(conn, topic, 5)
    app = connect()
    one = pgq.Consumer(topic, dsn=dsn, group_id="g", auto_offset_reset="earliest", enable_auto_commit=False)
    one.start()
    assert sum(map(len, one.getmany(timeout_ms=1000).values())) == 5
    app.execute("begin")
    one.commit(connection=app)
    conn.execute("select pg_terminate_backend(pid) from pgq.group_member")
    async with polling(clients.consumer(topic, group_id="g")) as (poller,):
        await until(lambda: value(conn, "select count(*) from pgq.group_member") == 1)
        await asyncio.sleep(0.3)
        assert poller.records == []
        assert poller.numbers == set()
        app.execute("commit")
        await until(lambda: poller.numbers == {0})
        fill(conn, topic, 1, 0, 5)
        await until(lambda: len(poller.records) == 1)
        assert poller.records[0].offset == 5
    one.close()


async def test_an_open_transaction_holds_up_nobody_but_its_partitions(
    clients: Clients, conn: Connection, wide: str, dsn: str, connect: Callable[[], Connection]
) -> None:
    """Members come, go and are noticed missing while an application's transaction has committed offsets."""
    app = connect()
    with pgq.Consumer(wide, dsn=dsn, group_id="g", enable_auto_commit=False) as one:
        held = min(one.assignment())
        app.execute("begin")
        one.commit({held: 0}, connection=app)
        async with polling(clients.consumer(wide, group_id="g"), clients.consumer(wide, group_id="g")) as others:
            await until(lambda: value(conn, "select count(*) from pgq.group_member") == 3)
            conn.execute("select pg_terminate_backend(m.pid) from pgq.group_member m order by joined_at limit 1")
            await until(lambda: sorted(number for p in others for number in p.numbers) == [1, 2, 3, 4, 5])
            app.execute("commit")
            await until(settled(others, 6))


async def test_a_zombies_transaction_is_refused(
    clients: Clients, conn: Connection, topic: str, dsn: str, connect: Callable[[], Connection]
) -> None:
    fill(conn, topic, 5)
    app = connect()
    with pgq.Consumer(topic, dsn=dsn, group_id="g", auto_offset_reset="earliest", enable_auto_commit=False) as one:
        one.getmany(timeout_ms=1000)
        statement = one._membership
        assert statement is not None
        member_id, epochs = statement.member_id, [claim.epoch for claim in statement.claims.values()]
        conn.execute("select pg_terminate_backend(pid) from pgq.group_member")
        async with polling(clients.consumer(topic, group_id="g")) as (poller,):
            await until(lambda: poller.numbers == {0})
            with pytest.raises(Exception, match="changed hands") as caught:
                app.execute(
                    "select pgq.commit_offsets('g', array['orders'], array[0], array[5::bigint], null, %s, %s)",
                    [member_id, epochs],
                )
            assert getattr(caught.value, "sqlstate", None) == "PQ036"
            assert value(conn, "select count(*) from pgq.committed_offset") == 0


async def test_transactions_are_for_groups_without_automatic_commits(clients: Clients, topic: str) -> None:
    for options, error in (({}, errors.InvalidGroupIdError), ({"group_id": "g"}, errors.IllegalStateError)):
        async with clients.consumer(topic, **options) as consumer:
            client = consumer.client if isinstance(consumer, Awaitable) else consumer
            block = client.transaction()
            with pytest.raises(error):
                await (block.__aenter__() if client is consumer else asyncio.to_thread(block.__enter__))


# waiting


async def test_a_parked_consumer_is_woken(clients: Clients, conn: Connection, topic: str) -> None:
    parked = (
        "select count(*) from pg_locks where locktype = 'advisory' and classid::bigint >> 26 = 24 and mode like 'Ex%%'"
    )
    async with clients.consumer(topic, group_id="g") as consumer:
        waits = []
        for number in range(5):
            following = asyncio.create_task(consumer.getone())
            await until(lambda: value(conn, parked) == 1)
            started = time.monotonic()
            fill(conn, topic, 1, 0, number)
            assert (await following).offset == number
            waits.append(time.monotonic() - started)
        assert sorted(waits)[2] < 0.5


async def test_notifications_that_do_not_come_cost_time_only(dsn: str, conn: Connection, topic: str) -> None:
    """Something between swallows LISTEN: the consumer parks, and looks by itself now and then."""

    async def swallowed(channels: list[str]) -> None:
        del channels

    async with pgq.AsyncConsumer(topic, dsn=dsn, group_id="g", auto_offset_reset="earliest") as consumer:
        consumer._raw_connection.listen = swallowed
        following = asyncio.create_task(consumer.getone())
        await until(lambda: consumer._parking.parked and consumer._quiet_at > 0)
        fill(conn, topic, 1)
        assert (await asyncio.wait_for(following, 10)).offset == 0


async def test_who_stops_polling_is_not_notified_for_long(clients: Clients, conn: Connection, topic: str) -> None:
    parked = (
        "select count(*) from pg_locks where locktype = 'advisory' and classid::bigint >> 26 = 24 and mode like 'Ex%%'"
    )
    async with clients.consumer(topic) as consumer:
        await consumer.getmany(timeout_ms=300)
        assert value(conn, parked) == 1
        await until(lambda: value(conn, parked) == 0)


async def test_an_idle_member_asks_little(clients: Clients, conn: Connection, topic: str) -> None:
    consumer = clients.consumer(topic, group_id="g")
    async with consumer:
        client = consumer.client if isinstance(consumer, Awaitable) else consumer
        following = asyncio.create_task(consumer.getone())
        await until(lambda: client._parking.parked and client._quiet_at > 0)
        counted = 0
        original = client._run

        def counting(*args: Any) -> Any:
            nonlocal counted
            counted += 1
            return original(*args)

        client._run = client._membership._run = counting
        await asyncio.sleep(3)  # statements are counted over time
        assert 3 <= counted <= 13, "4 a second at most"
        fill(conn, topic, 1)
        await following


async def test_fetch_min_bytes(clients: Clients, conn: Connection, topic: str) -> None:
    async with clients.consumer(topic, fetch_min_bytes=10, fetch_max_wait_ms=400) as consumer:
        fill(conn, topic, 5)
        started = time.monotonic()
        following = asyncio.create_task(consumer.getmany(timeout_ms=5000))
        await until(lambda: value(conn, "select 1") == 1)
        fill(conn, topic, 5, 0, 5)
        assert sum(map(len, (await following).values())) == 10
        fill(conn, topic, 5)
        started = time.monotonic()
        assert sum(map(len, (await consumer.getmany(timeout_ms=5000)).values())) == 5
        assert 0.3 < time.monotonic() - started < 2


async def test_bytes_are_bounded(clients: Clients, conn: Connection, topic: str) -> None:
    conn.execute(
        "select count(pgq.produce(%s, decode(repeat('ab', 50000), 'hex'))) from generate_series(1, 100)", [topic]
    )
    async with clients.consumer(topic, max_partition_fetch_bytes=1_000_000, max_poll_records=100) as consumer:
        await consumer.getmany(timeout_ms=1000)
        sizes = []
        while batches := await consumer.getmany(timeout_ms=100):
            sizes.append(sum(len(r.value) for batch in batches.values() for r in batch))
        assert max(sizes) <= 1_000_000
        assert max(sizes) > 800_000


async def test_auto_offset_reset_by_duration(clients: Clients, conn: Connection, topic: str, any_time: None) -> None:
    for hours in (5, 3, 1):
        conn.execute("select pgq.produce('orders', 'x', \"timestamp\" => now() - %s * interval '1 hour')", [hours])
    async with clients.consumer(topic, auto_offset_reset="by_duration:PT4H") as consumer:
        assert [r.offset for r in await read(consumer, 2)] == [1, 2]
    async with clients.consumer(topic, auto_offset_reset="by_duration:PT1M") as consumer:
        assert await consumer.getmany(timeout_ms=50) == {}
        fill(conn, topic, 1)
        assert [r.offset for r in await read(consumer, 1)] == [3]
    with pytest.raises(errors.InvalidRequestError, match="duration"):
        clients.consumer(topic, auto_offset_reset="by_duration:1h")


async def test_lag_and_highwater(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 10)
    async with clients.consumer(tp.topic, group_id="g", max_poll_records=4) as consumer:
        await read(consumer, 4)
        assert await consumer.lag() == {tp: 6}
        assert consumer.highwater(tp) == 10


@pytest.mark.parametrize(
    "options",
    [
        {"session_timeout_ms": 999},
        {"session_timeout_ms": 1_800_001},
        {"max_poll_interval_ms": 0},
        {"partition_assignment_strategy": "fair"},
        {"fetch_min_bytes": 0},
        {"auto_commit_interval_ms": -1},
        {"group_instance_id": ""},
    ],
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidRequestError, match=next(iter(options))):
        pgq.Consumer("t", group_id="g", **options)
    with pytest.raises(errors.InvalidRequestError):
        pgq.Consumer("t", group_instance_id="x")


MEMBER = """
import contextlib, sys, pgq
options = {"session_timeout_ms": int(sys.argv[2]), "group_instance_id": (sys.argv[3:] or [None])[0]}
consumer = pgq.Consumer("wide", dsn=sys.argv[1], group_id="g", **options)
while True:
    with contextlib.suppress(pgq.errors.BrokerNotAvailableError):  # it was stopped for longer than its session lives
        try:
            consumer.getmany(timeout_ms=50)
        except pgq.errors.FencedInstanceIdError:
            sys.exit(82)
"""


@contextlib.contextmanager
def process_of_a_member(
    dsn: str, conn: Connection, session_timeout_ms: int, *instance_id: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A member in a process of its own that has all partitions."""
    process = subprocess.Popen([sys.executable, "-c", MEMBER, dsn, str(session_timeout_ms), *instance_id])
    try:
        eventually(lambda: value(conn, "select count(*) from pgq.partition_owner") == 6)
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def member_process(dsn: str, conn: Connection, session_timeout_ms: int) -> Iterator[Callable[[int], None]]:
    """A member in a process of its own that has all partitions; what sends it signals."""
    with process_of_a_member(dsn, conn, session_timeout_ms) as process:
        yield process.send_signal


def share(consumer: pgq.Consumer, partitions: int) -> None:
    """Poll until the consumer has so many partitions."""

    def enough() -> bool:
        consumer.getmany(timeout_ms=20)
        return len(consumer.assignment()) == partitions

    eventually(enough, 10)


def test_a_process_that_is_killed_frees_its_partitions_at_once(dsn: str, conn: Connection, wide: str) -> None:
    """The kernel closes the socket; the server ends the session; the neighbour sees it."""
    with member_process(dsn, conn, 45_000) as send_signal, pgq.Consumer(wide, dsn=dsn, group_id="g") as consumer:
        share(consumer, 3)
        send_signal(signal.SIGKILL)
        started = time.monotonic()
        share(consumer, 6)
        assert time.monotonic() - started < 5


def test_a_process_that_is_stopped_frees_its_partitions_after_its_session_timeout(
    dsn: str, conn: Connection, wide: str
) -> None:
    with (
        member_process(dsn, conn, 1000) as send_signal,
        pgq.Consumer(wide, dsn=dsn, group_id="g", session_timeout_ms=1000) as consumer,
    ):
        share(consumer, 3)
        send_signal(signal.SIGSTOP)
        started = time.monotonic()
        share(consumer, 6)
        assert 0.5 < time.monotonic() - started < 6
        send_signal(signal.SIGCONT)  # it joins again
        share(consumer, 3)


def test_a_static_member_that_is_stopped_frees_its_partitions_after_its_session_timeout(
    dsn: str, conn: Connection, wide: str
) -> None:
    """Once, counted from its last sign of life: the server ends its session after it, and then nobody waits again."""
    with (
        process_of_a_member(dsn, conn, 4000, "reader-1") as process,
        pgq.Consumer(wide, dsn=dsn, group_id="g") as consumer,
    ):
        share(consumer, 3)
        process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        share(consumer, 6)
        assert 3 < time.monotonic() - started < 6


def test_a_static_member_that_is_killed_keeps_its_partitions_for_its_session_timeout(
    dsn: str, conn: Connection, wide: str
) -> None:
    with (
        process_of_a_member(dsn, conn, 3000, "reader-1") as process,
        pgq.Consumer(wide, dsn=dsn, group_id="g") as consumer,
    ):
        share(consumer, 3)
        process.kill()
        started = time.monotonic()
        share(consumer, 6)
        assert 2.9 < time.monotonic() - started < 6


def test_what_replaces_a_static_member_that_is_stopped_has_its_partitions_at_once(
    dsn: str, conn: Connection, wide: str
) -> None:
    """When the stopped one goes on, it finds that another has its place."""
    fill(conn, wide, 1)
    with process_of_a_member(dsn, conn, 45_000, "reader-1") as process:
        process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        with pgq.Consumer(
            wide, dsn=dsn, group_id="g", group_instance_id="reader-1", auto_offset_reset="earliest"
        ) as consumer:
            share(consumer, 6)
            assert time.monotonic() - started < 5
            process.send_signal(signal.SIGCONT)
            assert process.wait(20) == 82
            share(consumer, 6)
            consumer.commit({TopicPartition(wide, 0): 1})
