"""The connection of a consumer's transactions, on which the application works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pgq import errors
from pgq.aio.client import READ_COMMITTED
from pgq.drivers import asyncpg as driver
from pgq.drivers.dsn import direct_dsn
from pgq.drivers.sqlstate import translating
from pgq.drivers.tasks import logger


class AsyncTransactions:
    """One connection, opened when it is first needed and when it was lost, and blocks on it.

    Args:
        in_time: gives a context manager that ends a connection which takes too long.
    """

    def __init__(self, dsn: str | None, in_time: Callable[[Any], Any]) -> None:
        self._dsn = dsn
        self._in_time = in_time
        self.connection: Any = None

    async def begin(self) -> tuple[Any, Any]:
        """Return the connection, and the block of a transaction that has begun."""
        for again in (True, False):
            connection = self.connection
            if connection is None or connection.closed:
                if connection is not None:
                    await connection.close()
                connection = self.connection = await driver.connect(direct_dsn(self._dsn), READ_COMMITTED)
            block = connection.transaction()
            try:
                async with self._in_time(connection):
                    with translating():
                        await block.__aenter__()
                    if connection.pooled:  # where settings of a session do not last
                        await connection.execute("set transaction isolation level read committed")
            except errors.BrokerNotAvailableError:
                if not again:
                    raise
            except BaseException:
                connection.abort()
                raise
            else:
                break
        return connection, block

    async def commit(self, connection: Any, block: Any) -> None:
        """End a block well."""
        async with self._in_time(connection):
            with translating():
                await block.__aexit__(None, None, None)

    async def roll_back(self, connection: Any, block: Any, error: BaseException) -> None:
        """End a block because of an error."""
        try:
            async with self._in_time(connection):
                with translating():
                    await block.__aexit__(type(error), error, error.__traceback__)
        except errors.PgqError as failure:
            if failure is not error:
                logger.debug("rollback: %s", failure)
                connection.abort()  # which rolls back, too

    async def close(self) -> None:
        """Close the connection, if it was opened."""
        if self.connection is not None:
            await self.connection.close()
