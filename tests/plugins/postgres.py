"""A real PostgreSQL for the tests, and a database of its own for each of them.

Which server: `--server embedded` (the wheel), `--server local` (an installed PostgreSQL; `--bin-dir` says which),
`--server container` (Testcontainers; `--image` says which) or `--server dsn` (the server that PGQ_TEST_DSN names, on
which databases and the role pgq_app may be created). By default the first of PGQ_TEST_DSN, the wheel and an installed
PostgreSQL that is there. The server starts with the first test that needs one and is as durable as in production; a
test's database is a clone of one that was migrated once.

Tests connect as the ordinary role pgq_app, which owns the database, since that is how applications use pgq.
"""

from __future__ import annotations

import functools
import gc
import os
import secrets
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlencode

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from pgq.embedded import EmbeddedServer, EmbeddedServerError, find_binaries

if TYPE_CHECKING:
    from testcontainers.community.postgres import PostgresContainer

APPLICATION = "pgq_app"
MEMORY = Path("/dev/shm")
ENOUGH_MEMORY = 8 << 30
SETTINGS = {"max_connections": "200", "max_prepared_transactions": "50"}


class Server(Protocol):
    """What the fixtures need of a server, whoever runs it."""

    def dsn(self, database: str = "postgres", *, user: str = "postgres") -> str: ...


@dataclass(frozen=True)
class ForeignServer:
    """A server that somebody else runs. Its DSN names a superuser; the application's password is its name."""

    admin_dsn: str

    def dsn(self, database: str = "postgres", *, user: str = "postgres") -> str:
        parameters = conninfo_to_dict(self.admin_dsn)
        parameters.pop("dbname", None)
        if user == APPLICATION:
            parameters |= {"user": APPLICATION, "password": APPLICATION}
        # a URL, and the database's name in its path: asyncpg reads no other notation
        return f"postgresql:///{quote(database, safe='')}?{urlencode(parameters, quote_via=quote)}"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("postgres")
    servers = ("embedded", "local", "container", "dsn")
    group.addoption("--server", choices=servers, help="the PostgreSQL server to test on")
    group.addoption("--bin-dir", type=Path, help="folder of the PostgreSQL programs to run; implies --server local")
    group.addoption("--image", default="postgres:18", help="the image of the tests that use a container (%(default)s)")


def _kind(config: pytest.Config) -> str:
    kind: str | None = config.getoption("server")
    if config.getoption("bin_dir"):
        if kind not in (None, "local"):
            raise pytest.UsageError(f"--bin-dir does not go with --server {kind}")
        return "local"
    if kind is None:
        kind = "dsn" if os.environ.get("PGQ_TEST_DSN") else "embedded"
    if kind == "dsn" and not os.environ.get("PGQ_TEST_DSN"):
        raise pytest.UsageError("--server dsn needs the environment variable PGQ_TEST_DSN")
    return kind


def _binaries(config: pytest.Config) -> Path:
    folder: Path | None = config.getoption("bin_dir")
    return folder or find_binaries("local" if _kind(config) == "local" else "embedded")


def pytest_report_header(config: pytest.Config) -> str:
    if _kind(config) == "dsn":
        with psycopg.connect(os.environ["PGQ_TEST_DSN"]) as conn:
            return f"server: PostgreSQL {conn.execute('show server_version').fetchone()[0]} of PGQ_TEST_DSN"
    if _kind(config) == "container":
        image = config.getoption("image")
        return f"server: {without_container(image) or f'a container of {image}'}"
    try:
        folder = _binaries(config)
    except EmbeddedServerError as error:
        return f"server: none. {error}"
    version = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    return f"server: {version.strip()} in {folder}"


@functools.cache
def without_container(image: str) -> str | None:
    """Say why no container of the image can run here; None if one can. Pulls what is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            return _try_image(image)
        finally:
            gc.collect()  # a client that found no daemon leaves its socket open, and a later test would be blamed


def _try_image(image: str) -> str | None:
    import requests
    from docker.errors import DockerException, ImageNotFound
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.docker_client import DockerClient

    images = [image] if testcontainers_config.ryuk_disabled else [image, testcontainers_config.ryuk_image]
    what = "no Docker daemon answers"
    try:
        # seconds without a sign of life; docker sends the progress of a pull all the time
        with closing(DockerClient(timeout=30).client) as client:
            for name in images:
                what = f"the image {name} cannot be had"
                try:
                    client.images.get(name)
                except ImageNotFound:
                    client.images.pull(name)
    except (DockerException, requests.RequestException) as error:
        return f"{what}: {error}"
    return None


@contextmanager
def _reachable_folder() -> Iterator[Path]:
    """A temporary folder that PostgreSQL's user can pass to when the tests run as root; pytest's are closed to it."""
    folder = Path(tempfile.mkdtemp(prefix="pgq-test-", dir=_memory()))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def bin_dir(pytestconfig: pytest.Config) -> Path:
    """The folder of the PostgreSQL programs under test."""
    if (kind := _kind(pytestconfig)) in ("dsn", "container"):
        pytest.skip(f"needs the server's own programs, and the tests run with --server {kind}")
    return _binaries(pytestconfig)


def _memory() -> Path | None:
    """A file system in memory with enough room, if there is one: making a database takes a fifth of the time there."""
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ENOUGH_MEMORY else None


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """A temporary folder for the data of servers, which any user of the system can pass to."""
    with _reachable_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def container(pytestconfig: pytest.Config) -> Iterator[PostgresContainer]:
    """A container of the image under test, started. Where none can run, tests that need one are skipped."""
    from testcontainers.community.postgres import PostgresContainer

    image = pytestconfig.getoption("image")
    if reason := without_container(image):
        pytest.skip(reason)
    command = ["postgres", *(word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}"))]
    with PostgresContainer(image, driver=None).with_command(command) as container:
        yield container


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> Iterator[Server]:
    """The server that all tests share. A test that stops, kills or reconfigures one takes `own_server`."""
    if _kind(pytestconfig) == "dsn":
        yield ForeignServer(os.environ["PGQ_TEST_DSN"])
        return
    if _kind(pytestconfig) == "container":
        yield ForeignServer(request.getfixturevalue("container").get_connection_url())
        return
    with (
        _reachable_folder() as folder,
        EmbeddedServer(folder / "data", bin_dir=_binaries(pytestconfig), settings=SETTINGS) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def blank_data_dir(bin_dir: Path) -> Iterator[Path]:
    """A data folder as initdb makes it, to copy from; initdb takes several times longer."""
    with _reachable_folder() as folder:
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
def admin(server: Server) -> Iterator[psycopg.Connection[Any]]:
    """A superuser's connection to the server, in autocommit mode, for the work on whole databases."""
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        yield conn


@pytest.fixture(scope="session")
def template(server: Server, admin: psycopg.Connection[Any]) -> Iterator[str]:
    """The name of a database that belongs to pgq_app and was migrated by it."""
    from pgq import schema

    with suppress(psycopg.errors.DuplicateObject):  # of an earlier run on this server
        admin.execute(sql.SQL("create role {} login password {}").format(sql.Identifier(APPLICATION), APPLICATION))
    name = f"pgq_template_{secrets.token_hex(4)}"
    admin.execute(sql.SQL("create database {} owner {}").format(sql.Identifier(name), sql.Identifier(APPLICATION)))
    try:
        schema.upgrade(server.dsn(name, user=APPLICATION))
        yield name
    finally:
        drop_database(server, admin, name)


@pytest.fixture
def database(server: Server, admin: psycopg.Connection[Any], template: str) -> Iterator[str]:
    """The name of a migrated, empty database of the test's own, which belongs to pgq_app."""
    name = f"pgq_test_{secrets.token_hex(6)}"
    # Copying files takes two checkpoints; through the WAL, the default, is faster for a database this small.
    admin.execute(
        sql.SQL("create database {} template {} owner {}").format(
            sql.Identifier(name), sql.Identifier(template), sql.Identifier(APPLICATION)
        )
    )
    try:
        yield name
    finally:
        drop_database(server, admin, name)


@pytest.fixture
def empty_database(server: Server, admin: psycopg.Connection[Any], template: str) -> Iterator[str]:
    """The name of a database without pgq's schema, which belongs to pgq_app. `template` has made that role."""
    name = f"pgq_empty_{secrets.token_hex(6)}"
    admin.execute(sql.SQL("create database {} owner {}").format(sql.Identifier(name), sql.Identifier(APPLICATION)))
    try:
        yield name
    finally:
        drop_database(server, admin, name)


@pytest.fixture
def empty_dsn(server: Server, empty_database: str) -> str:
    """The DSN of the database without pgq's schema for the role pgq_app."""
    return server.dsn(empty_database, user=APPLICATION)


@pytest.fixture(scope="session")
def psql(pytestconfig: pytest.Config) -> Path:
    """The program psql."""
    foreign = _kind(pytestconfig) in ("dsn", "container")
    found = shutil.which("psql") if foreign else _binaries(pytestconfig) / "psql"
    if found is None or not Path(found).exists():
        pytest.skip("psql is not installed")
    return Path(found)


@pytest.fixture
def dsn(server: Server, database: str) -> str:
    """The DSN of the test's own database for the role pgq_app."""
    return server.dsn(database, user=APPLICATION)


@pytest.fixture
def admin_dsn(server: Server, database: str) -> str:
    """The DSN of the test's own database for a superuser."""
    return server.dsn(database)


@pytest.fixture
def conn(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the test's own database as pgq_app, in autocommit mode."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        yield conn


def drop_database(server: Server, admin: psycopg.Connection[Any], name: str) -> None:
    """Drop a database with all that a test may have left in it: sessions and prepared transactions."""
    prepared = admin.execute("select gid from pg_prepared_xacts where database = %s", [name]).fetchall()
    if prepared:
        with psycopg.connect(server.dsn(name), autocommit=True) as conn:
            for (gid,) in prepared:
                conn.execute(sql.SQL("rollback prepared {}").format(gid))
    admin.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
