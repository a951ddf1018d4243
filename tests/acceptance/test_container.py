"""pgq on a PostgreSQL in a container, as an application's developer would test with Testcontainers.

`--image` says which PostgreSQL. Where no container can run, everything here is skipped and says why. The whole suite
runs in the container with `--server container`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from testcontainers.community.postgres import PostgresContainer

import pgq
from pgq import (
    Admin,
    AsyncAdmin,
    AsyncConsumer,
    AsyncProducer,
    Consumer,
    ConsumerRecord,
    Producer,
    TopicPartition,
    errors,
    schema,
)
from tests.plugins.sessions import TIME_LIMIT_S

ROOT = Path(pgq.__file__).parents[1]
PAGE = ROOT / "docs" / "howto" / "testcontainers.md"

# The first test may have to wait until the image is pulled.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def migrated(container: PostgresContainer) -> str:
    """The DSN of the container's own database, with the schema pgq."""
    dsn: str = container.get_connection_url()
    schema.upgrade(dsn)
    return dsn


@pytest.fixture
def admin(migrated: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection beside the test's database, to make it and to look after it."""
    with psycopg.connect(migrated, dbname="postgres", autocommit=True) as connection:
        yield connection


@pytest.fixture
def dsn(migrated: str, admin: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The DSN of a migrated database of the test's own, which clients without a `dsn` use."""
    name = f"application_{secrets.token_hex(6)}"
    admin.execute(f"create database {name} template {conninfo_to_dict(migrated)['dbname']}")
    dsn = make_conninfo(migrated, dbname=name)
    monkeypatch.setenv("PGQ_DSN", dsn)
    yield dsn
    admin.execute(f"drop database {name} with (force)")


@pytest.fixture
def topic(dsn: str) -> str:
    """A topic of three partitions."""
    with Admin() as admin:
        admin.create_topic("orders", partitions=3)
    return "orders"


@pytest.fixture
def lose_connections(admin: psycopg.Connection[Any], dsn: str) -> Callable[[], int]:
    """End all of pgq's sessions, as a restart or a failover does; return how many there were."""
    database = conninfo_to_dict(dsn)["dbname"]

    def lose() -> int:
        ended = admin.execute(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
            " where datname = %s and application_name = 'pgq'",
            [database],
        ).fetchall()
        return len(ended)

    return lose


def read(consumer: Consumer, count: int) -> list[ConsumerRecord]:
    """Poll until so many records came, over lost connections."""
    records: list[ConsumerRecord] = []
    while len(records) < count:
        try:
            batches = consumer.getmany(timeout_ms=TIME_LIMIT_S * 1000)
        except errors.BrokerNotAvailableError:
            continue
        assert batches, f"{len(records)} of {count} records came"
        for batch in batches.values():
            records += batch
    return records


def test_the_server_is_the_one_that_was_asked_for(dsn: str, pytestconfig: pytest.Config) -> None:
    with psycopg.connect(dsn) as connection:
        major = connection.info.server_version // 10_000
    tag = re.search(r":(\d+)", pytestconfig.getoption("image"))
    assert major >= 15
    assert tag is None or major == int(tag[1])
    assert schema.check(dsn) == []


def test_the_sync_clients(topic: str) -> None:
    with Producer(key_serializer=str.encode, value_serializer=lambda v: json.dumps(v).encode()) as producer:
        for number in range(300):
            producer.send(topic, {"order": number}, key=f"customer-{number % 7}", headers=[("source", b"web")])
        producer.flush()
    with Consumer(topic, group_id="billing", auto_offset_reset="earliest", value_deserializer=json.loads) as consumer:
        records = read(consumer, 300)
        consumer.commit()
        committed = [consumer.committed(TopicPartition(topic, partition)) for partition in range(3)]
    assert sorted(record.value["order"] for record in records) == list(range(300))
    assert {record.headers for record in records} == {(("source", b"web"),)}
    by_key: dict[bytes | None, list[int]] = {}
    for record in records:
        by_key.setdefault(record.key, []).append(record.value["order"])
    assert all(orders == sorted(orders) for orders in by_key.values())
    assert sum(offset or 0 for offset in committed) == 300
    with Consumer(topic, group_id="billing", auto_offset_reset="earliest") as consumer:
        assert consumer.getmany() == {}


def test_the_async_clients(dsn: str) -> None:
    async def use() -> list[tuple[int, bytes | None]]:
        async with AsyncAdmin() as admin:
            await admin.create_topic("payments", partitions=2)
        async with AsyncProducer() as producer:
            sent = [await producer.send("payments", b"%d" % number, key=b"customer") for number in range(100)]
            assert [(await future).offset for future in sent] == list(range(100))
        async with AsyncConsumer("payments", group_id="billing", auto_offset_reset="earliest") as consumer:
            records = [await consumer.getone() for _ in sent]
            await consumer.commit()
        return [(record.offset, record.value) for record in records]

    assert asyncio.run(use()) == [(number, b"%d" % number) for number in range(100)]


def test_one_transaction_of_a_row_a_record_and_an_offset(dsn: str, topic: str) -> None:
    """Take an order, write the invoice and announce it: all of it once, whatever was rolled back before."""
    with Admin() as admin:
        admin.create_topic("invoices")
    with Producer() as producer:
        placed = producer.send(topic, b"12", key=b"customer-7")
        assert placed.result(TIME_LIMIT_S)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table invoice (customer text, amount int)")

    def process(*, fail: bool) -> None:
        with (
            psycopg.connect(dsn) as connection,
            Producer() as producer,
            Consumer(topic, group_id="billing", auto_offset_reset="earliest", enable_auto_commit=False) as consumer,
        ):
            (record,) = read(consumer, 1)
            connection.execute("insert into invoice values (%s, %s)", [record.key.decode(), int(record.value)])
            producer.send("invoices", record.value, key=record.key, connection=connection)
            consumer.commit(connection=connection)
            if fail:
                raise InterruptedError

    def outcome() -> tuple[int, int, int]:
        with psycopg.connect(dsn) as connection:
            return connection.execute(
                "select (select count(*) from invoice), (select count(*) from pgq.fetch('invoices', 0, 0)),"
                """ (select coalesce(sum("offset"), 0) from pgq.committed_offsets('billing'))"""
            ).fetchone()

    with pytest.raises(InterruptedError):
        process(fail=True)
    assert outcome() == (0, 0, 0)
    process(fail=False)
    assert outcome() == (1, 1, 1)


def test_clients_survive_the_loss_of_their_connections(topic: str, lose_connections: Callable[[], int]) -> None:
    def send(value: bytes) -> None:
        while True:
            with suppress(errors.BrokerNotAvailableError):
                producer.send(topic, value, key=b"k").result(TIME_LIMIT_S)
                return
            with suppress(errors.BrokerNotAvailableError):  # told once more, by the next flush
                producer.flush()

    with Producer() as producer, Consumer(topic, auto_offset_reset="earliest") as consumer:
        send(b"before")
        assert [record.value for record in read(consumer, 1)] == [b"before"]
        assert lose_connections() >= 2
        send(b"after")
        assert read(consumer, 1)[0].value == b"after"


def test_psql_in_the_container_is_a_client(container: PostgresContainer, dsn: str, topic: str) -> None:
    """Whoever can call a function takes part."""
    address = conninfo_to_dict(dsn)
    psql = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", address["user"], "-d", address["dbname"]]
    done = container.exec([*psql, "-c", f"select pgq.produce('{topic}', 'from psql', key => 'k')"])
    assert done.exit_code == 0, done.output.decode()
    with Consumer(topic, auto_offset_reset="earliest") as consumer:
        assert next(consumer).value == b"from psql"


def test_what_the_page_shows_works(container: PostgresContainer, pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """The page's files, in a folder of their own, run by pytest. `container` skips where there is none."""
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        name = re.match(r"# (\w+\.py)\n", block)
        assert name, "a block of the page does not say which file it is"
        (tmp_path / name[1]).write_text(block.replace("postgres:18", pytestconfig.getoption("image")))
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "PYTEST"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path],
        cwd=tmp_path,
        env=variables | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
