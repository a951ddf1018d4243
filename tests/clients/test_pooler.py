"""Through PgBouncer, the real one, in transaction mode: every transaction may come to another session of the server."""

from __future__ import annotations

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import pgq
from tests.acceptance.test_cli import refusal
from tests.plugins.pooler import POOLED_SESSIONS
from tests.plugins.sessions import Connection, append_locks, rows
from tests.plugins.sessions import call as call_sql

from .applications import (
    Undo,
    async_engine,
    asyncpg_connection,
    call,
    engine,
    opened,
    psycopg_async_connection,
    psycopg_connection,
)
from .conftest import Clients, read


def kept(conn: Connection, topic: str = "orders") -> list[bytes]:
    return [v for (v,) in rows(conn, "select value from pgq.fetch(%s, 0, 0)", topic)]


APPLICATIONS = {
    "psycopg": lambda dsn: psycopg_connection(dsn, prepare_threshold=None),
    "psycopg-async": lambda dsn: psycopg_async_connection(dsn, prepare_threshold=None),
    "asyncpg": lambda dsn: asyncpg_connection(dsn, statement_cache_size=0),
}


@pytest.mark.parametrize("kind", APPLICATIONS)
async def test_the_applications_transactions(
    kind: str, dsn: str, pooled_dsn: str, conn: Connection, topic: str
) -> None:
    """Two applications take turns, so that each goes from session to session."""
    async with (
        APPLICATIONS[kind](pooled_dsn) as one,
        APPLICATIONS[kind](pooled_dsn) as two,
        opened(one.producer(dsn=dsn)) as producer,
    ):
        expected = []
        for n in range(12):
            app = (one, two)[n % 2]
            async with app.transaction():
                await call(producer.send(topic, b"send %d" % n, connection=app.connection))
                if n % 3 == 0:
                    raise Undo
                expected.append(b"send %d" % n)
            outbox = pgq.outbox(app.connection)
            async with app.sending(outbox):
                outbox.send(topic, b"outbox %d" % n)
                async with app.savepoint(outbox):
                    outbox.send(topic, b"lost")
                    raise Undo
                if n % 3 == 1:
                    raise Undo
                expected.append(b"outbox %d" % n)
            assert append_locks(conn) == 0
    assert kept(conn) == expected


async def test_sessions_of_sqlalchemy(pooled_dsn: str, conn: Connection, topic: str) -> None:
    with Session(engine("psycopg", pooled_dsn, {"prepare_threshold": None})) as session:
        outbox = pgq.outbox(session)
        for n in range(12):
            outbox.send(topic, b"%d" % n)
            session.commit() if n % 3 else session.rollback()
    async with AsyncSession(async_engine("asyncpg", pooled_dsn, {"statement_cache_size": 0})) as session:
        outbox = pgq.outbox(session)
        for n in range(12):
            outbox.send(topic, b"%d" % n)
            await (session.commit() if n % 3 else session.rollback())
    assert kept(conn) == [b"%d" % n for n in range(12) if n % 3] * 2


@pytest.mark.parametrize("world", ["sync", "async"])
async def test_producers(world: str, pooled_dsn: str, conn: Connection, topic: str) -> None:
    client = pgq.AsyncProducer if world == "async" else pgq.Producer
    async with opened(client(pooled_dsn)) as one, opened(client(pooled_dsn)) as two:
        for n in range(20):
            await call((one, two)[n % 2].send(topic, b"%d" % n))
            await call((one, two)[n % 2].flush())
    assert kept(conn) == [b"%d" % n for n in range(20)]


@pytest.mark.parametrize("world", ["sync", "async"])
async def test_consumers(world: str, pooled_dsn: str, conn: Connection, topic: str) -> None:
    for n in range(10):
        call_sql(conn, "produce", topic=topic, value=b"%d" % n)
    client = pgq.AsyncConsumer if world == "async" else pgq.Consumer
    options = {"dsn": pooled_dsn, "auto_offset_reset": "earliest", "max_poll_records": 2}
    async with opened(client(topic, **options)) as one, opened(client(topic, **options)) as two:
        read: list[list[bytes]] = [[], []]
        while min(map(len, read)) < 10:
            for values, consumer in zip(read, (one, two), strict=True):
                for records in (await call(consumer.getmany(timeout_ms=1000))).values():
                    values += [record.value for record in records]
        assert settings_left(pooled_dsn) == {None}
    assert read == [[b"%d" % n for n in range(10)]] * 2


@pytest.mark.parametrize("world", ["sync", "async"])
async def test_producers_leave_no_setting_behind(world: str, pooled_dsn: str, topic: str) -> None:
    client = pgq.AsyncProducer if world == "async" else pgq.Producer
    async with opened(client(pooled_dsn)) as producer:
        await call(producer.send(topic, b"v"))
        await call(producer.flush())
        assert settings_left(pooled_dsn) == {None}


def settings_left(pooled_dsn: str) -> set[tuple[str, str] | None]:
    """What a session of the server has set, for each of them."""
    connections = [psycopg.connect(pooled_dsn) for _ in range(POOLED_SESSIONS)]
    try:
        return {
            c.execute(
                "select name, setting from pg_settings where source = 'session' and setting <> reset_val"
                " and name not in ('application_name', 'client_encoding')"
            ).fetchone()
            for c in connections
        }
    finally:
        for c in connections:
            c.close()


@pytest.mark.parametrize("world", ["sync", "async"])
async def test_a_member_needs_a_session_of_its_own(
    conn: Connection, dsn: str, pooled_dsn: str, topic: str, world: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused with the way out, which PGQ_DIRECT_DSN is; who shares nothing may go through the pooler."""
    clients = Clients(world, pooled_dsn)
    call_sql(conn, "produce", topic=topic, value=b"1")
    with pytest.raises(pgq.errors.UnsupportedPoolerError, match="PGQ_DIRECT_DSN"):
        await clients.consumer(topic, group_id="g").__aenter__()
    async with clients.consumer(topic) as alone:
        assert [r.value for r in await read(alone, 1)] == [b"1"]
    async with clients.consumer(group_id="g", enable_auto_commit=False) as assigned:
        await assigned.assign([pgq.TopicPartition(topic, 0)])
        assert [r.value for r in await read(assigned, 1)] == [b"1"]
        await assigned.commit()
    assert rows(conn, "select \"offset\" from pgq.committed_offsets('g')") == [(1,)]
    monkeypatch.setenv("PGQ_DSN", pooled_dsn)
    monkeypatch.setenv("PGQ_DIRECT_DSN", dsn)
    async with clients.consumer(topic, dsn=None, group_id="g") as member:
        call_sql(conn, "produce", topic=topic, value=b"2")
        assert [r.value for r in await read(member, 1)] == [b"2"]
        assert rows(conn, "select count(*) from pgq.group_member") == [(1,)]


def test_the_service_refuses_a_pooler(pooled_dsn: str) -> None:
    assert "PGQ_DIRECT_DSN" in refusal("serve", "--port", "0", "--dsn", pooled_dsn)
    assert "PGQ_DIRECT_DSN" in refusal("maintain", "--once", "--dsn", pooled_dsn)
