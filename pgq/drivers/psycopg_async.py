"""psycopg behind the interface that all drivers share; psycopg.py is generated from psycopg_async.py.

Interface: connect, wrap, and Connection with fetch, execute, copy_in, commit, transaction, mark, listen,
wait_for_notification, close, closed, pooled, raw; cancel and abort for threads.Deadline. Errors of the driver come out
as errors of pgq.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import Diagnostic
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from pgq.drivers.dsn import resolve_dsn
from pgq.drivers.frameworks import wrap_async
from pgq.drivers.sqlstate import connecting, translating
from pgq.drivers.tasks import Deadline

_SETUP_S = 10.0
"""How long the first statements may take where logging in may take for ever."""
_PIECE_BYTES = 65_536


class Connection:
    """One connection. Not for concurrent use."""

    def __init__(self, raw: psycopg.AsyncConnection[Any], *, pooled: bool = False) -> None:
        self.raw = self._raw = raw
        self.pooled = pooled
        self._abandoned = False
        self._warned = False

    @property
    def closed(self) -> bool:
        """Whether it can no longer be used."""
        return self._abandoned or self._raw.closed

    @property
    def in_transaction(self) -> bool:
        """Whether what is done now is in a transaction that ends later; without autocommit it begins by itself."""
        return not self._raw.autocommit or self._raw.info.transaction_status != TransactionStatus.IDLE

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """Run one statement and return its rows, read by position."""
        with translating():
            async with psycopg.AsyncRawCursor(self._raw, row_factory=tuple_row) as cursor:
                await cursor.execute(sql, args, binary=True)
                return await cursor.fetchall()

    async def execute(self, sql: str) -> None:
        """Run statements without arguments."""
        with translating():
            async with psycopg.AsyncRawCursor(self._raw, row_factory=tuple_row) as cursor:
                await cursor.execute(sql)

    async def copy_in(
        self, table: str, columns: tuple[str, ...], file: Iterable[bytes], *, freeze: bool = False
    ) -> None:
        """Run COPY into a table of schema pgq_log with a binary file, given in pieces.

        Args:
            freeze: every snapshot shows the rows at once. For a table that the open transaction has made.
        """
        names = ", ".join(f'"{column}"' for column in columns)
        options = "format binary, freeze" if freeze else "format binary"
        sql = f'copy pgq_log."{table}" ({names}) from stdin ({options})'
        with translating():
            async with psycopg.AsyncRawCursor(self._raw) as cursor, cursor.copy(sql) as copy:
                for piece in file:
                    await copy.write(piece)

    async def copy_out(self, query: str) -> AsyncIterator[bytes]:
        """Yield the rows of a query as a binary file, in pieces of some 64 kB. For psycopg only."""
        pieces: list[bytes] = []
        size = 0
        with translating():
            async with (
                psycopg.AsyncRawCursor(self._raw) as cursor,
                cursor.copy(f"copy ({query}) to stdout (format binary)") as copy,
            ):
                async for row in copy:
                    pieces.append(bytes(row))
                    size += len(row)
                    if size >= _PIECE_BYTES:
                        yield b"".join(pieces)
                        pieces.clear()
                        size = 0
        yield b"".join(pieces)

    async def commit(self) -> bool:
        """Commit; return False if the server warned: it has committed, but not waited for its standbys to the end."""
        self._warned = False
        await self.execute("commit")
        return not self._warned

    def note(self, notice: Diagnostic) -> None:
        """Take note of a warning."""
        self._warned = self._warned or notice.severity_nonlocalized == "WARNING"

    async def cancel(self) -> None:
        """Ask the server to end what it is doing for this connection."""
        with suppress(psycopg.Error):
            await self._raw.cancel_safe(timeout=5)

    def abandon_if_busy(self) -> None:
        """Give it up if Ctrl-C has left it in the middle of a statement: nobody can use it any more."""
        if self._raw.info.transaction_status == TransactionStatus.ACTIVE:
            self._abandoned = True
            self.abort()

    def abort(self) -> None:
        """Let whoever waits for the server on this connection wait no longer."""
        with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(self._raw.fileno())) as its_socket:
            its_socket.shutdown(socket.SHUT_RDWR)

    def transaction(self) -> Any:
        """Return a context manager: a block of a transaction, or of a savepoint where one has begun."""
        return self._raw.transaction()

    def mark(self) -> Callable[[], bool]:
        """Return what says whether no rollback to a savepoint has undone this moment: psycopg does not tell."""
        return lambda: True

    async def listen(self, channels: Iterable[str]) -> None:
        """Have notifications of these channels kept for `wait_for_notification`."""
        await self.execute("; ".join(f'listen "{channel}"' for channel in channels))

    async def wait_for_notification(self, seconds: float) -> set[str]:
        """Return the channels that were notified since the last call; wait so long for one.

        Who uses the connection meanwhile waits.
        """
        with translating():
            return {notice.channel async for notice in self._raw.notifies(timeout=seconds, stop_after=1)}

    async def close(self) -> None:
        """Close; an open transaction is rolled back by the server."""
        await self._raw.close()


async def connect(dsn: str | None, *settings: str) -> Connection:
    """Open a connection and run `set` statements on it.

    Raises:
        InvalidRequestError: there is no DSN, or it is no connection string.
        BrokerNotAvailableError: the server does not answer or refuses the connection.
    """
    conninfo = resolve_dsn(dsn)
    with connecting():
        raw = await psycopg.AsyncConnection.connect(conninfo, autocommit=True, client_encoding="utf8")
    connection = Connection(raw)
    raw.add_notice_handler(connection.note)
    try:
        async with Deadline(connection, float(conninfo_to_dict(conninfo)["connect_timeout"] or 0) or _SETUP_S):
            # a pooler has a pid of its own; behind it a prepared statement, or a setting, may be another session's
            if (await connection.fetch("select pg_backend_pid()"))[0][0] != raw.info.backend_pid:
                connection.pooled = True
                raw.prepare_threshold = None
                settings = ()
            for setting in settings:
                await connection.execute(setting)
    except BaseException:
        await connection.close()
        raise
    return connection


def wrap(raw: Any) -> Any:
    """Return the application's own connection behind our interface; it stays open and the application's.

    Raises:
        InvalidRequestError: it is no psycopg.AsyncConnection and nothing that pgq.drivers.frameworks knows.
    """
    return Connection(raw) if isinstance(raw, psycopg.AsyncConnection) else wrap_async(raw)
