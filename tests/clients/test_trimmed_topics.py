"""Consumers of logs of which everything was deleted: who had read it goes on, and is not reset."""

from __future__ import annotations

import logging

import pytest

import pgq
from pgq import TopicPartition, errors
from tests.plugins.sessions import Connection, call, value

from .conftest import Clients, read

PARTITION = TopicPartition("orders", 0)


def empty(conn: Connection, dsn: str) -> None:
    """Delete everything, let a roll skip what is left of the segment, and drop it."""
    call(conn, "delete_records", topic="orders", partition=0, offset=-1)
    conn.execute("select pgq._make_segment(1, 4096), pgq._roll_segment(1, 1000)")
    pgq.Maintenance(dsn).run_once()
    assert value(conn, "select log_start_offset from pgq.partition_status") == 4096


@pytest.mark.parametrize("policy", ["latest", "none"])
async def test_a_group_that_had_read_everything_misses_nothing(
    clients: Clients, conn: Connection, dsn: str, topic: str, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    conn.execute("select pgq.produce_batch('orders', array_fill('v'::bytea, '{10}'))")
    conn.execute("select pgq.reset_offsets('g', 'to-latest', topics => '{orders}', execute => true)")
    empty(conn, dsn)
    call(conn, "produce", topic="orders", value=b"new")
    with caplog.at_level(logging.WARNING, "pgq"):
        async with clients.consumer("orders", group_id="g", auto_offset_reset=policy) as consumer:
            assert [record.offset for record in await read(consumer, 1)] == [4096]
    assert "out of range" not in caplog.text


async def test_a_consumer_at_the_end_goes_on(clients: Clients, conn: Connection, dsn: str, topic: str) -> None:
    conn.execute("select pgq.produce_batch('orders', array_fill('v'::bytea, '{10}'))")
    async with clients.consumer(auto_offset_reset="none") as consumer:
        await consumer.assign([PARTITION])
        await consumer.seek(PARTITION, 0)
        assert len(await read(consumer, 10)) == 10
        empty(conn, dsn)
        assert await consumer.getmany(timeout_ms=0) == {}
        call(conn, "produce", topic="orders", value=b"new")
        assert [record.offset for record in await read(consumer, 1)] == [4096]
        await consumer.seek(PARTITION, 9)
        with pytest.raises(errors.OffsetOutOfRangeError):
            await consumer.getmany(timeout_ms=0)
