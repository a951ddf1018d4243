"""Producers see to the segments that they fill, without the service."""

from __future__ import annotations

import os

from tests.plugins.sessions import Connection, value

from .conftest import Clients


async def test_small_segments_are_ended_in_time(clients: Clients, conn: Connection) -> None:
    """Of 10 MiB; a producer that called upkeep only every 16 MiB would leave one segment."""
    conn.execute("select pgq.create_topic('orders', 1, '{\"segment.bytes\": 1048576}')")
    content = os.urandom(100_000)
    async with clients.producer() as producer:
        for _ in range(50):
            await producer.send("orders", content)
            await producer.send("orders", content)
            await producer.flush()
    assert value(conn, "select max(bytes) from pgq.segment_status") < 8 << 20
    assert value(conn, "select count(*) from pgq.segment_status") > 2
