"""What the tests of the SQL functions share: a topic or two, and how to fill them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.plugins.sessions import Connection

MakeTopic = Callable[..., str]


@pytest.fixture
def make_topic(conn: Connection) -> MakeTopic:
    """Create a topic and return its name."""

    def make_topic(name: str, partitions: int = 1, config: str = "{}") -> str:
        conn.execute("select pgq.create_topic(%s, %s, %s::jsonb)", [name, partitions, config])
        return name

    return make_topic


@pytest.fixture
def topic(make_topic: MakeTopic) -> str:
    """A topic of one partition."""
    return make_topic("orders")


@pytest.fixture
def wide_topic(make_topic: MakeTopic) -> str:
    """A topic of five partitions."""
    return make_topic("wide", 5)


@pytest.fixture
def fill(conn: Connection) -> Callable[..., None]:
    """Append records to partition 0 of a topic: their values are the numbers from 0 on, as text."""

    def fill(topic: str, count: int, connection: Any = conn) -> None:
        connection.execute(
            "select from generate_series(0, %s - 1) n, pgq.produce(%s, n::text::bytea, partition => 0)", [count, topic]
        )

    return fill
