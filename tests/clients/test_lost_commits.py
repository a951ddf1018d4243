"""Connections are lost around commits: an idempotent producer appends every record once, in order, where it says."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise
from typing import Any

import pytest

from pgq import TopicPartition, errors
from tests.plugins.proxy import Loss, Proxy
from tests.plugins.sessions import Connection, rows

from .conftest import Clients

FLUSHES = 500
QUICK: dict[str, Any] = {"linger_ms": 0, "batch_size": 1, "retry_backoff_ms": 1, "retry_backoff_max_ms": 10}
"""A flush a record, and no time lost between attempts."""


def log(conn: Connection, topic: str) -> dict[int, list[tuple[int, int]]]:
    """Offset and number of each record, by partition."""
    found: dict[int, list[tuple[int, int]]] = {}
    for partition, offset, number in rows(
        conn, f'select partition, "offset", value::int from pgq_topic.{topic} order by partition, "offset"'
    ):
        found.setdefault(partition, []).append((offset, number))
    return found


def anomalies(sent: dict[int, list[int]], found: dict[int, list[tuple[int, int]]]) -> dict[str, int]:
    """What is wrong with a log, given what was sent to each partition, in order."""
    count = {"lost": 0, "duplicates": 0, "reordered": 0}
    for partition, numbers in sent.items():
        there = [number for _, number in found.get(partition, [])]
        count["lost"] += len(set(numbers) - set(there))
        count["duplicates"] += len(there) - len(set(there))
        firsts = list(dict.fromkeys(there))
        count["reordered"] += sum(a > b for a, b in pairwise(firsts))
    return {name: number for name, number in count.items() if number}


def test_the_check_finds_what_is_wrong() -> None:
    sent = {0: [0, 1, 2, 3]}
    assert anomalies(sent, {0: [(0, 0), (1, 1), (4, 2), (5, 3)]}) == {}
    assert anomalies(sent, {0: [(0, 0), (1, 1), (2, 3)]}) == {"lost": 1}
    assert anomalies(sent, {0: [(0, 0), (1, 1), (2, 2), (3, 1), (4, 3)]}) == {"duplicates": 1}
    assert anomalies(sent, {0: [(0, 0), (1, 2), (2, 1), (3, 3)]}) == {"reordered": 1}


async def flush_all(producer: Any, topic: str, count: int) -> tuple[dict[int, list[int]], list[Any]]:
    """Send numbers to partitions in turn; return them by partition, and what their futures said."""
    sent: dict[int, list[int]] = {}
    futures = []
    for number in range(count):
        partition = number % 3
        sent.setdefault(partition, []).append(number)
        futures.append(await producer.send(topic, b"%d" % number, partition=partition))
    return sent, [await future for future in futures]


async def test_every_first_commit_is_lost(
    clients: Clients, conn: Connection, proxy: Proxy, dsn: str, wide_topic: str
) -> None:
    """Before it reached the server, or after, or its answer; sometimes that of the second attempt, too."""
    dice = random.Random(clients.world)

    def plan(number: int) -> Loss | None:
        return dice.choice(list(Loss)) if number % 2 or dice.random() < 0.1 else None

    proxy.plan = plan
    async with clients.producer(dsn=proxy.dsn(dsn), **QUICK) as producer:
        sent, said = await flush_all(producer, wide_topic, FLUSHES)
    assert len(proxy.lost) >= FLUSHES * 0.9
    assert set(proxy.lost) == set(Loss)
    found = log(conn, wide_topic)
    assert anomalies(sent, found) == {}
    for number, metadata in enumerate(said):
        assert (metadata.offset, number) in found[metadata.partition]


async def test_without_idempotence_lost_answers_make_duplicates(
    clients: Clients, conn: Connection, proxy: Proxy, dsn: str, wide_topic: str
) -> None:
    """What the test above would find if flushes were not marked."""
    proxy.plan = lambda number: Loss.REPLY if number % 2 else None
    async with clients.producer(dsn=proxy.dsn(dsn), enable_idempotence=False, **QUICK) as producer:
        sent, _ = await flush_all(producer, wide_topic, 30)
    assert anomalies(sent, log(conn, wide_topic)) == {"duplicates": 30}


async def test_without_retries_the_outcome_stays_unknown(
    clients: Clients, conn: Connection, proxy: Proxy, dsn: str, topic: str
) -> None:
    for loss, there in ((Loss.REQUEST, 0), (Loss.REPLY, 1)):
        proxy.plan = lambda _number, loss=loss: loss
        async with clients.producer(dsn=proxy.dsn(dsn), retries=0, **QUICK) as producer:
            future = await producer.send(topic, b"1")
            with pytest.raises(errors.BrokerNotAvailableError) as caught:
                await future
            assert caught.value.retriable
            with pytest.raises(errors.BrokerNotAvailableError):
                await producer.flush()
        assert len(log(conn, topic).get(0, [])) == there


async def test_a_server_that_says_nothing_is_given_up(
    clients: Clients, conn: Connection, proxy: Proxy, dsn: str, topic: str
) -> None:
    """The network swallows everything for a while: attempts end by request_timeout_ms, and one succeeds in the end."""
    async with clients.producer(dsn=proxy.dsn(dsn), request_timeout_ms=300, **QUICK) as producer:
        await producer.send_and_wait(topic, b"1")
        proxy.open.clear()
        future = await producer.send(topic, b"2")
        waiting = asyncio.ensure_future(future_result(future))
        done, _ = await asyncio.wait([waiting], timeout=0.8)
        assert not done
        proxy.open.set()
        assert (await waiting).offset >= 1
    assert anomalies({0: [1, 2]}, log(conn, topic)) == {}


async def test_delivery_timeout_ends_it(clients: Clients, proxy: Proxy, dsn: str, topic: str) -> None:
    options = {"request_timeout_ms": 200, "delivery_timeout_ms": 1000} | QUICK
    async with clients.producer(dsn=proxy.dsn(dsn), **options) as producer:
        await producer.send_and_wait(topic, b"1")
        proxy.plan = lambda _number: Loss.REQUEST
        future = await producer.send(topic, b"2")
        with pytest.raises(errors.BrokerNotAvailableError):
            await future
        assert len(proxy.lost) > 3
        proxy.plan = lambda _number: None
        await producer.send_and_wait(topic, b"3")
        with pytest.raises(errors.BrokerNotAvailableError):
            await producer.flush()


async def test_records_wait_while_the_server_is_away(
    clients: Clients, conn: Connection, proxy: Proxy, dsn: str, wide_topic: str
) -> None:
    """Consumers and producers of both worlds go on when it is back, through the same proxy."""
    async with clients.producer(dsn=proxy.dsn(dsn), retry_backoff_ms=1) as producer:
        futures = []
        for number in range(300):
            if number % 50 == 25:
                proxy.cut()
            futures.append(await producer.send(wide_topic, b"%d" % number, partition=0))
        said = [await future for future in futures]
    assert anomalies({0: list(range(300))}, log(conn, wide_topic)) == {}
    assert [metadata.offset for metadata in said] == sorted(metadata.offset for metadata in said)
    assert TopicPartition(wide_topic, 0) == TopicPartition(said[0].topic, said[0].partition)


async def test_the_buffer_is_bounded_while_the_server_is_away(
    clients: Clients, conn: Connection, proxy: Proxy, dsn: str, topic: str
) -> None:
    limit = 200_000
    options = {"buffer_memory": limit, "max_block_ms": 300, "retry_backoff_ms": 1}
    async with clients.producer(dsn=proxy.dsn(dsn), **options) as producer:
        await producer.send_and_wait(topic, b"0")
        proxy.open.clear()
        taken = 1
        while producer.metrics()["buffer_available_bytes"]:
            await producer.send(topic, b"%d" % taken)
            taken += 1
        with pytest.raises(errors.BufferFullError) as caught:
            await producer.send(topic, b"one too many")
        assert caught.value.retriable
        assert limit <= producer.metrics()["buffer_bytes"] < limit + 1000
        assert producer.metrics()["buffer_available_bytes"] == 0
        assert producer.metrics()["buffer_wait_seconds_total"] >= 0.3
        proxy.open.set()
        await producer.flush()
        assert producer.metrics()["buffer_bytes"] == 0
    assert anomalies({0: list(range(taken))}, log(conn, topic)) == {}


async def future_result(future: Any) -> Any:
    return await future
