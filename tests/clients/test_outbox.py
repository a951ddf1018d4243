"""pgq.outbox: records are appended just before the application's commit, and dropped with what is rolled back."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy
from django.db import transaction
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

import pgq
from pgq import RecordMetadata, errors
from pgq.core.partitioner import partition_for_key
from tests.plugins.sessions import Connection, append_locks, rows
from tests.plugins.sessions import call as call_sql

from .applications import KINDS, Undo, async_engine, django_database, engine

BLOCKS = [name for name in KINDS if "session" not in name]


@pytest.fixture(params=KINDS)
def application(request: pytest.FixtureRequest, dsn: str) -> Any:
    return KINDS[request.param](dsn)


@pytest.fixture(autouse=True)
def account(conn: Connection) -> None:
    """A table of the application."""
    conn.execute("create table account (balance int primary key)")


@pytest.fixture
def session(dsn: str) -> Iterator[Session]:
    with Session(engine("psycopg", dsn)) as session:
        yield session


class Base(DeclarativeBase): ...


class Account(Base):
    __tablename__ = "account"
    balance: Mapped[int] = mapped_column(primary_key=True)


def kept(conn: Connection, topic: str = "orders") -> list[tuple[int, bytes]]:
    """Offsets and values."""
    return rows(conn, 'select "offset", value from pgq.fetch(%s, 0, 0)', topic)


def accounts(conn: Connection) -> list[int]:
    return [v for (v,) in rows(conn, "select balance from account order by 1")]


def is_dropped(delivery: Any) -> bool:
    return delivery.done() and isinstance(delivery.exception(), errors.IllegalStateError)


async def test_records_are_appended_at_the_end(application: Any, conn: Connection, topic: str) -> None:
    """A slow transaction holds no offset: others append, and are read, while it goes on."""
    async with application as app:
        outbox = pgq.outbox(app.connection)
        async with app.sending(outbox):
            deliveries = [outbox.send(topic, b"%d" % n, timestamp_ms=n) for n in range(3)]
            await app.execute("insert into account values (1)")
            deliveries.append(outbox.send(topic, b"3", timestamp_ms=3))
            assert append_locks(conn) == 0
            conn.execute("select pgq.produce('orders', 'other')")
            assert kept(conn) == [(0, b"other")]
            assert not any(delivery.done() for delivery in deliveries)
            with pytest.raises(errors.IllegalStateError, match="not appended yet"):
                deliveries[0].result()
        assert [delivery.result() for delivery in deliveries] == [RecordMetadata(topic, 0, n + 1, n) for n in range(4)]
    assert kept(conn) == [(0, b"other"), *((n + 1, b"%d" % n) for n in range(4))]
    assert accounts(conn) == [1]


async def test_rollback_drops_what_was_sent(application: Any, conn: Connection, topic: str) -> None:
    """And the outbox goes on with the next transaction."""
    async with application as app:
        outbox = pgq.outbox(app.connection)
        for n, undo in enumerate([True, False, True, False]):
            async with app.sending(outbox):
                delivery = outbox.send(topic, b"%d" % n)
                await app.execute(f"insert into account values ({n})")
                if undo:
                    raise Undo
            assert is_dropped(delivery) == undo
    assert kept(conn) == [(0, b"1"), (1, b"3")]
    assert accounts(conn) == [1, 3]


async def test_savepoints(application: Any, conn: Connection, topic: str) -> None:
    async with application as app:
        outbox = pgq.outbox(app.connection)
        for _ in range(2):
            async with app.sending(outbox):
                outbox.send(topic, b"1")
                async with app.savepoint(outbox):
                    await app.execute("insert into account values (1)")
                    lost = [outbox.send(topic, b"lost")]
                    async with app.savepoint(outbox):
                        lost.append(outbox.send(topic, b"released, then lost"))
                    raise Undo
                outbox.send(topic, b"2")
                async with app.savepoint(outbox):
                    outbox.send(topic, b"3")
                    async with app.savepoint(outbox):
                        outbox.send(topic, b"4")
                    async with app.savepoint(outbox):
                        lost.append(outbox.send(topic, b"lost"))
                        raise Undo
                    outbox.send(topic, b"5")
                outbox.send(topic, b"6")
            assert all(is_dropped(delivery) for delivery in lost)
    assert kept(conn) == [(n, b"%d" % (n % 6 + 1)) for n in range(12)]
    assert accounts(conn) == []


async def test_transaction_that_wrote_nothing_else(application: Any, conn: Connection, topic: str) -> None:
    async with application as app:
        outbox = pgq.outbox(app.connection)
        async with app.sending(outbox):
            outbox.send(topic, b"v")
        async with app.sending(outbox):
            pass
    assert kept(conn) == [(0, b"v")]


async def test_everything_of_a_record_is_kept(application: Any, dsn: str, conn: Connection, wide_topic: str) -> None:
    call_sql(conn, "alter_topic_config", name=wide_topic, config='{"message.timestamp.after.max.ms": 9000000000000000}')
    conn.execute("select pgq.create_topic('other')")
    sent: list[dict[str, Any]] = [
        {
            "value": b"v",
            "key": b"k",
            "headers": [("a", b"1"), ("a", None), ("", b"")],
            "timestamp_ms": 1_709_210_096_789,
        },
        {"value": None, "key": b"", "headers": {"n": None}, "timestamp_ms": 0},
        {"value": b"", "key": None, "headers": None, "timestamp_ms": 253_402_300_799_999},
        {"value": bytes(range(256)), "key": b"%s%(p1)s$1'\\", "headers": [("%s$1", b"\\000'")], "timestamp_ms": 1},
    ]
    async with application as app:
        outbox = pgq.outbox(app.connection)
        async with app.sending(outbox):
            for n, record in enumerate(sent):
                outbox.send(wide_topic, **record, partition=2)
                outbox.send("other", b"%d" % n, headers=[("n", b"%d" % n)])
    read = rows(
        conn,
        "select value, key, header_keys, header_values, (date_part('epoch', \"timestamp\") * 1000)::int8"
        " from pgq.fetch('wide', 2, 0)",
    )
    pairs = [list(s["headers"].items() if isinstance(s["headers"], dict) else s["headers"] or ()) for s in sent]
    assert read == [
        (s["value"], s["key"], [k for k, _ in p] or None, [v for _, v in p] if p else None, s["timestamp_ms"])
        for s, p in zip(sent, pairs, strict=True)
    ]
    others = rows(conn, "select value, header_keys, header_values from pgq.fetch('other', 0, 0)")
    assert others == [(b"%d" % n, ["n"], [b"%d" % n]) for n in range(4)]


async def test_serializers_and_partitioner(application: Any, conn: Connection, wide_topic: str) -> None:
    async with application as app:
        outbox = pgq.outbox(app.connection, key_serializer="str", value_serializer="json")
        async with app.sending(outbox):
            keyed = [outbox.send(wide_topic, {"n": n}, key=f"k{n}") for n in range(10)]
            keyless = [outbox.send(wide_topic, n) for n in range(10)]
            with pytest.raises(errors.InvalidRecordError):
                outbox.send(wide_topic, object())
        assert [d.result().partition for d in keyed] == [partition_for_key(b"k%d" % n, 3) for n in range(10)]
        assert len({d.result().partition for d in keyless}) == 1, "keyless records stay in order"
        first = keyed[0].result()
    found = rows(conn, "select value from pgq.fetch(%s, %s, %s, 1)", wide_topic, first.partition, first.offset)
    assert found == [(b'{"n":0}',)]


@pytest.mark.parametrize(
    "record, error",
    [
        ({"topic": "no such name!"}, errors.UnknownTopicError),
        ({"topic": None}, errors.UnknownTopicError),
        ({"topic": "nul\0"}, errors.UnknownTopicError),
        ({"partition": -1}, errors.UnknownPartitionError),
        ({"partition": 2**31}, errors.UnknownPartitionError),
        ({"partition": "0"}, errors.UnknownPartitionError),
        ({"value": "text"}, errors.InvalidRecordError),
        ({"headers": [("h", 1)]}, errors.InvalidRecordError),
        ({"timestamp_ms": -1}, errors.InvalidTimestampError),
    ],
)
def test_what_is_refused_at_once(
    dsn: str, conn: Connection, topic: str, record: dict[str, Any], error: type[errors.PgqError]
) -> None:
    with psycopg.connect(dsn) as app, pgq.outbox(app) as outbox:
        with pytest.raises(error):
            outbox.send(**({"topic": topic, "value": b"v"} | record))
        outbox.send(topic, b"kept")
    assert kept(conn) == [(0, b"kept")]


@pytest.mark.parametrize(
    "record, error",
    [
        ({"topic": "nope"}, errors.UnknownTopicError),
        ({"partition": 7}, errors.UnknownPartitionError),
        ({"value": bytes(1_048_577)}, errors.MessageTooLargeError),
        ({"value": bytes(1_048_576), "headers": [("h", b"")]}, errors.MessageTooLargeError),
    ],
    ids=["topic", "partition", "value", "with its headers"],
)
async def test_what_is_refused_at_the_end_fails_the_transaction(
    application: Any, conn: Connection, topic: str, record: dict[str, Any], error: type[errors.PgqError]
) -> None:
    async with application as app:
        outbox = pgq.outbox(app.connection)
        with pytest.raises(error):  # noqa: PT012
            async with app.sending(outbox):
                await app.execute("insert into account values (1)")
                deliveries = [outbox.send(topic, b"v"), outbox.send(**({"topic": topic, "value": b"v"} | record))]
        assert all(map(is_dropped, deliveries))
        async with app.sending(outbox):
            await app.execute("insert into account values (2)")
            outbox.send(topic, b"after")
    assert kept(conn) == [(0, b"after")]
    assert accounts(conn) == [2]


async def test_exception_passes_through_and_drops(application: Any, conn: Connection, topic: str) -> None:
    async with application as app:
        outbox = pgq.outbox(app.connection)
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with app.sending(outbox):
                await app.execute("insert into account values (1)")
                outbox.send(topic, b"v")
                raise ZeroDivisionError
    assert kept(conn) == []
    assert accounts(conn) == []


@pytest.mark.parametrize("kind", BLOCKS)
async def test_send_outside_a_block_is_refused(kind: str, dsn: str, conn: Connection, topic: str) -> None:
    async with KINDS[kind](dsn) as app:
        outbox = pgq.outbox(app.connection)
        with pytest.raises(errors.IllegalStateError, match=r"with pgq\.outbox"):
            outbox.send(topic, b"v")
        async with app.sending(outbox):
            pass
        with pytest.raises(errors.IllegalStateError, match=r"with pgq\.outbox"):
            outbox.send(topic, b"v")
    assert kept(conn) == []


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("undo", [True, False])
async def test_block_within_a_transaction_is_a_savepoint_of_it(
    kind: str, undo: bool, dsn: str, conn: Connection, topic: str
) -> None:
    async with KINDS[kind](dsn) as app:
        outbox = pgq.outbox(app.connection)
        async with app.transaction():
            async with app.sending(outbox):
                await app.execute("insert into account values (1)")
                outbox.send(topic, b"dropped with its block")
                raise Undo
            async with app.sending(outbox):
                await app.execute("insert into account values (2)")
                outbox.send(topic, b"kept with the transaction")
            assert kept(conn) == []
            if undo:
                raise Undo
    assert kept(conn) == ([] if undo else [(0, b"kept with the transaction")])
    assert accounts(conn) == ([] if undo else [2])


def test_unknown_connection_and_options_are_refused(session: Session) -> None:
    with pytest.raises(errors.InvalidRequestError, match="connection is a object"):
        pgq.outbox(object())
    with pytest.raises(errors.InvalidRequestError, match="partitioner"):
        pgq.outbox(session, partitioner="random")
    with pytest.raises(errors.InvalidRequestError, match="value_serializer"):
        pgq.outbox(session, value_serializer="xml")


def test_importing_pgq_imports_no_framework() -> None:
    code = "import sys, pgq; sys.exit(bool({'sqlalchemy', 'django', 'psycopg2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# what a topic's configuration asks for


def test_partitions_by_crc32(session: Session, conn: Connection, wide_topic: str) -> None:
    by_crc32, by_murmur2 = pgq.outbox(session, partitioner="crc32"), pgq.outbox(session)
    keys = [b"key %d" % n for n in range(20)]
    sent = {
        partitioner: [outbox.send(wide_topic, b"v", key=key) for key in keys]
        for partitioner, outbox in (("crc32", by_crc32), ("murmur2", by_murmur2))
    }
    session.commit()
    chosen = {name: [delivery.result().partition for delivery in deliveries] for name, deliveries in sent.items()}
    assert chosen == {name: [partition_for_key(key, 3, name) for key in keys] for name in sent}
    assert chosen["crc32"] != chosen["murmur2"]


def test_timestamps_of_the_topic(session: Session, conn: Connection, topic: str) -> None:
    call_sql(conn, "create_topic", name="stamped", config='{"message.timestamp.type": "LogAppendTime"}')
    outbox = pgq.outbox(session)
    outbox.send("stamped", b"v", timestamp_ms=5)
    outbox.send(topic, b"v", timestamp_ms=5)
    session.commit()
    ages = {
        name: rows(conn, "select clock_timestamp() - timestamp < '1 min' from pgq.fetch(%s, 0, 0)", name)
        for name in ("stamped", topic)
    }
    assert ages == {"stamped": [(True,)], topic: [(False,)]}
    outbox.send(topic, b"v", timestamp_ms=253_402_300_799_999)
    with pytest.raises(errors.InvalidTimestampError):
        session.commit()


def test_min_insync_replicas(session: Session, conn: Connection) -> None:
    """As for pgq.produce: what the application's commit does not wait for is not asked for."""
    call_sql(conn, "create_topic", name="safe", config='{"min.insync.replicas": 2}')
    outbox = pgq.outbox(session)
    outbox.send("safe", b"refused")
    with pytest.raises(errors.NotEnoughReplicasError):
        session.commit()
    session.rollback()
    session.execute(sqlalchemy.text("set local synchronous_commit = local"))
    outbox.send("safe", b"v")
    session.commit()
    assert rows(conn, "select pgq.log_end_offset('safe', 0)") == [(1,)]


# psycopg and asyncpg


def test_rollback_exception_of_psycopg(dsn: str, conn: Connection, topic: str) -> None:
    """psycopg's block swallows it; the outbox must not take that for a success."""
    with psycopg.connect(dsn, autocommit=True) as app:
        outbox = pgq.outbox(app)
        with outbox:
            outer = outbox.send(topic, b"kept")
            with outbox:
                inner = outbox.send(topic, b"dropped")
                raise psycopg.Rollback
        with outbox:
            whole = outbox.send(topic, b"dropped")
            raise psycopg.Rollback
    assert outer.result().offset == 0
    assert is_dropped(inner)
    assert is_dropped(whole)
    assert kept(conn) == [(0, b"kept")]


def test_transaction_that_psycopg_began_by_itself(dsn: str, conn: Connection, topic: str) -> None:
    """The block is a savepoint then, and the application's commit decides."""
    with psycopg.connect(dsn) as app:
        for end in (app.rollback, app.commit):
            app.execute("select 1")
            with pgq.outbox(app) as outbox:
                outbox.send(topic, b"v")
            assert kept(conn) == []
            end()
        assert len(kept(conn)) == 1


async def test_isolation_level_of_asyncpg(dsn: str, conn: Connection, topic: str) -> None:
    app = await asyncpg.connect(dsn)
    async with app.transaction(isolation="serializable"), pgq.outbox(app) as outbox:
        outbox.send(topic, b"v")
    await app.close()
    assert kept(conn) == [(0, b"v")]


# Django


def test_atomic_of_django(dsn: str, conn: Connection, topic: str) -> None:
    """on_commit callbacks of the application's own run as ever, and none of ours is left."""
    ran = []
    with django_database(dsn) as connection:
        with pgq.outbox(connection) as outbox:
            transaction.on_commit(lambda: ran.append(outbox))
            outbox.send(topic, b"v")
            with transaction.atomic(savepoint=False):
                outbox.send(topic, b"w")
        assert ran == [outbox]
        assert connection.run_on_commit == []
        connection.set_autocommit(False)
        with pgq.outbox(connection) as outbox:
            outbox.send(topic, b"lost")
        connection.rollback()
        connection.set_autocommit(True)
    assert kept(conn) == [(0, b"v"), (1, b"w")]


def test_broken_atomic_block_of_django(dsn: str, topic: str) -> None:
    with django_database(dsn) as connection, pgq.Producer(dsn) as producer, transaction.atomic():
        transaction.set_rollback(True)
        with pytest.raises(errors.IllegalStateError, match="atomic"):
            producer.send(topic, b"v", connection=connection)


# Sessions of SQLAlchemy


@pytest.mark.parametrize("end", ["close", "rollback"])
def test_session_that_ends_without_commit_drops(session: Session, conn: Connection, topic: str, end: str) -> None:
    """Also one in which no statement has run yet."""
    outbox = pgq.outbox(session)
    delivery = outbox.send(topic, b"lost")
    getattr(session, end)()
    assert is_dropped(delivery)
    session.execute(sqlalchemy.text("select 1"))
    session.commit()
    assert kept(conn) == []
    outbox.send(topic, b"kept")
    session.commit()
    assert kept(conn) == [(0, b"kept")]


def test_nothing_is_left_of_a_session(dsn: str, topic: str) -> None:
    session = Session(engine("psycopg", dsn))
    for _ in range(3):
        pgq.outbox(session).send(topic, b"v")
    held = weakref.ref(session), weakref.ref(session.info["pgq.outbox"])
    assert len(session.dispatch.before_commit) == 1
    session.close()
    del session
    gc.collect()
    assert [reference() for reference in held] == [None, None]


def test_two_outboxes_of_a_session_append_in_the_order_sent(session: Session, conn: Connection, topic: str) -> None:
    a, b = pgq.outbox(session), pgq.outbox(session, value_serializer="str")
    a.send(topic, b"1")
    b.send(topic, "2")
    a.send(topic, b"3")
    session.commit()
    assert kept(conn) == [(0, b"1"), (1, b"2"), (2, b"3")]


def test_outboxes_of_two_sessions(dsn: str, session: Session, conn: Connection, topic: str) -> None:
    with Session(engine("psycopg2", dsn)) as other:
        mine, its = pgq.outbox(session), pgq.outbox(other)
        mine.send(topic, b"mine")
        its.send(topic, b"its")
        other.commit()
        assert kept(conn) == [(0, b"its")]
        its.send(topic, b"lost")
        session.commit()
        other.rollback()
    assert kept(conn) == [(0, b"its"), (1, b"mine")]


def test_what_events_of_the_session_send(session: Session, conn: Connection, topic: str) -> None:
    """In the flush of the commit itself, and in a listener that comes after the outbox's."""
    outbox = pgq.outbox(session, value_serializer="str")

    def send_account(_: Any, __: Any, account: Account) -> None:
        outbox.send(topic, f"flush {account.balance}")

    def send_late(session: Session) -> None:
        outbox.send(topic, "late")
        session.add(Account(balance=2))

    event.listen(Account, "after_insert", send_account)
    event.listen(session, "before_commit", send_late)
    try:
        session.add(Account(balance=1))
        session.commit()
    finally:
        event.remove(Account, "after_insert", send_account)
    assert [v for _, v in kept(conn)] == [b"flush 1", b"late", b"flush 2"]
    assert accounts(conn) == [1, 2]


def test_failed_flush_drops(session: Session, conn: Connection, topic: str) -> None:
    conn.execute("insert into account values (1)")
    outbox = pgq.outbox(session)
    outbox.send(topic, b"lost")
    session.add(Account(balance=1))
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        session.commit()
    with pytest.raises(sqlalchemy.exc.PendingRollbackError):
        session.commit()
    session.rollback()
    session.commit()
    assert kept(conn) == []


def test_commit_after_a_refused_append_is_refused_too(session: Session, conn: Connection, topic: str) -> None:
    """PostgreSQL would make a rollback of it and say nothing."""
    outbox = pgq.outbox(session)
    session.add(Account(balance=1))
    outbox.send("nope", b"v")
    with pytest.raises(errors.UnknownTopicError):
        session.commit()
    with pytest.raises(errors.DatabaseError, match="25P02"):
        session.commit()
    session.rollback()
    assert accounts(conn) == []


def test_outbox_made_in_a_savepoint(session: Session, conn: Connection, topic: str) -> None:
    with session.begin_nested() as savepoint:
        pgq.outbox(session).send(topic, b"lost")
        savepoint.rollback()
    with session.begin_nested():
        pgq.outbox(session).send(topic, b"kept")
    session.commit()
    assert kept(conn) == [(0, b"kept")]


def test_commit_of_a_session_from_within_a_savepoint(session: Session, conn: Connection, topic: str) -> None:
    outbox = pgq.outbox(session)
    outbox.send(topic, b"1")
    session.begin_nested()
    session.begin_nested()
    outbox.send(topic, b"2")
    session.commit()
    assert kept(conn) == [(0, b"1"), (1, b"2")]


def test_session_without_autobegin(dsn: str, conn: Connection, topic: str) -> None:
    with Session(engine("psycopg", dsn), autobegin=False) as session:
        outbox = pgq.outbox(session)
        with pytest.raises(errors.IllegalStateError, match="begin"):
            outbox.send(topic, b"v")
        with session.begin():
            outbox.send(topic, b"v")
    assert kept(conn) == [(0, b"v")]


def test_scoped_session(dsn: str, conn: Connection, topic: str) -> None:
    scoped = scoped_session(sessionmaker(engine("psycopg", dsn)))
    pgq.outbox(scoped).send(topic, b"v")
    scoped.commit()
    scoped.remove()
    assert kept(conn) == [(0, b"v")]


def test_session_within_an_outer_transaction(dsn: str, conn: Connection, topic: str) -> None:
    """As tests have it that roll everything back."""
    with engine("psycopg", dsn).connect() as outer:
        outer.begin()
        with Session(outer, join_transaction_mode="create_savepoint") as session:
            delivery = pgq.outbox(session).send(topic, b"v")
            session.commit()
            assert delivery.result().offset == 0
            assert append_locks(conn) == 1
        outer.rollback()
    assert kept(conn) == []


def test_two_phase_commit(dsn: str, conn: Connection, topic: str) -> None:
    with Session(engine("psycopg", dsn), twophase=True) as session:
        pgq.outbox(session).send(topic, b"v")
        session.prepare()
        assert kept(conn) == []
        session.commit()
    assert kept(conn) == [(0, b"v")]


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_autocommit_is_refused(driver: str, dsn: str, conn: Connection, topic: str) -> None:
    autocommit = engine(driver, dsn, isolation_level="AUTOCOMMIT")
    with Session(autocommit) as session:
        pgq.outbox(session).send(topic, b"v")
        with pytest.raises(errors.InvalidRequestError, match="AUTOCOMMIT"):
            session.commit()
    with autocommit.connect() as connection, pytest.raises(errors.InvalidRequestError, match="AUTOCOMMIT"):
        pgq.outbox(connection).__enter__()
    assert kept(conn) == []


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_autocommit_of_an_async_engine_is_refused(driver: str, dsn: str, conn: Connection, topic: str) -> None:
    autocommit = async_engine(driver, dsn, isolation_level="AUTOCOMMIT")
    async with AsyncSession(autocommit) as session:
        pgq.outbox(session).send(topic, b"v")
        with pytest.raises(errors.InvalidRequestError, match="AUTOCOMMIT"):
            await session.commit()
    async with autocommit.connect() as connection:
        with pytest.raises(errors.InvalidRequestError, match="AUTOCOMMIT"):
            await pgq.outbox(connection).__aenter__()
    assert kept(conn) == []


def test_savepoint_that_the_outbox_does_not_see_is_refused(dsn: str, conn: Connection, topic: str) -> None:
    with engine("psycopg", dsn).connect() as connection, connection.begin(), pgq.outbox(connection) as outbox:
        with connection.begin_nested(), pytest.raises(errors.IllegalStateError, match="with outbox:"):
            outbox.send(topic, b"v")
        outbox.send(topic, b"w")
    assert kept(conn) == [(0, b"w")]


async def test_savepoint_that_the_outbox_does_not_see_is_refused_async(dsn: str, conn: Connection, topic: str) -> None:
    async with async_engine("asyncpg", dsn).connect() as connection, pgq.outbox(connection) as outbox:
        async with connection.begin_nested():
            with pytest.raises(errors.IllegalStateError, match="with outbox:"):
                outbox.send(topic, b"v")
        outbox.send(topic, b"w")
    assert kept(conn) == [(0, b"w")]
