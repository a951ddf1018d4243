"""Records and offsets in the application's own transaction: all become visible at its commit, or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg.rows import dict_row

from pgq import RecordMetadata, TopicPartition, errors, partition_for_key
from tests.plugins.sessions import Connection, rows, value

from .conftest import Clients, expect_nothing, read

Both = tuple[Clients, Callable[[], Any]]


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_records_are_visible_after_the_commit_only(
    clients_and_application: Both, conn: Connection, topic: str, end: str, isolation: str
) -> None:
    clients, application = clients_and_application
    conn.execute("create table account (balance int)")
    async with clients.producer() as producer, clients.consumer(topic) as consumer, application() as app:
        await app.execute(f"begin isolation level {isolation}")
        await app.execute("insert into account values (1)")
        futures = [
            await producer.send(topic, b"%d" % i, timestamp_ms=5, headers=[("h", None)], connection=app.raw)
            for i in range(3)
        ]
        assert all(future.done() and future.exception() is None for future in futures)
        assert [await future for future in futures] == [RecordMetadata(topic, 0, i, 5) for i in range(3)]
        await expect_nothing(consumer)
        await app.execute(end)
        assert not app.closed
        await (await producer.send(topic, b"after"))
        expected = [b"0", b"1", b"2", b"after"] if end == "commit" else [b"after"]
        assert [record.value for record in await read(consumer, len(expected))] == expected
        assert value(conn, "select count(*) from account") == (1 if end == "commit" else 0)
        await app.execute("select 1")


@pytest.mark.usefixtures("any_time")
async def test_everything_of_a_record_is_kept(clients_and_application: Both, wide_topic: str) -> None:
    clients, application = clients_and_application
    sent = [
        {
            "value": b"v",
            "key": b"k",
            "headers": [("a", b"1"), ("a", None), ("", b"")],
            "timestamp_ms": 1_709_210_096_789,
        },
        {"value": None, "key": b"", "headers": [("n", None)], "timestamp_ms": 0},
        {"value": b"", "key": None, "headers": None, "timestamp_ms": 253_402_300_799_999},
        {"value": bytes(range(256)), "key": bytes(range(256)), "headers": [], "timestamp_ms": 1},
    ]
    async with clients.producer() as producer, clients.consumer(wide_topic) as consumer, application() as app:
        for record in sent:
            await producer.send(wide_topic, **record, partition=2, connection=app.raw)
        received = await read(consumer, len(sent))
    assert [(r.partition, r.value, r.key, r.headers, r.timestamp) for r in received] == [
        (2, s["value"], s["key"], tuple(s["headers"] or ()), s["timestamp_ms"]) for s in sent
    ]


@pytest.mark.parametrize("partitioner", ["murmur2", "crc32", lambda key, partitions: len(key) % partitions])
async def test_serializers_and_partitioner_apply(
    clients_and_application: Both, wide_topic: str, partitioner: Any
) -> None:
    clients, application = clients_and_application
    producer = clients.producer(key_serializer=str.encode, value_serializer=str.encode, partitioner=partitioner)
    async with producer, application() as app:
        for key in ("a key", "another", "", "k" * 100):
            buffered = await (await producer.send(wide_topic, "v", key=key))
            direct = await (await producer.send(wide_topic, "v", key=key, connection=app.raw))
            assert buffered.partition == partition_for_key(key.encode(), 3, partitioner)
            assert (direct.partition, direct.offset) == (buffered.partition, buffered.offset + 1)
        chosen = await (await producer.send(wide_topic, "v", key="a key", partition=2, connection=app.raw))
        assert chosen.partition == 2


@pytest.mark.parametrize(
    "record, error",
    [
        ({"topic": "nope"}, errors.UnknownTopicError),
        ({"partition": 7}, errors.UnknownPartitionError),
        ({"value": bytes(1_048_577)}, errors.MessageTooLargeError),
        ({"value": "text"}, errors.InvalidRecordError),
        ({"headers": [("h", 1)]}, errors.InvalidRecordError),
        ({"timestamp_ms": -1}, errors.InvalidTimestampError),
    ],
)
async def test_refused_record_raises_at_once(
    clients_and_application: Both, topic: str, record: dict[str, Any], error: type[errors.PgqError]
) -> None:
    clients, application = clients_and_application
    async with clients.producer() as producer, application() as app:
        await app.execute("begin")
        with pytest.raises(error):
            await producer.send(**({"topic": topic, "value": b"v", "connection": app.raw} | record))
        await app.execute("rollback")
        assert not app.closed
        assert (await (await producer.send(topic, b"v", connection=app.raw))).offset == 0


async def test_failed_transaction_raises(clients_and_application: Both, topic: str) -> None:
    clients, application = clients_and_application
    async with clients.producer() as producer, application() as app:
        await app.execute("begin")
        with pytest.raises((psycopg.Error, asyncpg.PostgresError)):
            await app.execute("select 1 / 0")
        with pytest.raises(errors.DatabaseError, match="25P02"):
            await producer.send(topic, b"v", connection=app.raw)
        await app.execute("rollback")


async def test_savepoint(clients_and_application: Both, topic: str) -> None:
    clients, application = clients_and_application
    async with clients.producer() as producer, clients.consumer(topic) as consumer, application() as app:
        await app.execute("begin")
        await app.execute("savepoint s")
        await producer.send(topic, b"lost", connection=app.raw)
        await app.execute("rollback to s")
        await producer.send(topic, b"kept", connection=app.raw)
        await app.execute("commit")
        assert [(r.offset, r.value) for r in await read(consumer, 1)] == [(1, b"kept")]


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_offsets_are_committed_with_the_applications_transaction(
    clients_and_application: Both, topic: str, end: str
) -> None:
    clients, application = clients_and_application
    tp = TopicPartition(topic, 0)
    async with (
        clients.producer() as producer,
        clients.consumer(topic, group_id="g", enable_auto_commit=False) as consumer,
        application() as app,
    ):
        for i in range(5):
            await producer.send(topic, b"%d" % i)
        await producer.flush()
        assert len(await read(consumer, 5)) == 5
        await app.execute("begin")
        await consumer.commit({tp: 3}, connection=app.raw)
        await producer.send(topic, b"result", connection=app.raw)
        assert await consumer.committed(tp) is None
        await app.execute(end)
        assert await consumer.committed(tp) == (3 if end == "commit" else None)
        assert not app.closed
    async with clients.consumer(topic, group_id="g") as consumer:
        assert (await read(consumer, 1))[0].offset == (3 if end == "commit" else 0)


async def test_connection_of_another_kind_is_refused(clients_and_application: Both, topic: str) -> None:
    clients, _ = clients_and_application
    async with clients.producer() as producer, clients.consumer(topic, group_id="g") as consumer:
        for connection in (object(), 1, "postgresql://"):
            with pytest.raises(errors.InvalidRequestError, match=type(connection).__name__):
                await producer.send(topic, b"v", connection=connection)
            with pytest.raises(errors.InvalidRequestError, match=type(connection).__name__):
                await consumer.commit({TopicPartition(topic, 0): 1}, connection=connection)


async def test_connection_of_the_other_world_is_refused(dsn: str, conn: Connection, topic: str) -> None:
    async with Clients("async", dsn).producer() as producer:
        with pytest.raises(errors.InvalidRequestError):
            await producer.send(topic, b"v", connection=conn)
    async with await psycopg.AsyncConnection.connect(dsn) as app, Clients("sync", dsn).producer() as producer:
        with pytest.raises(errors.InvalidRequestError):
            await producer.send(topic, b"v", connection=app)


async def test_row_factory_and_implicit_transaction_of_psycopg(dsn: str, conn: Connection, topic: str) -> None:
    with psycopg.connect(dsn, row_factory=dict_row) as app:
        async with Clients("sync", dsn).producer() as producer:
            assert (await (await producer.send(topic, b"v", connection=app))).offset == 0
            assert value(conn, "select count(*) from pgq.fetch(%s, 0, 0)", topic) == 0
            app.commit()
    assert value(conn, "select count(*) from pgq.fetch(%s, 0, 0)", topic) == 1


async def test_connection_from_a_pool_of_asyncpg(dsn: str, conn: Connection, topic: str) -> None:
    async with (
        asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool,
        Clients("async", dsn).producer() as producer,
        pool.acquire() as app,
        app.transaction(),
    ):
        await producer.send(topic, b"v", connection=app)
    assert rows(conn, "select value from pgq.fetch(%s, 0, 0)", topic) == [(b"v",)]
