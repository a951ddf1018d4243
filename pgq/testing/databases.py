"""Databases for tests: one is migrated, and each test gets a clone of it. Knows nothing of pytest."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from pgq import errors, schema
from pgq.testing.servers import NoServerError, Server

Prepare = Callable[[str], object]


class Databases:
    """The databases of one run of tests on a server, beside which others may run. Not for use by several threads.

    Their names begin with `pgq_test_` and end at random, so that runs and their workers do not meet.

    Args:
        server: where they are made.
        role: the ordinary role that owns them and that tests connect as; it is made if it is missing, and its password
            is its name. By default the role that the server's own DSN names.
        prepare: called once with the DSN of the database that is cloned, after it was migrated.
    """

    def __init__(self, server: Server, *, role: str | None = None, prepare: Prepare | None = None) -> None:
        self._server = server
        self._role = role
        self._prepare = prepare
        self._connection: psycopg.Connection[Any] | None = None
        self._template: str | None = None

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """A connection of the server's own role, in autocommit mode; a new one if it was lost.

        Raises:
            NoServerError: the server does not answer.
        """
        if self._connection is None or self._connection.closed:
            try:
                self._connection = psycopg.connect(self._server.dsn(), autocommit=True)
            except psycopg.OperationalError as error:
                raise NoServerError(f"the server to test on does not answer: {error}") from error
        return self._connection

    @property
    def template(self) -> str:
        """The name of the database that is cloned. The first call makes it; nobody can connect to it then."""
        if self._template is None:
            self.make_role()
            name = _new_name()
            self._create(name)
            try:
                try:
                    schema.upgrade(self.dsn(name))
                except errors.UnsupportedVersionError as error:
                    raise NoServerError(str(error)) from error
                if self._prepare is not None:
                    self._prepare(self.dsn(name))
                # a pool that the application has left open would be in the way of every clone
                self.connection.execute(SQL("alter database {} allow_connections false").format(Identifier(name)))
                _end_sessions(self.connection, name)
            except BaseException:
                self.drop(name)
                raise
            self._template = name
        return self._template

    def dsn(self, name: str) -> str:
        """Return the DSN of a database for the role that owns it."""
        return self._server.dsn(name) if self._role is None else self._server.dsn(name, user=self._role)

    @contextmanager
    def clone(self) -> Iterator[str]:
        """Make a migrated database for the block, with what `prepare` has put into it. Yields its name."""
        name = _new_name()
        # Copying files takes two checkpoints; through the WAL, the default, is faster for a database this small.
        self._create(name, template=self.template)
        try:
            yield name
        finally:
            self.drop(name)

    @contextmanager
    def empty(self) -> Iterator[str]:
        """Make a database without pgq's schema for the block. Yields its name."""
        self.make_role()
        name = _new_name()
        self._create(name)
        try:
            yield name
        finally:
            self.drop(name)

    def make_role(self) -> None:
        """Make the role that owns the databases, if there is to be one and it is missing."""
        if self._role is not None:
            query = SQL("create role {} login password {}").format(Identifier(self._role), Literal(self._role))
            try:
                with suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):  # of another run
                    self.connection.execute(query)
            except psycopg.errors.InsufficientPrivilege as error:
                raise NoServerError(
                    f"the role {self.connection.info.user} may not create the role {self._role!r} that pgq_role names:"
                    f' run `create role "{self._role}" login` there, or leave pgq_role out'
                ) from error

    def drop(self, name: str) -> None:
        """Drop a database with whatever is open in it."""
        drop_database(self._server, self.connection, name)

    def close(self) -> None:
        """Drop the database that is cloned, and end the connection."""
        try:
            if self._template is not None:
                self.drop(self._template)
        finally:
            self._template = None
            if self._connection is not None:
                self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _create(self, name: str, template: str | None = None) -> None:
        query = SQL("create database {}").format(Identifier(name))
        if template is not None:
            query += SQL(" template {}").format(Identifier(template))
        if self._role is not None:
            query += SQL(" owner {}").format(Identifier(self._role))
        try:
            self.connection.execute(query)
        except psycopg.errors.InsufficientPrivilege as error:
            role = self.connection.info.user
            raise NoServerError(
                f'the role {role} may not create databases on the server to test on: run `alter role "{role}"'
                " createdb` there, or let PGQ_TEST_DSN name another role"
            ) from error


def drop_database(server: Server, connection: psycopg.Connection[Any], name: str) -> None:
    """Drop a database with all that a test may have left in it: sessions and prepared transactions."""
    prepared = connection.execute("select gid from pg_prepared_xacts where database = %s", [name]).fetchall()
    if prepared:
        with psycopg.connect(server.dsn(name), autocommit=True) as conn:
            for (gid,) in prepared:
                conn.execute(SQL("rollback prepared {}").format(gid))
    drop = SQL("drop database if exists {}").format(Identifier(name))
    try:
        connection.execute(drop + SQL(" with (force)"))
    except psycopg.errors.InsufficientPrivilege:
        # autovacuum is at work in it, which not everybody may end so; without force the server does it
        _end_sessions(connection, name)
        connection.execute(drop)


def _end_sessions(connection: psycopg.Connection[Any], name: str) -> None:
    """End the sessions of clients in a database."""
    connection.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where datname = %s and backend_type = 'client backend'",
        [name],
    )


def _new_name() -> str:
    return f"pgq_test_{secrets.token_hex(6)}"
