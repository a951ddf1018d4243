"""Applications: each kind of connection that Python applications have, in one form, so that a test is written once."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any

import asyncpg
import django
import psycopg
import psycopg2
import sqlalchemy
from django.conf import settings
from django.db import connections, transaction
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import NullPool, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import pgq


class Undo(Exception):  # noqa: N818 - no error
    """Raised in a block of a transaction to roll it back; it goes no further than that block."""


@dataclass
class Application:
    """An application's own connection: `connection` is what pgq is given.

    `transaction()` and `savepoint()` are blocks in the library's own way, `outbox()` one in the outbox's; a block that
    raises Undo rolls back and ends.
    """

    world: str
    connection: Any
    execute: Callable[[str], Awaitable[Any]]
    begin: Callable[[], Any]
    begin_nested: Callable[[], Any]

    def transaction(self) -> AbstractAsyncContextManager[None]:
        return block(self.begin)

    def savepoint(self, outbox: Any = None) -> AbstractAsyncContextManager[None]:
        """A savepoint, in a form that the outbox sees."""
        seen = outbox is None or self.by_events or self.begin_nested is transaction.atomic
        return block(self.begin_nested if seen else lambda: outbox)

    @property
    def by_events(self) -> bool:
        return isinstance(self.connection, (Session, AsyncSession))

    @asynccontextmanager
    async def sending(self, outbox: Any) -> AsyncIterator[Any]:
        """A transaction whose records are appended at its end."""
        async with block(self.begin if self.by_events else lambda: outbox):
            yield outbox

    def producer(self, **options: Any) -> Any:
        return (pgq.AsyncProducer if self.world == "async" else pgq.Producer)(**options)

    def consumer(self, *topics: str, **options: Any) -> Any:
        return (pgq.AsyncConsumer if self.world == "async" else pgq.Consumer)(*topics, **options)


async def call(result: Any) -> Any:
    """What a call of a client of either world returns."""
    return await result if isawaitable(result) else result


@asynccontextmanager
async def opened(manager: Any) -> AsyncIterator[Any]:
    """A context manager of either world."""
    if hasattr(manager, "__aenter__"):
        async with manager as entered:
            yield entered
    else:
        with manager as entered:
            yield entered


@asynccontextmanager
async def block(begin: Callable[[], Any]) -> AsyncIterator[None]:
    try:
        async with opened(begin()):
            yield
    except Undo:
        pass


@asynccontextmanager
async def psycopg_connection(dsn: str, **options: Any) -> AsyncIterator[Application]:
    with psycopg.connect(dsn, **options) as raw:

        async def execute(sql: str) -> None:
            raw.execute(sql)

        yield Application("sync", raw, execute, raw.transaction, raw.transaction)


@asynccontextmanager
async def psycopg_async_connection(dsn: str, **options: Any) -> AsyncIterator[Application]:
    async with await psycopg.AsyncConnection.connect(dsn, **options) as raw:
        yield Application("async", raw, raw.execute, raw.transaction, raw.transaction)


@asynccontextmanager
async def asyncpg_connection(dsn: str, **options: Any) -> AsyncIterator[Application]:
    raw = await asyncpg.connect(dsn, **options)
    try:
        yield Application("async", raw, raw.execute, raw.transaction, raw.transaction)
    finally:
        await raw.close()


@asynccontextmanager
async def asyncpg_pool(dsn: str) -> AsyncIterator[Application]:
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool, pool.acquire() as raw:
        yield Application("async", raw, raw.execute, raw.transaction, raw.transaction)


def engine(driver: str, dsn: str, connect_args: dict[str, Any] | None = None, **options: Any) -> sqlalchemy.Engine:
    """An engine of SQLAlchemy."""
    connect = psycopg2.connect if driver == "psycopg2" else psycopg.connect
    return sqlalchemy.create_engine(
        f"postgresql+{driver}://", creator=lambda: connect(dsn, **(connect_args or {})), poolclass=NullPool, **options
    )


def async_engine(driver: str, dsn: str, connect_args: dict[str, Any] | None = None, **options: Any) -> Any:
    """An async engine of SQLAlchemy."""

    async def connect() -> Any:
        if driver == "asyncpg":
            return await asyncpg.connect(dsn, **(connect_args or {}))
        return await psycopg.AsyncConnection.connect(dsn, **(connect_args or {}))

    return create_async_engine(f"postgresql+{driver}://", async_creator=connect, poolclass=NullPool, **options)


def of_sqlalchemy(driver: str, kind: str) -> Callable[[str], AbstractAsyncContextManager[Application]]:
    @asynccontextmanager
    async def open_sync(dsn: str) -> AsyncIterator[Application]:
        its_engine = engine(driver, dsn)
        with Session(its_engine) if kind == "session" else its_engine.connect() as raw:

            async def execute(sql: str) -> None:
                raw.execute(text(sql))

            yield Application("sync", raw, execute, raw.begin, raw.begin_nested)

    @asynccontextmanager
    async def open_async(dsn: str) -> AsyncIterator[Application]:
        its_engine = async_engine(driver, dsn)
        async with AsyncSession(its_engine) if kind == "asyncsession" else its_engine.connect() as raw:

            async def execute(sql: str) -> None:
                await raw.execute(text(sql))

            yield Application("async", raw, execute, raw.begin, raw.begin_nested)
        await its_engine.dispose()

    return open_async if kind.startswith("async") else open_sync


@contextmanager
def django_database(dsn: str, **options: Any) -> Any:
    """Django with a database as its default; `other` is one of SQLite."""
    if not settings.configured:
        postgresql = {"ENGINE": "django.db.backends.postgresql"}
        other = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
        settings.configure(DATABASES={"default": postgresql, "other": other}, USE_TZ=True)
        django.setup()
    given = conninfo_to_dict(dsn)
    connections.settings["default"] |= {
        "NAME": given["dbname"],
        "USER": given["user"],
        "HOST": given["host"],
        "PORT": given.get("port", ""),
        "PASSWORD": given.get("password", ""),
        "OPTIONS": options,
    }
    # Django would refuse to be used in a coroutine; these tests run one at a time
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    try:
        yield django.db.connection
    finally:
        connections["default"].close()
        del connections["default"]
        del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


def of_django(raw: Any = None, **options: Any) -> Callable[[str], AbstractAsyncContextManager[Application]]:
    @asynccontextmanager
    async def open_django(dsn: str) -> AsyncIterator[Application]:
        with django_database(dsn, **options) as connection:

            async def execute(sql: str) -> None:
                with connection.cursor() as cursor:
                    cursor.execute(sql)

            given = connection if raw is None else connections[raw]
            yield Application("sync", given, execute, transaction.atomic, transaction.atomic)

    return open_django


KINDS: dict[str, Callable[[str], AbstractAsyncContextManager[Application]]] = {
    "psycopg": psycopg_connection,
    "psycopg-async": psycopg_async_connection,
    "asyncpg": asyncpg_connection,
    "asyncpg-pool": asyncpg_pool,
    **{
        f"sqlalchemy-{driver}-{kind}": of_sqlalchemy(driver, kind)
        for driver in ("psycopg", "psycopg2")
        for kind in ("session", "connection")
    },
    **{
        f"sqlalchemy-{driver}-{kind}": of_sqlalchemy(driver, kind)
        for driver in ("psycopg", "asyncpg")
        for kind in ("asyncsession", "asyncconnection")
    },
    "django": of_django(),
    "django-alias": of_django("default"),
    "django-server-side-binding": of_django(server_side_binding=True),
}
