"""Admin and AsyncAdmin: topics from creation to deletion, with the errors of SQL as errors of pgq."""

from __future__ import annotations

from typing import Any

import pytest

from pgq import TopicDescription, TopicPartition, errors
from tests.plugins.sessions import Connection, value

from .conftest import Clients

DEFAULTS = {
    "compression.type": "producer",
    "max.message.bytes": 1048576,
    "message.timestamp.after.max.ms": 3600000,
    "message.timestamp.type": "CreateTime",
    "min.insync.replicas": 1,
    "segment.bytes": 134217728,
}


async def test_describe_cluster(clients: Clients, conn: Connection) -> None:
    async with clients.admin() as admin:
        cluster = await admin.describe_cluster()
    (leader,) = cluster.servers
    assert (leader.server, leader.role, leader.state, leader.lag_seconds) == ("leader", "leader", None, None)
    assert cluster[1:3] == ("", 1)
    assert cluster.acks_all == value(conn, "select acks_all from pgq.acks_status()")
    assert cluster.warnings == value(conn, "select warnings from pgq.acks_status()")


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
        ("create_topic", ("t", 1001), errors.InvalidPartitionsError),
        ("add_partitions", ("orders", 1), errors.InvalidPartitionsError),
        ("add_partitions", ("orders", 0), errors.InvalidPartitionsError),
        ("add_partitions", ("orders", 1001), errors.InvalidPartitionsError),
        ("add_partitions", ("nope", 2), errors.UnknownTopicError),
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


async def test_partitions_are_added(clients: Clients, topic: str) -> None:
    steps: list[tuple[int, int]] = []
    async with clients.admin() as admin:
        added = await admin.add_partitions(topic, 60, progress=lambda done, total: steps.append((done, total)))
        assert added.partitions == 60
        assert await admin.describe_topic(topic) == added
        assert steps == [(26, 60), (51, 60), (60, 60)]
    async with clients.producer() as producer:
        metadata = await (await producer.send(topic, b"v", partition=59))
        assert (metadata.partition, metadata.offset) == (59, 0)


async def test_a_large_topic_is_made_and_deleted(clients: Clients) -> None:
    steps: list[tuple[int, int]] = []
    async with clients.admin() as admin:
        made = await admin.create_topic("large", 60, {"segment.bytes": 1 << 20}, progress=lambda *s: steps.append(s))
        assert (made.partitions, made.config["segment.bytes"]) == (60, 1 << 20)
        await admin.delete_topic("large", progress=lambda *s: steps.append(s))
        assert steps == [(25, 60), (50, 60), (60, 60), (0, 60), (25, 60), (50, 60), (60, 60)]
        assert [t.name for t in await admin.list_topics()] == []
