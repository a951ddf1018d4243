"""All roads to the schema meet: the library call, its SQL through psql, and the dump that is committed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import psycopg
from alembic.config import Config
from alembic.script import ScriptDirectory

from pgq import schema
from pgq.config import SCHEMA_VERSION
from pgq.schema.files import alembic_folder, function_files, sql_folder
from scripts.dump_schema import dump


def bodies(dsn: str) -> dict[str, str]:
    """The whole definition of each function of pgq, which the dump leaves out."""
    with psycopg.connect(dsn) as conn:
        rows = conn.execute(
            "select oid::regprocedure::text, pg_get_functiondef(oid) from pg_proc"
            " where pronamespace = 'pgq'::regnamespace"
        ).fetchall()
    return dict(rows)


def catalog_rows(conn: psycopg.Connection[Any]) -> list[Any]:
    """What changes when anything in the three schemas is changed or made anew."""
    return conn.execute(
        "select c.oid, c.relname, c.relfilenode from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname in ('pgq', 'pgq_log', 'pgq_topic') order by 1"
    ).fetchall()


def test_upgrade_gives_the_committed_schema(empty_dsn: str) -> None:
    assert schema.upgrade(empty_dsn) == SCHEMA_VERSION
    committed = (sql_folder() / "schema.sql").read_text(encoding="utf-8")
    assert dump(empty_dsn) == committed, "run `python scripts/dump_schema.py --write`"


def test_sql_through_psql_gives_the_same(empty_dsn: str, dsn: str, psql: Path) -> None:
    done = subprocess.run(
        [psql, empty_dsn, "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1"],
        input=schema.sql(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert dump(empty_dsn) == dump(dsn)
    assert bodies(empty_dsn) == bodies(dsn)
    assert schema.current(empty_dsn) == SCHEMA_VERSION
    assert schema.check(empty_dsn) == []


def test_sql_is_one_transaction_and_needs_no_psql(empty_dsn: str, dsn: str) -> None:
    with psycopg.connect(empty_dsn) as conn:
        conn.execute(schema.sql())
        conn.rollback()
        assert catalog_rows(conn) == []
        conn.execute(schema.sql())
    assert dump(empty_dsn) == dump(dsn)


def test_upgrade_again_changes_nothing(empty_dsn: str) -> None:
    schema.upgrade(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        before = catalog_rows(conn), bodies(empty_dsn), dump(empty_dsn)
        assert schema.upgrade(empty_dsn) == SCHEMA_VERSION
        assert (catalog_rows(conn), bodies(empty_dsn), dump(empty_dsn)) == before


def test_upgrade_again_keeps_topics_and_records(empty_dsn: str) -> None:
    schema.upgrade(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("select pgq.create_topic('orders', 3, '{\"max.message.bytes\": 2000}')")
        conn.execute("select pgq.produce('orders', 'a', partition => 1)")
        schema.upgrade(empty_dsn)
        conn.execute("select pgq.produce('orders', 'b', partition => 1)")
        rows = conn.execute("select \"offset\", value from pgq.fetch('orders', 1, 0)").fetchall()
        assert rows == [(0, b"a"), (1, b"b")]
        found = conn.execute("select config ->> 'max.message.bytes' from pgq.describe_topic('orders')").fetchone()
        assert found == ("2000",)


def test_schema_version_is_the_single_head() -> None:
    config = Config()
    config.set_main_option("script_location", str(alembic_folder()))
    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA_VERSION]


def test_only_functions_views_and_grants_are_applied() -> None:
    root = sql_folder()
    assert {f.relative_to(root).parts[0] for f in function_files()} <= {"functions", "views", "grants"}
    assert (root / "schema.sql").exists()
    assert root / "schema.sql" not in function_files()


def test_revisions_do_not_read_the_live_sql_folder() -> None:
    for revision in (alembic_folder() / "versions").glob("*.py"):
        text = revision.read_text(encoding="utf-8")
        assert "import pgq" not in text, revision.name
        assert "from pgq" not in text, revision.name
        assert "open(" not in text, revision.name
        assert "read_text" not in text, revision.name


def test_every_function_has_a_file_of_its_name(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        rows = conn.execute("select proname from pg_proc where pronamespace = 'pgq'::regnamespace").fetchall()
    names = [name for (name,) in rows]
    assert sorted(names) == sorted(f.stem for f in function_files() if "functions" in f.parts)


def test_an_ordinary_role_that_owns_the_database_suffices(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as conn:
        role = conn.execute(
            "select rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls,"
            " (select count(*) from pg_auth_members m where m.member = r.oid)"
            " from pg_roles r where rolname = current_user"
        ).fetchone()
    assert role == (False, False, False, False, False, 0)
    schema.upgrade(empty_dsn)
    assert schema.check(empty_dsn) == []
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("select pgq.create_topic('orders')")
        assert conn.execute("select \"offset\" from pgq.produce('orders', 'a')").fetchone() == (0,)
