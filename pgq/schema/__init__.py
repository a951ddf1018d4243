"""The schema pgq in a database: install, upgrade, inspect, repair.

Everything happens in one transaction under one advisory lock, so that any number of processes may start it at once.
Tables come from numbered Alembic revisions; functions are replaced from sql/ after them. The version table lives in
schema pgq, so that an application's own Alembic never meets it.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.sql import SQL, Identifier

from pgq import errors
from pgq.config import SCHEMA_VERSION
from pgq.drivers.dsn import resolve_dsn
from pgq.drivers.sqlstate import connecting, translating
from pgq.schema.compare import differences
from pgq.schema.files import alembic_folder, function_files

if TYPE_CHECKING:
    from alembic.config import Config

_LOCK = "select pg_catalog.pg_advisory_xact_lock(7020531978342141809)"  # a number of our own; any will do

# The rows are locked, so that a topic that is deleted meanwhile is waited for and left out.
_DEFINE_TOPICS = """
    select pgq._define_topic(t.topic_id)
      from (select topic_id from pgq.topic where state = 'ready' order by topic_id for key share) t
"""

# As a sentence: what pgq.check_log and pgq.restart_offsets say about a topic, a partition or the catalog.
_CHECK_LOG = """
    select concat('topic ' || quote_literal(topic) || ': ', 'partition ' || partition || ': ', problem, ': ', remedy)
      from pgq.check_log()
"""
_RESTART_OFFSETS = """
    select concat('topic ' || quote_literal(topic) || ': ', 'partition ' || partition || ': ',
                  format('the sequence %s gave %s next, and gives %s now', sequence, old_next, new_next))
      from pgq.restart_offsets()
"""

ROLES = ("pgq_reader", "pgq_producer", "pgq_consumer", "pgq_admin")
"""What each may do stands in sql/functions/internal/_grant_roles.sql."""

_ALEMBIC = threading.Lock()  # Alembic runs by variables of its modules, one run at a time


def upgrade(dsn: str | None = None) -> str:
    """Install the schema pgq, or bring it up to this library's version; return the revision.

    Runs in one transaction. Safe to start from any number of processes at once, and to repeat.

    Raises:
        ForeignSchemaError: a schema pgq, pgq_log or pgq_topic exists that pgq did not make.
        SchemaTooNewError: the schema is newer than this library.
        UnsupportedVersionError: PostgreSQL is older than 15.
        BrokerNotAvailableError: the server does not answer.
        DatabaseError: the role may not create schemas in this database.
    """
    with _locked(dsn) as connection:
        raw = _raw(connection)
        installed = _installed(raw)
        if installed is not None and installed > SCHEMA_VERSION:
            raise _too_new(installed)
        if installed is None:
            _check_free(raw)
            _create_schema(raw)
        _run_alembic(connection=connection)
        raw.execute(_functions_sql())
        raw.execute(_DEFINE_TOPICS)  # code made by an older version
    return SCHEMA_VERSION


def current(dsn: str | None = None) -> str | None:
    """Return the revision of the schema in the database, or None if there is none.

    Raises:
        BrokerNotAvailableError: the server does not answer.
    """
    with connecting(), translating(), psycopg.connect(resolve_dsn(dsn), client_encoding="utf8") as raw:
        return _installed(raw)


def check(dsn: str | None = None) -> list[str]:
    """Return what is wrong in the database, a sentence each: in schema pgq, in the log; empty if nothing is.

    Changes nothing: schema pgq is compared with a fresh install under another name, which is rolled back. Producers
    and consumers go on; an upgrade waits.

    Raises:
        SchemaMissingError: there is no schema pgq.
        SchemaTooNewError: the schema is newer than this library.
        BrokerNotAvailableError: the server does not answer.
    """
    with _locked(dsn, keep=False) as connection:
        raw = _raw(connection)
        installed = _installed(raw)
        if installed is None:
            raise missing()
        if installed > SCHEMA_VERSION:
            raise _too_new(installed)
        if installed < SCHEMA_VERSION:
            return [f"the schema is at revision {installed}, this library's at {SCHEMA_VERSION}: run `pgq db upgrade`"]
        problems = differences(raw, sql())
        try:
            with raw.transaction():
                return problems + [sentence for (sentence,) in raw.execute(_CHECK_LOG).fetchall()]
        except psycopg.Error:
            if problems:  # of which one is the cause
                return problems
            raise


def repair(dsn: str | None = None) -> list[str]:
    """Upgrade the schema and set sequences that are behind past the last record; return what was set, a sentence each.

    What a copy of the tables needs that came without their sequences, by logical replication for example. Nothing that
    is as it should be is touched. What else `check` finds takes a decision, so it is left as it is.

    Raises:
        As `upgrade`.
        DatabaseError: open transactions have taken offsets of a partition that is behind, and do not end.
    """
    upgrade(dsn)
    with connecting(), translating(), _connect(resolve_dsn(dsn)) as raw:
        return [sentence for (sentence,) in raw.execute(_RESTART_OFFSETS).fetchall()]


def create_roles(dsn: str | None = None) -> list[str]:
    """Make those of pgq's four roles that are missing on the server, and grant all of them what they may do here.

    Returns:
        The names of the roles that were made.

    Raises:
        SchemaMissingError: there is no schema pgq.
        DatabaseError: roles are missing, and this role has no CREATEROLE; or it does not own the schema.
        BrokerNotAvailableError: the server does not answer.
    """
    with connecting(), translating(), psycopg.connect(resolve_dsn(dsn), client_encoding="utf8") as raw:
        raw.execute(_LOCK)
        if _installed(raw) is None:
            raise missing()
        rows = raw.execute("select r from unnest(%s::text[]) r where to_regrole(r) is null", [list(ROLES)]).fetchall()
        created = [str(row[0]) for row in rows]
        for role in created:
            raw.execute(SQL("create role {} nologin").format(Identifier(role)))
        raw.execute("select pgq._grant_roles()")
    return created


def sql() -> str:
    """Return the SQL of a fresh install, for those who let a DBA run it: `pgq db sql | psql -1`."""
    output = io.StringIO()
    _run_alembic(output=output)
    return f"{_LOCK};\n\ncreate schema if not exists pgq;\n\n{output.getvalue()}\n{_functions_sql()}"


def missing() -> errors.SchemaMissingError:
    """Make the error that says that the database has no schema pgq."""
    return errors.SchemaMissingError("this database has no schema pgq: install it with `pgq db upgrade`")


def _too_new(installed: str) -> errors.SchemaTooNewError:
    return errors.SchemaTooNewError(
        f"the schema pgq is at revision {installed}, newer than this library's {SCHEMA_VERSION}: upgrade pgq-log"
    )


@contextmanager
def _locked(dsn: str | None, *, keep: bool = True) -> Iterator[Any]:
    """Connect by SQLAlchemy, which Alembic needs, take the lock in a transaction; commit or roll back at the end."""
    import sqlalchemy

    conninfo = resolve_dsn(dsn)
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: _connect(conninfo), poolclass=sqlalchemy.NullPool
    )
    with translating():
        with connecting():
            connection = engine.connect()
        with connection:
            raw = _raw(connection)
            if raw.info.server_version < 150000:
                raise errors.UnsupportedVersionError(
                    f"PostgreSQL {raw.info.server_version // 10000} is too old: pgq needs 15 or later"
                )
            raw.execute(_LOCK)
            yield connection
            if keep:
                connection.commit()
            else:
                connection.rollback()


def _connect(conninfo: str) -> psycopg.Connection[Any]:
    raw = psycopg.connect(conninfo, client_encoding="utf8")
    # whatever the role's or the database's default is: what is read under the lock must be what it protects
    raw.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    return raw


def _raw(connection: Any) -> psycopg.Connection[Any]:
    raw: psycopg.Connection[Any] = connection.connection.driver_connection
    return raw


def _installed(raw: psycopg.Connection[Any]) -> str | None:
    row = raw.execute("select to_regclass('pgq.alembic_version') is not null").fetchone()
    if row is None or not row[0]:
        return None
    row = raw.execute("select max(version_num) from pgq.alembic_version").fetchone()
    return str(row[0]) if row and row[0] is not None else None


def _check_free(raw: psycopg.Connection[Any]) -> None:
    """Refuse schemas of our names that somebody else uses; an empty schema pgq may have been made for us."""
    rows = raw.execute(
        "select n.nspname from pg_namespace n where n.nspname in ('pgq_log', 'pgq_topic') or n.nspname = 'pgq'"
        " and (exists (select from pg_class c where c.relnamespace = n.oid)"
        "      or exists (select from pg_proc p where p.pronamespace = n.oid)"
        "      or exists (select from pg_type t where t.typnamespace = n.oid)) order by 1"
    ).fetchall()
    if rows:
        raise errors.ForeignSchemaError(
            f"schema {rows[0][0]} exists and was not made by pgq-log (Skytools' PgQ uses the name pgq, too):"
            " choose another database, or rename that schema"
        )


def _create_schema(raw: psycopg.Connection[Any]) -> None:
    try:
        raw.execute("create schema if not exists pgq")
    except psycopg.errors.InsufficientPrivilege as error:
        database, role = raw.info.dbname, raw.info.user
        raise errors.DatabaseError(
            f"the role {role} may not create schemas in the database {database}: let the database's owner run"
            f' `grant create on database "{database}" to "{role}"`, or install as the owner'
        ) from error


def _functions_sql() -> str:
    """All of sql/, as one script; bodies are not checked, since they refer to each other in any order."""
    texts = [f.read_text(encoding="utf-8").rstrip() for f in function_files()]
    return "set local check_function_bodies = off;\n\n" + "\n\n".join(texts) + "\n"


def _run_alembic(*, connection: Any = None, output: io.StringIO | None = None) -> None:
    from alembic.config import Config

    from alembic import command

    config: Config = Config(output_buffer=output) if output else Config()
    config.set_main_option("script_location", str(alembic_folder()).replace("%", "%%"))
    if connection is not None:
        config.attributes["connection"] = connection
    with _ALEMBIC, _nested():
        command.upgrade(config, "head", sql=output is not None)


@contextmanager
def _nested() -> Iterator[None]:
    """Let Alembic run inside another run of it, such as an application's own revision that installs pgq."""
    from alembic import context, op

    outer = [getattr(module, "_proxy", None) for module in (context, op)]
    try:
        yield
    finally:
        for proxy in outer:
            if proxy is not None:
                proxy._install_proxy()
