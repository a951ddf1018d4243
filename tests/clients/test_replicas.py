"""acks, standbys that stop and come back, and failovers: what was acknowledged is there, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from pgq import TopicPartition, errors
from pgq.embedded_cluster import EmbeddedCluster
from tests.plugins.cluster import DATABASE, MakeCluster
from tests.plugins.postgres import APPLICATION
from tests.plugins.proxy import Loss, Proxy
from tests.plugins.sessions import Connection, call, eventually, rows, value

from .conftest import Clients, read
from .test_lost_commits import QUICK, anomalies, flush_all, log


@pytest.fixture(autouse=True)
def no_connection_is_left() -> None:
    """Not looked at here: the servers are the test's own."""


@pytest.fixture
def cluster_dsn(cluster: EmbeddedCluster) -> str:
    return cluster.dsn(DATABASE, user=APPLICATION)


@pytest.fixture
def clients(request: pytest.FixtureRequest, world: str, cluster_dsn: str) -> Clients:
    return Clients(world, cluster_dsn)


@pytest.fixture(params=["sync", "async"])
def world(request: pytest.FixtureRequest) -> str:
    result: str = request.param
    return result


@pytest.fixture
def boss(cluster: EmbeddedCluster) -> Iterator[Connection]:
    """A superuser's session on the leader that waits for nobody."""
    with psycopg.connect(cluster.leader.dsn(DATABASE), autocommit=True) as conn:
        conn.execute("set synchronous_commit = local")
        yield conn


@pytest.fixture
def topic(boss: Connection) -> str:
    call(boss, "create_topic", name="orders", partitions=3)
    return "orders"


REPLAY_LAG = "select coalesce(pg_current_wal_insert_lsn() - replay_lsn, 1)::bigint from pg_stat_replication"


def waiting(boss: Connection) -> list[int]:
    """The sessions that wait for standbys."""
    return [pid for (pid,) in rows(boss, "select pid from pg_stat_activity where wait_event = 'SyncRep'")]


def waits(boss: Connection) -> set[Any]:
    """The transactions that wait for standbys."""
    return set(rows(boss, "select pid, xact_start from pg_stat_activity where wait_event = 'SyncRep'"))


def records(boss: Connection, topic: str) -> int:
    result: int = value(boss, f"select count(*) from pgq_topic.{topic}")
    return result


async def until(condition: Callable[[], Any]) -> None:
    await asyncio.to_thread(eventually, condition)


async def test_acks_all_wait_for_a_standby_and_no_other_acks_do(
    clients: Clients, cluster: EmbeddedCluster, boss: Connection, topic: str
) -> None:
    async with clients.producer(**QUICK) as producer:
        for follower in cluster.followers.values():
            follower.pause()
        for acks in (0, 1):
            await producer.send_and_wait(topic, b"1", acks=acks)
        future = await producer.send(topic, b"2")
        await until(lambda: waiting(boss))
        assert not future.done()
        next(iter(cluster.followers.values())).resume()
        await future
        assert not waiting(boss)
        for follower in cluster.followers.values():
            follower.resume()
    assert records(boss, topic) == 3


async def test_standbys_that_stay_away(
    clients: Clients, cluster: EmbeddedCluster, boss: Connection, topic: str
) -> None:
    for follower in cluster.followers.values():
        follower.pause()
    async with clients.producer(request_timeout_ms=500, retries=0, **QUICK) as producer:
        started = time.monotonic()
        future = await producer.send(topic, b"1")
        with pytest.raises(errors.NotEnoughReplicasAfterAppendError) as caught:
            await future
        assert 0.4 < time.monotonic() - started < 5
        assert caught.value.retriable
        with pytest.raises(errors.NotEnoughReplicasAfterAppendError):
            await producer.flush()
        await until(lambda: not waiting(boss))
    assert records(boss, topic) == 1, "on the leader, as the error says"
    for follower in cluster.followers.values():
        follower.resume()


async def test_standbys_that_come_back_in_time(
    clients: Clients, cluster: EmbeddedCluster, boss: Connection, topic: str
) -> None:
    """Attempt after attempt waits for the same records; none is appended twice, none is acknowledged before."""
    async with clients.producer(request_timeout_ms=300, delivery_timeout_ms=60_000, **QUICK) as producer:
        await producer.send_and_wait(topic, b"0", partition=0)
        for follower in cluster.followers.values():
            follower.pause()
        futures = [await producer.send(topic, b"%d" % number, partition=0) for number in range(1, 4)]
        seen: set[Any] = set()
        await until(lambda: seen.update(waits(boss)) or len(seen) >= 3)  # type: ignore[func-returns-value]
        assert not any(future.done() for future in futures)
        for follower in cluster.followers.values():
            follower.resume()
        for future in futures:
            await future
    assert anomalies({0: [0, 1, 2, 3]}, log(boss, topic)) == {}


async def test_a_wait_that_an_administrator_cancels_is_no_ack(
    clients: Clients, cluster: EmbeddedCluster, boss: Connection, topic: str
) -> None:
    """The server commits, warns, and says COMMIT: both drivers must see the warning."""
    for follower in cluster.followers.values():
        follower.pause()
    async with clients.producer(retries=0, **QUICK) as producer:
        future = await producer.send(topic, b"1")
        await until(lambda: waiting(boss))
        for pid in waiting(boss):
            boss.execute("select pg_cancel_backend(%s)", [pid])
        with pytest.raises(errors.NotEnoughReplicasAfterAppendError, match="cut short"):
            await future
        with pytest.raises(errors.NotEnoughReplicasAfterAppendError):
            await producer.flush()
    assert records(boss, topic) == 1
    for follower in cluster.followers.values():
        follower.resume()


async def test_a_wait_that_ends_with_its_session_is_no_ack(
    clients: Clients, cluster: EmbeddedCluster, boss: Connection, topic: str
) -> None:
    for follower in cluster.followers.values():
        follower.pause()
    async with clients.producer(**QUICK) as producer:
        future = await producer.send(topic, b"1")
        await until(lambda: waiting(boss))
        (first,) = waiting(boss)
        boss.execute("select pg_terminate_backend(%s)", [first])
        await until(lambda: set(waiting(boss)) - {first})
        assert not future.done()
        for follower in cluster.followers.values():
            follower.resume()
        await future
    assert records(boss, topic) == 1


async def test_min_insync_replicas(clients: Clients, cluster: EmbeddedCluster, boss: Connection, topic: str) -> None:
    """One follower is enough for 2; with none nothing is appended; ANY 1 never makes 3 certain."""
    one, other = cluster.followers.values()
    options = {"retries": 0, "request_timeout_ms": 5000} | QUICK
    call(boss, "alter_topic_config", name=topic, config=json.dumps({"min.insync.replicas": 2}))
    one.stop()
    async with clients.producer(**options) as producer:
        await producer.send_and_wait(topic, b"1")
        other.stop()
        await until(lambda: value(boss, "select pgq._in_sync_replicas()") == 1)
        with pytest.raises(errors.NotEnoughReplicasError) as caught:
            await producer.send_and_wait(topic, b"2")
        assert caught.value.retriable
        for acks in (1, 0):
            await producer.send_and_wait(topic, b"3", acks=acks)
        with pytest.raises(errors.NotEnoughReplicasError):
            await producer.flush()
    with psycopg.connect(cluster.leader.dsn(DATABASE, user=APPLICATION), autocommit=True) as conn:
        with pytest.raises(psycopg.Error) as refusal:
            call(conn, "produce", topic=topic, value=b"2")
        assert refusal.value.sqlstate == "PQ029"
        conn.execute("set synchronous_commit = local")
        call(conn, "produce", topic=topic, value=b"4")
    assert records(boss, topic) == 4
    one.start()
    other.start()
    await until(lambda: value(boss, "select pgq._in_sync_replicas()") == 2)
    call(boss, "alter_topic_config", name=topic, config=json.dumps({"min.insync.replicas": 3}))
    async with clients.producer(**options) as producer:
        with pytest.raises(errors.NotEnoughReplicasError):
            await producer.send_and_wait(topic, b"5")
        with pytest.raises(errors.NotEnoughReplicasError):
            await producer.flush()


async def test_too_few_replicas_are_waited_for(
    clients: Clients, cluster: EmbeddedCluster, boss: Connection, topic: str
) -> None:
    call(boss, "alter_topic_config", name=topic, config=json.dumps({"min.insync.replicas": 2}))
    for follower in cluster.followers.values():
        follower.stop()
    await until(lambda: value(boss, "select pgq._in_sync_replicas()") == 1)
    async with clients.producer(**QUICK) as producer:
        future = await producer.send(topic, b"1")
        for follower in cluster.followers.values():
            follower.start()
        await future
    assert records(boss, topic) == 1


async def test_lost_answers_while_standbys_stall(
    clients: Clients, cluster: EmbeddedCluster, boss: Connection, topic: str, make_proxy: Callable[[str], Proxy]
) -> None:
    """Commits are lost, and the standbys stop and go on meanwhile: once, in order, and no ack without a standby."""
    dsn = cluster.leader.dsn(DATABASE, user=APPLICATION)
    proxy = make_proxy(dsn)
    proxy.plan = lambda number: (Loss.REPLY, Loss.BLIND, None)[number % 3]
    stop = asyncio.Event()

    async def stall() -> None:
        while not stop.is_set():
            for follower in cluster.followers.values():
                follower.pause()
            await until(lambda: waiting(boss) or stop.is_set())
            for follower in cluster.followers.values():
                follower.resume()
            await until(lambda: not waiting(boss) or stop.is_set())

    nemesis = asyncio.create_task(stall())
    options = {"request_timeout_ms": 1000, "delivery_timeout_ms": 60_000} | QUICK
    async with clients.producer(dsn=proxy.dsn(dsn), **options) as producer:
        sent, said = await flush_all(producer, topic, 150)
    stop.set()
    await nemesis
    found = log(boss, topic)
    assert anomalies(sent, found) == {}
    for number, metadata in enumerate(said):
        assert (metadata.offset, number) in found[metadata.partition]
    assert len(proxy.lost) >= 100


@pytest.mark.parametrize("world", ["async"])
async def test_failover_keeps_what_was_acknowledged(
    clients: Clients, make_cluster: MakeCluster, cluster: EmbeddedCluster, boss: Connection, topic: str
) -> None:
    """The leader is killed under load again and again; the follower that has the most takes over."""
    acknowledged: dict[int, Any] = {}
    numbers = iter(range(10**9))
    stop = asyncio.Event()

    async def load(producer: Any, partition: int) -> None:
        while not stop.is_set():
            batch = [next(numbers) for _ in range(20)]
            futures = [await producer.send(topic, b"%d" % number, partition=partition) for number in batch]
            for number, future in zip(batch, futures, strict=True):
                acknowledged[number] = await future

    boss.close()
    async with clients.producer(linger_ms=1) as producer:
        loads = [asyncio.create_task(load(producer, partition)) for partition in range(3)]
        for _ in range(10):
            enough = len(acknowledged) + 200
            await asyncio.to_thread(eventually, lambda enough=enough: len(acknowledged) >= enough)
            cluster.leader.kill()
            old = next(name for name, server in cluster.servers.items() if server is cluster.leader)
            await asyncio.to_thread(cluster.promote, cluster.most_advanced())
            await asyncio.to_thread(cluster.rebuild, old)
            await asyncio.to_thread(cluster.wait_until_streaming, 2)
        stop.set()
        await asyncio.gather(*loads)
    async with clients.consumer(topic) as consumer:
        there = {(r.partition, r.offset): int(r.value) for r in await read(consumer, len(acknowledged))}
    assert {(m.partition, m.offset): number for number, m in acknowledged.items()} == there
    with psycopg.connect(cluster.dsn(DATABASE), autocommit=True) as conn:
        sent: dict[int, list[int]] = {}
        for number, metadata in acknowledged.items():
            sent.setdefault(metadata.partition, []).append(number)
        assert anomalies({p: sorted(n) for p, n in sent.items()}, log(conn, topic)) == {}


@pytest.mark.parametrize("reader", ["consumer", "sql"])
async def test_nothing_is_shown_that_a_failover_could_take_back(
    clients: Clients, cluster: EmbeddedCluster, boss: Connection, topic: str, reader: str
) -> None:
    """With min.insync.replicas = 2 a record that only the leader has is not read, whatever its acks."""
    call(boss, "alter_topic_config", name=topic, config=json.dumps({"min.insync.replicas": 2}))
    async with clients.producer(**QUICK) as producer, clients.consumer(topic) as consumer:

        async def poll() -> list[bytes]:
            if reader == "sql":
                return [v for (v,) in rows(boss, "select value from pgq.fetch(%s, 0, %s)", topic, len(seen))]
            return [r.value for batch in (await consumer.getmany(timeout_ms=100)).values() for r in batch]

        seen: list[bytes] = []
        await producer.send_and_wait(topic, b"1", partition=0)
        while len(seen) < 1:
            seen += await poll()
        for follower in cluster.followers.values():
            follower.pause()
        await producer.send_and_wait(topic, b"2", partition=0, acks=1)
        for _ in range(3):
            assert await poll() == []
        assert records(boss, topic) == 2
        for follower in cluster.followers.values():
            follower.resume()
        while len(seen) < 2:
            seen += await poll()
        assert seen == [b"1", b"2"]


async def test_a_hole_that_only_the_leader_knows_is_not_stepped_over(
    clients: Clients, cluster: EmbeddedCluster, boss: Connection, topic: str
) -> None:
    """With min.insync.replicas = 2: after a failover its offsets would be given out again, behind the reader."""
    call(boss, "alter_topic_config", name=topic, config=json.dumps({"min.insync.replicas": 2}))
    tp = TopicPartition(topic, 0)
    async with clients.producer(**QUICK) as producer, clients.consumer(auto_offset_reset="none") as consumer:
        await consumer.assign([tp])
        await consumer.seek(tp, 0)
        await producer.send_and_wait(topic, b"1", partition=0)
        assert [r.value for r in await read(consumer, 1)] == [b"1"]
        for follower in cluster.followers.values():
            follower.pause()
        with boss.transaction(force_rollback=True):
            for _ in range(60):
                boss.execute("select pgq.produce(%s, 'undone', partition => 0)", [topic])
        for _ in range(8):
            assert await consumer.getmany(timeout_ms=100) == {}
            assert await consumer.position(tp) == 1
        for follower in cluster.followers.values():
            follower.resume()
        while await consumer.position(tp) == 1:
            assert await consumer.getmany(timeout_ms=100) == {}
        assert await consumer.position(tp) == 61


STUCK_MEMBER = """
import sys, pgq
consumer = pgq.Consumer("orders", dsn=sys.argv[1], group_id="g", session_timeout_ms=1000, enable_auto_commit=False)
while not consumer.assignment():
    consumer.getmany(timeout_ms=50)
consumer.commit({tp: 0 for tp in consumer.assignment()})
"""


@pytest.mark.parametrize("world", ["sync"])
async def test_a_member_that_waits_for_standbys_when_it_is_killed_frees_its_partitions(
    clients: Clients, cluster: EmbeddedCluster, cluster_dsn: str, boss: Connection, topic: str
) -> None:
    """The server does not notice that such a client is gone; another member ends its session."""
    for follower in cluster.followers.values():
        follower.pause()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", STUCK_MEMBER, cluster_dsn)
    try:
        await until(lambda: value(boss, "select count(*) from pgq.partition_owner") == 3)
        await until(lambda: bool(waiting(boss)))
        process.kill()
        started = time.monotonic()
        async with clients.consumer(topic, group_id="g", enable_auto_commit=False) as consumer:
            while len(consumer.assignment()) < 3:
                await consumer.getmany(timeout_ms=50)
            assert time.monotonic() - started < 15
            assert value(boss, "select min(epoch) from pgq.partition_owner") == 2
        for follower in cluster.followers.values():
            follower.resume()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def fail_over_without(cluster: EmbeddedCluster, boss: Connection, work: Callable[[], Any]) -> None:
    """Kill the leader, and promote a follower that has nothing of the work."""
    for follower in cluster.followers.values():
        await asyncio.to_thread(follower.stop)
    await work()
    boss.close()
    cluster.leader.kill()
    name, follower = next(iter(cluster.followers.items()))
    cluster.synchronous = 0  # the other follower does not come back
    await asyncio.to_thread(follower.start)
    await asyncio.to_thread(cluster.promote, name)


async def fill(producer: Any, topic: str, word: str, count: int) -> None:
    for number in range(count):
        await producer.send_and_wait(topic, f"{word} {number}".encode(), partition=0, acks=1)


@pytest.mark.parametrize("world", ["async"])
@pytest.mark.parametrize("written_since", [0, 4], ids=["shorter", "longer"])
async def test_a_consumer_notices_that_a_failover_has_lost_what_it_has_read(
    clients: Clients, cluster: EmbeddedCluster, boss: Connection, topic: str, written_since: int
) -> None:
    """The new leader's log ends before the position, or has other records in the place of those delivered."""
    tp = TopicPartition(topic, 0)
    async with clients.producer(**QUICK) as producer, clients.consumer(auto_offset_reset="none") as consumer:
        await consumer.assign([tp])
        await consumer.seek(tp, 0)
        await fill(producer, topic, "kept", 3)
        await read(consumer, 3)
        await until(lambda: all(lag == 0 for (lag,) in rows(boss, REPLAY_LAG)))

        async def work() -> None:
            await fill(producer, topic, "lost", 2)
            await read(consumer, 2)

        await fail_over_without(cluster, boss, work)
        await fill(producer, topic, "new", written_since)
        with pytest.raises(errors.OffsetOutOfRangeError, match=r"failover|out of range"):
            await consumer.getmany(timeout_ms=10_000)
        await consumer.seek(tp, 3)
        assert [r.value for r in await read(consumer, written_since)] == [b"new %d" % n for n in range(written_since)]


@pytest.mark.parametrize("world", ["sync"])
async def test_offsets_of_records_that_a_failover_has_lost_are_not_committed(
    clients: Clients, cluster: EmbeddedCluster, boss: Connection, topic: str
) -> None:
    """The claim is on the new leader, too; commits under it would skip what was written in the place of the lost."""
    tp = TopicPartition(topic, 0)
    options = {"group_id": "g", "auto_commit_interval_ms": 60_000}
    async with clients.producer(**QUICK) as producer, clients.consumer(topic, **options) as consumer:
        await fill(producer, topic, "kept", 3)
        await read(consumer, 3)
        await consumer.commit()
        await until(lambda: all(lag == 0 for (lag,) in rows(boss, REPLAY_LAG)))

        async def work() -> None:
            await fill(producer, topic, "lost", 2)
            await read(consumer, 2)

        await fail_over_without(cluster, boss, work)
        await fill(producer, topic, "new", 2)
        for _ in range(2):  # the first meets the connection that is gone
            with pytest.raises((errors.CommitFailedError, errors.BrokerNotAvailableError)):
                await consumer.commit({tp: 5})
        assert [r.value for r in await read(consumer, 2)] == [b"new 0", b"new 1"]
