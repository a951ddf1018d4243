"""Admin and AsyncAdmin: topics from creation to deletion, with the errors of SQL as errors of pgq."""

from __future__ import annotations

from typing import Any

import pytest

from pgq import TopicDescription, TopicPartition, errors
from tests.plugins.sessions import Connection, value

from .conftest import Clients

DEFAULTS = {"max.message.bytes": 1048576, "segment.bytes": 134217728}


async def test_life_of_a_topic(clients: Clients) -> None:
    async with clients.admin() as admin:
        assert await admin.list_topics() == []
        created = await admin.create_topic("orders", 3, {"max.message.bytes": 100})
        assert created == TopicDescription(created.topic_id, "orders", 3, DEFAULTS | {"max.message.bytes": 100})
        assert await admin.describe_topic("orders") == created
        assert await admin.list_topics() == [created]
        altered = await admin.alter_topic_config("orders", {"max.message.bytes": None, "segment.bytes": 2**20})
        assert altered.config == DEFAULTS | {"segment.bytes": 2**20}
        await admin.delete_topic("orders")
        assert await admin.list_topics() == []
        assert (await admin.create_topic("orders")).partitions == 1


async def test_delete_records(clients: Clients, conn: Connection, wide_topic: str) -> None:
    conn.execute(
        "select pgq.produce_batch('wide', array_fill('v'::bytea, '{10}'), partitions => array_fill(1, '{10}'))"
    )
    tps = [TopicPartition(wide_topic, partition) for partition in range(3)]
    async with clients.admin() as admin:
        assert await admin.delete_records({tps[1]: 4, tps[2]: -1}) == {tps[1]: 4, tps[2]: 0}
        assert await admin.delete_records({tps[1]: -1}) == {tps[1]: 10}
        assert await admin.delete_records({}) == {}
        with pytest.raises(errors.OffsetOutOfRangeError):
            await admin.delete_records({tps[0]: 1})
    assert value(conn, "select pgq.log_start_offset('wide', 1)") == 10


@pytest.mark.parametrize(
    "method, args, error",
    [
        ("create_topic", ("orders",), errors.TopicAlreadyExistsError),
        ("create_topic", ("a b",), errors.InvalidTopicError),
        ("create_topic", ("",), errors.InvalidTopicError),
        ("create_topic", ("t\n",), errors.InvalidTopicError),
        ("create_topic", ("t", 0), errors.InvalidPartitionsError),
        ("create_topic", ("t", 51), errors.InvalidPartitionsError),
        ("create_topic", ("t", 1, {"nope": 1}), errors.InvalidConfigError),
        ("create_topic", ("t", 1, {"segment.bytes": 1}), errors.InvalidConfigError),
        ("delete_topic", ("nope",), errors.UnknownTopicError),
        ("describe_topic", ("nope",), errors.UnknownTopicError),
        ("alter_topic_config", ("nope", {}), errors.UnknownTopicError),
        ("alter_topic_config", ("orders", {"segment.bytes": "x"}), errors.InvalidConfigError),
        ("delete_records", ({("nope", 0): 0},), errors.UnknownTopicError),
        ("delete_records", ({("orders", 1): 0},), errors.UnknownPartitionError),
    ],
)
async def test_what_is_refused(
    clients: Clients, topic: str, method: str, args: tuple[Any, ...], error: type[errors.PgqError]
) -> None:
    async with clients.admin() as admin:
        with pytest.raises(error) as caught:
            await getattr(admin, method)(*args)
        assert type(caught.value) is error
        assert getattr(caught.value.__cause__, "sqlstate", None) == error.sqlstate
        assert [t.name for t in await admin.list_topics()] == [topic], "the connection goes on"


async def test_closed_admin_refuses(clients: Clients) -> None:
    admin = clients.admin()
    await admin.list_topics()
    await admin.close()
    with pytest.raises(errors.IllegalStateError):
        await admin.list_topics()
