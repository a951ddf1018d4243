"""asyncpg behind the interface that all drivers share; nothing above this package knows which one it talks to.

Interface: connect, wrap, and Connection with fetch, execute, copy_in, commit, transaction, mark, listen,
wait_for_notification, close, closed, pooled, raw. Errors of the driver come out as errors of pgq.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any
from urllib.parse import urlencode

import asyncpg
import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgq import errors
from pgq.drivers import frameworks, psycopg_async
from pgq.drivers.dsn import resolve_dsn
from pgq.drivers.sqlstate import connecting, translating

_SETUP_S = 10.0
"""How long the first statements may take where logging in may take for ever."""
_SHARED_KEYWORDS = {
    *(
        "host",
        "port",
        "user",
        "password",
        "dbname",
        "passfile",
        "sslmode",
        "sslcert",
        "sslkey",
        "sslrootcert",
        "sslcrl",
    ),
    *("sslpassword", "ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs", "krbsrvname"),
    *("application_name", "options"),
}


class Connection:
    """One connection. Not for concurrent use."""

    def __init__(self, raw: Any, *, pooled: bool = False) -> None:
        self.raw = self._raw = raw
        self.pooled = pooled
        self._warned = False
        self._channels: set[str] = set()
        self._notified = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether it can no longer be used."""
        return bool(self._raw.is_closed())

    @property
    def in_transaction(self) -> bool:
        """Whether what is done now is in a transaction that ends later."""
        return bool(self._raw.is_in_transaction())

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """Run one statement and return its rows, read by position."""
        with translating():
            if self.pooled and not self._raw.is_in_transaction():
                # asyncpg prepares and then executes: two turns, which a pooler may send to two sessions
                async with self._raw.transaction():
                    return await self.fetch(sql, *args)
            rows: list[Any] = await self._raw.fetch(sql, *args)
            return rows

    async def execute(self, sql: str) -> None:
        """Run statements without arguments."""
        with translating():
            await self._raw.execute(sql)

    async def copy_in(self, table: str, columns: tuple[str, ...], file: Iterable[bytes]) -> None:
        """Run COPY into a table of schema pgq_log with a binary file, given in pieces."""
        with translating():
            await self._raw.copy_to_table(
                table, schema_name="pgq_log", columns=columns, source=_pieces(file), format="binary"
            )

    async def commit(self) -> bool:
        """Commit; return False if the server warned: it has committed, but not waited for its standbys to the end."""
        self._warned = False
        await self.execute("commit")
        return not self._warned

    def note(self, _raw: Any, notice: asyncpg.PostgresLogMessage) -> None:
        """Take note of a warning. asyncpg calls it before whoever waits for the statement goes on."""
        self._warned = self._warned or notice.severity_en == "WARNING"

    def transaction(self) -> Any:
        """Return a context manager: a block of a transaction, or of a savepoint where one has begun."""
        return self._raw.transaction()

    def mark(self) -> Callable[[], bool]:
        """Return what says whether no rollback to a savepoint has undone this moment: asyncpg does not tell."""
        return lambda: True

    async def listen(self, channels: Iterable[str]) -> None:
        """Have notifications of these channels kept for `wait_for_notification`."""
        with translating():
            for channel in channels:
                await self._raw.add_listener(channel, self._take_notification)

    def _take_notification(self, _raw: Any, _pid: int, channel: str, _payload: str) -> None:
        self._channels.add(channel)
        self._notified.set()

    async def wait_for_notification(self, seconds: float) -> set[str]:
        """Return the channels that were notified since the last call; wait so long for one.

        The connection can be used meanwhile.
        """
        if not self._channels and seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._notified.wait()
            except TimeoutError:
                pass
        channels, self._channels = self._channels, set()
        self._notified.clear()
        return channels

    def abandon_if_busy(self) -> None:
        """Give it up if an interruption has left it in the middle of a statement: asyncpg cancels that by itself."""

    def abort(self) -> None:
        """End it without a word to the server, which may not be there."""
        self._raw.terminate()

    async def close(self) -> None:
        """Close; an open transaction is rolled back by the server."""
        try:
            await self._raw.close(timeout=5)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._raw.terminate()


async def _pieces(file: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in file:
        yield piece


async def connect(dsn: str | None, *settings: str) -> Connection:
    """Open a connection and run `set` statements on it.

    Raises:
        InvalidRequestError: there is no DSN, or it is no connection string.
        BrokerNotAvailableError: the server does not answer or refuses the connection.
    """
    given = {k: str(v) for k, v in conninfo_to_dict(resolve_dsn(dsn)).items() if v is not None}
    try:
        seconds = float(given.pop("connect_timeout", "10"))
    except ValueError as error:
        raise errors.InvalidRequestError(f"connect_timeout in the DSN: {error}") from error
    timeout: Any = seconds if seconds > 0 else None  # as libpq: wait for ever
    if "hostaddr" in given and "host" not in given:
        given["host"] = given.pop("hostaddr")
    _refuse_unknown(given)
    if "host" in given:
        given["host"] = ",".join(
            f"[{host}]" if ":" in host and not host.startswith("/") else host for host in given["host"].split(",")
        )
    query = urlencode({k: v for k, v in given.items() if k in _SHARED_KEYWORDS})
    with connecting():
        raw = await asyncpg.connect(f"postgresql://?{query}", timeout=timeout)
        try:
            async with asyncio.timeout(timeout or _SETUP_S):
                pooled = await _is_pooled(raw)
        except BaseException:
            raw.terminate()
            raise
        if pooled:
            await raw.close()
            raw = await asyncpg.connect(f"postgresql://?{query}", timeout=timeout, statement_cache_size=0)
    connection = Connection(raw, pooled=pooled)
    raw.add_log_listener(connection.note)
    raw.add_termination_listener(lambda _raw: connection._notified.set())  # whoever waits finds it closed
    try:
        with connecting():
            async with asyncio.timeout(timeout or _SETUP_S):
                for setting in () if pooled else settings:  # behind a pooler they would be another session's
                    await connection.execute(setting)
    except BaseException:
        await connection.close()
        raise
    return connection


async def _is_pooled(raw: Any) -> bool:
    """Whether a pooler stands between: then a prepared statement may be another session's. It has a pid of its own."""
    answer = bytearray()

    async def take(data: bytes) -> None:
        answer.extend(data)

    # COPY prepares nothing
    await raw.copy_from_query("select pg_backend_pid()", output=take)
    pid: int = raw.get_server_pid()
    return int(answer) != pid


def _refuse_unknown(given: dict[str, str]) -> None:
    """Refuse what libpq obeys and asyncpg would ignore, where ignoring it means another server or less security."""
    harmless = {("channel_binding", "prefer"), ("channel_binding", "disable"), ("gssencmode", "prefer")}
    harmless |= {("gssencmode", "disable"), ("sslnegotiation", "postgres")}
    for keyword in ("hostaddr", "service", "channel_binding", "require_auth", "gssencmode", "sslnegotiation"):
        if keyword in given and (keyword, given[keyword]) not in harmless:
            raise errors.InvalidRequestError(
                f"asyncpg does not know {keyword}={given[keyword]}: leave it out of the async clients' DSN"
            )


def is_async(raw: Any) -> bool:
    """Whether it is a connection that `wrap` takes."""
    ours = (asyncpg.Connection, asyncpg.pool.PoolConnectionProxy, psycopg.AsyncConnection)
    return isinstance(raw, ours) or frameworks.is_async(raw)


def wrap(raw: Any) -> Any:
    """Return the application's own connection behind our interface; it stays open and the application's.

    Raises:
        InvalidRequestError: it is of no kind that the async clients take.
    """
    if isinstance(raw, (asyncpg.Connection, asyncpg.pool.PoolConnectionProxy)):
        return Connection(raw)
    return psycopg_async.wrap(raw)
