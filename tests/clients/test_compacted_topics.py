"""Clients and topics of which compaction keeps the last record of each key."""

from __future__ import annotations

import pytest

from pgq import TopicPartition, errors
from tests.clients.conftest import Clients, read
from tests.plugins.compacting import Log
from tests.plugins.sessions import Connection


async def test_record_without_a_key_is_refused_by_send(clients: Clients, log: Log) -> None:
    async with clients.producer() as producer:
        with pytest.raises(errors.InvalidRecordError, match="key"):
            await producer.send(log.topic, b"v")
        with pytest.raises(errors.InvalidRecordError, match="key"):
            await producer.send(log.topic, b"v", partition=0)
        with pytest.raises(errors.InvalidRecordError, match="key"):
            await producer.send_many(log.topic, [(b"v", b"k"), b"v"])
        await producer.send(log.topic, b"v", b"")
        await producer.send(log.topic, None, b"k")
        await producer.flush()
    assert log.offsets() == [0, 1]


async def test_record_without_a_key_is_refused_in_a_transaction(clients: Clients, log: Log, conn: Connection) -> None:
    if clients.world == "async":
        pytest.skip("the connection is a sync one")
    async with clients.producer() as producer:
        with pytest.raises(errors.InvalidRecordError, match="key"):
            await producer.send(log.topic, b"v", connection=conn)


async def test_consumer_goes_on_in_segments_that_are_merged_under_it(clients: Clients, log: Log) -> None:
    log.append([(b"a", b"1"), (b"b", b"1")])
    log.end_segment()
    log.append([(b"c", b"1"), (b"d", b"1"), (b"a", b"2")])
    log.end_segment()
    log.append([(b"e", b"1")])
    partition = TopicPartition(log.topic, 0)
    async with clients.consumer(max_poll_records=1) as consumer:
        await consumer.assign([partition])
        found = []
        for _ in range(3):
            found += await read(consumer, 1)
        assert [record.offset for record in found] == [0, 1, 4096]
        assert log.compact().swaps == 1
        for _ in range(3):
            found += await read(consumer, 1)
        assert [record.offset for record in found[3:]] == [4097, 4098, 69632]
        await consumer.seek_to_beginning(partition)
        again = []
        while len(again) < 5:
            again += await read(consumer, 1)
    assert [(r.offset, r.key, r.value) for r in again] == [
        (1, b"b", b"1"),
        (4096, b"c", b"1"),
        (4097, b"d", b"1"),
        (4098, b"a", b"2"),
        (69632, b"e", b"1"),
    ]
