"""Values travel compressed if that is wanted, and nobody who reads them by a consumer has to know."""

from __future__ import annotations

import json

import pytest

from pgq import TopicPartition, errors
from pgq.core.compression import NUMBERS
from tests.plugins.sessions import Connection, call, rows, value

from .conftest import Clients, read

LONG = json.dumps([{"number": number} for number in range(100)]).encode()


@pytest.mark.parametrize("name", NUMBERS)
async def test_long_values_are_compressed(clients: Clients, conn: Connection, topic: str, name: str) -> None:
    sent = [LONG, b"short", None, bytes(range(256)), LONG]
    async with clients.producer(compression_type=name) as producer, clients.consumer(topic) as consumer:
        await (await producer.send_many(topic, [(v, b"k", [("h", b"1")]) for v in sent]))
        received = await read(consumer, len(sent))
    assert [r.value for r in received] == sent
    assert {(r.key, r.headers) for r in received} == {(b"k", (("h", b"1"),))}
    stored = rows(conn, f"select compression, value, value_json, length(value_bytes) from pgq_topic.{topic} order by 1")
    assert sorted(row[0] or "" for row in stored) == ["", "", "", name, name]
    assert all(row[1] is None and row[2] is None and row[3] < len(LONG) / 2 for row in stored if row[0])
    assert ["short" for row in stored if row[1] == "short"] == ["short"]


@pytest.mark.parametrize("wanted, expected", [("zstd", 4), ("uncompressed", None), ("producer", 1)])
async def test_the_topics_configuration_wins(
    clients: Clients, conn: Connection, topic: str, wanted: str, expected: int | None
) -> None:
    call(conn, "alter_topic_config", name=topic, config=json.dumps({"compression.type": wanted}))
    async with clients.producer(compression_type="gzip") as producer, clients.consumer(topic) as consumer:
        await producer.send_and_wait(topic, LONG)
        assert [record.value for record in await read(consumer, 1)] == [LONG]
    assert value(conn, "select codec from pgq.fetch(%s, 0, 0)", topic) == expected


async def test_max_message_bytes_counts_what_is_stored(clients: Clients, conn: Connection, topic: str) -> None:
    call(conn, "alter_topic_config", name=topic, config=json.dumps({"max.message.bytes": 100}))
    async with clients.producer(compression_type="gzip") as producer:
        await producer.send_and_wait(topic, bytes(5000))
        with pytest.raises(errors.MessageTooLargeError):
            await producer.send(topic, bytes(range(256)))


async def test_a_bomb_stops_its_partition_only_at_its_turn(clients: Clients, topic: str) -> None:
    tp = TopicPartition(topic, 0)
    async with (
        clients.producer(compression_type="zstd") as producer,
        clients.consumer(topic, max_decompressed_bytes=1000) as consumer,
    ):
        await (await producer.send_many(topic, [bytes(1000), bytes(1001), b"after"]))
        assert [record.value for record in await read(consumer, 1)] == [bytes(1000)]
        for _ in range(2):
            with pytest.raises(errors.CorruptRecordError, match=r"offset 1 of orders-0.*seek to 2"):
                await consumer.getmany()
            assert await consumer.position(tp) == 1
        await consumer.seek(tp, 2)
        assert [record.value for record in await read(consumer, 1)] == [b"after"]


async def test_unknown_compression_type_is_refused(clients: Clients) -> None:
    with pytest.raises(errors.UnsupportedCompressionTypeError):
        clients.producer(compression_type="snappy")
