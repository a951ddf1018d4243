"""A real PostgreSQL for the tests, and a database of its own for each of them: pgq.testing with this project's options.

Which server: `--server embedded` (the wheel), `--server local` (an installed PostgreSQL; `--bin-dir` says which),
`--server container` (Testcontainers; `--image` says which) or `--server dsn` (the server that PGQ_TEST_DSN names, on
which databases and the role pgq_app may be created). By default the first of PGQ_TEST_DSN, the wheel and an installed
PostgreSQL that is there. The server starts with the first test that needs one and is as durable as in production; a
test's database is a clone of one that was migrated once.

Tests connect as the ordinary role pgq_app, which owns the database, since that is how applications use pgq.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from pgq.embedded import EmbeddedServer
from pgq.testing import servers
from pgq.testing.databases import Databases, drop_database
from pgq.testing.servers import IMAGE, KINDS, Choice, NoServerError, Server, choose, without_container

if TYPE_CHECKING:
    from testcontainers.community.postgres import PostgresContainer

__all__ = ["APPLICATION", "SETTINGS", "Server", "drop_database", "without_container"]

APPLICATION = "pgq_app"
SETTINGS = {"max_connections": "200", "max_prepared_transactions": "50"}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("postgres")
    group.addoption("--server", choices=KINDS, help="the PostgreSQL server to test on")
    group.addoption("--bin-dir", type=Path, help="folder of the PostgreSQL programs to run; implies --server local")
    group.addoption("--image", default=IMAGE, help="the image of the tests that use a container (%(default)s)")


def _choice(config: pytest.Config) -> Choice:
    return choose(config.getoption("server"), bin_dir=config.getoption("bin_dir"), image=config.getoption("image"))


def pytest_report_header(config: pytest.Config) -> str:
    try:
        choice = _choice(config)
    except NoServerError as error:
        if config.getoption("server") or config.getoption("bin_dir"):
            raise pytest.UsageError(str(error)) from error
        return f"server: none. {error}"
    if choice.kind == "container":
        return f"server: {without_container(choice.image) or choice}"
    if choice.kind == "dsn":
        with psycopg.connect(choice.dsn) as conn:
            return f"server: PostgreSQL {conn.execute('show server_version').fetchone()[0]} of PGQ_TEST_DSN"
    return f"server: {choice}"


@pytest.fixture(scope="session")
def bin_dir(pytestconfig: pytest.Config) -> Path:
    """The folder of the PostgreSQL programs under test."""
    choice = _choice(pytestconfig)
    if choice.kind in ("dsn", "container"):
        pytest.skip(f"needs the server's own programs, and the tests run with --server {choice.kind}")
    return choice.bin_dir


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """A temporary folder for the data of servers, which any user of the system can pass to."""
    with servers.reachable_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def container(pytestconfig: pytest.Config) -> Iterator[PostgresContainer]:
    """A container of the image under test, started. Where none can run, tests that need one are skipped."""
    image = pytestconfig.getoption("image")
    if reason := without_container(image):
        pytest.skip(reason)
    with servers.start_container(image, SETTINGS) as container:
        yield container


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> Iterator[Server]:
    """The server that all tests share. A test that stops, kills or reconfigures one takes `own_server`."""
    choice = _choice(pytestconfig)
    if choice.kind == "container":  # the one that tests of containers use
        yield servers.RemoteServer(request.getfixturevalue("container").get_connection_url())
        return
    with servers.start(choice, settings=SETTINGS) as server:
        yield server


@pytest.fixture(scope="session")
def blank_data_dir(bin_dir: Path) -> Iterator[Path]:
    """A data folder as initdb makes it, to copy from; initdb takes several times longer."""
    with servers.reachable_folder() as folder:
        with EmbeddedServer(folder / "data", bin_dir=bin_dir):
            pass
        yield folder / "data"


@pytest.fixture
def own_server(bin_dir: Path, blank_data_dir: Path, server_folder: Path) -> Iterator[EmbeddedServer]:
    """A running server of the test's own, empty, that it may stop, kill and restart."""
    past = shutil.ignore_patterns("postmaster.opts", "server.log")
    shutil.copytree(blank_data_dir, server_folder / "data", ignore=past)
    with EmbeddedServer(server_folder / "data", bin_dir=bin_dir, settings=SETTINGS) as server:
        yield server


@pytest.fixture(scope="session")
def databases(server: Server) -> Iterator[Databases]:
    """Makes and drops databases that belong to pgq_app."""
    with Databases(server, role=APPLICATION) as databases:
        databases.make_role()
        yield databases


@pytest.fixture(scope="session")
def admin(databases: Databases) -> psycopg.Connection[Any]:
    """A superuser's connection to the server, in autocommit mode, for the work on whole databases."""
    return databases.connection


@pytest.fixture(scope="session")
def template(databases: Databases) -> str:
    """The name of a database that belongs to pgq_app and was migrated by it."""
    return databases.template


@pytest.fixture
def database(databases: Databases) -> Iterator[str]:
    """The name of a migrated, empty database of the test's own, which belongs to pgq_app."""
    with databases.clone() as name:
        yield name


@pytest.fixture
def empty_database(databases: Databases) -> Iterator[str]:
    """The name of a database without pgq's schema, which belongs to pgq_app."""
    with databases.empty() as name:
        yield name


@pytest.fixture
def empty_dsn(databases: Databases, empty_database: str) -> str:
    """The DSN of the database without pgq's schema for the role pgq_app."""
    return databases.dsn(empty_database)


@pytest.fixture(scope="session")
def psql(pytestconfig: pytest.Config) -> Path:
    """The program psql."""
    choice = _choice(pytestconfig)
    found = shutil.which("psql") if choice.kind in ("dsn", "container") else choice.bin_dir / "psql"
    if found is None or not Path(found).exists():
        pytest.skip("psql is not installed")
    return Path(found)


@pytest.fixture
def dsn(databases: Databases, database: str) -> str:
    """The DSN of the test's own database for the role pgq_app."""
    return databases.dsn(database)


@pytest.fixture
def admin_dsn(server: Server, database: str) -> str:
    """The DSN of the test's own database for a superuser."""
    return server.dsn(database)


@pytest.fixture
def conn(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the test's own database as pgq_app, in autocommit mode."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        yield conn
