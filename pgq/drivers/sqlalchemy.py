"""An application's Session or Connection of SQLAlchemy behind the drivers' interface: fetch, transaction, mark.

Everything goes through SQLAlchemy, never through the driver's connection below it: SQLAlchemy begins lazily, so what
went around it before it has begun would be committed at once, and no rollback would take it back.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import sqlalchemy
from sqlalchemy import exc

from pgq import errors
from pgq.core.statements import pyformat
from pgq.drivers.sqlstate import translating

_DRIVERS = "postgresql+psycopg, postgresql+psycopg2 or postgresql+asyncpg"


def _is(raw: Any, module: str, *names: str) -> bool:
    """Whether it is of one of a module's classes. What is not imported has made no object."""
    return module in sys.modules and isinstance(raw, tuple(getattr(sys.modules[module], name) for name in names))


def is_sync(raw: Any) -> bool:
    """Whether it is a Connection, a Session, or a scoped_session."""
    return isinstance(raw, sqlalchemy.Connection) or _is(raw, "sqlalchemy.orm", "Session", "scoped_session")


def is_async(raw: Any) -> bool:
    """Whether it is an AsyncConnection, an AsyncSession, or an async_scoped_session."""
    return _is(raw, "sqlalchemy.ext.asyncio", "AsyncConnection", "AsyncSession", "async_scoped_session")


def session_of(raw: Any) -> Any:
    """Return the Session behind a Session, an AsyncSession or a scoped one, None behind anything else."""
    if _is(raw, "sqlalchemy.orm", "scoped_session") or _is(raw, "sqlalchemy.ext.asyncio", "async_scoped_session"):
        raw = raw()
    if _is(raw, "sqlalchemy.ext.asyncio", "AsyncSession"):
        return raw.sync_session
    return raw if _is(raw, "sqlalchemy.orm", "Session") else None


@contextmanager
def _translating() -> Iterator[None]:
    """As translating; SQLAlchemy's own errors say that a session or connection cannot be used so."""
    try:
        with translating():
            yield
    except exc.SQLAlchemyError as error:
        raise errors.IllegalStateError(f"SQLAlchemy refused: {error}") from error


def connection_of(raw: Any) -> sqlalchemy.Connection:
    """Return the Connection behind a Session, which begins its transaction; a Connection as it is.

    Raises:
        InvalidRequestError: its database is not PostgreSQL, or its driver none that is known here.
        IllegalStateError: the session can give no connection now.
    """
    session = session_of(raw)
    with _translating():
        try:
            connection: sqlalchemy.Connection = raw if session is None else session.connection()
        except exc.UnboundExecutionError as error:
            raise errors.InvalidRequestError(
                "the Session has several binds: pass session.connection(bind_arguments={...}) of the one meant"
            ) from error
    dialect = connection.dialect
    if dialect.name != "postgresql" or dialect.paramstyle not in ("pyformat", "numeric_dollar"):
        raise errors.InvalidRequestError(f"SQLAlchemy uses {dialect.name}+{dialect.driver} here: use {_DRIVERS}")
    return connection


def fetch(connection: sqlalchemy.Connection, sql: str, *args: Any) -> list[Any]:
    """Run one statement and return its rows, read by position."""
    with _translating():
        if connection.dialect.paramstyle == "numeric_dollar":
            result = connection.exec_driver_sql(sql, args)
        else:
            result = connection.exec_driver_sql(pyformat(sql), {f"p{n}": arg for n, arg in enumerate(args, 1)})
        return list(result.fetchall())


def _is_autocommit(connection: sqlalchemy.Connection) -> bool:
    return bool(getattr(connection.connection.dbapi_connection, "autocommit", False))


def refuse_autocommit(connection: sqlalchemy.Connection) -> None:
    """Refuse the isolation level AUTOCOMMIT for an outbox, whose records would be apart from the changes."""
    if _is_autocommit(connection):
        raise errors.InvalidRequestError(
            "the connection has isolation_level AUTOCOMMIT, so that nothing is in a transaction with the records: give"
            " the outbox a connection without it"
        )


class Connection:
    """A Session or Connection. Not for concurrent use."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._savepoint: Any = None  # the block's own, None in a transaction's

    @property
    def in_transaction(self) -> bool:
        """Whether what is done now is in a transaction that ends later: SQLAlchemy begins it by itself."""
        return not _is_autocommit(connection_of(self._raw))

    def fetch(self, sql: str, *args: Any) -> list[Any]:
        """Run one statement and return its rows, read by position."""
        return fetch(connection_of(self._raw), sql, *args)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Return a context manager: a block of a transaction, or of a savepoint where one has begun."""
        connection = connection_of(self._raw)
        refuse_autocommit(connection)
        outer = self._savepoint
        try:
            with connection.begin_nested() if connection.in_transaction() else connection.begin():
                self._savepoint = connection.get_nested_transaction()
                yield
        finally:
            self._savepoint = outer

    def mark(self) -> Callable[[], bool]:
        """Return what says whether no rollback to a savepoint has undone this moment.

        Raises:
            IllegalStateError: a savepoint has begun in the block, and SQLAlchemy does not tell how it will end.
        """
        if connection_of(self._raw).get_nested_transaction() is not self._savepoint:
            raise errors.IllegalStateError(
                "the outbox does not see the end of connection.begin_nested(): begin the savepoint by `with outbox:`"
            )
        return lambda: True


class AsyncConnection:
    """An AsyncSession or AsyncConnection. Not for concurrent use."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw() if _is(raw, "sqlalchemy.ext.asyncio", "async_scoped_session") else raw
        sync = session_of(raw) or self._raw.sync_connection
        if sync is None:
            raise errors.InvalidRequestError("the AsyncConnection is not open: await it, or `async with` it, first")
        self._sync = Connection(sync)

    @property
    def in_transaction(self) -> bool:
        """Whether what is done now is in a transaction that ends later: SQLAlchemy begins it by itself."""
        session = session_of(self._raw)
        # a session has a connection once it has begun, and cannot be asked for one here
        return session is not None or self._sync.in_transaction

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """Run one statement and return its rows, read by position."""
        rows: list[Any] = await self._run(self._sync.fetch, sql, *args)
        return rows

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Return a context manager: a block of a transaction, or of a savepoint where one has begun."""
        block = self._sync.transaction()
        await self._run(block.__enter__)
        try:
            yield
        except BaseException as error:
            await self._run(block.__exit__, type(error), error, error.__traceback__)
            raise
        await self._run(block.__exit__, None, None, None)

    def mark(self) -> Callable[[], bool]:
        """Return what says whether no rollback to a savepoint has undone this moment."""
        return self._sync.mark()

    async def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        return await self._raw.run_sync(lambda _: function(*args))
