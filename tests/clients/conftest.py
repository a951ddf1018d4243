"""One suite for both worlds: `clients` makes the sync clients look like the async ones, so that a test is written once.

Tests are coroutines; each runs in an event loop of its own. A sync client's call runs in a thread and is awaited.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Self

import asyncpg
import psycopg
import pytest

import pgq
from pgq import ConsumerRecord, TopicPartition
from tests.plugins.sessions import TIME_LIMIT_S, Connection, eventually, value


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True


class Future:
    """A sync client's future that can be awaited."""

    def __init__(self, future: Any) -> None:
        self.future = future
        self.done = future.done
        self.exception = future.exception
        self.add_done_callback = future.add_done_callback

    def __await__(self) -> Any:
        return asyncio.to_thread(self.future.result, TIME_LIMIT_S).__await__()


class Awaitable:
    """A sync client in the form of its async twin."""

    def __init__(self, client: Any, twin: type) -> None:
        self.client = client
        self.twin = twin

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.client, name)
        if not inspect.iscoroutinefunction(getattr(self.twin, name, None)):
            return attribute

        async def call(*args: Any, **kwargs: Any) -> Any:
            result = await asyncio.to_thread(attribute, *args, **kwargs)
            return Future(result) if name in ("send", "send_many") else result

        return call

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.client.__enter__)
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.to_thread(self.client.__exit__, *error)

    def __aiter__(self) -> Awaitable:
        return self

    async def __anext__(self) -> Any:
        return await asyncio.to_thread(next, iter(self.client))


class Clients:
    """Makes clients of one world, for the test's own database unless told otherwise."""

    def __init__(self, world: str, dsn: str) -> None:
        self.world = world
        self.dsn = dsn

    def _make(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kwargs.setdefault("dsn", self.dsn)
        twin = getattr(pgq, f"Async{name}")
        if self.world == "async":
            return twin(*args, **kwargs)
        return Awaitable(getattr(pgq, name)(*args, **kwargs), twin)

    def admin(self, **kwargs: Any) -> Any:
        return self._make("Admin", (), kwargs)

    def producer(self, **kwargs: Any) -> Any:
        return self._make("Producer", (), kwargs)

    def consumer(self, *topics: str, **kwargs: Any) -> Any:
        """A consumer that starts with the first record, unless told otherwise."""
        kwargs.setdefault("auto_offset_reset", "earliest")
        return self._make("Consumer", topics, kwargs)


@pytest.fixture(params=["sync", "async"])
def clients(request: pytest.FixtureRequest, dsn: str) -> Clients:
    return Clients(request.param, dsn)


class Application:
    """The application's own connection, of whatever driver, outside of a transaction at first."""

    def __init__(self, raw: Any, execute: Callable[[str], Any]) -> None:
        self.raw = raw
        self.execute = execute

    @property
    def closed(self) -> bool:
        return bool(self.raw.is_closed() if isinstance(self.raw, asyncpg.Connection) else self.raw.closed)


@asynccontextmanager
async def _psycopg_sync(dsn: str) -> AsyncIterator[Application]:
    with psycopg.connect(dsn, autocommit=True) as raw:

        async def execute(sql: str) -> None:
            await asyncio.to_thread(raw.execute, sql)

        yield Application(raw, execute)


@asynccontextmanager
async def _psycopg_async(dsn: str) -> AsyncIterator[Application]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as raw:
        yield Application(raw, raw.execute)


@asynccontextmanager
async def _asyncpg(dsn: str) -> AsyncIterator[Application]:
    raw = await asyncpg.connect(dsn)
    try:
        yield Application(raw, raw.execute)
    finally:
        await raw.close()


@pytest.fixture(
    params=[("sync", _psycopg_sync), ("async", _psycopg_async), ("async", _asyncpg)],
    ids=["sync-psycopg", "async-psycopg", "async-asyncpg"],
)
def clients_and_application(request: pytest.FixtureRequest, dsn: str) -> tuple[Clients, Callable[[], Any]]:
    """The clients of a world, and what opens a connection of the application's own there."""
    world, connect = request.param
    return Clients(world, dsn), lambda: connect(dsn)


@pytest.fixture
def any_time(conn: Connection) -> None:
    """Topics take timestamps from the future."""
    conn.execute(
        "update pgq.topic_config set default_value = '9000000000000000' where key = 'message.timestamp.after.max.ms'"
    )


@pytest.fixture
def topic(conn: Connection) -> str:
    """A topic of one partition."""
    conn.execute("select pgq.create_topic('orders')")
    return "orders"


@pytest.fixture
def wide_topic(conn: Connection) -> str:
    """A topic of three partitions."""
    conn.execute("select pgq.create_topic('wide', 3)")
    return "wide"


@pytest.fixture
def tp(topic: str) -> TopicPartition:
    """The only partition of the topic."""
    return TopicPartition(topic, 0)


@pytest.fixture(autouse=True)
def no_connection_is_left(database: str, admin: Connection, conn: Connection) -> Iterator[None]:
    """Every client closes what it opened."""
    yield
    query = "select count(*) from pg_stat_activity where datname = %s and application_name = 'pgq'"
    eventually(lambda: value(admin, query, database) == 0, time_limit_s=5)


async def read(consumer: Any, count: int) -> list[ConsumerRecord]:
    """Poll until so many records came."""
    records: list[ConsumerRecord] = []
    deadline = time.monotonic() + TIME_LIMIT_S
    while len(records) < count:
        assert time.monotonic() < deadline, f"{len(records)} of {count} records came"
        for batch in (await consumer.getmany(timeout_ms=1000)).values():
            records += batch
    return records


async def expect_nothing(consumer: Any) -> None:
    """Poll often enough to see a record if it could be seen."""
    for _ in range(5):
        assert await consumer.getmany() == {}


async def until(condition: Callable[[], bool]) -> None:
    """Let the clients work until the condition holds."""
    await asyncio.to_thread(eventually, condition)
