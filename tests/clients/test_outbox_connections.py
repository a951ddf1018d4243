"""send(connection=) with the connections of every library: what its transaction does to a record."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy
from django.db import connections
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import pgq
from pgq import RecordMetadata, TopicPartition, errors
from pgq.core.partitioner import partition_for_key
from tests.plugins.sessions import Connection, append_locks, rows
from tests.plugins.sessions import call as call_sql

from .applications import KINDS, Undo, async_engine, call, django_database, engine, opened

OF_SQLALCHEMY = [name for name in KINDS if name.startswith("sqlalchemy")]


@pytest.fixture(params=KINDS)
def application(request: pytest.FixtureRequest, dsn: str) -> Any:
    return KINDS[request.param](dsn)


@pytest.fixture(autouse=True)
def account(conn: Connection) -> None:
    """A table of the application."""
    conn.execute("create table account (balance int)")


def kept(conn: Connection, topic: str = "orders") -> list[Any]:
    return [v for (v,) in rows(conn, "select value from pgq.fetch(%s, 0, 0)", topic)]


def accounts(conn: Connection) -> list[int]:
    return [v for (v,) in rows(conn, "select balance from account order by 1")]


async def test_a_transaction_decides(application: Any, dsn: str, conn: Connection, topic: str) -> None:
    """The record is the first statement: where the library begins lazily, it has not begun."""
    async with application as app, opened(app.producer(dsn=dsn)) as producer:
        for n, undo in enumerate([True, False, True, False]):
            async with app.transaction():
                future = await call(producer.send(topic, b"%d" % n, timestamp_ms=5, connection=app.connection))
                assert future.result() == RecordMetadata(topic, 0, n, 5)
                await app.execute(f"insert into account values ({n})")
                assert append_locks(conn) == 1
                if undo:
                    raise Undo
            assert append_locks(conn) == 0
    assert kept(conn) == [b"1", b"3"]
    assert accounts(conn) == [1, 3]


@pytest.mark.parametrize("kind", OF_SQLALCHEMY)
@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
async def test_transaction_that_sqlalchemy_begins_by_itself(
    kind: str, end: str, dsn: str, conn: Connection, topic: str
) -> None:
    """Nothing has begun when the record is sent: in the driver's connection below it would be committed at once."""
    async with KINDS[kind](dsn) as app, opened(app.producer(dsn=dsn)) as producer:
        await call(producer.send(topic, b"v", connection=app.connection))
        assert kept(conn) == []
        await call(getattr(app.connection, end)())
    assert kept(conn) == ([b"v"] if end == "commit" else [])
    assert append_locks(conn) == 0


async def test_a_savepoint_decides(application: Any, dsn: str, conn: Connection, topic: str) -> None:
    async with application as app, opened(app.producer(dsn=dsn)) as producer, app.transaction():
        async with app.savepoint():
            await call(producer.send(topic, b"lost", connection=app.connection))
            await app.execute("insert into account values (1)")
            raise Undo
        await call(producer.send(topic, b"kept", connection=app.connection))
        async with app.savepoint():
            await call(producer.send(topic, b"kept too", connection=app.connection))
            await app.execute("insert into account values (2)")
    assert kept(conn) == [b"kept", b"kept too"]
    assert accounts(conn) == [2]


async def test_everything_of_a_record_is_kept(application: Any, dsn: str, conn: Connection, wide_topic: str) -> None:
    call_sql(conn, "alter_topic_config", name=wide_topic, config='{"message.timestamp.after.max.ms": 9000000000000000}')
    sent: list[dict[str, Any]] = [
        {
            "value": b"v",
            "key": b"k",
            "headers": [("a", b"1"), ("a", None), ("", b"")],
            "timestamp_ms": 1_709_210_096_789,
        },
        {"value": None, "key": b"", "headers": [("n", None)], "timestamp_ms": 0},
        {"value": b"", "key": None, "headers": None, "timestamp_ms": 253_402_300_799_999},
        {"value": bytes(range(256)), "key": b"%s%(p1)s$1'\\", "headers": [("%s$1", b"\\000'")], "timestamp_ms": 1},
    ]
    async with application as app, opened(app.producer(dsn=dsn)) as producer, app.transaction():
        for record in sent:
            await call(producer.send(wide_topic, **record, partition=2, connection=app.connection))
    with pgq.Consumer(wide_topic, dsn=dsn, auto_offset_reset="earliest") as consumer:
        (received,) = consumer.getmany(timeout_ms=5000).values()
    assert [(r.partition, r.value, r.key, r.headers, r.timestamp) for r in received] == [
        (2, s["value"], s["key"], tuple(s["headers"] or ()), s["timestamp_ms"]) for s in sent
    ]


@pytest.mark.parametrize(
    "record, error",
    [
        ({"topic": "nope"}, errors.UnknownTopicError),
        ({"partition": 7}, errors.UnknownPartitionError),
        ({"value": bytes(1_048_577)}, errors.MessageTooLargeError),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
async def test_what_the_server_refuses_has_its_error(
    application: Any, dsn: str, topic: str, record: dict[str, Any], error: type[errors.PgqError]
) -> None:
    async with application as app, opened(app.producer(dsn=dsn)) as producer:
        async with app.transaction():
            with pytest.raises(error) as caught:
                await call(producer.send(**({"topic": topic, "value": b"v", "connection": app.connection} | record)))
            assert caught.value.__cause__ is not None
            raise Undo
        async with app.transaction():
            future = await call(producer.send(topic, b"v", connection=app.connection))
        assert future.result().offset == 0


async def test_failed_transaction(application: Any, dsn: str, topic: str) -> None:
    async with application as app, opened(app.producer(dsn=dsn)) as producer, app.transaction():
        with pytest.raises(Exception, match="division by zero"):
            await app.execute("select 1 / 0")
        with pytest.raises(errors.DatabaseError, match="25P02"):
            await call(producer.send(topic, b"v", connection=app.connection))
        raise Undo


async def test_offsets_are_committed_in_the_transaction(
    application: Any, dsn: str, conn: Connection, topic: str
) -> None:
    tp = TopicPartition(topic, 0)
    conn.execute("select pgq.produce('orders', 'v') from generate_series(1, 9)")
    options = {"group_id": "g", "enable_auto_commit": False}
    async with application as app, opened(app.consumer(topic, dsn=dsn, **options)) as consumer:
        for offset, undo in [(3, False), (5, True)]:
            async with app.transaction():
                await call(consumer.commit({tp: offset}, connection=app.connection))
                if undo:
                    raise Undo
            assert await call(consumer.committed(tp)) == 3


@pytest.mark.parametrize("kind", ["psycopg", "psycopg-async", "asyncpg", "django"])
async def test_without_a_transaction_a_record_is_one_of_its_own(
    kind: str, dsn: str, conn: Connection, topic: str
) -> None:
    options = {"autocommit": True} if kind.startswith("psycopg") else {}
    async with KINDS[kind](dsn, **options) as app, opened(app.producer(dsn=dsn)) as producer:
        await call(producer.send(topic, b"v", connection=app.connection))
        assert kept(conn) == [b"v"]


async def test_autocommit_of_sqlalchemy(dsn: str, conn: Connection, topic: str) -> None:
    for n, driver in enumerate(["psycopg", "psycopg2"], 1):
        with Session(engine(driver, dsn, isolation_level="AUTOCOMMIT")) as session, pgq.Producer(dsn) as producer:
            producer.send(topic, b"v", connection=session)
            assert len(kept(conn)) == n
            session.rollback()
    for driver in ("psycopg", "asyncpg"):
        async with (
            AsyncSession(async_engine(driver, dsn, isolation_level="AUTOCOMMIT")) as session,
            pgq.AsyncProducer(dsn) as producer,
        ):
            await producer.send(topic, b"v", connection=session)
            await session.rollback()
    assert len(kept(conn)) == 4


async def test_scoped_sessions(dsn: str, conn: Connection, topic: str) -> None:
    scoped = scoped_session(sessionmaker(engine("psycopg", dsn)))
    with pgq.Producer(dsn) as producer:
        producer.send(topic, b"lost", connection=scoped)
        scoped.rollback()
        producer.send(topic, b"sync", connection=scoped)
        scoped.commit()
        scoped.remove()
    async_scoped = async_scoped_session(async_sessionmaker(async_engine("asyncpg", dsn)), scopefunc=lambda: 1)
    async with pgq.AsyncProducer(dsn) as producer:
        await producer.send(topic, b"lost", connection=async_scoped)
        await async_scoped.rollback()
        await producer.send(topic, b"async", connection=async_scoped)
        await async_scoped.commit()
        await async_scoped.remove()
    assert kept(conn) == [b"sync", b"async"]


async def test_sync_session_within_run_sync(dsn: str, conn: Connection, topic: str) -> None:
    with pgq.Producer(dsn) as producer:
        for driver in ("psycopg", "asyncpg"):
            async with AsyncSession(async_engine(driver, dsn)) as session:
                await session.run_sync(lambda sync: producer.send(topic, b"v", connection=sync))
                await session.commit()
    assert kept(conn) == [b"v"] * 2


async def test_connection_of_the_other_world_is_refused(application: Any, dsn: str, topic: str) -> None:
    async with application as app:
        if app.world == "sync":
            async with pgq.AsyncProducer(dsn) as producer:
                with pytest.raises(errors.InvalidRequestError, match=r"async clients an asyncpg\.Connection"):
                    await producer.send(topic, b"v", connection=app.connection)
        else:
            with pgq.Producer(dsn) as producer, pytest.raises(errors.InvalidRequestError, match="sync clients take"):
                producer.send(topic, b"v", connection=app.connection)


def test_what_cannot_be_used_is_refused_with_a_sentence(dsn: str, topic: str) -> None:
    lite = sqlalchemy.create_engine("sqlite://")
    with pgq.Producer(dsn) as producer:
        with Session(lite) as session, pytest.raises(errors.InvalidRequestError, match="sqlite"):
            producer.send(topic, b"v", connection=session)
        with (
            Session(binds={sqlalchemy.Table: lite}) as session,
            pytest.raises(errors.InvalidRequestError, match="binds"),
        ):
            producer.send(topic, b"v", connection=session)
        without_begin = Session(engine("psycopg", dsn), autobegin=False)
        with without_begin as session, pytest.raises(errors.IllegalStateError, match="begin"):
            producer.send(topic, b"v", connection=session)
        connection = engine("psycopg", dsn).connect()
        connection.close()
        with pytest.raises(errors.IllegalStateError, match="closed"):
            producer.send(topic, b"v", connection=connection)
        with django_database(dsn), pytest.raises(errors.InvalidRequestError, match="sqlite"):
            producer.send(topic, b"v", connection=connections["other"])


async def test_async_connection_that_is_not_open_is_refused(dsn: str, topic: str) -> None:
    async with pgq.AsyncProducer(dsn) as producer:
        with pytest.raises(errors.InvalidRequestError, match="await it"):
            await producer.send(topic, b"v", connection=async_engine("asyncpg", dsn).connect())


async def test_key_decides_the_partition(application: Any, dsn: str, wide_topic: str) -> None:
    async with application as app, opened(app.producer(dsn=dsn)) as producer:
        for key in (b"a", b"b", b"c", b"d"):
            future = await call(producer.send(wide_topic, b"v", key=key, connection=app.connection))
            assert future.result().partition == partition_for_key(key, 3)
