"""A pytest plug-in for the tests of applications: `pytest_plugins = ["pgq.testing.plugin"]` in the root conftest.py.

Each test that asks for `pgq_dsn`, or for a fixture that builds on it, has a migrated database of its own. The server
starts with the first such test; `--pgq-server` and the settings `pgq_server`, `pgq_bin_dir`, `pgq_image` and `pgq_role`
say which. Fixtures to override in a conftest.py: `pgq_prepare`, `pgq_server_settings`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pgq import Admin, AsyncAdmin, AsyncConsumer, AsyncProducer, Consumer, Producer
from pgq.testing import reading
from pgq.testing.databases import Databases, Prepare
from pgq.testing.servers import IMAGE, KINDS, Choice, NoServerError, Server, choose, start

# A server that ends with the tests has nothing to lose in a crash of the machine.
_SETTINGS = {"fsync": "off", "full_page_writes": "off"}
_CONSUMER = {"auto_offset_reset": "earliest"}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pgq")
    group.addoption("--pgq-server", choices=KINDS, help="the PostgreSQL server of pgq's fixtures")
    group.addoption("--pgq-bin-dir", metavar="DIR", help="folder of the PostgreSQL programs to run")
    group.addoption("--pgq-image", metavar="IMAGE", help=f"image of the container ({IMAGE})")
    parser.addini("pgq_server", f"the server of pgq's fixtures: {', '.join(KINDS)}; by default the first that is there")
    parser.addini("pgq_bin_dir", "folder of the PostgreSQL programs to run")
    parser.addini("pgq_image", f"image of the container ({IMAGE})")
    parser.addini("pgq_role", "ordinary role that owns the databases and that tests connect as; made if missing")


def _setting(config: pytest.Config, name: str) -> Any:
    return config.getoption(name) or config.getini(name) or None


def _choice(config: pytest.Config) -> Choice:
    folder = _setting(config, "pgq_bin_dir")
    return choose(
        _setting(config, "pgq_server"),
        bin_dir=folder and Path(config.rootpath, folder),
        image=_setting(config, "pgq_image") or IMAGE,
    )


def pytest_report_header(config: pytest.Config) -> str:
    """Say which server the fixtures take; nothing is started for that."""
    try:
        return f"pgq: {_choice(config)}"
    except NoServerError as error:
        return f"pgq: no server. {error}"


@pytest.fixture(scope="session")
def pgq_server_settings() -> Mapping[str, str]:
    """Settings of the server as in postgresql.conf, to override. One that PGQ_TEST_DSN names is taken as it is."""
    return {}


@pytest.fixture(scope="session")
def pgq_prepare() -> Prepare:
    """What is done, once, to the database that every test's is a clone of, to override: a function of its DSN."""
    return lambda dsn: None


@pytest.fixture(scope="session")
def pgq_server(pytestconfig: pytest.Config, pgq_server_settings: Mapping[str, str]) -> Iterator[Server]:
    """The server of this run, or of this worker of pytest-xdist."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(start(_choice(pytestconfig), settings={**_SETTINGS, **pgq_server_settings}))
        except NoServerError as error:
            pytest.fail(f"pgq has no PostgreSQL to test on: {error}", pytrace=False)
        yield server


@pytest.fixture(scope="session")
def pgq_databases(pytestconfig: pytest.Config, pgq_server: Server, pgq_prepare: Prepare) -> Iterator[Databases]:
    """Makes and drops databases: `with pgq_databases.clone() as name:`, or `empty()` for one without the schema."""
    with Databases(pgq_server, role=pytestconfig.getini("pgq_role") or None, prepare=pgq_prepare) as databases:
        try:
            databases.template  # noqa: B018 - made here, so that what fails is told once
        except NoServerError as error:
            pytest.fail(f"pgq has no PostgreSQL to test on: {error}", pytrace=False)
        yield databases


@pytest.fixture
def pgq_dsn(pgq_databases: Databases, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The DSN of a migrated database of the test's own, which clients without a `dsn` use, too; dropped afterwards."""
    with pgq_databases.clone() as name:
        dsn = pgq_databases.dsn(name)
        monkeypatch.setenv("PGQ_DSN", dsn)
        monkeypatch.delenv("PGQ_DIRECT_DSN", raising=False)
        yield dsn


@pytest.fixture
def pgq_admin(pgq_dsn: str) -> Iterator[Admin]:
    """An Admin on the test's own database."""
    with Admin(pgq_dsn) as admin:
        yield admin


@pytest.fixture
def pgq_producer(pgq_dsn: str) -> Iterator[Callable[..., Producer]]:
    """Make a Producer, with its options; it is flushed and closed after the test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Producer(pgq_dsn, **options))


@pytest.fixture
def pgq_consumer(pgq_dsn: str) -> Iterator[Callable[..., Consumer]]:
    """Make a Consumer of topics, with its options; it begins at the earliest records, and is closed after the test."""
    with ExitStack() as stack:
        yield lambda *topics, **options: stack.enter_context(
            Consumer(*topics, **{"dsn": pgq_dsn, **_CONSUMER, **options})
        )


@pytest.fixture
def pgq_async_admin(pgq_dsn: str) -> Callable[[], AsyncAdmin]:
    """Make an AsyncAdmin for `async with`."""
    return functools.partial(AsyncAdmin, pgq_dsn)


@pytest.fixture
def pgq_async_producer(pgq_dsn: str) -> Callable[..., AsyncProducer]:
    """Make an AsyncProducer, with its options, for `async with`."""
    return functools.partial(AsyncProducer, pgq_dsn)


@pytest.fixture
def pgq_async_consumer(pgq_dsn: str) -> Callable[..., AsyncConsumer]:
    """Make an AsyncConsumer of topics, with its options, for `async with`; it begins at the earliest records."""
    return lambda *topics, **options: AsyncConsumer(*topics, **{"dsn": pgq_dsn, **_CONSUMER, **options})


@pytest.fixture
def pgq_drain(pgq_dsn: str) -> Callable[..., list[Any]]:
    """`pgq.testing.drain` on the test's own database."""
    return functools.partial(reading.drain, dsn=pgq_dsn)


@pytest.fixture
def pgq_wait_until_consumed(pgq_dsn: str) -> Callable[..., None]:
    """`pgq.testing.wait_until_consumed` on the test's own database."""
    return functools.partial(reading.wait_until_consumed, dsn=pgq_dsn)


@pytest.fixture
def pgq_async_drain(pgq_dsn: str) -> Callable[..., Any]:
    """`pgq.testing.async_drain` on the test's own database."""
    return functools.partial(reading.async_drain, dsn=pgq_dsn)


@pytest.fixture
def pgq_async_wait_until_consumed(pgq_dsn: str) -> Callable[..., Any]:
    """`pgq.testing.async_wait_until_consumed` on the test's own database."""
    return functools.partial(reading.async_wait_until_consumed, dsn=pgq_dsn)
