"""Sessions beside the test's own, signals to wait for, and short forms of what tests ask of PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql

Connection = psycopg.Connection[Any]

ISOLATION_LEVELS = ("read committed", "repeatable read", "serializable")
TIME_LIMIT_S = 30


def rows(conn: Connection, query: str, *args: Any) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    return conn.execute(query, args or None).fetchall()


def value(conn: Connection, query: str, *args: Any) -> Any:
    """The one value that a query returns."""
    ((result,),) = rows(conn, query, *args)
    return result


def call(conn: Connection, function: str, /, **arguments: Any) -> list[tuple[Any, ...]]:
    """Call a function of schema pgq by the names of its parameters and return its rows."""
    query = sql.SQL("select * from pgq.{}({})").format(
        sql.Identifier(function),
        sql.SQL(", ").join(
            sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in arguments
        ),
    )
    return conn.execute(query, arguments).fetchall()


@contextmanager
def refused(sqlstate: str) -> Iterator[None]:
    """The block raises this SQLSTATE; if it is one of pgq's, with a hint that says what to do."""
    with pytest.raises(psycopg.Error) as caught:
        yield
    assert caught.value.sqlstate == sqlstate, repr(caught.value)
    if sqlstate.startswith("PQ"):
        assert caught.value.diag.message_hint


def eventually(condition: Callable[[], bool], time_limit_s: float = TIME_LIMIT_S) -> None:
    """Return as soon as the condition holds; fail if it does not in good time."""
    deadline = time.monotonic() + time_limit_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        pause.wait(0.005)


@pytest.fixture
def connect(dsn: str) -> Iterator[Callable[..., Connection]]:
    """Open further sessions as pgq_app, in autocommit mode; they are closed after the test."""
    opened: list[Connection] = []

    def connect() -> Connection:
        opened.append(psycopg.connect(dsn, autocommit=True))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


@pytest.fixture
def watcher(admin_dsn: str) -> Iterator[Connection]:
    """A superuser's session in the test's own database, to look at the others with."""
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def wait_until_blocked(watcher: Connection) -> Callable[[Connection], None]:
    """Wait until a session waits for a lock."""

    def wait(session: Connection) -> None:
        eventually(
            lambda: bool(value(watcher, "select cardinality(pg_blocking_pids(%s)) > 0", session.info.backend_pid))
        )

    return wait


@pytest.fixture
def terminate(watcher: Connection) -> Callable[[int], None]:
    """Terminate a session by its process id, as an administrator does, and wait for its end."""

    def terminate(pid: int) -> None:
        watcher.execute("select pg_terminate_backend(%s)", [pid])
        eventually(lambda: not rows(watcher, "select from pg_stat_activity where pid = %s", pid))

    return terminate


def append_locks(conn: Connection) -> int:
    """How many APPEND locks are held in the connection's database."""
    result: int = value(
        conn,
        "select count(*) from pg_locks where locktype = 'advisory' and objsubid = 1 and classid::bigint >> 26 = 23"
        " and database = (select oid from pg_database where datname = current_database())",
    )
    return result
