"""How clients find the database, and what they say when it is not there or does not fit."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgq import errors
from pgq.embedded import EmbeddedServer
from tests.plugins.postgres import APPLICATION, Server
from tests.plugins.sessions import Connection, value

from .conftest import Clients

ANSWER_WITHIN_S = 15


@pytest.fixture
def socket_dsn(server: Server, database: str) -> str:
    """The test's own database by the server's unix socket."""
    if not isinstance(server, EmbeddedServer):
        pytest.skip("the unix socket of a foreign server is not known")
    return make_conninfo(host=str(server.socket_dir), port=server.port, user=APPLICATION, dbname=database)


def url(dsn: str) -> str:
    given = conninfo_to_dict(dsn)
    user = given["user"] + (f":{given['password']}" if "password" in given else "")
    return f"postgresql://{user}@{given['host']}:{given['port']}/{given['dbname']}"


FORMS: dict[str, Callable[[str], str]] = {
    "key=value": lambda dsn: make_conninfo("", **conninfo_to_dict(dsn)),
    "url": url,
    "postgres url": lambda dsn: url(dsn).replace("postgresql://", "postgres://"),
    "url with parameters": lambda dsn: url(dsn) + "?connect_timeout=5&application_name=pgq",
    "options": lambda dsn: make_conninfo(dsn, options="-c search_path=pg_catalog -c statement_timeout=9000"),
    "host and port behind the question mark": lambda dsn: (
        "postgresql:///?" + "&".join(f"{k}={v}" for k, v in conninfo_to_dict(dsn).items())
    ),
    "keepalives, which asyncpg does not know": lambda dsn: make_conninfo(dsn, keepalives_idle="30"),
}


async def use(clients: Clients, conn: Connection, **options: Any) -> None:
    """Create a topic, send a record, read it."""
    async with clients.admin(**options) as admin:
        await admin.create_topic("orders")
    async with clients.producer(**options) as producer, clients.consumer("orders", **options) as consumer:
        await (await producer.send("orders", b"v"))
        assert [len(b) for b in (await consumer.getmany(timeout_ms=5000)).values()] == [1]
    assert value(conn, "select count(*) from pgq.fetch('orders', 0, 0)") == 1


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
async def test_forms_of_the_dsn(clients: Clients, conn: Connection, dsn: str, form: Callable[[str], str]) -> None:
    await use(clients, conn, dsn=form(dsn))


async def test_unix_socket(clients: Clients, conn: Connection, socket_dsn: str) -> None:
    await use(clients, conn, dsn=socket_dsn)


async def test_unix_socket_as_url(clients: Clients, conn: Connection, socket_dsn: str) -> None:
    given = conninfo_to_dict(socket_dsn)
    host = str(given["host"]).replace("/", "%2F")
    await use(clients, conn, dsn=f"postgresql://{given['user']}@{host}:{given['port']}/{given['dbname']}")


async def test_dsn_of_the_environment(
    clients: Clients, conn: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGQ_DSN", dsn)
    await use(clients, conn, dsn=None)


async def test_dsn_given_overrides_the_environment(
    clients: Clients, conn: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGQ_DSN", "host=/nowhere")
    await use(clients, conn, dsn=dsn)


async def test_application_name_of_the_dsn(clients: Clients, conn: Connection, dsn: str) -> None:
    name = "it's an app & more"
    async with clients.admin(dsn=make_conninfo(dsn, application_name=name)):
        assert value(conn, "select count(*) from pg_stat_activity where application_name = %s", name) == 1


@pytest.mark.parametrize("kind", ["admin", "producer", "consumer"])
@pytest.mark.parametrize("bad", [None, "", "nonsense", "postgresql://[::1/x", "nokey=x"])
async def test_bad_dsn_is_refused(
    clients: Clients, kind: str, bad: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGQ_DSN", raising=False)
    with pytest.raises(errors.InvalidRequestError):
        await getattr(clients, kind)(dsn=bad).start()


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def expect_not_available(clients: Clients, dsn: str) -> None:
    for client in (clients.admin(dsn=dsn), clients.producer(dsn=dsn), clients.consumer("t", dsn=dsn)):
        started = time.monotonic()
        with pytest.raises(errors.BrokerNotAvailableError) as caught:
            await client.start()
        assert time.monotonic() - started < ANSWER_WITHIN_S
        assert caught.value.retriable
        assert caught.value.__cause__ is not None
        await client.close()


async def test_closed_port(clients: Clients, closed_port: int) -> None:
    await expect_not_available(clients, f"host=127.0.0.1 port={closed_port} user=x dbname=x")


async def test_server_that_never_answers(clients: Clients, silent_port: int) -> None:
    await expect_not_available(clients, f"host=127.0.0.1 port={silent_port} user=x dbname=x connect_timeout=2")


async def test_server_that_never_answers_by_the_timeout_of_the_environment(
    clients: Clients, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGQ_CONNECT_TIMEOUT_MS", "2000")
    await expect_not_available(clients, f"host=127.0.0.1 port={silent_port} user=x dbname=x")


async def test_socket_that_is_not_there(clients: Clients) -> None:
    await expect_not_available(clients, "host=/nowhere user=x dbname=x")


async def test_host_that_is_not_there(clients: Clients) -> None:
    await expect_not_available(clients, "host=nowhere.invalid user=x dbname=x connect_timeout=2")


async def test_database_or_role_that_is_not_there(clients: Clients, dsn: str) -> None:
    await expect_not_available(clients, make_conninfo(dsn, dbname="nope"))
    await expect_not_available(clients, make_conninfo(dsn, user="nope"))


async def test_client_that_found_no_server_finds_it_later(
    clients: Clients, conn: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    conn.execute("select pgq.create_topic('orders')")
    monkeypatch.setenv("PGQ_DSN", f"host=127.0.0.1 port={closed_port} user=x")
    producer, consumer = clients.producer(dsn=None), clients.consumer("orders", dsn=None)
    with pytest.raises(errors.BrokerNotAvailableError):
        await producer.send("orders", b"v")
    with pytest.raises(errors.BrokerNotAvailableError):
        await consumer.getmany()
    monkeypatch.setenv("PGQ_DSN", dsn)
    await (await producer.send("orders", b"v"))
    assert [len(b) for b in (await consumer.getmany(timeout_ms=5000)).values()] == [1]
    await producer.close()
    await consumer.close()


@pytest.fixture
def start_each(clients: Clients) -> list[Any]:
    return [clients.admin(), clients.producer(), clients.consumer("t")]


@pytest.mark.parametrize(
    "change, error",
    [
        ("drop schema pgq cascade", errors.SchemaMissingError),
        ("drop schema pgq cascade; create schema pgq", errors.SchemaMissingError),
        ("update pgq.alembic_version set version_num = '0000'", errors.SchemaTooOldError),
        ("delete from pgq.alembic_version", errors.SchemaTooOldError),
        ("update pgq.alembic_version set version_num = '9999'", errors.SchemaTooNewError),
    ],
)
async def test_schema_that_does_not_fit(
    start_each: list[Any], conn: Connection, change: str, error: type[errors.PgqError]
) -> None:
    conn.execute(change)
    for client in start_each:
        with pytest.raises(error, match="upgrade") as caught:
            await client.start()
        assert type(caught.value) is error
        await client.close()


async def test_database_without_the_schema(
    clients: Clients, admin: psycopg.Connection[Any], server: Server, database: str
) -> None:
    admin.execute(f"create database {database}_bare owner {APPLICATION}")
    try:
        for client in (clients.admin, clients.producer):
            with pytest.raises(errors.SchemaMissingError):
                await client(dsn=server.dsn(f"{database}_bare", user=APPLICATION)).start()
    finally:
        admin.execute(f"drop database {database}_bare with (force)")
