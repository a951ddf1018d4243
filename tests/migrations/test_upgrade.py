"""What an upgrade refuses, what interrupts it, and who may run it at the same time."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from alembic.config import Config
from psycopg import sql

from alembic import command
from pgq import Admin, errors, schema
from pgq.config import SCHEMA_VERSION
from pgq.schema.files import alembic_folder
from tests.plugins.postgres import APPLICATION, Server

ROOT = Path(schema.__file__).parents[2]
PROCESSES = 20

# Ready, then wait for the starting gun, then upgrade.
RACER = """
import sys
from alembic import command  # the slow import
from pgq import schema
print("ready", flush=True)
sys.stdin.readline()
print(schema.upgrade(sys.argv[1]))
"""


def everything(conn: psycopg.Connection[Any]) -> list[Any]:
    """All that is not PostgreSQL's own in a database: schemas, relations, functions, types, with their owners."""
    return conn.execute(
        "with mine as (select oid, nspname from pg_namespace"
        "              where nspname !~ '^pg_(catalog|toast|temp)' and nspname <> 'information_schema')"
        " select 'schema', nspname::text, 0::oid from mine"
        " union all select 'relation', relname::text, c.oid from pg_class c join mine m on m.oid = relnamespace"
        " union all select 'function', proname::text, p.oid from pg_proc p join mine m on m.oid = pronamespace"
        " union all select 'type', typname::text, t.oid from pg_type t join mine m on m.oid = typnamespace"
        " order by 1, 2, 3"
    ).fetchall()


def test_twenty_processes_upgrade_at_once(empty_dsn: str) -> None:
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", RACER, empty_dsn],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(PROCESSES)
        ]
        for process in processes:
            stack.callback(process.kill)
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        results = [(*process.communicate(), process.returncode) for process in processes]
    assert results == [(f"{SCHEMA_VERSION}\n", "", 0)] * PROCESSES
    assert schema.check(empty_dsn) == []


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_threads_upgrade_at_once_whatever_the_default_isolation(
    admin: psycopg.Connection[Any], empty_database: str, empty_dsn: str, isolation: str
) -> None:
    admin.execute(
        sql.SQL("alter database {} set default_transaction_isolation = {}").format(
            sql.Identifier(empty_database), isolation
        )
    )
    start = threading.Barrier(4)

    def upgrade(_: int) -> str:
        start.wait()
        return schema.upgrade(empty_dsn)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(upgrade, range(4))) == [SCHEMA_VERSION] * 4
    assert schema.check(empty_dsn) == []


@pytest.mark.parametrize(
    "foreign",
    [
        # Skytools' PgQ
        "create schema pgq; create table pgq.queue (queue_id serial primary key, queue_name text)",
        "create schema pgq; create function pgq.next_batch(text, text) returns bigint language sql as 'select 1::int8'",
        "create schema pgq; create type pgq.kind as enum ('a')",
        "create schema pgq_log",
        "create schema pgq_topic; create view pgq_topic.orders as select 1 as one",
    ],
)
def test_a_schema_that_is_not_ours_is_refused_and_left_alone(empty_dsn: str, foreign: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute(foreign)
        before = everything(conn)
        with pytest.raises(errors.ForeignSchemaError, match="was not made by pgq-log"):
            schema.upgrade(empty_dsn)
        assert everything(conn) == before
    assert schema.current(empty_dsn) is None
    with pytest.raises(errors.SchemaMissingError):
        schema.check(empty_dsn)


def test_an_empty_schema_pgq_may_have_been_made_beforehand(server: Server, empty_database: str, empty_dsn: str) -> None:
    with psycopg.connect(server.dsn(empty_database)) as superuser:
        superuser.execute(sql.SQL("create schema pgq authorization {}").format(sql.Identifier(APPLICATION)))
    assert schema.current(empty_dsn) is None
    schema.upgrade(empty_dsn)
    assert schema.check(empty_dsn) == []


def test_a_newer_schema_is_refused(dsn: str, conn: psycopg.Connection[Any]) -> None:
    conn.execute("update pgq.alembic_version set version_num = '9999'")
    before = everything(conn)
    for call in (schema.upgrade, schema.check, lambda dsn: Admin(dsn).start()):
        with pytest.raises(errors.SchemaTooNewError, match=r"9999.*upgrade pgq-log"):
            call(dsn)
    assert schema.current(dsn) == "9999"
    assert everything(conn) == before


def test_an_older_schema_is_named(dsn: str, conn: psycopg.Connection[Any]) -> None:
    conn.execute("update pgq.alembic_version set version_num = '0000'")
    assert schema.check(dsn) == [
        f"the schema is at revision 0000, this library's at {SCHEMA_VERSION}: run `pgq db upgrade`"
    ]
    with pytest.raises(errors.SchemaTooOldError, match="pgq db upgrade"):
        Admin(dsn).start()


def test_a_function_of_an_older_signature_gives_way(empty_dsn: str) -> None:
    """Left beside the new one it would make calls ambiguous."""
    config = Config()
    config.set_main_option("script_location", str(alembic_folder()))
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(empty_dsn))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("create schema pgq"))
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        connection.execute(
            sqlalchemy.text(
                "create function pgq.partition_for_key(key bytea, partitions int) returns int language sql return 7"
            )
        )
    engine.dispose()
    schema.upgrade(empty_dsn)
    assert schema.check(empty_dsn) == []
    with psycopg.connect(empty_dsn) as conn:
        assert conn.execute("select pgq.partition_for_key('abc', 12)").fetchone() == (479470107 % 12,)


def test_clients_say_that_there_is_no_schema(empty_dsn: str) -> None:
    with pytest.raises(errors.SchemaMissingError, match="pgq db upgrade"):
        Admin(empty_dsn).start()
    with pytest.raises(errors.SchemaMissingError, match="pgq db upgrade"):
        schema.check(empty_dsn)
    assert schema.current(empty_dsn) is None


def test_a_terminated_upgrade_leaves_nothing_behind(admin: psycopg.Connection[Any], empty_dsn: str) -> None:
    with (
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(empty_dsn, autocommit=True) as conn,
        psycopg.connect(empty_dsn) as obstacle,
    ):
        before = everything(conn)
        # the upgrade waits here, when it has made the schemas pgq and pgq_log
        obstacle.execute("create schema pgq_topic")
        upgrade = pool.submit(schema.upgrade, empty_dsn)
        waiting = None
        while waiting is None:
            assert not upgrade.done(), upgrade.exception()
            waiting = admin.execute(
                "select a.pid, a.query from pg_stat_activity a where %s = any (pg_blocking_pids(a.pid))",
                [obstacle.info.backend_pid],
            ).fetchone()
        assert waiting[1] == "create schema pgq_topic"
        admin.execute("select pg_terminate_backend(%s, 10000)", [waiting[0]])
        with pytest.raises(errors.BrokerNotAvailableError):
            upgrade.result()
        obstacle.rollback()
        assert everything(conn) == before
    schema.upgrade(empty_dsn)
    assert schema.check(empty_dsn) == []


def test_a_role_that_may_not_create_schemas_is_told_what_to_do(
    admin: psycopg.Connection[Any], empty_database: str, empty_dsn: str
) -> None:
    admin.execute(sql.SQL("alter database {} owner to postgres").format(sql.Identifier(empty_database)))
    with pytest.raises(errors.DatabaseError) as caught:
        schema.upgrade(empty_dsn)
    assert isinstance(caught.value.__cause__, psycopg.errors.InsufficientPrivilege)
    assert not caught.value.retriable
    advice = f'grant create on database "{empty_database}" to "{APPLICATION}"'
    assert f"`{advice}`" in str(caught.value)
    assert schema.current(empty_dsn) is None

    admin.execute(advice)
    schema.upgrade(empty_dsn)
    assert schema.check(empty_dsn) == []


@pytest.mark.parametrize("call", [schema.upgrade, schema.current, schema.check])
def test_a_server_that_is_not_there_is_not_available(call: Callable[[str], object]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(errors.BrokerNotAvailableError) as caught:
        call(f"postgresql://pgq_app@127.0.0.1:{port}/pgq")
    assert caught.value.retriable
    assert isinstance(caught.value.__cause__, Exception)


def test_a_server_that_does_not_answer_is_not_available() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(errors.BrokerNotAvailableError):
        schema.upgrade(f"postgresql://pgq_app@127.0.0.1:{silent.getsockname()[1]}/pgq?connect_timeout=2")


@pytest.mark.usefixtures("databases")  # whose role there is
def test_a_database_that_does_not_exist_is_not_available(server: Server) -> None:
    with pytest.raises(errors.BrokerNotAvailableError, match="pgq_nowhere"):
        schema.upgrade(server.dsn("pgq_nowhere", user=APPLICATION))


def test_no_dsn_and_no_connection_string_are_invalid_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGQ_DSN", raising=False)
    with pytest.raises(errors.InvalidRequestError, match="PGQ_DSN"):
        schema.upgrade()
    with pytest.raises(errors.InvalidRequestError, match="not a connection string"):
        schema.upgrade("nonsense=1")


def test_the_dsn_of_the_environment_is_used(empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGQ_DSN", empty_dsn)
    assert schema.current() is None
    assert schema.upgrade() == SCHEMA_VERSION
    assert schema.current() == SCHEMA_VERSION
    assert schema.check() == []
