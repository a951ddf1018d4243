"""pgq shares a database with an application that has an Alembic of its own, and neither meets the other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgq import schema
from pgq.config import SCHEMA_VERSION

ROOT = Path(schema.__file__).parents[2]

ENV = """
import os
import sqlalchemy
from alembic import context

metadata = sqlalchemy.MetaData()
sqlalchemy.Table("customer", metadata, sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True))
url = os.environ["APPLICATION_DSN"].replace("postgresql://", "postgresql+psycopg://")
engine = sqlalchemy.create_engine(url)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()
"""

REVISION = """
import os
import sqlalchemy
from alembic import op

revision = "0001"  # the same as a revision of pgq
down_revision = None


def upgrade():
    op.create_table("customer", sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True))


def downgrade():
    op.drop_table("customer")
"""

# installs pgq: with a connection of its own, or in this revision's transaction
SECOND_REVISION = """
import os
from alembic import op
from pgq import schema

revision = "app2"
down_revision = "0001"


def upgrade():
    {install}
    op.execute("insert into customer values (2)")


def downgrade():
    op.execute("delete from customer")
"""


class Application:
    """An application with an Alembic environment, run as its users run it: from a folder of their own."""

    def __init__(self, folder: Path, dsn: str) -> None:
        self.elsewhere = folder / "elsewhere"
        self.versions = folder / "application" / "migrations" / "versions"
        self.elsewhere.mkdir()
        self.versions.mkdir(parents=True)
        self.versions.with_name("env.py").write_text(ENV)
        self.ini = folder / "application" / "alembic.ini"
        self.ini.write_text("[alembic]\nscript_location = %(here)s/migrations\npath_separator = os\n")
        self.dsn = dsn
        self.add("first.py", REVISION)

    def add(self, name: str, text: str) -> None:
        (self.versions / name).write_text(text)

    def run(self, *command: str) -> str:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        environment |= {"APPLICATION_DSN": self.dsn, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=self.elsewhere, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def alembic(self, *arguments: str) -> str:
        return self.run(sys.executable, "-m", "alembic", "-c", str(self.ini), *arguments)

    def pgq(self, *arguments: str) -> str:
        return self.run(sys.executable, "-c", "from pgq.cli import app; app()", *arguments, "--dsn", self.dsn)


@pytest.fixture
def application(tmp_path: Path, empty_dsn: str) -> Application:
    """An application on an empty database."""
    return Application(tmp_path, empty_dsn)


def versions(conn: psycopg.Connection[Any]) -> tuple[Any, Any]:
    """The revision of the application, the revision of pgq."""
    tables = ("public.alembic_version", "pgq.alembic_version")
    return tuple(
        conn.execute(f"select version_num from {table}").fetchone()[0]
        if conn.execute("select to_regclass(%s)", [table]).fetchone()[0]
        else None
        for table in tables
    )


@pytest.mark.parametrize("order", ["application first", "pgq first"])
def test_both_upgrade_and_neither_sees_the_other(application: Application, empty_dsn: str, order: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        if order == "application first":
            application.alembic("upgrade", "head")
            assert versions(conn) == ("0001", None)
            application.pgq("db", "upgrade")
        else:
            application.pgq("db", "upgrade")
            assert versions(conn) == (None, SCHEMA_VERSION)
            application.alembic("upgrade", "head")
        assert versions(conn) == ("0001", SCHEMA_VERSION)

        conn.execute("insert into customer values (1)")
        application.alembic("upgrade", "head")
        assert "No new upgrade operations" in application.alembic("check")  # autogenerate does not see pgq's tables
        application.pgq("db", "upgrade")
        assert versions(conn) == ("0001", SCHEMA_VERSION)

        application.alembic("downgrade", "base")
        assert conn.execute("select to_regclass('public.customer') is null").fetchone() == (True,)
        assert conn.execute("select count(*) from pgq.alembic_version").fetchone() == (1,)
    assert schema.check(empty_dsn) == []


@pytest.mark.parametrize(
    "install", ['schema.upgrade(os.environ["APPLICATION_DSN"])', "op.execute(schema.sql().replace(':', r'\\:'))"]
)
def test_a_revision_of_the_application_may_install_pgq(application: Application, empty_dsn: str, install: str) -> None:
    application.add("second.py", SECOND_REVISION.format(install=install))
    application.alembic("upgrade", "head")
    with psycopg.connect(empty_dsn) as conn:
        assert versions(conn) == ("app2", SCHEMA_VERSION)
        assert conn.execute("select id from customer").fetchall() == [(2,)]
    assert schema.check(empty_dsn) == []


def test_pgq_sees_its_own_folders_from_anywhere(application: Application, empty_dsn: str) -> None:
    """A folder `alembic` or `sql` where the command is started from is not taken for pgq's."""
    for name in ("alembic", "sql"):
        (application.elsewhere / name).mkdir()
    application.pgq("db", "upgrade")
    assert schema.check(empty_dsn) == []
