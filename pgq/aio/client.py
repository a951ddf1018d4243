"""What all clients have in common: connections that are opened when needed, and the check of the schema's version."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from pgq import errors
from pgq.config import SCHEMA_VERSION
from pgq.core import statements
from pgq.drivers import asyncpg as driver
from pgq.drivers.tasks import Deadline

READ_COMMITTED = "set default_transaction_isolation = 'read committed'"
"""For a connection of our own: whatever the database's default is."""
_SETUP_S = 10.0
"""How long a server that has let us in may take to say which schema it has."""


async def connect(dsn: str | None, *settings: str) -> Any:
    """Connect and refuse a schema that does not fit.

    Raises:
        BrokerNotAvailableError: the server does not answer.
        SchemaMissingError, SchemaTooOldError, SchemaTooNewError: run `pgq db upgrade`, or upgrade the library.
    """
    connection = await driver.connect(dsn, *settings)
    try:
        async with Deadline(connection, _SETUP_S):
            await check_schema(connection)
    except BaseException:
        await connection.close()
        raise
    return connection


async def check_schema(connection: Any) -> None:
    """Refuse a schema that does not fit this library."""
    rows = await connection.fetch(statements.SCHEMA_VERSION)
    installed = rows[0][0]
    if installed is None or installed < SCHEMA_VERSION:
        raise errors.SchemaTooOldError(
            f"the schema pgq is at revision {installed}, this library needs {SCHEMA_VERSION}: run `pgq db upgrade`"
        )
    if installed > SCHEMA_VERSION:
        raise errors.SchemaTooNewError(
            f"the schema pgq is at revision {installed}, newer than this library's {SCHEMA_VERSION}: upgrade pgq-log"
        )


class AsyncClient:
    """A client with one connection, opened at the first call that needs it and again when it was lost."""

    _settings: tuple[str, ...] = ()

    def __init__(self, dsn: str | None = None) -> None:
        self._dsn = dsn
        self._raw_connection: Any = None
        self._closed = False

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self._disconnect()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Connect now rather than at the first call."""
        await self._connection()

    async def close(self) -> None:
        """Close the connection. May be called again."""
        self._closed = True
        await self._disconnect()

    async def _connection(self) -> Any:
        if self._closed:
            raise errors.IllegalStateError(f"the {type(self).__name__} is closed: make a new one")
        if self._raw_connection is None or self._raw_connection.closed:
            await self._disconnect()
            self._raw_connection = await connect(self._dsn, *self._settings)
        return self._raw_connection

    async def _disconnect(self) -> None:
        connection, self._raw_connection = self._raw_connection, None
        if connection is not None:
            await connection.close()
