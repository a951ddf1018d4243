"""pgq.alter_topic_config changes what is given, at once, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from tests.plugins.sessions import Connection, call, refused, value

from .conftest import MakeTopic
from .test_create_topic import BAD_CONFIGS, DEFAULTS


def alter(conn: Connection, name: str | None, config: Any) -> dict[str, Any]:
    ((_, _, _, result),) = call(conn, "alter_topic_config", name=name, config=Jsonb(config))
    assert result == value(conn, "select config from pgq.describe_topic(%s)", name)
    return dict(result)


def test_only_what_is_given_changes(conn: Connection, topic: str) -> None:
    assert alter(conn, topic, {"max.message.bytes": 5}) == DEFAULTS | {"max.message.bytes": 5}
    both = DEFAULTS | {"max.message.bytes": 5, "segment.bytes": 2**20}
    assert alter(conn, topic, {"segment.bytes": 2**20}) == both
    assert alter(conn, topic, {}) == both


def test_null_means_back_to_the_default(conn: Connection, make_topic: MakeTopic) -> None:
    topic = make_topic("orders", config='{"max.message.bytes": 5, "segment.bytes": 1048576}')
    assert alter(conn, topic, {"max.message.bytes": None}) == DEFAULTS | {"segment.bytes": 2**20}
    assert alter(conn, topic, {"max.message.bytes": None, "segment.bytes": None}) == DEFAULTS


def test_producers_notice_at_once(conn: Connection, connect: Callable[[], Connection], topic: str) -> None:
    producer = connect()
    for _ in range(7):
        call(producer, "produce", topic=topic, value=b"123456")
    alter(conn, topic, {"max.message.bytes": 5})
    for function, given in (("produce", {"value": b"123456"}), ("produce_batch", {"values": [b"123456"]})):
        with refused("PQ007"):
            call(producer, function, topic=topic, **given)
    call(producer, "produce", topic=topic, value=b"12345")
    alter(conn, topic, {"max.message.bytes": None})
    call(producer, "produce", topic=topic, value=b"123456")


def test_largest_limit_has_its_effect(conn: Connection, topic: str) -> None:
    alter(conn, topic, {"max.message.bytes": 3 * 2**20})
    call(conn, "produce", topic=topic, value=bytes(3 * 2**20))
    with refused("PQ007"):
        call(conn, "produce", topic=topic, value=bytes(3 * 2**20 + 1))


def test_rolled_back_nothing_changes(conn: Connection, topic: str) -> None:
    with conn.transaction(force_rollback=True):
        alter(conn, topic, {"max.message.bytes": 1})
    call(conn, "produce", topic=topic, value=b"123456")


@pytest.mark.parametrize("config", BAD_CONFIGS)
def test_bad_config_is_refused(conn: Connection, topic: str, config: Any) -> None:
    with refused("PQ006"):
        alter(conn, topic, config)
    assert value(conn, "select config from pgq.describe_topic(%s)", topic) == DEFAULTS


def test_null_config_is_refused(conn: Connection, topic: str) -> None:
    with refused("PQ006"):
        call(conn, "alter_topic_config", name=topic, config=None)


@pytest.mark.usefixtures("topic")
@pytest.mark.parametrize("name", ["nope", "Orders", None])
def test_unknown_topic_is_refused(conn: Connection, name: str | None) -> None:
    with refused("PQ001"):
        alter(conn, name, {})
